"""Decimals as the whole numbers that they are stored as: arithmetic and comparison in int64.

A decimal of at most 18 digits is an int64 and a scale. Sums, differences and products of such values are computed by checked
int64 kernels, four to eight times as fast as decimal128's; a value that leaves int64 raises ``ArrowInvalid``, and the caller
computes the batch again as decimals. So the result is always the same number.

It does not cover division, casts and functions: what holds one of those stays a decimal (``decimals.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from . import decimals, literals
from .canonical import is_arrow
from .comparison import SWAPPED
from .decimals import Datum
from .expr import Call, Column, Expr, Literal

_WHOLE = pa.int64()
_MOST_DIGITS = 18


class Builder(Protocol):
    """What collects the steps: ``binding._Binder``."""

    def type_of(self, expr: Expr) -> pa.DataType: ...

    def plain(self, expr: Expr) -> int:
        """The register of an expression computed as always."""
        ...

    def column(self, expr: Column, run: Callable[[pa.Array], pa.Array], kind: pa.DataType) -> int: ...

    def step(self, expr: Expr, run: Callable[..., Datum], kind: pa.DataType, *inputs: int) -> int: ...


class Unscaled:
    """Lowers expressions on one builder. A branch that occurs twice is computed once."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._known: dict[bytes, tuple[int, int] | None] = {}
        self.used = False
        """Whether a comparison was done on whole numbers."""

    def number(self, expr: Expr) -> tuple[int, int] | None:
        """(register, scale) of a decimal or an integer as int64; None if it cannot be had that way."""
        name = expr.canonical()
        if name not in self._known:
            self._known[name] = self._number(expr)
        return self._known[name]

    def condition(self, expr: Expr) -> int:
        """The register of a boolean expression, with every comparison of decimals in it done on whole numbers."""
        if isinstance(expr, Call):
            if expr.name in SWAPPED:
                done = self._comparison(expr)
                return self._builder.plain(expr) if done is None else done
            sides = [self._builder.type_of(side) for side in expr.arguments]
            if expr.name in ("and", "or") and all(pa.types.is_boolean(kind) for kind in sides):
                run = pc.and_kleene if expr.name == "and" else pc.or_kleene
                return self._builder.step(expr, run, pa.bool_(), *(self.condition(side) for side in expr.arguments))
        return self._builder.plain(expr)

    def _number(self, expr: Expr) -> tuple[int, int] | None:
        kind = self._builder.type_of(expr)
        if isinstance(expr, Column):
            if pa.types.is_decimal(kind) and kind.precision <= decimals.NARROW_DIGITS:
                return self._builder.column(expr, decimals.narrow, _WHOLE), int(kind.scale)
            if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
                return self._builder.column(expr, lambda array: array.cast(_WHOLE), _WHOLE), 0
            return None
        if not isinstance(expr, Call) or expr.name not in ("add", "subtract", "multiply"):
            return None
        # Integers among themselves keep to their own types' bounds.
        if not pa.types.is_decimal(kind):
            return None
        left, right = expr.arguments
        run: Callable[..., Datum] = getattr(pc, f"{expr.name}_checked")
        for constant, other, first in ((left, right, True), (right, left, False)):
            value = _whole(constant)
            if value is not None:
                return self._with_constant(expr, run, value, other, first)
        one, two = self.number(left), self.number(right)
        if one is None or two is None:
            return None
        (a, a_scale), (b, b_scale) = one, two
        if expr.name == "multiply":
            return self._builder.step(expr, run, _WHOLE, a, b), a_scale + b_scale
        scale = max(a_scale, b_scale)
        if scale - min(a_scale, b_scale) > _MOST_DIGITS:
            return None
        a, b = self._scaled(left, a, scale - a_scale), self._scaled(right, b, scale - b_scale)
        return self._builder.step(expr, run, _WHOLE, a, b), scale

    def _with_constant(
        self, expr: Call, run: Callable[..., Datum], value: tuple[int, int], other: Expr, first: bool
    ) -> tuple[int, int] | None:
        side = self.number(other)
        if side is None:
            return None
        register, scale = side
        number, digits = value
        if expr.name == "multiply":
            made = scale + digits
        else:
            made = max(scale, digits)
            if made - min(scale, digits) > _MOST_DIGITS:
                return None
            number *= 10 ** (made - digits)
            register = self._scaled(other, register, made - scale)
        if not -(2**63) <= number < 2**63:
            return None
        scalar = pa.scalar(number, _WHOLE)
        done = (lambda array: run(scalar, array)) if first else (lambda array: run(array, scalar))
        return self._builder.step(expr, done, _WHOLE, register), made

    def _scaled(self, expr: Expr, register: int, digits: int) -> int:
        if not digits:
            return register
        factor = pa.scalar(10**digits, _WHOLE)
        return self._builder.step(expr, lambda array: pc.multiply_checked(array, factor), _WHOLE, register)

    def _comparison(self, expr: Call) -> int | None:
        left, right = expr.arguments
        name = expr.name
        if _whole(left) is not None:
            left, right, name = right, left, SWAPPED[name]
        run = getattr(pc, name)
        value = _whole(right)
        kinds = [self._builder.type_of(left)] + ([] if value is not None else [self._builder.type_of(right)])
        if not any(pa.types.is_decimal(kind) for kind in kinds):
            return None
        first = self.number(left)
        if first is None:
            return None
        register, scale = first
        if value is not None:
            number, digits = value
            if digits > scale or scale - digits > _MOST_DIGITS:
                return None  # between two values of the column: ``comparison`` knows what that means
            number *= 10 ** (scale - digits)
            if not -(2**63) <= number < 2**63:
                return None
            scalar = pa.scalar(number, _WHOLE)
            self.used = True
            return self._builder.step(expr, lambda array: run(array, scalar), pa.bool_(), register)
        second = self.number(right)
        if second is None or second[1] != scale:
            return None
        self.used = True
        return self._builder.step(expr, run, pa.bool_(), register, second[0])


def _whole(expr: Expr) -> tuple[int, int] | None:
    """A literal number as (unscaled, scale), without zeros at the end."""
    if not isinstance(expr, Literal) or expr.type is not None or is_arrow(expr.value):
        return None
    if isinstance(expr.value, bool) or not isinstance(expr.value, (int, float, Decimal)):
        return None
    exact = literals.exact_number(expr.value)
    if exact is None or not exact.is_finite():
        return None
    sign, digits, exponent = exact.as_tuple()
    assert isinstance(exponent, int)
    if abs(exponent) > 2 * _MOST_DIGITS or len(digits) > 2 * _MOST_DIGITS:
        return None
    number = int("".join(map(str, digits)))
    while exponent < 0 and number % 10 == 0:
        number, exponent = number // 10, exponent + 1
    if exponent > 0:
        number, exponent = number * 10**exponent, 0
    return (-number if sign else number), -exponent
