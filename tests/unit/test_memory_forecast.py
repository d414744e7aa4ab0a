"""Forecasts by numbers: how early, how near, and never wildly off."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from etlkit.memory import Estimate, JobForecast, LeakDetector, SplitForecast, StateForecast, StateProjection
from etlkit.memory.growth import distinct_keys

MIB = 1024**2
TOTAL = 120


def follow(size: Callable[[int], float]) -> tuple[dict[int, StateProjection], float]:
    """The projection after each of 120 splits, and the truth."""
    forecast, seen = StateForecast(TOTAL), {}
    for done in range(1, TOTAL + 1):
        forecast.observe(done, int(size(done)))
        projection = forecast.project()
        assert projection is not None
        seen[done] = projection
    return seen, size(TOTAL)


def noisy(size: Callable[[int], float], share: float = 0.05) -> Callable[[int], float]:
    draw = random.Random(7)
    factors = [draw.uniform(1 - share, 1 + share) for _ in range(TOTAL + 1)]
    return lambda done: size(done) * factors[done]


SHAPES: dict[str, Callable[[int], float]] = {
    "steady": noisy(lambda done: 200.0 * MIB),
    "linear": lambda done: 10.0 * MIB * done,
    "linear, noisy": noisy(lambda done: 10.0 * MIB * done),
    "saturating early": lambda done: -400 * MIB * math.expm1(-done / 12),
    "saturating late": lambda done: -400 * MIB * math.expm1(-done / 60),
    "saturating, noisy": noisy(lambda done: -400 * MIB * math.expm1(-done / 30)),
    "uneven keys": lambda done: 40 * MIB * done**0.6,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_known_early_and_never_wildly_off(shape: str) -> None:
    seen, truth = follow(SHAPES[shape])
    for done, projection in seen.items():
        ratio = projection.expected_bytes / truth
        if done >= 6:
            assert 0.5 < ratio < 4, (done, ratio)
        if done >= 24:
            assert 0.75 < ratio < 1.6, (done, ratio)
        if done >= 60:
            assert 0.85 < ratio < 1.2, (done, ratio)
        assert projection.upper_bytes >= projection.expected_bytes
    covered = [projection.upper_bytes >= 0.95 * truth for done, projection in seen.items() if done >= 12]
    assert sum(covered) >= 0.95 * len(covered)
    assert seen[TOTAL].expected_bytes == pytest.approx(truth, abs=1)
    assert seen[TOTAL - 30].settled


def test_a_sudden_spike_is_not_carried_on_as_a_slope() -> None:
    def spike(done: int) -> float:
        return MIB * done + (500 * MIB if done >= 60 else 0)

    seen, truth = follow(spike)
    assert seen[59].expected_bytes < 1.2 * 120 * MIB
    for done in range(60, TOTAL):
        assert 0.9 < seen[done].expected_bytes / truth < 1.15, done
        assert seen[done].upper_bytes < 2 * truth


def test_even_keys_are_known_after_one_look() -> None:
    keys, rows = 400_000, 12_000_000
    forecast = StateForecast(rows)
    for seen in (108_000, 216_000, 1_000_000):
        distinct = round(-keys * math.expm1(-seen / keys))
        forecast.observe(seen, distinct * 40, rows=seen, keys=distinct)
        projection = forecast.project()
        assert projection is not None
        assert 0.9 < projection.expected_bytes / (keys * 40) < 1.6


def test_distinct_keys_of_a_sample() -> None:
    draw = random.Random(3)
    sample = len({draw.randrange(50_000) for _ in range(20_000)})
    expected, upper = distinct_keys(20_000, sample, 2_000_000)
    assert expected == pytest.approx(50_000, rel=0.03)
    assert upper >= 50_000
    assert distinct_keys(1000, 1000, 5000) == (5000, 5000), "all different so far: they may all be"
    assert distinct_keys(0, 0, 5000) == (0, 0)


def test_nothing_observed_nothing_said_and_going_back_is_ignored() -> None:
    forecast = StateForecast(10)
    assert forecast.project() is None
    forecast.observe(5, 100)
    forecast.observe(3, 999)
    projection = forecast.project(5)
    assert projection is not None and projection.expected_bytes == 100


def test_a_long_run_keeps_few_points() -> None:
    forecast = StateForecast(100_000)
    for done in range(1, 20_000):
        forecast.observe(done, done * 1000)
    assert len(forecast._points) < 80 and forecast._points[-1] == (19_999, 19_999_000.0)
    projection = forecast.project()
    assert projection is not None and 0.85 < projection.expected_bytes / 1e8 < 1.1


def test_a_split_is_learned_and_its_bound_holds() -> None:
    draw, forecast = random.Random(5), SplitForecast()
    misses = 0
    for number in range(400):
        measured = int(10 * MIB * 2.3 * math.exp(draw.gauss(0, 0.2)))
        misses += number >= 10 and measured > forecast.estimate(10 * MIB).upper_bytes
        forecast.update(10 * MIB, measured)
    final = forecast.estimate(10 * MIB)
    assert forecast.factor == pytest.approx(2.3, rel=0.1)
    assert misses <= 12 and forecast.seen == 400
    assert final.upper_bytes < 2.2 * final.expected_bytes


def test_a_bound_that_was_broken_widens() -> None:
    forecast = SplitForecast()
    for _ in range(50):
        forecast.update(MIB, MIB)
    narrow = forecast.estimate(MIB)
    forecast.update(MIB, 3 * MIB)
    assert forecast.missed == 1
    assert forecast.estimate(MIB).upper_bytes >= 3 * MIB > narrow.upper_bytes
    forecast.update(0, MIB)
    assert forecast.seen == 51, "an estimate of nothing teaches nothing"


def test_learned_factors_go_into_the_next_run() -> None:
    forecast = SplitForecast()
    for _ in range(40):
        forecast.update(MIB, 4 * MIB)
    again = SplitForecast.from_json(forecast.to_json())
    assert again.estimate(MIB).expected_bytes == pytest.approx(4 * MIB, rel=0.05)
    assert again.estimate(MIB).upper_bytes < 8 * MIB


def test_the_job_is_base_plus_splits_plus_state() -> None:
    split, state = Estimate(10 * MIB, 16 * MIB), StateProjection(100 * MIB, 150 * MIB, True)
    one = JobForecast(60 * MIB).project(split, 1, state)
    four = JobForecast(60 * MIB).project(split, 4, state, least_split_bytes=2 * MIB)
    assert (one.expected_bytes, one.upper_bytes) == (170 * MIB, 226 * MIB)
    assert four.expected_bytes == 200 * MIB
    # Four splits are not all wrong at once.
    assert four.upper_bytes == (60 + 40 + 12 + 150) * MIB
    assert (one.floor_bytes, four.floor_bytes) == (76 * MIB, 62 * MIB)


def leaks(size: Callable[[int], float], splits: int = 300) -> list[int]:
    detector = LeakDetector()
    return [done for done in range(1, splits) if detector.observe(done, int(size(done))) is not None]


def test_a_leak_is_found_under_noise() -> None:
    draw = random.Random(2)
    found = leaks(lambda done: MIB * done + draw.uniform(0, 10) * MIB)
    assert found and found[0] <= 60


def test_its_rate_says_when_the_room_is_gone() -> None:
    detector, leak = LeakDetector(), None
    for done in range(1, 100):
        leak = detector.observe(done, done * 2 * MIB)
    assert leak is not None and leak.bytes_per_split == pytest.approx(2 * MIB, rel=0.05)
    assert leak.splits_until(100 * MIB) == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize(
    "size",
    [
        lambda done: 50 * MIB + random.Random(done).uniform(0, 20) * MIB,
        lambda done: -100 * MIB * math.expm1(-done / 20),
        lambda done: 50 * MIB + 10 * MIB * math.sin(done / 7),
        lambda done: 200 * MIB - done * MIB / 4,
        lambda done: done * 1000,
        lambda done: 60 * MIB if done > 40 else 20 * MIB,
    ],
    ids=["noise", "settling", "wave", "falling", "too little", "one step"],
)
def test_what_is_no_leak(size: Callable[[int], float]) -> None:
    assert leaks(size) == []
