"""How much memory a split is projected to need, before it is read. Pure.

What is counted: the reader's resident buffers, a slice in each of its forms on the way (decoded, filtered, projected), and what
gathers before it is handed on (a row group at the writer, rows to be partitioned). Factors are measured; see docs/adr/0010.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ..checkpoint import RunRef
from .stages import ExchangeOutput, ScanInput
from .widths import row_bytes
from .work import ROUTE_ROWS, Task

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
    out_row = row_bytes(task.stage.schema)
    if isinstance(task.input, ScanInput):
        scan = task.input
        split = scan.splits[task.scan]
        schema = scan.source.schema
        width = (
            row_bytes(schema)
            if scan.columns is None
            else row_bytes(pa.schema([schema.field(name) for name in scan.columns]))
        )
        decoded = min(slice_rows * width, split.decoded_bytes or slice_rows * width)
        working = split.unit_bytes + FORMS * decoded
        rows = split.rows if split.rows is not None else split.decoded_bytes // max(1, width)
    else:
        refs = [ref for stage in task.input.stages for ref in runs.get(stage, ())]
        working = REDUCE_FORMS * sum(ref.bytes for ref in refs) // task.input.partitions
        rows = sum(ref.rows for ref in refs) * len(task.partitions) // task.input.partitions
    output = task.stage.output
    if isinstance(output, ExchangeOutput):
        raw = packed_row_bytes or row_bytes(output.combiner.raw_schema)
        working += ROUTE_FORMS * min(rows, ROUTE_ROWS) * raw + rows * raw
    else:
        working += min(rows, WRITER_ROWS) * out_row * 2
    return max(MIN_BYTES, working)
