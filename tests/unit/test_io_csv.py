"""CSV as a source: values, splits in the middle of a file, bad rows and their place."""

from __future__ import annotations

import bz2
import gzip
import json
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etlkit.errors import ConfigError, InputError
from etlkit.io import records
from etlkit.io.formats import open_source
from etlkit.io.source import Source


def source(*paths: Path, **options: Any) -> Source:
    return open_source("csv", [str(path) for path in paths], options)


def read(made: Source, columns: list[str] | None = None, target: int = 1 << 20, batch_rows: int = 100) -> pa.Table:
    schema = made.schema if columns is None else pa.schema([made.schema.field(name) for name in columns])
    splits = made.splits(columns, None, target)
    return pa.Table.from_batches([b for split in splits for b in made.read(split, columns, None, batch_rows)], schema)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_values_are_what_duckdb_reads(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = write(
        tmp_path / "a.csv",
        "int,text,quoted,day,when,flag,double,zeros,time,nothing,big\n"
        '1,NA,"a ""b"", c",2024-01-31,2024-01-01 10:00:00,true,1.5,007,10:00:00,,1\n'
        ',"",  sp ,,2024-01-01 10:00:00.25,,nan,8,,,99999999999999999999\n'
        '-3,NULL,"two\nlines",9999-12-31,,false,1e3,000,23:59:59,,2\n',
    )
    expected = duckdb.sql(f"select * from '{path}'").to_arrow_table()
    found = read(source(path))
    for name in expected.schema.names:
        assert repr(found[name].to_pylist()) == repr(expected[name].to_pylist()), name
        if name not in ("nothing",):
            assert found.schema.field(name).type == expected.schema.field(name).type, name


def test_explicit_types_are_exact(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "price,n,s\n9999999999999.99,1,5\n0.10,2,6\n")
    found = read(source(path, schema={"price": pa.decimal128(15, 2), "s": "string"}))
    assert found["price"].to_pylist() == [Decimal("9999999999999.99"), Decimal("0.10")]
    assert found.schema.field("n").type == pa.int64() and found["s"].to_pylist() == ["5", "6"]
    by_name = source(path, schema={"price": "decimal(15, 2)"})
    assert by_name.schema.field("price").type == pa.decimal128(15, 2)


def test_without_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1;x\n2;y\n")
    assert read(source(path, header=False, delimiter=";")).to_pydict() == {"column0": [1, 2], "column1": ["x", "y"]}
    named = source(path, header=False, delimiter=";", schema={"a": "int32", "b": "string"})
    assert read(named).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_bom_crlf_blank_lines_and_no_newline_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf\r\na,b\r\n1,x\r\n\r\n2,y")
    assert read(source(path)).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_columns_go_by_name_over_files(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "a,b\n1,x\n")
    write(tmp_path / "2.csv", "b,a\ny,2\n")
    assert read(source(tmp_path)).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    assert read(source(tmp_path), ["b"]).to_pydict() == {"b": ["x", "y"]}


@pytest.mark.parametrize(("header", "column"), [("a", "b"), ("a,b,c", "c")])
def test_drift_names_file_and_column(tmp_path: Path, header: str, column: str) -> None:
    write(tmp_path / "1.csv", "a,b\n1,x\n")
    write(tmp_path / "2.csv", f"{header}\n{','.join('1' for _ in header.split(','))}\n")
    with pytest.raises(InputError, match=rf"2\.csv, column {column}"):
        read(source(tmp_path))


def test_a_file_is_read_in_pieces_from_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 100)
    monkeypatch.setattr("etlkit.io.text_source.BLOCK_BYTES", 100)
    rows = [(i, f'line\n"{i}", of several' if i % 3 else f"plain {i}") for i in range(500)]
    text = "".join('{},"{}"\n'.format(i, s.replace('"', '""')) for i, s in rows)
    path = write(tmp_path / "a.csv", "id,s\n" + text)
    made = source(path)
    splits = made.splits(None, None, 1000)
    assert len(splits) > 5 and list(source(path).splits(None, None, 1000)) == list(splits)
    late = list(made.read(splits[3], None, None, 7))
    assert late[0].column("id")[0].as_py() > 0 and [b.num_rows for b in late[:-1]] == [7] * (len(late) - 1)
    assert read(made, target=1000).to_pydict() == {"id": [i for i, _ in rows], "s": [s for _, s in rows]}


def test_small_files_share_a_split(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.csv", f"a\n{number}\n")
    (split,) = source(tmp_path).splits(None, None, 1 << 20)
    assert len(split.segments) == 10 and split.rows is None


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_compressed_files_are_one_piece(tmp_path: Path, ending: str, pack: Any) -> None:
    data = ("a,b\n" + "".join(f"{i},text {i}\n" for i in range(5000))).encode()
    path = tmp_path / f"a.csv.{ending}"
    path.write_bytes(pack(data))
    made = source(path)
    assert len(made.splits(None, None, 10)) == 1
    assert read(made)["a"].to_pylist() == list(range(5000))
    path.write_bytes(pack(data)[:-20])
    with pytest.raises(InputError, match=rf"a\.csv\.{ending}"):
        read(source(path))


def test_no_columns_still_count_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b\n1,x\n2,\n\n3,z\n")
    made = source(path)
    (split,) = made.splits([], None, 1 << 20)
    assert [batch.num_rows for batch in made.read(split, [], None, 2)] == [2, 1]


BAD = "a,b\n1,x\n2,y\noops,z\n4\n5,v\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (BAD, "line 4, column a"),
        ("a,b\n1,x\n2\n", "line 3"),
        ('a,b\n1,"two\nlines"\n2,x,y\n', "line 4"),
        ('a,b\n1,x\n2,"never closed\n3,z\n', "line 3"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, text: str, place: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(InputError) as caught:
        read(source(path, schema={"a": "int64"}))
    assert caught.value.place == f"{path}, {place}" and "bad_rows" in caught.value.remedy


def test_the_line_is_right_in_the_middle_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 300)
    lines = [f'{i},"x\ny"' for i in range(1000)]
    lines[900] = 'oops,"x\ny"'
    path = write(tmp_path / "a.csv", "a,b\n" + "\n".join(lines) + "\n")
    made = source(path, schema={"a": "int64"})
    splits = made.splits(None, None, 2000)
    bad = []
    for split in splits:
        try:
            list(made.read(split, None, None, 100))
        except InputError as error:
            bad.append(error.place)
    assert bad == [f"{path}, line {2 + 2 * 900}, column a"] and len(splits) > 3


def test_a_value_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,x\n2,\xff\xfe\n")
    with pytest.raises(InputError, match=r"line 3, column b"):
        read(source(path))


def test_bad_rows_are_skipped_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", BAD)
    assert read(source(path, schema={"a": "int64"}, bad_rows="skip")).to_pydict() == {
        "a": [1, 2, 5],
        "b": ["x", "y", "v"],
    }


def test_bad_rows_are_quarantined_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", BAD)
    for _ in range(2):
        made = source(path, schema={"a": "int64"}, bad_rows="quarantine", quarantine=str(tmp_path / "q"))
        assert read(made)["a"].to_pylist() == [1, 2, 5]
    (kept,) = (tmp_path / "q").iterdir()
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(row["file"], row["line"], row["text"]) for row in rows] == [(str(path), 4, "oops,z"), (str(path), 5, "4")]
    assert all(row["reason"] for row in rows)


def test_quarantine_stands_beside_the_input_and_is_not_input(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", BAD)
    for _ in range(2):
        assert read(source(tmp_path, schema={"a": "int64"}, bad_rows="quarantine")).num_rows == 3
    assert len(list((tmp_path / "_bad_rows").iterdir())) == 1


def test_a_quote_inside_a_plain_value_is_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 1000)
    lines = [f'{i},5" pipe\n' if i % 2 else f'{i},"a ""b""\n{i}"\n' for i in range(2001)]
    path = write(tmp_path / "a.csv", "id,s\n" + "".join(lines))
    made = source(path)
    assert read(made, target=4000)["id"].to_pylist() == list(range(2001))
    assert read(made)["s"].to_pylist()[-2:] == ['5" pipe', 'a "b"\n2000']


def test_a_row_without_end_is_refused_before_memory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 3 << 20)
    path = write(tmp_path / "a.csv", 'a,b\n1,x\n2,"' + "never closed\n" * 600_000)
    with pytest.raises(InputError, match="MiB"):
        read(source(path))


@pytest.mark.parametrize(
    "options", [{"bad_rows": "ignore"}, {"delimiter": ""}, {"delimiter": "ab"}, {"schema": {"a": "intt"}}]
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        source(tmp_path, **options)


def test_a_type_for_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\n1\n")
    with pytest.raises(ConfigError, match="'x'"):
        _ = source(path, schema={"x": "int64"}).schema


def test_dates_and_times_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "d,t,w\n2024-02-29,10:00:00,2024-02-29T10:00:00\n")
    made = source(path, schema={"d": "date32", "t": pa.time64("us"), "w": pa.timestamp("us")})
    assert read(made).to_pylist() == [{"d": date(2024, 2, 29), "t": time(10), "w": datetime(2024, 2, 29, 10)}]
