"""The ledger: memory is reserved before it is used (law 5).

Covers reservations by name against a capacity, waiting for room, and a capacity that moves with the limit. Numbers
only: it neither measures nor allocates, and whether to spill when there is no room is for the machine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from enum import StrEnum

from ..errors import EtlkitError


class Grant(StrEnum):
    """How waiting for room ended."""

    GRANTED = "granted"
    TIMED_OUT = "timed_out"
    NEVER = "never"  # larger than the whole capacity: waiting cannot help
    CLOSED = "closed"


class Ledger:
    """Reservations in bytes, by name. Safe to use from many threads.

    Who waits is served in order, so that small requests do not starve a large one. A capacity of None has room for
    everything.
    """

    def __init__(self, capacity_bytes: int | None) -> None:
        self._capacity_bytes = capacity_bytes
        self._held: dict[str, int] = {}
        self._reserved_bytes = 0
        self._peak_bytes = 0
        self._closed = False
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def capacity_bytes(self) -> int | None:
        return self._capacity_bytes

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that was ever reserved at once."""
        return self._peak_bytes

    @property
    def room_bytes(self) -> int | None:
        """What could be reserved now; negative while more is held than a lowered capacity allows."""
        with self._changed:
            return None if self._capacity_bytes is None else self._capacity_bytes - self._reserved_bytes

    def held(self) -> dict[str, int]:
        """A copy of all reservations, for people to look at."""
        with self._changed:
            return dict(self._held)

    def can_ever_hold(self, size_bytes: int) -> bool:
        """False: larger than the whole capacity, so never granted however long one waits."""
        capacity_bytes = self._capacity_bytes
        return capacity_bytes is None or size_bytes <= capacity_bytes

    def try_reserve(self, name: str, size_bytes: int) -> bool:
        """Reserve at once, or not at all. False too while somebody waits: the queue goes first."""
        with self._changed:
            if self._closed or self._queue or not self._fits(size_bytes):
                return False
            self._take(name, size_bytes)
            return True

    def wait_for_room(self, name: str, size_bytes: int, timeout_s: float | None = None) -> Grant:
        """Reserve as soon as there is room, in the order of asking. Says so at once if there never can be."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while True:
                    if self._closed:
                        return Grant.CLOSED
                    if not self.can_ever_hold(size_bytes):
                        return Grant.NEVER
                    if self._queue[0] is ticket and self._fits(size_bytes):
                        self._take(name, size_bytes)
                        return Grant.GRANTED
                    left_s = None if deadline_s is None else deadline_s - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        return Grant.TIMED_OUT
                    self._changed.wait(left_s)
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def adjust(self, name: str, size_bytes: int) -> bool:
        """Set what ``name`` holds to what it turned out to need. It holds it in any case: a fact cannot be refused.

        False: more is reserved now than the capacity, so somebody has to spill or give way.
        """
        with self._changed:
            if name not in self._held:
                raise _unknown(name)
            self._reserved_bytes += size_bytes - self._held[name]
            self._held[name] = size_bytes
            self._peak_bytes = max(self._peak_bytes, self._reserved_bytes)
            self._changed.notify_all()
            return self._capacity_bytes is None or self._reserved_bytes <= self._capacity_bytes

    def release(self, name: str) -> int:
        """Give back what ``name`` holds; how much that was."""
        with self._changed:
            if name not in self._held:
                raise _unknown(name)
            size_bytes = self._held.pop(name)
            self._reserved_bytes -= size_bytes
            self._changed.notify_all()
            return size_bytes

    def resize(self, capacity_bytes: int | None) -> None:
        """The limit moved. What is held stays held, even above a lower capacity."""
        with self._changed:
            self._capacity_bytes = capacity_bytes
            self._changed.notify_all()

    def close(self) -> None:
        """No more grants: everyone who waits is told so. Releasing still works."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, size_bytes: int) -> bool:
        return self._capacity_bytes is None or self._reserved_bytes + size_bytes <= self._capacity_bytes

    def _take(self, name: str, size_bytes: int) -> None:
        if name in self._held:
            raise EtlkitError(
                f"the ledger already holds a reservation of {self._held[name]} bytes for '{name}'",
                "use another name, or adjust the reservation that is there",
            )
        self._held[name] = size_bytes
        self._reserved_bytes += size_bytes
        self._peak_bytes = max(self._peak_bytes, self._reserved_bytes)


def _unknown(name: str) -> EtlkitError:
    return EtlkitError(
        f"the ledger holds nothing for '{name}'", "reserve before you adjust or release, and release once"
    )
