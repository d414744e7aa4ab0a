"""Two processes that meet over a volume, and try on each other what the state relies upon: the two-pod half of ``doctor``.

Each is started with the same place and its own part, 0 or 1, on a node of its own. Everything goes through ``Store``, so that a
folder, NFS without hard links and a bucket are tried as they are used. What one process alone can find out (does link(2) refuse a
name that is taken, how long does fsync take) is not tried again. Tried, in this order:

* **seen**     what one has committed, the other finds by its name, whole, and how soon
* **replaced** a file that is replaced again and again is never missing, half, or older than it was (rename)
* **raced**    of two commits under one number one is refused, and both agree which (fencing)
* **late**     a writer that did not look for a while is refused a number that the other has taken since (fencing)
* **lock**     a lock that one holds, the other is told of

It leaves nothing behind but the folder of the state itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import EtlkitError, StateBusyError, StateError
from ..units import format_seconds
from .store import Store, Taken, open_store

PLACE = ".meeting"
PINGS, VERSIONS, RACES = 5, 100, 100
_BLOCK = b"etlkit" * 2000
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. ``holds`` None: it could not be tried, or need not hold."""

    name: str
    holds: bool | None
    what: str


class NobodyCameError(Exception):
    """The other did not come, or went away."""


def meet(state: str, part: int, wait_s: float) -> list[Finding]:
    """Errors: ``NobodyCameError``, StateError for what the volume itself refuses."""
    place = f"{state.rstrip('/')}/{PLACE}"
    local, was_there = "://" not in state, Path(state).exists()
    store = open_store(place)
    store.prepare()
    meeting = _Meeting(store, part, wait_s)
    try:
        meeting.begin()
        return [meeting.seen(), meeting.replaced(), meeting.raced(), meeting.late(), meeting.lock()]
    finally:
        meeting.end()
        if part == 0 and local:
            shutil.rmtree(place, ignore_errors=True)
            if not was_there:
                with contextlib.suppress(OSError):
                    Path(state).rmdir()


class _Meeting:
    def __init__(self, store: Store, part: int, wait_s: float) -> None:
        self._store, self._part, self._wait_s = store, part, wait_s
        self._token = secrets.token_hex(4)
        self._mine: list[str] = []

    # ── talking: files with names of their own, written once ─────────────────────────────────────────────────────────

    def _name(self, what: str) -> str:
        return f"manifests/{self._token}-{what}"

    def _put(self, what: str, content: bytes = b"") -> None:
        self._store.put_new(self._name(what), content or b"-", str(self._part))
        self._mine.append(self._name(what))

    def _get(self, what: str) -> bytes:
        name = self._name(what)
        self._until(lambda: self._store.exists(name), what)
        return self._store.read(name) or b""

    def _until(self, met: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + self._wait_s
        while not met():
            if time.monotonic() >= deadline_s:
                raise NobodyCameError(f"the other was not there after {format_seconds(self._wait_s)} ({what})")
            time.sleep(_PAUSE_S)

    def _together(self, what: str, content: bytes = b"") -> bytes:
        """Both are here; each gets what the other says."""
        self._put(f"{what}-{self._part}", content)
        return self._get(f"{what}-{1 - self._part}")

    def begin(self) -> None:
        """Part 0 names the meeting. Part 1 may first find the name of one that was cut off, and follows when it changes."""
        hello = "manifests/hello"
        if self._part == 0:
            self._store.replace(hello, self._token.encode())
            self._mine.append(hello)
            self._get("here")
            self._put("go")
            return
        told: set[str] = set()

        def going() -> bool:
            token = (self._store.read(hello) or b"").decode()
            if token and token not in told:
                self._token = token
                # Taken, or swept away: a meeting of before, with somebody else.
                with contextlib.suppress(Taken, StateError):
                    self._put("here")
                told.add(token)
            return bool(token) and self._store.exists(self._name("go"))

        self._until(going, "hello")

    def end(self) -> None:
        with contextlib.suppress(EtlkitError, NobodyCameError):
            if self._part == 0 and self._name("lock-released-0") in self._mine:
                self._get("bye")
            elif self._part == 1:
                self._put("bye")
                self._mine.remove(self._name("bye"))
        for name in self._mine:
            with contextlib.suppress(EtlkitError):
                self._store.remove(name)
        if self._part == 0:
            with contextlib.suppress(EtlkitError):
                self._store.remove(self._name("bye"))

    # ── what is tried ────────────────────────────────────────────────────────────────────────────────────────────────

    def seen(self) -> Finding:
        """There and back again: no clock is compared."""
        times_s, wrong = [], 0
        for number in range(PINGS):
            content = os.urandom(32)
            began_s = time.perf_counter()
            if self._part == 0:
                self._put(f"ping-{number}", content + _BLOCK)
                wrong += self._get(f"pong-{number}") != content
                times_s.append((time.perf_counter() - began_s) / 2)
            else:
                got = self._get(f"ping-{number}")
                wrong += got[32:] != _BLOCK
                self._put(f"pong-{number}", got[:32])
                times_s.append(time.perf_counter() - began_s)
        if wrong:
            return Finding("seen", False, f"{wrong} of {PINGS} commits did not reach the other as they were written")
        return Finding("seen", True, f"a commit is seen by the other {statistics.median(times_s) * 1000:.0f} ms later")

    def replaced(self) -> Finding:
        name, last, wrong = self._name("moving"), -1, ""
        if self._part == 0:
            self._mine.append(name)
            self._store.replace(name, _version(0))
            self._together("watching")
            for number in range(1, VERSIONS + 1):
                self._store.replace(name, _version(number))
            wrong = self._get("watched").decode().strip("-")
        else:
            self._together("watching")
            deadline_s = time.monotonic() + self._wait_s
            while last < VERSIONS and not wrong and time.monotonic() < deadline_s:
                found = _read_version(self._store.read(name))
                if found is None:
                    wrong = "it was missing or half for a moment"
                elif found < last:
                    wrong = f"version {found} was read after version {last}"
                else:
                    last = found
            if last < VERSIONS and not wrong:
                wrong = f"after {format_seconds(self._wait_s)} it was still version {last} of {VERSIONS}"
            self._put("watched", wrong.encode())
        if wrong:
            return Finding(
                "replaced", False, f"a file that one replaces {VERSIONS} times while the other reads: {wrong}"
            )
        return Finding(
            "replaced", True, f"a file that one replaced {VERSIONS} times was whole at each look of the other"
        )

    def raced(self) -> Finding:
        me, won, times_s = str(self._part).encode(), [], []
        self._together("begin")
        for number in range(RACES):
            began_s = time.perf_counter()
            with contextlib.suppress(Taken):
                self._put(f"race-{number}", me)
                won.append(number)
            times_s.append(time.perf_counter() - began_s)
        theirs = set(json.loads(self._together("won", json.dumps(won).encode())))
        both, none = theirs & set(won), set(range(RACES)) - theirs - set(won)
        if both or none:
            what = f"of {RACES} numbers {len(both)} were given to both, and {len(none)} to none"
            return Finding("raced", False, what)
        other = sum((self._store.read(self._name(f"race-{n}")) == me) != (n in won) for n in range(RACES))
        self._together("raced")
        if other:
            return Finding("raced", False, f"under {other} of {RACES} numbers lies not what its winner wrote")
        median_ms = statistics.median(times_s) * 1000
        what = f"{RACES} numbers, each given to one of the two ({len(won)} here); {median_ms:.1f} ms a try"
        return Finding("raced", True, what)

    def late(self) -> Finding:
        """Part 1 takes a number that part 0 has seen to be free; then part 0, which does not look again, tries to."""
        kept = True
        for number in range(PINGS):
            name = f"late-{number}"
            if self._part == 0:
                kept &= not self._store.exists(self._name(name))
                self._put(f"slept-{number}")
                self._get(f"took-{number}")
                try:
                    self._put(name, b"0")
                    kept = False
                except Taken:
                    kept &= self._store.read(self._name(name)) == b"1"
                self._put(f"tried-{number}", b"1" if kept else b"0")
            else:
                self._get(f"slept-{number}")
                self._put(name, b"1")
                self._put(f"took-{number}")
                kept &= self._get(f"tried-{number}") == b"1"
        if not kept:
            return Finding(
                "late", False, "a writer that had slept could commit under a number that was taken meanwhile"
            )
        return Finding("late", True, "a writer that had slept was refused the number that the other took meanwhile")

    def lock(self) -> Finding:
        refused = b"-"
        if self._part == 0:
            held = self._store.lock(0.0)
            self._together("lock-held", b"-" if held is None else b"held")
            refused = self._get("lock-tried")
            if held is not None:
                held.__exit__(None, None, None)
            self._together("lock-released")
        else:
            there = self._together("lock-held") == b"held"
            try:
                mine = self._store.lock(0.0) if there else None
                refused = b"no" if there else b"-"
                if mine is not None:
                    mine.__exit__(None, None, None)
            except StateBusyError:
                refused = b"yes"
            self._put("lock-tried", refused)
            self._together("lock-released")
        if refused == b"yes":
            return Finding("lock", True, "a lock that one holds, the other is told of")
        what = "none here" if refused == b"-" else "not seen by the other"
        return Finding(
            "lock", None, f"locks are {what}: a second run does not wait for the first, it takes over and fences it"
        )


def _version(number: int) -> bytes:
    body = number.to_bytes(8, "big") + _BLOCK
    return body + hashlib.sha256(body).digest()


def _read_version(content: bytes | None) -> int | None:
    if not content or hashlib.sha256(content[:-32]).digest() != content[-32:]:
        return None
    return int.from_bytes(content[:8], "big")
