"""The event log: one JSON object a line, appended while it runs, across restarts. ``docs/events.md`` has the fields.

Covers writing it so that several processes may append at once and a crash leaves at most one torn line, keeping it below a bound
(``thinning.py`` says what goes), and reading it. The log is for people and tools: nothing is decided by it and no result depends
on it, so it is not synced, and a disk that takes no more events does not stop the job (the checkpoint will say that the disk is
full). Behind a URL: stored_events.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from .thinning import shortened

MAX_BYTES = 4 << 20
"""No log is longer: it is shortened first."""
_TRY_AGAIN_S = 10.0
"""After a disk had no room for the shorter one, or the lock was held for long."""
_LOCK_WAIT_S = 2.0
"""Who holds the lock longer has been stopped, and is not waited for again at each line."""
_LOCK_PAUSE_S = 0.001


def stamp() -> str:
    """Now, as every event says it: RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_line(event: str, fields: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The event stamped with the time, and the line that says so."""
    record = {"event": event, "at": stamp(), **{name: value for name, value in fields.items() if name != "at"}}
    return record, orjson.dumps(record, default=str, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """What whole lines say; one that was torn by a crash, or is still being written, says nothing."""
    for line in lines:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict) and "event" in record and "at" in record:
            yield record


class EventLog:
    """Appends to ``path``. One ``os.write`` a line, so lines of several processes do not mix."""

    def __init__(self, path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
        self.path = Path(path)
        self.lost = 0
        """Events that could not be written."""
        self._max_bytes = max_bytes
        self._fd: int | None = None
        self._not_before_s = self._stuck_until_s = 0.0

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Write one event, stamped with the time (a field of that name does not count). Returns it as it was written.

        Never raises for a full or broken disk.
        """
        record, line = as_line(event, fields)
        try:
            self._write(line)
        except OSError:
            self.lost += 1
        return record

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, line: bytes) -> None:
        fd = self._locked()
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # somebody died in the middle of a line: it stays one torn line
            if size + len(line) > self._max_bytes:
                if time.monotonic() < self._not_before_s:
                    raise OSError(errno.ENOSPC, "the log is full, and could not be shortened a moment ago")
                self._not_before_s = time.monotonic() + _TRY_AGAIN_S
                fd = self._shortened(fd, size)
                self._not_before_s = 0.0
            os.write(fd, line)
        finally:
            _unlock(fd)

    def _locked(self) -> int:
        """The open file, locked against being replaced meanwhile; opened again if another process has replaced it."""
        while True:
            if self._fd is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock(self._fd, 0.0 if time.monotonic() < self._stuck_until_s else _LOCK_WAIT_S):
                self._stuck_until_s = time.monotonic() + _TRY_AGAIN_S
            ours = os.fstat(self._fd)
            try:
                there = self.path.stat()
            except FileNotFoundError:
                there = None
            if there is not None and (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return self._fd
            self.close()

    def _shortened(self, fd: int, size: int) -> int:
        """The file anew, at most half as long as the bound: so it is written anew once for each half that it grows by.

        A crash leaves the old file or the new one. The new one is locked before it is in place.
        """
        for left in self.path.parent.glob(f".{self.path.name}.*"):
            left.unlink(missing_ok=True)  # of somebody who died at it
        kept = b"".join(shortened(os.pread(fd, size, 0).splitlines(keepends=True), self._max_bytes))
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        fresh = os.open(beside, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _lock(fresh, 0.0)
            _write_all(fresh, kept)
            beside.replace(self.path)
        except OSError:
            os.close(fresh)
            beside.unlink(missing_ok=True)
            raise
        late = os.pread(fd, self._max_bytes, size)  # of a writer that could not wait for the lock
        if late:
            _write_all(fresh, late)
        self.close()
        self._fd = fresh
        return fresh


def read_events(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Every whole event in the log, oldest first; none if there is no log. May be read while it is written."""
    if not Path(path).is_file():
        return
    with open(path, "rb") as file:
        yield from records(file)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _lock(fd: int, wait_s: float) -> bool:
    """Best effort: a process that was stopped while it held the lock must not stop the others."""
    until_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
            time.sleep(_LOCK_PAUSE_S)
        except OSError:
            return True  # a file system without locks


def _unlock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:
        pass
