"""Files that arrive while the job runs, with real processes: taken once each, whatever is killed and when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .. import warm
from ..conftest import environment

JOBS = """
import etlkit as ek

def watched(src, idle, poll):
    return ek.watch_dir(src, idle=idle or None, until="_DONE", settle="150ms", poll=poll or None)

@ek.job
def copy(src: str, out: str, idle: str = "", poll: str = "", visible: str = "end") -> ek.Pipeline:
    return watched(src, idle, poll).write_parquet(out, visible=visible)

@ek.job
def group(src: str, out: str, idle: str = "", poll: str = "", visible: str = "end") -> ek.Pipeline:
    return watched(src, idle, poll).group_by("k").agg(n=ek.count(), total=ek.sum("id")).write_parquet(out)
"""
ROWS = 50


class Folder:
    """The watched folder, a job that watches it, and what came out."""

    def __init__(self, root: Path, job: str) -> None:
        self.root, self.job = root, job
        self.src, self.out, self.state = root / "in", root / "out", root / "state"
        self.src.mkdir()
        (root / "jobs.py").write_text(JOBS)

    def put(self, number: int, name: str | None = None) -> Path:
        """A file that is renamed in, as a careful producer does it."""
        ids = range(number * ROWS, (number + 1) * ROWS)
        table = pa.table({"id": pa.array(ids, pa.int64()), "k": pa.array([one % 7 for one in ids], pa.int32())})
        hidden, final = self.src / f".{number}.tmp", self.src / (name or f"file-{number:03d}.parquet")
        pq.write_table(table, hidden)
        hidden.rename(final)
        return final

    def start(self, *extra: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        command = [
            "run", f"jobs.py:{self.job}", "--set", f"src={self.src}", "--set",
            f"out={self.out}", "--state", str(self.state), "--progress", "none", "--checkpoint-every", "50ms", *extra,
        ]  # fmt: skip
        return warm.start(
            command, env=environment(env), cwd=self.root, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        )

    def files_read(self) -> int:
        log = self.state / "events.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        found = [json.loads(line) for line in lines if '"progress"' in line and line.endswith("}")]
        return int(found[-1]["rows_in"]) // ROWS if found else 0

    def done(self) -> None:
        (self.src / "_DONE").touch()

    def check(self, files: int) -> None:
        """Every row of that many files, once."""
        found = pa.concat_tables(pq.read_table(path) for path in sorted(self.out.glob("*.parquet")))
        every = range(files * ROWS)
        if self.job == "copy":
            assert sorted(found["id"].to_pylist()) == list(every)
        else:
            expected = {k: [one for one in every if one % 7 == k] for k in range(7)}
            rows = {row["k"]: (row["n"], row["total"]) for row in found.to_pylist()}
            assert rows == {k: (len(ids), sum(ids)) for k, ids in expected.items() if ids}
        assert (self.out / "_SUCCESS").exists()


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come to that in a minute"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    return said


@pytest.fixture(params=["copy", "group"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(tmp_path, request.param)


def test_files_that_arrive_while_it_runs_are_taken_once(folder: Folder) -> None:
    folder.put(0)
    process = folder.start()
    for number in range(1, 4):
        wait_until(lambda upto=number: folder.files_read() >= upto, process)
        folder.put(number)
    folder.done()
    finish(process)
    folder.check(4)


@pytest.mark.parametrize(("job", "poll"), [("copy", ""), ("group", "100ms")], ids=["inotify", "polling"])
def test_killed_again_and_again_while_files_arrive(tmp_path: Path, job: str, poll: str) -> None:
    """A kill after each file, at another moment of its way; nothing is lost or doubled."""
    folder = Folder(tmp_path, job)
    files = 0
    for pause_s in (0.0, 0.03, 0.1, 0.3):
        folder.put(files)
        files += 1
        process = folder.start("--set", f"poll={poll}")
        wait_until(lambda upto=files: folder.files_read() >= upto, process)
        folder.put(files)
        files += 1
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    folder.done()
    finish(folder.start("--set", f"poll={poll}"))
    folder.check(files)


@pytest.mark.parametrize("point", ["manifest.written", "manifest.linked", "manifest.synced", "sink.staged"])
@pytest.mark.parametrize("times", [4])
def test_killed_at_named_points(tmp_path: Path, point: str, times: int) -> None:
    folder = Folder(tmp_path, "copy")
    folder.put(0)
    process = folder.start(env={"ETLKIT_CRASH_AT": f"{point}:{times}"})
    for number in range(1, 6):
        folder.put(number)
        time.sleep(0.1)
    folder.done()
    process.communicate(timeout=60)
    if process.returncode != 0:
        assert process.returncode == -signal.SIGKILL
        finish(folder.start())
    folder.check(6)


def test_a_file_renamed_after_it_was_taken_is_not_taken_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "group")
    first = folder.put(0)
    process = folder.start()
    wait_until(lambda: folder.files_read() >= 1, process)
    first.rename(folder.src / "other-name.parquet")
    os.link(folder.src / "other-name.parquet", folder.src / "and-a-link.parquet")
    folder.put(1)
    wait_until(lambda: folder.files_read() >= 2, process)
    process.kill()
    process.communicate()
    (folder.src / "and-a-link.parquet").rename(folder.src / "third-name.parquet")
    folder.done()
    finish(folder.start())
    folder.check(2)


def test_sigterm_checkpoints_and_the_same_command_goes_on(folder: Folder) -> None:
    folder.put(0)
    process = folder.start()
    wait_until(lambda: folder.files_read() >= 1, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 75)
    folder.put(1)
    folder.done()
    finish(folder.start())
    folder.check(2)


def test_sigterm_before_the_first_file_is_75_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "copy")
    process = folder.start()
    said = []
    while "waiting" not in (line := process.stderr.readline()):  # type: ignore[union-attr]
        said.append(line)
        assert process.poll() is None, said
    process.send_signal(signal.SIGTERM)
    assert "while waiting for the first file" in finish(process, 75)


def test_idle_ends_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "copy")
    folder.put(0)
    process = folder.start("--set", "idle=700ms")
    wait_until(lambda: folder.files_read() >= 1, process)
    folder.put(1)
    finish(process)
    folder.check(2)


def test_a_finished_file_may_change_or_go_and_an_unfinished_one_may_not(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "copy")
    finished = folder.put(0)
    process = folder.start()
    wait_until(lambda: len(list((folder.out).glob(".etlkit-*/part-*"))) >= 1 and folder.files_read() >= 1, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 75)
    finished.unlink()
    unfinished = folder.put(1)
    kept = unfinished.read_bytes()
    facts = unfinished.stat()
    # Dies between the record of the arrival and the end of its split.
    finish(folder.start(env={"ETLKIT_CRASH_AT": "sink.staged"}), -signal.SIGKILL)
    unfinished.write_bytes(b"something else")
    said = finish(folder.start(), 78)
    assert str(unfinished) in said and "changed" in said and "--restart" in said
    unfinished.unlink()
    assert "is gone" in finish(folder.start(), 78)
    unfinished.write_bytes(kept)
    os.utime(unfinished, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    folder.done()
    finish(folder.start())
    folder.check(2)


def test_a_file_that_grows_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    """A slow writer that pauses for longer than the settling time: a Parquet file without its end has not arrived."""
    folder = Folder(tmp_path, "copy")
    folder.put(0)
    data = folder.put(1).read_bytes()
    slow = folder.src / "file-001.parquet"
    slow.write_bytes(data[: len(data) // 2])
    process = folder.start()
    wait_until(lambda: folder.files_read() >= 1, process)
    time.sleep(0.5)
    with slow.open("ab") as file:
        file.write(data[len(data) // 2 :])
    wait_until(lambda: folder.files_read() >= 2, process)
    folder.done()
    finish(process)
    folder.check(2)


def test_a_file_that_stays_torn_is_refused_by_name(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "copy")
    folder.put(0)
    (folder.src / "torn.parquet").write_bytes(b"PAR1 and no end")
    assert "torn.parquet" in finish(folder.start("--set", "idle=500ms"), 65)
    assert not list(folder.out.glob("*.parquet"))


def test_watching_its_own_output_and_a_folder_that_is_not_there_are_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "copy")
    folder.put(0)
    assert "its own output" in finish(folder.start("--set", f"out={folder.src}"), 78)
    assert "no such folder" in finish(folder.start("--set", f"src={tmp_path}/nowhere"), 78)


def visible_ids(out: Path) -> list[int]:
    """What a reader sees now: every visible file must be whole."""
    paths = sorted(out.glob("*.parquet")) if out.exists() else []
    return sorted(one for path in paths for one in pq.ParquetFile(path).read()["id"].to_pylist())


def test_with_visible_checkpoint_rows_are_seen_while_it_runs_and_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "copy")
    early = ("--set", "visible=checkpoint")
    for number in range(3):
        folder.put(number)
        process = folder.start(*early)
        every = list(range((number + 1) * ROWS))
        wait_until(lambda wanted=every: visible_ids(folder.out) == wanted, process)
        assert not (folder.out / "_SUCCESS").exists()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    folder.done()
    finish(folder.start(*early))
    folder.check(3)


@pytest.mark.parametrize("point", ["early.listed", "sink.part", "early.shown", "manifest.linked:4"])
def test_killed_while_showing_what_has_arrived(tmp_path: Path, point: str) -> None:
    folder = Folder(tmp_path, "copy")
    early = ("--set", "visible=checkpoint")
    folder.put(0)
    finish(folder.start(*early, env={"ETLKIT_CRASH_AT": point}), -signal.SIGKILL)
    folder.put(1)
    process = folder.start(*early)
    wait_until(lambda: visible_ids(folder.out) == list(range(2 * ROWS)), process)
    folder.done()
    finish(process)
    folder.check(2)
