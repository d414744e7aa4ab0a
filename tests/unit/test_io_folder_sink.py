"""Stage, recover, commit: what is visible when, and that every crash rolls forward to the same output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.errors import ConfigError, CorruptStateError, FencedError, StateError
from etlkit.io import folder_sink, part_file, staged
from etlkit.io.formats import open_sink
from etlkit.io.sink import Part, Sink
from etlkit.io.staged import NULL_PARTITION

SCHEMA = pa.schema([("id", pa.int64()), ("k", pa.string())])


def no_fence() -> None:
    pass


class Crash(BaseException):
    """The process dies here."""


def batch(start: int, rows: int = 4) -> pa.RecordBatch:
    ids = range(start, start + rows)
    return pa.RecordBatch.from_pydict({"id": list(ids), "k": [f"k{i % 2}" for i in ids]}, schema=SCHEMA)


def sink(out: Path, run_id: str = "run", *, resuming: bool = False, **options: Any) -> Sink:
    made = open_sink("parquet", str(out), options)
    made.prepare(run_id, resuming=resuming)
    return made


def stage(made: Sink, split: int, epoch: int = 1, rows: int = 4) -> tuple[Part, ...]:
    part = made.stage(split, epoch, SCHEMA)
    part.write(batch(split * 100, rows))
    return part.close()


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def visible(out: Path) -> dict[str, bytes]:
    """Content by name, hidden names left out, ``_SUCCESS`` in."""
    found = {}
    for folder, folders, names in os.walk(out):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.update({os.path.relpath(Path(folder, name), out): Path(folder, name).read_bytes() for name in names})
    return found


def ids(out: Path) -> list[int]:
    files = sorted(path for path in out.rglob("*.parquet") if ".etlkit" not in str(path))
    return sorted(one for path in files for one in pq.ParquetFile(path).read()["id"].to_pylist())


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    made = sink(out)
    parts = stage(made, 0) + stage(made, 17, epoch=3)
    assert visible(out) == {}
    assert [(part.name, part.final) for part in parts] == [
        ("part-00000.e1.parquet", "part-00000.parquet"),
        ("part-00017.e3.parquet", "part-00017.parquet"),
    ]
    made.commit(parts, no_fence)
    assert sorted(visible(out)) == ["_SUCCESS", "part-00000.parquet", "part-00017.parquet"]
    said = json.loads((out / "_SUCCESS").read_text())
    assert (said["run_id"], said["rows"], said["parts"]) == ("run", 8, 2)
    assert listing(out) == ["_SUCCESS", "part-00000.parquet", "part-00017.parquet"]


def test_part_says_length_and_crc(tmp_path: Path) -> None:
    import zlib

    made = sink(tmp_path / "out")
    (part,) = stage(made, 0)
    data = (tmp_path / "out" / ".etlkit-run" / part.name).read_bytes()
    assert (part.length, part.crc32, part.rows) == (len(data), zlib.crc32(data), 4)


def test_no_rows_no_part(tmp_path: Path) -> None:
    made = sink(tmp_path / "out")
    part = made.stage(0, 1, SCHEMA)
    part.write(batch(0).slice(0, 0))
    assert part.close() == ()
    made.commit((), no_fence)
    assert list(visible(tmp_path / "out")) == ["_SUCCESS"]


def test_abort_leaves_nothing_and_frees_the_name(tmp_path: Path) -> None:
    made = sink(tmp_path / "out")
    part = made.stage(0, 1, SCHEMA)
    part.write(batch(0))
    part.abort()
    assert listing(tmp_path / "out" / ".etlkit-run") == ["start.json"]
    assert len(stage(made, 0)) == 1


def test_a_staged_name_is_never_overwritten(tmp_path: Path) -> None:
    made = sink(tmp_path / "out")
    stage(made, 0)
    with pytest.raises(StateError, match=r"part-00000\.e1"):
        stage(made, 0)


@pytest.mark.parametrize("name", ["old.parquet", "sub/old.csv", "_SUCCESS"])
def test_error_refuses_an_output_that_exists(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"not empty") as caught:
        sink(tmp_path)
    assert name in caught.value.message and "replace" in caught.value.remedy
    assert not list(tmp_path.glob(".etlkit*"))


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / ".keep").touch()
    (tmp_path / ".etlkit-other").mkdir()
    sink(tmp_path)


def test_output_that_is_a_file_or_a_url_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="is a file"):
        sink(tmp_path / "x")
    with pytest.raises(ConfigError, match="folder"):
        open_sink("parquet", "s3://bucket/x", {})


def test_replace_removes_only_what_it_found_and_only_at_the_commit(tmp_path: Path) -> None:
    made = sink(tmp_path, "one")
    made.commit(stage(made, 0) + stage(made, 1), no_fence)
    (tmp_path / "k=old").mkdir()
    (tmp_path / "k=old" / "x.parquet").write_text("x")
    before = visible(tmp_path)
    made = sink(tmp_path, "two", if_exists="replace")
    parts = stage(made, 1, rows=2)
    assert visible(tmp_path) == before
    (tmp_path / "note.txt").write_text("came later: not ours to remove")
    made.commit(parts, no_fence)
    assert sorted(visible(tmp_path)) == ["_SUCCESS", "note.txt", "part-00001.parquet"]
    assert ids(tmp_path) == [100, 101] and not (tmp_path / "k=old").exists()


def test_replace_keeps_a_file_that_was_rewritten_since(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("old")
    made = sink(tmp_path, if_exists="replace")
    (tmp_path / "x.parquet").write_text("another program's new content")
    made.commit(stage(made, 0), no_fence)
    assert (tmp_path / "x.parquet").read_text().startswith("another")


def test_append_adds_under_names_of_its_own(tmp_path: Path) -> None:
    for run in ("one", "two"):
        made = sink(tmp_path, run, if_exists="append")
        made.commit(stage(made, 0), no_fence)
    assert len(list(tmp_path.glob("*-part-00000.parquet"))) == 2
    assert json.loads((tmp_path / "_SUCCESS").read_text())["runs"] == ["one", "two"]
    late = sink(tmp_path, "one", resuming=True, if_exists="append")
    before = visible(tmp_path)
    late.commit((), no_fence)
    assert visible(tmp_path) == before


@pytest.mark.parametrize("mode", ["error", "replace", "append"])
def test_a_commit_repeated_after_the_end_changes_nothing(tmp_path: Path, mode: str) -> None:
    made = sink(tmp_path, if_exists=mode)
    parts = stage(made, 0)
    made.commit(parts, no_fence)
    before = visible(tmp_path)
    made.commit(parts, no_fence)
    again = sink(tmp_path, resuming=True, if_exists=mode)
    assert again.recover(parts) == 0
    again.commit(parts, no_fence)
    assert visible(tmp_path) == before
    assert not list(tmp_path.glob(".etlkit*"))


def test_another_runs_output_is_not_overwritten(tmp_path: Path) -> None:
    made = sink(tmp_path, "slow")
    parts = stage(made, 0)
    quick = sink(tmp_path, "quick")
    quick.commit(stage(quick, 0, rows=2), no_fence)
    before = visible(tmp_path)
    with pytest.raises(ConfigError, match="another run"):
        made.commit(parts, no_fence)
    assert visible(tmp_path) == before


def test_foreign_file_under_a_final_name_is_not_overwritten(tmp_path: Path) -> None:
    made = sink(tmp_path)
    parts = stage(made, 0)
    (tmp_path / "part-00000.parquet").write_text("precious")
    with pytest.raises(ConfigError, match="part-00000"):
        made.commit(parts, no_fence)
    assert (tmp_path / "part-00000.parquet").read_text() == "precious"


def test_recover_removes_what_no_checkpoint_names(tmp_path: Path) -> None:
    made = sink(tmp_path)
    (kept,) = stage(made, 0)
    (lost,) = stage(made, 1)
    made = sink(tmp_path, resuming=True)
    assert made.recover((kept,)) == lost.length
    assert listing(tmp_path / ".etlkit-run") == ["part-00000.e1.parquet", "start.json"]


def test_recover_says_which_part_is_gone_or_short(tmp_path: Path) -> None:
    made = sink(tmp_path)
    (part,) = stage(made, 0)
    path = tmp_path / ".etlkit-run" / part.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptStateError, match=r"part-00000\.e1\.parquet: has"):
        made.recover((part,))
    path.unlink()
    with pytest.raises(CorruptStateError, match=r"part-00000\.e1\.parquet: the staged part is gone"):
        made.recover((part,))
    with pytest.raises(CorruptStateError):
        made.commit((part,), no_fence)


@pytest.mark.parametrize("early", [False, True])
def test_a_part_that_rotted_since_an_earlier_attempt_is_not_published(tmp_path: Path, early: bool) -> None:
    sink(tmp_path, "one").commit(stage(sink(tmp_path, "one"), 0), no_fence)
    before = visible(tmp_path)
    options = {"if_exists": "replace", "visible": "checkpoint" if early else "end"}
    made = sink(tmp_path, "two", **options)
    parts = [*stage(made, 0), *stage(made, 1)]
    path = tmp_path / ".etlkit-two" / parts[1].name
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    again = sink(tmp_path, "two", resuming=True, **options)
    again.recover(parts)
    with pytest.raises(CorruptStateError, match=r"part-00001\.e1\.parquet: its bytes are not those") as refused:
        again.publish(parts, no_fence) if early else again.commit(parts, no_fence)
    assert refused.value.exit_code == 74 and visible(tmp_path) == before
    path.write_bytes(whole)
    again.commit(parts, no_fence)
    assert ids(tmp_path) == [0, 1, 2, 3, 100, 101, 102, 103]


def test_old_file_of_the_same_name_is_not_taken_for_the_lost_part(tmp_path: Path) -> None:
    made = sink(tmp_path, "one")
    made.commit(stage(made, 0), no_fence)
    made = sink(tmp_path, "two", if_exists="replace")
    (part,) = stage(made, 0)
    (tmp_path / ".etlkit-two" / part.name).unlink()
    with pytest.raises(CorruptStateError, match="gone"):
        made.recover((part,))


def test_interrupted_prepare_is_done_again(tmp_path: Path) -> None:
    (tmp_path / ".etlkit-run").mkdir()
    made = sink(tmp_path, resuming=True)
    made.commit(stage(made, 0), no_fence)
    assert ids(tmp_path) == [0, 1, 2, 3]


def test_fresh_prepare_discards_what_an_abandoned_try_left(tmp_path: Path) -> None:
    stage(sink(tmp_path), 0)
    made = sink(tmp_path)
    assert listing(tmp_path / ".etlkit-run") == ["start.json"]
    assert len(stage(made, 0)) == 1


def mutations(monkeypatch: pytest.MonkeyPatch, hook: Callable[[], None]) -> None:
    """Call ``hook`` before each change that a commit makes, and at each named point."""

    def before(kind: type | Any, name: str) -> None:
        real = getattr(kind, name)

        def hooked(*args: Any, **kwargs: Any) -> Any:
            hook()
            return real(*args, **kwargs)

        monkeypatch.setattr(kind, name, hooked)

    for name in ("rename", "unlink", "rmdir"):
        before(Path, name)
    for name in ("fsync", "write", "unlink", "rmdir"):
        before(part_file.os, name)
    for module in (folder_sink, staged):
        monkeypatch.setattr(module, "reach", lambda name: hook())


@pytest.fixture(params=["error", "replace", "append"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def begin(out: Path, mode: str, partition_by: tuple[str, ...]) -> tuple[Sink, list[Part]]:
    """An output with something old in it, where the mode allows, and a run that has staged three splits."""
    if mode != "error":
        old = sink(out, "old", partition_by=partition_by, if_exists=mode)
        old.commit([*stage(old, 0), *stage(old, 9)], no_fence)
    made = sink(out, if_exists=mode, partition_by=partition_by)
    return made, [part for split in range(3) for part in stage(made, split)]


@pytest.mark.parametrize(
    ("mode", "partition_by"), [("error", ()), ("replace", ()), ("append", ()), ("replace", ("k",))]
)
def test_crash_before_every_change_of_a_commit_rolls_forward(
    tmp_path: Path, mode: str, partition_by: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file.os, "fsync", lambda fd: None)  # nothing dies here but this loop; a busy disk is slow
    made, parts = begin(tmp_path / "reference", mode, partition_by)
    made.commit(parts, no_fence)
    expected = visible(tmp_path / "reference")
    wanted = ids(tmp_path / "reference")
    crashes = 0
    while True:
        out = tmp_path / f"out{crashes}"
        made, parts = begin(out, mode, partition_by)
        left = crashes

        def die() -> None:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1

        with pytest.MonkeyPatch.context() as patch:
            mutations(patch, die)
            try:
                made.commit(parts, no_fence)
                break
            except Crash:
                crashes += 1
        if (out / "_SUCCESS").exists() and "run" in json.loads((out / "_SUCCESS").read_text())["runs"]:
            assert visible(out) == expected, "marked as done before it was"
        again = sink(out, resuming=True, if_exists=mode, partition_by=partition_by)
        again.recover(parts)
        again.commit(parts, no_fence)
        assert visible(out) == expected and ids(out) == wanted
        assert not list(out.glob(".etlkit*"))
    assert crashes >= 20


def test_fenced_writer_changes_nothing_more(tmp_path: Path, mode: str) -> None:
    made, parts = begin(tmp_path / "count", mode, ())
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    made.commit(parts, count)
    assert calls >= len(parts) + 2
    for stop in range(calls):
        out = tmp_path / f"out{stop}"
        made, parts = begin(out, mode, ())
        seen: list[dict[str, bytes]] = []

        def fence(stop: int = stop, out: Path = out, seen: list[dict[str, bytes]] = seen) -> None:
            seen.append(visible(out))
            if len(seen) > stop:
                raise FencedError("another run has taken over")

        with pytest.raises(FencedError):
            made.commit(parts, fence)
        assert visible(out) == seen[-1]


def test_partition_folders(tmp_path: Path) -> None:
    made = sink(tmp_path, partition_by=("k", "d"))
    schema = pa.schema([("k", pa.string()), ("id", pa.int64()), ("d", pa.int32())])
    part = made.stage(0, 1, schema)
    rows = {"k": ["a/b", None, "a/b", "é"], "id": [1, 2, 3, 4], "d": [7, 7, 7, 8]}
    part.write(pa.RecordBatch.from_pydict(rows, schema=schema))
    part.write(pa.RecordBatch.from_pydict({"k": ["é"], "id": [5], "d": [8]}, schema=schema))
    made.commit(part.close(), no_fence)
    found = {
        path.relative_to(tmp_path).as_posix(): pq.ParquetFile(path).read().to_pydict()
        for path in tmp_path.rglob("*.parquet")
    }
    assert found == {
        "k=a%2Fb/d=7/part-00000.parquet": {"id": [1, 3]},
        f"k={NULL_PARTITION}/d=7/part-00000.parquet": {"id": [2]},
        "k=%C3%A9/d=8/part-00000.parquet": {"id": [4, 5]},
    }


def test_partitions_are_bounded_in_open_files_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "MAX_OPEN_FILES", 4)
    monkeypatch.setattr(staged, "MAX_BUFFERED_BYTES", 100)
    made = sink(tmp_path, partition_by=("k",))
    part = made.stage(0, 1, SCHEMA)
    for start in range(0, 60, 20):
        rows = {"id": list(range(start, start + 20)), "k": [f"k{i % 10}" for i in range(20)]}
        part.write(pa.RecordBatch.from_pydict(rows, schema=SCHEMA))
        assert len(part._open) <= 4
    parts = part.close()
    assert len({one.final for one in parts}) == len(parts) > 10
    made.commit(parts, no_fence)
    assert ids(tmp_path) == list(range(60))


@pytest.mark.parametrize("names", [("nope",), ("id", "k")])
def test_partition_by_that_cannot_work_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="partition_by"):
        sink(tmp_path, partition_by=names).stage(0, 1, SCHEMA)


def test_full_disk_is_a_state_error_with_a_remedy(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    made = sink(tmp_path)
    part = made.stage(0, 1, SCHEMA)
    real = part_file.os.write
    with pytest.MonkeyPatch.context() as patch, open("/dev/full", "wb", buffering=0) as full:
        patch.setattr(part_file.os, "write", lambda fd, data: real(full.fileno(), data))
        with pytest.raises(StateError, match="free space") as caught:
            part.write(batch(0))
            part.close()
        part.abort()
    assert caught.value.exit_code == 74
    assert listing(tmp_path / ".etlkit-run") == ["start.json"]


def test_a_rerun_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = stage(sink(tmp_path / "a"), 0), stage(sink(tmp_path / "b"), 0)
    assert first == second
