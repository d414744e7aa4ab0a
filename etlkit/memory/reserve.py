"""Room kept under the wall for the moment when memory has run out: address space that is mapped and never touched.

It counts as data, so the wall refuses the workers sooner; it is charged to nobody, since no page of it exists. Letting go of it is a
``munmap``, and then a checkpoint can allocate as much again. Linux only; elsewhere there is no wall, and nothing to keep.
"""

from __future__ import annotations

import mmap
import sys
import threading

STEP_BYTES = 1 << 20
"""It grows by no less than this."""


class Reserve:
    """Thread-safe. ``hold`` and ``let_go`` may be called again and again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mapped: list[mmap.mmap] = []
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> bool:
        """Keep at least so much. False: there is no room for it now; what was kept stays kept."""
        with self._lock:
            missing = size_bytes - self.held_bytes
            if missing < STEP_BYTES or not sys.platform.startswith("linux"):
                return True
            try:
                self._mapped.append(mmap.mmap(-1, missing, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            except OSError:
                return False
            self.held_bytes += missing
            return True

    def let_go(self) -> None:
        with self._lock:
            for mapped in self._mapped:
                mapped.close()
            self._mapped.clear()
            self.held_bytes = 0
