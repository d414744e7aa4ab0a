"""Which partition a row goes to: by the hash of its keys, by the range of its sort keys, or all to one.

Boundaries of ranges are found by sampling when the stage begins and recorded before they are used (law 10); ``to_text`` and
``from_text`` are their form in the manifest: an Arrow IPC stream in base64.
"""

from __future__ import annotations

import base64
from typing import Protocol

import pyarrow as pa

from ..lazyclass import dataclass
from .hashing import partition_batch, partition_ids
from .ordering import boundary_columns, range_of


class Router(Protocol):
    def ids(self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None) -> pa.Array | None:
        """The partition of each row; None: all go to partition 0."""
        ...


@dataclass(frozen=True, slots=True)
class ByHash:
    """By the hash of the first ``keys`` columns."""

    keys: int

    def ids(self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None) -> pa.Array | None:
        return partition_ids(batch.columns[: self.keys], partitions) if partitions > 1 and self.keys else None


@dataclass(frozen=True, slots=True)
class ByRange:
    """By where a row stands among the boundaries. The first columns are the sort keys, the last one is the position."""

    descending: tuple[bool, ...]

    def columns(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """What a row is compared by, in the form that boundaries have."""
        return boundary_columns([*batch.columns[: len(self.descending)], batch.columns[-1]])

    @property
    def ways(self) -> tuple[bool, ...]:
        """Of the keys and the position."""
        return (*self.descending, False)

    def ids(self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None) -> pa.Array | None:
        if boundaries is None or not len(boundaries):
            return None
        return range_of(self.columns(batch), boundaries, self.ways)


@dataclass(frozen=True, slots=True)
class ToOne:
    """All to partition 0."""

    def ids(self, batch: pa.RecordBatch, partitions: int, boundaries: pa.Array | None) -> pa.Array | None:
        return None


def route(
    batch: pa.RecordBatch, ids: pa.Array | None, partitions: int, mask: pa.Array | None = None
) -> list[tuple[int, pa.RecordBatch]]:
    """(partition, its rows) for each partition that has any, in partition order. ``mask``: the rows that count."""
    if ids is None:
        return [(0, batch if mask is None else batch.filter(mask))]
    return partition_batch(batch, ids, partitions, mask)


def to_text(boundaries: pa.Array) -> str:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([boundaries], names=["boundary"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue()).decode()


def from_text(text: str) -> pa.Array:
    with pa.ipc.open_stream(pa.py_buffer(base64.b64decode(text))) as reader:
        return reader.read_next_batch().column(0)
