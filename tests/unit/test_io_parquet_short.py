"""Decimals in eight bytes: the same values as the reader gives otherwise, and files that cannot be read so are read as ever."""

from __future__ import annotations

from decimal import Decimal as D
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.io import parquet_short
from etlkit.io.parquet import ParquetSource

TABLE = pa.table(
    {
        "price": pa.array([D("1.25"), None, D("-9999999999999.99")] * 40, pa.decimal128(15, 2)),
        "small": pa.array([D("0.5"), D(-7), None] * 40, pa.decimal128(5, 2)),
        "whole": pa.array([D(7), None, D(-(10**17))] * 40, pa.decimal128(18, 0)),
        "word": pa.array(["a", None, "c"] * 40),
    }
)
WIDE = pa.array([D("1.5")] * 120, pa.decimal128(30, 2))
WANTED = frozenset({"price", "small", "whole", "word"})


@pytest.fixture(autouse=True)
def _short_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_short, "LEAST_ROWS", 0)


def read(paths: list[Path], mode: str = "strict") -> tuple[list[pa.RecordBatch], pa.Table]:
    """The batches of a source that may give short decimals, and the rows of one that does not."""
    source = ParquetSource([str(path) for path in paths], mode)  # type: ignore[arg-type]
    short = source.in_short_decimals(WANTED)
    assert short.schema == source.schema
    splits = source.splits(None, None, 1)
    assert short.splits(None, None, 1) == splits
    plain = [batch for split in splits for batch in source.read(split, None, None, 50)]
    return [batch for split in splits for batch in short.read(split, None, None, 50)], pa.Table.from_batches(plain)


def kinds(batch: pa.RecordBatch) -> list[str]:
    return [str(kind) for kind in batch.schema.types]


@pytest.mark.parametrize("as_integers", [True, False])
@pytest.mark.parametrize("stored_schema", [True, False])
def test_the_same_values_in_eight_bytes(tmp_path: Path, as_integers: bool, stored_schema: bool) -> None:
    rows = TABLE.append_column("wide", WIDE)
    path = tmp_path / "a.parquet"
    pq.write_table(rows, path, row_group_size=70, store_decimal_as_integer=as_integers, store_schema=stored_schema)
    batches, plain = read([path])
    assert {tuple(kinds(batch)) for batch in batches} == {
        ("decimal64(15, 2)", "decimal64(5, 2)", "decimal64(18, 0)", "string", "decimal128(30, 2)")
    }
    assert plain == rows
    assert [batch.num_rows for batch in batches] == [50, 20, 50]
    assert pa.Table.from_batches(batches).cast(plain.schema) == plain


def test_a_file_of_duckdb(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    duckdb.from_arrow(TABLE).write_parquet(str(path))
    batches, plain = read([path])
    assert kinds(batches[0])[:3] == ["decimal64(15, 2)", "decimal64(5, 2)", "decimal64(18, 0)"]
    assert pa.Table.from_batches(batches).cast(plain.schema) == plain == TABLE


def test_what_cannot_be_read_so_is_read_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "a.parquet", TABLE.append_column("wide", WIDE)
    # pyarrow stores decimals of 30 digits in 13 bytes, DuckDB in 16.
    duckdb.from_arrow(rows).write_parquet(str(path))
    batches, plain = read([path])
    assert pa.Table.from_batches(batches) == plain == rows
    pq.write_table(TABLE, path, store_decimal_as_integer=True)
    footer = pq.read_metadata(path)
    assert parquet_short.short_footer(footer, WANTED) is not None
    assert parquet_short.short_footer(footer, {"word"}) is None
    monkeypatch.setattr(parquet_short, "LEAST_ROWS", len(TABLE) + 1)
    assert parquet_short.short_footer(footer, WANTED) is None


@pytest.mark.parametrize(
    ("writer", "old"),
    [
        ("parquet-mr version 1.8.1 (build 4aba4da)", True),
        ("parquet-mr version 1.12.3 (build f8dced1)", False),
        ("parquet-cpp version 1.5.1-SNAPSHOT", True),
        ("parquet-cpp-arrow version 3.0.0", True),
        ("parquet-cpp-arrow version 14.0.1", False),
        ("parquet-rs version 60.0.0", False),
        ("DuckDB version v2.0.1", False),
        ("Polars", False),
        ("impala version 1.3.0", True),
        ("", True),
    ],
)
def test_files_of_old_writers_keep_their_own_footer(writer: str, old: bool) -> None:
    """pyarrow reads those with care for what they got wrong, which it knows them for by the name in the footer."""
    assert parquet_short.is_old(writer) == old


def test_files_that_store_a_column_otherwise_are_cast_as_ever(tmp_path: Path) -> None:
    one, two = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(TABLE, one)
    pq.write_table(TABLE.set_column(0, "price", TABLE["small"]), two)
    batches, plain = read([one, two], "union")
    assert [kinds(batch)[0] for batch in batches] == ["decimal64(15, 2)"] * 3 + ["decimal128(15, 2)"] * 3
    made = [batch.cast(plain.schema) for batch in batches]
    assert pa.Table.from_batches(made) == plain
