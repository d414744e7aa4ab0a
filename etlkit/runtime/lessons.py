"""What one attempt finds out about the job: forecast against fact, a leak, the price of a restart; and what the next run is told.

Fed by the loop at each look with what the gauge saw. It decides nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ..decide.policy import Policy
from ..lazyclass import dataclass
from ..memory import Leak, LeakDetector
from ..memory.heap import free_heap_bytes
from .gauge import Gauge
from .learned import Learned, resume_size, right_size

MARKS = (0.1, 0.5)
"""Shares of the work done at which the forecast is kept, to be compared with the peak."""
LONGEST_RESTART_S = 120.0
"""A longer pause was no restart for a resize: the pod waited for something else."""
STATE_OVERHEAD = 1.5
"""Most that state takes in Arrow's buffers, over its bytes."""
TOLD_AGAIN = 2.0
"""A leak is told once more when it has grown so many times."""


@dataclass(slots=True)
class Lessons:
    gauge: Gauge
    terminated_at: str | None = None
    """When SIGTERM came to the attempt before, if that ended for a resize; wall-clock time."""
    marks: dict[float, int] = field(default_factory=dict)
    highest_projected_bytes: int = 0
    restart_s: float | None = None
    first_batch_s: float | None = None
    _rows_before: int | None = None
    _outside: LeakDetector = field(default_factory=LeakDetector)
    _in_arrow: LeakDetector = field(default_factory=LeakDetector)
    _splits_seen: int = -1
    _told_bytes: int = 0

    def look(self, at_s: float) -> Leak | None:
        """After each look of the gauge. A leak, when it is news."""
        figures, observed = self.gauge.figures, self.gauge.observed
        if self._rows_before is None:
            self._rows_before = figures.rows_in
        share = figures.splits_done / figures.splits_total if figures.splits_total else 0.0
        for mark in MARKS:
            if share >= mark and mark not in self.marks:
                self.marks[mark] = observed.projected_bytes
        self.highest_projected_bytes = max(self.highest_projected_bytes, observed.projected_bytes)
        if figures.splits_done == self._splits_seen:
            return None
        self._splits_seen = figures.splits_done
        arrow_bytes = pa.total_allocated_bytes()
        outside = self._outside.observe(
            figures.splits_done, self.gauge.sample.anon_bytes - free_heap_bytes() - arrow_bytes
        )
        # Many small slices take more than their bytes, so growth with the state is none; nor is what running splits may hold.
        splits_bytes = observed.reserved_bytes - observed.state_bytes
        in_arrow = self._in_arrow.observe(
            figures.splits_done, int(arrow_bytes - STATE_OVERHEAD * observed.state_bytes) - max(0, splits_bytes)
        )
        leak = max(
            (one for one in (outside, in_arrow) if one is not None), key=lambda one: one.grown_bytes, default=None
        )
        self.gauge.leak = leak
        if leak is None or leak.grown_bytes < TOLD_AGAIN * self._told_bytes:
            return None
        self._told_bytes = leak.grown_bytes
        return leak

    def first_batch(self, at_s: float, began_s: float) -> bool:
        """Whether the first rows of this attempt were read since the last look; the price of the restart is known then."""
        if self.first_batch_s is not None or self._rows_before is None:
            return False
        figures = self.gauge.figures
        if figures.rows_in <= self._rows_before and not (figures.splits_done and figures.running):
            return False
        self.first_batch_s = at_s - began_s
        if self.terminated_at is not None:
            took = (datetime.now(UTC) - datetime.fromisoformat(self.terminated_at)).total_seconds()
            if 0 < took <= LONGEST_RESTART_S:
                self.restart_s = self.gauge.resize_cost_s = took
        return True

    def forecasts(self) -> list[dict[str, Any]]:
        """For the record of the attempt, beside its peak."""
        return [{"done": mark, "projected_bytes": size} for mark, size in sorted(self.marks.items())]

    def learned(
        self,
        before: Learned,
        resizes: Sequence[Mapping[str, Any]],
        limit_bytes: int | None,
        policy: Policy,
        target: str,
        *,
        done: bool,
    ) -> Learned:
        """What the next start is told. Earlier attempts' figures stand where this one measured nothing."""
        gauge, split = self.gauge, self.gauge.split
        peak_bytes = max(gauge.peak_bytes, before.peak_bytes or 0) if not done else gauge.peak_bytes
        known = split.seen > 0
        return Learned(
            limit_bytes=right_size(resizes, limit_bytes, peak_bytes, policy, done=done),
            resume_bytes=None if done else resume_size(resizes),
            peak_bytes=peak_bytes or None,
            projected_bytes=self.highest_projected_bytes or before.projected_bytes,
            split_factor=split.factor if known else before.split_factor,
            split_spread=split.to_json()["spread"] if known else before.split_spread,
            resize_cost_s=gauge.resize_cost_s or before.resize_cost_s,
            spill_s=gauge.spill_s or before.spill_s,
            rows=gauge.figures.rows_total,
            target=target,
        )


def terminated_at(attempts: Sequence[Mapping[str, Any]]) -> str | None:
    """When SIGTERM came to the attempt before this one, if its limit has changed since: it ended for a resize."""
    if len(attempts) < 2:
        return None
    last, now = attempts[-2], attempts[-1]
    resized = last.get("limit_bytes") != now.get("limit_bytes")
    at = last.get("terminated_at")
    return str(at) if resized and at and last.get("exit_code") == 75 else None
