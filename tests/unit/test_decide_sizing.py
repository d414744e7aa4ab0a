"""Sizes and cadence: arithmetic that must hold for every number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etlkit.decide.cadence import LEAST_SHARE, LONGEST_STRETCH, next_checkpoint_s
from etlkit.decide.events import ResizeMode
from etlkit.decide.policy import Policy
from etlkit.decide.sizing import LEAST_GAIN, below_refused, comfortable, give_back, target
from etlkit.units import MIB

BYTES = st.integers(0, 1 << 42)


@given(BYTES, BYTES, st.integers(1, 1 << 40), st.integers(1, 1 << 42), st.one_of(st.none(), BYTES))
def test_a_target_is_larger_within_the_cap_and_holds_the_floor(
    projected: int, floor: int, limit: int, most: int, cap: int | None
) -> None:
    size = target(projected, floor, limit, Policy(max_memory_bytes=most), cap)
    if size is not None:
        assert limit * LEAST_GAIN <= size <= min(most, most if cap is None else cap)
        assert size >= floor


@given(BYTES)
def test_what_is_asked_for_is_not_tight_afterwards(need: int) -> None:
    """Otherwise the same forecast would ask again as soon as the cool-down is over."""
    policy = Policy()
    size = comfortable(need, policy)
    assert need <= policy.tight * size and size >= need * (1 + policy.margin)
    assert size % policy.quantum_bytes == 0


def test_targets_by_hand() -> None:
    policy = Policy(max_memory_bytes=1024 * MIB)
    assert target(310 * MIB, 40 * MIB, 192 * MIB, policy) == 400 * MIB
    assert target(2000 * MIB, 40 * MIB, 192 * MIB, policy) == 1024 * MIB
    assert target(2000 * MIB, 1100 * MIB, 192 * MIB, policy) is None
    assert target(150 * MIB, 40 * MIB, 192 * MIB, policy) is None
    assert target(900 * MIB, 40 * MIB, 1000 * MIB, policy) is None
    assert target(310 * MIB, 40 * MIB, 192 * MIB, Policy()) is None
    assert below_refused(512 * MIB, 192 * MIB, policy) == 352 * MIB


def test_giving_back_must_pay() -> None:
    live, restart = Policy(mode=ResizeMode.LIVE), Policy(mode=ResizeMode.RESTART)
    limit, need = 1024 * MIB, 200 * MIB
    assert give_back(need, 0, limit, 61.0, 0.1, live) == 256 * MIB
    assert give_back(need, 0, limit, 59.0, 0.1, live) is None
    assert give_back(need, 0, limit, None, 0.1, live) is None
    assert give_back(600 * MIB, 0, limit, 900.0, 0.1, live) is None
    assert give_back(need, 600 * MIB, limit, 900.0, 0.1, live) is None
    assert give_back(need, 0, limit, 500.0, 1.0, restart) is None
    assert give_back(need, 0, limit, 900.0, 20.0, restart) is None
    assert give_back(need, 0, limit, 900.0, 1.0, restart) == 256 * MIB
    assert give_back(need, 0, limit, 900.0, 1.0, Policy()) is None


def test_the_cadence_keeps_the_authors_bound_or_the_overhead() -> None:
    assert next_checkpoint_s(Policy(), []) == 1.0
    assert next_checkpoint_s(Policy(), [0.005, 0.005]) == 1.0
    assert next_checkpoint_s(Policy(), [0.1]) == 10.0
    assert next_checkpoint_s(Policy(), [5.0]) == LONGEST_STRETCH
    assert next_checkpoint_s(Policy(every_is_bound=True), []) == 1.0
    assert next_checkpoint_s(Policy(every_is_bound=True), [0.1, 0.25]) == 0.75, "it is there when the bound is reached"
    assert next_checkpoint_s(Policy(every_is_bound=True), [5.0]) == LEAST_SHARE
    assert next_checkpoint_s(Policy(checkpoint_every_s=None), [5.0]) is None
    assert next_checkpoint_s(Policy(overhead=0.0), [0.1]) == LONGEST_STRETCH


@given(st.floats(0.01, 60), st.lists(st.floats(0, 100), max_size=8), st.floats(0, 0.5))
def test_the_cadence_is_never_shorter_and_never_much_longer_than_asked_for(
    every: float, took: list[float], overhead: float
) -> None:
    policy = Policy(checkpoint_every_s=every, overhead=overhead)
    found = next_checkpoint_s(policy, took)
    assert found is not None and every <= found <= every * LONGEST_STRETCH
