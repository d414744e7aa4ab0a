"""The work ``growing`` as a Bytewax dataflow that can go on after a kill, for ``recovery``: the one other engine here that can.

    python -m bytewax.recovery DB 2
    BENCH_SRC=… BENCH_OUT=… python -m bytewax.run benchmarks.bytewax_flow:flow -w 2 -r DB -s 1 -b 0

Written to be fast, as its documentation advises for columns: items are Arrow tables of a row group, grouped before they are exchanged
between workers, and the state is kept by 64 partitions and not by row. Input is a file a partition, its position is saved with the
state. Parts are written once, at the end, under fixed names. ``BENCH_LOG`` gets a line for each row group that is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

PARTITIONS = 64
FOLD_ROWS = 50_000
SRC, OUT, LOG = (os.environ.get(f"BENCH_{name}", "") for name in ("SRC", "OUT", "LOG"))
_SUMS = [("total", "sum"), ("lines", "sum")]


def grouped(table: pa.Table) -> pa.Table:
    found = table.group_by("l_orderkey", use_threads=False).aggregate(_SUMS)
    return found.rename_columns(["l_orderkey", "total", "lines"])


class RowGroups(StatefulSourcePartition[pa.Table, int]):
    def __init__(self, path: str, at: int | None) -> None:
        self._file, self._at = pq.ParquetFile(path), at or 0

    def next_batch(self) -> list[pa.Table]:
        if self._at == self._file.num_row_groups:
            raise StopIteration()
        table = self._file.read_row_group(self._at, ["l_orderkey", "l_extendedprice"], use_threads=False)
        self._at += 1
        if LOG:
            with Path(LOG).open("a") as log:
                log.write(f"{table.num_rows}\n")
        return [table]

    def snapshot(self) -> int:
        return self._at


class Lineitem(FixedPartitionedSource[pa.Table, int]):
    def list_parts(self) -> list[str]:
        return [str(path) for path in sorted(Path(SRC, "lineitem").glob("*.parquet"))]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> RowGroups:
        return RowGroups(for_part, resume_state)


def partitioned(table: pa.Table) -> list[tuple[str, pa.Table]]:
    ones = pa.repeat(pa.scalar(1, pa.int64()), table.num_rows)
    part = grouped(pa.table({"l_orderkey": table["l_orderkey"], "total": table["l_extendedprice"], "lines": ones}))
    # Order keys leave bits out: those that vary are above the fifth.
    number = pc.bit_wise_and(pc.shift_right(part["l_orderkey"], 5), PARTITIONS - 1).combine_chunks()
    order = pc.sort_indices(number)
    part, number = part.take(order), number.take(order)
    counts = {one["values"]: one["counts"] for one in pc.value_counts(number).to_pylist()}
    found, begin = [], 0
    for key in sorted(counts):
        found.append((str(key), part.slice(begin, counts[key])))
        begin += counts[key]
    return found


class Groups(StatefulBatchLogic[pa.Table, pa.Table, pa.Table]):
    def __init__(self, state: pa.Table | None) -> None:
        self._parts = [] if state is None else [state]
        self._fresh_rows = 0

    def on_batch(self, values: list[pa.Table]) -> tuple[list[pa.Table], bool]:
        self._parts += values
        self._fresh_rows += sum(one.num_rows for one in values)
        if self._fresh_rows >= FOLD_ROWS:
            self._fold()
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[pa.Table], bool]:
        self._fold()
        return self._parts, StatefulBatchLogic.DISCARD

    def snapshot(self) -> pa.Table:
        self._fold()
        return self._parts[0]

    def _fold(self) -> None:
        if len(self._parts) > 1:
            self._parts = [grouped(pa.concat_tables(self._parts))]
        self._fresh_rows = 0


class Parts(StatelessSinkPartition[tuple[str, pa.Table]]):
    def write_batch(self, items: list[tuple[str, pa.Table]]) -> None:
        for key, table in items:
            pq.write_table(table, Path(OUT, f"part-{int(key):02d}.parquet"))


class Folder(DynamicSink[tuple[str, pa.Table]]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Parts:
        Path(OUT).mkdir(parents=True, exist_ok=True)
        return Parts()


def _flow() -> Dataflow:
    flow = Dataflow("growing")
    read: Any = op.input("read", flow, Lineitem())
    exchanged = op.flat_map("partition", read, partitioned)
    totals = op.stateful_batch("group", exchanged, Groups)
    op.output("write", totals, Folder())
    return flow


flow = _flow()
