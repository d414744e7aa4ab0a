"""The physical form of a column while it is grouped: narrow, and equal exactly where SQL says so.

Covers the way there and back: decimals of up to 18 digits as int64 (8 bytes instead of 16, and sums four times as fast),
dictionaries decoded, NaN and zero each with one bit pattern, floats as integers in total order for min and max. It does
not cover what is computed from them (``accumulators.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ..lazyclass import dataclass
from ..memory.allocation import ensure_room
from ..plan import decimals

Use = Literal["key", "group", "order", "sum", "number", "valid", "carry"]
"""What for: the keys of a group, values to be counted once, min and max, exact sums, float64 statistics, counting, or
passing on untouched."""
_LONGEST_COUNT = 1 << 16
HASH_ENTRY_BYTES = 24
"""Of Arrow's hash tables, which have twice as many entries as there are values, and a power of two."""

Convert = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True, slots=True)
class Form:
    """How values of ``logical`` type travel as ``physical`` ones. ``back`` is the inverse of ``forth`` on equal values."""

    logical: pa.DataType
    physical: pa.DataType
    forth: Convert
    back: Convert
    way: str = ""
    """Two uses of one column share it where this is the same; empty if the values are just themselves."""

    @property
    def is_same(self) -> bool:
        """Whether values travel as they are."""
        return self.forth is _identity

    @property
    def folded(self) -> pa.DataType:
        """The type of a key once rows were folded: those that travel in dictionaries come out of them there."""
        return self.physical.value_type if pa.types.is_dictionary(self.physical) else self.physical


def form_of(kind: pa.DataType, use: Use) -> Form:
    """The form for one use. ``TypeError`` with a reason where there is none."""
    if use == "valid":
        return Form(kind, pa.bool_(), _validity, _identity, "valid")
    if pa.types.is_null(kind):
        return Form(kind, pa.bool_(), lambda array: array.cast(pa.bool_()), lambda array: pa.nulls(len(array)))
    if use == "key":
        if pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type):
            return Form(kind.value_type, kind, _identity, _identity, "dictionary")
        use = "group"
    decoded = _decoded(kind)
    if decoded is not None:
        value_type, decode = decoded
        inner = form_of(value_type, use)
        return Form(value_type, inner.physical, lambda array: inner.forth(decode(array)), inner.back, inner.way)
    if use == "carry":
        return Form(kind, kind, _identity, _identity)
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        raise TypeError(f"{kind} values have no order and no equality here")
    if use == "number":
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise TypeError(f"{kind} is not a number")
        if pa.types.is_float64(kind):
            return Form(kind, kind, _identity, _identity)
        return Form(kind, pa.float64(), lambda array: array.cast(pa.float64(), safe=False), _identity, "float")
    if pa.types.is_decimal(kind):
        if kind.precision <= decimals.NARROW_DIGITS:
            return Form(kind, pa.int64(), decimals.narrow, lambda array: decimals.widen(array, kind), "narrow")
        return Form(kind, kind, _identity, _identity)
    if pa.types.is_floating(kind):
        return _float_form(kind, use)
    if use == "sum" and not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise TypeError(f"{kind} cannot be summed")
    if pa.types.is_duration(kind):
        return Form(kind, pa.int64(), lambda array: array.cast(pa.int64()), lambda array: array.cast(kind), "ticks")
    if pa.types.is_interval(kind):
        raise TypeError(f"{kind} values have no order and no equality here")
    return Form(kind, kind, _identity, _identity)


def normal_floats(array: pa.Array) -> pa.Array:
    """The same numbers with one bit pattern for zero and one for NaN."""
    array = pc.add(array, pa.scalar(0.0, array.type))  # -0.0 + 0.0 is 0.0
    nan = pc.is_nan(array)
    return pc.if_else(nan, pa.scalar(float("nan"), array.type), array) if pc.any(nan).as_py() else array


def _decoded(kind: pa.DataType) -> tuple[pa.DataType, Convert] | None:
    if pa.types.is_dictionary(kind):
        return kind.value_type, lambda array: array.dictionary_decode()
    if pa.types.is_string_view(kind):
        return pa.string(), lambda array: array.cast(pa.string())
    if pa.types.is_binary_view(kind):
        return pa.binary(), lambda array: array.cast(pa.binary())
    if pa.types.is_float16(kind):
        return pa.float32(), lambda array: array.cast(pa.float32())
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        wide = decimals.decimal_of(kind)
        return wide, lambda array: array.cast(wide)
    return None


def _float_form(kind: pa.DataType, use: Use) -> Form:
    if use == "sum":
        return form_of(kind, "number")
    if use == "group":
        return Form(kind, kind, normal_floats, _identity, "normal")
    return Form(kind, pa.int64(), _ordered, lambda array: _unordered(array).cast(kind), "ordered")


def _ordered(array: pa.Array) -> pa.Array:
    """Floats as integers of the same order, NaN last: the bits, with those of negative numbers turned round."""
    bits = _viewed(normal_floats(array.cast(pa.float64())), pa.int64())
    return _turned(bits)


def _unordered(array: pa.Array) -> pa.Array:
    return _viewed(_turned(array), pa.float64())


def _turned(bits: pa.Array) -> pa.Array:
    # The sign bit is left alone, so this is its own inverse.
    return pc.if_else(pc.less(bits, 0), pc.bit_wise_xor(bits, (1 << 63) - 1), bits)


@lru_cache(maxsize=1)
def _counted() -> pa.Array:
    return pa.array(range(_LONGEST_COUNT), pa.int64())


def count_up(rows: int) -> pa.Array:
    """0, 1, 2, … as int64."""
    whole, rest = divmod(rows, _LONGEST_COUNT)
    pieces = [pc.add(_counted(), piece * _LONGEST_COUNT) for piece in range(whole)]
    pieces.append(pc.add(_counted().slice(0, rest), whole * _LONGEST_COUNT))
    return pa.concat_arrays(pieces)


def _viewed(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(array), array.buffers(), array.null_count, array.offset)


def _validity(array: pa.Array) -> pa.Array:
    return pc.if_else(array.is_valid(), pa.scalar(True), pa.scalar(None, pa.bool_()))


def _identity(array: pa.Array) -> pa.Array:
    return array


def index_in(values: pa.Array, among: pa.Array) -> pa.Array:
    """``pyarrow.compute.index_in`` that fails where its table does not fit. pyarrow 26 ends the process there (ADR 6)."""
    ensure_room(HASH_ENTRY_BYTES << (2 * len(among)).bit_length(), "matching keys")
    return pc.index_in(values, value_set=among, skip_nulls=True)
