"""``visible="checkpoint"``, ``target_file_bytes`` and outputs without rows, sink by sink."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from etlkit.errors import ConfigError, FencedError
from etlkit.io.formats import open_sink
from etlkit.io.sink import Part, ShowsEarly, ShowsEmpty
from tests.conftest import environment

SCHEMA = pa.schema([("id", pa.int64()), ("k", pa.string())])


def no_fence() -> None:
    pass


def rows(start: int, count: int) -> pa.RecordBatch:
    ids = range(start, start + count)
    return pa.RecordBatch.from_pydict({"id": list(ids), "k": [f"value {one * 7919}" for one in ids]}, schema=SCHEMA)


def sink(out: Path, format: str = "parquet", run: str = "run", *, resuming: bool = False, **options: Any) -> Any:
    made = open_sink(format, str(out), options)
    made.prepare(run, resuming=resuming)
    return made


def stage(made: Any, split: int, epoch: int = 1, count: int = 10) -> tuple[Part, ...]:
    part = made.stage(split, epoch, SCHEMA)
    part.write(rows(split * 1000, count))
    return part.close()


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def early(out: Path, **options: Any) -> Any:
    return sink(out, visible="checkpoint", **options)


# ── visible at each checkpoint ──────────────────────────────────────────────────────────────────────────────────────


def test_parts_are_seen_one_by_one_and_success_comes_last(tmp_path: Path) -> None:
    made = early(tmp_path)
    assert isinstance(made, ShowsEarly)
    first, second = stage(made, 0), stage(made, 1)
    made.publish(first, no_fence)
    assert names(tmp_path) == ["part-00000.parquet"]
    made.publish(second, no_fence)
    made.publish(second, no_fence)
    assert names(tmp_path) == ["part-00000.parquet", "part-00001.parquet"]
    made.commit(first + second, no_fence)
    assert names(tmp_path) == ["_SUCCESS", "part-00000.parquet", "part-00001.parquet"]
    made.publish(second, no_fence)
    assert not list(tmp_path.glob(".etlkit*"))


def test_a_start_from_an_older_checkpoint_takes_back_what_it_does_not_know(tmp_path: Path) -> None:
    """The newest checkpoint is damaged: its parts were seen, and their splits are done again, perhaps under other numbers."""
    made = early(tmp_path)
    kept, lost, redone = stage(made, 0), stage(made, 1), stage(made, 2)
    made.publish(kept, no_fence)
    made.publish(lost + redone, no_fence)
    again = early(tmp_path, resuming=True)
    again.recover(kept)
    assert names(tmp_path) == ["part-00000.parquet"]
    anew = stage(again, 1, epoch=2, count=3)
    again.publish(anew, no_fence)
    again.commit(kept + anew, no_fence)
    assert pq.ParquetFile(tmp_path / "part-00001.parquet").metadata.num_rows == 3
    assert names(tmp_path) == ["_SUCCESS", "part-00000.parquet", "part-00001.parquet"]


def test_a_run_that_is_discarded_takes_its_parts_along(tmp_path: Path) -> None:
    made = early(tmp_path)
    made.publish(stage(made, 0) + stage(made, 1), no_fence)
    with pytest.raises(ConfigError, match="not empty"):
        early(tmp_path, run="another")
    again = early(tmp_path)
    assert names(tmp_path) == []
    parts = stage(again, 0)
    again.commit(parts, no_fence)
    assert names(tmp_path) == ["_SUCCESS", "part-00000.parquet"]


def test_replace_clears_what_was_there_before_the_first_part_is_seen(tmp_path: Path) -> None:
    old = sink(tmp_path, run="old")
    old.commit(stage(old, 0) + stage(old, 9), no_fence)
    made = early(tmp_path, if_exists="replace")
    parts = stage(made, 0, count=3)
    assert names(tmp_path) == ["_SUCCESS", "part-00000.parquet", "part-00009.parquet"]
    made.publish(parts, no_fence)
    assert names(tmp_path) == ["part-00000.parquet"], "no _SUCCESS while the output is not whole"
    made.commit(parts, no_fence)
    assert pq.ParquetFile(tmp_path / "part-00000.parquet").metadata.num_rows == 3


def test_a_fenced_writer_shows_nothing(tmp_path: Path) -> None:
    made = early(tmp_path)
    parts = stage(made, 0)

    def fence() -> None:
        raise FencedError("another run has taken over")

    with pytest.raises(FencedError):
        made.publish(parts, fence)
    assert names(tmp_path) == []


def test_another_programs_file_is_not_overwritten(tmp_path: Path) -> None:
    made = early(tmp_path)
    parts = stage(made, 0)
    (tmp_path / "part-00000.parquet").write_text("precious")
    with pytest.raises(ConfigError, match="part-00000"):
        made.publish(parts, no_fence)


CRASHER = """
import dataclasses, json, pathlib, sys, pyarrow as pa
from etlkit.io.formats import open_sink
from etlkit.io.sink import Part
out, crashing = sys.argv[1], sys.argv[2] == "first"
batch = pa.RecordBatch.from_pydict({"id": [1, 2, 3]})
sink = open_sink("parquet", out, {"visible": "checkpoint"})
sink.prepare("run", resuming=not crashing)
checkpoint = pathlib.Path(out + ".json")
parts = [Part(**fields) for fields in json.loads(checkpoint.read_text())] if checkpoint.exists() else []
sink.recover(parts)
for split in range(len(parts), 3):
    part = sink.stage(split, 1 if crashing else 2, batch.schema)
    part.write(batch)
    parts += part.close()
    checkpoint.write_text(json.dumps([dataclasses.asdict(part) for part in parts]))
    sink.publish(parts, lambda: None)
sink.commit(parts, lambda: None)
"""


@pytest.mark.parametrize("point", ["early.listed:2", "sink.part:2", "early.shown:2", "sink.published", "sink.marked"])
def test_killed_while_showing_parts_and_run_again(tmp_path: Path, point: str) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", CRASHER, str(out)]
    first = subprocess.run([*command, "first"], env=environment({"ETLKIT_CRASH_AT": point}))
    assert first.returncode == -9
    subprocess.run([*command, "again"], env=environment(), check=True)
    assert names(out) == ["_SUCCESS", *(f"part-0000{number}.parquet" for number in range(3))]
    assert all(pq.ParquetFile(path).metadata.num_rows == 3 for path in out.glob("*.parquet"))


# ── file sizes ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("format", "extension"), [("parquet", "parquet"), ("csv", "csv"), ("json", "jsonl"), ("ipc", "arrow")]
)
def test_a_split_rolls_over_to_further_files_of_about_the_target(tmp_path: Path, format: str, extension: str) -> None:
    target = 400_000
    made = sink(tmp_path, format, target_file_bytes=target)
    staged = made.stage(17, 1, SCHEMA)
    for start in range(0, 200_000, 10_000):
        staged.write(rows(start, 10_000))
    parts = staged.close()
    made.commit(parts, no_fence)
    finals = [f"part-00017{f'-{again}' if again else ''}.{extension}" for again in range(len(parts))]
    assert [part.final for part in parts] == finals and len(parts) > 3
    assert sum(part.rows for part in parts) == 200_000
    sizes = [part.length for part in parts[:-1]]
    assert min(sizes) >= 0.85 * target and max(sizes) < 3 * target, sizes


def test_where_a_file_ends_does_not_depend_on_the_size_of_the_slices(tmp_path: Path) -> None:
    found = []
    for number, step in enumerate((1024, 7_777, 65_536)):
        made = sink(tmp_path / str(number), target_file_bytes=150_000)
        staged = made.stage(0, 1, SCHEMA)
        for start in range(0, 100_000, step):
            staged.write(rows(start, min(step, 100_000 - start)))
        found.append(staged.close())
    assert found[0] == found[1] == found[2] and len(found[0]) > 2


def test_a_target_with_partitions(tmp_path: Path) -> None:
    made = sink(tmp_path, target_file_bytes=100_000, partition_by=("p",))
    schema = pa.schema([*SCHEMA, ("p", pa.int8())])
    staged = made.stage(0, 1, schema)
    batch = rows(0, 60_000)
    staged.write(
        pa.RecordBatch.from_arrays([*batch.columns, pa.array([i % 2 for i in range(60_000)], pa.int8())], schema=schema)
    )
    parts = staged.close()
    made.commit(parts, no_fence)
    assert {part.final for part in parts} >= {
        f"p={p}/part-00000{again}.parquet" for p in (0, 1) for again in ("", "-1")
    }
    assert sum(part.rows for part in parts) == 60_000


# ── no rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_output_without_rows_can_be_opened(tmp_path: Path) -> None:
    for format in ("parquet", "csv", "ipc"):
        made = sink(tmp_path / format, format)
        assert isinstance(made, ShowsEmpty)
        (part,) = made.stage_empty(1, SCHEMA)
        made.commit((part,), no_fence)
        assert (part.rows, part.split) == (0, 0)
    assert pq.ParquetFile(tmp_path / "parquet" / "part-00000.parquet").schema_arrow == SCHEMA
    assert pa.ipc.open_file(tmp_path / "ipc" / "part-00000.arrow").schema == SCHEMA
    assert pyarrow.csv.read_csv(tmp_path / "csv" / "part-00000.csv").column_names == SCHEMA.names
    assert sink(tmp_path / "json", "json").stage_empty(1, SCHEMA) == ()


@pytest.mark.parametrize("options", [{"visible": "sometimes"}, {"target_file_bytes": 0}])
def test_options_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        sink(tmp_path, **options)
