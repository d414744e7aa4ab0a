"""What a reduce split does with one partition: the rows that met there, turned into the step's result.

Each side of a partition is a function that streams what the exchange stored, so that a reducer holds no more than it must.
Joins are in ``join.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from ..lazyclass import dataclass
from .aggregate import AggregatePlan
from .combiners import POSITION
from .ordering import order_of
from .packing import together, unpacked_batch

MERGE_ROWS = 262_144
Side = Callable[[], Iterator[pa.RecordBatch]]


class Reducer(Protocol):
    @property
    def schema(self) -> pa.Schema:
        """Of what comes out."""
        ...

    @property
    def even_if_empty(self) -> bool:
        """Whether a partition without rows gives rows (an aggregate over everything does)."""
        ...

    @property
    def cut_again(self) -> pa.Schema | None:
        """Of what is held, if a partition may be cut again by the hash of its first columns; None if it may not."""
        ...

    @property
    def keys_in_front(self) -> int: ...

    def reduce(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]: ...


@dataclass(frozen=True, slots=True)
class Groups:
    """Partial states of one partition, merged and finished."""

    plan: AggregatePlan

    @property
    def schema(self) -> pa.Schema:
        return self.plan.schema

    @property
    def even_if_empty(self) -> bool:
        return not self.plan.keys

    @property
    def cut_again(self) -> pa.Schema | None:
        return self.plan.partial_schema if self.plan.keys else None

    @property
    def keys_in_front(self) -> int:
        return len(self.plan.keys)

    def reduce(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]:
        merged = self.plan.partial_schema.empty_table()
        gathered: list[pa.RecordBatch] = []
        rows = 0
        for batch in sides[0]():
            gathered.append(batch)
            rows += batch.num_rows
            # Runs repeat their keys: merging as often as the rows double keeps what is held near the result.
            if rows >= max(MERGE_ROWS, merged.num_rows):
                merged, gathered, rows = self._merged(merged, gathered), [], 0
        yield from self.plan.final(self._merged(merged, gathered)).to_batches()

    def _merged(self, merged: pa.Table, more: Sequence[pa.RecordBatch]) -> pa.Table:
        if not more and merged.num_rows:
            return merged
        return self.plan.merge(pa.concat_tables([merged, pa.Table.from_batches(more, self.plan.partial_schema)]))


@dataclass(frozen=True, slots=True)
class Sorted:
    """One range of a sort, in order; equal keys in the order of the input."""

    stored: pa.Schema
    schema: pa.Schema
    keys: tuple[str, ...]
    descending: tuple[bool, ...]
    rows: int | None = None
    """Only so many, for a limit."""
    even_if_empty: bool = False
    cut_again: None = None
    keys_in_front: int = 0

    def reduce(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]:
        rows = together(list(sides[0]()), self.stored)
        by = [*(rows.column(key) for key in self.keys), rows.column(POSITION)]
        order = order_of(by, (*self.descending, False))
        if self.rows is not None:
            order = order[: self.rows]
        del by
        rows = rows.select(self.schema.names)
        for start in range(0, len(order), _SLICE):
            yield unpacked_batch(rows.take(order.slice(start, _SLICE)), self.schema)


_SLICE = 65_536
