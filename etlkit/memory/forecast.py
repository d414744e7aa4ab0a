"""What the job will need: one split, the state at the end, all of it together; and growth that nothing explains.

Covers four forecasts, each with a bound that follows from how wrong it has been so far. Pure: numbers in, numbers
out, no clock, no file. What metadata says about a split is for ``io`` and ``plan``; what to do about a forecast for
``decide``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import pairwise

from ..lazyclass import dataclass
from ..units import MIB
from .growth import Curve, Point, distinct_keys, even_population, fit, saturation, typical_slope

_POINTS, _LEAK_POINTS = 32, 96


@dataclass(frozen=True, slots=True)
class Estimate:
    """``upper_bytes`` is meant to hold in forty-nine cases of fifty."""

    expected_bytes: int
    upper_bytes: int


class SplitForecast:
    """What a split needs: the estimate from metadata times a learned factor.

    The spread of the factor gives the bound, and the bound watches itself: each time a split needs more than it
    said it widens, and it narrows slowly while it holds.
    """

    MISSES = 0.02

    def __init__(self, factor: float = 1.0, spread: float = 0.5) -> None:
        """``factor``, ``spread``: what to believe before the first split, worth one observation."""
        self._log_factor, self._log_spread = math.log(factor), spread
        self._weight = 1.0
        self._reach = 2.0
        self._largest: deque[float] = deque(maxlen=64)
        self._seen = self._missed = 0

    @property
    def factor(self) -> float:
        """Measured over estimated, so far."""
        return math.exp(self._log_factor)

    @property
    def seen(self) -> int:
        return self._seen

    @property
    def missed(self) -> int:
        """How many splits needed more than the upper bound said."""
        return self._missed

    def estimate(self, estimated_bytes: int) -> Estimate:
        """What a split needs whose metadata says ``estimated_bytes``."""
        expected = estimated_bytes * self.factor
        spread = self._log_spread * math.sqrt(1 + 1 / self._weight)
        upper = expected * math.exp(min(self._reach * spread, 3.0))
        # Whatever was seen lately can come again.
        upper = max(upper, estimated_bytes * max(self._largest, default=0.0))
        return Estimate(math.ceil(expected), math.ceil(upper))

    def update(self, estimated_bytes: int, measured_bytes: int) -> None:
        """A split that was estimated at this took that."""
        if estimated_bytes <= 0 or measured_bytes <= 0:
            return
        miss = measured_bytes > self.estimate(estimated_bytes).upper_bytes
        self._seen += 1
        self._missed += miss
        self._reach = min(6.0, max(1.5, self._reach + 0.5 * (miss - self.MISSES)))
        ratio = measured_bytes / estimated_bytes
        self._largest.append(ratio)
        # Old splits fade: after some thirty of them the input may have become another.
        self._weight = min(self._weight + 1, 30.0)
        share = 1 / self._weight
        distance = math.log(ratio) - self._log_factor
        self._log_factor += share * distance
        variance = (1 - share) * (self._log_spread**2 + share * distance * distance)
        self._log_spread = max(0.02, math.sqrt(variance))

    def to_json(self) -> dict[str, float]:
        """What the next run may begin with."""
        return {"factor": self.factor, "spread": self._log_spread, "seen": self._seen}

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> SplitForecast:
        return cls(max(1e-3, float(data["factor"])), min(1.0, max(0.05, float(data["spread"]))))


@dataclass(frozen=True, slots=True)
class StateProjection:
    """The state's size when all is done. ``settled``: the last half of the run was forecast well by the first."""

    expected_bytes: int
    upper_bytes: int
    settled: bool


class StateForecast:
    """How state grows with the work done, and what it will be at the end.

    ``done`` and ``total`` are in any unit of work, rows or splits, the same throughout. The size is that of the whole
    state, spilled parts included: what it would take to hold all of it.
    """

    def __init__(self, total: float) -> None:
        self._total = total
        self._points: list[Point] = []
        self._keys: tuple[float, float] | None = None
        self._every = 1
        self._skipped = 0
        self._last: tuple[float, StateProjection] | None = None

    def observe(self, done: float, state_bytes: int, *, rows: int | None = None, keys: int | None = None) -> None:
        """The state after ``done``. ``keys``: how many of the ``rows`` so far are distinct, where that is counted."""
        if done <= 0 or (self._points and done < self._points[-1][0]):
            return
        self._last = None
        if rows and keys:
            self._keys = (rows, keys)
        # The newest observation is always the last point; older ones thin out evenly.
        if self._points and (self._skipped or self._points[-1][0] == done):
            self._points.pop()
        self._points.append((done, float(state_bytes)))
        self._skipped = (self._skipped + 1) % self._every
        if len(self._points) > _POINTS:
            self._points = self._points[1::2] if len(self._points) % 2 == 0 else self._points[::2]
            self._every *= 2
            self._skipped = 0

    def project(self, total: float | None = None) -> StateProjection | None:
        """The state at ``total`` (by default the one given at first); None before the first observation."""
        if not self._points:
            return None
        total = max(self._total if total is None else total, self._points[-1][0])
        # Asked at every tick, but only an observation changes it.
        if self._last is None or self._last[0] != total:
            self._last = (total, self._project(total))
        return self._last[1]

    def _project(self, total: float) -> StateProjection:
        done, now = self._points[-1]
        if total == done:
            return StateProjection(math.ceil(now), math.ceil(now), True)
        if len(self._points) < 2:
            return self._first_guess(done, now, total)
        expected, upper = _carry_on(self._points, total, self._evenly(done, now))
        error = self._backtest()
        # Far ahead the same doubt weighs more than near the end.
        doubt = max(0.05, error) * (total - done) / total
        upper = max(upper, expected * (1 + 2 * doubt))
        return StateProjection(math.ceil(expected), math.ceil(upper), error < 0.2)

    def _first_guess(self, done: float, now: float, total: float) -> StateProjection:
        line = now * total / done
        if self._keys is None:
            return StateProjection(math.ceil(line), math.ceil(line * 1.25), False)
        rows, keys = self._keys
        expected, upper = distinct_keys(rows, keys, rows * total / done)
        return StateProjection(math.ceil(now * expected / keys), math.ceil(now * upper / keys), False)

    def _backtest(self) -> float:
        """How far off, relative to now, the projection was that half of today's work would have given."""
        done, now = self._points[-1]
        early = [point for point in self._points if point[0] <= done / 2]
        if len(early) < 3 or now <= 0:
            return 0.5
        expected, _ = _carry_on(early, done, None)
        return abs(expected - now) / now

    def _evenly(self, done: float, now: float) -> Curve | None:
        """The curve of even draws, where keys are counted: it knows the end from one look."""
        if self._keys is None or now <= 0:
            return None
        rows, keys = self._keys
        population = even_population(rows, keys)
        return None if population is None else saturation(self._points, population * done / rows, (done, now))


def _carry_on(points: list[Point], total: float, evenly: Curve | None) -> tuple[float, float]:
    """(expected, upper) size at ``total``: what the fitted curves add to the size now."""
    done, now = points[-1]
    left = total - done
    mean = max(0.0, now / done)
    smooth = _without_jumps(points)
    slope = max(0.0, typical_slope(smooth[-max(3, len(points) // 3) :]))
    # Growth by a jump says nothing of the slope, so the curves may not promise more than the steeper of these two.
    steepest = max(slope * 1.1, mean)
    weighted = upper = 0.0
    for weight, curve in fit(points, total, evenly):
        added = min(max(0.0, curve.at(total) - curve.at(done)), steepest * left)
        weighted += weight * added
        if weight > 0.05:
            upper = max(upper, added)
    if smooth is not points:
        # No curve through the origin fits a step: go by the usual slope, and fear as many more jumps as there were.
        weighted, upper = slope * left, max(slope, mean) * left
    return now + weighted, now + upper


def _without_jumps(points: list[Point]) -> list[Point]:
    """The same points, if growth was gradual; otherwise copies from which the jump is taken out.

    A jump: more than half of all growth in one step that was not also a quarter of the work.
    """
    size, work = points[-1][1] - points[0][1], points[-1][0] - points[0][0]
    # Growth of less than a quarter is noise around a steady size.
    if len(points) < 5 or size <= points[-1][1] / 4:
        return points
    for place, (before, after) in enumerate(pairwise(points)):
        jump = after[1] - before[1]
        # The very first step is how a saturation begins.
        if place > 0 and jump > size / 2 and after[0] - before[0] < work / 4:
            return points[: place + 1] + [(done, value - jump) for done, value in points[place + 1 :]]
    return points


@dataclass(frozen=True, slots=True)
class JobProjection:
    """``floor_bytes``: the least with which the job can go on, one split at a time and all state spilled."""

    expected_bytes: int
    upper_bytes: int
    floor_bytes: int


@dataclass(frozen=True, slots=True)
class JobForecast:
    """Everything at once. ``base_bytes``: the idle process, its libraries, what else the group is charged with."""

    base_bytes: int

    def project(
        self, split: Estimate, workers: int, state: StateProjection | None = None, least_split_bytes: int | None = None
    ) -> JobProjection:
        """``split``: the largest still to come; ``least_split_bytes``: the same, read in its smallest slices."""
        # Splits are wrong independently of each other: their errors add up like a random walk.
        flight = workers * split.expected_bytes
        doubt = math.sqrt(workers) * (split.upper_bytes - split.expected_bytes)
        state_expected = state.expected_bytes if state is not None else 0
        state_upper = state.upper_bytes if state is not None else 0
        expected = self.base_bytes + flight + state_expected
        least = split.upper_bytes if least_split_bytes is None else least_split_bytes
        return JobProjection(
            expected_bytes=expected,
            upper_bytes=math.ceil(self.base_bytes + flight + doubt + state_upper),
            floor_bytes=self.base_bytes + least,
        )


@dataclass(frozen=True, slots=True)
class Leak:
    """Growth that no split, state or reservation explains."""

    bytes_per_split: float
    grown_bytes: int

    def splits_until(self, room_bytes: int) -> float:
        """How many more splits until ``room_bytes`` are eaten up."""
        return room_bytes / self.bytes_per_split if self.bytes_per_split > 0 else math.inf


class LeakDetector:
    """Watches what is used beyond base, reservations and state, split by split.

    A pool that fills up and stays, or a heap that fragments and settles, is no leak: only growth of the lowest level in
    window after window, still going on in the last of them.
    """

    def __init__(self, least_bytes: int = 8 * MIB, windows: int = 6) -> None:
        self._least_bytes, self._windows = least_bytes, windows
        self._points: list[Point] = []
        self._every = 1
        self._lowest: float | None = None
        self._count = 0

    def observe(self, splits_done: int, unexplained_bytes: int) -> Leak | None:
        """``unexplained_bytes``: used − base − reserved − state, after a split ended. A leak, as soon as it is one."""
        self._lowest = unexplained_bytes if self._lowest is None else min(self._lowest, unexplained_bytes)
        self._count += 1
        if self._count >= self._every:
            self._points.append((splits_done, self._lowest))
            self._lowest, self._count = None, 0
            if len(self._points) > _LEAK_POINTS:
                pairs = zip(self._points[::2], self._points[1::2], strict=False)
                self._points = [(later[0], min(earlier[1], later[1])) for earlier, later in pairs]
                self._every *= 2
        return self._judge()

    def _judge(self) -> Leak | None:
        width = len(self._points) // self._windows
        # A window of a few points would take noise for its floor, and the warm-up for a trend.
        if width < 4:
            return None
        start = len(self._points) - width * self._windows
        floors = [
            min(size for _, size in self._points[first : first + width])
            for first in range(start, len(self._points), width)
        ]
        steps = [later - earlier for earlier, later in pairwise(floors)]
        grown = floors[-1] - floors[0]
        if grown < self._least_bytes or any(step <= 0 for step in steps):
            return None
        # Settling down: the last step is well below the average one.
        if steps[-1] < 0.75 * grown / len(steps):
            return None
        slope = typical_slope(self._points[-2 * width :])
        return Leak(max(0.0, slope), int(grown))
