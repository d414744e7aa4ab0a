"""Names of new files, each used once, and which of them are in flight: handed out, and not yet named by a manifest.

Covers runs and lists. A collection leaves alone what is in flight.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable


class Naming:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self.writer = secrets.token_hex(8)
        self.epoch = 0
        self._serial = 0
        self._in_flight: set[str] = set()
        self._mutex = threading.Lock()

    def run(self, stage: int, highest: int) -> str:
        return self._new(f"runs/s{stage:02d}-", ".run", highest)

    def list(self, highest: int) -> str:
        """With our own mark: a writer that died before its claim was true may have left one of the same serial and epoch."""
        return self._new("lists/", f"-{self.writer}.json", highest)

    def _new(self, prefix: str, ending: str, highest: int) -> str:
        """The serial, above the highest manifest, is unique in an epoch, and the epoch in the state directory."""
        with self._mutex:
            self._serial = max(self._serial, highest) + 1
            name = f"{prefix}{self._serial:08d}.e{self.epoch}{ending}"
            self._in_flight.add(name)
            return name

    def in_flight(self) -> set[str]:
        with self._mutex:
            return set(self._in_flight)

    def settle(self, names: Iterable[str]) -> None:
        """They are named by a manifest now, or gone."""
        with self._mutex:
            self._in_flight.difference_update(names)
