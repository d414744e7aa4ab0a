"""The contracts that authors run on their sinks and sources, run on ours; and that they find what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.io.formats import open_sink, open_source
from etlkit.io.sink import Part, Sink
from etlkit.io.source import Source
from etlkit.testing.sink_contract import SinkContract
from etlkit.testing.source_contract import SourceContract
from tests.conftest import REPOSITORY

# ── sinks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class FolderSinkContract(SinkContract):
    format: ClassVar[str]
    pattern: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    def open_sink(self, place: Path) -> Sink:
        return open_sink(self.format, str(place / "out"), self.options)

    def read_rows(self, place: Path) -> pa.Table | None:
        files = [path for path in sorted((place / "out").rglob(self.pattern)) if ".etlkit" not in str(path)]
        return pa.concat_tables([self.open_file(path) for path in files]) if files else None

    def open_file(self, path: Path) -> pa.Table:
        raise NotImplementedError

    def lose(self, place: Path, part: Part) -> None:
        next((place / "out").rglob(part.name)).unlink()


class TestParquetSink(FolderSinkContract):
    format, pattern = "parquet", "*.parquet"

    def open_file(self, path: Path) -> pa.Table:
        return pq.ParquetFile(path).read()


class TestParquetSinkSeenEarly(TestParquetSink):
    options: ClassVar[dict[str, Any]] = {"visible": "checkpoint", "target_file_bytes": 2000}


class TestParquetSinkInPartitions(TestParquetSink):
    options: ClassVar[dict[str, Any]] = {"partition_by": ("name",)}


class TestCsvSink(FolderSinkContract):
    format, pattern = "csv", "*.csv"

    def open_file(self, path: Path) -> pa.Table:
        return pyarrow.csv.read_csv(path)


class TestJsonSink(FolderSinkContract):
    format, pattern = "json", "*.jsonl"

    def open_file(self, path: Path) -> pa.Table:
        return pyarrow.json.read_json(path)


class TestIpcSink(FolderSinkContract):
    format, pattern = "ipc", "*.arrow"

    def open_file(self, path: Path) -> pa.Table:
        return pa.ipc.open_file(path).read_all()


# ── sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(start: int) -> pa.Table:
    ids = range(start, start + 300)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "name": pa.array([f"name {one}" if one % 5 else None for one in ids], pa.string()),
            "amount": pa.array([one / 4 for one in ids], pa.float64()),
        }
    )


class FormatContract(SourceContract):
    format: ClassVar[str]
    write: ClassVar[Callable[[pa.Table, Path], None]]

    def make(self, place: Path) -> None:
        for number in range(2):
            type(self).write(table(number * 300), place / f"file-{number}")

    def open_source(self, place: Path) -> Source:
        return open_source(self.format, (str(place),), {})

    def expected(self, place: Path) -> pa.Table:
        return pa.concat_tables([table(0), table(300)]).combine_chunks()

    def change(self, place: Path) -> None:
        type(self).write(table(7), place / "file-1")


class TestParquetSource(FormatContract):
    format = "parquet"
    write = staticmethod(lambda rows, path: pq.write_table(rows, path, row_group_size=100))


class TestCsvSource(FormatContract):
    format = "csv"
    write = staticmethod(lambda rows, path: pyarrow.csv.write_csv(rows, path))


class TestJsonSource(FormatContract):
    format = "json"

    @staticmethod
    def write(rows: pa.Table, path: Path) -> None:
        import json

        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows.to_pylist()))


class TestIpcSource(FormatContract):
    format = "ipc"

    @staticmethod
    def write(rows: pa.Table, path: Path) -> None:
        with pa.ipc.new_file(path, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=100)


# ── the contracts see what is wrong ─────────────────────────────────────────────────────────────────────────────────


class _Forgetful:
    """Publishes without asking its fence."""

    def __init__(self, inner: Sink) -> None:
        self._inner = inner

    def commit(self, parts: Sequence[Part], fence: Any) -> None:
        self._inner.commit(parts, lambda: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Eager(_Forgetful):
    """Publishes what it happens to find in staging: parts of a dead attempt too."""

    def commit(self, parts: Sequence[Part], fence: Any) -> None:
        found = sorted(Path(self._inner.path).glob(".etlkit-*/part-*"))  # type: ignore[attr-defined]
        for number, path in enumerate(found):
            path.rename(Path(self._inner.path) / f"{number}.parquet")  # type: ignore[attr-defined]

    def recover(self, parts: Sequence[Part]) -> int:
        return 0


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (_Forgetful, "test_a_crash_before_any_visible_change_rolls_forward"),
        (_Forgetful, "test_a_fenced_writer_stops_at_once"),
        (_Eager, "test_only_parts_that_are_named_are_seen"),
    ],
)
def test_the_sink_contract_finds_a_wrong_sink(tmp_path: Path, wrong: type, name: str) -> None:
    class Wrong(TestParquetSink):
        def open_sink(self, place: Path) -> Sink:
            made: Sink = wrong(super().open_sink(place))
            return made

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(Wrong(), name)(tmp_path)


class _Restless:
    """Cuts its splits anew each time it is asked."""

    asked = 0

    def __init__(self, inner: Source) -> None:
        self._inner = inner

    def splits(self, columns: Any, predicate: Any, target_bytes: int) -> Any:
        type(self).asked += 1
        return self._inner.splits(columns, predicate, target_bytes)[type(self).asked % 2 :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_the_source_contract_finds_a_wrong_source(tmp_path: Path) -> None:
    class Wrong(TestParquetSource):
        def open_source(self, place: Path) -> Source:
            made: Any = _Restless(super().open_source(place))
            return made  # type: ignore[no-any-return]

    Wrong().make(tmp_path)
    with pytest.raises(AssertionError):
        Wrong().test_splits_come_out_the_same_in_every_process(tmp_path, 1)


def test_the_protocols_are_public() -> None:
    assert ek.Sink is Sink and ek.Source is Source


# ── the guide ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_the_guide() -> dict[str, Any]:
    """The Python of docs/how-to/write-a-sink.md, as it stands there."""
    text = (REPOSITORY / "docs" / "how-to" / "write-a-sink.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "write-a-sink.md", "exec"), found)
    return found


TestSinkOfTheGuide = _of_the_guide()["TestSqliteSink"]


def test_the_sink_of_the_guide_takes_the_rows_of_a_job(tmp_path: Path) -> None:
    import sqlite3

    pq.write_table(table(0), tmp_path / "in.parquet")
    database = str(tmp_path / "rows.db")
    sink = _of_the_guide()["SqliteSink"](database)
    done = ek.run(ek.read_parquet(tmp_path / "in.parquet").write(sink), state=tmp_path / "state")
    assert done.done
    with sqlite3.connect(database) as db:
        assert sorted(one for (one,) in db.execute("select id from out")) == list(range(300))
