"""Allocation: which errors mean "no memory", giving freed memory back, and choosing the allocator.

Covers glibc's malloc under Arrow's ``system`` pool. Where to put the wall that makes allocations fail is for
``wall``; what to do about it (release, spill, halve, retry) is for the engine. pyarrow is imported only if it is
loaded already.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Mapping, MutableMapping

from ..units import MIB
from .process import ResidentSize

SMALL_LIMIT_BYTES = 256 * MIB
NO_SMALL_PIECES = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
_TEXTS = re.compile(
    r"\b(?:re)?alloc(?:ate)? of size \d+ failed|malloc of size \d+|std::bad_alloc|Cannot allocate memory"
    r"|Failed to launch worker thread|can't start new thread|failed to map segment from shared object"
)

_DISGUISES = (OSError, RuntimeError, ImportError)


def is_allocation_failure(error: BaseException) -> bool:
    """True if memory ran out at the bottom of it, whatever the error calls itself.

    Follows ``raise … from``. An error that merely arose while another was handled is its own: a bug is not excused.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, MemoryError):
            return True
        if isinstance(current, OSError) and current.errno == errno.ENOMEM:
            return True
        # Arrow wraps a failed malloc in whatever it was doing: opening a file, starting a thread.
        raised_by_arrow = type(current).__module__.split(".")[0] == "pyarrow"
        if (raised_by_arrow or type(current) in _DISGUISES) and _TEXTS.search(str(current)):
            return True
        current = current.__cause__
    return False


def ensure_room(size_bytes: int, purpose: str, *, piece_bytes: int | None = None) -> None:
    """MemoryError now if this much, in one piece or in several, can't be allocated from Arrow's pool.

    It is tried, and let go at once: how much of what the heap keeps is in pieces too small to serve, nobody can say. No page
    is touched. For native code that does not survive a failed malloc (ADR 6).
    """
    import pyarrow as pa

    piece_bytes = piece_bytes or size_bytes
    count = -(-size_bytes // piece_bytes)
    try:
        _ = [pa.allocate_buffer(piece_bytes) for _ in range(count)]
    except MemoryError:
        pieces = "" if count == 1 else f" in pieces of {piece_bytes}"
        raise MemoryError(f"{purpose} needs {size_bytes} bytes{pieces}, and they are not free under the wall") from None


def release_pools() -> int:
    """Give back what is freed but still held: Arrow's pool first, then glibc's heap. How many bytes that was."""
    resident = ResidentSize()
    before_bytes = sum(resident.split())
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        # With the system pool this trims glibc's heap, too.
        pa.default_memory_pool().release_unused()
        if pa.default_memory_pool().backend_name != "system":
            _trim_heap()
    else:
        _trim_heap()
    after_bytes = sum(resident.split())
    resident.close()
    return max(0, before_bytes - after_bytes)


def tune_allocator(limit_bytes: int | None, environ: MutableMapping[str, str] = os.environ) -> None:
    """Choose the allocator for a limit: what the wall needs to hold, and what is quick. Before pyarrow and any thread.

    glibc's own variables (``MALLOC_ARENA_MAX`` and the like) are read before Python starts; ``mallopt`` says the same later,
    at every start for the limit of that start. What the author has set is left alone. Elsewhere than on glibc only
    Arrow's pool is chosen. Without a limit there is no wall to stop at, and jemalloc holds a fifth less for the same work (ADR 6).
    """
    mallopt = None
    if sys.platform.startswith("linux"):
        import ctypes

        # musl has none.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    pool = "system" if mallopt is None or limit_bytes is not None else "jemalloc"
    environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", pool)
    if mallopt is None:
        return
    for variable, (parameter, value) in allocator_settings(limit_bytes).items():
        if variable not in environ:
            mallopt(parameter, value)


def allocator_settings(limit_bytes: int | None) -> dict[str, tuple[int, int]]:
    """glibc's variable → its number in ``malloc.h`` and the value for this limit."""
    # Above the threshold each buffer is a mapping of its own, zeroed page by page each time. Below it the heap keeps
    # what is freed, up to the trim threshold. A small limit cannot afford to keep much. 32 MiB is glibc's highest.
    threshold_bytes = 32 * MIB if limit_bytes is None else min(32 * MIB, max(4 * MIB, limit_bytes // 16))
    return {
        "MALLOC_ARENA_MAX": (-8, 2),
        "MALLOC_MMAP_THRESHOLD_": (-3, threshold_bytes),
        "MALLOC_TRIM_THRESHOLD_": (-1, threshold_bytes),
    }


def small_pieces_setting(limit_bytes: int | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What must be set before the process starts at a small limit; empty if nothing is to be.

    Each thread keeps up to seven freed pieces of each small size to itself. They lie all over the heap, so that what is freed around
    them stays in pieces too small for a column: it counts below the wall and serves nobody (ADR 6). ``mallopt`` can't forbid it.
    """
    small = limit_bytes is not None and limit_bytes <= SMALL_LIMIT_BYTES
    return dict([NO_SMALL_PIECES]) if small and NO_SMALL_PIECES[0] not in environ else {}


def _trim_heap() -> None:
    if not sys.platform.startswith("linux"):
        return
    # Imported here since it takes 8 ms; where there is a wall this is never reached, so it cannot fail for want of room.
    import ctypes

    # musl has none.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
