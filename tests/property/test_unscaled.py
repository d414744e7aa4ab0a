"""Decimals computed as whole numbers give what decimals give: the same values, nulls and errors, at every size."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import etlkit as ek
from etlkit.errors import InputError
from etlkit.plan.binding import bind

KINDS = {"a": (15, 2), "b": (18, 0), "c": (9, 9), "d": (18, 4)}
COLUMNS = st.sampled_from([ek.col(name) for name in (*KINDS, "i")])
NUMBERS = st.one_of(
    st.integers(-(10**4), 10**4), st.decimals(-(10**6), 10**6, places=3), st.sampled_from([0, 1, 0.05, 10**17])
)


def _arithmetic(inner: st.SearchStrategy) -> st.SearchStrategy:
    both = st.tuples(st.sampled_from("+-*"), inner, st.one_of(inner, NUMBERS), st.booleans())
    return both.map(lambda t: _applied(t[0], *((t[2], t[1]) if t[3] else (t[1], t[2]))))


def _applied(sign: str, left: object, right: object) -> object:
    return {"+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right}[sign]()  # type: ignore[operator]


EXPRESSIONS = st.recursive(COLUMNS, _arithmetic, max_leaves=4)
CONDITIONS = st.tuples(
    st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), EXPRESSIONS, st.one_of(EXPRESSIONS, NUMBERS)
).map(
    lambda t: {
        "<": t[1] < t[2],
        "<=": t[1] <= t[2],
        "==": t[1] == t[2],
        "!=": t[1] != t[2],
        ">": t[1] > t[2],
        ">=": t[1] >= t[2],
    }[t[0]]
)


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    rows = draw(st.integers(0, 5))
    arrays = []
    for precision, scale in KINDS.values():
        most = 10 ** draw(st.sampled_from([1, 3, precision])) - 1
        whole = st.one_of(st.none(), st.integers(-most, most), st.sampled_from([0, most, -most]))
        values = [
            None if n is None else Decimal(n).scaleb(-scale)
            for n in draw(st.lists(whole, min_size=rows, max_size=rows))
        ]
        arrays.append(pa.array(values, pa.decimal128(precision, scale)))
    arrays.append(pa.array(draw(st.lists(st.integers(-100, 100), min_size=rows, max_size=rows)), pa.int32()))
    return pa.RecordBatch.from_arrays(arrays, names=[*KINDS, "i"])


def _outcome(bound: object, batch: pa.RecordBatch) -> object:
    try:
        return bound.evaluate(batch).to_pylist()  # type: ignore[attr-defined]
    except InputError:
        return "refused"


@given(st.one_of(EXPRESSIONS, CONDITIONS), batches())
def test_the_short_way_is_the_long_way(expr: ek.Expr, batch: pa.RecordBatch) -> None:
    try:
        bound = bind(expr, batch.schema)
    except ek.PlanError:
        return
    assert _outcome(bound, batch) == _outcome(replace(bound, short=None), batch)
    assert bound.evaluate(batch).type == bound.type if _outcome(bound, batch) != "refused" else True


def test_products_and_comparisons_take_the_short_way() -> None:
    schema = pa.schema([pa.field(name, pa.decimal128(*kind)) for name, kind in KINDS.items()])
    for expr in (ek.col("a") * (1 - ek.col("a")), ek.col("a") < 40, (ek.col("a") < 4) & (ek.col("b") >= 1)):
        assert bind(expr, schema).short is not None, expr
    for expr in (ek.col("a") / 3, ek.col("a").cast("int64") + 1):
        assert bind(expr, schema).short is None, expr


@pytest.mark.parametrize("value", [10**18 - 1, -(10**18) + 1])
def test_what_leaves_int64_is_computed_as_decimals(value: int) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([Decimal(value)], pa.decimal128(18, 0))], names=["b"])
    assert bind(ek.col("b") * ek.col("b"), batch.schema).evaluate(batch).to_pylist() == [Decimal(value * value)]
