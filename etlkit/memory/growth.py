"""How something grows with the work done, fitted to what was seen, and carried on to the end.

Covers three shapes through the origin: a straight line, saturation S·(1 − e^(−n/τ)) (distinct keys drawn evenly), and
a power a·n^β (Heaps: keys drawn unevenly); and the number of distinct keys from one look at a sample. Pure
arithmetic, no state: what is observed, and what follows from it, is for ``forecast``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..lazyclass import dataclass

Point = tuple[float, float]
"""(work done, size then)."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted shape. ``rate`` is τ of a saturation, β of a power; a line needs none."""

    shape: str
    scale: float
    rate: float
    error: float
    """Sum of squared residuals."""

    def at(self, done: float) -> float:
        if self.shape == "line":
            return self.scale * done
        if self.shape == "saturation":
            return -self.scale * math.expm1(-done / self.rate)
        return self.scale * math.pow(done, self.rate) if done > 0 else 0.0


def fit(points: Sequence[Point], total: float, known: Curve | None = None) -> list[tuple[float, Curve]]:
    """(weight, curve) for each shape, weights adding up to 1: those that explain the points better weigh more.

    ``known`` is one more candidate, that comes from somewhere else.
    """
    curves = [_line(points), _saturation(points, total), _power(points)]
    if known is not None:
        curves.append(known)
    size = max(value for _, value in points)
    # Equal residuals count as equal: below a hundredth of the size the difference is noise.
    noise = max(1e-12, len(points) * (0.01 * size) ** 2)
    sharpness = min(len(points), 24) / 2
    scores = [-sharpness * math.log(curve.error + noise) for curve in curves]
    if known is not None:
        # It comes from thousands of rows where the others have a few points to go by.
        scores[-1] += 5.0
    best = max(scores)
    weights = [math.exp(score - best) for score in scores]
    return [(weight / sum(weights), curve) for weight, curve in zip(weights, curves, strict=True)]


def typical_slope(points: Sequence[Point]) -> float:
    """The median of the slopes between all pairs (Theil and Sen): a jump or an outlier does not move it."""
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for place, earlier in enumerate(points)
        for later in points[place + 1 :]
        if later[0] > earlier[0]
    )
    if not slopes:
        return 0.0
    middle = len(slopes) // 2
    return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2


def distinct_keys(rows_seen: float, keys_seen: float, rows_total: float) -> tuple[float, float]:
    """(expected, upper) number of distinct keys in ``rows_total`` rows, from a sample in which some repeat.

    Expected is what even draws give. Uneven draws give more, so upper is at least the guaranteed-error estimate
    keys·√(total/seen), and never more than a line.
    """
    if rows_seen <= 0 or keys_seen <= 0:
        return 0.0, 0.0
    line = keys_seen * rows_total / rows_seen
    repeats = max(0.0, rows_seen - keys_seen)
    expected = _even_draws(rows_seen, repeats, rows_total)
    # Repeats are rare events: two standard deviations fewer of them would have meant that many more keys.
    unlucky = _even_draws(rows_seen, max(0.0, repeats - 2 * math.sqrt(repeats)), rows_total)
    upper = max(unlucky, expected, keys_seen * math.sqrt(rows_total / rows_seen))
    return min(expected, line), min(upper, line)


def _even_draws(rows: float, repeats: float, rows_total: float) -> float:
    """Keys in ``rows_total`` even draws from as many keys as make ``rows`` draws repeat ``repeats`` times."""
    population = even_population(rows, rows - repeats)
    return rows_total if population is None else -population * math.expm1(-rows_total / population)


def even_population(rows: float, keys: float) -> float | None:
    """From how many keys ``rows`` even draws give ``keys`` different ones; None if none was drawn twice."""
    if rows - keys < 1:
        return None
    low, high = keys, max(keys * 2, rows * rows)
    for _ in range(80):
        middle = math.sqrt(low * high)
        if -middle * math.expm1(-rows / middle) < keys:
            low = middle
        else:
            high = middle
    return high


def saturation(points: Sequence[Point], tau: float, through: Point) -> Curve:
    """The saturation with this τ through one point, and its error at all of them."""
    scale = through[1] / -math.expm1(-through[0] / tau)
    return Curve("saturation", scale, tau, _error(points, [-scale * math.expm1(-done / tau) for done, _ in points]))


def _line(points: Sequence[Point]) -> Curve:
    scale = _scale([done for done, _ in points], points)
    return Curve("line", scale, 1.0, _error(points, [scale * done for done, _ in points]))


def _saturation(points: Sequence[Point], total: float) -> Curve:
    """The best τ of a grid, from a sixty-fourth of the first step to twice the whole, then refined."""
    low, high = math.log(max(1e-9, points[0][0] / 64)), math.log(max(total, points[-1][0]) * 2)
    best = Curve("saturation", 0.0, 1.0, math.inf)
    for _ in range(3):
        step = (high - low) / 24
        for number in range(25):
            tau = math.exp(low + number * step)
            basis = [-math.expm1(-done / tau) for done, _ in points]
            scale = _scale(basis, points)
            error = _error(points, [scale * value for value in basis])
            if error < best.error:
                best = Curve("saturation", scale, tau, error)
        low, high = math.log(best.rate) - step, math.log(best.rate) + step
    return best


def _power(points: Sequence[Point]) -> Curve:
    """The best exponent between a constant and a line. Above 1 it would be a guess that things get worse."""
    best = Curve("power", 0.0, 1.0, math.inf)
    for number in range(21):
        beta = number / 20
        basis = [math.pow(done, beta) if done > 0 else 0.0 for done, _ in points]
        scale = _scale(basis, points)
        error = _error(points, [scale * value for value in basis])
        if error < best.error:
            best = Curve("power", scale, beta, error)
    return best


def _scale(basis: Sequence[float], points: Sequence[Point]) -> float:
    below = sum(value * value for value in basis)
    return sum(value * size for value, (_, size) in zip(basis, points, strict=True)) / below if below else 0.0


def _error(points: Sequence[Point], fitted: Sequence[float]) -> float:
    return sum((size - value) ** 2 for (_, size), value in zip(points, fitted, strict=True))
