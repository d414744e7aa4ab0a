"""Intervals behave like sets of numbers, in one canonical form."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etlkit.checkpoint import Intervals

numbers = st.sets(st.integers(0, 60))


@given(numbers, numbers, st.integers(-2, 62))
def test_like_a_set(left: set[int], right: set[int], one: int) -> None:
    a, b = Intervals.of(left), Intervals.of(right)
    assert set(a) == left and len(a) == len(left) and bool(a) == bool(left)
    assert set(a | b) == left | right and set(a & b) == left & right and set(a - b) == left - right
    assert (one in a) == (one in left)
    assert set(a.add(one)) == left | {one}
    assert (a == b) == (left == right)
    assert a | b == b | a and hash(a | b) == hash(b | a)


@given(numbers)
def test_json_there_and_back(members: set[int]) -> None:
    made = Intervals.of(members)
    assert Intervals.from_json(made.to_json()) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert all(stop < start for (_, stop), (start, _) in zip(made.to_json(), made.to_json()[1:], strict=False))


@pytest.mark.parametrize("bad", [[[3, 1]], [[0, 2], [2, 3]], [[4, 5], [0, 1]], [[0, 2], [1, 3]], [[0.0, 1]], [[1]], 5])
def test_only_the_canonical_form_is_read(bad: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Intervals.from_json(bad)


def test_immutable() -> None:
    with pytest.raises(AttributeError):
        Intervals([(0, 1)])._pairs = ()
