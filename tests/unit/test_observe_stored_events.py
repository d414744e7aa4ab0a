"""The event log of a state behind a URL: one object an attempt, read as one log; a store that fails stops nothing."""

from __future__ import annotations

import time
import uuid

from etlkit.checkpoint.store import open_store
from etlkit.errors import StateError
from etlkit.observe import stored_events
from etlkit.observe.events import EventLog, records
from etlkit.observe.stored_events import StoredEventLog, open_log, read_log


def url() -> str:
    return f"memory://{uuid.uuid4().hex}/state"


def test_attempts_are_read_as_one_log_in_order():
    state = url()
    for attempt in range(3):
        log = open_log(state)
        assert isinstance(log, StoredEventLog)
        log.append("attempt_started", attempt=attempt)
        log.append("attempt_ended", attempt=attempt, at="1999")
        log.close()
        time.sleep(0.002)  # names are made of milliseconds
    assert [(one["event"], one["attempt"]) for one in read_log(state)] == [
        (event, attempt) for attempt in range(3) for event in ("attempt_started", "attempt_ended")
    ]
    assert all(one["at"] > "2000" for one in read_log(state))


def test_the_first_event_is_there_before_the_end():
    state = url()
    log = open_log(state)
    log.append("attempt_started", attempt=1)
    deadline = time.monotonic() + 30
    while not list(read_log(state)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert [one["event"] for one in read_log(state)] == ["attempt_started"]
    log.close()


def test_a_store_that_fails_costs_nothing_but_the_log(monkeypatch):
    store = open_store(url())

    def refuse(*_):
        raise StateError("no", "never")

    monkeypatch.setattr(type(store), "replace", refuse)
    monkeypatch.setattr(type(store), "names", refuse)
    log = StoredEventLog(store)
    assert log.append("level", level="calm")["level"] == "calm"
    log.close()


def test_old_attempts_are_forgotten(monkeypatch):
    monkeypatch.setattr(stored_events, "ATTEMPTS_KEPT", 3)
    state = url()
    store = open_store(state)
    for number in range(6):
        store.replace(f"events/2020010{number}T000000.000Z-1.jsonl", b"")
    log = open_log(state)
    log.append("x")
    log.close()
    names = sorted(store.names("events"))
    assert len(names) == 3 and names[-1] == log.name and names[0].startswith("events/20200104")


def test_memory_is_bounded_as_a_file_is():
    log = StoredEventLog(open_store(url()), max_bytes=20_000)
    for number in range(3000):
        log.append("progress", splits_done=number)
        if number % 100 == 0:
            log.append("checkpoint", id=number)
    log.close()
    assert log._bytes <= 20_000
    saved = [event for event in records(log._lines) if event["event"] == "checkpoint"]
    assert sum(event.get("count", 1) for event in saved) == 30


def test_a_folder_and_a_file_url_have_a_file(tmp_path):
    for state in (str(tmp_path), f"file://{tmp_path}"):
        log = open_log(state)
        assert isinstance(log, EventLog)
        log.append("level", level="calm")
        log.close()
    assert len(list(read_log(str(tmp_path)))) == len(list(read_log(f"file://{tmp_path}"))) == 2
