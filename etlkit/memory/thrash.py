"""Thrashing: the share of the time lost to reading back pages that were just dropped.

It comes before the kill, for half a minute and more, while usage stays flat at the limit. Pure: two samples in, a
number out. Where the kernel keeps PSI for the group (v2) that is the answer; elsewhere it is estimated from refaults
and major faults, with costs measured in a real group (ADR 6). Memory that merely fills up is not thrashing, nor is
reading a file twice.
"""

from __future__ import annotations

from .sample import MemorySample

REFAULT_S = 8e-6
"""Time lost per refaulted page: between 70,000 and 200,000 a second a group-by in two threads hardly moved."""

MAJOR_FAULT_S = 60e-6
"""Time lost per major fault: one thread that does nothing else makes 17,000 a second."""

REFAULTS_PER_MAJOR_FAULT = 500
"""Refaults count only as far as major faults go with them. A job that reads its input twice refaults 50,000 pages a
second and loses nothing (0 to 8 major faults a second); one whose own code is dropped makes 100 to 300 of those."""


def thrash(before: MemorySample, after: MemorySample, elapsed_s: float) -> float:
    """0: no time lost. 1: all of it. Below 0.1 is noise or a start; from 0.3 on the job hardly moves."""
    if elapsed_s <= 0:
        return 0.0
    if before.psi_some_us is not None and after.psi_some_us is not None:
        return _share((after.psi_some_us - before.psi_some_us) / 1e6, elapsed_s)
    major_faults = max(0, after.major_faults - before.major_faults)
    refaults = min(max(0, after.refaults - before.refaults), major_faults * REFAULTS_PER_MAJOR_FAULT)
    return _share(refaults * REFAULT_S + major_faults * MAJOR_FAULT_S, elapsed_s)


def _share(lost_s: float, elapsed_s: float) -> float:
    return min(1.0, max(0.0, lost_s / elapsed_s))
