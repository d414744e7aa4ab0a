"""The main job and the stateless one, run as a user would: results against DuckDB, kills, interrupts, identity."""

from __future__ import annotations

import json
import random
import re
import shlex
import signal
import statistics
import subprocess
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from etlkit.observe.events import read_events

from .. import warm
from ..conftest import REPOSITORY, environment, tpch
from ..terminal import CTRL_C, Terminal
from .expected import assert_same, part_revenue, read_output

JOBS = REPOSITORY / "jobs"


def arguments(job: str, src: Path, state: Path, out: Path) -> list[str]:
    return [
        "run", str(JOBS / f"{job}.py"), "--set", f"src={src}", "--set", f"out={out}", "--state", str(state),
        "--progress", "none",
    ]  # fmt: skip


def count_rows(src: Path) -> int:
    return duckdb.connect().execute(f"select count(*) from '{src}/*.parquet'").fetchall()[0][0]


def show(state: Path) -> dict:
    return json.loads(warm.run(["show", state, "--json"], cwd=Path.cwd(), env=environment()).stdout)


def test_part_revenue_equals_duckdb(lineitem, tmp_path, etlkit_command):
    done = etlkit_command(*arguments("part_revenue", lineitem, tmp_path / "state", tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(read_output(tmp_path / "out"), part_revenue(lineitem), ["l_partkey"])
    assert (tmp_path / "out" / "_SUCCESS").exists()
    story = show(tmp_path / "state")
    assert story["status"] == "done"
    assert story["rows_in"] == count_rows(lineitem)
    assert story["rows_out"] == part_revenue(lineitem).num_rows


def test_clean_lineitem_keeps_the_inputs_order_and_rows(lineitem, tmp_path, etlkit_command):
    done = etlkit_command(*arguments("clean_lineitem", lineitem, tmp_path / "state", tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = read_output(tmp_path / "out")
    order = found.select(["l_orderkey", "l_linenumber"]).to_pydict()
    pairs = list(zip(order["l_orderkey"], order["l_linenumber"], strict=True))
    assert pairs == sorted(pairs), "lineitem is written in key order, and a stateless job keeps it"
    assert found.num_rows > 100_000


def test_the_same_run_again_touches_nothing(lineitem, tmp_path, etlkit_command):
    call = arguments("part_revenue", lineitem, tmp_path / "state", tmp_path / "out")
    assert etlkit_command(*call, cwd=tmp_path).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert etlkit_command(*call, cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_another_parameter_under_an_unfinished_run_is_refused(lineitem, tmp_path, etlkit_command):
    call = arguments("part_revenue", lineitem, tmp_path / "state", tmp_path / "out")
    crash = etlkit_command(*call, cwd=tmp_path, env={"ETLKIT_CRASH_AT": "run.synced"})
    assert crash.returncode == -signal.SIGKILL
    refused = etlkit_command(*call, "--set", "max_qty=30", cwd=tmp_path)
    assert refused.returncode == 78
    assert (
        "other parameters" in refused.stderr
        and "max_qty was 40, is 30.0" in refused.stderr
        and "--restart" in refused.stderr
    )
    assert etlkit_command(*call, "--set", "max_qty=30", "--restart", cwd=tmp_path).returncode == 0
    assert_same(read_output(tmp_path / "out"), part_revenue(lineitem, 30), ["l_partkey"])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """lineitem at scale 0.05: each case of the kills reads it whole once more, to compare."""
    return tpch(tmp_path_factory.mktemp("small"), "0.05", "lineitem", 3) / "lineitem"


@pytest.mark.parametrize("job", ["part_revenue", "clean_lineitem"])
def test_killed_at_ten_random_moments_loses_and_doubles_nothing(job, small, tmp_path, etlkit_command):
    """Twenty in all: ten for the stateful job, ten for the stateless one. Real processes, real SIGKILL.

    A run that is done before its kill comes makes room for the next one, with its output compared too.
    """
    keys = ["l_partkey"] if job == "part_revenue" else ["l_orderkey", "l_linenumber"]
    began = time.monotonic()
    assert etlkit_command(*arguments(job, small, tmp_path / "s", tmp_path / "whole"), cwd=tmp_path).returncode == 0
    took = time.monotonic() - began
    whole = read_output(tmp_path / "whole")
    draw = random.Random(f"{job} 1")
    kills = runs = 0
    while kills < 10:
        runs += 1
        out = tmp_path / f"out-{runs}"
        call = [*arguments(job, small, tmp_path / f"state-{runs}", out), "--checkpoint-every", "50ms"]
        while (
            code := run_and_kill(call, tmp_path, draw.uniform(0.05, took) if kills < 10 else 120)
        ) == -signal.SIGKILL:
            kills += 1
        assert code == 0
        assert_same(read_output(out), whole, keys)
        visible = {path.name for path in out.iterdir()}
        assert all(name == "_SUCCESS" or name.startswith("part-") for name in visible), visible


def run_and_kill(call: list[str], cwd: Path, after_s: float) -> int:
    """The exit code; -9 if it was still running after so many seconds."""
    process = warm.start(call, env=environment(), cwd=cwd)
    try:
        return process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


SLOW = """
import os
import time
import etlkit as ek

def slowly(batch):
    time.sleep(float(os.environ.get("NAP", "0.1")))
    return batch

@ek.job
def slow(src: str, out: str) -> ek.Pipeline:
    return (
        ek.read_parquet(src).select("l_partkey", "l_extendedprice").map_batches(slowly)
        .group_by("l_partkey").agg(dearest=ek.max("l_extendedprice"), lines=ek.count()).write_parquet(out)
    )
"""


def slow_run(tmp_path: Path, src: Path, progress: str) -> list[str]:
    (tmp_path / "slow.py").write_text(SLOW)
    return [
        "run", "slow.py", "--set", f"src={src}", "--set", f"out={tmp_path}/out", "--state", "state", "--progress", progress,
        "--workers", "1",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_nothing_is_repeated(number, lineitem, tmp_path, etlkit_command):
    """SIGINT as a user sends it: Ctrl-C on a terminal."""
    call = slow_run(tmp_path, lineitem, "auto")
    terminal = Terminal(call, tmp_path)
    wait_for_splits(tmp_path / "state", 2)
    if number is signal.SIGINT:
        terminal.press(CTRL_C)
    else:
        terminal.process.send_signal(number)
    assert terminal.wait() == 75, terminal.text
    assert "the same command goes on" in re.sub(r"\s+", " ", terminal.text)
    assert f"\n  {shlex.join(['etlkit', *call])}\n" in terminal.text, "to be copied"
    assert ("Ctrl-C again stops at once" in re.sub(r"\s+", " ", terminal.text)) is (number is signal.SIGINT)
    before = show(tmp_path / "state")
    assert before["status"] == "interrupted"
    assert 0 < before["rows_in"] < count_rows(lineitem)
    assert etlkit_command(*call, cwd=tmp_path).returncode == 0
    story = show(tmp_path / "state")
    assert [attempt["ended_by"] for attempt in story["attempts"]] == [number.name, "done"]
    assert story["attempts"][1]["resumed_from"] is not None
    assert story["rows_in"] == count_rows(lineitem), "every row counted once"
    events = [json.loads(line) for line in (tmp_path / "state" / "events.jsonl").read_text().splitlines()]
    seen = next(event["rows_in"] for event in events if event["event"] == "attempt_ended")
    assert seen == before["rows_in"], "what was read before the signal was all committed"
    found = duckdb.sql(
        f"select l_partkey, max(l_extendedprice) dearest, count(*) as lines from '{lineitem}/*.parquet' group by 1"
    )
    assert_same(read_output(tmp_path / "out"), found.to_arrow_table(), ["l_partkey"])


def test_a_second_ctrl_c_waits_for_nothing(lineitem, tmp_path):
    call = slow_run(tmp_path, lineitem, "auto")
    terminal = Terminal(call, tmp_path, {"NAP": "100"})
    terminal.wait_for("planned")
    wait_for_splits(tmp_path / "state", 0)
    terminal.press(CTRL_C)
    terminal.wait_for("Ctrl-C again")
    terminal.press(CTRL_C)
    assert terminal.wait(20) == 75, "within the grace of 30 s: " + terminal.text
    assert show(tmp_path / "state")["status"] == "interrupted"


def test_what_was_told_before_a_kill_is_in_the_log(lineitem, tmp_path):
    """Real SIGKILL: all that came out of the pipe is in the file, whole, and something came out all the time."""
    call = slow_run(tmp_path, lineitem, "json")
    process = warm.start(call, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    told = []
    for line in process.stdout:
        told.append(json.loads(line))
        if told[-1]["event"] == "progress" and told[-1]["splits_done"] >= 3:
            process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = list(read_events(tmp_path / "state" / "events.jsonl"))
    assert kept[: len(told)] == told and len(kept) <= len(told) + 1
    times = [datetime.fromisoformat(event["at"]) for event in kept]
    assert statistics.median((later - earlier).total_seconds() for earlier, later in pairwise(times)) < 1
    story = show(tmp_path / "state")
    assert story["status"] == "interrupted" and story["attempts"][0]["peak_bytes"] > 0


def wait_for_splits(state: Path, splits: int) -> None:
    """Until the event log says that so many splits are done."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        log = state / "events.jsonl"
        if log.exists():
            for line in log.read_text().splitlines():
                if '"progress"' in line and json.loads(line)["splits_done"] >= splits:
                    return
        time.sleep(0.01)
    raise AssertionError("no progress was written")
