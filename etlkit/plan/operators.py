"""Operators over typed operands: how each is lowered to pyarrow, by the table of ADR 0002.

Covers arithmetic, logic, comparison, ``isin``, ``cast``, ``fill_null`` and ``when``. Integer arithmetic is checked,
decimal arithmetic exact, floats follow IEEE 754 in arithmetic and one total order in comparison (NaN equals NaN and is
greater than every number, as in DuckDB, Polars and SQL). It does not cover functions reached through ``fn``, which do
what pyarrow documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from . import decimals, literals
from .canonical import is_arrow, resolve_type
from .decimals import Datum
from .expr import Call, Expr, Literal

if TYPE_CHECKING:
    from ..errors import PlanError
    from .binding import Bound

_is_decimal, _is_integer, _is_floating = pa.types.is_decimal, pa.types.is_integer, pa.types.is_floating
_SWAPPED = {"equal": "equal", "not_equal": "not_equal", "less": "greater", "less_equal": "greater_equal",
            "greater": "less", "greater_equal": "less_equal"}  # fmt: skip
_UNITS = ("s", "ms", "us", "ns")


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


def lower(binder: Binder, expr: Call) -> Operand:
    """The operand of an operator's call."""
    name = expr.name
    if name == "case_when":
        return _case_when(binder, expr)
    if name == "between":
        value, low, high = expr.arguments
        return binder.operand(Call("and", (Call("greater_equal", (value, low)), Call("less_equal", (value, high)))))
    if name in _SWAPPED:
        return _comparison(binder, expr)
    if name == "is_in":
        return _is_in(binder, expr)
    if name == "fill_null":
        left, right = _unified(binder, expr, list(expr.arguments))
        return binder.apply(expr, pc.coalesce, left, right)
    if name in ("add", "subtract", "multiply", "divide", "floor_divide", "modulo", "power", "and", "or", "xor"):
        left, right = _pair(binder, expr)
        return _BINARY[name](binder, expr, left, right)
    operand = binder.operand(expr.arguments[0])
    if name == "cast":
        return _cast(binder, expr, operand)
    if name == "is_nan":
        return binder.apply(expr, _is_nan, operand)
    if name == "invert":
        return binder.apply(expr, pc.invert if pa.types.is_boolean(operand.type) else pc.bit_wise_not, operand)
    unary: dict[str, Any] = {
        "negate": pc.negate_checked, "abs": pc.abs_checked, "is_null": pc.is_null, "is_not_null": pc.is_valid,
    }  # fmt: skip
    return binder.apply(expr, unary[name], operand)


# Operands of two


def _free(expr: Expr) -> bool:
    """Whether it is a literal whose type its neighbour decides."""
    return isinstance(expr, Literal) and expr.type is None


def _pair(binder: Binder, expr: Call) -> tuple[Operand, Operand]:
    """Both operands, a literal without a type suited to the other one."""
    left, right = expr.arguments
    if _free(left) and not _free(right):
        other = binder.operand(right)
        return _adapted(binder, left, other, expr), other
    if _free(right) and not _free(left):
        other = binder.operand(left)
        return other, _adapted(binder, right, other, expr)
    return binder.operand(left), binder.operand(right)


def _adapted(binder: Binder, literal: Expr, other: Operand, expr: Call) -> Operand:
    assert isinstance(literal, Literal)
    try:
        aligned = expr.name != "multiply"  # a factor keeps its own scale: the product's scale is their sum
        return binder.constant(literal, literals.adapt(literal.value, other.type, aligned=aligned))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise binder.wrong(expr, (other,), f"{literal} does not suit {other.type}: {error}") from error


def _converted(binder: Binder, operand: Operand, kind: pa.DataType) -> Operand:
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


def _common_integer(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if pa.types.is_unsigned_integer(left) == pa.types.is_unsigned_integer(right):
        return left if left.bit_width >= right.bit_width else right
    unsigned, signed = (left, right) if pa.types.is_unsigned_integer(left) else (right, left)
    bits = max(signed.bit_width, min(64, 2 * unsigned.bit_width))
    return {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _common_float(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    both_narrow = all(_is_floating(kind) and kind.bit_width <= 32 for kind in (left, right))
    return pa.float32() if both_narrow else pa.float64()


def _numbers(left: Operand, right: Operand) -> bool:
    return all(_is_integer(o.type) or _is_floating(o.type) or _is_decimal(o.type) for o in (left, right))


def _arithmetic(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    if pa.types.is_null(left.type) != pa.types.is_null(right.type):
        kind = right.type if pa.types.is_null(left.type) else left.type
        left, right = _converted(binder, left, kind), _converted(binder, right, kind)
    name = expr.name
    if not _numbers(left, right):
        if name == "add" and any(_is_text(o.type) for o in (left, right)):
            return binder.apply(expr, lambda a, b: pc.binary_join_element_wise(a, b, ""), left, right)
        checked = "modulo" if name == "modulo" else f"{name}_checked"
        return binder.apply(expr, lambda a, b: pc.call_function(checked, [a, b]), left, right)
    if _is_floating(left.type) or _is_floating(right.type):
        kind = _common_float(left.type, right.type)
        function = "modulo" if name == "modulo" else name
    elif _is_decimal(left.type) or _is_decimal(right.type):
        return _decimal_arithmetic(binder, expr, left, right)
    else:
        kind = _common_integer(left.type, right.type)
        function = "modulo" if name == "modulo" else f"{name}_checked"
    left, right = _converted(binder, left, kind), _converted(binder, right, kind)
    return binder.apply(expr, lambda a, b: pc.call_function(function, [a, b]), left, right)


def _decimal_arithmetic(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    left, right = (_converted(binder, o, decimals.decimal_of(o.type)) for o in (left, right))
    if expr.name == "modulo":
        kind = decimals.common_type(left.type, right.type)
        left, right = _converted(binder, left, kind), _converted(binder, right, kind)
        return binder.apply(expr, lambda a, b: decimals.relabel(pc.modulo(a, b), kind), left, right)
    try:
        rule = decimals.product_type if expr.name == "multiply" else decimals.sum_type
        kind = rule(left.type, right.type)
    except ValueError as error:
        raise binder.wrong(expr, (left, right), str(error)) from error
    return binder.apply(expr, lambda a, b: decimals.arithmetic(expr.name, a, b, kind), left, right)


def _divide(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    """``/`` of numbers is a float64, of integers and decimals too. By zero it is inf or NaN."""
    if not _numbers(left, right):
        return binder.apply(expr, pc.divide_checked, left, right)
    narrow = all(_is_floating(o.type) for o in (left, right))
    kind = _common_float(left.type, right.type) if narrow else pa.float64()
    left, right = _converted(binder, left, kind), _converted(binder, right, kind)
    return binder.apply(expr, pc.divide, left, right)


def _floor_divide(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    """``//`` rounds down, as in Python. Of integers and decimals by zero it is an error."""
    if _is_floating(left.type) or _is_floating(right.type):
        kind = _common_float(left.type, right.type)
        left, right = _converted(binder, left, kind), _converted(binder, right, kind)
        return binder.apply(expr, lambda a, b: pc.floor(pc.divide(a, b)), left, right)
    if not _numbers(left, right):
        raise binder.wrong(expr, (left, right), "// is for numbers")
    if _is_decimal(left.type) or _is_decimal(right.type):
        left, right = (_converted(binder, o, decimals.decimal_of(o.type)) for o in (left, right))
        kind = decimals.common_type(left.type, right.type)
        left, right = _converted(binder, left, kind), _converted(binder, right, kind)
        # At one scale, the quotient of the unscaled numbers is the quotient.
        return binder.apply(expr, lambda a, b: _floor_quotient(_unscaled(a), _unscaled(b)), left, right)
    kind = _common_integer(left.type, right.type)
    left, right = _converted(binder, left, kind), _converted(binder, right, kind)
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
    if not _numbers(left, right):
        raise binder.wrong(expr, (left, right), "** is for numbers")
    if _is_integer(left.type) and _is_integer(right.type):
        kind = _common_integer(left.type, right.type)
        left, right = _converted(binder, left, kind), _converted(binder, right, kind)
        return binder.apply(expr, pc.power_checked, left, right)
    left, right = _converted(binder, left, pa.float64()), _converted(binder, right, pa.float64())
    return binder.apply(expr, pc.power, left, right)


def _logic(binder: Binder, expr: Call, left: Operand, right: Operand) -> Operand:
    if _is_integer(left.type) and _is_integer(right.type):
        kind = _common_integer(left.type, right.type)
        left, right = _converted(binder, left, kind), _converted(binder, right, kind)
        return binder.apply(expr, getattr(pc, f"bit_wise_{expr.name}"), left, right)
    nulls = [pa.types.is_null(o.type) for o in (left, right)]
    if any(nulls):
        left, right = _converted(binder, left, pa.bool_()), _converted(binder, right, pa.bool_())
    functions = {"and": pc.and_kleene, "or": pc.or_kleene, "xor": pc.xor}
    return binder.apply(expr, functions[expr.name], left, right)


_BINARY: dict[str, Callable[[Any, Call, Operand, Operand], Operand]] = {
    "add": _arithmetic, "subtract": _arithmetic, "multiply": _arithmetic, "modulo": _arithmetic,
    "divide": _divide, "floor_divide": _floor_divide, "power": _power,
    "and": _logic, "or": _logic, "xor": _logic,
}  # fmt: skip


# Comparison


def _comparison(binder: Binder, expr: Call) -> Operand:
    left, right = expr.arguments
    if _free(left) and not _free(right):
        return _comparison(binder, Call(_SWAPPED[expr.name], (right, left)))
    if _free(right) and not _free(left):
        assert isinstance(right, Literal)
        value = binder.operand(left)
        number = isinstance(right.value, (int, float, Decimal)) and not isinstance(right.value, bool)
        if number and (_is_integer(value.type) or _is_decimal(value.type)):
            return _compare_exactly(binder, expr, value, right.value)
    first, second = _pair(binder, expr)
    if pa.types.is_null(first.type) != pa.types.is_null(second.type):
        kind = second.type if pa.types.is_null(first.type) else first.type
        first, second = _converted(binder, first, kind), _converted(binder, second, kind)
    if all(pa.types.is_timestamp(o.type) for o in (first, second)) and (first.type.tz is None) != (second.type.tz is None):
        raise binder.wrong(expr, (first, second), "one has a time zone, the other has none")
    if _numbers(first, second):
        if _is_floating(first.type) or _is_floating(second.type):
            kind = _common_float(first.type, second.type)
            first, second = _converted(binder, first, kind), _converted(binder, second, kind)
            return binder.apply(expr, lambda a, b: _total_order(expr.name, a, b), first, second)
        if first.type != second.type:
            kind = _comparable(first.type, second.type)
            first, second = _converted(binder, first, kind), _converted(binder, second, kind)
    return binder.apply(expr, getattr(pc, expr.name), first, second)


def _comparable(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """A type in which both kinds of exact numbers can be compared whatever their values."""
    if _is_integer(left) and _is_integer(right):
        mixed = pa.types.is_unsigned_integer(left) != pa.types.is_unsigned_integer(right)
        if not (mixed and "uint64" in (str(left), str(right))):
            return _common_integer(left, right)
    first, second = decimals.decimal_of(left), decimals.decimal_of(right)
    scale = max(first.scale, second.scale)
    digits = max(first.precision - first.scale, second.precision - second.scale) + scale
    return decimals.made(digits, scale, digits > 38 or pa.types.is_decimal256(first) or pa.types.is_decimal256(second))


def _total_order(name: str, left: Datum, right: Datum) -> Datum:
    if name in ("less", "less_equal"):
        if isinstance(right, pa.Scalar) and right.is_valid and not math.isnan(right.as_py()):
            return pc.call_function(name, [left, right])  # NaN is never less than a number: IEEE says so too
        name, left, right = _SWAPPED[name], right, left
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


def _is_in(binder: Binder, expr: Call) -> Operand:
    operand = binder.operand(expr.arguments[0])
    given = dict(expr.options)["values"].values
    kind = operand.type
    if pa.types.is_null(kind):
        kind = pa.bool_()
        operand = _converted(binder, operand, kind)
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


# Types that meet in one column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds the values of both, or None."""
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    exact = [_is_integer(kind) or _is_decimal(kind) for kind in (left, right)]
    if all(exact):
        if _is_integer(left) and _is_integer(right):
            return _comparable(left, right)
        return decimals.common_type(decimals.decimal_of(left), decimals.decimal_of(right))
    if all(either or _is_floating(kind) for either, kind in zip(exact, (left, right), strict=True)):
        return _common_float(left, right)
    if _is_text(left) and _is_text(right):
        return pa.large_string()
    if pa.types.is_timestamp(left) and pa.types.is_timestamp(right) and left.tz == right.tz:
        return pa.timestamp(max(left.unit, right.unit, key=_UNITS.index), left.tz)
    dates = [pa.types.is_date(kind) for kind in (left, right)]
    if all(dates):
        return pa.date32()
    if any(dates):
        other = right if dates[0] else left
        return other if pa.types.is_timestamp(other) and other.tz is None else None
    return None


def _unified(binder: Binder, expr: Call, parts: list[Expr]) -> list[Operand]:
    """All operands in their common type; literals without a type adapt to the others."""
    operands = {index: binder.operand(part) for index, part in enumerate(parts) if not _free(part)}
    kind = _fold_types(binder, expr, list(operands.values()))
    for index, part in enumerate(parts):
        if index not in operands:
            assert isinstance(part, Literal)
            typed = kind is not None and not pa.types.is_null(kind)
            anchor = Operand(-1, pa.array([], kind), expr) if typed else None
            operands[index] = _adapted(binder, part, anchor, expr) if anchor else binder.operand(part)
    kind = _fold_types(binder, expr, [operands[index] for index in range(len(parts))])
    return [_converted(binder, operands[index], kind) for index in range(len(parts))]


def _fold_types(binder: Binder, expr: Call, operands: list[Operand]) -> pa.DataType | None:
    kind: pa.DataType | None = None
    for operand in operands:
        met = operand.type if kind is None else common_type(kind, operand.type)
        if met is None:
            raise binder.wrong(expr, operands, f"{kind} and {operand.type} have no common type")
        kind = met
    return kind


def _cast(binder: Binder, expr: Call, operand: Operand) -> Operand:
    options = dict(expr.options)
    kind, safe = resolve_type(options["type"].given), bool(options["safe"])
    if safe and _is_decimal(kind) and (_is_decimal(operand.type) or _is_integer(operand.type)):
        # Integers go through the decimal that holds them all, which pyarrow would demand of the author.
        first = decimals.decimal_of(operand.type)
        return binder.apply(expr, lambda v: decimals.rescale(v if v.type == first else v.cast(first), kind), operand)
    return binder.apply(expr, lambda value: pc.cast(value, kind, safe=safe), operand)


def _is_nan(value: Datum) -> Datum:
    if _is_floating(value.type):
        return pc.is_nan(value)
    if not (_is_integer(value.type) or _is_decimal(value.type) or pa.types.is_null(value.type)):
        raise TypeError(f"{value.type} has no NaN")
    return pc.if_else(pc.is_valid(value), pa.scalar(False), pa.scalar(None, pa.bool_()))


# when, then, otherwise


def _case_when(binder: Binder, expr: Call) -> Operand:
    """Every branch is computed for every row, which is fast, unless one fails: then each only where it is asked for."""
    *pairs, otherwise = expr.arguments
    inner = binder.inner()
    tests = [inner.operand(condition) for condition in pairs[0::2]]
    for test in tests:
        if not (pa.types.is_boolean(test.type) or pa.types.is_null(test.type)):
            raise binder.wrong(expr, (test,), f"{test.expr} is not a condition")
    tests = [_converted(inner, test, pa.bool_()) for test in tests]
    values = _unified(inner, expr, [*pairs[1::2], otherwise])
    conditions = [inner.bound(test) for test in tests]
    branches = [inner.bound(value) for value in values]

    def choose(batch: pa.RecordBatch) -> Datum:
        try:
            found = [broadcast(condition.run(batch), batch.num_rows) for condition in conditions]
            options = [branch.run(batch) for branch in branches]
        except StepError:
            return _choose_row_by_row(batch, conditions, branches)
        return pc.case_when(pc.make_struct(*found), *options)

    return binder.apply_to_batch(expr, choose, pa.array([], values[0].type))


def _choose_row_by_row(batch: pa.RecordBatch, conditions: list[Bound], branches: list[Bound]) -> pa.Array:
    """Each condition only for the rows that no earlier one took, each branch only for its own rows."""
    rows = pa.array(range(batch.num_rows), pa.int64())
    places, pieces = [], []
    for condition, branch in zip(conditions, branches, strict=False):
        mask = pc.fill_null(broadcast(condition.run(batch), batch.num_rows), False)
        chosen = batch.filter(mask)
        places.append(rows.filter(mask))
        pieces.append(broadcast(branch.run(chosen), chosen.num_rows))
        rows, batch = rows.filter(pc.invert(mask)), batch.filter(pc.invert(mask))
    places.append(rows)
    pieces.append(broadcast(branches[-1].run(batch), batch.num_rows))
    return pa.concat_arrays(pieces).take(pc.sort_indices(pa.concat_arrays(places)))


def broadcast(value: Datum, rows: int) -> pa.Array:
    """A scalar repeated, an array as it is."""
    return pa.repeat(value, rows) if isinstance(value, pa.Scalar) else value
