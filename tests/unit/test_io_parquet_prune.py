"""Row groups that statistics exclude are left out, and never one that holds a row that is wanted."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.io.parquet import ParquetSource
from etlkit.plan.expr import Expr, col


@pytest.fixture
def source(tmp_path: Path) -> ParquetSource:
    """Row group i of 0…3 holds i*10 … i*10+9 in each column; row group 4 holds nulls."""
    numbers = [*range(40), *[None] * 10]

    def column(make: Any, kind: pa.DataType) -> pa.Array:
        return pa.array([None if n is None else make(n) for n in numbers], kind)

    table = pa.table(
        {
            "int": column(int, pa.int64()),
            "unsigned": column(lambda n: n + 2**63, pa.uint64()),
            "dec": column(lambda n: Decimal(n) / 10, pa.decimal128(15, 2)),
            "dec_wide": column(lambda n: Decimal(n) / 10, pa.decimal128(30, 2)),
            "double": column(float, pa.float64()),
            "single": column(lambda n: n / 10, pa.float32()),
            "text": column(lambda n: f"{n:02}", pa.string()),
            "day": column(lambda n: date(2026, 1, 1 + n % 10).replace(month=1 + n // 10), pa.date32()),
            "when": column(lambda n: datetime(2026, 1 + n // 10, 1 + n % 10, tzinfo=UTC), pa.timestamp("us", "UTC")),
            "nano": column(lambda n: n, pa.timestamp("ns")),
            "flag": column(lambda n: n >= 30, pa.bool_()),
            "list": column(lambda n: [n], pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    return ParquetSource([str(tmp_path)])


def kept(source: ParquetSource, predicate: Expr | None) -> list[int]:
    splits = source.splits(None, predicate, 1)
    groups = [group for split in splits for part in split.segments for group in range(part.start, part.stop)]
    assert source.row_groups_skipped == (5 - len(groups), 5)
    return groups


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        (col("int") < 10, [0]),
        (col("int") <= 10, [0, 1]),
        (col("int") > 29, [3]),
        (col("int") >= 29, [2, 3]),
        (col("int") == 15, [1]),
        (col("int") == 99, []),
        (15 > col("int"), [0, 1]),  # noqa: SIM300
        ((col("int") > 9) & (col("text") < "20"), [1]),
        (col("int").isin([5, 35, 99]), [0, 3]),
        (col("int").is_null(), [4]),
        (col("int").is_not_null(), [0, 1, 2, 3]),
        (col("dec") < Decimal("1.00"), [0]),
        (col("dec_wide") >= Decimal("3.9"), [3]),
        (col("dec") < 1, [0]),
        (col("double") < 10.0, [0]),
        (col("day") >= date(2026, 4, 1), [3]),
        (col("when") < datetime(2026, 2, 1, tzinfo=UTC), [0]),
        (col("flag") == True, [3]),  # noqa: E712 - an expression, not a comparison of Python's
    ],
)
def test_what_is_left(source: ParquetSource, predicate: Expr | None, expected: list[int]) -> None:
    assert kept(source, predicate) == expected


@pytest.mark.parametrize(
    "predicate",
    [
        col("double") > 39.0,  # a NaN is greater, and statistics do not count it
        col("single") < 0.1,
        col("unsigned") < 5,
        (col("int") < 5) | (col("text") == "35"),
        col("int") + 1 < 5,
        col("list").is_null(),
    ],
)
def test_what_statistics_cannot_tell_is_read(source: ParquetSource, predicate: Expr) -> None:
    assert kept(source, predicate)[:4] == [0, 1, 2, 3]


def test_a_float_against_decimals_never_loses_the_border(source: ParquetSource) -> None:
    """0.9 as a float is a little above 0.9 as a decimal, or below; a literal is exact later on."""
    for tenths in range(40):
        group = tenths // 10
        assert group in kept(source, col("dec") >= tenths / 10)
        assert group in kept(source, col("dec") <= tenths / 10)
        assert group in kept(source, col("dec") == tenths / 10)
    assert kept(source, col("dec") < 0.5) == [0]


def test_nanoseconds_are_not_compared(source: ParquetSource) -> None:
    assert kept(source, col("nano") < datetime(1960, 1, 1))[:4] == [0, 1, 2, 3]
