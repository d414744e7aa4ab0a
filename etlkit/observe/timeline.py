"""A run's events as curves over time: memory, limit, rows; when each attempt ran; what was reserved and what was used.

Pure. Seconds count from the run's first event. Between two attempts the limit still counts as reserved, since the pod holds
it while its container is started again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from ..units import GIB
from .sentences import moment


@dataclass(frozen=True, slots=True)
class Point:
    """One ``progress`` event."""

    at_s: float
    attempt: int
    used_bytes: int
    limit_bytes: int | None
    projected_bytes: int | None
    reserved_bytes: int
    state_bytes: int
    rows_in: int
    rows_per_s: float
    level: str
    stage: int | None = None


@dataclass(slots=True)
class Span:
    """One attempt. ``end_s`` is its last sign of life."""

    number: int
    start_s: float
    end_s: float
    splits_at_start: int | None = None
    rows_at_start: int | None = None
    rows_at_end: int = 0
    peak_bytes: int = 0


@dataclass(slots=True)
class Timeline:
    began_at: datetime | None = None
    end_s: float = 0.0
    points: list[Point] = field(default_factory=list)
    limits: list[tuple[float, int | None]] = field(default_factory=list)
    """(from when, limit): a staircase."""
    spans: list[Span] = field(default_factory=list)
    stages: dict[int, str] = field(default_factory=dict)
    """Kind by number."""
    marks: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    """Every event but ``progress``, with its time."""

    @property
    def peak_limit_bytes(self) -> int | None:
        known = [limit for _, limit in self.limits if limit is not None]
        return max(known) if known and len(known) == len(self.limits) else None

    def reserved_gib_s(self) -> float | None:
        """Limit × time; None where there was a time without a limit."""
        if not self.limits:
            return None
        total = 0.0
        for (start_s, limit), (stop_s, _) in pairwise([*self.limits, (self.end_s, None)]):
            if limit is None:
                return None
            total += limit * max(0.0, stop_s - start_s)
        return total / GIB

    def static_gib_s(self) -> float | None:
        """What a limit of the size that the run came to need would have reserved, had it been given all the time."""
        peak = self.peak_limit_bytes
        return None if peak is None else peak * self.end_s / GIB

    def used_gib_s(self) -> float:
        """Memory in use × time, by trapezes inside each attempt."""
        total = 0.0
        for before, after in pairwise(self.points):
            if before.attempt == after.attempt:
                total += (before.used_bytes + after.used_bytes) / 2 * (after.at_s - before.at_s)
        return total / GIB

    def rows_repeated(self) -> int:
        """Rows that were read again after a restart, as far as the log knows: read before, and not in the checkpoint."""
        return sum(
            max(0, before.rows_at_end - after.rows_at_start)
            for before, after in pairwise(self.spans)
            if after.rows_at_start is not None
        )


def timeline(events: Iterable[Mapping[str, Any]]) -> Timeline:
    """The newest run in the log: a run that began anew in the same state (``--restart``) starts a new timeline."""
    found = Timeline()
    run_id: object = None
    for event in events:
        name = event.get("event")
        at = moment(event.get("at"))
        if at is None:
            continue
        if name == "attempt_started" and (event.get("run_id") != run_id or event.get("attempt") == 1):
            run_id, found = event.get("run_id"), Timeline(began_at=at)
        if found.began_at is None:
            continue
        at_s = max(0.0, (at - found.began_at).total_seconds())
        found.end_s = max(found.end_s, at_s)
        if name == "progress":
            _progress(found, at_s, event)
        else:
            found.marks.append((at_s, event))
            _notable(found, at_s, event)
        if found.spans:
            found.spans[-1].end_s = at_s
    return found


def _progress(found: Timeline, at_s: float, event: Mapping[str, Any]) -> None:
    if not found.spans or event.get("used_bytes") is None:
        return
    span = found.spans[-1]
    point = Point(
        at_s=at_s,
        attempt=span.number,
        used_bytes=int(event["used_bytes"]),
        limit_bytes=event.get("limit_bytes"),
        projected_bytes=event.get("projected_bytes"),
        reserved_bytes=int(event.get("reserved_bytes") or 0),
        state_bytes=int(event.get("state_bytes") or 0),
        rows_in=int(event.get("rows_in") or 0),
        rows_per_s=float(event.get("rows_per_s") or 0),
        level=str(event.get("level") or "calm"),
        stage=event.get("stage"),
    )
    if span.rows_at_start is None:
        span.rows_at_start = point.rows_in
    span.rows_at_end = max(span.rows_at_end, point.rows_in)
    span.peak_bytes = max(span.peak_bytes, point.used_bytes)
    found.points.append(point)


def _notable(found: Timeline, at_s: float, event: Mapping[str, Any]) -> None:
    match event.get("event"):
        case "attempt_started":
            found.spans.append(Span(int(event.get("attempt") or len(found.spans) + 1), at_s, at_s))
            _limit(found, at_s, event.get("limit_bytes"))
        case "planned" if found.spans:
            found.spans[-1].splits_at_start = event.get("splits_done")
            found.stages |= {one["stage"]: str(one.get("kind", "")) for one in event.get("stages") or []}
        case "limit_changed":
            _limit(found, at_s, event.get("to_bytes"))
        case "attempt_ended" if found.spans:
            span = found.spans[-1]
            span.rows_at_end = max(span.rows_at_end, int(event.get("rows_in") or 0))
            span.peak_bytes = max(span.peak_bytes, int(event.get("peak_bytes") or 0))


def _limit(found: Timeline, at_s: float, limit_bytes: int | None) -> None:
    if not found.limits or found.limits[-1][1] != limit_bytes:
        found.limits.append((at_s, limit_bytes))
