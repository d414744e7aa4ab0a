"""Random expressions over random rows, against DuckDB.

Covers what ADR 0002 decides as DuckDB does. Where it decides otherwise (floor division, the remainder of negatives,
``isin`` with nulls) the table's own test is ``tests/unit/test_expr_binding.py``.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etlkit.engine.aggregate import plan_aggregates
from etlkit.plan import aggregates as ek
from etlkit.plan.binding import bind
from etlkit.plan.expr import Expr, col, fn, lit, when

SCHEMA = pa.schema(
    {
        "i": pa.int32(), "j": pa.int64(), "u": pa.uint8(), "d": pa.decimal128(9, 2), "e": pa.decimal128(7, 4),
        "f": pa.float64(), "b": pa.bool_(), "s": pa.string(), "day": pa.date32(), "ts": pa.timestamp("us"),
    }
)  # fmt: skip
_HUNDREDTHS = st.integers(-(10**5), 10**5).map(lambda n: Decimal(n).scaleb(-2))
_TEN_THOUSANDTHS = st.integers(-(10**6), 10**6).map(lambda n: Decimal(n).scaleb(-4))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.integers(-300, 300),
    "j": st.integers(-1000, 1000),
    "u": st.integers(0, 255),
    "d": _HUNDREDTHS,
    "e": _TEN_THOUSANDTHS,
    "f": st.sampled_from([0.0, -0.0, 1.5, -2.25, 1e300, math.inf, -math.inf, math.nan])
    | st.integers(-99, 99).map(float),
    "b": st.booleans(),
    "s": st.text("abé ", max_size=3),
    "day": st.dates(dt.date(1950, 1, 1), dt.date(2050, 1, 1)),
    "ts": st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2050, 1, 1)),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), min_size=1, max_size=12
)


@dataclass(frozen=True)
class Pair:
    """The same in both languages."""

    expr: Expr
    sql: str


def column(names: str) -> st.SearchStrategy[Pair]:
    return st.sampled_from(names.split()).map(lambda name: Pair(col(name), f'"{name}"'))


def literal(values: st.SearchStrategy[Any], sql: Callable[[Any], str]) -> st.SearchStrategy[Pair]:
    return values.map(lambda value: Pair(lit(value), sql(value)))


def binary(
    operators: dict[str, str], left: st.SearchStrategy[Pair], right: st.SearchStrategy[Pair]
) -> st.SearchStrategy[Pair]:
    def build(name: str, a: Pair, b: Pair) -> Pair:
        made = {
            "+": a.expr + b.expr, "-": a.expr - b.expr, "*": a.expr * b.expr, "/": a.expr / b.expr, "<": a.expr < b.expr,
            "<=": a.expr <= b.expr, ">": a.expr > b.expr, ">=": a.expr >= b.expr, "==": a.expr == b.expr, "!=": a.expr != b.expr,
        }  # fmt: skip
        return Pair(made[name], f"({a.sql} {operators[name]} {b.sql})")

    return st.builds(build, st.sampled_from(sorted(operators)), left, right)


ARITHMETIC = {"+": "+", "-": "-", "*": "*"}
COMPARISON = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "==": "=", "!=": "<>"}
WHOLE = literal(st.integers(-100, 100), str)
MONEY = literal(_HUNDREDTHS, lambda v: f"CAST('{v}' AS DECIMAL(9, 2))")
AS_FLOAT = literal(st.integers(-400, 400).map(lambda n: n / 4), lambda v: f"CAST('{v}' AS DECIMAL(9, 2))")
FLOAT = literal(VALUES["f"], lambda v: f"CAST('{v}' AS DOUBLE)")

integers = binary(ARITHMETIC, column("i j"), column("i j") | WHOLE) | column("i j u")
exact = binary(ARITHMETIC, column("d e"), column("d e i j") | WHOLE | MONEY | AS_FLOAT) | column("d e")
deep = binary({"+": "+", "-": "-"}, exact, exact | integers) | binary({"*": "*"}, exact, column("i") | WHOLE)
floats = binary({**ARITHMETIC, "/": "/"}, column("f"), column("f i d") | FLOAT) | column("f")
numbers = integers | exact | deep | floats
comparisons = (
    binary(COMPARISON, column("i j u d e"), column("i j u d e") | WHOLE | MONEY | AS_FLOAT)
    | binary(COMPARISON, exact | integers, exact | integers)
    | binary(COMPARISON, column("f"), column("f i") | FLOAT)
    | binary(COMPARISON, column("s"), column("s") | literal(VALUES["s"], lambda v: f"'{v}'"))
    | binary(COMPARISON, column("day"), column("day") | literal(VALUES["day"], lambda v: f"DATE '{v}'"))
    | binary(COMPARISON, column("day"), VALUES["day"].map(lambda v: Pair(lit(v.isoformat()), f"DATE '{v}'")))
    | binary(COMPARISON, column("ts"), column("ts") | literal(VALUES["ts"], lambda v: f"TIMESTAMP '{v}'"))
    | st.builds(lambda p: Pair(p.expr.is_null(), f"({p.sql} IS NULL)"), numbers)
    | st.builds(lambda p: Pair(p.expr.is_nan(), f"isnan({p.sql})"), column("f"))
    | st.builds(
        lambda p, vs: Pair(p.expr.isin(vs), f"({p.sql} IN ({', '.join(map(str, vs))}))"),
        column("i j d u"),
        st.lists(st.integers(-20, 20), min_size=1, max_size=5),
    )
    | st.builds(
        lambda p, a, b: Pair(p.expr.between(a, b), f"({p.sql} BETWEEN {a} AND {b})"),
        numbers,
        st.integers(-9, 9),
        st.integers(0, 99),
    )
    | column("b")
)
predicates = st.recursive(
    comparisons,
    lambda inner: (
        st.builds(lambda a, b: Pair(a.expr & b.expr, f"({a.sql} AND {b.sql})"), inner, inner)
        | st.builds(lambda a, b: Pair(a.expr | b.expr, f"({a.sql} OR {b.sql})"), inner, inner)
        | st.builds(lambda a: Pair(~a.expr, f"(NOT {a.sql})"), inner)
    ),
    max_leaves=4,
)
chosen = st.builds(
    lambda p, a, b: Pair(when(p.expr).then(a.expr).otherwise(b.expr), f"(CASE WHEN {p.sql} THEN {a.sql} ELSE {b.sql} END)"),
    predicates, exact, exact | WHOLE,
)  # fmt: skip
filled = st.builds(lambda a, b: Pair(a.expr.fill_null(b.expr), f"coalesce({a.sql}, {b.sql})"), column("i d f"), WHOLE)
texts = st.builds(lambda a, b: Pair(a.expr + b.expr, f"({a.sql} || {b.sql})"), column("s"), column("s")) | st.builds(
    lambda a: Pair(fn.utf8_upper(a.expr), f"upper({a.sql})"), column("s")
)
anything = numbers | predicates | chosen | filled | texts


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.execute("SET threads = 1; SET TimeZone = 'UTC'")
    return made


def same(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(ours, float) or isinstance(theirs, float):
        ours, theirs = float(ours), float(theirs)
        return math.isclose(ours, theirs, rel_tol=1e-14) or (math.isnan(ours) and math.isnan(theirs))
    return bool(ours == theirs)


@settings(max_examples=400, deadline=None)
@given(rows=ROWS, pair=anything)
def test_an_expression_gives_what_duckdb_gives(
    connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], pair: Pair
) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA)
    ours = bind(pair.expr, SCHEMA).evaluate(table.combine_chunks().to_batches()[0]).to_pylist()
    connection.register("rows", table)
    theirs = [row[0] for row in connection.execute(f"SELECT {pair.sql} FROM rows").fetchall()]
    for mine, other, row in zip(ours, theirs, rows, strict=True):
        assert same(mine, other), f"{pair.expr}: {mine!r}, DuckDB {pair.sql}: {other!r}, row {row}"


AGGREGATES: dict[str, Callable[[str], tuple[ek.Aggregate, str]]] = {
    "sum": lambda c: (ek.sum(c), f'sum("{c}")'),
    "mean": lambda c: (ek.mean(c), f'avg("{c}")'),
    "min": lambda c: (ek.min(c), f'min("{c}")'),
    "max": lambda c: (ek.max(c), f'max("{c}")'),
    "count": lambda c: (ek.count(c), f'count("{c}")'),
    "rows": lambda c: (ek.count(), "count(*)"),
    "count_distinct": lambda c: (ek.count_distinct(c), f'count(DISTINCT "{c}")'),
    "first": lambda c: (ek.first(c), f'first("{c}" ORDER BY n)'),
    "last": lambda c: (ek.last(c), f'last("{c}" ORDER BY n)'),
    "any": lambda c: (ek.any(c), f'bool_or("{c}")'),
    "all": lambda c: (ek.all(c), f'bool_and("{c}")'),
    "stddev": lambda c: (ek.stddev(c), f'stddev_samp("{c}")'),
    "variance": lambda c: (ek.variance(c, 0), f'var_pop("{c}")'),
    "quantile": lambda c: (ek.quantile(c, 0.4), f'quantile_cont("{c}"::DOUBLE, 0.4)'),
}
SUITED = {
    **dict.fromkeys(["sum", "mean"], "ijudef"),
    **dict.fromkeys(["stddev", "variance", "quantile"], "ijude"),
    **dict.fromkeys(["any", "all"], "b"),
}


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, data=st.data())
def test_a_group_by_gives_what_duckdb_gives(
    connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    keys = data.draw(st.lists(st.sampled_from(list(VALUES)), max_size=2, unique=True))
    asked = []
    for kind in data.draw(st.lists(st.sampled_from(list(AGGREGATES)), min_size=1, max_size=5)):
        names = list(SUITED.get(kind, "")) or list(VALUES)
        asked.append(AGGREGATES[kind](data.draw(st.sampled_from(names))))
    table = pa.Table.from_pylist(rows, SCHEMA).append_column("n", pa.array(range(len(rows))))
    plan = plan_aggregates(keys, {f"a{at}": aggregate for at, (aggregate, _) in enumerate(asked)}, table.schema)
    size = data.draw(st.integers(1, 5))
    batches = table.to_batches(max_chunksize=size)
    partials = [plan.fold(pa.Table.from_batches([plan.prepare(batch, at * size)])) for at, batch in enumerate(batches)]
    result = plan.final(plan.merge(pa.concat_tables(partials)))
    ours = list(zip(*(column.to_pylist() for column in result.columns), strict=True))
    connection.register("rows", table)
    quoted = [f'"{key}"' for key in keys]
    grouped = f" GROUP BY {', '.join(quoted)}" if keys else ""
    sql = f"SELECT {', '.join([*quoted, *(sql for _, sql in asked)])} FROM rows{grouped}"
    theirs = connection.execute(sql).fetchall()

    def key(row: tuple[Any, ...]) -> str:
        return repr([v + 0.0 if isinstance(v, float) else v for v in row[: len(keys)]])

    ours, theirs = sorted(ours, key=key), sorted(theirs, key=key)
    assert len(ours) == len(theirs), sql
    for mine, other in zip(ours, theirs, strict=True):
        for a, b, name in zip(mine, other, plan.schema.names, strict=True):
            # Where the squares of what is summed are large, the last digits of a spread are noise in both.
            close = isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-7)
            assert close or same(a, b), f"{name} of {sql}: {a!r}, DuckDB {b!r}, {rows}"
