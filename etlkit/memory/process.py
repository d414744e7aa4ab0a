"""The process's own memory: where there is no cgroup, and as one number beside the cgroup's.

Covers Linux (/proc/self/statm) and systems without /proc (``resource.getrusage``, where the peak stands in for the
present size, since nothing else is in the standard library). It knows no limit: there is none to see.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from .pseudofile import PseudoFile, open_if_there
from .sample import MemorySample

_PAGE_BYTES = resource.getpagesize()


class ResidentSize:
    """Resident bytes of this process, from a file kept open. ``split`` tells anonymous from file pages."""

    __slots__ = ("_file", "_pid")

    def __init__(self, root: Path = Path("/")) -> None:
        self._file: PseudoFile | None = open_if_there(root / "proc/self/statm")
        self._pid = os.getpid()

    def split(self) -> tuple[int, int]:
        """(anonymous, file-backed and shared) bytes."""
        if self._file is None:
            return _peak_rss_bytes(), 0
        _, resident, shared, *_ = self._file.read()[1:].split(b" ", 3)
        return (int(resident) - int(shared)) * _PAGE_BYTES, int(shared) * _PAGE_BYTES

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class ProcessReader:
    """Own size, no limit. The page cache is nobody's here, so used and current are the same."""

    __slots__ = ("_resident",)

    def __init__(self, root: Path = Path("/")) -> None:
        self._resident = ResidentSize(root)

    def read(self) -> MemorySample:
        anon, file = self._resident.split()
        return MemorySample(
            limit_bytes=None,
            used_bytes=anon + file,
            current_bytes=anon + file,
            anon_bytes=anon,
            file_bytes=file,
            inactive_file_bytes=0,
            dirty_bytes=0,
            kernel_bytes=0,
            oom_kills=0,
            refaults=0,
            major_faults=resource.getrusage(resource.RUSAGE_SELF).ru_majflt,
            psi_some_avg10=None,
            source="process",
            mapped_bytes=file,
            active_file_bytes=file,
            process_bytes=anon + file,
        )

    def limit_bytes(self) -> int | None:
        return None

    def describe(self) -> str:
        return "this process's own size; no memory cgroup, so no limit is known"

    def close(self) -> None:
        self._resident.close()


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # A Mac counts bytes, everyone else KiB.
    return peak if sys.platform == "darwin" else peak * 1024
