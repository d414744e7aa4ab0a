"""The event log of a run: one JSON object a line, appended while it runs, across restarts. ``docs/events.md`` has the fields.

Covers writing it so that several processes may append at once and a crash leaves at most one torn line, bounding its size, and
reading it. The log is for people and tools: nothing is decided by it and no result depends on it, so it is not synced, and a
disk that takes no more events does not stop the job (the checkpoint will say that the disk is full). Behind a URL: stored_events.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

MAX_BYTES = 8 << 20
_KEEP_EVERY = 4
_LOCK_TRIES = 20
_LOCK_PAUSE_S = 0.001
_PROGRESS_MARK = b'"event":"progress"'


def stamp() -> str:
    """Now, as every event says it: RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_line(event: str, fields: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The event stamped with the time, and the line that says so."""
    record = {"event": event, "at": stamp(), **{name: value for name, value in fields.items() if name != "at"}}
    return record, orjson.dumps(record, default=str, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def thinned(lines: Sequence[bytes]) -> list[bytes]:
    """Fewer ``progress`` lines in the older half; every other line stays."""
    middle = len(lines) // 2
    kept: list[bytes] = []
    seen = 0
    for line in lines[:middle]:
        if _PROGRESS_MARK in line[:32]:
            seen += 1
            if seen % _KEEP_EVERY:
                continue
        kept.append(line)
    return [*kept, *lines[middle:]]


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
        self._thin_at_bytes = max_bytes
        self._fd: int | None = None

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
            os.write(fd, line)
            if size + len(line) > self._thin_at_bytes:
                self._thin()
        finally:
            _unlock(fd)

    def _locked(self) -> int:
        """The open file, locked against being replaced meanwhile; opened again if another process has replaced it."""
        while True:
            if self._fd is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            _lock(self._fd)
            ours = os.fstat(self._fd)
            try:
                there = self.path.stat()
            except FileNotFoundError:
                there = None
            if there is not None and (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return self._fd
            self.close()

    def _thin(self) -> None:
        """Write the file anew with fewer ``progress`` lines in its older half; every other line stays.

        The next time comes when it has grown by half again: with many other events the file may pass the bound, but
        rewriting it never costs more than a fixed share of writing it.
        """
        kept = thinned(self.path.read_bytes().splitlines(keepends=True))
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        beside.write_bytes(b"".join(kept))
        beside.replace(self.path)
        self._thin_at_bytes = max(self._max_bytes, sum(map(len, kept)) * 3 // 2)


def read_events(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Every whole event in the log, oldest first; none if there is no log. May be read while it is written."""
    if not Path(path).is_file():
        return
    with open(path, "rb") as file:
        yield from records(file)


def _lock(fd: int) -> None:
    """Best effort: a process that was stopped while it held the lock must not stop the others."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        except OSError:
            return  # a file system without locks


def _unlock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:
        pass
