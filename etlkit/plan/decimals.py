"""Exact decimal arithmetic on Arrow arrays: result types, and kernels that neither round nor wrap.

The rule (ADR 0002): ``+`` and ``-`` keep the larger scale and one more digit than the larger whole part, ``*`` adds
precisions and scales, and the precision then stops at 38 (at 76 once a decimal256 takes part, or the scale alone needs
it). Nothing is ever rounded. A value that needs more digits than that is an error at run time.

pyarrow's own kernels refuse any result type of more than 38 digits. Here the digits that a batch really has are
counted, the arrays are relabelled to just those (the buffers stay as they are), and only if even these do not fit is
the work done in decimal256 and narrowed by a checked cast.

It also has the narrow form that aggregates use: the unscaled values as int64. It does not cover division.
A decimal array is trusted to keep its declared precision, as pyarrow's kernels trust it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

Datum: TypeAlias = "pa.Array | pa.Scalar"

NARROW_DIGITS = 18
"""Every decimal of so many digits, unscaled, fits an int64."""
_INTEGER_DIGITS = {"int8": 3, "int16": 5, "int32": 10, "int64": 19, "uint8": 3, "uint16": 5, "uint32": 10, "uint64": 20}


def decimal_of(kind: pa.DataType) -> pa.DataType:
    """The decimal128 (or 256) type that holds every value of an integer or decimal type."""
    if pa.types.is_integer(kind):
        return pa.decimal128(_INTEGER_DIGITS[str(kind)], 0)
    if pa.types.is_decimal256(kind):
        return kind
    return pa.decimal128(kind.precision, kind.scale)


def made(precision: int, scale: int, wide: bool) -> pa.DataType:
    """The type with as many digits, stopped at 38 or 76. ``ValueError`` for a scale that no type has."""
    if not wide and scale <= 38:
        return pa.decimal128(min(precision, 38), scale)
    return pa.decimal256(min(precision, 76), scale)


def sum_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """The type of ``left + right`` and ``left - right``."""
    scale = max(left.scale, right.scale)
    whole = max(left.precision - left.scale, right.precision - right.scale)
    return made(whole + scale + 1, scale, _wide(left, right))


def product_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """The type of ``left * right``."""
    return made(left.precision + right.precision, left.scale + right.scale, _wide(left, right))


def common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """The type that holds the values of both, for branches of a ``when`` and for comparison."""
    scale = max(left.scale, right.scale)
    whole = max(left.precision - left.scale, right.precision - right.scale)
    return made(whole + scale, scale, _wide(left, right))


def arithmetic(name: str, left: Datum, right: Datum, result: pa.DataType) -> Datum:
    """``add``, ``subtract`` or ``multiply`` of two decimals, exactly. ``ArrowInvalid`` if ``result`` cannot hold it."""
    need = _digits_needed(name, left.type, right.type)
    if need > _limit(result):
        left, right = _with_own_digits(left), _with_own_digits(right)
        need = _digits_needed(name, left.type, right.type)
    if need <= _limit(result):
        return relabel(pc.call_function(name, [_as_wide(left, result), _as_wide(right, result)]), result)
    if need > 77 or (need == 77 and _limit(result) == 76):
        raise pa.ArrowInvalid(f"{name} of decimals of {left.type.precision} and {right.type.precision} digits")
    # Really more than 38 digits, or so close that only the wide form can tell. pyarrow takes 37 + 38 digits at most; a
    # label that is one digit short does no harm to the arithmetic.
    rows = max((len(side) for side in (left, right) if isinstance(side, pa.Array)), default=None)
    sides = [pa.repeat(side, rows or 1) if isinstance(side, pa.Scalar) else side for side in (left, right)]
    wide = [side.cast(pa.decimal256(side.type.precision, side.type.scale)) for side in sides]
    if wide[0].type.precision > 37:
        wide[0] = relabel(wide[0], pa.decimal256(37, wide[0].type.scale))
    done = pc.call_function(name, wide).cast(result)
    return done[0] if rows is None else done


def rescale(value: Datum, kind: pa.DataType) -> Datum:
    """``value`` as ``kind``, checked. Only the label changes where scale and width stay and precision grows."""
    if value.type == kind:
        return value
    same = value.type.scale == kind.scale and value.type.bit_width == kind.bit_width
    return relabel(value, kind) if same and kind.precision >= value.type.precision else value.cast(kind)


def relabel(value: Datum, kind: pa.DataType) -> Datum:
    """The same bits under another precision of the same scale and width. No copy."""
    if value.type == kind:
        return value
    if isinstance(value, pa.Scalar):
        return pa.scalar(value.as_py(), kind)
    return pa.Array.from_buffers(kind, len(value), value.buffers(), value.null_count, value.offset)


def narrow(array: pa.Array) -> pa.Array:
    """The unscaled values as int64. ``ArrowInvalid`` if one does not fit; never asked of a type of up to 18 digits."""
    kind = array.type
    if pa.types.is_decimal64(kind):
        return pa.Array.from_buffers(pa.int64(), len(array), array.buffers(), array.null_count, array.offset)
    if kind.precision > NARROW_DIGITS:
        array = array.cast(pa.decimal128(NARROW_DIGITS, kind.scale))
    elif not pa.types.is_decimal128(kind):
        array = array.cast(pa.decimal128(kind.precision, kind.scale))
    # Unchecked, since every value fits: a checked cast takes eight times as long.
    short = array.cast(pa.decimal64(array.type.precision, array.type.scale), safe=False)
    return pa.Array.from_buffers(pa.int64(), len(short), short.buffers(), short.null_count, short.offset)


def widen(unscaled: pa.Array, kind: pa.DataType) -> pa.Array:
    """The inverse of ``narrow``: int64 values that ``kind`` is known to hold, as decimals of ``kind``."""
    # Unchecked by way of decimal64, which is only another name for the same words: the checked cast takes ten times as long.
    short = pa.Array.from_buffers(
        pa.decimal64(NARROW_DIGITS, 0), len(unscaled), unscaled.buffers(), unscaled.null_count, unscaled.offset
    )
    whole = short.cast(pa.decimal128(38, 0), safe=False)
    digits = max(kind.precision, kind.scale, 1) if pa.types.is_decimal128(kind) else 38
    labelled = pa.Array.from_buffers(
        pa.decimal128(digits, kind.scale), len(whole), whole.buffers(), whole.null_count, whole.offset
    )
    return labelled if labelled.type == kind else labelled.cast(kind)


def unscaled(number: Decimal, scale: int) -> int:
    """``number`` times ten to the ``scale``, exactly. It must not have more decimals than that."""
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    size = int("".join(map(str, digits)) or "0")
    shift = int(exponent + scale)
    size = size * int(10**shift) if shift >= 0 else size // int(10**-shift)
    return -size if sign else size


def _wide(left: pa.DataType, right: pa.DataType) -> bool:
    return bool(pa.types.is_decimal256(left) or pa.types.is_decimal256(right))


def _limit(kind: pa.DataType) -> int:
    return 76 if pa.types.is_decimal256(kind) else 38


def _as_wide(value: Datum, kind: pa.DataType) -> Datum:
    if pa.types.is_decimal256(kind) and not pa.types.is_decimal256(value.type):
        return value.cast(pa.decimal256(value.type.precision, value.type.scale))
    return value


def _digits_needed(name: str, left: pa.DataType, right: pa.DataType) -> int:
    """The precision that pyarrow's kernel will ask for."""
    if name == "multiply":
        return int(left.precision + right.precision + 1)
    return int(max(left.precision - left.scale, right.precision - right.scale) + max(left.scale, right.scale) + 1)


def _with_own_digits(value: Datum) -> Datum:
    """The same values, labelled with the digits that they have rather than those that they might have."""
    extremes = [value.as_py()] if isinstance(value, pa.Scalar) else list(pc.min_max(value).as_py().values())
    scale = value.type.scale
    largest = max(0 if number is None else abs(unscaled(number, scale)) for number in extremes)
    digits = min(max(len(str(largest)), scale, 1), value.type.precision)
    made_type = pa.decimal256 if pa.types.is_decimal256(value.type) else pa.decimal128
    return relabel(value, made_type(digits, scale))
