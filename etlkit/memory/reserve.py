"""Room kept under the wall for the moment when memory has run out: address space that is mapped and never touched.

It counts as data, so the wall refuses the workers sooner; it is charged to nobody, since no page of it exists. Letting go of it is a
``munmap``, and then a checkpoint can allocate as much again. Linux only; elsewhere there is no wall, and nothing to keep.
"""

from __future__ import annotations

import mmap
import sys


class Reserve:
    """One thread's. ``hold`` and ``let_go`` may be called again and again."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._mapped: mmap.mmap | None = None

    @property
    def held(self) -> bool:
        return self._mapped is not None

    def hold(self) -> bool:
        """Map it, if it is not. False: there is no room for it now."""
        if self._mapped is None and sys.platform.startswith("linux"):
            try:
                self._mapped = mmap.mmap(-1, self._size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError:
                return False
        return True

    def let_go(self) -> None:
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None
