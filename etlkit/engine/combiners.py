"""What travels through an exchange, and what makes it smaller on the way.

The aggregate plan (``aggregate.py``) folds raw rows to partial states. ``Rows`` keeps rows as they are, for joins and sorts.
``FirstRows`` keeps the first of each partition, by input position for a limit, by the keys of a sort for a limit after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ..lazyclass import dataclass
from .ordering import order_of
from .physical import count_up

POSITION = "__position"
"""split << 40 | row: where a row stands in the input, whatever order it is processed in."""


class Combiner(Protocol):
    @property
    def raw_schema(self) -> pa.Schema: ...

    @property
    def partial_schema(self) -> pa.Schema: ...

    @property
    def foldable(self) -> bool:
        """Whether folding can make rows fewer; if not, nobody tries."""
        ...

    def prepare(self, batch: pa.RecordBatch, position: int) -> pa.RecordBatch:
        """The narrow columns that travel. ``position``: of the batch's first row."""
        ...

    def fold(self, raw: pa.Table) -> pa.Table:
        """Raw rows of one partition → partials."""
        ...

    def merge(self, partials: pa.Table) -> pa.Table:
        """Partials of one partition → fewer partials."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole rows, with their position where order matters."""

    columns: tuple[str, ...]
    raw_schema: pa.Schema
    positioned: bool
    foldable: bool = False

    @property
    def partial_schema(self) -> pa.Schema:
        return self.raw_schema

    def prepare(self, batch: pa.RecordBatch, position: int) -> pa.RecordBatch:
        arrays = [batch.column(name) for name in self.columns]
        if self.positioned:
            arrays.append(pc.add(count_up(batch.num_rows), position))
        return pa.RecordBatch.from_arrays(arrays, schema=self.raw_schema)

    def fold(self, raw: pa.Table) -> pa.Table:
        return raw

    def merge(self, partials: pa.Table) -> pa.Table:
        return partials


@dataclass(frozen=True, slots=True)
class FirstRows:
    """The first ``rows`` rows of a partition: by its keys, which are its first columns, then by position."""

    inner: Rows
    rows: int
    descending: tuple[bool, ...] = ()
    """One for each key; without a key the position alone counts."""
    foldable: bool = True

    @property
    def raw_schema(self) -> pa.Schema:
        return self.inner.raw_schema

    @property
    def partial_schema(self) -> pa.Schema:
        return self.inner.raw_schema

    @property
    def by_position(self) -> bool:
        return not self.descending

    def prepare(self, batch: pa.RecordBatch, position: int) -> pa.RecordBatch:
        return self.inner.prepare(batch, position)

    def fold(self, raw: pa.Table) -> pa.Table:
        by = [*raw.columns[: len(self.descending)], raw[POSITION]]
        return raw.take(order_of(by, (*self.descending, False))[: self.rows])

    def merge(self, partials: pa.Table) -> pa.Table:
        return self.fold(partials)


def rows(schema: pa.Schema, first: Sequence[str], *, positioned: bool) -> Rows:
    """Whole rows of ``schema`` with the columns ``first`` in front, by which they are routed."""
    columns = (*first, *(name for name in schema.names if name not in first))
    fields = [schema.field(name) for name in columns]
    if positioned:
        fields.append(pa.field(POSITION, pa.int64()))
    return Rows(columns, pa.schema(fields), positioned)
