"""Columns in the names of folders: read as DuckDB reads them, and what our own sink writes is read again."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.io.formats import open_sink, open_source
from etlkit.io.parquet import ParquetSource
from etlkit.io.staged import NULL_PARTITION
from etlkit.plan.expr import col


def rows(source: ParquetSource, columns: list[str] | None = None) -> list[dict[str, object]]:
    splits = source.splits(columns, None, 1 << 30)
    return [row for split in splits for b in source.read(split, columns, None, 2) for row in b.to_pylist()]


def tree(folder: Path, *names: str) -> ParquetSource:
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({"a": [index]}), folder / name / "x.parquet")
    return ParquetSource([str(folder)])


@pytest.mark.parametrize(
    "names",
    [
        ("k=1", "k=2", f"k={NULL_PARTITION}"),
        ("k=2024-01-01", "k=2024-02-01"),
        ("k=007", "k=8"),
        ("k=a%20b", "k=%C3%A9"),
        ("k=1.5", "k=2"),
        ("k=x/l=1", "k=y/l=2"),
        ("k=", "k=x"),
    ],
)
def test_what_duckdb_reads(tmp_path: Path, names: tuple[str, ...]) -> None:
    duckdb = pytest.importorskip("duckdb")
    found = rows(tree(tmp_path, *names))
    query = f"select * from read_parquet('{tmp_path}/**/*.parquet', hive_partitioning=true) order by a"
    assert sorted(found, key=lambda row: str(row["a"])) == duckdb.sql(query).to_arrow_table().to_pylist()


def test_files_without_the_same_keys_have_none(tmp_path: Path) -> None:
    assert tree(tmp_path, "k=1", "l=2").schema.names == ["a"]


def test_the_files_own_column_comes_first(tmp_path: Path) -> None:
    assert tree(tmp_path, "a=7").schema.names == ["a"]
    assert rows(ParquetSource([str(tmp_path)])) == [{"a": 0}]


def test_only_the_folders_column(tmp_path: Path) -> None:
    assert rows(tree(tmp_path, "k=1", "k=2"), ["k"]) == [{"k": 1}, {"k": 2}]


def test_folders_that_a_filter_excludes_are_not_opened(tmp_path: Path) -> None:
    source = tree(tmp_path, "k=2024-01-01", "k=2024-02-01", f"k={NULL_PARTITION}")
    (tmp_path / "k=2024-02-01" / "x.parquet").write_bytes(b"not parquet")
    source = ParquetSource([str(tmp_path)])
    (split,) = source.splits(["k"], col("k") < date(2024, 2, 1), 1 << 30)
    assert [segment.file for segment in split.segments] == [0]


def test_what_partition_by_writes_is_read_again(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"k": ["a/b", None, "a/b"], "n": [5, 5, 6], "id": [1, 2, 3]})
    sink = open_sink("parquet", str(tmp_path), {"partition_by": ("k", "n")})
    sink.prepare("run", resuming=False)
    part = sink.stage(0, 1, batch.schema)
    part.write(batch)
    sink.commit(part.close(), lambda: None)
    source = open_source("parquet", [str(tmp_path)], {})
    assert isinstance(source, ParquetSource)
    found = sorted(rows(source), key=lambda row: str(row["id"]))
    assert found == [{"id": r["id"], "k": r["k"], "n": r["n"]} for r in batch.to_pylist()]
