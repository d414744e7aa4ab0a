"""From any history, no sequence of events makes the machine break a law. The judge below knows only events and
instructions, never the machine's state."""

from __future__ import annotations

import random
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from etlkit.decide import machine
from etlkit.decide.events import (
    FINAL_OUTCOMES,
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
from etlkit.decide.instructions import Checkpoint, Quit, RequestMemory, SetSliceRows, SetWorkers, WithdrawResize
from etlkit.decide.policy import Policy
from etlkit.units import MIB

SIZES = st.integers(4, 80).map(lambda n: n * 16 * MIB)
BYTES = st.one_of(st.integers(0, 3 * 1024 * MIB), SIZES)
SECONDS = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 200))


class Judge:
    """What has been asked and answered so far, from the outside."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.saving = 0
        self.asked: RequestMemory | None = None
        self.sent = False
        self.withdrawn_at_s: float | None = None
        self.limit_bytes: int | None = None
        self.budget = 0
        self.restarts_used = 0
        self.refused = False
        self.terminated = self.finished = self.fenced = self.failed = False
        self.changed_at_s: float | None = None
        self.quits: list[int] = []

    def before(self, event: Event, at_s: float) -> None:
        """Takes an event in, as the world it comes from would mean it."""
        match event:
            case Started():
                self.limit_bytes, self.budget = event.limit_bytes, event.restarts_left
            case CheckpointCommitted():
                self.saving = 0
                self.sent = self.asked is not None
            case CheckpointFailed():
                self.saving = 0
                self.fenced |= event.fenced
                if not self.sent:
                    self.asked = None
            case ResizeReported() if self.asked is not None:
                self._answered(event)
            case Observed() | LimitChanged():
                self._limit_is(event.limit_bytes, at_s)
            case Terminating():
                self.terminated = True
            case WorkFinished():
                self.finished = True
            case WorkFailed():
                self.failed = True
            case _:
                pass

    def _answered(self, event: ResizeReported) -> None:
        assert self.asked is not None
        ours = event.to_bytes == self.asked.to_bytes or self.withdrawn_at_s is not None
        lost = event.outcome is ResizeOutcome.UNREACHABLE and self.withdrawn_at_s is not None
        if ours and not lost and event.outcome in FINAL_OUTCOMES:
            self.refused |= event.outcome is ResizeOutcome.REFUSED
            self.restarts_used += event.outcome is ResizeOutcome.ACTUATED and self.policy.mode is ResizeMode.RESTART
            self.asked = None

    def _limit_is(self, limit_bytes: int | None, at_s: float) -> None:
        if limit_bytes != self.limit_bytes:
            self.changed_at_s = at_s
            wanted = self.asked
            ours = wanted is not None and limit_bytes is not None and self.sent
            if ours and wanted.to_bytes - 64 * 1024 < limit_bytes <= wanted.to_bytes:
                self.restarts_used += self.policy.mode is ResizeMode.RESTART
                self.asked = None
        self.limit_bytes = limit_bytes

    def after(self, out: tuple[object, ...], at_s: float) -> None:
        """Judges what the machine wants done."""
        saved_here = False
        for instruction in out:
            assert not self.quits, "nothing follows Quit"
            match instruction:
                case Checkpoint():
                    assert self.saving == 0, "two checkpoints outstanding"
                    self.saving, saved_here = 1, True
                case RequestMemory():
                    self._judge_request(instruction, saved_here, at_s)
                case WithdrawResize():
                    if self.asked is not None and not self.sent:
                        self.asked = None
                    self.withdrawn_at_s = at_s
                    assert self.limit_bytes is None or instruction.to_bytes == self.limit_bytes
                case SetWorkers():
                    assert instruction.workers >= self.policy.min_workers
                case SetSliceRows():
                    assert self.policy.min_slice_rows <= instruction.rows <= self.policy.slice_rows
                case Quit():
                    self._judge_quit(instruction, at_s)
                case _:
                    pass
            assert getattr(instruction, "reason", "").strip(), f"{instruction} does not say why"

    def _judge_request(self, request: RequestMemory, saved_here: bool, at_s: float) -> None:
        policy = self.policy
        assert self.asked is None, "two resizes in flight"
        assert saved_here, "the intent goes into a checkpoint of the same step"
        assert policy.mode is not ResizeMode.NONE and policy.max_memory_bytes is not None
        assert request.to_bytes <= policy.max_memory_bytes, "above max_memory"
        assert self.limit_bytes is not None
        assert request.give_back == (request.to_bytes < self.limit_bytes) and request.to_bytes != self.limit_bytes
        assert not self.refused, "refused is refused"
        assert not (self.terminated or self.failed or self.finished), "no request on the way out"
        if policy.mode is ResizeMode.RESTART:
            assert self.restarts_used < self.budget, "more restarts than the budget"
        if self.changed_at_s is not None:
            assert at_s - self.changed_at_s >= policy.cooldown_s, "a PATCH within the cool-down (F27)"
        self.asked, self.sent, self.withdrawn_at_s = request, False, None

    def _judge_quit(self, quit: Quit, at_s: float) -> None:
        self.quits.append(quit.exit_code)
        assert len(self.quits) == 1, "Quit twice"
        if quit.exit_code == 0:
            assert self.finished and not self.failed, "exit 0 with work left"
        in_flight = self.asked is not None and self.sent
        if in_flight and not (self.terminated or self.finished or self.fenced):
            assert self.withdrawn_at_s is not None, "a PATCH, then an exit of one's own (F15)"
            assert at_s - self.withdrawn_at_s >= 0
            waited_s = at_s - self.first_withdrawn_s if self.first_withdrawn_s is not None else 0.0
            assert waited_s >= self.policy.request_deadline_s, "left before the withdrawal was answered"

    first_withdrawn_s: float | None = None


class AnyHistory(RuleBasedStateMachine):
    """Feeds arbitrary events; some are made to fit what was asked, so that the deep paths are reached too."""

    @initialize(
        mode=st.sampled_from(
            [ResizeMode.RESTART, ResizeMode.LIVE, ResizeMode.RESTART, ResizeMode.LIVE, ResizeMode.NONE]
        ),
        max_memory=st.one_of(st.just(2048 * MIB), SIZES, st.none()),
        every=st.sampled_from([None, 0.1, 1.0]),
        limit=st.one_of(SIZES, SIZES, st.none()),
        workers=st.integers(1, 8),
        restarts=st.integers(0, 3),
    )
    def start(
        self,
        mode: ResizeMode,
        max_memory: int | None,
        every: float | None,
        limit: int | None,
        workers: int,
        restarts: int,
    ) -> None:
        self.policy = Policy(mode=mode, max_memory_bytes=max_memory, checkpoint_every_s=every)
        self.at_s = 0.0
        self.limit, self.workers, self.restarts = limit, workers, restarts
        self.new_attempt()

    def new_attempt(self) -> None:
        self.state = machine.initial(self.policy)
        self.judge = Judge(self.policy)
        self.feed(Started(self.at_s, self.limit, self.workers, self.restarts))

    def feed(self, event: Event) -> None:
        frozen = self.state
        self.judge.before(event, event.at_s)
        withdrawn_before = self.judge.withdrawn_at_s
        self.state, out = machine.step(frozen, event, self.policy)
        machine.validate(self.state)
        again = machine.step(frozen, event, self.policy)
        assert again == (self.state, out), "the same history gives the same decisions"
        self.judge.after(out, self.state.at_s)
        if withdrawn_before is None and self.judge.withdrawn_at_s is not None:
            self.judge.first_withdrawn_s = self.judge.withdrawn_at_s
        if self.judge.quits and not isinstance(event, Started):
            assert machine.step(self.state, event, self.policy) == (self.state, ()), "after Quit there is nothing"
            self.new_attempt()

    def later(self, seconds: float) -> float:
        self.at_s += seconds
        return self.at_s

    @rule(
        dt=SECONDS, limit=st.one_of(st.none(), SIZES), keep=st.integers(0, 9), used=BYTES, state=BYTES, projected=BYTES,
        floor=BYTES, unsaved=SECONDS, remaining=st.one_of(st.none(), st.floats(0, 9e4)), spill=SECONDS,
        cost=st.floats(0, 30), thrash=st.floats(0, 1), done=st.integers(0, 5), times=st.integers(1, 4), fixed=st.booleans(),
    )  # fmt: skip
    def observed(
        self, dt: float, limit: int | None, keep: int, used: int, state: int, projected: int, floor: int,
        unsaved: float, remaining: float | None, spill: float, cost: float, thrash: float, done: int, times: int,
        fixed: bool,
    ) -> None:  # fmt: skip
        if keep == 0:
            self.limit = limit
        for _ in range(times):
            event = Observed(
                self.later(dt),
                self.limit,
                used,
                0,
                state,
                projected,
                floor,
                unsaved,
                remaining,
                spill,
                cost,
                thrash,
                done,
                fixed,
            )
            self.feed(event)

    @precondition(lambda self: self.limit is not None)
    @rule(
        dt=SECONDS,
        used=st.floats(0.1, 1.0),
        projected=st.floats(0.1, 3),
        floor=st.floats(0.1, 1.5),
        done=st.integers(0, 2),
    )
    def growing(self, dt: float, used: float, projected: float, floor: float, done: int) -> None:
        """What an honest engine says: figures that fit each other, a few times in a row."""
        assert self.limit is not None
        peak, least = int(projected * self.limit), int(floor * self.limit)
        for _ in range(3):
            now = int(used * self.limit)
            self.feed(
                Observed(self.later(dt), self.limit, now, 0, now // 2, peak, least, 0.5, 700.0, 60.0, 1.0, 0.0, done)
            )

    @precondition(lambda self: self.limit is not None)
    @rule(waited=st.sampled_from([0.0, 11.0, 400.0]), times=st.floats(1.2, 5), committed=st.integers(0, 3))
    def pressed(self, waited: float, times: float, committed: int) -> None:
        """A need beyond doubt, after a wait that ends most cool-downs: whoever may ask, asks."""
        assert self.limit is not None
        if self.judge.saving:
            self.committed(0.1, 0.1)
        need = int(times * self.limit)
        self.later(waited)
        for _ in range(3):
            self.feed(Observed(self.later(0.1), self.limit, need // 9, 0, 0, need, need, 0.0, None, 60.0, 1.0, 0.0, 1))
        if self.judge.saving and committed:
            self.committed(0.1, 0.1)

    @precondition(lambda self: self.judge.asked is not None and self.judge.sent)
    @rule(dt=st.floats(0, 1), chance=st.integers(0, 3), code=st.sampled_from([0, 65]), again=st.floats(0, 20))
    def work_failed_in_flight(self, dt: float, chance: int, code: int, again: float) -> None:
        if chance == 0:
            self.feed(WorkFailed(self.later(dt), code, "column x is missing"))
            self.feed(WorkFinished(self.later(again)))

    @rule(dt=SECONDS, tries=st.integers(1, 9), floor=st.booleans(), needed=BYTES, times=st.sampled_from([1, 1, 2, 20]))
    def allocation_failed(self, dt: float, tries: int, floor: bool, needed: int, times: int) -> None:
        for n in range(times):
            rows = self.state.slice_rows if floor else self.policy.slice_rows
            self.feed(AllocationFailed(self.later(dt), "lineitem 7", tries + n, rows, needed))

    @precondition(lambda self: self.judge.saving)
    @rule(dt=st.floats(0, 3), seconds=st.floats(0, 5))
    def committed(self, dt: float, seconds: float) -> None:
        self.feed(CheckpointCommitted(self.later(dt), 1, seconds, 1000, "interval"))

    @rule(dt=st.floats(0, 3), chance=st.integers(0, 5), fenced=st.integers(0, 30))
    def save_failed(self, dt: float, chance: int, fenced: int) -> None:
        if self.judge.saving or chance == 0:
            self.feed(CheckpointFailed(self.later(dt), "No space left on device", fenced == 0))

    @rule(
        dt=SECONDS,
        outcome=st.sampled_from(ResizeOutcome),
        ours=st.integers(0, 5),
        size=SIZES,
        most=st.one_of(st.none(), SIZES),
    )
    def reported(self, dt: float, outcome: ResizeOutcome, ours: int, size: int, most: int | None) -> None:
        asked = self.judge.asked
        if asked is not None and ours:
            size = asked.to_bytes
        self.feed(ResizeReported(self.later(dt), outcome, size, "the node says so", most))

    @precondition(lambda self: self.judge.asked is not None and self.judge.sent)
    @rule(dt=st.floats(0, 3), slack=st.integers(0, 4096))
    def granted(self, dt: float, slack: int) -> None:
        assert self.judge.asked is not None
        self.limit = self.judge.asked.to_bytes - slack
        self.feed(LimitChanged(self.later(dt), self.limit))

    @rule(dt=SECONDS, chance=st.integers(0, 3), size=st.one_of(st.none(), SIZES))
    def limit_changed(self, dt: float, chance: int, size: int | None) -> None:
        if chance == 0:
            self.limit = size
            self.feed(LimitChanged(self.later(dt), size))

    @rule(dt=SECONDS, chance=st.integers(0, 9), grace=st.sampled_from([0.0, 0.5, 20.0, 30.0]))
    def terminating(self, dt: float, chance: int, grace: float) -> None:
        if chance == 0:
            self.feed(Terminating(self.later(dt), "SIGTERM", grace))

    @precondition(lambda self: self.judge.terminated or self.state.ending is not None)
    @rule(dt=SECONDS)
    def drained(self, dt: float) -> None:
        self.feed(Drained(self.later(dt)))

    @rule(dt=SECONDS, chance=st.integers(0, 30))
    def finished(self, dt: float, chance: int) -> None:
        if chance == 0:
            self.feed(WorkFinished(self.later(dt)))

    @rule(dt=SECONDS, chance=st.integers(0, 20), code=st.sampled_from([0, 1, 65, 78]))
    def work_failed(self, dt: float, chance: int, code: int) -> None:
        if chance == 0:
            self.feed(WorkFailed(self.later(dt), code, "column x is missing"))

    @invariant()
    def story_is_bounded(self) -> None:
        if hasattr(self, "state"):
            assert len(machine.story(self.state)) <= 64


AnyHistory.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestAnyHistory = AnyHistory.TestCase


@pytest.mark.parametrize("seed", range(40))
def test_long_histories_that_ask_often(seed: int) -> None:
    """The same rules with loaded dice: most of the time somebody asks, answers, refuses or fails."""
    dice = random.Random(seed)
    run = AnyHistory()
    mode = dice.choice([ResizeMode.RESTART, ResizeMode.LIVE])
    most = dice.choice([2048, 1024, 640]) * MIB
    run.start(
        mode, most, dice.choice([None, 1.0]), dice.choice([128, 192, 512]) * MIB, dice.randint(1, 4), dice.randint(0, 3)
    )
    for _ in range(150):
        soon, late = dice.uniform(0, 1), dice.choice([0.0, 1.0, 12.0, 80.0, 400.0])
        in_flight = run.judge.asked is not None and run.judge.sent
        if run.judge.saving and dice.random() < 0.5:
            run.committed(soon, dice.uniform(0, 1))
        elif in_flight and dice.random() < 0.3:
            if dice.random() < 0.2:
                run.granted(soon, dice.choice([0, 4000]))
            else:
                run.reported(soon, dice.choice(list(ResizeOutcome)), 1, most, dice.choice([None, most]))
        elif in_flight and dice.random() < 0.1:
            run.work_failed_in_flight(soon, 0, dice.choice([0, 65]), late / 10)
        else:
            deed = dice.choice(["press", "press", "grow", "fail", "save", "end", "limit"])
            if deed == "press" and run.limit is not None:
                run.pressed(late, dice.uniform(1.2, 5), dice.randint(0, 3))
            elif deed == "grow" and run.limit is not None:
                run.growing(soon, dice.uniform(0.1, 1), dice.uniform(0.1, 3), dice.uniform(0.1, 1.5), 1)
            elif deed == "fail":
                run.allocation_failed(soon, 1, True, dice.randint(0, 900) * MIB, dice.choice([1, 3, 25]))
            elif deed == "save":
                run.save_failed(soon, dice.randint(0, 3), dice.randint(0, 9))
            elif deed == "end" and dice.random() < 0.1:
                run.terminating(soon, 0, 20.0)
            elif deed == "end" and dice.random() < 0.1:
                run.finished(soon, 0)
            elif deed == "limit" and dice.random() < 0.2:
                run.limit_changed(soon, 0, dice.choice([None, 96 * MIB, 256 * MIB, 1024 * MIB]))


def test_the_judge_can_find_someone_guilty() -> None:
    """Each law's check fails on a history that breaks it."""
    policy = Policy(mode=ResizeMode.RESTART, max_memory_bytes=512 * MIB)

    def judge() -> Judge:
        made = Judge(policy)
        made.before(Started(0.0, 192 * MIB, 2, 1), 0.0)
        return made

    ask = (Checkpoint("resize"), RequestMemory(256 * MIB, "more"))
    guilty: list[tuple[tuple[object, ...], ...]] = [
        ((Checkpoint("a"),), (Checkpoint("b"),)),
        ((RequestMemory(256 * MIB, "no intent"),),),
        (ask, ask),
        ((Checkpoint("a"), RequestMemory(600 * MIB, "too much")),),
        ((Checkpoint("a"), RequestMemory(128 * MIB, "less, unsaid")),),
        ((Quit(0, "work is left"),),),
        ((Quit(75, "once"),), (Quit(75, "twice"),)),
        ((Checkpoint(" "),),),
    ]
    for steps in guilty:
        made = judge()
        with pytest.raises(AssertionError):
            for out in steps:
                made.after(out, 1.0)
    made = judge()
    made.after(ask, 1.0)
    made.before(CheckpointCommitted(2.0, 1, 0.1, 10, "resize"), 2.0)
    with pytest.raises(AssertionError, match="F15"):
        made.after((Quit(78, "by myself"),), 3.0)


def test_validate_sees_impossible_states() -> None:
    from dataclasses import replace

    from etlkit.decide.state import Ending, Request, Saving

    good = machine.initial(Policy())
    machine.validate(good)
    impossible = [
        replace(good, workers=0),
        replace(good, restarts_left=-1),
        replace(good, request=Request(256 * MIB, 192 * MIB, 0.0)),
        replace(good, request=Request(192 * MIB, 192 * MIB, 0.0, sent=True)),
        replace(good, request=Request(128 * MIB, 192 * MIB, 0.0, sent=True)),
        replace(good, request=Request(256 * MIB, 192 * MIB, 0.0, sent=True, outcome=ResizeOutcome.WITHDRAWN)),
        replace(good, saving=Saving(0.0, final=True)),
        replace(good, ending=Ending(0, "x", "draining", 1.0)),
        replace(good, ending=Ending(65, "x", "withdrawing", 1.0)),
        replace(good, checkpoint_failures=3),
    ]
    for state in impossible:
        with pytest.raises(AssertionError):
            machine.validate(state)
    assert {field.name for field in fields(good)} >= {"request", "saving", "ending", "over"}
