"""JSON lines as a source."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etlkit.errors import InputError
from etlkit.io.formats import open_source
from etlkit.io.source import Source


def source(path: Path, **options: Any) -> Source:
    return open_source("json", [str(path)], options)


def read(made: Source, columns: list[str] | None = None, target: int = 1 << 20) -> pa.Table:
    schema = made.schema if columns is None else pa.schema([made.schema.field(name) for name in columns])
    splits = made.splits(columns, None, target)
    return pa.Table.from_batches([b for split in splits for b in made.read(split, columns, None, 100)], schema)


def write(path: Path, *lines: str) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def test_values_are_what_duckdb_reads(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = write(
        tmp_path / "a.jsonl",
        '{"a":1,"b":"2024-01-31","c":1.25,"d":{"x":[1,null]},"t":"2024-01-01T10:00:00","s":"é\\n\\u00e9","z":null}',
        '{"a":-2,"e":true,"t":"2024-01-01T10:00:05","s":""}',
        "",
        '{"a":null,"c":3,"s":null,"d":null}',
    )
    expected = duckdb.sql(f"select * from read_json('{path}', format='newline_delimited')").to_arrow_table()
    found = read(source(path))
    assert sorted(found.schema.names) == sorted(expected.schema.names)
    for name in expected.schema.names:
        # DuckDB takes 128 bits for whole numbers of both signs; the values are the same.
        values = [int(value) if isinstance(value, Decimal) else value for value in expected[name].to_pylist()]
        assert repr(found[name].to_pylist()) == repr(values), name


def test_explicit_types_are_exact(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"p":9999999999999.99,"d":"2024-01-31","n":1}', '{"p":0.10}', '{"p":3}')
    made = source(path, schema={"p": pa.decimal128(15, 2), "d": "date32", "later": "int64"})
    found = read(made)
    assert found["p"].to_pylist() == [Decimal("9999999999999.99"), Decimal("0.10"), Decimal("3.00")]
    assert found.schema.field("d").type == pa.date32() and found["later"].null_count == 3


def test_pieces_lines_and_bad_rows(tmp_path: Path) -> None:
    lines = [f'{{"id":{i},"s":"text {i}"}}' for i in range(1000)]
    path = write(tmp_path / "a.jsonl", *lines)
    made = source(path)
    assert len(made.splits(None, None, 3000)) > 5
    assert read(made, target=3000)["id"].to_pylist() == list(range(1000))
    lines[700] = '{"id":700,'
    lines[800] = '{"id":"eight hundred"}'
    write(path, *lines)
    with pytest.raises(InputError) as caught:
        read(source(path), target=3000)
    assert caught.value.place == f"{path}, line 701"
    kept = read(source(path, bad_rows="skip"), target=3000)["id"].to_pylist()
    assert kept == [i for i in range(1000) if i not in (700, 800)]


def test_only_the_columns_asked_for_and_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a":1,"b":"x"}', '{"a":2,"b":"y","new":3}')
    made = source(path)
    assert read(made, ["b"]).to_pydict() == {"b": ["x", "y"]}
    (split,) = made.splits([], None, 1 << 20)
    assert [batch.num_rows for batch in made.read(split, [], None, 10)] == [2]


def test_compressed_and_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    data = gzip.compress(b"".join(b'{"a":%d}\n' % i for i in range(5000)))
    path.write_bytes(data)
    assert read(source(path))["a"].to_pylist() == list(range(5000))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz"):
        read(source(path))


def test_a_line_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":"x"}\n{"a":"\xff"}\n{"\xfe":1}\n')
    with pytest.raises(InputError, match="line 2"):
        read(source(path))
    assert read(source(path, bad_rows="skip")).to_pylist() == [{"a": "x"}]


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "this is no JSON")
    with pytest.raises(InputError, match=r"a\.jsonl"):
        read(source(path))
