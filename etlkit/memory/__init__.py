"""Memory: what we are held to, what is used, what is promised, what will be needed.

Importing this package needs the standard library alone, so that a start at a limit too small for pyarrow can
still see where it stands and ask for more.
"""

from __future__ import annotations

from .allocation import is_allocation_failure, release_pools, tune_allocator
from .cpu import CpuReader, CpuSample, find_cpu_reader
from .discover import find_reader
from .forecast import (
    Estimate,
    JobForecast,
    JobProjection,
    Leak,
    LeakDetector,
    SplitForecast,
    StateForecast,
    StateProjection,
)
from .ledger import Grant, Ledger
from .sample import MemoryReader, MemorySample, interval_s
from .thrash import thrash
from .wall import Wall, WallPlacement

__all__ = [
    "CpuReader",
    "CpuSample",
    "Estimate",
    "Grant",
    "JobForecast",
    "JobProjection",
    "Leak",
    "LeakDetector",
    "Ledger",
    "MemoryReader",
    "MemorySample",
    "SplitForecast",
    "StateForecast",
    "StateProjection",
    "Wall",
    "WallPlacement",
    "find_cpu_reader",
    "find_reader",
    "interval_s",
    "is_allocation_failure",
    "release_pools",
    "thrash",
    "tune_allocator",
]
