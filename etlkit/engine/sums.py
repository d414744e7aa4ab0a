"""Sums and means. Integers and decimals are exact and never wrap.

A sum of integers is kept as ``high * 2**32 + low``, where low stays below ``2**32``. It does not cover variances
(``spreads.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from ..lazyclass import dataclass
from ..plan import decimals
from .accumulators import SUM_OPTIONS, Count, Grouping, Request
from .packing import unpacked

_LOW_BITS = 32
_LOW_MASK = (1 << _LOW_BITS) - 1


@dataclass(frozen=True)
class WholeSum:
    """The exact sum of integers, or of decimals as unscaled integers, in two words."""

    column: str
    result: pa.DataType
    label: str
    state = (pa.int64(), pa.int64())
    needs_groups = False
    takes_unscaled = True

    def fold(self, raw: pa.Table) -> list[Request]:
        column = raw[self.column]
        if largest(column) * max(len(column), 1) < 2**63:
            return [Request(column, "sum", SUM_OPTIONS)]
        wide = column.cast(pa.uint64() if pa.types.is_unsigned_integer(column.type) else pa.int64())
        return [Request(part, "sum", SUM_OPTIONS) for part in _words(wide)]

    def folded(self, grouping: Grouping) -> list[pa.Array]:
        if len(grouping.results) == 1:
            return [part.cast(pa.int64()) for part in _words(grouping.results[0])]
        return _carried(*grouping.results)

    def merge(self, state: Sequence[pa.ChunkedArray]) -> list[Request]:
        if largest(state[0]) * max(len(state[0]), 1) >= 2**62:
            raise InputError(f"{self.label} is larger than 2**94", "divide the values first, or sum them as float64")
        return [Request(part, "sum", SUM_OPTIONS) for part in state]

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
    takes_unscaled = True

    @property
    def state(self) -> tuple[pa.DataType, ...]:
        return (self.result,)

    def fold(self, raw: pa.Table) -> list[Request]:
        column = raw[self.column]
        if pa.types.is_integer(column.type) and largest(column) * max(len(column), 1) >= 2**63:
            column = pa.chunked_array([unpacked(chunk, self.result) for chunk in column.chunks])
        return self._request(column)

    def _request(self, column: pa.ChunkedArray) -> list[Request]:
        if pa.types.is_decimal128(column.type) and self._may_overflow(column):
            column = column.cast(pa.decimal256(column.type.precision, column.type.scale))
        return [Request(column, "sum", SUM_OPTIONS)]

    def _may_overflow(self, column: pa.ChunkedArray) -> bool:
        rows = max(len(column), 1)
        if column.type.precision + len(str(rows)) <= 38:
            return False
        return largest(column) * rows >= 10**38

    def _checked(self, grouping: Grouping) -> list[pa.Array]:
        result = grouping.results[0]
        if result.type == self.result:
            return [result]
        if pa.types.is_integer(result.type):
            return [unpacked(result, self.result)]
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
    takes_unscaled = True

    @property
    def column(self) -> str:
        return self.total.column

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
