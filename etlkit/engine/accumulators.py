"""Accumulators: each aggregate as a partial state that can be folded from rows, merged, and finished.

Covers what an accumulator is, and the simple ones: counts, extremes, first and last. A state is a few flat columns, one row
a key. An accumulator asks for grouped columns (``Request``) and completes them; the grouping itself, shared by all
accumulators of a plan, is in ``aggregate.py``. Sums are in ``sums.py``, the kinds that look at a whole group again when
they merge in ``spreads.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ..lazyclass import dataclass
from .physical import Form, count_up, index_in

SUM_OPTIONS = pc.ScalarAggregateOptions(skip_nulls=True, min_count=1)
VALID_ONLY = pc.CountOptions(mode="only_valid")


@dataclass(frozen=True, slots=True)
class Request:
    """A column to be grouped by ``hash_<function>``."""

    column: pa.ChunkedArray
    function: str
    options: Any = None


@dataclass(frozen=True)
class Grouping:
    """Rows and the groups that they fell into. ``rows`` and ``results`` are the input columns and the grouped ones."""

    rows: pa.Table
    results: Sequence[pa.Array]
    groups: int
    row_numbers: Callable[[], pa.Array]
    """For each group the list of its rows."""

    @cached_property
    def group_of_row(self) -> pa.Array:
        lists = self.row_numbers()
        order = pc.sort_indices(lists.flatten())
        return pc.list_parent_indices(lists).take(order)

    def aligned(self, groups: pa.Array, values: pa.ChunkedArray) -> pa.Array:
        """``values`` of the groups ``groups``, as one value for each group in order; null for a group that is missing."""
        places = index_in(count_up(self.groups).cast(groups.type), groups)
        return one_array(values).take(places)


class Accumulator(Protocol):
    """One aggregate. ``names`` below are the columns of its own state, in the order of ``state``."""

    @property
    def state(self) -> tuple[pa.DataType, ...]: ...

    @property
    def result(self) -> pa.DataType: ...

    @property
    def needs_groups(self) -> bool:
        """Whether merging asks which group each row fell into."""
        ...

    @property
    def column(self) -> str | None:
        """The raw column that it reads."""
        ...

    @property
    def takes_unscaled(self) -> bool:
        """Whether a decimal may come as its unscaled value, an int64 or int32."""
        ...

    def fold(self, raw: pa.Table) -> list[Request]: ...

    def folded(self, grouping: Grouping) -> list[pa.Array]: ...

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]: ...

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]: ...

    def final(self, state: Sequence[pa.Array]) -> pa.Array: ...


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.nulls(0, column.type) if column.num_chunks == 0 else pa.concat_arrays(column.chunks)


@dataclass(frozen=True)
class Count:
    """Rows (``column`` is None) or values that are not null."""

    column: str | None
    key: str
    state = (pa.int64(),)
    result = pa.int64()
    needs_groups = False
    takes_unscaled = True

    def fold(self, raw: pa.Table) -> list[Request]:
        mode = "all" if self.column is None else "only_valid"
        return [Request(raw[self.column or self.key], "count", pc.CountOptions(mode=mode))]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return list(grouping.results)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return [Request(state[0], "sum", SUM_OPTIONS)]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        return list(grouping.results)

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return pc.fill_null(state[0], 0)


@dataclass(frozen=True)
class Extreme:
    """min, max, any, all: the state is the value itself, in its physical form."""

    column: str
    function: str
    form: Form
    needs_groups = False
    takes_unscaled = True

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (self.form.physical,)

    @property
    def result(self) -> pa.DataType:
        return self.form.logical

    def fold(self, raw: pa.Table) -> list[Request]:
        return [Request(raw[self.column], self.function, SUM_OPTIONS)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return list(grouping.results)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return [Request(state[0], self.function, SUM_OPTIONS)]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        return list(grouping.results)

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return self.form.back(state[0])


@dataclass(frozen=True)
class Edge:
    """first and last: the value at the smallest or largest input position."""

    column: str
    position: str
    function: str
    form: Form
    needs_groups = False
    takes_unscaled = False

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (pa.int64(), self.form.physical)

    @property
    def result(self) -> pa.DataType:
        return self.form.logical

    def fold(self, raw: pa.Table) -> list[Request]:
        return [Request(raw[self.position], self.function)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return self._looked_up(grouping.results[0], grouping.rows[self.position], grouping.rows[self.column])

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return [Request(state[0], self.function)]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        return self._looked_up(grouping.results[0], state[0], state[1])

    def _looked_up(self, found: pa.Array, positions: pa.ChunkedArray, values: pa.ChunkedArray) -> list[pa.Array]:
        # No two rows share a position.
        return [found, one_array(values).take(index_in(found, one_array(positions)))]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return self.form.back(state[1])
