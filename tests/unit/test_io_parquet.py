"""Parquet as a source: splits, exact batches, types, drift, damage."""

from __future__ import annotations

import decimal
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.errors import ConfigError, InputError
from etlkit.io.parquet import ParquetSource
from etlkit.io.source import Source


def write(path: Path, table: pa.Table, row_group_rows: int = 1000, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_rows, **options)
    return path


def numbers(start: int, stop: int) -> pa.Table:
    values = range(start, stop)
    return pa.table({"id": pa.array(values, pa.int64()), "name": [f"name-{value}" for value in values]})


def read_all(
    source: ParquetSource, columns: list[str] | None = None, batch_rows: int = 100, target: int = 1
) -> pa.Table:
    schema = source.schema if columns is None else pa.schema([source.schema.field(name) for name in columns])
    splits = source.splits(columns, None, target)
    return pa.Table.from_batches([b for split in splits for b in source.read(split, columns, None, batch_rows)], schema)


def test_it_is_a_source(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 10))
    assert isinstance(ParquetSource([str(tmp_path)]), Source)


def test_splits_are_whole_row_groups_in_order_and_small_files_share(tmp_path: Path) -> None:
    for file in range(4):
        write(tmp_path / f"{file}.parquet", numbers(file * 1000, file * 1000 + 1000), 250)
    source = ParquetSource([str(tmp_path)])
    one_by_one = source.splits(None, None, 1)
    assert [(s.segments[0].file, s.segments[0].start, s.segments[0].stop) for s in one_by_one] == [
        (file, group, group + 1) for file in range(4) for group in range(4)
    ]
    assert all(split.rows == 250 for split in one_by_one)
    (everything,) = source.splits(None, None, 1 << 30)
    assert [(s.file, s.start, s.stop) for s in everything.segments] == [(file, 0, 4) for file in range(4)]
    assert everything.rows == 4000
    assert everything.encoded_bytes == sum(split.encoded_bytes for split in one_by_one)
    assert everything.unit_bytes == max(split.unit_bytes for split in one_by_one)
    again = ParquetSource([str(tmp_path)]).splits(None, None, 1 << 30)
    assert list(again) == [everything]


def test_batches_are_exact_and_never_cross_a_row_group(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 700), 300)
    source = ParquetSource([str(tmp_path)])
    (split,) = source.splits(None, None, 1 << 30)
    assert [batch.num_rows for batch in source.read(split, None, None, 128)] == [128, 128, 44, 128, 128, 44, 100]


def test_only_the_columns_asked_for_in_the_order_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 10))
    source = ParquetSource([str(tmp_path)])
    assert read_all(source, ["name", "id"]).schema.names == ["name", "id"]
    (wide,), (narrow,) = source.splits(None, None, 1 << 20), source.splits(["id"], None, 1 << 20)
    assert narrow.encoded_bytes < wide.encoded_bytes and narrow.decoded_bytes < wide.decoded_bytes


def test_no_columns_still_count_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 700), 300)
    source = ParquetSource([str(tmp_path)])
    (split,) = source.splits([], None, 1 << 30)
    batches = list(source.read(split, [], None, 256))
    assert [batch.num_rows for batch in batches] == [256, 44, 256, 44, 100]
    assert batches[0].num_columns == 0 and split.decoded_bytes == 0


def test_wild_types_are_read_as_they_are(tmp_path: Path) -> None:
    view = pa.string_view()
    columns = {
        "view": pa.array(["a", None, "long enough not to be inlined"], view),
        "bytes_view": pa.array([b"a", None, b""], pa.binary_view()),
        "nested": pa.array([["x"], None, []], pa.list_(view)),
        "struct": pa.array([{"a": "x"}, None, {"a": None}], pa.struct([pa.field("a", view)])),
        "large": pa.array(["a", "b", None], pa.large_string()),
        "dec": pa.array([decimal.Decimal("1.23"), None, decimal.Decimal("-9999999999999.99")], pa.decimal128(15, 2)),
        "dec256": pa.array([decimal.Decimal(10) ** 50, None, 0], pa.decimal256(60, 0)),
        "when": pa.array([datetime(2026, 1, 1, tzinfo=UTC), None, None], pa.timestamp("us", "Europe/Berlin")),
        "nan": pa.array([float("nan"), None, 1.0]),
        "dict": pa.array(["a", None, "a"]).dictionary_encode(),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
        "a.b": [1, 2, 3],
    }
    write(tmp_path / "a.parquet", pa.table(columns))
    source = ParquetSource([str(tmp_path)])
    assert source.schema.field("view").type == pa.string()
    assert source.schema.field("bytes_view").type == pa.binary()
    assert source.schema.field("nested").type == pa.list_(pa.string())
    assert source.schema.field("struct").type == pa.struct([pa.field("a", pa.string())])
    assert source.schema.field("large").type == pa.large_string()
    assert source.schema.field("when").type == pa.timestamp("us", "Europe/Berlin")
    assert pa.types.is_dictionary(source.schema.field("dict").type)
    found = read_all(source)
    for name, values in columns.items():
        expected = values.to_pylist() if isinstance(values, pa.Array) else values
        assert repr(found[name].to_pylist()) == repr(expected), name


def test_year_9999_in_int96_is_read_as_it_is(tmp_path: Path) -> None:
    when = datetime(9999, 12, 31)
    write(
        tmp_path / "a.parquet",
        pa.table({"t": pa.array([when])}),
        use_deprecated_int96_timestamps=True,
        store_schema=False,
    )
    assert read_all(ParquetSource([str(tmp_path)]))["t"].to_pylist() == [when]


def test_dictionaries_that_differ_between_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"d": pa.array(["x", "y"]).dictionary_encode()}))
    write(tmp_path / "b.parquet", pa.table({"d": pa.array(["y", "z"]).dictionary_encode()}))
    assert read_all(ParquetSource([str(tmp_path)]))["d"].to_pylist() == ["x", "y", "y", "z"]


def test_drift_strict_names_file_and_column(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 3))
    write(tmp_path / "b.parquet", pa.table({"id": pa.array([1], pa.int32()), "name": ["x"]}))
    with pytest.raises(InputError, match=r"b\.parquet, column id: type int32.*int64") as caught:
        ParquetSource([str(tmp_path)]).splits(["name"], None, 1)
    assert "union" in caught.value.remedy and caught.value.exit_code == 65
    write(tmp_path / "b.parquet", pa.table({"id": [1]}))
    with pytest.raises(InputError, match=r"b\.parquet, column name: the column is missing"):
        ParquetSource([str(tmp_path)]).splits(None, None, 1)
    write(tmp_path / "b.parquet", numbers(0, 1).append_column("more", pa.array([1])))
    with pytest.raises(InputError, match=r"b\.parquet, column more"):
        ParquetSource([str(tmp_path)]).splits(None, None, 1)


def test_another_order_of_columns_is_no_drift(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 2))
    write(tmp_path / "b.parquet", numbers(2, 4).select(["name", "id"]))
    assert read_all(ParquetSource([str(tmp_path)])).equals(numbers(0, 4))


def test_drift_union_fills_nulls_and_widens(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"id": pa.array([1], pa.int32()), "old": ["x"]}))
    write(tmp_path / "b.parquet", pa.table({"id": pa.array([2**40]), "new": [1.5]}))
    source = ParquetSource([str(tmp_path)], schema="union")
    assert read_all(source).to_pydict() == {"id": [1, 2**40], "old": ["x", None], "new": [None, 1.5]}
    assert read_all(source, ["new"]).to_pydict() == {"new": [None, 1.5]}
    write(tmp_path / "c.parquet", pa.table({"id": [["a list"]]}))
    with pytest.raises(InputError, match=r"c\.parquet, column id: .*no type holds both"):
        _ = ParquetSource([str(tmp_path)], schema="union").schema


def test_drift_first_takes_the_first_files_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"id": pa.array([1], pa.int32()), "old": ["x"]}))
    write(tmp_path / "b.parquet", pa.table({"id": pa.array([2]), "new": [1.5]}))
    source = ParquetSource([str(tmp_path)], schema="first")
    assert read_all(source).to_pydict() == {"id": [1, 2], "old": ["x", None]}
    write(tmp_path / "b.parquet", pa.table({"id": pa.array([2**40])}))
    with pytest.raises(InputError, match=r"b\.parquet, row group 0, column id"):
        read_all(ParquetSource([str(tmp_path)], schema="first"))


def test_unknown_schema_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="sloppy"):
        ParquetSource(["x"], schema="sloppy")  # type: ignore[arg-type]


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_truncated_file_names_the_file(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.parquet", numbers(0, 1000))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.parquet: not readable as Parquet") as caught:
        ParquetSource([str(tmp_path)]).splits(None, None, 1)
    assert caught.value.remedy


def test_text_file_among_them_names_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 10))
    (tmp_path / "readme.md").write_text("hello, this is not parquet")
    with pytest.raises(InputError, match=r"readme\.md"):
        ParquetSource([str(tmp_path)]).splits(None, None, 1)


def test_corrupt_page_names_row_group_and_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", numbers(0, 3000), write_page_checksum=True, use_dictionary=False)
    source = ParquetSource([str(tmp_path)])
    chunk = pq.read_metadata(path).row_group(1).column(1)
    with path.open("r+b") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size // 2)
        file.write(b"\xff" * 8)
    with pytest.raises(InputError, match=r"a\.parquet, row group 1, column name"):
        read_all(source)


def test_row_groups_before_the_damage_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", numbers(0, 3000), write_page_checksum=True, use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(2).column(0)
    with path.open("r+b") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size // 2)
        file.write(b"\xff" * 8)
    source = ParquetSource([str(tmp_path)])
    (split,) = source.splits(None, None, 1 << 30)
    rows = 0
    with pytest.raises(InputError):
        for batch in source.read(split, None, None, 1000):
            rows += batch.num_rows
    assert rows == 2000


def test_same_column_name_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]))
    with pytest.raises(InputError, match="column x"):
        _ = ParquetSource([str(tmp_path)]).schema


def test_decoded_estimate_holds_for_dictionary_strings(tmp_path: Path) -> None:
    """A dictionary of long values decodes to a hundred times its file size; the estimate must see it coming."""
    values = [f"{'x' * 200}{index % 7}" for index in range(20_000)]
    write(tmp_path / "a.parquet", pa.table({"s": values}), 20_000)
    source = ParquetSource([str(tmp_path)])
    (split,) = source.splits(None, None, 1 << 30)
    real = sum(batch.nbytes for batch in source.read(split, None, None, 5000))
    assert real <= split.decoded_bytes <= 4 * real
    assert split.encoded_bytes * 50 < real


PEAK = """
import sys, pyarrow as pa
from etlkit.io.parquet import ParquetSource
source = ParquetSource([sys.argv[1]])
split = source.splits(None, None, 1)[0]
pool = pa.default_memory_pool()
assert sum(batch.num_rows for batch in source.read(split, None, None, 512)) > 50_000
assert pool.max_memory() <= split.unit_bytes, (pool.max_memory(), split.unit_bytes)
assert split.decoded_bytes > pool.max_memory() / 2
"""


@pytest.mark.parametrize("writer", ["pyarrow", "duckdb"])
def test_reading_in_slices_stays_within_the_unit(tmp_path: Path, writer: str) -> None:
    """DuckDB makes one page of a whole column chunk, which then is in memory at once, however small the batches."""
    path = tmp_path / "a.parquet"
    if writer == "duckdb":
        duckdb = pytest.importorskip("duckdb")
        text = "md5(i::varchar) || md5((i * 7)::varchar)"
        duckdb.sql(f"copy (select i, {text} as s from range(100000) t(i)) to '{path}' (row_group_size 100000)")
    else:
        values = range(100_000)
        write(path, pa.table({"i": values, "s": [f"{i * 7919:064}" for i in values]}), 100_000)
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    subprocess.run([sys.executable, "-c", PEAK, str(path)], check=True, env=environment)


def test_footers_are_not_kept(tmp_path: Path) -> None:
    for file in range(20):
        write(tmp_path / f"{file:02}.parquet", numbers(file, file + 1))
    source = ParquetSource([str(tmp_path)])
    assert len(source.splits(None, None, 1)) == 20
    assert len(source._known.footers) <= 2


def test_empty_file_gives_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0, 1).slice(0, 0))
    write(tmp_path / "b.parquet", numbers(0, 5))
    assert read_all(ParquetSource([str(tmp_path)])).num_rows == 5


def test_url(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/pq/a.parquet", write(tmp_path / "a.parquet", numbers(0, 1000), 300).read_bytes())
    try:
        assert read_all(ParquetSource(["memory://pq/*.parquet"])).equals(numbers(0, 1000))
    finally:
        memory.rm("/pq", recursive=True)
