"""A look at the sort keys of a few splits, to cut their range into partitions of about equal size."""

from __future__ import annotations

import threading
from dataclasses import replace

import pyarrow as pa

from .ordering import find_boundaries
from .routing import ByRange
from .stages import ExchangeOutput
from .work import Outcome, Task, Workbench, batches_of

SAMPLED_SPLITS = 24
SAMPLED_ROWS = 8192


def sample_boundaries(tasks: list[Task], bench: Workbench, output: ExchangeOutput) -> pa.Array:
    """Boundaries from the first rows of splits spread over the input. The same input gives the same ones."""
    assert isinstance(output.router, ByRange)
    bench = replace(bench, giving_up=threading.Event())
    step = max(1, len(tasks) // SAMPLED_SPLITS)
    pieces: list[list[pa.Array]] = []
    for task in tasks[::step]:
        for batch in batches_of(task, bench, SAMPLED_ROWS, Outcome(), lambda _: None):
            pieces.append(output.router.columns(output.combiner.prepare(batch, task.index << bench.position_bits)))
            break
    if not pieces:
        return pa.array([], pa.struct([]))
    sample = [pa.concat_arrays(column) for column in zip(*pieces, strict=True)]
    return find_boundaries(sample, output.router.ways, output.partitions)
