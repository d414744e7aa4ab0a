"""Which partition a row goes to: by the hash of its keys, by the range of its first sort key, or all to one.

Range boundaries are found by sampling when the stage begins and recorded before they are used (law 10); ``to_text`` and
``from_text`` are their form in the manifest: an Arrow IPC stream in base64.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from .hashing import partition_batch, partition_ids


class Router(Protocol):
    def route(
        self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """(partition, its rows) for each partition that has any, in partition order."""
        ...


@dataclass(frozen=True, slots=True)
class ByHash:
    """By the hash of the first ``keys`` columns."""

    keys: int

    def route(
        self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None
    ) -> list[tuple[int, pa.RecordBatch]]:
        if partitions == 1 or not self.keys:
            return [(0, batch)]
        return partition_batch(batch, partition_ids(batch.columns[: self.keys], partitions), partitions)


@dataclass(frozen=True, slots=True)
class ByRange:
    """By where the first column stands among the boundaries; nulls and NaN in the last partition, either way."""

    descending: bool

    def route(
        self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None
    ) -> list[tuple[int, pa.RecordBatch]]:
        if boundaries is None or not len(boundaries):
            return [(0, batch)]
        values = sortable(batch.column(0))
        ids = pc.search_sorted(boundaries, values, side="right").cast(pa.int32())
        last = len(boundaries)
        if self.descending:
            ids = pc.subtract(pa.scalar(last, pa.int32()), ids)
        if pa.types.is_floating(values.type):
            ids = pc.if_else(pc.is_nan(values), pa.scalar(last, pa.int32()), ids)
        ids = pc.fill_null(ids, last).cast(pa.uint16())
        return partition_batch(batch, ids, partitions)


@dataclass(frozen=True, slots=True)
class ToOne:
    """All to partition 0."""

    def route(
        self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None
    ) -> list[tuple[int, pa.RecordBatch]]:
        return [(0, batch)]


def sortable(values: pa.Array) -> pa.Array:
    """The column in a form that ``search_sorted`` takes and that has the same order, ties apart."""
    if isinstance(values, pa.DictionaryArray):
        values = values.cast(values.type.value_type)
    if pa.types.is_decimal(values.type):
        return values.cast(pa.float64())
    if pa.types.is_boolean(values.type):
        return values.cast(pa.uint8())
    return values


def find_boundaries(sample: pa.Array, partitions: int) -> pa.Array:
    """Ascending values that cut the sample into about equal parts. Fewer than asked where values repeat."""
    values = sortable(sample).drop_null()
    if pa.types.is_floating(values.type):
        values = values.filter(pc.invert(pc.is_nan(values)))
    if not len(values):
        return values
    ordered = values.take(pc.sort_indices(values))
    picks = [len(ordered) * at // partitions for at in range(1, partitions)]
    cuts = pc.unique(ordered.take(pa.array(picks)))
    return cuts.combine_chunks() if isinstance(cuts, pa.ChunkedArray) else cuts


def to_text(boundaries: pa.Array) -> str:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([boundaries], names=["boundary"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue()).decode()


def from_text(text: str) -> pa.Array:
    with pa.ipc.open_stream(pa.py_buffer(base64.b64decode(text))) as reader:
        return reader.read_next_batch().column(0)
