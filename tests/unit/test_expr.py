# ruff: noqa: SIM300 (what is reflected is the point)
"""Expressions as trees: building, printing, identity."""

from __future__ import annotations

import datetime as dt
import random
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from etlkit.errors import PlanError
from etlkit.plan import aggregates
from etlkit.plan.expr import Expr, col, fn, lit, when
from etlkit.plan.predicates import predicate_bounds

X, Y = col("x"), col("y")

DIFFERENT: list[Any] = [
    X, Y, col("x "), lit("x"), lit(b"x"), lit(1), lit(1.0), lit(True), lit(Decimal(1)), lit(Decimal("1.0")), lit(None),
    lit("1"), lit(float("nan")), lit(0.0), lit(-0.0), lit(dt.date(2024, 1, 1)), lit(dt.datetime(2024, 1, 1)),
    lit(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)), lit(dt.timedelta(1)), lit(dt.time(1)), lit([1, 2]), lit([2, 1]), lit([12]),
    lit([[1], 2]), lit([]), lit(1, "int8"), lit(1, "int16"), lit(pa.scalar(1, pa.int8())), lit(pa.scalar(None, pa.int8())),
    lit(pa.array([1, 2])), lit(pa.array([1, 2], pa.int8())), lit(pa.scalar(1, pa.timestamp("ns"))),
    lit(pa.scalar(2, pa.timestamp("ns"))), lit(pa.scalar(1, pa.timestamp("us"))),
    X + 1, 1 + X, X - 1, 1 - X, X * 2, X / 2, 2 / X, X // 2, X % 2, X**2, 2**X, -X, abs(X), ~X, X & Y, X | Y, X ^ Y,
    X == 1, X != 1, X < 1, X <= 1, X > 1, X >= 1, X == None, X + (Y + 1), (X + Y) + 1,  # noqa: E711
    X.is_null(), X.is_not_null(), X.is_nan(), X.fill_null(0), X.between(1, 2), X.isin([1]), X.isin([1, 2]), X.isin(["1"]),
    X.isin([None]), X.isin([]), X.cast("int8"), X.cast("int8", safe=False), X.cast("timestamp[us]"),
    X.cast("timestamp[us, tz=UTC]"), X.cast(pa.decimal128(15, 2)), X.cast(pa.decimal128(15, 3)),
    X.cast(pa.list_(pa.int8())), X.cast(pa.list_(pa.field("item", pa.int8(), nullable=False))),
    X.cast(pa.struct([("a", pa.int8())])), X.cast(pa.struct([("b", pa.int8())])),
    X.cast(pa.dictionary(pa.int8(), pa.string())), X.cast(pa.dictionary(pa.int16(), pa.string())),
    fn.round(X), fn.round(X, ndigits=2), fn.round(X, ndigits=3), fn.floor(X), when(X > 1).then(1).otherwise(2),
    when(X > 1).then(1).when(Y > 1).then(2).otherwise(2),
]  # fmt: skip


def test_different_trees_have_different_identities() -> None:
    seen: dict[bytes, Expr] = {}
    for expr in DIFFERENT:
        assert expr.canonical() not in seen, f"{expr} and {seen[expr.canonical()]}"
        seen[expr.canonical()] = expr


def test_thousand_value_sets_are_told_apart_although_they_print_alike() -> None:
    values = list(range(1000))
    other = [*values[:-1], 5000]
    assert str(X.isin(values)) == str(X.isin(other))
    assert X.isin(values).canonical() != X.isin(other).canonical()
    random.Random(1).shuffle(values)
    assert X.isin(values).same(X.isin(range(1000)))
    assert X.isin({"a", "b"}).same(X.isin(["b", "a", "b"]))


def test_equal_trees_are_the_same_however_types_and_values_are_written() -> None:
    assert X.cast("decimal(15, 2)").same(X.cast(pa.decimal128(15, 2)))
    assert X.cast(int).same(X.cast("int64"))
    assert fn.round(X, ndigits=2).same(fn.round(X, ndigits=2))
    assert lit(float("nan")).same(lit(-float("nan")))
    assert not X.same("x")
    assert len({hash(X + 1), hash(X + 1)}) == 1


def test_identity_is_the_same_in_every_process() -> None:
    """Sets of strings come in another order in every process; the identity may not follow."""
    program = (
        "from etlkit.plan.expr import col, fn; import sys;"
        "sys.stdout.write(fn.round(col('x').isin({str(i) for i in range(99)}) & (col('y') < 1.5)).canonical().hex())"
    )
    seen = set()
    for seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, check=True,
        )  # fmt: skip
        seen.add(ran.stdout)
    assert len(seen) == 1


def test_importing_expressions_loads_no_pyarrow() -> None:
    program = (
        "import sys; from etlkit.plan.expr import *; from etlkit.plan import aggregates;"
        "str(1 - col('x').isin([1, 2])); aggregates.sum('x').canonical(); sys.exit('pyarrow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, check=True)


def test_expressions_print_as_they_are_written() -> None:
    assert str(X * (1 - Y)) == "x * (1 - y)"
    assert str(-(X + 1)) == "-(x + 1)"
    assert str(col("a b") == "c") == "col('a b') == 'c'"
    assert str(X.isin(["a"]) & ~Y) == "x.isin(['a']) & (~y)"
    assert str(fn.round(X, ndigits=2)) == "fn.round(x, ndigits=2)"
    assert str(X.cast("int8")) == "x.cast(int8)"
    assert str(aggregates.quantile("x", 0.25)) == "quantile(x, q=0.25)"


def test_columns_and_substitution() -> None:
    expr = when(X > 1).then(col("z")).otherwise(X * Y)
    assert expr.columns() == {"x", "y", "z"}
    swapped = (X - Y).substitute({"x": Y, "y": X})
    assert swapped.same(Y - X)
    assert aggregates.sum("x").substitute({"x": X * 2}) == aggregates.sum(X * 2)
    assert expr.substitute({"other": X}) is expr


def test_an_expression_has_no_truth_value_and_says_what_to_write() -> None:
    for wrong in (lambda: X > 1 and Y, lambda: 1 < X < 2, lambda: not X, lambda: 1 in X, lambda: list(X)):
        with pytest.raises(PlanError) as caught:
            wrong()
        assert "use" in caught.value.remedy


def test_values_that_cannot_be_part_of_an_expression() -> None:
    for wrong in (
        lambda: X + object(),
        lambda: lit(object()),
        lambda: X.isin("abc"),
        lambda: X.isin(5),
        lambda: col(5),
    ):
        with pytest.raises(PlanError):
            wrong()  # type: ignore[no-untyped-call]
    with pytest.raises(PlanError, match="without an end"):
        X + when(X > 1).then(1)
    with pytest.raises(PlanError):
        X.cast("int33").canonical()


def test_a_tree_that_shares_branches_stays_small() -> None:
    shared = X
    for _ in range(200):
        shared = shared + shared
    assert shared.columns() == {"x"}
    assert len(shared.canonical()) < 2000


def test_aggregates_are_equal_by_what_they_ask() -> None:
    assert aggregates.sum("x") == aggregates.sum(col("x"))
    assert len({aggregates.sum("x"), aggregates.sum(col("x")), aggregates.sum("y"), aggregates.count()}) == 3
    assert aggregates.stddev("x") != aggregates.stddev("x", 0)
    for wrong in (lambda: aggregates.quantile("x", 1.5), lambda: aggregates.variance("x", -1)):
        with pytest.raises(PlanError):
            wrong()


def test_predicate_bounds_are_the_simple_parts_of_a_conjunction() -> None:
    predicate = (X < 5) & (10 >= Y) & (X.isin([1, 2]) & Y.between(1, 2)) & ((X == 1) | (Y == 2)) & col("z").is_null()
    assert predicate_bounds(predicate) == [
        ("x", "less", 5), ("y", "less_equal", 10), ("x", "is_in", (1, 2)), ("y", "greater_equal", 1), ("y", "less_equal", 2),
        ("z", "is_null", None),
    ]  # fmt: skip
    nothing = [X + 1 < 5, X != 1, ~(X < 5), X.isin([1, None]), X < float("nan"), X == None, X < Y, X == lit(1, "int8")]  # noqa: E711
    for expr in nothing:
        assert predicate_bounds(expr) == [], str(expr)
