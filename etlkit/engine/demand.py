"""How much memory a split is projected to need, before it is read. Pure.

What is counted: the reader's resident buffers, a slice in each of its forms on the way (decoded, filtered, projected), and what
gathers before it is handed on (a row group at the writer, rows to be partitioned). Factors are measured; see docs/adr/0010.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ..checkpoint import RunRef
from .join import OUT_ROWS
from .stages import ExchangeOutput, ScanInput
from .widths import row_bytes
from .work import FUSED_SLICES, ROUTE_ROWS, Task, piece_bytes

FORMS = 3
"""A batch exists about three times at once: decoded, masked, projected."""
ROUTE_FORMS = 3
"""Gathered, sorted, and cut rows of an exchange."""
WRITER_ROWS = 131_072
REDUCE_FORMS = 4
"""Partials of a partition as read, concatenated, merged, and final."""
MIN_BYTES = 2 << 20


def split_demand_bytes(
    task: Task, slice_rows: int, runs: Mapping[int, tuple[RunRef, ...]], packed_row_bytes: int = 0
) -> int:
    """Projected peak of one split on one worker, in bytes.

    ``packed_row_bytes``: what rows on their way were seen to take; 0: not yet.
    """
    working, rows = _reading(task, slice_rows, runs)
    output = task.stage.output
    if isinstance(output, ExchangeOutput):
        raw = packed_row_bytes or row_bytes(output.combiner.raw_schema)
        working += ROUTE_FORMS * min(rows, ROUTE_ROWS) * raw + rows * raw
    else:
        working += min(rows, WRITER_ROWS) * row_bytes(task.stage.schema) * 2
    return max(MIN_BYTES, working)


def _reading(task: Task, slice_rows: int, runs: Mapping[int, tuple[RunRef, ...]]) -> tuple[int, int]:
    """What it takes to read a split and get its batches ready, and how many rows it has."""
    if isinstance(task.input, ScanInput):
        scan = task.input
        split = scan.splits[task.scan]
        schema = scan.source.schema
        width = (
            row_bytes(schema)
            if scan.columns is None
            else row_bytes(pa.schema([schema.field(name) for name in scan.columns]))
        )
        slice_bytes = (slice_rows if scan.fused is None else FUSED_SLICES * slice_rows) * width
        decoded = min(slice_bytes, split.decoded_bytes or slice_bytes)
        rows = split.rows if split.rows is not None else split.decoded_bytes // max(1, width)
        return split.unit_bytes + FORMS * decoded, rows
    if task.probes:
        several = [_reading(split, slice_rows, runs) for split in task.probes]
        joined = FORMS * min(slice_rows, OUT_ROWS) * row_bytes(task.input.reducer.schema)
        return max(working for working, _ in several) + joined, sum(rows for _, rows in several)
    refs = [ref for stage in task.input.stages for ref in runs.get(stage, ())]
    rows = sum(ref.rows for ref in refs) * len(task.partitions) // task.input.partitions
    held = sum(ref.bytes for ref in refs) // task.input.partitions
    if task.input.reducer.cut_again is not None:
        held = min(held, piece_bytes(task.stage, slice_rows))
    return REDUCE_FORMS * held, rows
