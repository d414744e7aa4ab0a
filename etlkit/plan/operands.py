"""Operands: a value in a program, with its type, and how two of them come to one type.

Covers what all operators share: literals that take their neighbour's type, conversions, and the common type of branches.
What is computed from operands is in ``arithmetic.py``, ``comparison.py`` and ``operators.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ..lazyclass import dataclass
from . import decimals, literals
from .decimals import Datum
from .expr import Call, Expr, Literal

if TYPE_CHECKING:
    from ..errors import PlanError
    from .binding import Bound

_is_decimal, _is_integer, _is_floating = pa.types.is_decimal, pa.types.is_integer, pa.types.is_floating
UNITS = ("s", "ms", "us", "ns")


class StepError(Exception):
    """A step failed on the values of a batch. ``binding.py`` turns it into an ``InputError``."""

    def __init__(self, expr: Expr, error: Exception) -> None:
        super().__init__(str(error))
        self.expr = expr
        self.error = error


@dataclass(frozen=True, slots=True)
class Operand:
    """A register, with its result on no rows (or the scalar that it is) and the expression that it stands for."""

    register: int
    sample: Datum
    expr: Expr

    @property
    def type(self) -> pa.DataType:
        return self.sample.type


class Binder(Protocol):
    """What lowering needs of ``binding.py``."""

    def operand(self, expr: Expr) -> Operand: ...

    def apply(self, expr: Expr, run: Callable[..., Datum], *inputs: Operand) -> Operand: ...

    def apply_to_batch(self, expr: Expr, run: Callable[..., Datum], sample: Datum) -> Operand: ...

    def constant(self, expr: Expr, value: pa.Scalar) -> Operand: ...

    def inner(self) -> Binder: ...

    def bound(self, operand: Operand) -> Bound: ...

    def wrong(self, expr: Expr, inputs: Sequence[Operand], why: str) -> PlanError: ...


def decoder(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """What makes a column of ``kind`` fit for kernels: dictionaries decoded, views copied, half floats widened."""
    if pa.types.is_dictionary(kind):
        return lambda array: array.dictionary_decode()
    if pa.types.is_string_view(kind):
        return lambda array: array.cast(pa.string())
    if pa.types.is_binary_view(kind):
        return lambda array: array.cast(pa.binary())
    if pa.types.is_float16(kind):
        return lambda array: array.cast(pa.float32())
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return lambda array: array.cast(decimals.decimal_of(kind))
    return lambda array: array


def free(expr: Expr) -> bool:
    """Whether it is a literal whose type its neighbour decides."""
    return isinstance(expr, Literal) and expr.type is None


def pair(binder: Binder, expr: Call) -> tuple[Operand, Operand]:
    """Both operands, a literal without a type suited to the other one."""
    left, right = expr.arguments
    if free(left) and not free(right):
        other = binder.operand(right)
        return adapted(binder, left, other, expr), other
    if free(right) and not free(left):
        other = binder.operand(left)
        return other, adapted(binder, right, other, expr)
    return binder.operand(left), binder.operand(right)


def adapted(binder: Binder, literal: Expr, other: Operand, expr: Call) -> Operand:
    assert isinstance(literal, Literal)
    try:
        aligned = expr.name != "multiply"  # a factor keeps its own scale: the product's scale is their sum
        return binder.constant(literal, literals.adapt(literal.value, other.type, aligned=aligned))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise binder.wrong(expr, (other,), f"{literal} does not suit {other.type}: {error}") from error


def converted(binder: Binder, operand: Operand, kind: pa.DataType) -> Operand:
    """``operand`` as ``kind``, checked; only towards floats may digits be lost."""
    if operand.type == kind:
        return operand
    if _is_decimal(kind) and _is_decimal(operand.type):
        return binder.apply(operand.expr, lambda value: decimals.rescale(value, kind), operand)
    if _is_decimal(kind) and _is_integer(operand.type):
        first = decimals.decimal_of(operand.type)
        return binder.apply(operand.expr, lambda value: decimals.rescale(value.cast(first), kind), operand)
    safe = not _is_floating(kind)
    return binder.apply(operand.expr, lambda value: pc.cast(value, kind, safe=safe), operand)


def numbers(left: Operand, right: Operand) -> bool:
    return all(_is_integer(o.type) or _is_floating(o.type) or _is_decimal(o.type) for o in (left, right))


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def common_integer(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if pa.types.is_unsigned_integer(left) == pa.types.is_unsigned_integer(right):
        return left if left.bit_width >= right.bit_width else right
    unsigned, signed = (left, right) if pa.types.is_unsigned_integer(left) else (right, left)
    bits = max(signed.bit_width, min(64, 2 * unsigned.bit_width))
    return {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def common_float(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    both_narrow = all(_is_floating(kind) and kind.bit_width <= 32 for kind in (left, right))
    return pa.float32() if both_narrow else pa.float64()


def comparable(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """A type in which both kinds of exact numbers can be compared whatever their values."""
    if _is_integer(left) and _is_integer(right):
        mixed = pa.types.is_unsigned_integer(left) != pa.types.is_unsigned_integer(right)
        if not (mixed and "uint64" in (str(left), str(right))):
            return common_integer(left, right)
    first, second = decimals.decimal_of(left), decimals.decimal_of(right)
    scale = max(first.scale, second.scale)
    digits = max(first.precision - first.scale, second.precision - second.scale) + scale
    return decimals.made(digits, scale, digits > 38 or pa.types.is_decimal256(first) or pa.types.is_decimal256(second))


def common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds the values of both, or None."""
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    exact = [_is_integer(kind) or _is_decimal(kind) for kind in (left, right)]
    if all(exact):
        if _is_integer(left) and _is_integer(right):
            return comparable(left, right)
        return decimals.common_type(decimals.decimal_of(left), decimals.decimal_of(right))
    if all(either or _is_floating(kind) for either, kind in zip(exact, (left, right), strict=True)):
        return common_float(left, right)
    if is_text(left) and is_text(right):
        return pa.large_string()
    if pa.types.is_timestamp(left) and pa.types.is_timestamp(right) and left.tz == right.tz:
        return pa.timestamp(max(left.unit, right.unit, key=UNITS.index), left.tz)
    dates = [pa.types.is_date(kind) for kind in (left, right)]
    if all(dates):
        return pa.date32()
    if any(dates):
        other = right if dates[0] else left
        return other if pa.types.is_timestamp(other) and other.tz is None else None
    return None


def unified(binder: Binder, expr: Call, parts: list[Expr]) -> list[Operand]:
    """All operands in their common type; literals without a type adapt to the others."""
    operands = {index: binder.operand(part) for index, part in enumerate(parts) if not free(part)}
    kind = _fold_types(binder, expr, list(operands.values()))
    for index, part in enumerate(parts):
        if index not in operands:
            assert isinstance(part, Literal)
            typed = kind is not None and not pa.types.is_null(kind)
            anchor = Operand(-1, pa.nulls(0, kind), expr) if typed else None
            operands[index] = adapted(binder, part, anchor, expr) if anchor else binder.operand(part)
    kind = _fold_types(binder, expr, [operands[index] for index in range(len(parts))])
    return [converted(binder, operands[index], kind) for index in range(len(parts))]


def _fold_types(binder: Binder, expr: Call, operands: list[Operand]) -> pa.DataType | None:
    kind: pa.DataType | None = None
    for operand in operands:
        met = operand.type if kind is None else common_type(kind, operand.type)
        if met is None:
            raise binder.wrong(expr, operands, f"{kind} and {operand.type} have no common type")
        kind = met
    return kind


def broadcast(value: Datum, rows: int) -> pa.Array:
    """A scalar repeated, an array as it is."""
    return pa.repeat(value, rows) if isinstance(value, pa.Scalar) else value
