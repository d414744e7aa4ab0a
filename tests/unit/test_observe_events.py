"""The event log: whole lines from several writers, torn lines, its bound, and a disk that takes no more."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from etlkit.observe.events import EventLog, read_events
from tests.conftest import REPOSITORY


def test_what_is_appended_is_read_in_order(tmp_path):
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    wrote = [log.append("checkpoint", id=number, reason="größer") for number in range(3)]
    log.close()
    assert list(read_events(log.path)) == wrote
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["at"]) for event in wrote)
    assert list(wrote[0]) == ["event", "at", "id", "reason"]


def test_the_time_is_when_it_was_written_whatever_the_fields_say(tmp_path):
    assert EventLog(tmp_path / "e").append("resize", at="1999-01-01T00:00:00.000Z")["at"] > "2000"


def test_no_log_is_no_events(tmp_path):
    assert list(read_events(tmp_path / "events.jsonl")) == []


def test_a_torn_line_is_skipped_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("level", level="tight")
    log.close()
    with path.open("ab") as file:
        file.write(b'{"event":"progress","at":"2026-11-24T0')
    assert [event["event"] for event in read_events(path)] == ["level"]
    log = EventLog(path)
    log.append("published", parts=1)
    assert [event["event"] for event in read_events(path)] == ["level", "published"]


def test_no_log_is_longer_than_its_bound_and_the_newest_events_are_all_there(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", max_bytes=100_000)
    largest = 0
    for number in range(5_000):
        log.append("progress", number=number, used_bytes=9_999 if number == 7 else 1)
        if number % 50 == 0:
            log.append("checkpoint", id=number, reason="interval")
        largest = max(largest, log.path.stat().st_size)
    log.close()
    assert 90_000 < largest <= 100_000
    progress = [event for event in read_events(log.path) if event["event"] == "progress"]
    numbers = [event["number"] for event in progress]
    assert numbers == sorted(numbers)
    assert numbers[-100:] == list(range(4_900, 5_000)), "the newest are all there"
    assert numbers[0] == 0 and max(event["used_bytes"] for event in progress) == 9_999, "and so is the peak"
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_checkpoints_are_summed_up_and_nothing_of_their_sums_is_lost(tmp_path, monkeypatch):
    rewritten = []
    real = EventLog._shortened
    monkeypatch.setattr(EventLog, "_shortened", lambda log, *rest: (rewritten.append(1), real(log, *rest))[1])
    log = EventLog(tmp_path / "events.jsonl", max_bytes=30_000)
    for attempt in (1, 2):
        log.append("attempt_started", attempt=attempt, run_id="r")
        log.append("resize", to_bytes=attempt, outcome="requested")
        log.append("decision", instruction="RequestMemory", reason="why", to_bytes=attempt)
        for number in range(1_500):
            log.append("checkpoint", id=1_500 * attempt + number, bytes=number, duration_s=0.001, reason="interval")
            log.append("decision", instruction="ReleasePools", reason="gives freed memory back")
        log.append("attempt_ended", attempt=attempt, exit_code=0)
    log.close()
    assert log.path.stat().st_size <= 30_000
    assert len(rewritten) < 60, "not at each line"
    found: dict[str, list[dict]] = {}
    for event in read_events(log.path):
        found.setdefault(event["event"], []).append(event)
    assert [len(found[name]) for name in ("attempt_started", "resize", "attempt_ended")] == [2, 2, 2]
    asked = [event["to_bytes"] for event in found["decision"] if event["instruction"] == "RequestMemory"]
    assert asked == [1, 2]
    saved = found["checkpoint"]
    assert sum(event.get("count", 1) for event in saved) == 3_000
    assert sum(event.get("sum_bytes", event["bytes"]) for event in saved) == 2 * sum(range(1_500))
    assert max(event["bytes"] for event in saved) == 1_499
    ids = [event["id"] for event in saved]
    assert ids == sorted(ids) and {1_500, 2_999, 3_000, 4_499} <= set(ids), "the first and the last of each attempt"


def test_thousands_of_runs_in_one_state_leave_the_newest(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", max_bytes=20_000)
    for run in range(300):
        for attempt in (1, 2):
            log.append("attempt_started", attempt=attempt, run_id=str(run))
            log.append("attempt_ended", attempt=attempt, exit_code=75)
    for attempt in range(3, 300):
        log.append("attempt_started", attempt=attempt, run_id="299")
    log.close()
    assert log.path.stat().st_size <= 20_000
    events = list(read_events(log.path))
    assert (events[0]["run_id"], events[0]["attempt"]) == ("299", 1), "how the newest run began"
    assert events[-1]["attempt"] == 299
    assert {event["run_id"] for event in events if "run_id" in event} == {"299"}


def test_a_disk_without_room_for_the_shorter_log_leaves_the_log_as_it_is(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "events.jsonl", max_bytes=2_000)
    tried = []

    def full(*_):
        tried.append(1)
        raise OSError(28, "no space left")

    monkeypatch.setattr("etlkit.observe.events._write_all", full)
    for number in range(100):
        log.append("progress", number=number)
    assert log.path.stat().st_size <= 2_000 and log.lost > 50
    assert len(tried) == 1, "tried again later, not at each line"
    assert not list(tmp_path.glob(".*"))
    assert next(iter(read_events(log.path)))["number"] == 0


def _write(path: Path, writer: int, count: int) -> None:
    log = EventLog(path, max_bytes=150_000)
    for _ in range(count):
        log.append("resize", writer=writer)
        log.append("checkpoint", bytes=1, reason=f"{writer}: of this writer")
        log.append("progress", writer=writer, filler="x" * 100)
    log.close()


def test_several_processes_append_while_it_is_thinned_and_lose_nothing(tmp_path):
    path = tmp_path / "events.jsonl"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(path, writer, 250)) for writer in range(3)]
    for process in writers:
        process.start()
    while any(process.is_alive() for process in writers):
        for event in read_events(path):
            assert event["event"] in ("checkpoint", "progress", "resize")
    for process in writers:
        process.join()
        assert process.exitcode == 0
    found = list(read_events(path))
    for writer in range(3):
        saved = [e for e in found if e["event"] == "checkpoint" and e["reason"].startswith(str(writer))]
        assert sum(event.get("sum_bytes", event["bytes"]) for event in saved) == 250
        assert sum(event["event"] == "resize" and event["writer"] == writer for event in found) == 250


def test_a_process_that_was_stopped_with_the_lock_does_not_stop_the_others(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("level", level="calm")
    holder = os.open(log.path, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    log.append("level", level="tight")
    os.close(holder)
    assert [event["level"] for event in read_events(log.path)] == ["calm", "tight"]


def test_a_disk_that_takes_no_more_events_does_not_stop_the_job():
    log = EventLog("/dev/full")
    assert log.append("level", level="calm")["level"] == "calm"
    assert log.lost == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_does_not_stop_the_job(tmp_path):
    tmp_path.chmod(0o500)
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    log.append("level", level="calm")
    assert log.lost == 1


def test_every_event_that_the_code_writes_is_documented():
    text = (REPOSITORY / "docs" / "events.md").read_text()
    written = set()
    for path in (REPOSITORY / "etlkit").rglob("*.py"):
        if path.parts[-2] in ("runtime", "node"):
            written |= set(re.findall(r'emit\(\s*"(\w+)",', path.read_text()))
    assert {"progress", "checkpoint", "attempt_ended"} <= written
    for name in written:
        assert f"`{name}`" in text, f"docs/events.md does not say what {name} is"


def test_every_field_of_a_real_run_is_documented(tmp_path, etlkit_command):
    """`decision` has its instruction's own fields beside those that are named."""
    (tmp_path / "in.csv").write_text("k,v\n" + "".join(f"{n % 7},{n}\n" for n in range(1000)))
    (tmp_path / "job.py").write_text(
        'import etlkit as ek\n\n\n@ek.job\ndef small() -> ek.Pipeline:\n    return ek.read_csv("in.csv").group_by("k")'
        '.agg(n=ek.count()).write_csv("out")\n'
    )
    done = etlkit_command("run", "job.py", "--state", "s", "--progress", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (REPOSITORY / "docs" / "events.md").read_text()
    everywhere = set(re.findall(r"`(\w+)`", "".join(line for line in text.splitlines() if not line.startswith("|"))))
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            names = re.findall(r"`(\w+)`", line.split("|")[1])
            rows |= {key: set(re.findall(r"`(\w+)`", line)) for key in names}
    seen = list(read_events(tmp_path / "s" / "events.jsonl"))
    assert {"attempt_started", "planned", "progress", "checkpoint", "published", "attempt_ended"} <= {
        one["event"] for one in seen
    }
    for one in seen:
        missing = set(one) - {"event", "at"} - rows[one["event"]] - everywhere
        assert one["event"] == "decision" or not missing, f"docs/events.md: {one['event']} has {sorted(missing)} too"
