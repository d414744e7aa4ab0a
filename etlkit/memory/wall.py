"""The wall: a softer limit than the kernel's, so that what the forecast missed is an exception and not a kill.

With Arrow's ``system`` pool every allocation is counted in VmData, and ``RLIMIT_DATA`` refuses it above the wall: the
worker gets an ArrowMemoryError (or one of its disguises), everything else goes on. ``Wall.place`` computes where the
wall must stand so that all it allows, together with what else the group is charged with, stays under the limit.

It covers Linux with glibc and the ``system`` pool. Elsewhere it is not put up, and says why. It can't stop native code
that ignores a failed malloc from crashing, memory that is not VmData (shared mappings, tmpfs, page cache), nor the
node's own exhaustion. mimalloc slips past it and jemalloc crashes on it, so with those there is no wall.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..lazyclass import dataclass
from ..units import MIB
from .allocation import ensure_room
from .heap import free_heap_bytes
from .pseudofile import PseudoFile, field, open_if_there
from .sample import MemorySample

MARGIN_SHARE = 0.06
MARGIN_FLOOR_BYTES = 8 * MIB
"""Kept free below the limit: page tables, kernel stacks and buffers, dirty pages, cache read between two placements."""

PIECE_BYTES = 2 * MIB
"""Native code takes its room in pieces: pages of Parquet, twice while they grow."""

LAST_ROOM_BYTES = 2 * MIB
"""The wall never stands closer than this above what is mapped already, as long as that fits the limit at all: our
own code must be able to go on (checkpoint, ask for memory) while the workers are refused."""


@dataclass(frozen=True, slots=True)
class WallPlacement:
    """Where the wall stands, and why there. ``data_bytes`` is what RLIMIT_DATA is set to."""

    data_bytes: int
    limit_bytes: int
    mapped_data_bytes: int
    """VmData when it was computed."""
    untouched_stack_bytes: int
    """Thread stacks count as data, and hardly any of it is ever touched."""
    others_bytes: int
    """What else the group is charged with and cannot give up: other processes, kernel, dirty and shared pages, code."""
    margin_bytes: int

    @property
    def room_bytes(self) -> int:
        """How much more may be mapped."""
        return self.data_bytes - self.mapped_data_bytes


class Wall:
    """RLIMIT_DATA, kept in step with the limit and with what else the group is charged with.

    Place it again with every sample near the limit and after every resize. ``unavailable`` says why there is none.
    Children inherit the limit as it stands: lift it before starting one.
    """

    def __init__(self, *, pool: str | None = None, root: Path = Path("/")) -> None:
        """``pool``: the backend of Arrow's default pool; asked from pyarrow if it is not given."""
        self._status: PseudoFile | None = open_if_there(root / "proc/self/status")
        self._placement: WallPlacement | None = None
        self._lock = threading.Lock()
        self._given_way = False
        self._inside = 0
        """Workers in native code that does not survive a failed malloc."""
        self.unavailable = self._why_not(pool)
        free_heap_bytes()  # who looks for leaks asks under the wall, and what that imports must be there before
        self._original = (0, 0) if self.unavailable else resource.getrlimit(resource.RLIMIT_DATA)
        self._stack_bytes = _thread_stack_bytes()
        self._code_bytes = 0

    @property
    def placement(self) -> WallPlacement | None:
        """Where it stands; None while it is down."""
        return self._placement

    def place(self, limit_bytes: int | None, sample: MemorySample) -> WallPlacement | None:
        """Where the wall should stand now. None: no limit, or no wall here."""
        if limit_bytes is None or self.unavailable or self._status is None:
            return None
        with self._lock:
            status = self._status.read()
            mapped_data_bytes = field(status, b"\nVmData:") * 1024
            own_anon_bytes = field(status, b"\nRssAnon:") * 1024
            stack_bytes = max(0, field(status, b"\nThreads:") - 1) * self._stack_bytes
            # Code that the kernel has taken back for want of room is still needed: room for it is not free.
            self._code_bytes = max(self._code_bytes, sample.mapped_bytes)
            sample = replace(sample, mapped_bytes=self._code_bytes)
        return compute_placement(limit_bytes, sample, mapped_data_bytes, own_anon_bytes, stack_bytes)

    def apply(self, placement: WallPlacement | None) -> None:
        """Put the wall there, or take it down."""
        with self._lock:
            self._placement, self._given_way = placement, False
            self._place()

    def raise_to(self, limit_bytes: int | None, sample: MemorySample) -> WallPlacement | None:
        """``place`` and ``apply``: after every resize, and with every sample near the limit."""
        placement = self.place(limit_bytes, sample)
        self.apply(placement)
        return placement

    def give_way(self) -> None:
        """Open half of the margin until the wall is placed again. Call it where an allocation failure is caught.

        The buffer that failed was large; small ones fail next, and some native code ends the process then. This lets
        everyone else go on while the one who failed lets go of what it holds.
        """
        with self._lock:
            self._given_way = self._placement is not None
            self._place()

    @contextlib.contextmanager
    def room(self, size_bytes: int, purpose: str) -> Iterator[None]:
        """Inside it half of the margin is open; MemoryError on the way in if this much may not be allocated. No wall: a no-op.

        For native code that does not survive a failed malloc half-way (pyarrow 26 writing Parquet): fail before it, where
        failing is safe, and let it have the last bytes when others have used up what was there a moment ago.
        """
        if self._placement is None:
            yield
            return
        ensure_room(size_bytes, purpose, piece_bytes=PIECE_BYTES)
        with self._lock:
            self._inside += 1
            self._place()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self._place()

    def lift(self) -> None:
        """Take it down."""
        self.apply(None)

    def _place(self) -> None:
        """Called with the lock held. Nothing is done where there is no wall."""
        if self.unavailable:
            return
        placement, data_bytes = self._placement, None
        if placement is not None:
            opened = self._given_way or self._inside
            data_bytes = placement.data_bytes + (placement.margin_bytes // 2 if opened else 0)
        # A limit that somebody else has put there is kept if it is the lower one.
        soft, hard = self._original
        if data_bytes is not None:
            soft = data_bytes if soft == resource.RLIM_INFINITY else min(soft, data_bytes)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    def _why_not(self, pool: str | None) -> str | None:
        if not sys.platform.startswith("linux"):
            return f"RLIMIT_DATA does not hold on {sys.platform}"
        if self._status is None:
            return "/proc/self/status cannot be read"
        backend = pool_backend() if pool is None else pool
        if backend != "system":
            return (
                f"Arrow's default pool is '{backend}', and only 'system' stops at the wall (ARROW_DEFAULT_MEMORY_POOL)"
            )
        return None


def compute_placement(
    limit_bytes: int, sample: MemorySample, mapped_data_bytes: int, own_anon_bytes: int, stack_bytes: int
) -> WallPlacement:
    """The arithmetic of ``Wall.place``: pure, for tests and for people who want to know why.

    If every page below the wall were touched (stacks aside), the group would be charged with limit − margin.
    """
    margin_bytes = max(MARGIN_FLOOR_BYTES, int(limit_bytes * MARGIN_SHARE))
    kernel_bytes = max(0, sample.kernel_bytes - sample.slab_reclaimable_bytes)
    strangers_bytes = max(0, sample.anon_bytes - own_anon_bytes)
    pinned_cache_bytes = sample.dirty_bytes + sample.writeback_bytes + sample.shmem_bytes
    # Code that is mapped could be taken, and the process would read it in again at every step: that is the thrashing
    # that comes before the kill.
    others_bytes = strangers_bytes + kernel_bytes + pinned_cache_bytes + sample.mapped_bytes
    # Only stacks are let off. Other memory that is mapped and untouched (the unused half of a buffer that was doubled,
    # holes in the heap) is often touched before the next placement: half of it let off, one run in sixteen was killed.
    untouched_stack_bytes = min(stack_bytes, max(0, mapped_data_bytes - own_anon_bytes))
    data_bytes = limit_bytes - margin_bytes - others_bytes + untouched_stack_bytes
    # Half of the margin is for ourselves when the workers are refused.
    last_resort = min(mapped_data_bytes + LAST_ROOM_BYTES, data_bytes + margin_bytes // 2)
    return WallPlacement(
        data_bytes=max(data_bytes, last_resort),
        limit_bytes=limit_bytes,
        mapped_data_bytes=mapped_data_bytes,
        untouched_stack_bytes=untouched_stack_bytes,
        others_bytes=others_bytes,
        margin_bytes=margin_bytes,
    )


def pool_backend() -> str:
    """The backend of Arrow's default pool: what the environment asks for, as long as pyarrow is not loaded."""
    if "pyarrow" not in sys.modules:
        return os.environ.get("ARROW_DEFAULT_MEMORY_POOL", "unknown")
    import pyarrow as pa

    return str(pa.default_memory_pool().backend_name)


def _thread_stack_bytes() -> int:
    """The size of a new thread's stack: glibc takes it from RLIMIT_STACK as it was when the process began."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    # Two MiB is glibc's choice where the limit is unlimited.
    return 2 * MIB if soft in (resource.RLIM_INFINITY, 0) else soft
