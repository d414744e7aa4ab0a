"""The ledger: room is given once, in order, and never more than there is."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etlkit.errors import EtlkitError
from etlkit.memory import Grant, Ledger

LONG_S = 30.0


def waiter(ledger: Ledger, name: str, size: int, results: dict[str, Grant]) -> threading.Thread:
    """A thread that waits for room; returns when it is surely in the queue."""
    before = len(ledger._queue)
    thread = threading.Thread(target=lambda: results.__setitem__(name, ledger.wait_for_room(name, size, LONG_S)))
    thread.start()
    for _ in range(10_000):
        if len(ledger._queue) > before or name in results:
            return thread
        threading.Event().wait(0.001)
    raise AssertionError("the thread never began to wait")


def test_reserving_up_to_the_capacity_and_no_further() -> None:
    ledger = Ledger(100)
    assert ledger.try_reserve("a", 60)
    assert not ledger.try_reserve("b", 41)
    assert ledger.try_reserve("b", 40)
    assert (ledger.reserved_bytes, ledger.room_bytes, ledger.held()) == (100, 0, {"a": 60, "b": 40})
    assert ledger.release("a") == 60
    assert (ledger.reserved_bytes, ledger.peak_bytes) == (40, 100)


def test_without_a_capacity_everything_fits() -> None:
    ledger = Ledger(None)
    assert ledger.try_reserve("a", 10**15) and ledger.can_ever_hold(10**18) and ledger.room_bytes is None


def test_what_can_never_fit_is_told_at_once() -> None:
    ledger = Ledger(100)
    assert ledger.wait_for_room("a", 101) is Grant.NEVER
    assert not ledger.can_ever_hold(101)


def test_waiting_ends_when_room_is_released() -> None:
    ledger, results = Ledger(100), {}
    ledger.try_reserve("a", 80)
    thread = waiter(ledger, "b", 50, results)
    ledger.release("a")
    thread.join(LONG_S)
    assert results == {"b": Grant.GRANTED} and ledger.held() == {"b": 50}


def test_waiting_ends_when_the_limit_grows_or_makes_it_impossible() -> None:
    ledger, results = Ledger(100), {}
    ledger.try_reserve("a", 80)
    first = waiter(ledger, "b", 50, results)
    ledger.resize(130)
    first.join(LONG_S)
    second = waiter(ledger, "c", 60, results)
    ledger.resize(59)
    second.join(LONG_S)
    assert results == {"b": Grant.GRANTED, "c": Grant.NEVER}
    assert ledger.room_bytes == 59 - 130


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    ledger, results = Ledger(100), {}
    ledger.try_reserve("a", 50)
    large = waiter(ledger, "large", 90, results)
    small = waiter(ledger, "small", 10, results)
    assert not ledger.try_reserve("smaller", 1), "the queue goes first"
    assert results == {}
    ledger.release("a")
    large.join(LONG_S)
    small.join(LONG_S)
    assert results == {"large": Grant.GRANTED, "small": Grant.GRANTED}


def test_a_queue_whose_head_gives_up_moves_on() -> None:
    ledger, results = Ledger(100), {}
    ledger.try_reserve("a", 50)
    assert ledger.wait_for_room("large", 90, 0.0) is Grant.TIMED_OUT
    assert ledger.try_reserve("small", 10)
    head = waiter(ledger, "large", 90, results)
    ledger.close()
    head.join(LONG_S)
    assert results == {"large": Grant.CLOSED}
    assert not ledger.try_reserve("late", 1) and ledger.release("a") == 50


def test_adjusting_to_what_was_needed_is_never_refused_but_says_so() -> None:
    ledger = Ledger(100)
    ledger.try_reserve("a", 50)
    assert ledger.adjust("a", 90)
    assert not ledger.adjust("a", 120)
    assert (ledger.reserved_bytes, ledger.room_bytes) == (120, -20)
    assert ledger.adjust("a", 10) and ledger.try_reserve("b", 90)


def test_names_are_held_once() -> None:
    ledger = Ledger(100)
    ledger.try_reserve("a", 1)
    with pytest.raises(EtlkitError, match="already holds"):
        ledger.try_reserve("a", 1)
    ledger.release("a")
    with pytest.raises(EtlkitError, match="holds nothing for 'a'"):
        ledger.release("a")
    with pytest.raises(EtlkitError, match="holds nothing for 'b'"):
        ledger.adjust("b", 1)
    assert ledger.reserved_bytes == 0


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60), st.sampled_from(["take", "give", "cap"]))))
def test_the_sum_is_always_right_and_grants_never_exceed_the_capacity(steps: list[tuple[str, int, str]]) -> None:
    ledger, capacity, held = Ledger(100), 100, {}
    for name, size, act in steps:
        if act == "take" and name not in held:
            granted = ledger.try_reserve(name, size)
            assert granted == (sum(held.values()) + size <= capacity)
            if granted:
                held[name] = size
        elif act == "give" and name in held:
            assert ledger.release(name) == held.pop(name)
        elif act == "cap":
            capacity = size * 3
            ledger.resize(capacity)
        assert ledger.reserved_bytes == sum(held.values()) and ledger.held() == held


def test_many_threads_never_hold_more_than_there_is() -> None:
    ledger, over = Ledger(10), []

    def work(number: int) -> None:
        for turn in range(50):
            size = 1 + (number + turn) % 7
            assert ledger.wait_for_room(f"{number}", size, LONG_S) is Grant.GRANTED
            if ledger.reserved_bytes > 10:
                over.append(ledger.reserved_bytes)
            ledger.release(f"{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert not over and ledger.reserved_bytes == 0 and ledger.peak_bytes <= 10
