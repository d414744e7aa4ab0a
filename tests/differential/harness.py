"""One query, three ways: DuckDB; etlkit in one go; etlkit killed in the middle and resumed. The same rows each time.

The run that is killed also finds every partition too large, so that it is cut again or taken in blocks.

A ``Query`` is an entry of a table: a name, a function from data to pipelines, the same in SQL, and whether the order of rows is part
of the answer. ``check`` runs it. Integers, decimals and everything else must be equal; floats to 12 digits, since their
sums fold in another order.
"""

from __future__ import annotations

import hashlib
import math
import signal
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

import etlkit as ek

from .forks import Forks, Ran

if TYPE_CHECKING:
    import duckdb

CRASH_POINTS = (
    "manifest.synced:2", "manifest.linked:2", "manifest.linked:3", "manifest.folder_synced:3", "run.synced:1", "sink.staged:1",
    "sink.commit:1", "sink.published:1", "sink.marked:1",
)  # fmt: skip
"""Where every second query is killed; the others are killed between two splits."""


@dataclass(frozen=True)
class Data:
    """The tables below one folder."""

    root: Path

    def __call__(self, table: str, **options: object) -> ek.Pipeline:
        return ek.read_parquet(str(self.root / table), **options)

    def path(self, table: str) -> str:
        return str(self.root / table)


HOLDS = ((True, True), (True, False), (False, True))
"""Whether a join may hold a side before the kill, and after it. The run that is not killed may."""

Build = Callable[[Data], ek.Pipeline]
Write = Callable[[ek.Pipeline, str], ek.Pipeline]
Read = Callable[[Path], pa.Table]


def write_parquet(pipeline: ek.Pipeline, out: str) -> ek.Pipeline:
    return pipeline.write_parquet(out)


def read_parquet(out: Path) -> pa.Table:
    """The parts in the order of their names."""
    parts = sorted(path for path in out.rglob("*.parquet"))
    return pa.concat_tables([pq.ParquetFile(path).read() for path in parts]) if parts else pa.table({})


@dataclass(frozen=True)
class Query:
    """``ordered``: the rows must come in the order of the SQL. ``more``: further outputs of the same job, by SQL."""

    name: str
    build: Build
    sql: str
    ordered: bool = False
    write: Write = write_parquet
    read: Read = read_parquet
    more: Sequence[tuple[Build, str]] = ()
    close: float = 1e-12
    """How far apart two floats may be, as a share."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Casts of what is read back, where the format of the output knows fewer types."""

    def pipelines(self, data: Path, out: Path) -> list[ek.Pipeline]:
        tables = Data(data)
        made = [self.write(self.build(tables), str(out / "0"))]
        return made + [self.write(build(tables), str(out / str(at + 1))) for at, (build, _) in enumerate(self.more)]

    @property
    def sqls(self) -> list[str]:
        return [self.sql, *(sql for _, sql in self.more)]


def table_of(queries: Iterable[Query]) -> dict[str, Query]:
    named = {query.name: query for query in queries}
    return named


def expected_of(query: Query, connection: duckdb.DuckDBPyConnection) -> list[pa.Table]:
    return [connection.sql(sql).to_arrow_table() for sql in query.sqls]


def check(query: Query, module: str, data: Path, expected: Sequence[pa.Table], forks: Forks, folder: Path) -> None:
    """Run it whole and compare; kill it and resume it and compare again."""
    request = {"module": module, "name": query.name, "data": data}
    whole = forks.run(**request, out=folder / "whole", state=folder / "whole-state")
    assert whole.code == 0, whole.error
    compare(query, folder / "whole", expected)
    before, after = HOLDS[zlib.crc32(query.name.encode()) % len(HOLDS)]
    for at, point in enumerate(points_of(query.name, whole)):
        out = folder / f"killed-{at}"
        again = {**request, "out": out, "state": folder / f"killed-{at}-state", "tight": True}
        killed = forks.run(**again, kill=point, hold=before)
        if killed.code == 0:
            continue  # it was over before it came to that point
        assert killed.code == -signal.SIGKILL, killed.error
        done = forks.run(**again, hold=after)
        assert done.code == 0, done.error
        assert done.attempts == 2
        compare(query, out, expected)
        return
    raise AssertionError("it was never killed")


def points_of(name: str, whole: Ran) -> list[str]:
    """Where to kill: at a point of a commit or before one of its splits, as the query's name has it; then the latter."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    share = 0.3 + 0.65 * (draw % 997) / 997
    split = f"split:{max(1, math.ceil(whole.splits * share))}"
    return [CRASH_POINTS[draw // 2 % len(CRASH_POINTS)], split] if draw % 2 else [split]


def compare(query: Query, out: Path, expected: Sequence[pa.Table]) -> None:
    for at, table in enumerate(expected):
        folder = out / str(at)
        assert (folder / "_SUCCESS").exists()
        strange = [p.name for p in folder.rglob("*") if p.is_file() and not p.name.startswith(("part-", "_SUCCESS"))]
        assert not strange, strange
        found = query.read(folder)
        same_rows(found, table, ordered=query.ordered, close=query.close, types=query.types)


def same_rows(
    found: pa.Table, expected: pa.Table, *, ordered: bool, close: float = 1e-12, types: Mapping[str, str] | None = None
) -> None:
    assert found.num_rows == expected.num_rows, f"{found.num_rows} rows, DuckDB {expected.num_rows}"
    if not expected.num_rows:
        return
    assert found.column_names == expected.column_names
    if identical(found, expected, ordered):
        return
    mine, theirs = rows_of(found), rows_of(expected)
    if not ordered:
        mine, theirs = sorted(mine, key=sort_key), sorted(theirs, key=sort_key)
    for at, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert len(a) == len(b) and all(equal(x, y, close) for x, y in zip(a, b, strict=True)), (
            f"row {at}: {a!r}, DuckDB {b!r}"
        )


def identical(found: pa.Table, expected: pa.Table, ordered: bool) -> bool:
    """Whether Arrow finds every value equal. If not, the rows are compared one by one, which also says where they differ."""
    try:
        found, expected = found.cast(expected.schema).combine_chunks(), expected.combine_chunks()
        if not ordered:
            keys = [(name, "ascending") for name in expected.column_names]
            found, expected = found.sort_by(keys), expected.sort_by(keys)
    except pa.ArrowException:
        return False
    return bool(found.equals(expected))


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def equal(a: Any, b: Any, close: float = 1e-12) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, float) or isinstance(b, float):
        a, b = float(a), float(b)
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=close, abs_tol=close)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(equal(x, y, close) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key], close) for key in a)
    return bool(a == b)


def sort_key(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Exact columns first; floats last and rounded, so that a last digit does not change the order."""
    exact = tuple(part(value) for value in row if not isinstance(value, float))
    return exact, tuple(part(value) for value in row if isinstance(value, float))


def part(value: Any) -> tuple[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return type(value).__name__, repr(value)
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            return "number+", repr(value)
        return "number", float(f"{value:.9g}") + 0.0
    return "number", value
