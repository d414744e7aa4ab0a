"""Accumulators: each aggregate as a partial state that can be folded from rows, merged, and finished.

Covers the state columns of every aggregate kind. A state is a few flat columns (two integers for an exact sum, a list for
the kinds that need every value), one row a key. An accumulator asks for grouped columns (``Request``) and completes them;
the grouping itself, shared by all accumulators of a plan, is in ``aggregate.py``.

Exact sums never wrap: a sum of integers is kept as ``high * 2**32 + low``, where low stays below ``2**32``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from ..plan import decimals
from .physical import Form, count_up

_LOW_BITS = 32
_LOW_MASK = (1 << _LOW_BITS) - 1
_SUM_OPTIONS = pc.ScalarAggregateOptions(skip_nulls=True, min_count=1)
_VALID_ONLY = pc.CountOptions(mode="only_valid")


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
        places = pc.index_in(count_up(self.groups).cast(groups.type), groups)
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
    return pa.array([], column.type) if column.num_chunks == 0 else pa.concat_arrays(column.chunks)


@dataclass(frozen=True)
class Count:
    """Rows (``column`` is None) or values that are not null."""

    column: str | None
    key: str
    state = (pa.int64(),)
    result = pa.int64()
    needs_groups = False

    def fold(self, raw: pa.Table) -> list[Request]:
        mode = "all" if self.column is None else "only_valid"
        return [Request(raw[self.column or self.key], "count", pc.CountOptions(mode=mode))]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return list(grouping.results)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return [Request(state[0], "sum", _SUM_OPTIONS)]

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

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (self.form.physical,)

    @property
    def result(self) -> pa.DataType:
        return self.form.logical

    def fold(self, raw: pa.Table) -> list[Request]:
        return [Request(raw[self.column], self.function, _SUM_OPTIONS)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return list(grouping.results)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return [Request(state[0], self.function, _SUM_OPTIONS)]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        return list(grouping.results)

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return self.form.back(state[0])


@dataclass(frozen=True)
class WholeSum:
    """The exact sum of integers, or of decimals as unscaled integers, in two words."""

    column: str
    result: pa.DataType
    label: str
    state = (pa.int64(), pa.int64())
    needs_groups = False

    def fold(self, raw: pa.Table) -> list[Request]:
        column = raw[self.column]
        if largest(column) * max(len(column), 1) < 2**63:
            return [Request(column, "sum", _SUM_OPTIONS)]
        wide = column.cast(pa.uint64() if pa.types.is_unsigned_integer(column.type) else pa.int64())
        return [Request(part, "sum", _SUM_OPTIONS) for part in _words(wide)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        if len(grouping.results) == 1:
            return [part.cast(pa.int64()) for part in _words(grouping.results[0])]
        return _carried(*grouping.results)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        if largest(state[0]) * max(len(state[0]), 1) >= 2**62:
            raise InputError(f"{self.label} is larger than 2**94", "divide the values first, or sum them as float64")
        return [Request(part, "sum", _SUM_OPTIONS) for part in state]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        return _carried(*grouping.results)

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        high, low = state
        if pa.types.is_uint64(self.result):
            if len(high) and not _within(high, 0, _LOW_MASK):
                raise self._overflow()
            return pc.add(pc.shift_left(high.cast(pa.uint64()), pa.scalar(32, pa.uint64())), low.cast(pa.uint64()))
        small = _within(high, -(2**31), 2**31 - 1)
        if not small and pa.types.is_integer(self.result):
            raise self._overflow()
        if small:
            total = pc.add(pc.shift_left(high, _LOW_BITS), low)
            return total if pa.types.is_integer(self.result) else decimals.widen(total, self.result)
        try:
            return decimals.relabel(self.exact(state), self.result)
        except pa.ArrowInvalid as error:
            raise self._overflow() from error

    def exact(self, state: Sequence[pa.Array]) -> pa.Array:
        """The unscaled sum as a decimal, labelled with the scale of the result."""
        scale = self.result.scale if pa.types.is_decimal(self.result) else 0
        whole = pa.decimal128(38, 0)
        high, low = (part.cast(pa.decimal128(19, 0)) for part in state)
        shifted = decimals.arithmetic("multiply", high, pa.scalar(2**_LOW_BITS, pa.decimal128(10, 0)), whole)
        total = decimals.arithmetic("add", shifted, low, whole)
        return pa.Array.from_buffers(
            pa.decimal128(38, scale), len(total), total.buffers(), total.null_count, total.offset
        )

    def as_float(self, state: Sequence[pa.Array]) -> pa.Array:
        """The unscaled sum as a float64, correctly rounded up to 2**53."""
        high, low = state
        return pc.add(pc.multiply(high.cast(pa.float64(), safe=False), float(2**_LOW_BITS)), low.cast(pa.float64()))

    def _overflow(self) -> InputError:
        remedy = "sum it as a decimal: cast the column to 'decimal(38, 0)' first"
        if pa.types.is_decimal(self.result):
            remedy = "divide the values first, or sum them as float64"
        return InputError(f"{self.label} does not fit {self.result}", remedy)


@dataclass(frozen=True)
class WideSum:
    """The sum of decimals of more than 18 digits, or of floats."""

    column: str
    result: pa.DataType
    label: str
    needs_groups = False

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (self.result,)

    def fold(self, raw: pa.Table) -> list[Request]:
        return self._request(raw[self.column])

    def _request(self, column: pa.ChunkedArray) -> list[Request]:
        if pa.types.is_decimal128(column.type) and self._may_overflow(column):
            column = column.cast(pa.decimal256(column.type.precision, column.type.scale))
        return [Request(column, "sum", _SUM_OPTIONS)]

    def _may_overflow(self, column: pa.ChunkedArray) -> bool:
        rows = max(len(column), 1)
        if column.type.precision + len(str(rows)) <= 38:
            return False
        return largest(column) * rows >= 10**38

    def _checked(self, grouping: Grouping) -> list[pa.Array]:
        result = grouping.results[0]
        if result.type == self.result:
            return [result]
        try:
            return [decimals.rescale(result, self.result)]
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{self.label} does not fit {self.result}", "divide the values first, or sum them as float64"
            ) from error

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return self._checked(grouping)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return self._request(state[0])

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        return self._checked(grouping)

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return state[0]


@dataclass(frozen=True)
class Mean:
    """A sum and a count, divided once, at the end."""

    total: WholeSum | WideSum
    count: Count
    result = pa.float64()
    needs_groups = False

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (*self.total.state, *self.count.state)

    def fold(self, raw: pa.Table) -> list[Request]:
        return [*self.total.fold(raw), *self.count.fold(raw)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return self._both(grouping, self.total.folded)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return [*self.total.merge(state[:-1]), *self.count.merge(state[-1:])]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        return self._both(grouping, lambda first: self.total.merged(state[:-1], first))

    def _both(self, grouping: Grouping, finish: Callable[[Grouping], list[pa.Array]]) -> list[pa.Array]:
        first = Grouping(grouping.rows, grouping.results[:-1], grouping.groups, grouping.row_numbers)
        return [*finish(first), grouping.results[-1]]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        count = state[-1].cast(pa.float64())
        if isinstance(self.total, WholeSum):
            scale = self.total.result.scale if pa.types.is_decimal(self.total.result) else 0
            # One division of two whole numbers is rounded once.
            return pc.divide(self.total.as_float(state[:-1]), pc.multiply(count, float(10**scale)))
        return pc.divide(state[0].cast(pa.float64(), safe=False), count)


@dataclass(frozen=True)
class Edge:
    """first and last: the value at the smallest or largest input position."""

    column: str
    position: str
    function: str
    form: Form
    needs_groups = False

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
        return [found, one_array(values).take(pc.index_in(found, one_array(positions)))]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return self.form.back(state[1])


@dataclass(frozen=True)
class Distinct:
    """count_distinct: the state is the list of different values."""

    column: str
    form: Form
    result = pa.int64()
    needs_groups = True

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (pa.list_(self.form.physical),)

    def fold(self, raw: pa.Table) -> list[Request]:
        return [Request(raw[self.column], "distinct", _VALID_ONLY)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return [grouping.results[0].cast(self.state[0])]

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return []

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        groups, values = _exploded(one_array(state[0]), grouping)
        table = pa.table({"g": groups, "v": values})
        again = table.group_by("g", use_threads=False).aggregate([("v", "distinct", _VALID_ONLY)])
        return [grouping.aligned(one_array(again["g"]), again["v_distinct"]).cast(self.state[0])]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        return pc.fill_null(pc.list_value_length(state[0]).cast(pa.int64()), 0)


@dataclass(frozen=True)
class Quantile:
    """The exact quantile, linear between neighbours: the state is the list of all values."""

    column: str
    q: float
    state = (pa.list_(pa.float64()),)
    result = pa.float64()
    needs_groups = True

    def fold(self, raw: pa.Table) -> list[Request]:
        return [Request(raw[self.column], "list")]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        return [grouping.results[0].cast(self.state[0])]

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        return []

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        groups, values = _exploded(one_array(state[0]), grouping)
        order = pc.sort_indices(groups)
        sorted_groups = groups.take(order)
        starts = pc.search_sorted(sorted_groups, count_up(grouping.groups + 1).cast(sorted_groups.type))
        return [pa.ListArray.from_arrays(starts.cast(pa.int32()), values.take(order))]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        lists = state[0]
        table = pa.table({"g": pc.list_parent_indices(lists), "v": lists.flatten()}).filter(pc.field("v").is_valid())
        nan_last = table.append_column("n", pc.is_nan(table["v"])).sort_by(
            [("g", "ascending"), ("n", "ascending"), ("v", "ascending")]
        )
        groups, values = one_array(nan_last["g"]), one_array(nan_last["v"])
        bounds = pc.search_sorted(groups, count_up(len(lists) + 1).cast(groups.type)).cast(pa.int64())
        start, stop = bounds.slice(0, len(lists)), bounds.slice(1)
        count = pc.subtract(stop, start)
        some = pc.greater(count, 0)
        rank = pc.multiply(pc.subtract(count, 1).cast(pa.float64()), self.q)
        below = pc.floor(rank)
        low = pc.if_else(some, pc.add(start, below.cast(pa.int64())), pa.scalar(None, pa.int64()))
        high = pc.min_element_wise(pc.add(low, 1), pc.subtract(stop, 1), skip_nulls=False)
        lower, upper = values.take(low), values.take(high)
        part = pc.subtract(rank, below)
        between = pc.add(lower, pc.multiply(pc.subtract(upper, lower), part))
        return pc.if_else(pc.equal(part, 0.0), lower, between)


@dataclass(frozen=True)
class Spread:
    """variance and stddev: count, mean, and the sum of squared differences from it, merged as Chan et al. do."""

    column: str
    root: bool
    ddof: int
    state = (pa.int64(), pa.float64(), pa.float64())
    result = pa.float64()
    needs_groups = True

    def fold(self, raw: pa.Table) -> list[Request]:
        column = raw[self.column]
        variance = pc.VarianceOptions(ddof=0)
        return [Request(column, "count", _VALID_ONLY), Request(column, "mean"), Request(column, "variance", variance)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        count, mean, variance = grouping.results
        squares = pc.multiply(variance, count.cast(pa.float64()))
        return [count, pc.fill_null(mean, 0.0), pc.fill_null(squares, 0.0)]

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        weighted = pc.multiply(state[1], state[0].cast(pa.float64()))
        return [Request(state[0], "sum"), Request(weighted, "sum")]

    def merged(self, state: Sequence[pa.ChunkedArray], grouping: Grouping) -> list[pa.Array]:
        count, weighted = grouping.results
        mean = pc.if_else(pc.greater(count, 0), pc.divide(weighted, count.cast(pa.float64())), 0.0)
        group = grouping.group_of_row
        counts, means, squares = (one_array(column) for column in state)
        away = pc.subtract(means, mean.take(group))
        grown = pc.add(squares, pc.multiply(counts.cast(pa.float64()), pc.multiply(away, away)))
        again = pa.table({"g": group, "s": grown}).group_by("g", use_threads=False).aggregate([("s", "sum")])
        return [count, mean, grouping.aligned(one_array(again["g"]), again["s_sum"])]

    def final(self, state: Sequence[pa.Array]) -> pa.Array:
        freedom = pc.subtract(pc.fill_null(state[0], 0), self.ddof)
        unknown = pa.scalar(None, pa.float64())
        value = pc.if_else(pc.greater(freedom, 0), pc.divide(state[2], freedom.cast(pa.float64())), unknown)
        return pc.sqrt(value) if self.root else value


def largest(column: pa.ChunkedArray | pa.Array) -> int:
    """The largest absolute (unscaled) value of integers or decimals; 0 if there is none."""
    extremes = [value for value in pc.min_max(column).as_py().values() if value is not None]
    if pa.types.is_decimal(column.type):
        return max((abs(decimals.unscaled(value, column.type.scale)) for value in extremes), default=0)
    return max((abs(int(value)) for value in extremes), default=0)


def _words(column: Any) -> tuple[Any, Any]:
    width = column.type
    high = pc.shift_right(column, pa.scalar(_LOW_BITS, width))
    return high, pc.bit_wise_and(column, pa.scalar(_LOW_MASK, width))


def _carried(high: pa.Array, low: pa.Array) -> list[pa.Array]:
    high, low = high.cast(pa.int64()), low.cast(pa.int64())
    return [pc.add(high, pc.shift_right(low, _LOW_BITS)), pc.bit_wise_and(low, _LOW_MASK)]


def _within(column: pa.Array, low: int, high: int) -> bool:
    extremes = pc.min_max(column).as_py()
    return extremes["min"] is None or (extremes["min"] >= low and extremes["max"] <= high)


def _exploded(lists: pa.Array, grouping: Grouping) -> tuple[pa.Array, pa.Array]:
    """The group and the value of each element of ``lists``, one list a row."""
    return grouping.group_of_row.take(pc.list_parent_indices(lists)), lists.flatten()
