"""Literals in their context: the narrowest exact Arrow scalar for a Python value beside a typed operand.

The rule (ADR 0002): a literal never widens what it meets unless its value needs it. ``1`` beside a decimal(15, 2) is
the decimal 1.00, ``0.05`` the decimal 0.05 (a float of at most 15 digits is the decimal that it prints as),
``"2024-01-31"`` beside a date is that date. It does not cover comparison, where a number is compared by its exact value
(``operators.py``).
"""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .canonical import is_arrow

_EXACT_FLOAT_DIGITS = 15
_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())


def natural(value: Any) -> pa.Scalar:
    """The scalar of a literal that meets nothing: the type that pyarrow would choose."""
    if is_arrow(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        wide = decimal_scalar(Decimal(value), 0)
        return wide if pa.types.is_decimal256(wide.type) else pa.scalar(Decimal(value), pa.decimal128(38, 0))
    if isinstance(value, Decimal):
        return decimal_scalar(value, 0)
    if isinstance(value, (set, frozenset)):
        return pa.scalar(list(value))
    return pa.scalar(value)


def adapt(value: Any, kind: pa.DataType, *, aligned: bool = True) -> pa.Scalar:
    """``value`` as a scalar that suits an operand of type ``kind``. Raises what pyarrow raises where nothing suits.

    ``aligned``: a decimal takes at least the scale of the operand.
    """
    if is_arrow(value):
        return value
    if value is None:
        return pa.scalar(None, kind)
    number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if number and pa.types.is_integer(kind):
        return _beside_integer(value, kind)
    if number and pa.types.is_floating(kind):
        return _beside_float(value, kind)
    if number and pa.types.is_decimal(kind):
        exact = exact_number(value)
        return natural(value) if exact is None else decimal_scalar(exact, kind.scale if aligned else 0)
    if pa.types.is_temporal(kind):
        return _beside_temporal(value, kind)
    if isinstance(value, str) and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return pa.scalar(value.encode(), kind)
    if isinstance(value, (bytes, str)) and pa.types.is_fixed_size_binary(kind):
        return pa.scalar(value.encode() if isinstance(value, str) else value, pa.binary())
    if number or isinstance(value, bool):
        return natural(value)
    return pa.scalar(value, kind)


def typed(value: Any, kind: pa.DataType) -> pa.Scalar:
    """``value`` as exactly ``kind``."""
    if is_arrow(value):
        return value.cast(kind)
    if isinstance(value, float) and pa.types.is_decimal(kind):
        exact = exact_number(value)
        value = value if exact is None else exact
    if isinstance(value, (int, float)) and not isinstance(value, bool) and pa.types.is_integer(kind):
        return pa.scalar(value).cast(kind)
    return adapt(value, kind).cast(kind) if pa.types.is_temporal(kind) else pa.scalar(value, kind)


def exact_number(value: Any) -> Decimal | None:
    """The number that an author meant: integers and decimals as they are, floats as they print.

    None for inf, NaN, and floats of more than 15 significant digits, which are the result of a computation.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        printed = Decimal(repr(value))
        digits = len(printed.normalize().as_tuple().digits)
        return printed if digits <= _EXACT_FLOAT_DIGITS else None
    number = Decimal(value)
    return number if number.is_finite() else None


def decimal_scalar(number: Decimal, at_least_scale: int) -> pa.Scalar:
    """The scalar of the fewest digits. At the scale of what it is added to, no column has to be rescaled."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if exponent > 0:
        digits, exponent = digits + (0,) * exponent, 0
    while exponent < 0 and digits and digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    scale = max(-exponent, at_least_scale)
    precision = max(len(digits) + scale + exponent, scale, 1)
    kind = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    return pa.scalar(number, kind)


def _beside_integer(value: Any, kind: pa.DataType) -> pa.Scalar:
    if isinstance(value, float):
        return pa.scalar(value, pa.float64())
    if isinstance(value, Decimal):
        return decimal_scalar(value, 0)
    # A negative literal beside an unsigned column needs the next wider signed type, so that the common type is signed.
    candidates = [kind, *(wider for wider in _INTEGERS if wider.bit_width > kind.bit_width)]
    for candidate in candidates:
        if _holds(candidate, value):
            return pa.scalar(value, candidate)
    return decimal_scalar(Decimal(value), 0)


def _holds(kind: pa.DataType, value: int) -> bool:
    bits = int(kind.bit_width)
    low, high = (
        (0, int(2**bits)) if pa.types.is_unsigned_integer(kind) else (-int(2 ** (bits - 1)), int(2 ** (bits - 1)))
    )
    return low <= value < high


def _beside_float(value: Any, kind: pa.DataType) -> pa.Scalar:
    if isinstance(value, int) and float(pa.scalar(float(value), kind).as_py()) != value:
        return pa.scalar(float(value), pa.float64())
    return pa.scalar(float(value), kind)


def _beside_temporal(value: Any, kind: pa.DataType) -> pa.Scalar:
    if isinstance(value, str):
        if pa.types.is_date(kind):
            value = dt.date.fromisoformat(value) if len(value.strip()) <= 10 else dt.datetime.fromisoformat(value)
        elif pa.types.is_timestamp(kind):
            return _timestamp(value, kind)
        elif pa.types.is_time(kind):
            value = dt.time.fromisoformat(value)
    if isinstance(value, dt.datetime):
        return pa.scalar(value)
    if isinstance(value, dt.date) and pa.types.is_timestamp(kind):
        return _timestamp(value.isoformat(), kind)
    return pa.scalar(value, kind) if pa.types.is_date(kind) and isinstance(value, dt.date) else pa.scalar(value)


def _timestamp(text: str, kind: pa.DataType) -> pa.Scalar:
    """A timestamp written as text: in the column's own zone unless the text has an offset."""
    zoned = text.rstrip().endswith(("Z", "z")) or "+" in text[10:] or "-" in text[10:]
    unit = "ns" if "." in text and len(text.split(".", 1)[1].rstrip("Zz")) > 6 else "us"
    if zoned:
        return pa.scalar(text).cast(pa.timestamp(unit, kind.tz or "UTC"))
    naive = pa.scalar(text).cast(pa.timestamp(unit))
    return naive if kind.tz is None else pc.assume_timezone(naive, kind.tz)
