"""Parquet as a sink: row groups, encodings, compression, round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.errors import ConfigError, PlanError
from etlkit.io.formats import open_sink, open_source
from etlkit.io.parquet_sink import dictionary_columns


def write(folder: Path, batches: list[pa.RecordBatch], **options: Any) -> pq.ParquetFile:
    made = open_sink("parquet", str(folder), options)
    made.prepare("run", resuming=False)
    part = made.stage(0, 1, batches[0].schema)
    for batch in batches:
        part.write(batch)
    made.commit(part.close(), lambda: None)
    return pq.ParquetFile(folder / "part-00000.parquet")


def numbers(start: int, stop: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"id": list(range(start, stop))})


def test_row_groups_fill_up_and_no_more(tmp_path: Path) -> None:
    batches = [numbers(at, at + 30) for at in range(0, 300, 30)] + [numbers(300, 500)]
    file = write(tmp_path, batches, row_group_rows=100)
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert sizes == [90, 90, 90, 30, 100, 100]
    assert file.read()["id"].to_pylist() == list(range(500))


def test_wide_rows_are_written_out_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etlkit.io.parquet_sink.ROW_GROUP_BYTES", 800)
    assert write(tmp_path, [numbers(0, 60), numbers(60, 120), numbers(120, 130)]).num_row_groups == 2


def test_dictionary_only_where_values_repeat(tmp_path: Path) -> None:
    rows = 10_000
    batch = pa.RecordBatch.from_pydict(
        {
            "key": list(range(rows)),
            "flag": [f"flag {i % 3}" for i in range(rows)],
            "text": [f"text {i}" for i in range(rows)],
            "none": pa.nulls(rows),
            "bool": [i % 2 == 0 for i in range(rows)],
            "list": [[i % 5] for i in range(rows)],
            "map": pa.array([[("k", {"a": 1})]] * rows, pa.map_(pa.string(), pa.struct([("a", pa.int32())]))),
        }
    )
    assert dictionary_columns(batch) == ["flag", "list.list.element", "map.key_value.key", "map.key_value.value.a"]
    group = write(tmp_path, [batch]).metadata.row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    assert [chunk.path_in_schema for chunk in chunks if chunk.has_dictionary_page] == dictionary_columns(batch)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "lz4", "none"])
def test_what_is_written_is_read(tmp_path: Path, compression: str) -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "d": pa.array([1, None, 3], pa.decimal128(15, 2)),
            "s": pa.array([{"a": [1, None]}, None, {"a": []}]),
            "f": [float("nan"), None, -0.0],
            "t": pa.array([0, None, 1], pa.timestamp("us", "UTC")),
            "z": pa.array(["x", None, "x"]).dictionary_encode(),
        }
    )
    write(tmp_path, [batch], compression=compression)
    source = open_source("parquet", [str(tmp_path)], {})
    (split,) = source.splits(None, None, 1 << 20)
    (found,) = source.read(split, None, None, 100)
    assert found.schema == batch.schema and repr(found.to_pydict()) == repr(batch.to_pydict())


def test_wrong_options_are_refused_with_what_would_do() -> None:
    with pytest.raises(ConfigError, match="snappy"):
        open_sink("parquet", "out", {"compression": "rar"})
    with pytest.raises(ConfigError, match="row_group_rows"):
        open_sink("parquet", "out", {"row_group_rows": 0})
    with pytest.raises(PlanError, match="did you mean 'compression'"):
        open_sink("parquet", "out", {"compresion": "zstd"})
    with pytest.raises(PlanError, match="one of parquet"):
        open_source("orc", ["x"], {})


def test_describe_is_json() -> None:
    import json

    described = open_sink("parquet", "out", {"partition_by": ("a",)}).describe()
    assert json.loads(json.dumps(described))["partition_by"] == ["a"]
    assert json.dumps(open_source("parquet", ["x"], {"schema": "union"}).describe())
