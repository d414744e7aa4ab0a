"""What a reduce split does with one partition: the rows that met there, turned into the step's result.

Each side of a partition is a function that streams what the exchange stored, so that a reducer holds no more than it must.
Joins are in ``join.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from .aggregate import AggregatePlan
from .combiners import POSITION

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

    def reduce(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]:
        partials = pa.Table.from_batches(sides[0](), self.plan.partial_schema)
        yield from self.plan.final(self.plan.merge(partials)).to_batches()


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

    def reduce(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]:
        table = pa.Table.from_batches(sides[0](), self.stored)
        table, keys = _with_plain_keys(table, self.keys)
        ways = ["descending" if down else "ascending" for down in self.descending]
        by = [*((key, way, "at_end") for key, way in zip(keys, ways, strict=True)), (POSITION, "ascending", "at_end")]
        order = pc.sort_indices(table, sort_keys=by)
        if self.rows is not None:
            order = order[: self.rows]
        table = table.select(self.schema.names)
        for start in range(0, len(order), _SLICE):
            piece = table.take(order.slice(start, _SLICE)).combine_chunks()
            yield from piece.to_batches()


_SLICE = 65_536


def _with_plain_keys(table: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """Dictionary keys decoded beside their column: dictionaries sort by index, not by value."""
    names: list[str] = []
    for key in keys:
        kind = table.schema.field(key).type
        if pa.types.is_dictionary(kind):
            table = table.append_column(f"{key}{POSITION}", table[key].cast(kind.value_type))
            key = f"{key}{POSITION}"
        names.append(key)
    return table, names
