"""Comparison and membership, by the table of ADR 0002: numbers by their exact value, floats in one total order.

NaN equals NaN and is greater than every number, as in DuckDB, Polars and PostgreSQL. A column of integers or decimals is
never converted to be compared with a literal: the literal is, or the answer is known without looking.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from . import literals
from .canonical import is_arrow
from .decimals import Datum
from .expr import Call, Literal
from .operands import UNITS, Binder, Operand, common_float, comparable, converted, free, numbers, pair

_is_decimal, _is_integer, _is_floating = pa.types.is_decimal, pa.types.is_integer, pa.types.is_floating
SWAPPED = {"equal": "equal", "not_equal": "not_equal", "less": "greater", "less_equal": "greater_equal",
            "greater": "less", "greater_equal": "less_equal"}  # fmt: skip


def comparison(binder: Binder, expr: Call) -> Operand:
    left, right = expr.arguments
    if free(left) and not free(right):
        return comparison(binder, Call(SWAPPED[expr.name], (right, left)))
    if free(right) and not free(left):
        assert isinstance(right, Literal)
        value = binder.operand(left)
        number = isinstance(right.value, (int, float, Decimal)) and not isinstance(right.value, bool)
        if number and (_is_integer(value.type) or _is_decimal(value.type)):
            return _compare_exactly(binder, expr, value, right.value)
    first, second = pair(binder, expr)
    if pa.types.is_null(first.type) != pa.types.is_null(second.type):
        kind = second.type if pa.types.is_null(first.type) else first.type
        first, second = converted(binder, first, kind), converted(binder, second, kind)
    if all(pa.types.is_timestamp(o.type) for o in (first, second)) and (first.type.tz is None) != (
        second.type.tz is None
    ):
        raise binder.wrong(expr, (first, second), "one has a time zone, the other has none")
    if all(pa.types.is_timestamp(o.type) for o in (first, second)) and first.type != second.type:
        # The same instants, whatever their zone and unit.
        unit = max(first.type.unit, second.type.unit, key=UNITS.index)
        first, second = (converted(binder, o, pa.timestamp(unit, first.type.tz)) for o in (first, second))
    if numbers(first, second):
        if _is_floating(first.type) or _is_floating(second.type):
            kind = common_float(first.type, second.type)
            first, second = converted(binder, first, kind), converted(binder, second, kind)
            return binder.apply(expr, lambda a, b: _total_order(expr.name, a, b), first, second)
        if first.type != second.type:
            kind = comparable(first.type, second.type)
            first, second = converted(binder, first, kind), converted(binder, second, kind)
    return binder.apply(expr, getattr(pc, expr.name), first, second)


def _total_order(name: str, left: Datum, right: Datum) -> Datum:
    if name in ("less", "less_equal"):
        if isinstance(right, pa.Scalar) and right.is_valid and not math.isnan(right.as_py()):
            return pc.call_function(name, [left, right])  # NaN is never less than a number: IEEE says so too
        name, left, right = SWAPPED[name], right, left
    if name == "not_equal":
        return pc.invert(_total_order("equal", left, right))
    plain = pc.call_function(name, [left, right])
    if name == "equal":
        return pc.or_(plain, pc.and_(pc.is_nan(left), pc.is_nan(right)))
    if name == "greater_equal":
        # With a null on the right, `plain` is null and stays so.
        return pc.or_(plain, pc.is_nan(left))
    return pc.or_(plain, pc.and_(pc.is_nan(left), pc.invert(pc.is_nan(right))))


def _compare_exactly(binder: Binder, expr: Call, value: Operand, number: Any) -> Operand:
    """A column of integers or decimals with any number, by its exact value: the column is never converted."""
    kind, name = value.type, expr.name
    scale = kind.scale if _is_decimal(kind) else 0
    low, high = _range(kind)
    if isinstance(number, float) and not math.isfinite(number):
        floor, whole = (low - 1, False) if number == -math.inf else (high, False)
    else:
        exact = literals.exact_number(number)
        exact = Decimal(number) if exact is None else exact
        floor, whole = _floor_scaled(exact, scale)
    if floor < low or floor >= high + (1 if not whole else 0) or (whole and floor > high):
        above = floor >= high
        truth = {"equal": False, "not_equal": True, "less": above, "less_equal": above,
                 "greater": not above, "greater_equal": not above}[name]  # fmt: skip
        return _constant_truth(binder, expr, value, truth)
    if not whole:
        if name in ("equal", "not_equal"):
            return _constant_truth(binder, expr, value, name == "not_equal")
        name = {"less": "less_equal", "greater_equal": "greater"}.get(name, name)
    if _is_decimal(kind):
        with localcontext() as exactly:
            exactly.prec = 80
            scalar = pa.scalar(Decimal(floor).scaleb(-scale), kind)
    else:
        scalar = pa.scalar(floor, kind)
    constant = binder.constant(expr.arguments[1], scalar)
    return binder.apply(expr, getattr(pc, name), value, constant)


def _range(kind: pa.DataType) -> tuple[int, int]:
    """The smallest and the largest unscaled number of an integer or decimal type."""
    if _is_decimal(kind):
        return -(10**kind.precision - 1), 10**kind.precision - 1
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1


def _floor_scaled(number: Decimal, scale: int) -> tuple[int, bool]:
    """``number`` times ten to the ``scale``, rounded down, and whether that was exact."""
    with localcontext() as exactly:
        exactly.prec = 1200  # more than any float has
        scaled = number.scaleb(scale)
        floor = scaled.to_integral_value(ROUND_FLOOR)
        return int(floor), floor == scaled


def _constant_truth(binder: Binder, expr: Call, value: Operand, truth: bool) -> Operand:
    answer = pa.scalar(truth)
    unknown = pa.scalar(None, pa.bool_())
    return binder.apply(expr, lambda array: pc.if_else(pc.is_valid(array), answer, unknown), value)


def is_in(binder: Binder, expr: Call) -> Operand:
    operand = binder.operand(expr.arguments[0])
    given = dict(expr.options)["values"].values
    kind = operand.type
    if pa.types.is_null(kind):
        kind = pa.bool_()
        operand = converted(binder, operand, kind)
    with_null = any(value is None or (is_arrow(value) and not value.is_valid) for value in given)
    try:
        listed = [value for value in (_member(value, kind) for value in given) if value is not None]
        values = (
            pa.array([v.as_py() for v in listed], kind) if not pa.types.is_timestamp(kind) else _scalars(listed, kind)
        )
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise binder.wrong(expr, (operand,), str(error)) from error

    def member(array: Datum) -> Datum:
        found = pc.is_in(array, value_set=values)
        return pc.if_else(pc.is_valid(array), found, pa.scalar(True if with_null else None, pa.bool_()))

    return binder.apply(expr, member, operand)


def _scalars(listed: list[pa.Scalar], kind: pa.DataType) -> pa.Array:
    return pa.array([scalar.value for scalar in listed], pa.int64()).cast(kind)


def _member(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    """One value of an ``isin`` as ``kind``; None if no value of that type can equal it."""
    if is_arrow(value):
        value = value.as_py() if _is_integer(kind) or _is_decimal(kind) or _is_floating(kind) else value
    if value is None or (is_arrow(value) and not value.is_valid):
        return None
    number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if number and (_is_integer(kind) or _is_decimal(kind)):
        if isinstance(value, float) and not math.isfinite(value):
            return None
        exact = literals.exact_number(value)
        scale = kind.scale if _is_decimal(kind) else 0
        floor, whole = _floor_scaled(Decimal(value) if exact is None else exact, scale)
        low, high = _range(kind)
        if not whole or not low <= floor <= high:
            return None
        return pa.scalar(exact if _is_decimal(kind) else floor, kind)
    scalar = value if is_arrow(value) else literals.adapt(value, kind)
    return scalar.cast(kind)


def is_nan(value: Datum) -> Datum:
    if _is_floating(value.type):
        return pc.is_nan(value)
    if not (_is_integer(value.type) or _is_decimal(value.type) or pa.types.is_null(value.type)):
        raise TypeError(f"{value.type} has no NaN")
    return pc.if_else(pc.is_valid(value), pa.scalar(False), pa.scalar(None, pa.bool_()))
