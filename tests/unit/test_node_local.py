"""``etlkit local`` as an operator beside the Job: what it passes on, when it gives up, how it ends. Tiny jobs, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.terminal import CTRL_C, Terminal

REPOSITORY = Path(__file__).resolve().parents[2]

JOB = """
import os, pathlib, time
import pyarrow as pa
import etlkit as ek

def slow(batch):
    pathlib.Path(os.environ["MARK"]).touch()
    time.sleep(float(os.environ.get("NAP", "0")))
    if os.environ.get("BREAK"):
        os._exit(1)
    return batch

@ek.job
def tiny(src: str, out: str) -> ek.Pipeline:
    \"\"\"A few rows, as slowly as is wanted.\"\"\"
    return ek.read_parquet(src).map_batches(slow, version="1", schema=pa.schema({"x": pa.int64()})).write_parquet(out)
"""


class Local:
    """One call of the verb."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = folder / "tiny.py"
        self.job.write_text(JOB)
        self.mark = folder / "running"
        (folder / "in").mkdir()
        pq.write_table(pa.table({"x": list(range(100))}), folder / "in" / "a.parquet")
        self.started: list[subprocess.Popen] = []

    def call(self, *options: str) -> list[str]:
        folder = self.folder
        return [
            "local", str(self.job), "--set", f"src={folder}/in", "--set", f"out={folder}/out", "--state", f"{folder}/state",
            *options,
        ]  # fmt: skip

    def on_terminal(self, *options: str, **variables: str) -> Terminal:
        terminal = Terminal(self.call(*options), self.folder, {"MARK": str(self.mark), **variables})
        self.started.append(terminal.process)
        return terminal

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "etlkit", *self.call(*options)],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "MARK": str(self.mark), **variables},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *options: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(*options, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_a_job_that_fits_ends_with_0_and_says_how_it_was_limited(local: Local) -> None:
    code, out, err = local.run("--memory", "512Mi", "--progress", "json")
    assert code == 0, err
    assert err.startswith("memory enforcement: ")
    assert "pod tiny: 512 MiB, RestartContainer" in err
    events = [json.loads(line) for line in out.splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "container_started" and names[-1] == "container_exited"
    assert {"attempt_started", "attempt_ended", "published"} <= set(names)
    assert all("at" in event for event in events)
    started = next(event for event in events if event["event"] == "attempt_started")
    assert (started["limit_bytes"], started["mode"]) == (512 << 20, "RestartContainer")
    assert started["max_memory_bytes"] == 4 << 30
    assert pq.read_table(local.folder / "out").num_rows == 100


def test_the_same_command_again_touches_nothing(local: Local) -> None:
    assert local.run("--memory", "512Mi")[0] == 0
    before = sorted(path.stat().st_mtime_ns for path in (local.folder / "out").iterdir())
    assert local.run("--memory", "512Mi")[0] == 0
    assert sorted(path.stat().st_mtime_ns for path in (local.folder / "out").iterdir()) == before


def test_sampling_does_too_and_says_what_it_is_not(local: Local) -> None:
    code, _, err = local.run("--memory", "512Mi", "--enforcement", "sampling")
    assert code == 0, err
    assert "mean nothing here" in err


def test_a_reader_that_goes_away_does_not_stop_the_job(local: Local) -> None:
    process = local.start("--memory", "512Mi", "--progress", "json", NAP="1")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert pq.read_table(local.folder / "out").num_rows == 100


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_and_the_exit_code_is_75(local: Local, number: signal.Signals) -> None:
    """SIGINT as a user sends it: Ctrl-C on a terminal."""
    terminal = local.on_terminal("--memory", "512Mi", NAP="2")
    wait_for(local.mark)
    if number is signal.SIGINT:
        terminal.press(CTRL_C)
    else:
        terminal.process.send_signal(number)
    assert terminal.wait() == 75, terminal.text
    assert "the same command goes on" in terminal.text and "\n  etlkit local " in terminal.text
    assert local.run("--memory", "512Mi")[0] == 0
    assert pq.read_table(local.folder / "out").num_rows == 100


def test_a_second_ctrl_c_does_not_wait_for_the_grace(local: Local) -> None:
    terminal = local.on_terminal("--memory", "512Mi", "--grace", "60s", NAP="50")
    wait_for(local.mark)
    terminal.press(CTRL_C)
    terminal.wait_for("Ctrl-C again kills it")
    terminal.press(CTRL_C)
    assert terminal.wait(30) == 75


def test_what_another_start_cannot_mend_is_not_started_again(local: Local) -> None:
    (local.folder / "in" / "a.parquet").write_bytes(b"no parquet at all")
    code, _, err = local.run("--memory", "512Mi")
    assert code == 65, err
    assert "so would every other start" in err
    assert "starting again" not in err, "nothing is started again here"


def test_an_unexpected_failure_is_tried_once_more_and_no_further(local: Local) -> None:
    code, _, err = local.run("--memory", "512Mi", BREAK="1")
    assert code == 1, err
    assert "with no checkpoint in between" in err


def test_a_job_that_has_failed_says_which_limit_to_raise(local: Local) -> None:
    code, _, err = local.run("--memory", "512Mi", "--backoff-limit", "1", BREAK="1")
    assert code == 1, err
    assert "BackoffLimitExceeded" in err and "--backoff-limit 4" in err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--memory", "8Gi"], 78, "more than the node has"),
        (["--memory", "lots"], 2, "not a quantity"),
        (["--memory", "512Mi", "--backoff-limit", "-1"], 2, "--backoff-limit"),
        ([], 2, "--memory"),
    ],
)
def test_what_cannot_work_is_said_at_once(local: Local, options: list[str], code: int, words: str) -> None:
    ended, _, err = local.run(*options)
    assert (ended, words in err) == (code, True), err
