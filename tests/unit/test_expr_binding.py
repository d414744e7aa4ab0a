# ruff: noqa: SIM300 (what is reflected is the point)
"""Expressions bound to a schema: the table of ADR 0002, row by row."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal as D
from decimal import localcontext
from typing import Any

import pyarrow as pa
import pytest

from etlkit.errors import InputError, PlanError
from etlkit.plan.binding import bind
from etlkit.plan.expr import Expr, col, fn, lit, when

NAN, INF = float("nan"), float("inf")
with localcontext(prec=80):  # more than the 28 digits to which Python rounds by default
    LONG = D("9999999999999.99") * -D("9999999999998.99")
I8, I32, U8, U64, F, G, DEC, WIDE, S, B, DAY, TS, ZONED, DIC = map(
    col, ["i8", "i32", "u8", "u64", "f", "g", "dec", "wide", "s", "b", "day", "ts", "zoned", "dic"]
)
BATCH = pa.record_batch(
    {
        "i8": pa.array([1, -7, None, 127], pa.int8()),
        "i32": pa.array([7, -7, None, 2**31 - 1], pa.int32()),
        "i64": pa.array([2**53 + 1, -(2**63), None, 2**63 - 1], pa.int64()),
        "u8": pa.array([0, 1, None, 255], pa.uint8()),
        "u64": pa.array([0, 2**53 + 1, None, 2**64 - 1], pa.uint64()),
        "f": pa.array([1.5, NAN, None, -INF], pa.float64()),
        "g": pa.array([0.1, -0.0, None, NAN], pa.float32()),
        "dec": pa.array([D("1.25"), D("-3.10"), None, D("9999999999999.99")], pa.decimal128(15, 2)),
        "wide": pa.array([D(1), D(-1), None, D("9" * 38)], pa.decimal128(38, 0)),
        "s": pa.array(["a", "", None, "é"], pa.string()),
        "b": pa.array([True, False, None, True], pa.bool_()),
        "day": pa.array([dt.date(2024, 1, 31), dt.date(1969, 12, 31), None, dt.date(2024, 2, 29)], pa.date32()),
        "ts": pa.array([1_000_000, -1, None, 0], pa.timestamp("us")),
        "zoned": pa.array([1_000_000, -1, None, 0], pa.timestamp("us", "Europe/Berlin")),
        "dic": pa.array(["x", "y", None, "x"]).dictionary_encode(),
    }
)


def run(expr: Expr, batch: pa.RecordBatch = BATCH) -> tuple[pa.DataType, list[Any]]:
    bound = bind(expr, batch.schema)
    array = bound.evaluate(batch)
    assert isinstance(array, pa.Array)
    assert array.type == bound.type
    array.validate(full=True)
    # A slice in the middle of a batch has other offsets into the same buffers.
    part = bound.evaluate(batch.slice(1, 2)).to_pylist()
    whole = array.to_pylist()
    assert repr(part) == repr(whole[1:3])
    return array.type, whole


def d(precision: int, scale: int) -> pa.DataType:
    return pa.decimal128(precision, scale)


@pytest.mark.parametrize(
    ("expr", "kind", "values"),
    [
        # Integers keep their type; a literal widens it only if it does not fit.
        (I8.fill_null(0) // 2 + 1, pa.int8(), [1, -3, 1, 64]),
        (I8 + 1000, pa.int16(), [1001, 993, None, 1127]),
        (U8 + -1, pa.int16(), [-1, 0, None, 254]),
        (U8 + I8, pa.int16(), [1, -6, None, 382]),
        (I8 + I32 % 10, pa.int32(), [8, -4, None, 134]),
        # // and % are Python's: down, and with the sign of the divisor.
        (I32 // 2, pa.int32(), [3, -4, None, 2**30 - 1]),
        (I32 % 2, pa.int32(), [1, 1, None, 1]),
        (I32 // -2, pa.int32(), [-4, 3, None, -(2**30)]),
        (DEC // D("0.5"), pa.int64(), [2, -7, None, 19999999999999]),
        (DEC % D("0.5"), d(15, 2), [D("0.25"), D("0.40"), None, D("0.49")]),
        (F // 1, pa.float64(), [1.0, NAN, None, -INF]),
        # / is a float.
        (I32 / 2, pa.float64(), [3.5, -3.5, None, (2**31 - 1) / 2]),
        (I32 / 0, pa.float64(), [INF, -INF, None, INF]),
        (DEC / 2, pa.float64(), [0.625, -1.55, None, 9999999999999.99 / 2]),
        (I8**2, pa.int8(), None),
        ((I32 % 3) ** 2, pa.int32(), [1, 4, None, 1]),
        (DEC**2, pa.float64(), [1.5625, 9.610000000000001, None, 9999999999999.99**2]),
        # Decimals: exact, by the rule.
        (1 - DEC, d(16, 2), [D("-0.25"), D("4.10"), None, D("-9999999999998.99")]),
        (DEC * (1 - DEC), d(31, 4), [D("-0.3125"), D("-12.7100"), None, LONG]),
        (DEC * 1.5, d(17, 3), [D("1.875"), D("-4.650"), None, D("14999999999999.985")]),
        (DEC + 0.001, d(17, 3), [D("1.251"), D("-3.099"), None, D("9999999999999.991")]),
        (DEC + I32, d(16, 2), [D("8.25"), D("-10.10"), None, D("10002147483646.99")]),
        (DEC + F, pa.float64(), [2.75, NAN, None, -INF]),
        (-DEC, d(15, 2), [D("-1.25"), D("3.10"), None, D("-9999999999999.99")]),
        (abs(DEC), d(15, 2), [D("1.25"), D("3.10"), None, D("9999999999999.99")]),
        (WIDE - 1, d(38, 0), [D(0), D(-2), None, D("9" * 37 + "8")]),
        # Comparison is by value, whatever the types.
        (DEC < 1.5, pa.bool_(), [True, True, None, False]),
        (DEC == 1.25, pa.bool_(), [True, False, None, False]),
        (DEC == 1.255, pa.bool_(), [False, False, None, False]),
        (DEC != 1.255, pa.bool_(), [True, True, None, True]),
        (DEC >= -3.101, pa.bool_(), [True, True, None, True]),
        (DEC > 10**20, pa.bool_(), [False, False, None, False]),
        (I8 < 1000, pa.bool_(), [True, True, None, True]),
        (I8 <= -6.5, pa.bool_(), [False, True, None, False]),
        (-6.5 >= I8, pa.bool_(), [False, True, None, False]),
        (U8 > -1, pa.bool_(), [True, True, None, True]),
        (U8 < INF, pa.bool_(), [True, True, None, True]),
        (U8 > NAN, pa.bool_(), [False, False, None, False]),
        (col("i64") == float(2**53), pa.bool_(), [False, False, None, False]),
        (col("i64") == U64, pa.bool_(), [False, False, None, False]),
        (col("i64") < U64, pa.bool_(), [False, True, None, True]),
        (DEC > I8, pa.bool_(), [True, True, None, True]),
        (WIDE > DEC, pa.bool_(), [False, True, None, True]),
        (G == 0.1, pa.bool_(), [True, False, None, False]),
        # One order for floats: NaN equals NaN and is greatest.
        (F > 1e308, pa.bool_(), [False, True, None, False]),
        (F >= INF, pa.bool_(), [False, True, None, False]),
        (F < 1e308, pa.bool_(), [True, False, None, True]),
        (F == NAN, pa.bool_(), [False, True, None, False]),
        (F != NAN, pa.bool_(), [True, False, None, True]),
        (F == F, pa.bool_(), [True, True, None, True]),
        (F < NAN, pa.bool_(), [True, False, None, True]),
        (F <= G, pa.bool_(), [False, False, None, True]),
        (G == 0, pa.bool_(), [False, True, None, False]),
        # Nulls, NaN, membership.
        (F.is_nan(), pa.bool_(), [False, True, None, False]),
        (I8.is_nan(), pa.bool_(), [False, False, None, False]),
        (F.is_null(), pa.bool_(), [False, False, True, False]),
        (F.fill_null(0), pa.float64(), [1.5, NAN, 0.0, -INF]),
        (I8.fill_null(1000), pa.int16(), [1, -7, 1000, 127]),
        (I8.isin([1, 2.0, 127.0, 2.5, 1000]), pa.bool_(), [True, False, None, True]),
        (I8.isin([1, None]), pa.bool_(), [True, False, True, False]),
        (DEC.isin([1.25, D("-3.1"), 7]), pa.bool_(), [True, True, None, False]),
        (F.isin([NAN, 1.5]), pa.bool_(), [True, True, None, False]),
        (DAY.isin(["2024-01-31", dt.date(2024, 2, 29)]), pa.bool_(), [True, False, None, True]),
        (DIC.isin(["x"]), pa.bool_(), [True, False, None, True]),
        (I8.isin([]), pa.bool_(), [False, False, None, False]),
        (I8.between(1, 126.5), pa.bool_(), [True, False, None, False]),
        # Three-valued logic.
        (B & None, pa.bool_(), [None, False, None, None]),
        (B | True, pa.bool_(), [True, True, True, True]),
        (~B, pa.bool_(), [False, True, None, False]),
        (B ^ True, pa.bool_(), [False, True, None, False]),
        (I8 & 3, pa.int8(), [1, 1, None, 3]),
        (~U8, pa.uint8(), [255, 254, None, 0]),
        # Text, dates and times.
        (S + "!", pa.string(), ["a!", "!", None, "é!"]),
        (DIC + "!", pa.string(), ["x!", "y!", None, "x!"]),
        (DAY < "2024-02-01", pa.bool_(), [True, True, None, False]),
        (DAY >= dt.date(2024, 1, 31), pa.bool_(), [True, False, None, True]),
        (DAY - dt.timedelta(days=31) < DAY, pa.bool_(), [True, True, None, True]),
        (TS >= "1970-01-01", pa.bool_(), [True, False, None, True]),
        (TS > dt.date(1970, 1, 1), pa.bool_(), [True, False, None, False]),
        (ZONED >= "1970-01-01T01:00:00", pa.bool_(), [True, False, None, True]),
        (ZONED >= "1970-01-01T00:00:00Z", pa.bool_(), [True, False, None, True]),
        (fn.utf8_upper(S), pa.string(), ["A", "", None, "É"]),
        (fn.floor(DEC), d(15, 2), [D("1.00"), D("-4.00"), None, D("9999999999999.00")]),
        (fn.and_(B, True), pa.bool_(), [True, False, None, True]),
        (lit(5), pa.int64(), [5, 5, 5, 5]),
        (lit("2024-01-31", "date32"), pa.date32(), [dt.date(2024, 1, 31)] * 4),
        (lit(0.1, "decimal(3, 2)"), d(3, 2), [D("0.10")] * 4),
        (None + I8, pa.int8(), [None] * 4),
        (I32.cast("decimal(12, 2)"), d(12, 2), [D("7.00"), D("-7.00"), None, D("2147483647.00")]),
        (when(I8 > 0).then(I8).otherwise(0.5), pa.float64(), [1.0, 0.5, 0.5, 127.0]),
        (when(I8 > 0).then("+").when(I8 < 0).then("-").otherwise(None), pa.string(), ["+", "-", None, "+"]),
        (when(B).then(DEC).otherwise(I8), d(15, 2), [D("1.25"), D("-7.00"), None, D("9999999999999.99")]),
    ],
    ids=str,
)  # fmt: skip
def test_operator(expr: Expr, kind: pa.DataType, values: list[Any] | None) -> None:
    if values is None:
        with pytest.raises(InputError, match="overflow"):
            run(expr)
        return
    found_kind, found = run(expr)
    assert found_kind == kind
    assert [_comparable(value) for value in found] == [_comparable(value) for value in values]


def _comparable(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def test_tpch_charge_is_exact_where_pyarrow_refuses() -> None:
    charge = DEC * (1 - DEC) * (1 + DEC)
    kind, values = run(charge, BATCH.slice(0, 3))
    assert kind == d(38, 6)
    assert values == [D("1.25") * D("-0.25") * D("2.25"), D("-3.10") * D("4.10") * D("-2.10"), None]
    with pytest.raises(InputError) as caught:
        run(charge)
    assert "(dec * (1 - dec)) * (1 + dec)" in str(caught.value)


def test_decimal_products_fill_all_38_digits() -> None:
    numbers = [D(10**18 + 9), D(-(10**19) + 7), D(3)]
    batch = pa.record_batch({"a": pa.array(numbers, d(38, 0)), "b": pa.array([D(10**18 - 3)] * 3, d(38, 0))})
    kind, values = run(col("a") * col("b"), batch)
    assert kind == d(38, 0)
    assert [int(v) for v in values] == [int(n) * (10**18 - 3) for n in numbers]
    with pytest.raises(InputError):
        run(col("a") * col("b") * col("a") * 1000, batch)


def test_scales_that_add_up_past_38_go_to_decimal256() -> None:
    tiny = D(1).scaleb(-20)
    batch = pa.record_batch({"a": pa.array([tiny, D("0.5"), None], d(22, 20))})
    kind, values = run(col("a") * col("a"), batch)
    assert kind == pa.decimal256(44, 40)
    assert values == [D(1).scaleb(-40), D("0.25"), None]


@pytest.mark.parametrize(
    "expr",
    [I32 + 1, I32 * I32, I32 - -1, U8 - 1, I8 + I8, -col("i64"), col("i64") * 2, I8 // 0, I8 % 0, U64 + I8, WIDE + 1, DEC // 0,
     DEC.cast("int8"), F.cast("int64"), DEC.cast("decimal(15, 1)"), WIDE.cast("decimal(10, 0)"), S.cast("int64")],
    ids=str,
)  # fmt: skip
def test_nothing_overflows_or_is_cut_in_silence(expr: Expr) -> None:
    with pytest.raises(InputError) as caught:
        run(expr)
    assert str(expr) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("expr", "says"),
    [
        (col("I32") + 1, ["'I32'", "i32"]),
        (col("zone"), ["'zone'", "zoned"]),
        (DEC + S, ["dec + s", "decimal128(15, 2)", "string"]),
        (S < 5, ["s < 5"]),
        (fn.utf8_uper(S), ["utf8_uper", "utf8_upper"]),
        (fn.sum(DEC), ["row by row"]),
        (fn.cumulative_sum(DEC), ["row by row"]),
        (fn.random(), ["again"]),
        (fn.round(DEC, I8), ["i8 must be a value"]),
        (fn.round(DEC, nonsense=1), ["round"]),
        (when(DEC).then(1).otherwise(2), ["dec is not a condition"]),
        (when(B).then(1).otherwise("x"), ["case_when"]),
        (DEC.cast("int33"), ["int33"]),
        (lit("a", "int8"), ["'a'"]),
        (TS < "nonsense", ["nonsense"]),
        (ZONED < dt.datetime(2024, 1, 1), ["zone"]),
        (DAY + 1, ["day + 1"]),
        (~S, ["~s"]),
        (S.is_nan(), ["no NaN"]),
        (B + 1, ["b + 1"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_expression_is_found_before_a_row_is_read(expr: Expr, says: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        bind(expr, BATCH.schema)
    for words in says:
        assert words in str(caught.value), str(caught.value)
    assert caught.value.remedy


def test_a_column_that_is_there_twice() -> None:
    with pytest.raises(PlanError, match="2 times"):
        bind(col("a") + 1, pa.schema([("a", pa.int8()), ("a", pa.int8())]))


def test_a_guarded_branch_may_fail_where_it_is_not_taken() -> None:
    batch = pa.record_batch({"x": pa.array([0, 2, None, 5], pa.int64()), "y": pa.array([2**62, 1, 1, 2], pa.int64())})
    guarded = when(col("x") > 0).then(100 // col("x")).otherwise(None)
    assert run(guarded, batch)[1] == [None, 50, None, 20]
    chained = when(col("x") == 0).then(-1).when(100 // col("x") > 30).then(col("y") * 4).otherwise(0)
    assert run(chained, batch)[1] == [-1, 4, 0, 0]
    with pytest.raises(InputError):
        run(when(col("x") == 0).then(col("y") * 4).otherwise(0), batch)


def test_a_plain_column_passes_through_untouched() -> None:
    for name in BATCH.schema.names:
        assert str(bind(col(name), BATCH.schema).evaluate(BATCH)) == str(BATCH[name])


def test_an_empty_batch_and_a_deep_expression() -> None:
    empty = BATCH.slice(0, 0)
    assert bind(DEC * (1 - DEC), BATCH.schema).evaluate(empty).to_pylist() == []
    assert len(bind(lit(1), BATCH.schema).evaluate(empty)) == 0
    deep = I8 == 0
    for number in range(5000):
        deep = deep | (I8 == number)
    with pytest.raises(PlanError, match="too deep"):
        bind(deep, BATCH.schema)


def test_every_type_of_the_wild_can_be_computed_with() -> None:
    batch = pa.record_batch(
        {
            "view": pa.array(["a", None, "c"], pa.string_view()),
            "half": pa.array([1.0, None, 2.0], pa.float32()).cast(pa.float16()),
            "d32": pa.array([D("1.5"), None, D(2)], pa.decimal32(5, 2)),
            "large": pa.array(["a", None, "c"], pa.large_string()),
            "list": pa.array([[1], None, []]),
            "struct": pa.array([{"a": 1}, None, {"a": 2}]),
        }
    )
    assert run(col("view") + "!", batch)[1] == ["a!", None, "c!"]
    assert run(col("half") + 1, batch)[1] == [2.0, None, 3.0]
    assert run(col("d32") * 2, batch)[1] == [D("3.00"), None, D("4.00")]
    assert run(col("large") == col("view"), batch)[1] == [True, None, True]
    assert run(fn.list_value_length(col("list")), batch)[1] == [1, None, 0]
    assert run(fn.struct_field(col("struct"), indices="a"), batch)[1] == [1, None, 2]
    assert run(col("list").is_null(), batch)[1] == [False, True, False]


def test_a_literal_of_more_digits_than_38_beside_a_decimal256() -> None:
    column = pa.field("d", pa.decimal256(60, 3))
    batch = pa.record_batch([pa.array([D(10) ** 40, D(1)], column.type)], schema=pa.schema([column]))
    assert bind(col("d") < 10**38, batch.schema).evaluate(batch).to_pylist() == [False, True]
    assert bind(col("d") + 10**38, batch.schema).evaluate(batch).to_pylist()[1] == 10**38 + 1


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_instants_are_equal_whatever_their_zone_and_unit(unit: str) -> None:
    at = dt.datetime(2020, 1, 1, 1, 2, 3, tzinfo=dt.UTC)
    made = pa.array([at, None, at + dt.timedelta(1)], pa.timestamp(unit, "America/New_York"))
    batch = pa.RecordBatch.from_pydict({"at": made, "vienna": made.cast(pa.timestamp("us", "Europe/Vienna"))})
    for expr, truth in ((col("at") == at, [True, None, False]), (col("vienna") == col("at"), [True, None, True])):
        assert bind(expr, batch.schema).evaluate(batch).to_pylist() == truth


def test_dictionaries_of_any_type_are_computed_with() -> None:
    days = pa.array([dt.date(2020, 1, 1), None], pa.date32()).dictionary_encode()
    batch = pa.RecordBatch.from_pydict({"day": days})
    assert bind(col("day") == dt.date(2020, 1, 1), batch.schema).evaluate(batch).to_pylist() == [True, None]
