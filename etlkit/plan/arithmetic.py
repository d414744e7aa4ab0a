"""Arithmetic and logic of two operands, by the table of ADR 0002.

Integers are checked, decimals exact, floats IEEE 754, booleans three-valued. It does not cover comparison
(``comparison.py``), nor the digits of decimals (``decimals.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from . import decimals
from .decimals import Datum
from .expr import Call
from .operands import Binder, Operand, common_float, common_integer, converted, is_text, numbers

_is_decimal, _is_integer, _is_floating = pa.types.is_decimal, pa.types.is_integer, pa.types.is_floating


def _arithmetic(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    if pa.types.is_null(left.type) != pa.types.is_null(right.type):
        kind = right.type if pa.types.is_null(left.type) else left.type
        left, right = converted(binder, left, kind), converted(binder, right, kind)
    name = expr.name
    if not numbers(left, right):
        if name == "add" and any(is_text(o.type) for o in (left, right)):
            return binder.apply(expr, lambda a, b: pc.binary_join_element_wise(a, b, ""), left, right)
        checked = "modulo" if name == "modulo" else f"{name}_checked"
        return binder.apply(expr, lambda a, b: pc.call_function(checked, [a, b]), left, right)
    if _is_floating(left.type) or _is_floating(right.type):
        kind = common_float(left.type, right.type)
        function = "modulo" if name == "modulo" else name
    elif _is_decimal(left.type) or _is_decimal(right.type):
        return _decimal_arithmetic(binder, expr, left, right)
    else:
        kind = common_integer(left.type, right.type)
        function = "modulo" if name == "modulo" else f"{name}_checked"
    left, right = converted(binder, left, kind), converted(binder, right, kind)
    return binder.apply(expr, lambda a, b: pc.call_function(function, [a, b]), left, right)


def _decimal_arithmetic(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    left, right = (converted(binder, o, decimals.decimal_of(o.type)) for o in (left, right))
    if expr.name == "modulo":
        kind = decimals.common_type(left.type, right.type)
        left, right = converted(binder, left, kind), converted(binder, right, kind)
        return binder.apply(expr, lambda a, b: decimals.relabel(pc.modulo(a, b), kind), left, right)
    try:
        rule = decimals.product_type if expr.name == "multiply" else decimals.sum_type
        kind = rule(left.type, right.type)
    except ValueError as error:
        raise binder.wrong(expr, (left, right), str(error)) from error
    return binder.apply(expr, lambda a, b: decimals.arithmetic(expr.name, a, b, kind), left, right)


def _divide(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    """``/`` of numbers is a float64, of integers and decimals too. By zero it is inf or NaN."""
    if not numbers(left, right):
        return binder.apply(expr, pc.divide_checked, left, right)
    narrow = all(_is_floating(o.type) for o in (left, right))
    kind = common_float(left.type, right.type) if narrow else pa.float64()
    left, right = converted(binder, left, kind), converted(binder, right, kind)
    return binder.apply(expr, pc.divide, left, right)


def _floor_divide(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    """``//`` rounds down, as in Python. Of integers and decimals by zero it is an error."""
    if _is_floating(left.type) or _is_floating(right.type):
        kind = common_float(left.type, right.type)
        left, right = converted(binder, left, kind), converted(binder, right, kind)
        return binder.apply(expr, lambda a, b: pc.floor(pc.divide(a, b)), left, right)
    if not numbers(left, right):
        raise binder.wrong(expr, (left, right), "// is for numbers")
    if _is_decimal(left.type) or _is_decimal(right.type):
        left, right = (converted(binder, o, decimals.decimal_of(o.type)) for o in (left, right))
        kind = decimals.common_type(left.type, right.type)
        left, right = converted(binder, left, kind), converted(binder, right, kind)
        # At one scale, the quotient of the unscaled numbers is the quotient.
        return binder.apply(expr, lambda a, b: _floor_quotient(_unscaled(a), _unscaled(b)), left, right)
    kind = common_integer(left.type, right.type)
    left, right = converted(binder, left, kind), converted(binder, right, kind)
    return binder.apply(expr, _floor_quotient, left, right)


def _unscaled(value: Datum) -> Datum:
    return (
        decimals.narrow(pa.array([value.as_py()], value.type))[0]
        if isinstance(value, pa.Scalar)
        else decimals.narrow(value)
    )


def _floor_quotient(left: Datum, right: Datum) -> Datum:
    quotient = pc.divide_checked(left, right)
    if pa.types.is_unsigned_integer(quotient.type):
        return quotient
    remainder = pc.remainder(left, right)
    zero = pa.scalar(0, quotient.type)
    down = pc.and_(pc.not_equal(remainder, zero), pc.xor(pc.less(remainder, zero), pc.less(right, zero)))
    return pc.subtract(quotient, down.cast(quotient.type))


def _power(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    if not numbers(left, right):
        raise binder.wrong(expr, (left, right), "** is for numbers")
    if _is_integer(left.type) and _is_integer(right.type):
        kind = common_integer(left.type, right.type)
        left, right = converted(binder, left, kind), converted(binder, right, kind)
        return binder.apply(expr, pc.power_checked, left, right)
    left, right = converted(binder, left, pa.float64()), converted(binder, right, pa.float64())
    return binder.apply(expr, pc.power, left, right)


def _logic(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    if _is_integer(left.type) and _is_integer(right.type):
        kind = common_integer(left.type, right.type)
        left, right = converted(binder, left, kind), converted(binder, right, kind)
        return binder.apply(expr, getattr(pc, f"bit_wise_{expr.name}"), left, right)
    nulls = [pa.types.is_null(o.type) for o in (left, right)]
    if any(nulls):
        left, right = converted(binder, left, pa.bool_()), converted(binder, right, pa.bool_())
    functions = {"and": pc.and_kleene, "or": pc.or_kleene, "xor": pc.xor}
    return binder.apply(expr, functions[expr.name], left, right)


BINARY: dict[str, Callable[[Binder, Call, Operand, Operand], Operand]] = {
    "add": _arithmetic, "subtract": _arithmetic, "multiply": _arithmetic, "modulo": _arithmetic,
    "divide": _divide, "floor_divide": _floor_divide, "power": _power,
    "and": _logic, "or": _logic, "xor": _logic,
}  # fmt: skip
