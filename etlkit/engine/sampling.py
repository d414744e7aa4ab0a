"""A look at the first sort key of a few splits, to cut its range into partitions of about equal size."""

from __future__ import annotations

import threading
from dataclasses import replace

import pyarrow as pa

from .routing import find_boundaries, sortable
from .stages import ExchangeOutput
from .work import Outcome, Task, Workbench, batches_of

SAMPLED_SPLITS = 24
SAMPLED_ROWS = 8192


def sample_boundaries(tasks: list[Task], bench: Workbench, output: ExchangeOutput) -> pa.Array:
    """Boundaries from the first rows of splits spread over the input. The same input gives the same ones."""
    bench = replace(bench, giving_up=threading.Event())
    step = max(1, len(tasks) // SAMPLED_SPLITS)
    pieces: list[pa.Array] = []
    for task in tasks[::step]:
        for batch in batches_of(task, bench, SAMPLED_ROWS, Outcome(), lambda _: None):
            pieces.append(sortable(output.combiner.prepare(batch, 0).column(0)))
            break
    if not pieces:
        return pa.array([], pa.int64())
    return find_boundaries(pa.concat_arrays(pieces), output.partitions)
