"""What the machine decides, one situation at a time."""

from __future__ import annotations

import pytest

from etlkit.decide import machine
from etlkit.decide.events import (
    AllocationFailed,
    CheckpointCommitted,
    CheckpointFailed,
    Drained,
    Event,
    LimitChanged,
    Observed,
    ResizeMode,
    ResizeOutcome,
    ResizeReported,
    Started,
    Terminating,
    WorkFailed,
    WorkFinished,
)
from etlkit.decide.instructions import (
    Checkpoint,
    Drain,
    Instruction,
    Level,
    Quit,
    ReleasePools,
    RequestMemory,
    SetLevel,
    SetSliceRows,
    SetWorkers,
    WithdrawResize,
)
from etlkit.decide.policy import Policy
from etlkit.units import MIB

LIMIT = 192 * MIB


class Run:
    """A machine with a clock in the hand and short ways to say what happened."""

    def __init__(
        self,
        mode: ResizeMode = ResizeMode.RESTART,
        *,
        limit: int | None = LIMIT,
        restarts: int = 3,
        workers: int = 2,
        max_memory: int | None = 1024 * MIB,
        **policy: object,
    ) -> None:
        self.policy = Policy(mode=mode, max_memory_bytes=max_memory, **policy)  # type: ignore[arg-type]
        self.state = machine.initial(self.policy)
        self.limit = limit
        self.at_s = 100.0
        self.said: list[Instruction] = []
        self.tell(Started(self.at_s, limit, workers, restarts))

    def tell(self, event: Event) -> tuple[Instruction, ...]:
        self.state, out = machine.step(self.state, event, self.policy)
        machine.validate(self.state)
        self.said.extend(out)
        return out

    def look(
        self, used: float = 50, projected: float = 60, *, floor: float = 40, state: float = 0, unsaved: float = 0.0,
        remaining: float | None = 100.0, spill: float = 10.0, cost: float = 1.0, thrash: float = 0.0, done: int = 1,
        fixed: bool = False, after: float = 0.1, times: int = 1,
    ) -> tuple[Instruction, ...]:  # fmt: skip
        out: tuple[Instruction, ...] = ()
        for _ in range(times):
            self.at_s += after
            seen = Observed(
                self.at_s, self.limit, int(used * MIB), 0, int(state * MIB), int(projected * MIB), int(floor * MIB),
                unsaved, remaining, spill, cost, thrash, done, fixed,
            )  # fmt: skip
            out += self.tell(seen)
        return out

    def committed(self, took: float = 0.01, after: float = 0.1) -> tuple[Instruction, ...]:
        self.at_s += after
        return self.tell(CheckpointCommitted(self.at_s, 1, took, 1000, "x"))

    def report(
        self, outcome: ResizeOutcome, to: int | None = None, message: str = "", most: int | None = None
    ) -> tuple[Instruction, ...]:
        self.at_s += 0.1
        to_bytes = to if to is not None else self.asked().to_bytes
        return self.tell(ResizeReported(self.at_s, outcome, to_bytes, message, most))

    def fail(self, tries: int, rows: int | None = None, needed: float = 80) -> tuple[Instruction, ...]:
        self.at_s += 0.6
        rows = self.state.slice_rows if rows is None else rows
        return self.tell(AllocationFailed(self.at_s, "lineitem 7", tries, rows, int(needed * MIB)))

    def sigterm(self, grace: float = 20.0) -> tuple[Instruction, ...]:
        return self.tell(Terminating(self.at_s, "SIGTERM", grace))

    def asked(self) -> RequestMemory:
        return [i for i in self.said if isinstance(i, RequestMemory)][-1]

    def ask(self) -> RequestMemory:
        """Through a forecast above the limit to a PATCH that was sent."""
        self.look(100, 310, times=3)
        self.committed()
        return self.asked()

    def in_flight(self) -> bool:
        return self.state.request is not None


def kinds(out: tuple[Instruction, ...]) -> list[type]:
    return [type(instruction) for instruction in out]


def only(out: tuple[Instruction, ...], kind: type) -> list[Instruction]:
    return [instruction for instruction in out if isinstance(instruction, kind)]


# Levels


def test_memory_is_not_called_calm_while_allocations_fail() -> None:
    run = Run(ResizeMode.NONE)
    run.look(50, 60)
    run.fail(1)
    told = only(run.look(50, 60), SetLevel)[0]
    assert told.level is Level.TIGHT and "allocations fail" in told.reason
    assert only(run.look(50, 60, after=4), SetLevel)[0].level is Level.CALM


def test_a_process_that_cannot_spill_is_not_told_what_spilling_would_cost() -> None:
    run = Run(ResizeMode.LIVE)
    run.look(100, 310, spill=float("inf"), times=3)
    run.committed()
    assert "spilling" not in run.asked().reason and "about to reach" in run.asked().reason


def test_levels_rise_at_once_and_fall_with_hysteresis() -> None:
    run = Run(ResizeMode.NONE)
    assert only(run.look(0.81 * 192), SetLevel)[0].level is Level.TIGHT
    assert only(run.look(0.93 * 192), SetLevel)[0].level is Level.CRITICAL
    assert not only(run.look(0.90 * 192), SetLevel)
    assert only(run.look(0.86 * 192), SetLevel)[0].level is Level.TIGHT
    assert not only(run.look(0.77 * 192), SetLevel)
    assert only(run.look(0.74 * 192), SetLevel)[0].level is Level.CALM


def test_a_forecast_is_tight_and_thrashing_raises_the_level() -> None:
    run = Run(ResizeMode.NONE)
    assert only(run.look(50, 300), SetLevel)[0].level is Level.TIGHT
    assert run.state.pressure is Level.CALM
    run = Run(ResizeMode.NONE)
    assert only(run.look(50, thrash=0.2), SetLevel)[0].level is Level.TIGHT
    level = only(run.look(50, thrash=0.6), SetLevel)[0]
    assert level.level is Level.CRITICAL and "60 %" in level.reason


def test_without_a_limit_it_is_calm_and_only_checkpoints() -> None:
    run = Run(limit=None)
    out = run.look(9000, 90000, thrash=1.0, floor=5000, unsaved=1.5, times=1)
    assert kinds(out) == [Checkpoint] and out[0] == Checkpoint("interval")


# Making do


def test_critical_spills_state_that_is_worth_it_before_it_slows_down() -> None:
    run = Run(ResizeMode.NONE)
    out = run.look(180, 180, state=60)
    assert kinds(out) == [SetLevel, ReleasePools, Checkpoint]
    assert out[2].spill and "180 MiB of 192 MiB" in out[2].reason and "60 MiB" in out[2].reason
    run.committed()
    assert not run.state.saving


def test_critical_without_state_uses_fewer_workers_then_smaller_slices_each_given_time() -> None:
    run = Run(ResizeMode.NONE, workers=4)
    assert only(run.look(180, 180, done=0), SetWorkers)[0].workers == 2
    assert not only(run.look(180, 180, done=0, times=5), SetWorkers), "running splits are waited for"
    assert only(run.look(180, 180, done=4, after=0.6), SetWorkers)[0].workers == 1
    assert only(run.look(180, 180, done=4, after=3.1), SetSliceRows)[0].rows == 32768, "though none has finished"


def test_settings_come_back_when_calm_for_a_while_and_later_each_time_it_was_too_early() -> None:
    run = Run(ResizeMode.NONE)
    run.look(180, 180)
    assert run.state.workers == 1
    assert not only(run.look(100, 100, after=1.0, times=4), SetWorkers)
    assert only(run.look(100, 100, after=1.0, times=2), SetWorkers)[0].workers == 2
    run.look(180, 180, done=99)
    assert run.state.workers == 1
    assert not only(run.look(100, 100, after=1.0, times=9), SetWorkers)
    assert only(run.look(100, 100, after=1.0, times=3), SetWorkers)[0].workers == 2


def test_a_forecast_alone_never_slows_the_job_down() -> None:
    run = Run(ResizeMode.NONE)
    out = run.look(100, 900, floor=60, times=50, after=0.5)
    assert not only(out, SetWorkers) and not only(out, SetSliceRows)


# Asking


def test_asks_to_the_end_of_the_job_when_spilling_costs_more() -> None:
    run = Run()
    out = run.look(100, 310, times=3, spill=3.1, cost=0.9)
    checkpoint, request = out[-2:]
    assert isinstance(checkpoint, Checkpoint) and checkpoint.reason.startswith("resize")
    assert isinstance(request, RequestMemory) and request.to_bytes == 400 * MIB
    assert "310 MiB" in request.reason and "192 MiB" in request.reason and "3.1 s" in request.reason
    assert "900 ms" in request.reason


def test_one_noisy_forecast_is_no_reason() -> None:
    run = Run()
    out = run.look(100, 310) + run.look(100, 100) + run.look(100, 310, times=2)
    assert not only(out, RequestMemory)


@pytest.mark.parametrize(
    "why, how, seen",
    [
        ("nobody to ask", {"mode": ResizeMode.NONE}, {}),
        ("no max_memory", {"max_memory": None}, {}),
        ("max_memory is the limit", {"max_memory": LIMIT}, {}),
        ("less than a tenth to gain", {"max_memory": 208 * MIB}, {}),
        ("no restart left", {"restarts": 0}, {}),
        ("spilling is cheaper", {}, {"spill": 0.5, "cost": 1.0}),
        ("the job is nearly done", {}, {"remaining": 0.8}),
        ("the cap saves too little of the spilling", {"max_memory": 224 * MIB}, {"spill": 2.0, "projected": 1000}),
    ],
)
def test_does_not_ask(why: str, how: dict[str, object], seen: dict[str, float]) -> None:
    run = Run(**how)  # type: ignore[arg-type]
    out = run.look(100, **{"projected": 310, **seen}, times=10)  # type: ignore[arg-type]
    assert not only(out, RequestMemory), why


def test_live_mode_needs_no_restart_budget() -> None:
    assert only(Run(ResizeMode.LIVE, restarts=0).look(100, 310, times=3), RequestMemory)


def test_an_inelastic_need_is_asked_for_whatever_it_costs() -> None:
    out = Run().look(100, 200, floor=185, spill=0.0, cost=99.0, times=3)
    assert "one worker" in only(out, RequestMemory)[0].reason


def test_never_above_max_memory() -> None:
    assert only(Run(max_memory=300 * MIB).look(100, 900, times=3), RequestMemory)[0].to_bytes == 300 * MIB


def test_one_at_a_time_and_nothing_within_the_cooldown() -> None:
    run = Run(ResizeMode.LIVE)
    run.ask()
    assert not only(run.look(100, 900, times=20), RequestMemory)
    run.limit = run.asked().to_bytes
    run.tell(LimitChanged(run.at_s, run.limit))
    assert not run.in_flight()
    assert not only(run.look(100, 900, times=50), RequestMemory)
    assert only(run.look(100, 900, after=5.0, times=2), RequestMemory)


def test_the_intent_waits_for_a_checkpoint_under_way_and_dies_with_its_own() -> None:
    run = Run()
    assert kinds(run.look(50, unsaved=2.0)) == [Checkpoint]
    assert not only(run.look(100, 310, times=5), RequestMemory)
    run.committed()
    assert only(run.look(100, 310), RequestMemory)
    run.tell(CheckpointFailed(run.at_s, "disk full", False))
    assert not run.in_flight()


def test_what_was_infeasible_is_asked_for_smaller_after_the_cooldown() -> None:
    run = Run()
    first = run.ask().to_bytes
    run.report(ResizeOutcome.INFEASIBLE, message="node didn't have enough allocatable resources")
    assert not only(run.look(100, 310, times=20), RequestMemory)
    second = only(run.look(100, 310, after=11.0, times=2), RequestMemory)[0].to_bytes
    assert LIMIT < second < first


def test_what_a_refusal_offers_is_asked_for_at_once_and_once() -> None:
    run = Run()
    first = run.ask().to_bytes
    run.report(ResizeOutcome.INFEASIBLE, message="maximum memory usage per Container is", most=first - 40 * MIB)
    second = only(run.look(100, 310, times=3), RequestMemory)[0].to_bytes
    assert second == (first - 40 * MIB) // (16 * MIB) * (16 * MIB)
    run.committed()
    run.report(ResizeOutcome.INFEASIBLE, most=second - 20 * MIB)
    assert not only(run.look(100, 310, times=20), RequestMemory), "a second no waits for the cool-down"


def test_a_node_that_has_nothing_more_ends_it_without_further_requests() -> None:
    run = Run()
    run.ask()
    run.report(ResizeOutcome.INFEASIBLE, message="allocatable: 201326592", most=LIMIT)
    out: tuple[Instruction, ...] = ()
    for n in range(1, 20):
        out += run.fail(n, needed=130)  # less than was refused: it was waited for, and never asked for
    assert "allocatable" in only(out, Drain)[0].reason
    assert len(only(tuple(run.said), RequestMemory)) == 1
    run.tell(Drained(run.at_s))
    (end,) = run.committed()
    assert isinstance(end, Quit) and end.exit_code == 77, "the cluster's no, not the author's configuration"


def test_refused_is_never_asked_again_and_unreachable_later() -> None:
    run = Run()
    run.ask()
    run.report(ResizeOutcome.REFUSED, message="pods/resize is forbidden")
    assert not only(run.look(100, 310, after=100.0, times=20), RequestMemory)
    run = Run()
    run.ask()
    run.report(ResizeOutcome.UNREACHABLE, message="timed out")
    assert not only(run.look(100, 310, after=10.0, times=29), RequestMemory)
    assert only(run.look(100, 310, after=10.0, times=3), RequestMemory)


def test_deferred_degrades_waits_and_is_withdrawn_to_the_limit_in_force() -> None:
    run = Run()
    run.look(170, 310, state=80, times=1)
    run.committed()
    out = run.report(ResizeOutcome.DEFERRED, message="Node didn't have enough resource")
    assert only(out, Checkpoint)[0].spill and only(out, SetWorkers)
    run.committed()
    assert not only(run.look(100, 310, after=1.0, times=59), WithdrawResize)
    withdrawn = only(run.look(100, 310, after=1.0, times=3), WithdrawResize)
    assert [w.to_bytes for w in withdrawn] == [LIMIT] and "Node didn't" in withdrawn[0].reason
    run.report(ResizeOutcome.WITHDRAWN)
    assert not run.in_flight()
    assert not only(run.look(100, 310, after=10.0, times=20), RequestMemory), "a full node is not asked at once"


def test_a_request_without_news_is_stuck_after_its_deadline() -> None:
    run = Run(ResizeMode.LIVE)
    run.ask()
    assert not only(run.look(100, 310, after=1.0, times=70), WithdrawResize)
    assert only(run.look(100, 310, after=1.0, times=10), WithdrawResize)


def test_a_withdrawal_that_got_no_answer_is_repeated() -> None:
    run = Run(ResizeMode.LIVE)
    run.ask()
    run.look(100, 310, after=40.0, times=3)
    assert len(only(tuple(run.said), WithdrawResize)) == 2
    run.report(ResizeOutcome.UNREACHABLE)
    assert run.in_flight()
    assert only(run.look(100, 310, after=16.0), WithdrawResize)


def test_an_earlier_lifes_deferred_request_is_known_and_not_doubled() -> None:
    run = Run()
    run.report(ResizeOutcome.DEFERRED, to=400 * MIB)
    assert run.in_flight()
    assert not only(run.look(100, 310, times=20), RequestMemory)


def test_a_limit_that_others_changed_is_adopted_and_not_fought() -> None:
    run = Run(ResizeMode.LIVE)
    run.limit = 96 * MIB
    out = run.tell(LimitChanged(run.at_s, run.limit))
    assert not only(out, RequestMemory) and run.state.limit_bytes == 96 * MIB
    assert not only(run.look(50, 310, times=50), RequestMemory)


def test_a_limit_that_shrinks_below_use_spills_releases_and_degrades() -> None:
    run = Run(ResizeMode.LIVE)
    run.look(120, 130, state=70)
    out = run.tell(LimitChanged(run.at_s, 96 * MIB))
    assert kinds(out) == [ReleasePools, Checkpoint, SetWorkers] and out[1].spill


def test_a_larger_limit_gives_the_settings_back_at_once() -> None:
    run = Run(ResizeMode.LIVE)
    run.look(185, 190, spill=0.0)
    run.look(185, 190, spill=0.0, done=50, after=4.0)
    assert run.state.workers == 1 and run.state.slice_rows == 32768
    run.limit = 512 * MIB
    out = run.look(150, 190)
    assert (only(out, SetWorkers)[0].workers, only(out, SetSliceRows)[0].rows) == (2, 65536)


def test_gives_back_live_when_the_rest_needs_much_less_and_is_long() -> None:
    run = Run(ResizeMode.LIVE, limit=1024 * MIB)
    assert not only(run.look(200, 200, after=1.0, remaining=500.0, times=29), RequestMemory), "too early to know"
    out = run.look(200, 200, after=1.0, remaining=500.0, times=3)
    request = only(out, RequestMemory)[0]
    assert request.give_back and request.to_bytes == 256 * MIB and only(out, ReleasePools)
    run.committed()
    assert only(run.report(ResizeOutcome.ERROR, message="below current usage"), WithdrawResize)
    run.report(ResizeOutcome.WITHDRAWN)
    assert not only(run.look(200, 200, after=20.0, remaining=500.0, times=9), RequestMemory), "once is enough"


@pytest.mark.parametrize("mode, remaining", [(ResizeMode.LIVE, 50.0), (ResizeMode.RESTART, 500.0)])
def test_a_short_rest_gives_nothing_back(mode: ResizeMode, remaining: float) -> None:
    run = Run(mode, limit=1024 * MIB)
    assert not only(run.look(200, 200, after=5.0, remaining=remaining, times=20), RequestMemory)


# Failed allocations


def test_a_failed_allocation_releases_and_spills_then_halves() -> None:
    run = Run(ResizeMode.NONE)
    run.look(150, 180, state=80)
    first = run.fail(1)
    assert kinds(first) == [ReleasePools, Checkpoint] and first[1].spill
    run.committed()
    run.look(100, 180, state=0)
    assert only(run.fail(2), SetSliceRows)[0].rows == 32768
    assert not only(run.fail(3, rows=65536), SetSliceRows), "a failure at the old size is no news"


def test_it_asks_for_what_failed_allocations_show() -> None:
    run = Run()
    run.look(150, 160)
    assert not only(run.fail(1) + run.fail(2), RequestMemory)
    request = only(run.fail(3, needed=200), RequestMemory)[0]
    assert request.to_bytes >= 350 * MIB and "allocations fail" in request.reason


def _to_the_floor(run: Run, tries: int = 20) -> tuple[Instruction, ...]:
    out: tuple[Instruction, ...] = ()
    for n in range(1, tries):
        out += run.fail(n)
    return out


def test_at_the_floor_it_stops_with_the_number_and_who_refused() -> None:
    run = Run(ResizeMode.NONE)
    run.look(150, 160, floor=140)
    out = _to_the_floor(run)
    assert (run.state.workers, run.state.slice_rows) == (1, 1024)
    assert len(only(out, Drain)) == 1
    assert kinds(run.tell(Drained(run.at_s))) == [Checkpoint]
    (end,) = run.committed()
    assert isinstance(end, Quit) and end.exit_code == 78
    assert str(80 * MIB) in end.reason and "nobody to ask" in end.reason


def test_fixed_slices_are_not_halved_and_reach_the_floor_with_one_worker() -> None:
    """An author's function gets the same batches always (found by the survival benchmark: it was tried for ever)."""
    run = Run(ResizeMode.NONE)
    run.look(150, 160, fixed=True)
    out = run.fail(1) + run.fail(2)
    assert not only(out, SetSliceRows) and only(out, SetWorkers)[-1].workers == 1
    out += tuple(one for n in range(3, 12) for one in run.fail(n))
    assert only(out, Drain) and not only(out, SetSliceRows)


def test_the_unknown_need_of_an_authors_function_is_asked_for_in_larger_steps() -> None:
    sizes = {}
    for fixed in (True, False):
        run = Run()
        run.look(100, 110, fixed=fixed)
        out = tuple(one for n in range(1, 5) for one in run.fail(n, needed=10))
        sizes[fixed] = only(out, RequestMemory)[0].to_bytes
    assert sizes[True] >= 2 * LIMIT and 1.5 * LIMIT <= sizes[False] < 2 * LIMIT


def test_at_the_floor_even_a_little_state_is_spilled_before_it_gives_up() -> None:
    run = Run(ResizeMode.NONE)
    run.look(150, 160, floor=140, state=2)
    for n in range(1, 8):
        run.fail(n)
    assert not only(tuple(run.said), Checkpoint), "2 MiB are not worth it while there are smaller slices"
    out = _to_the_floor(run, 30)
    assert only(out, Checkpoint)[0].spill and run.state.ending is None
    run.committed()
    run.look(148, 160, floor=140, state=0)
    assert only(run.fail(31), Drain)


def test_at_the_floor_it_names_max_memory_and_the_clusters_words() -> None:
    run = Run(max_memory=LIMIT)
    run.look(150, 160, floor=140)
    assert "max_memory is 192 MiB" in only(_to_the_floor(run), Drain)[0].reason
    run = Run()
    run.ask()
    run.report(ResizeOutcome.REFUSED, message="pods/resize is forbidden for u1")
    assert "forbidden for u1" in only(_to_the_floor(run), Drain)[0].reason


def test_at_the_floor_it_waits_for_what_is_in_flight() -> None:
    run = Run()
    run.ask()
    run.report(ResizeOutcome.DEFERRED)
    assert not only(_to_the_floor(run, 60), Quit) and run.state.ending is None


def test_a_full_node_is_no_reason_to_fail_for_ever() -> None:
    run = Run()
    run.ask()
    run.report(ResizeOutcome.DEFERRED, message="the node is full")
    _to_the_floor(run)
    run.look(150, 310, floor=140, after=61.0)
    run.report(ResizeOutcome.WITHDRAWN)
    run.fail(20)
    run.tell(Drained(run.at_s))
    (end,) = run.committed()
    assert end.exit_code == 75 and "the node is full" in end.reason


def test_a_process_that_holds_what_nothing_explains_starts_again() -> None:
    run = Run(ResizeMode.NONE)
    run.look(170, 170, floor=80, done=12)
    _to_the_floor(run)
    run.tell(Drained(run.at_s))
    (end,) = run.committed()
    assert end.exit_code == 75 and "starts again" in end.reason


def test_room_that_cannot_be_had_is_a_heap_in_pieces_and_a_fresh_process_has_another() -> None:
    run = Run(ResizeMode.NONE)
    run.look(60, 170, floor=100, done=12)
    _to_the_floor(run)
    run.tell(Drained(run.at_s))
    (end,) = run.committed()
    assert end.exit_code == 75 and "starts again" in end.reason


# Checkpoints


def test_checkpoints_go_by_unsaved_work_one_at_a_time() -> None:
    run = Run()
    assert not run.look(unsaved=0.9)
    assert run.look(unsaved=1.0) == (Checkpoint("interval"),)
    assert not run.look(unsaved=5.0, times=9)
    run.committed()
    assert not run.look(unsaved=5.0), "at most one an interval, whatever is said to be unsaved"


def test_three_failed_checkpoints_end_the_run_with_backoff_between() -> None:
    run = Run()
    run.look(unsaved=2.0)
    assert not run.tell(CheckpointFailed(run.at_s, "EIO", False))
    assert not run.look(unsaved=2.0, after=0.3, times=3)
    assert run.look(unsaved=3.0, after=0.2)
    run.tell(CheckpointFailed(run.at_s, "EIO", False))
    assert not run.look(unsaved=3.0, after=0.5, times=3)
    assert run.look(unsaved=3.0, after=1.0)
    (end,) = run.tell(CheckpointFailed(run.at_s, "EIO", False))
    assert isinstance(end, Quit) and end.exit_code == 74 and "EIO" in end.reason


def test_a_lost_fence_ends_at_once_also_with_a_resize_in_flight() -> None:
    run = Run()
    run.ask()
    run.look(unsaved=2.0)
    (end,) = run.tell(CheckpointFailed(run.at_s, "epoch 4 is there", True))
    assert isinstance(end, Quit) and end.exit_code == 73


# The way out


def test_sigterm_drains_saves_and_exits_75() -> None:
    run = Run()
    run.look()
    (drain,) = run.sigterm(20.0)
    assert isinstance(drain, Drain) and run.at_s + 5 <= drain.deadline_s <= run.at_s + 15.001
    (last,) = run.tell(Drained(run.at_s + 1))
    assert isinstance(last, Checkpoint) and last.reason.startswith("final")
    (end,) = run.committed()
    assert isinstance(end, Quit) and end.exit_code == 75
    assert run.look() == () and run.sigterm() == ()


def test_slow_checkpoints_leave_less_of_the_grace_to_splits() -> None:
    run = Run()
    run.look(unsaved=2.0)
    run.committed(took=6.0)
    (drain,) = run.sigterm(20.0)
    assert isinstance(drain, Drain) and drain.deadline_s <= run.at_s + 6.001


def test_a_checkpoint_under_way_is_not_taken_for_the_final_one() -> None:
    run = Run()
    run.look(unsaved=2.0)
    run.sigterm()
    assert run.tell(Drained(run.at_s)) == ()
    assert kinds(run.committed()) == [Checkpoint]
    assert kinds(run.committed()) == [Quit]


@pytest.mark.parametrize("grace", [0.0, 20.0])
def test_the_grace_is_not_overrun_though_nothing_is_heard(grace: float) -> None:
    run = Run()
    out = run.sigterm(grace) + run.look(after=grace / 2, times=3)
    assert only(out, Quit)[0].exit_code == 75


def test_a_second_signal_ends_at_once_and_a_failed_final_checkpoint_too() -> None:
    run = Run()
    run.sigterm()
    assert run.sigterm()[0].exit_code == 75
    run = Run()
    run.sigterm()
    run.tell(Drained(run.at_s))
    assert run.tell(CheckpointFailed(run.at_s, "EIO", False))[0].exit_code == 75


def test_finished_work_exits_0_even_on_the_way_out_or_with_a_resize_in_flight() -> None:
    run = Run()
    run.sigterm()
    assert run.tell(WorkFinished(run.at_s))[0].exit_code == 0
    run = Run()
    run.ask()
    assert kinds(run.tell(WorkFinished(run.at_s))) == [Quit]


def test_after_a_patch_it_works_on_until_the_signal() -> None:
    run = Run()
    run.ask()
    run.report(ResizeOutcome.IN_PROGRESS)
    assert not only(run.look(100, 310, times=50), Quit)
    assert only(run.sigterm(), Drain)


def test_failed_work_withdraws_before_it_leaves() -> None:
    run = Run()
    run.ask()
    assert kinds(run.tell(WorkFailed(run.at_s, 65, "lineitem.parquet is truncated"))) == [WithdrawResize]
    assert not only(run.look(times=9), Quit)
    (end,) = run.report(ResizeOutcome.WITHDRAWN)
    assert isinstance(end, Quit) and end.exit_code == 65 and "truncated" in end.reason


def test_the_wait_for_a_withdrawal_ends_by_a_deadline_or_a_signal() -> None:
    run = Run()
    run.ask()
    run.tell(WorkFailed(run.at_s, 65, "bad"))
    assert not only(run.look(after=1.0, times=14), Quit)
    assert only(run.look(after=1.0, times=2), Quit)[0].exit_code == 65
    run = Run()
    run.ask()
    run.tell(WorkFailed(run.at_s, 65, "bad"))
    assert run.sigterm()[0].exit_code == 65


def test_failed_work_without_a_request_leaves_at_once_and_never_with_0() -> None:
    run = Run()
    assert run.tell(WorkFailed(run.at_s, 1, "boom"))[0].exit_code == 1
    run = Run()
    assert run.tell(WorkFailed(run.at_s, 0, "a lie"))[0].exit_code == 1


def test_a_request_not_yet_sent_is_not_sent_after_the_signal() -> None:
    run = Run()
    run.look(100, 310, times=3)
    assert kinds(run.sigterm()) == [WithdrawResize, Drain]
    run.committed()
    assert not run.in_flight()


def test_the_story_tells_what_was_decided() -> None:
    run = Run()
    run.ask()
    assert any("RequestMemory" in line and "192 MiB to 400 MiB" in line for line in machine.story(run.state))
