"""The event log of a state that is kept behind a URL, and the choice between it and a file.

An object store cannot append. So each attempt has an object of its own, ``events/TIME-PID.jsonl``, that is put anew from memory on a
thread of its own: soon at first, every few seconds later, and once more at the end. Covers that, its bounds (of memory, and of
attempts that are kept), and reading all of them as one log. What is lost with a kill is the last seconds of a log by which nothing is
decided; a store that does not answer costs the job nothing but those.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint.store import Store, open_store
from ..errors import EtlkitError
from .events import EventLog, as_line, read_events, records, stamp
from .thinning import shortened

FOLDER = "events"
FILE = "events.jsonl"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
CLOSE_WAIT_S = 5.0
MAX_BYTES = 2 << 20
ATTEMPTS_KEPT = 32


class StoredEventLog:
    """As ``EventLog``: ``append`` and ``close``, which never raise for a store that fails."""

    def __init__(self, store: Store, max_bytes: int = MAX_BYTES) -> None:
        self.name = f"{FOLDER}/{stamp().replace(':', '').replace('-', '')}-{os.getpid():x}.jsonl"
        self._store = store
        self._pause_s = FIRST_PAUSE_S
        self._max_bytes = max_bytes
        self._lines: list[bytes] = []
        self._bytes = 0
        self._changed = threading.Condition()
        self._dirty = self._closed = False
        self._thread = threading.Thread(target=self._run, name="etlkit-events", daemon=True)
        self._thread.start()

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Take one event, stamped with the time; the store has it a few seconds later."""
        record, line = as_line(event, fields)
        with self._changed:
            self._lines.append(line)
            self._bytes += len(line)
            if self._bytes > self._max_bytes:
                self._lines = shortened(self._lines, self._max_bytes)
                self._bytes = sum(map(len, self._lines))
            self._dirty = True
            self._changed.notify()
        return record

    def close(self) -> None:
        """Put what is left, waiting at most a few seconds for it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_WAIT_S)

    def _run(self) -> None:
        self._forget_old()
        while self._wait():
            with self._changed:
                content, self._dirty = b"".join(self._lines), False
            try:
                self._store.replace(self.name, content)
            except EtlkitError:
                self._dirty = not self._closed  # the next put has it too

    def _wait(self) -> bool:
        """Until there is something to put. The first event goes at once, those after it together. False at the end."""
        with self._changed:
            if self._bytes and not self._closed:
                self._changed.wait_for(lambda: self._closed, self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._changed.wait_for(lambda: self._dirty or self._closed)
            return self._dirty

    def _forget_old(self) -> None:
        try:
            for name in sorted(self._store.names(FOLDER))[: 1 - ATTEMPTS_KEPT]:
                self._store.remove(name)
        except EtlkitError:
            pass  # the next attempt tries again


def open_log(state: str) -> EventLog | StoredEventLog:
    """The log of that state, to be written by one more attempt."""
    folder = _folder(state)
    return StoredEventLog(open_store(state)) if folder is None else EventLog(folder / FILE)


def read_log(state: str) -> Iterator[dict[str, Any]]:
    """Every whole event of all attempts, oldest first. Errors: StateError."""
    folder = _folder(state)
    if folder is not None:
        yield from read_events(folder / FILE)
        return
    store = open_store(state)
    for name in sorted(store.names(FOLDER)):
        yield from records((store.read(name) or b"").splitlines())


def _folder(state: str) -> Path | None:
    scheme, separator, rest = state.partition("://")
    if not separator:
        return Path(state)
    return Path(rest) if scheme in ("file", "local") else None
