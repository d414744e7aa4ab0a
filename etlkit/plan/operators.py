"""Operators over typed operands: which function lowers each, and those of one operand, ``cast`` and ``when``.

The table is ADR 0002. It does not cover functions reached through ``fn``, which do what pyarrow documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from . import decimals
from .arithmetic import BINARY
from .canonical import resolve_type
from .comparison import SWAPPED, comparison, is_in, is_nan
from .decimals import Datum
from .expr import Call
from .operands import Binder, Operand, StepError, broadcast, converted, pair, unified

if TYPE_CHECKING:
    from .binding import Bound

_is_decimal, _is_integer = pa.types.is_decimal, pa.types.is_integer


def lower(binder: Binder, expr: Call) -> Operand:
    """The operand of an operator's call."""
    name = expr.name
    if name == "case_when":
        return _case_when(binder, expr)
    if name == "between":
        value, low, high = expr.arguments
        return binder.operand(Call("and", (Call("greater_equal", (value, low)), Call("less_equal", (value, high)))))
    if name in SWAPPED:
        return comparison(binder, expr)
    if name == "is_in":
        return is_in(binder, expr)
    if name == "fill_null":
        left, right = unified(binder, expr, list(expr.arguments))
        return binder.apply(expr, pc.coalesce, left, right)
    if name in ("add", "subtract", "multiply", "divide", "floor_divide", "modulo", "power", "and", "or", "xor"):
        left, right = pair(binder, expr)
        return BINARY[name](binder, expr, left, right)
    operand = binder.operand(expr.arguments[0])
    if name == "cast":
        return _cast(binder, expr, operand)
    if name == "is_nan":
        return binder.apply(expr, is_nan, operand)
    if name == "invert":
        return binder.apply(expr, pc.invert if pa.types.is_boolean(operand.type) else pc.bit_wise_not, operand)
    unary: dict[str, Any] = {
        "negate": pc.negate_checked, "abs": pc.abs_checked, "is_null": pc.is_null, "is_not_null": pc.is_valid,
    }  # fmt: skip
    return binder.apply(expr, unary[name], operand)


def _cast(binder: Binder, expr: Call, operand: Operand) -> Operand:
    options = dict(expr.options)
    kind, safe = resolve_type(options["type"].given), bool(options["safe"])
    if safe and _is_decimal(kind) and (_is_decimal(operand.type) or _is_integer(operand.type)):
        # Integers go through the decimal that holds them all, which pyarrow would demand of the author.
        first = decimals.decimal_of(operand.type)
        return binder.apply(expr, lambda v: decimals.rescale(v if v.type == first else v.cast(first), kind), operand)
    return binder.apply(expr, lambda value: pc.cast(value, kind, safe=safe), operand)


def _case_when(binder: Binder, expr: Call) -> Operand:
    """Every branch is computed for every row, which is fast, unless one fails: then each only where it is asked for."""
    *pairs, otherwise = expr.arguments
    inner = binder.inner()
    tests = [inner.operand(condition) for condition in pairs[0::2]]
    for test in tests:
        if not (pa.types.is_boolean(test.type) or pa.types.is_null(test.type)):
            raise binder.wrong(expr, (test,), f"{test.expr} is not a condition")
    tests = [converted(inner, test, pa.bool_()) for test in tests]
    values = unified(inner, expr, [*pairs[1::2], otherwise])
    conditions = [inner.bound(test) for test in tests]
    branches = [inner.bound(value) for value in values]

    def choose(batch: pa.RecordBatch) -> Datum:
        try:
            found = [broadcast(condition.run(batch), batch.num_rows) for condition in conditions]
            options = [branch.run(batch) for branch in branches]
        except StepError:
            return _choose_row_by_row(batch, conditions, branches)
        return pc.case_when(pc.make_struct(*found), *options)

    return binder.apply_to_batch(expr, choose, pa.nulls(0, values[0].type))


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
