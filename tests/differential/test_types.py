"""Tables of every type, made by Hypothesis: read, grouped, sorted, made distinct and joined as DuckDB does it; killed and resumed too.

What is read must come out bit for bit, a negative zero too. DuckDB has no decimal of 76 digits, no duration in Parquet
and no half float: what becomes of those is compared with Python's own counting.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import signal
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .forks import Forks
from .harness import rows_of, same_rows

UTC = dt.UTC


def integers(bits: int, signed: bool = True) -> st.SearchStrategy[Any]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.sampled_from([low, high, 0, 1]) | st.integers(max(low, -9), 9)


def floats(width: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1.5]) | st.floats(
        width=width, allow_subnormal=False
    )


TEXT = st.sampled_from(["", "a", "A", "é", "日本", "🙂", "a\x00b", "tab\t", 'quo"te']) | st.text(max_size=4).filter(
    lambda text: "\x00" not in text or text == "a\x00b"
)
MOMENT = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2050, 1, 1))
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    **{f"i{bits}": (getattr(pa, f"int{bits}")(), integers(bits)) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (getattr(pa, f"uint{bits}")(), integers(bits, False)) for bits in (8, 16, 32, 64)},
    "f16": (pa.float16(), st.sampled_from([0.0, -0.0, math.nan, math.inf, 1.5, -2.25, 1000.0])),
    "f32": (pa.float32(), floats(32)),
    "f64": (pa.float64(), floats(64)),
    "bool": (pa.bool_(), st.booleans()),
    "d9": (pa.decimal128(9, 2), st.integers(-300, 300).map(lambda n: Decimal(n).scaleb(-2))),
    "d7": (pa.decimal32(7, 2), st.integers(-300, 300).map(lambda n: Decimal(n).scaleb(-2))),
    "d38": (
        pa.decimal128(38, 6),
        st.integers(-(10**37), 10**37).map(lambda n: Decimal(n).scaleb(-6)) | st.just(Decimal(1)),
    ),
    "d76": (
        pa.decimal256(76, 3),
        st.sampled_from([Decimal(10) ** 70, -(Decimal(10) ** 70), Decimal("0.001"), Decimal(0)]),
    ),
    "date": (pa.date32(), st.dates(dt.date(1950, 1, 1), dt.date(2050, 1, 1))),
    "time32": (pa.time32("ms"), st.times().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))),
    "time64": (pa.time64("us"), st.times()),
    "ts_ms": (pa.timestamp("ms"), MOMENT.map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))),
    "ts_us": (pa.timestamp("us"), MOMENT),
    "ts_ns": (pa.timestamp("ns"), MOMENT),
    "ts_tz": (pa.timestamp("us", "Europe/Vienna"), MOMENT.map(lambda t: t.replace(tzinfo=UTC))),
    "dur": (pa.duration("us"), st.timedeltas(dt.timedelta(-99), dt.timedelta(99))),
    "text": (pa.string(), TEXT),
    "large": (pa.large_string(), TEXT),
    "view": (pa.string_view(), TEXT),
    "binary": (pa.binary(), st.binary(max_size=4)),
    "fixed": (pa.binary(2), st.sampled_from([b"ab", b"\x00\xff", b"zz"])),
    "dict": (pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["x", "y", "", "ü"])),
    "days": (pa.dictionary(pa.int16(), pa.date32()), st.dates(dt.date(2020, 1, 1), dt.date(2020, 1, 9))),
    "nothing": (pa.null(), st.none()),
}
READ_AS = {"view": pa.string(), "dict": pa.string(), "d7": pa.decimal128(7, 2), "days": pa.date32()}
"""Types that are another one in a pipeline."""
PAYLOAD = {
    "lists": (pa.list_(pa.int32()), st.lists(st.none() | st.integers(0, 9), max_size=3)),
    "structs": (pa.struct({"a": pa.int8(), "b": pa.string()}), st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.none() | TEXT})),
}  # fmt: skip
ALL = {**KINDS, **PAYLOAD}
UNKNOWN_TO_DUCKDB = {"d7", "d76", "dur", "f16", "nothing", "view"}
"""As keys: what DuckDB reads as another type, or what our reader makes another type."""


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 24))
    pools = {name: draw(st.lists(st.none() | values, min_size=1, max_size=4)) for name, (_, values) in ALL.items()}
    columns = {"n": pa.array(range(rows), pa.int64())}
    pick = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    for shift, (name, (kind, _)) in enumerate(ALL.items()):
        pool = pools[name]
        values = [pool[(at + pick[at] * (shift % 3 + 1)) % len(pool)] for at in range(rows)]
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        made = pa.array(values, plain)
        columns[name] = made.dictionary_encode().cast(kind) if plain != kind else made
    return pa.table(columns)


def save(table: pa.Table, folder: Path, format: str) -> None:
    """Three files of about as many rows, so that the dictionaries differ from file to file."""
    folder.mkdir()
    third = table.num_rows // 3 + 1
    for number in range(3):
        piece = table.slice(number * third, third)
        at = table.schema.get_field_index("dict")
        piece = piece.set_column(
            at, "dict", piece["dict"].cast(pa.string()).dictionary_encode().cast(table.schema.field(at).type)
        )
        if format == "parquet":
            pq.write_table(piece, folder / f"{number}.parquet", row_group_size=4)
        else:
            with pa.ipc.new_file(folder / f"{number}.arrow", piece.schema) as writer:
                writer.write_table(piece, max_chunksize=4)


def read(out: Path) -> pa.Table:
    return (
        pa.concat_tables(pa.ipc.open_file(path).read_all() for path in sorted(out.glob("part-*")))
        if any(out.glob("part-*"))
        else pa.table({})
    )


def plain(table: pa.Table) -> pa.Table:
    """Timestamps as counted nanoseconds, which Python's datetime does not have; half floats as floats."""
    columns = []
    for column in table.columns:
        kind = column.type
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64())
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def order(name: str, down: bool, then: str = "") -> str:
    nan = f"isnan({name}), " if name in ('"f32"', '"f64"') else ""
    return f"{name} is null, {nan}{name} {'desc' if down else ''}, {then or ('n' if down else 'n desc')}"


def sql_of(work: dict[str, Any]) -> list[str | None]:
    """The outputs after the first, in SQL; None where DuckDB does not know the type."""
    key, how, down = work["key"], work["how"], work["descending"]
    name = f'"{key}"'
    known = key not in UNKNOWN_TO_DUCKDB
    groups = [
        None if one in UNKNOWN_TO_DUCKDB else
        f"select \"{one}\", count(*) as rows, first(n order by n) \"first\", last(lists order by n) \"last\" from t group by 1"
        for one in work["groups"]
    ]  # fmt: skip
    pair = {"right": f"r.{name}", "outer": f"coalesce(l.{name}, r.{name}) {name}"}.get(how, f"l.{name}")
    more = "" if how in ("semi", "anti") else ", r.n m"
    word = {"outer": "full"}.get(how, how)
    return [*groups, *([
        f"select n, {name}, structs from t order by {order(name, down)}",
        f"select {name}, min(n) n from t group by 1",
        f"select l.n, {pair}, l.lists{more} from t l {word} join t r on l.{name} = r.{name}",
        f"select n from t order by {order(name, down, 'n')} limit 5",
        f"select n, item, {name} from t left join lateral (select unnest(lists) item) on true",
    ] if known else [None] * 5)]  # fmt: skip


def check(folder: Path, table: pa.Table, out: Path, work: dict[str, Any]) -> None:
    found = read(out / "0")
    if table.num_rows:
        assert found.column_names == table.column_names
        for mine, given_ in zip(plain(found).columns, plain(table).columns, strict=True):
            assert repr(mine.to_pylist()) == repr(given_.to_pylist())
        for field in found.schema:
            assert field.type == READ_AS.get(field.name, table.schema.field(field.name).type), field
    connection = duckdb.connect()
    connection.execute("SET threads = 1; SET TimeZone = 'UTC'")
    if work["format"] == "parquet":
        connection.execute(f"create view t as select * from read_parquet('{folder}/t/*.parquet')")
    else:
        names = [name for name in table.column_names if name not in UNKNOWN_TO_DUCKDB]
        connection.register("t", table.select(names))
    ordered = {len(work["groups"]) + at for at in (1, 4)}
    for at, sql in enumerate(sql_of(work), 1):
        if sql is not None:
            expected = connection.sql(sql).to_arrow_table()
            same_rows(plain(read(out / str(at))), plain(expected), ordered=at in ordered)
    for at, one in enumerate(work["groups"], 1):
        counted = (
            Counter(token(value) for value in table[one].to_pylist())
            if not pa.types.is_timestamp(table[one].type)
            else None
        )
        if counted is not None and table.num_rows:
            got = read(out / str(at))
            assert {token(row[0]): row[1] for row in rows_of(got.select([one, "rows"]))} == dict(counted)


def token(value: Any) -> str:
    return repr(value + 0.0 if isinstance(value, float) else value)


def campaign(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )


@pytest.mark.parametrize("format", ["parquet", "ipc"])
@campaign(10)
@given(table=tables(), data=st.data())
def test_every_type(format: str, table: pa.Table, data: st.DataObject, forks: Forks) -> None:
    run_and_compare(format, table, data, forks, killed=data.draw(st.integers(0, 2)) == 0)


@pytest.mark.long
@pytest.mark.parametrize("format", ["parquet", "ipc"])
@campaign(300)
@given(table=tables(), data=st.data())
def test_every_type_at_length(format: str, table: pa.Table, data: st.DataObject, forks: Forks) -> None:
    run_and_compare(format, table, data, forks, killed=True)


def run_and_compare(format: str, table: pa.Table, data: st.DataObject, forks: Forks, *, killed: bool) -> None:
    keys = [name for name in KINDS if name not in ("nothing",)]
    work = {
        "format": format,
        "groups": data.draw(st.lists(st.sampled_from(list(KINDS)), min_size=2, max_size=4, unique=True)),
        "key": data.draw(st.sampled_from(keys)),
        "how": data.draw(st.sampled_from(["inner", "left", "right", "outer", "semi", "anti"])),
        "descending": data.draw(st.booleans()),
        "widen": False,
    }
    if work["key"] in ("i8", "i16", "u8", "u32"):
        work["widen"] = data.draw(st.booleans())
    folder = Path(tempfile.mkdtemp(prefix="etlkit-types-"))
    try:
        save(table, folder / "t", format)
        (folder / "work.json").write_text(json.dumps(work))
        request = {"module": "tests.differential.types_queries", "name": "every type", "data": folder, "split_bytes": 1}
        whole = forks.run(**request, out=folder / "whole", state=folder / "whole-state")
        assert whole.code == 0, f"{whole.error}\n{work}"
        check(folder, table, folder / "whole", work)
        if killed and whole.splits > 1:
            at = data.draw(st.integers(1, whole.splits))
            again = {**request, "out": folder / "killed", "state": folder / "killed-state"}
            assert forks.run(**again, kill=f"split:{at}").code == -signal.SIGKILL
            done = forks.run(**again)
            assert done.code == 0, done.error
            check(folder, table, folder / "killed", work)
    finally:
        shutil.rmtree(folder)
