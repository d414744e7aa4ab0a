"""What one look at the memory says: the sample, the reader's shape, and how often to look.

Covers the numbers of one cgroup level (or of one process where there is none), which of them the kernel can take
back and which it can't, and the sampling interval. Whether the numbers mean trouble is for ``thrash`` and
for the machine in ``etlkit.decide``. Nothing here reads a file.
"""

from __future__ import annotations

from typing import Protocol

from ..lazyclass import dataclass

LONGEST_INTERVAL_S = 0.5
SHORTEST_INTERVAL_S = 0.1
"""A reading and a new place for the wall take 100 µs of CPU together, 170 µs on a busy machine."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """One reading. All of it is of the same level: the one whose limit binds (the smallest on the way up).

    ``used_bytes`` is the working set: ``current_bytes`` without inactive page cache, as the kubelet counts it.
    """

    limit_bytes: int | None
    used_bytes: int
    current_bytes: int
    anon_bytes: int
    file_bytes: int
    """Page cache, with shmem and dirty pages in it."""
    inactive_file_bytes: int
    dirty_bytes: int
    """Page cache that must be written before it can go. Pages being written now are in ``writeback_bytes``."""
    kernel_bytes: int
    """Kernel memory charged to the group: page tables, stacks, slab. ``slab_reclaimable_bytes`` of it can go."""
    oom_kills: int
    refaults: int
    """Pages read again soon after they were dropped, since the group was made."""
    major_faults: int
    psi_some_avg10: float | None
    """Per cent of the last ten seconds in which some task of the group waited for memory; None without PSI."""
    source: str
    high_bytes: int | None = None
    """The smallest memory.high on the way up: above it the kernel slows the group down, but does not kill."""
    writeback_bytes: int = 0
    shmem_bytes: int = 0
    """tmpfs, shared memory and memory-backed volumes: page cache that only swap could take."""
    mapped_bytes: int = 0
    """Mapped file pages: program text and libraries. Taking them back means reading them again."""
    active_file_bytes: int = 0
    unevictable_bytes: int = 0
    slab_reclaimable_bytes: int = 0
    swap_bytes: int = 0
    psi_some_us: int | None = None
    """Time since the group was made in which some task waited for memory; a difference of two is exact."""
    process_bytes: int = 0
    """Resident pages of this process alone; its share of the above."""

    @property
    def own_bytes(self) -> int:
        """What the job takes. Where no limit binds, the group may be the whole machine's: then this process alone."""
        return self.process_bytes if self.limit_bytes is None and self.process_bytes else self.used_bytes

    @property
    def hot_mapped_bytes(self) -> int:
        """Mapped file pages in use. The kernel could take them, and the process would fault them in again at once."""
        return min(self.mapped_bytes, self.active_file_bytes)

    @property
    def unreclaimable_bytes(self) -> int:
        """What the kernel cannot give to somebody else without killing, writing or thrashing."""
        kernel = max(0, self.kernel_bytes - self.slab_reclaimable_bytes)
        pinned = self.anon_bytes + self.shmem_bytes + kernel + self.dirty_bytes + self.writeback_bytes
        return min(self.current_bytes, pinned + self.hot_mapped_bytes)

    @property
    def reclaimable_bytes(self) -> int:
        """Clean cache and slab that the kernel takes back when it needs room."""
        return self.current_bytes - self.unreclaimable_bytes

    @property
    def pressure_limit_bytes(self) -> int | None:
        """Where things get worse: the limit or memory.high, whichever comes first."""
        if self.high_bytes is None or self.limit_bytes is None:
            return self.limit_bytes if self.high_bytes is None else self.high_bytes
        return min(self.limit_bytes, self.high_bytes)


class MemoryReader(Protocol):
    """Reads the memory this process is held to. Made by ``find_reader``; used by one thread at a time."""

    def read(self) -> MemorySample:
        """All numbers, now. The limit is read each time: it changes when the pod is resized."""

    def limit_bytes(self) -> int | None:
        """The limit alone, now; None where there is none."""

    def describe(self) -> str:
        """Which files are read, in words for ``doctor`` and error messages."""

    def close(self) -> None:
        """Close the files that are kept open."""


def interval_s(sample: MemorySample) -> float:
    """How long to wait before the next reading: half a second with room to spare, a tenth near the limit."""
    limit_bytes = sample.pressure_limit_bytes
    if limit_bytes is None or limit_bytes <= 0:
        return LONGEST_INTERVAL_S
    room = 1.0 - sample.used_bytes / limit_bytes
    # Half of the limit free: no hurry. A tenth or less: as fast as pays.
    share = min(1.0, max(0.0, (room - 0.1) / 0.4))
    return SHORTEST_INTERVAL_S + share * (LONGEST_INTERVAL_S - SHORTEST_INTERVAL_S)
