"""CSV, JSON lines and IPC as sinks: what is written is read again, by us and by DuckDB."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etlkit.errors import ConfigError, InputError
from etlkit.io.formats import open_sink, open_source


def write(folder: Path, format: str, *batches: pa.RecordBatch, **options: Any) -> Path:
    made = open_sink(format, str(folder), options)
    made.prepare("run", resuming=False)
    part = made.stage(0, 1, batches[0].schema)
    for batch in batches:
        part.write(batch)
    parts = part.close()
    made.recover(parts)
    made.commit(parts, lambda: None)
    return folder / parts[0].final


def read(format: str, path: Path, **options: Any) -> pa.Table:
    source = open_source(format, [str(path)], options)
    splits = source.splits(None, None, 1 << 30)
    return pa.Table.from_batches([b for split in splits for b in source.read(split, None, None, 1000)], source.schema)


PLAIN = pa.RecordBatch.from_pydict(
    {
        "i": [1, None, 2**62],
        "s": ['a "q", b', "two\nlines", None],
        "d": pa.array([Decimal("0.10"), None, Decimal("-9999999999999.99")], pa.decimal128(15, 2)),
        "day": [date(2024, 2, 29), None, date(1, 1, 1)],
        "when": pa.array([datetime(2024, 1, 1, 10, 0, 0, 5), None, None], pa.timestamp("us")),
        "flag": [True, False, None],
    }
)


@pytest.mark.parametrize(
    ("format", "name"), [("csv", "part-00000.csv"), ("json", "part-00000.jsonl"), ("ipc", "part-00000.arrow")]
)
def test_what_is_written_is_read(tmp_path: Path, format: str, name: str) -> None:
    path = write(tmp_path, format, PLAIN, PLAIN.slice(1, 1))
    assert path.name == name
    options = {} if format == "ipc" else {"schema": PLAIN.schema}
    assert read(format, tmp_path, **options).to_pylist() == [*PLAIN.to_pylist(), PLAIN.to_pylist()[1]]


@pytest.mark.parametrize("format", ["csv", "json"])
def test_duckdb_reads_the_same(tmp_path: Path, format: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = write(tmp_path, format, PLAIN)
    types = (
        "{'i': 'BIGINT', 's': 'VARCHAR', 'd': 'DECIMAL(15,2)', 'day': 'DATE', 'when': 'TIMESTAMP', 'flag': 'BOOLEAN'}"
    )
    call = f"read_csv('{path}', columns={types})" if format == "csv" else f"read_json('{path}', columns={types})"
    assert duckdb.sql(f"select * from {call}").to_arrow_table().to_pylist() == PLAIN.to_pylist()


def test_csv_writes_one_header_and_keeps_null_apart(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"a": ["x", None], "z": pa.array(["k", None]).dictionary_encode()})
    lines = write(tmp_path, "csv", batch, batch, delimiter=";").read_text().splitlines()
    assert lines == ['"a";"z"', '"x";"k"', ";", '"x";"k"', ";"]


def test_csv_refuses_nested_columns_by_name(tmp_path: Path) -> None:
    made = open_sink("csv", str(tmp_path), {})
    made.prepare("run", resuming=False)
    with pytest.raises(ConfigError, match="'deep'"):
        made.stage(0, 1, pa.schema([("deep", pa.list_(pa.int64()))]))


def test_json_values(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "d": pa.array([Decimal("1234567890123456789012345678.90")], pa.decimal128(38, 2)),
            "n": [float("nan")],
            "b": [b"\x00\xff"],
            "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "l": [[{"x": Decimal("1.10")}, None]],
            "ns": pa.array([1], pa.timestamp("ns")),
            "z": pa.array(["v"]).dictionary_encode(),
        }
    )
    text = write(tmp_path, "json", batch).read_text()
    assert text.count("\n") == 1 and '"d":1234567890123456789012345678.90' in text and '"x":1.10' in text
    said = json.loads(text, parse_float=Decimal)
    assert said["n"] is None and said["b"] == "AP8=" and said["m"] == {"k": 1} and said["z"] == "v"
    assert said["ns"] == "1970-01-01 00:00:00.000000001"


def test_ipc_collects_small_batches(tmp_path: Path) -> None:
    batches = [pa.RecordBatch.from_pydict({"z": pa.array([f"v{i}"]).dictionary_encode()}) for i in range(100)]
    path = write(tmp_path, "ipc", *batches)
    reader = pa.ipc.open_file(pa.OSFile(str(path)))
    assert reader.num_record_batches == 1 and reader.read_all()["z"].to_pylist() == [f"v{i}" for i in range(100)]


@pytest.mark.parametrize(("format", "options"), [("csv", {"delimiter": "||"}), ("ipc", {"compression": "rar"})])
def test_wrong_options_are_refused(format: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        open_sink(format, "out", options)


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_a_type_that_a_format_lacks_is_refused_by_its_column(tmp_path: Path, format: str) -> None:
    batch = pa.record_batch([pa.array([pa.MonthDayNano((1, 2, 3))])], names=["span"])
    with pytest.raises(ConfigError, match="column 'span' is a month_day_nano_interval"):
        write(tmp_path, format, batch)


def test_bytes_that_are_no_text_are_refused_by_their_column(tmp_path: Path) -> None:
    batch = pa.record_batch([pa.array(["a"]), pa.array([b"\xff"])], names=["n", "raw"])
    with pytest.raises(InputError, match="write_csv: column 'raw'"):
        write(tmp_path / "csv", "csv", batch)
    with pytest.raises(InputError, match="partition_by: 'raw'"):
        write(tmp_path / "parquet", "parquet", batch, partition_by=("raw",))


def test_json_keeps_nanoseconds(tmp_path: Path) -> None:
    moment = pa.array([1_577_840_523_000_000_001], pa.timestamp("ns", "America/New_York"))
    span = pa.array([-86_400_000_000_001], pa.duration("ns"))
    path = write(tmp_path, "json", pa.record_batch([moment, span], names=["at", "for"]))
    assert path.read_text() == '{"at":"2019-12-31 20:02:03.000000001-0500","for":-86400.000000001}\n'
