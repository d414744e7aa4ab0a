"""The story of a run: from a real state directory and its events, and from made-up ones where the moment is hard to meet."""

from __future__ import annotations

import os
import subprocess
import sys

import orjson
import pytest

from etlkit.checkpoint import Delta, Intervals, Phase, StageDelta, StateDir
from etlkit.errors import ConfigError
from etlkit.io.sink import Part
from etlkit.observe.events import EventLog, records
from etlkit.observe.state import observe
from etlkit.observe.story import _checkpoint_cost
from etlkit.observe.summary import lines, summarise
from etlkit.observe.thinning import shortened
from etlkit.observe.timeline import timeline
from etlkit.units import GIB, MIB
from tests.conftest import environment

CONTRACT = {
    "job", "status", "fingerprint", "rows_in", "rows_out", "splits_done", "splits_total", "checkpoints", "attempts",
    "resizes", "oom_kills",
}  # fmt: skip
ATTEMPT = {
    "number", "started_at", "ended_at", "exit_code", "ended_by", "limit_bytes", "peak_bytes", "resumed_from",
    "throttled_s",
}  # fmt: skip
RESIZE = {"at", "from_bytes", "to_bytes", "reason", "outcome", "requested_to_actuated_s"}
PLAN = [
    {"kind": "scan → group", "scans": [4], "partitions": 8},
    {"kind": "reduce → write", "scans": [], "partitions": None},
]


def at(second: float) -> str:
    return f"2025-11-24T10:00:{second:06.3f}Z"


def attempt(number: int, **more) -> dict:
    known = dict.fromkeys(ATTEMPT) | {"number": number, "started_at": at(0), "pid": 1, "limit_bytes": 192 * MIB}
    return known | more


def facts(**more) -> dict:
    known = {"job": "part_revenue", "parameters": {"src": "in"}, "plan": PLAN, "attempts": [attempt(1)], "resizes": []}
    return known | {"sinks": [{"format": "parquet", "path": "out/x"}], "failure": None} | more


def make_state(path, phase=Phase.RUNNING, **more):
    """A run that has read 4 splits, and written one part of 30 rows if it is done."""
    with StateDir.open(path) as state:
        state.begin("run-1", {"job": "part_revenue", "plan": "abc"}, facts(**more))
        stages = {0: StageDelta(finished=Intervals([(0, 3)]), rows_in=300)}
        if phase is Phase.DONE:
            part = Part(0, "part-0.e1", "part-0", 30, 10, 1)
            stages = {
                0: StageDelta(finished=Intervals([(0, 4)]), rows_in=400),
                1: StageDelta(finished=Intervals([(0, 1)]), parts=((0, part),), rows_in=70, rows_out=30),
            }
        state.commit(Delta("interval", stages, {}, Phase.PUBLISHING if phase is Phase.DONE else Phase.RUNNING))
        if phase is not Phase.RUNNING:
            state.commit(Delta("end", {}, {}, phase))
    return path


def write_events(path, *events):
    lines = [orjson.dumps({"event": name, "at": at(second), **fields}) for name, second, fields in events]
    (path / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def test_the_object_of_the_contract(tmp_path):
    state = make_state(tmp_path / "s", Phase.DONE)
    write_events(
        state,
        ("attempt_started", 0, {"attempt": 1, "run_id": "run-1", "limit_bytes": 192 * MIB}),
        ("planned", 0, {"splits_total": 5, "splits_done": 0}),
        ("decision", 1, {"instruction": "SetWorkers", "workers": 1, "reason": "pressure"}),
        ("checkpoint", 2, {"id": 2, "duration_s": 0.02, "bytes": 1000, "reason": "interval", "splits_done": 4}),
    )
    story = observe(state).story
    assert set(story) >= CONTRACT
    assert (story["job"], story["status"], story["rows_in"], story["rows_out"]) == ("part_revenue", "done", 400, 30)
    assert (story["splits_done"], story["splits_total"], story["oom_kills"]) == (5, 5, 0)
    assert story["checkpoints"] == [{"id": 2, "at": at(2), "duration_s": 0.02, "bytes": 1000, "reason": "interval"}]
    assert [set(one) for one in story["attempts"]] == [ATTEMPT]
    assert story["decisions"] == [{"at": at(1), "instruction": "SetWorkers", "reason": "pressure", "workers": 1}]
    assert orjson.loads(orjson.dumps(dict(story))) == story
    assert len(story["fingerprint"]) == 64


def test_what_the_cadence_cost_and_what_stood_to_be_lost(tmp_path):
    state = make_state(tmp_path / "s", Phase.DONE)
    saved = {"duration_s": 0.05, "bytes": 1000, "reason": "interval", "splits_done": 1}
    write_events(
        state,
        ("attempt_started", 0, {"attempt": 1, "run_id": "run-1"}),
        ("checkpoint", 1, {"id": 2, **saved}),
        ("checkpoint", 4, {"id": 3, **saved}),
        ("attempt_started", 14, {"attempt": 2, "run_id": "run-1"}),
        ("checkpoint", 16, {"id": 4, **saved}),
        ("merged", 17, {"id": 5, "runs": 3, "bytes": 600, "duration_s": 0.02}),
        ("attempt_ended", 20, {"attempt": 2, "exit_code": 0}),
    )
    seen = observe(state)
    assert seen.story["checkpoint_cost"] == {
        "count": 3, "bytes": 3000, "merged_bytes": 600, "write_amplification": 1.2,
        "seconds": 0.15, "share": 0.015, "longest_stretch_s": 3.0,
    }  # fmt: skip
    assert "1.5 % of the time" in "\n".join(lines(seen.story, timeline(seen.events)))


def test_rows_of_later_stages_are_not_rows_in(tmp_path):
    assert observe(make_state(tmp_path / "s", Phase.DONE)).story["rows_in"] == 400


@pytest.mark.parametrize(
    ("phase", "last", "status"),
    [
        (Phase.DONE, {"exit_code": 0, "ended_at": at(5)}, "done"),
        (Phase.FAILED, {"exit_code": 65, "ended_at": at(5)}, "failed"),
        (Phase.RUNNING, {"exit_code": 75, "ended_at": at(5)}, "interrupted"),
        (Phase.RUNNING, {}, "interrupted"),
    ],
)
def test_status(tmp_path, phase, last, status):
    state = make_state(tmp_path / "s", phase, attempts=[attempt(1, **last)])
    assert observe(state).story["status"] == status


def test_running_is_a_process_that_holds_the_lock_and_no_longer_when_it_is_dead(tmp_path):
    state = make_state(tmp_path / "s")
    hold = "import sys; from etlkit.checkpoint import StateDir; s = StateDir.open(sys.argv[1]); print(); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", hold, state], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    assert observe(state).story["status"] == "running"
    process.kill()
    # Until it is reaped its number is taken, but it works no more.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert observe(state).story["status"] == "interrupted"
    process.communicate()
    assert observe(state).story["status"] == "interrupted"


def test_a_process_that_lives_on_after_its_run_is_not_running_it(tmp_path):
    """A notebook: who held the lock is this process, which holds it no more."""
    assert observe(make_state(tmp_path / "s")).story["status"] == "interrupted"


def test_on_another_machine_the_newest_event_decides(tmp_path):
    state = make_state(tmp_path / "s")
    (state / "writer.lock").write_bytes(orjson.dumps({"host": "elsewhere", "pid": 1, "since": at(0)}))
    EventLog(state / "events.jsonl").append("level", level="calm", reason="x")
    assert observe(state).story["status"] == "running"
    write_events(state, ("level", 0, {"level": "calm"}))
    assert observe(state).story["status"] == "interrupted"


def test_looking_takes_no_lock_and_changes_nothing(tmp_path):
    state = make_state(tmp_path / "s")
    with StateDir.open(state):
        before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
        observe(state)
        assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before


def test_no_state_is_said_so_and_not_made(tmp_path):
    with pytest.raises(ConfigError, match="no such state directory"):
        observe(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ConfigError, match="no run has begun"):
        observe(tmp_path)


def test_an_attempt_that_was_killed_gets_the_peak_that_the_log_saw_and_counts_as_an_oom_kill(tmp_path):
    killed = attempt(1, ended_at=at(3), exit_code=137, ended_by="OOMKilled")
    state = make_state(tmp_path / "s", attempts=[killed, attempt(2, resumed_from=2)])
    write_events(
        state,
        ("attempt_started", 0, {"attempt": 1, "run_id": "run-1", "limit_bytes": 192 * MIB}),
        ("progress", 1, {"used_bytes": 100 * MIB, "rows_in": 50}),
        ("progress", 2, {"used_bytes": 90 * MIB, "rows_in": 90}),
        ("attempt_started", 4, {"attempt": 2, "run_id": "run-1", "limit_bytes": 192 * MIB}),
        ("progress", 4, {"used_bytes": 80 * MIB, "rows_in": 70}),
    )
    story = observe(state).story
    assert story["oom_kills"] == 1
    assert [one["peak_bytes"] for one in story["attempts"]] == [100 * MIB, 80 * MIB]
    assert story["rows_repeated"] == 20


def test_the_log_of_an_earlier_run_in_the_same_state_is_not_this_runs_story(tmp_path):
    state = make_state(tmp_path / "s")
    write_events(
        state,
        ("attempt_started", 0, {"attempt": 1, "run_id": "old", "limit_bytes": None}),
        ("checkpoint", 1, {"id": 1, "bytes": 5}),
        ("attempt_started", 2, {"attempt": 1, "run_id": "run-1", "limit_bytes": None}),
        ("checkpoint", 3, {"id": 2, "bytes": 6}),
    )
    assert [one["id"] for one in observe(state).story["checkpoints"]] == [2]


RESIZED = (
    ("attempt_started", 0, {"attempt": 1, "run_id": "r", "limit_bytes": GIB}),
    ("progress", 0, {"used_bytes": GIB // 2, "rows_in": 0}),
    ("progress", 2, {"used_bytes": GIB // 2, "rows_in": 100}),
    ("attempt_ended", 2, {"attempt": 1, "exit_code": 75, "peak_bytes": GIB // 2, "rows_in": 100}),
    ("attempt_started", 4, {"attempt": 2, "run_id": "r", "limit_bytes": 2 * GIB}),
    ("progress", 4, {"used_bytes": GIB, "rows_in": 100}),
    ("progress", 6, {"used_bytes": GIB, "rows_in": 300}),
    ("limit_changed", 6, {"from_bytes": 2 * GIB, "to_bytes": 4 * GIB}),
    ("attempt_ended", 10, {"attempt": 2, "exit_code": 0, "peak_bytes": GIB, "rows_in": 300}),
)


def as_events(found):
    return [{"event": name, "at": at(second), **fields} for name, second, fields in found]


def test_memory_over_time_counts_the_pause_between_attempts_as_reserved():
    seen = timeline(as_events(RESIZED))
    assert seen.reserved_gib_s() == pytest.approx(4 * 1 + 2 * 2 + 4 * 4)
    assert seen.static_gib_s() == pytest.approx(4 * 10)
    assert seen.used_gib_s() == pytest.approx(0.5 * 2 + 1 * 2)
    assert seen.rows_repeated() == 0
    assert [(span.number, span.start_s, span.end_s) for span in seen.spans] == [(1, 0, 2), (2, 4, 10)]


def test_without_a_limit_nothing_is_said_to_be_reserved():
    seen = timeline(as_events([("attempt_started", 0, {"attempt": 1, "limit_bytes": None}), ("level", 5, {})]))
    assert (seen.reserved_gib_s(), seen.static_gib_s(), seen.end_s) == (None, None, 5)


def test_the_summary_says_what_came_out_and_what_to_type_next(tmp_path):
    resize = {
        "at": at(1), "from_bytes": GIB, "to_bytes": 2 * GIB, "reason": "forecast", "outcome": "actuated",
        "requested_to_actuated_s": 1.5,
    }  # fmt: skip
    attempts = [
        attempt(1, ended_at=at(2), exit_code=75, ended_by="SIGTERM", peak_bytes=GIB // 2),
        attempt(2, ended_at=at(9), exit_code=0, ended_by="done", peak_bytes=GIB, resumed_from=2),
    ]
    state = make_state(tmp_path / "s", Phase.DONE, attempts=attempts, resizes=[resize])
    write_events(state, *RESIZED)
    text = summarise(state)
    for words in (
        "part_revenue is done, 10.0 s after it began",
        "400 rows in, 30 rows out",
        "1 restart, no OOM kill; no row was read a second time",
        "Memory limit 1 GiB → 2 GiB → 4 GiB; at most 1 GiB were in use",
        "1 resize asked for, granted within 1.5 s",
        "24.00 GiB·s were reserved, where 4 GiB all the time would have been 40.00: 40 % saved",
        "output   out/x",
        f"etlkit show {state}",
    ):
        assert words in text, text


def test_the_summary_of_a_run_that_began_without_a_limit_tells_the_limits_that_came(tmp_path):
    state = make_state(tmp_path / "s", attempts=[attempt(1), attempt(2, ended_at=at(3), exit_code=75, peak_bytes=GIB)])
    write_events(
        state,
        ("attempt_started", 0, {"attempt": 1, "run_id": "r", "limit_bytes": None}),
        ("attempt_started", 2, {"attempt": 2, "run_id": "r", "limit_bytes": 2 * GIB}),
    )
    assert "Memory limit none → 2 GiB; at most 1 GiB were in use" in summarise(state)


def test_the_summary_of_an_interrupted_run_promises_no_output(tmp_path):
    resize = {**dict.fromkeys(RESIZE), "at": at(1), "outcome": "refused"}
    state = make_state(tmp_path / "s", attempts=[attempt(1, ended_at=at(2), exit_code=75)], resizes=[resize])
    write_events(state, ("attempt_started", 0, {"attempt": 1, "limit_bytes": GIB}), ("level", 2, {}))
    text = summarise(state)
    assert "is interrupted, " in text and "The same command goes on." in text and "No output is visible yet" in text
    assert "1 not granted (refused)" in text
    assert "  output" not in text


def test_show_prints_tables_and_the_same_object(tmp_path, etlkit_command):
    state = make_state(tmp_path / "s", Phase.DONE, attempts=[attempt(1, ended_at=at(3), exit_code=0, ended_by="done")])
    write_events(state, *RESIZED)
    text = etlkit_command("show", state, cwd=tmp_path)
    assert text.returncode == 0 and not text.stderr
    assert "part_revenue  done" in text.stdout and "attempts" in text.stdout and "192 MiB" in text.stdout
    shown = etlkit_command("show", state, "--json", cwd=tmp_path)
    assert orjson.loads(shown.stdout) == observe(state).story


def test_a_damaged_newest_checkpoint_is_said_beside_the_story(tmp_path, etlkit_command):
    state = make_state(tmp_path / "s")
    newest = sorted((state / "manifests").glob("*.json"))[-1]
    newest.write_bytes(newest.read_bytes()[:-20])
    shown = etlkit_command("show", state, "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "warning: " in shown.stderr and newest.name in shown.stderr
    assert orjson.loads(shown.stdout)["rows_in"] == 0


def test_a_log_that_was_shortened_tells_the_same_story():
    """An hour and a half of checkpoints once a second, with a kill in the middle."""
    told = [{"event": "attempt_started", "at": stamp_at(0), "attempt": 1, "run_id": "r", "limit_bytes": 100}]
    for second in range(1, 5400):
        if second == 2700:
            again = {"attempt": 2, "limit_bytes": 200, "resumed_from": 2699}
            told.append({"event": "attempt_started", "at": stamp_at(second), "run_id": "r", **again})
        used = 99 if second == 1234 else 50
        rows = 10 * (second if second < 2700 else second - 5)
        told.append({"event": "progress", "at": stamp_at(second), "used_bytes": used, "rows_in": rows})
        if second % 600 != 17:
            saved = {"id": second, "duration_s": 0.25, "bytes": second, "reason": "interval: 1s"}
            told.append({"event": "checkpoint", "at": stamp_at(second), **saved})
    whole = [orjson.dumps(event) + b"\n" for event in told]
    short = shortened(whole, sum(map(len, whole)) // 4)
    assert sum(map(len, short)) < sum(map(len, whole)) / 8
    before, after = timeline(told), timeline(records(short))
    cost = _checkpoint_cost(after)
    assert cost == _checkpoint_cost(before)
    assert (cost["count"], cost["longest_stretch_s"]) == (5390, 2.0)
    assert after.rows_repeated() == before.rows_repeated() == 40
    assert [span.peak_bytes for span in after.spans] == [99, 50]
    assert (after.limits, after.end_s) == (before.limits, before.end_s)


def stamp_at(second: int) -> str:
    return f"2026-11-24T{10 + second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.000Z"
