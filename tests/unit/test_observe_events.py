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


def test_above_the_bound_only_progress_is_thinned_and_only_in_the_older_half(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", max_bytes=100_000)
    for number in range(5_000):
        log.append("progress", number=number, used_bytes=123_456_789)
        if number % 50 == 0:
            log.append("checkpoint", id=number)
    log.close()
    assert log.path.stat().st_size < 200_000
    events = list(read_events(log.path))
    assert [event["id"] for event in events if event["event"] == "checkpoint"] == list(range(0, 5_000, 50))
    numbers = [event["number"] for event in events if event["event"] == "progress"]
    assert numbers == sorted(numbers)
    assert numbers[-100:] == list(range(4_900, 5_000)), "the newest are all there"
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_a_log_full_of_other_events_is_not_rewritten_at_each_line(tmp_path, monkeypatch):
    rewritten = []
    real = EventLog._thin

    def counted(self):
        rewritten.append(1)
        real(self)

    monkeypatch.setattr(EventLog, "_thin", counted)
    log = EventLog(tmp_path / "events.jsonl", max_bytes=2_000)
    for number in range(3_000):
        log.append("checkpoint", id=number)
    log.close()
    assert len(list(read_events(log.path))) == 3_000
    assert len(rewritten) < 20


def _write(path: Path, writer: int, count: int) -> None:
    log = EventLog(path, max_bytes=30_000)
    for number in range(count):
        log.append("checkpoint", writer=writer, number=number)
        log.append("progress", writer=writer, filler="x" * 100)
    log.close()


def test_several_processes_append_while_it_is_thinned_and_lose_nothing(tmp_path):
    path = tmp_path / "events.jsonl"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(path, writer, 400)) for writer in range(3)]
    for process in writers:
        process.start()
    while any(process.is_alive() for process in writers):
        for event in read_events(path):
            assert event["event"] in ("checkpoint", "progress")
    for process in writers:
        process.join()
        assert process.exitcode == 0
    kept = [event for event in read_events(path) if event["event"] == "checkpoint"]
    for writer in range(3):
        assert [event["number"] for event in kept if event["writer"] == writer] == list(range(400))


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
