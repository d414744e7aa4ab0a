"""Aggregates: exact whatever the cut, empty input, extremes of every type, and what is refused."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal as D
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etlkit.engine.aggregate import AggregatePlan, plan_aggregates
from etlkit.errors import InputError, PlanError
from etlkit.plan import aggregates as ek
from etlkit.plan.aggregates import Aggregate
from etlkit.plan.expr import col

NAN = float("nan")


def aggregate(
    table: pa.Table, keys: Sequence[str], aggs: Mapping[str, Aggregate], *, batch_rows: int = 3, seed: int = 0
) -> pa.Table:
    """The result by way of many small folds in random order, merged in two steps: as a run that was killed would do it."""
    plan = plan_aggregates(keys, aggs, table.schema)
    order = random.Random(seed)
    raws, position = [], 0
    for batch in table.to_batches(max_chunksize=batch_rows):
        raws.append(plan.prepare(batch, position))
        assert raws[-1].schema == plan.raw_schema
        position += batch.num_rows
    order.shuffle(raws)
    partials = [plan.fold(pa.Table.from_batches(raws[at : at + 3])) for at in range(0, len(raws), 3)]
    partials = partials or [plan.fold(plan.raw_schema.empty_table())]
    order.shuffle(partials)
    for partial in partials:
        assert partial.schema == plan.partial_schema
    half = len(partials) // 2 or 1
    merged = [plan.merge(pa.concat_tables(some)) for some in (partials[:half], partials[half:]) if some]
    once = plan.merge(pa.concat_tables(merged))
    assert once.schema == plan.partial_schema
    result = plan.final(once)
    result.validate(full=True)
    assert result.schema == plan.schema
    return result


def rows(result: pa.Table) -> dict[Any, tuple[Any, ...]]:
    """Key to the aggregates, NaN as a word so that it can be compared."""
    plain = [
        ["NaN" if isinstance(v, float) and math.isnan(v) else v for v in column.to_pylist()]
        for column in result.columns
    ]
    found = {row[0]: row[1:] for row in zip(*plain, strict=True)}
    assert len(found) == result.num_rows, "a key is there twice"
    return found


ALL_KINDS = {
    "sum": ek.sum("v"), "mean": ek.mean("v"), "min": ek.min("v"), "max": ek.max("v"), "rows": ek.count(),
    "count": ek.count("v"), "distinct": ek.count_distinct("v"), "first": ek.first("v"), "last": ek.last("v"),
    "sd": ek.stddev("v"), "var": ek.variance("v", 0), "q": ek.quantile("v", 0.25),
}  # fmt: skip


def reference(values: list[Any]) -> dict[str, Any]:
    """What ADR 0002 promises, computed by fractions."""
    known = [v for v in values if v is not None]
    exact = [Fraction(v) for v in known]
    n, total = len(known), sum(exact)
    squares = sum((v - total / n) ** 2 for v in exact) if n else Fraction(0)
    ranked = sorted(float(v) for v in known)
    rank = 0.25 * (n - 1)
    below = math.floor(rank)
    return {
        "sum": total if n else None,
        "mean": float(total / n) if n else None,
        "min": min(known, default=None),
        "max": max(known, default=None),
        "rows": len(values),
        "count": n,
        "distinct": len(set(known)),
        "first": values[0],
        "last": values[-1],
        "sd": math.sqrt(squares / (n - 1)) if n > 1 else None,
        "var": float(squares / n) if n else None,
        "q": ranked[below] + (ranked[min(below + 1, n - 1)] - ranked[below]) * (rank - below) if n else None,
    }


NUMBERS = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int64": (pa.int64(), st.integers(-(2**55), 2**55)),
    "uint32": (pa.uint32(), st.integers(0, 2**32 - 1)),
    "decimal(5, 2)": (pa.decimal128(5, 2), st.decimals(-999, 999, places=2)),
    "decimal(18, 4)": (pa.decimal128(18, 4), st.decimals(-(10**13), 10**13, places=4)),
    "decimal(31, 4)": (pa.decimal128(31, 4), st.decimals(-(10**20), 10**20, places=4)),
    "decimal256": (pa.decimal256(50, 4), st.decimals(-(10**20), 10**20, places=4)),
    "float64": (pa.float64(), st.integers(-(2**40), 2**40).map(float)),
}


@pytest.mark.parametrize("name", list(NUMBERS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_numbers_of_every_type_whatever_the_cut(name: str, data: st.DataObject) -> None:
    kind, numbers = NUMBERS[name]
    pairs = data.draw(st.lists(st.tuples(st.sampled_from([None, 1, 2]), st.none() | numbers), min_size=1, max_size=30))
    table = pa.table({"k": pa.array([k for k, _ in pairs], pa.int32()), "v": pa.array([v for _, v in pairs], kind)})
    result = aggregate(
        table, ["k"], ALL_KINDS, batch_rows=data.draw(st.integers(1, 9)), seed=data.draw(st.integers(0, 9))
    )
    found = {row["k"]: row for row in result.to_pylist()}
    assert set(found) == {k for k, _ in pairs}
    for key, row in found.items():
        expected = reference([v for k, v in pairs if k == key])
        largest = max((abs(float(v)) for k, v in pairs if k == key and v is not None), default=1.0)
        for column, value in expected.items():
            if column in ("sd", "var", "q", "mean") and value is not None:
                slack = largest**2 * 1e-12 if column == "var" else largest * 1e-7 if column == "sd" else 0.0
                assert math.isclose(row[column], value, rel_tol=1e-9, abs_tol=slack), column
            else:
                assert row[column] == value, column


def test_result_types() -> None:
    table = pa.table(
        {
            "i": pa.array([1], pa.int16()), "u": pa.array([1], pa.uint8()), "f": pa.array([1.0], pa.float32()),
            "d": pa.array([D(1)], pa.decimal128(15, 2)), "b": [True], "s": pa.array(["a"]).dictionary_encode(),
            "w": pa.array([D(1)], pa.decimal256(40, 2)),
        }
    )  # fmt: skip
    aggs = {
        f"{kind}_{c}": getattr(ek, kind)(c)
        for c in "iufdbw"
        for kind in ("sum", "mean", "max")
        if c != "b" or kind != "mean"
    }
    aggs |= {"mean_b": ek.mean("b"), "min_s": ek.min("s"), "first_s": ek.first("s"), "n": ek.count_distinct("s")}
    schema = plan_aggregates(["s"], aggs, table.schema).schema
    assert {field.name: str(field.type) for field in schema} == {
        "s": "string", "sum_i": "int64", "mean_i": "double", "max_i": "int16", "sum_u": "uint64", "mean_u": "double",
        "max_u": "uint8", "sum_f": "double", "mean_f": "double", "max_f": "float", "sum_d": "decimal128(38, 2)",
        "mean_d": "double", "max_d": "decimal128(15, 2)", "sum_b": "int64", "max_b": "bool", "mean_b": "double",
        "sum_w": "decimal256(76, 2)", "mean_w": "double", "max_w": "decimal256(40, 2)", "min_s": "string",
        "first_s": "string", "n": "int64",
    }  # fmt: skip


def test_sums_beyond_int64_are_errors_and_never_wrap() -> None:
    big = pa.table({"k": [1, 1, 1, 2, 2], "v": pa.array([2**62, 2**62, 2**62, 2**62, 5])})
    with pytest.raises(InputError, match="does not fit int64"):
        aggregate(big, ["k"], {"total": ek.sum("v")})
    exact = aggregate(big, ["k"], {"total": ek.sum(col("v").cast("decimal(19, 0)")), "mean": ek.mean("v")})
    assert rows(exact) == {1: (D(3 * 2**62), float(2**62)), 2: (D(2**62 + 5), float(2**61))}


def test_a_sum_that_overflows_only_on_the_way_is_right_in_every_order() -> None:
    values = [2**63 - 1, 2**63 - 1, -(2**63), -(2**63), 7]
    for seed in range(10):
        order = random.Random(seed).sample(values, len(values))
        table = pa.table({"k": [1] * 5, "v": pa.array(order)})
        assert rows(aggregate(table, ["k"], {"t": ek.sum("v")}, batch_rows=1, seed=seed)) == {1: (5,)}
    table = pa.table({"k": [1] * 3, "v": pa.array([2**64 - 2, 1, 0], pa.uint64())})
    assert rows(aggregate(table, ["k"], {"t": ek.sum("v")}, batch_rows=1)) == {1: (2**64 - 1,)}
    table = pa.table({"k": [1] * 3, "v": pa.array([2**64 - 2, 1, 1], pa.uint64())})
    with pytest.raises(InputError, match="uint64"):
        aggregate(table, ["k"], {"t": ek.sum("v")})


def test_decimal_sums_use_all_38_digits_and_stop_there() -> None:
    most = D("9" * 38)
    table = pa.table({"k": [1] * 4, "v": pa.array([D(10**38 - 6), D(2), D(3), None], pa.decimal128(38, 0))})
    for size in (1, 4):
        assert rows(aggregate(table, ["k"], {"t": ek.sum("v")}, batch_rows=size)) == {1: (most,)}
    over = pa.table({"k": [1] * 3, "v": pa.array([most, most, D(1)], pa.decimal128(38, 0))})
    for size in (1, 3):
        with pytest.raises(InputError, match="does not fit"):
            aggregate(over, ["k"], {"t": ek.sum("v")}, batch_rows=size)
    narrow = pa.table({"k": [1] * 50, "v": pa.array([D("9999999999999999.99")] * 50, pa.decimal128(18, 2))})
    assert rows(aggregate(narrow, ["k"], {"t": ek.sum("v"), "m": ek.mean("v")})) == {
        1: (D("499999999999999999.50"), 9999999999999999.99)
    }


def test_floats_nan_is_greatest_and_zero_is_one_value() -> None:
    table = pa.table({"k": [1, 1, 1, 2, 2, 3, 4], "v": [1.0, NAN, -math.inf, -0.0, 0.0, NAN, None]})
    aggs = {"lo": ek.min("v"), "hi": ek.max("v"), "n": ek.count_distinct("v"), "c": ek.count("v")}
    assert rows(aggregate(table, ["k"], aggs)) == {
        1: (-math.inf, "NaN", 3, 3), 2: (0.0, 0.0, 1, 2), 3: ("NaN", "NaN", 1, 1), 4: (None, None, 0, 0)
    }  # fmt: skip
    as_key = aggregate(pa.table({"k": [NAN, -NAN, 0.0, -0.0, None, None, 1.0]}), ["k"], {"n": ek.count()})
    assert rows(as_key) == {"NaN": (2,), 0.0: (2,), None: (2,), 1.0: (1,)}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_min_and_max_of_floats_are_members_in_the_total_order(values: list[float]) -> None:
    result = aggregate(pa.table({"v": values}), [], {"lo": ek.min("v"), "hi": ek.max("v")}).to_pylist()[0]
    ranked = sorted(values, key=lambda v: (math.isnan(v), 0.0 if math.isnan(v) else v))
    for found, expected in ((result["lo"], ranked[0]), (result["hi"], ranked[-1])):
        assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_first_and_last_go_by_position_and_keep_nulls() -> None:
    table = pa.table({"k": ["a", "b", "a", "b", "a"], "v": [None, 1, 2, 3, None], "l": [[1], [2], [3], None, [5, 6]]})
    aggs = {"first": ek.first("v"), "last": ek.last("v"), "fl": ek.first("l"), "ll": ek.last("l")}
    for seed in range(5):
        found = rows(aggregate(table, ["k"], aggs, batch_rows=1, seed=seed))
        assert found == {"a": (None, None, [1], [5, 6]), "b": (1, 3, [2], None)}


def test_any_and_all_skip_nulls() -> None:
    table = pa.table({"k": [1, 1, 2, 2, 3], "v": [True, None, False, True, None]})
    found = rows(aggregate(table, ["k"], {"any": ek.any("v"), "all": ek.all("v"), "sum": ek.sum("v")}))
    assert found == {1: (True, True, 1), 2: (True, False, 1), 3: (None, None, None)}


def test_without_keys_there_is_one_row_also_of_nothing() -> None:
    nothing = pa.table({"k": pa.array([], pa.int32()), "v": pa.array([], pa.decimal128(15, 2))})
    expected = {"sum": None, "mean": None, "min": None, "max": None, "rows": 0, "count": 0, "distinct": 0, "first": None,
                "last": None, "sd": None, "var": None, "q": None}  # fmt: skip
    assert aggregate(nothing, [], ALL_KINDS).to_pylist() == [expected]
    plan = plan_aggregates([], ALL_KINDS, nothing.schema)
    assert plan.final(plan.partial_schema.empty_table()).to_pylist() == [expected]
    assert aggregate(nothing, ["k"], ALL_KINDS).num_rows == 0
    some = pa.table({"k": pa.array([1, 2], pa.int32()), "v": pa.array([D(1), D(2)], pa.decimal128(15, 2))})
    assert aggregate(some, [], {"t": ek.sum("v"), "n": ek.count()}).to_pylist() == [{"t": D(3), "n": 2}]
    assert aggregate(some, ["k"], {}).num_rows == 2


WILD: dict[str, tuple[pa.DataType, list[Any]]] = {
    "bool": (pa.bool_(), [False, True]),
    "string": (pa.string(), ["", "é"]),
    "large_string": (pa.large_string(), ["", "é"]),
    "string_view": (pa.string_view(), ["", "é"]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["", "é"]),
    "binary": (pa.binary(), [b"", b"\xff"]),
    "fixed": (pa.binary(2), [b"ab", b"cd"]),
    "date32": (pa.date32(), [dt.date(1960, 1, 1), dt.date(2024, 2, 29)]),
    "date64": (pa.date64(), [dt.date(1960, 1, 1), dt.date(2024, 2, 29)]),
    "time": (pa.time64("us"), [dt.time(1), dt.time(2, 3, 4, 5)]),
    "timestamp": (
        pa.timestamp("ms", "UTC"),
        [dt.datetime(1960, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)],
    ),
    "duration": (pa.duration("ms"), [dt.timedelta(-1), dt.timedelta(seconds=1)]),
    "decimal32": (pa.decimal32(7, 2), [D("-1.25"), D("1.50")]),
    "decimal256": (pa.decimal256(60, 2), [D("-1.25"), D("1.50")]),
    "half": (pa.float16(), [-1.5, 2.0]),
    "uint64": (pa.uint64(), [0, 2**64 - 1]),
}


@pytest.mark.parametrize("name", list(WILD))
def test_every_type_as_key_and_as_value(name: str) -> None:
    kind, (low, high) = WILD[name]
    plain = pa.float32() if name == "half" else kind.value_type if name == "dictionary" else kind
    values = pa.array([high, low, None, low, high, None], plain)
    table = pa.table({"v": values.cast(kind), "k": pa.array([1, 1, 1, 1, 2, 3])})
    aggs = {
        "lo": ek.min("v"),
        "hi": ek.max("v"),
        "n": ek.count("v"),
        "d": ek.count_distinct("v"),
        "f": ek.first("v"),
        "l": ek.last("v"),
    }
    assert rows(aggregate(table, ["k"], aggs, batch_rows=1)) == {
        1: (low, high, 3, 2, high, low), 2: (high, high, 1, 1, high, high), 3: (None, None, 0, 0, None, None)
    }  # fmt: skip
    by_value = rows(aggregate(table, ["v"], {"n": ek.count(), "k": ek.max("k")}, batch_rows=2))
    assert by_value == {low: (2, 1), high: (2, 2), None: (2, 3)}


def test_a_null_column_and_differing_dictionaries() -> None:
    nulls = pa.table({"k": pa.nulls(3), "v": pa.nulls(3)})
    assert rows(aggregate(nulls, ["k"], {"n": ek.count(), "c": ek.count("v"), "hi": ek.max("v")})) == {
        None: (3, 0, None)
    }
    kind = pa.dictionary(pa.int32(), pa.string())
    chunks = [pa.array(["a", "b"]).dictionary_encode().cast(kind), pa.array(["b", "c"]).dictionary_encode().cast(kind)]
    table = pa.table({"k": pa.chunked_array(chunks), "v": [1, 2, 3, 4]})
    assert rows(aggregate(table, ["k"], {"s": ek.sum("v")}, batch_rows=2)) == {"a": (1,), "b": (5,), "c": (4,)}


def test_a_spread_is_right_far_from_zero() -> None:
    values = [1e9 + n % 2 for n in range(1000)]
    found = aggregate(pa.table({"v": values}), [], {"var": ek.variance("v", 0)}, batch_rows=7).to_pylist()
    assert math.isclose(found[0]["var"], 0.25, rel_tol=1e-6)


def test_columns_that_are_needed_twice_travel_once_and_narrow() -> None:
    schema = pa.schema([("k", pa.decimal128(15, 2)), ("v", pa.decimal128(15, 2)), ("s", pa.string())])
    aggs = {"a": ek.sum("v"), "b": ek.min("v"), "c": ek.count("v"), "d": ek.mean(col("v")), "n": ek.count("s")}
    plan = plan_aggregates(["k"], aggs, schema)
    assert [str(field.type) for field in plan.raw_schema] == ["int64", "int64", "bool"]
    assert [expr.columns() for _, expr in plan.inputs] == [{"k"}, {"v"}, {"s"}]


@pytest.mark.parametrize(
    ("keys", "aggs", "says"),
    [
        (["K"], {}, "'K'"),
        (["k", "k"], {}, "twice"),
        (["k"], {"k": ek.count()}, "another name"),
        (["l"], {}, "cannot group by 'l'"),
        (["k"], {"x": ek.sum("nothing")}, "nothing"),
        (["k"], {"x": ek.sum("s")}, "x=sum(s)"),
        (["k"], {"x": ek.any("k")}, "compare first"),
        (["k"], {"x": ek.quantile("s")}, "not a number"),
        (["k"], {"x": ek.min("l")}, "x=min(l)"),
        (["k"], {"x": Aggregate("median", col("k"))}, "median"),
    ],
)
def test_what_cannot_be_grouped_is_found_before_a_row_is_read(
    keys: list[str], aggs: dict[str, Aggregate], says: str
) -> None:
    schema = pa.schema([("k", pa.int32()), ("s", pa.string()), ("l", pa.list_(pa.int8()))])
    with pytest.raises(PlanError) as caught:
        plan_aggregates(keys, aggs, schema)
    assert says in str(caught.value)
    assert caught.value.remedy


def test_many_groups_in_many_chunks() -> None:
    count = 70_000  # more than one block of the row counter
    table = pa.table({"k": pa.array(range(count)), "v": pa.array(range(count))})
    plan = plan_aggregates(["k"], {"s": ek.sum("v"), "f": ek.first("v"), "d": ek.count_distinct("v")}, table.schema)
    raw = pa.Table.from_batches(
        [plan.prepare(b, at) for at, b in zip(range(0, count, 1000), table.to_batches(1000), strict=True)]
    )
    result = plan.final(plan.merge(pa.concat_tables([plan.fold(raw), plan.fold(raw.slice(0, 10))])))
    ordered = result.sort_by("k").to_pydict()
    assert ordered["s"][:11] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 10]
    assert ordered["f"] == list(range(count))
    assert set(ordered["d"]) == {1}


def test_a_plan_is_safe_to_share() -> None:
    plan = plan_aggregates(["k"], {"n": ek.count()}, pa.schema([("k", pa.int8())]))
    assert isinstance(plan, AggregatePlan)
    with pytest.raises(AttributeError):
        plan.keys = ()  # type: ignore[misc]
