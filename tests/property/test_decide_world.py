"""The machine in an honest world: a job, a process with memory and a wall, a kubelet. It must end, unkilled, in few resizes.

The simulator is small and exact: a tick is 0.1 s, memory is a base, state that grows with each split, and what the running
splits hold. The wall turns an allocation that does not fit into AllocationFailed; in a world without a wall it is a kill.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etlkit.decide import machine
from etlkit.decide.events import (
    AllocationFailed,
    CheckpointCommitted,
    Drained,
    Event,
    LimitChanged,
    Observed,
    ResizeMode,
    ResizeOutcome,
    ResizeReported,
    Started,
    Terminating,
    WorkFinished,
)
from etlkit.decide.instructions import (
    Checkpoint,
    Drain,
    Quit,
    RequestMemory,
    SetSliceRows,
    SetWorkers,
    WithdrawResize,
)
from etlkit.decide.policy import Policy
from etlkit.units import MIB

TICK_S = 0.1
GRACE_S = 20.0


@dataclass(frozen=True)
class Job:
    splits: int
    split_s: float
    rows: int
    row_bytes: int
    """Held while a split runs, for each row of a slice."""
    fixed_bytes: int
    """Held while a split runs, whatever its slice."""
    growth_bytes: int
    """State that a finished split adds."""
    surprise: float
    """What a split really holds, over what was forecast."""
    author: bool = False
    """It has an author's function: the slices are as planned, whatever the machine says."""
    base_bytes: int = 60 * MIB

    def working_bytes(self, slice_rows: int) -> int:
        rows = Policy().slice_rows if self.author else slice_rows
        return self.fixed_bytes + min(self.rows, rows) * self.row_bytes

    def least_bytes(self, policy: Policy) -> int:
        """What one worker really holds at the smallest slice."""
        return self.base_bytes + int(self.working_bytes(policy.min_slice_rows) * self.surprise)


@dataclass(frozen=True)
class Kubelet:
    """How it answers a request."""

    answer: str
    """``grant``, ``defer`` (then grant after ``after_s``), ``never`` (deferred for ever), ``infeasible`` (above ``room``),
    ``refuse``, ``unreachable``."""
    after_s: float = 20.0
    room_bytes: int = 512 * MIB
    says_most: bool = False
    """A refusal names the room."""


@dataclass
class World:
    job: Job
    kubelet: Kubelet
    policy: Policy
    limit_bytes: int
    workers: int = 2
    backoff_limit: int = 6
    wall: bool = True

    at_s: float = 0.0
    done: int = 0
    restarts: int = 0
    resizes: list[int] = field(default_factory=list)
    killed: int = 0
    failures: int = 0
    exit_code: int | None = None
    last_words: str = ""
    pending: tuple[float, int] | None = None
    """The wanted size at the API server, and when the kubelet will take it."""

    def run(self, longest_s: float = 4000.0) -> World:
        while self.exit_code is None or self.exit_code in (75, 137):
            if self.restarts > self.backoff_limit:
                break
            _Process(self).live(longest_s)
            self.restarts += 1
            assert self.at_s < longest_s, f"it does not end: {self.last_words}"
        return self


class _Process:
    """One attempt."""

    def __init__(self, world: World) -> None:
        self.world, self.policy, self.job = world, world.policy, world.job
        self.state = machine.initial(world.policy)
        self.most, self.rows = world.workers, world.policy.slice_rows
        self.running: list[list[float]] = []  # [ends at, bytes, slice rows]
        self.unsaved = self.finished = 0
        self.memory_state = 0
        self.saving: tuple[float, Checkpoint, int, int] | None = None
        self.intent: RequestMemory | None = None
        self.draining = self.told_drained = False
        self.drain_by_s = 0.0
        self.saved_at_s = world.at_s
        self.tries = 0
        self.retry_at_s = 0.0
        self.answers: list[tuple[float, ResizeReported]] = []
        self.quit: Quit | None = None

    @property
    def used_bytes(self) -> int:
        return int(self.job.base_bytes + self.memory_state + sum(split[1] for split in self.running))

    def feed(self, event: Event) -> None:
        self.state, out = machine.step(self.state, event, self.policy)
        machine.validate(self.state)
        for instruction in out:
            assert self.quit is None
            self.obey(instruction)

    def obey(self, instruction: object) -> None:
        world = self.world
        match instruction:
            case SetWorkers():
                self.most = instruction.workers
            case SetSliceRows():
                self.rows = instruction.rows
            case Checkpoint():
                assert self.saving is None
                takes_s = 0.02 + self.memory_state / (400 * MIB)
                self.saving = (world.at_s + takes_s, instruction, self.unsaved, self.memory_state)
            case RequestMemory():
                self.intent = instruction
            case WithdrawResize():
                self.withdraw(instruction.to_bytes)
            case Drain():
                self.draining, self.drain_by_s = True, instruction.deadline_s
            case Quit():
                self.quit = instruction
            case _:
                pass

    def patch(self, to_bytes: int) -> None:
        world, kubelet, now_s = self.world, self.world.kubelet, self.world.at_s
        answer = kubelet.answer
        if answer == "infeasible":
            answer = "grant" if to_bytes <= kubelet.room_bytes else answer
        if answer == "grant":
            world.pending = (now_s + 0.2, to_bytes)
            self.tell(0.1, ResizeOutcome.IN_PROGRESS, to_bytes)
        elif answer in ("defer", "never"):
            world.pending = (now_s + kubelet.after_s if answer == "defer" else 1e12, to_bytes)
            self.tell(0.1, ResizeOutcome.DEFERRED, to_bytes)
        else:
            outcome = {
                "infeasible": ResizeOutcome.INFEASIBLE,
                "refuse": ResizeOutcome.REFUSED,
                "unreachable": ResizeOutcome.UNREACHABLE,
            }[answer]
            self.tell(0.1, outcome, to_bytes)

    def withdraw(self, to_bytes: int) -> None:
        self.intent = None
        self.world.pending = None
        self.answers.clear()
        self.tell(0.1, ResizeOutcome.WITHDRAWN, to_bytes)

    def tell(self, after_s: float, outcome: ResizeOutcome, to_bytes: int) -> None:
        at_s = self.world.at_s + after_s
        kubelet = self.world.kubelet
        most = kubelet.room_bytes if kubelet.says_most and outcome is ResizeOutcome.INFEASIBLE else None
        self.answers.append((at_s, ResizeReported(at_s, outcome, to_bytes, f"the node says {outcome}", most)))

    def live(self, longest_s: float) -> None:
        world = self.world
        left = max(0, world.backoff_limit - 1 - world.restarts) if self.policy.mode is ResizeMode.RESTART else 10**6
        self.feed(Started(world.at_s, world.limit_bytes, world.workers, left))
        while self.quit is None and world.at_s < longest_s:
            world.at_s += TICK_S
            for act in (self.kubelet_acts, self.checkpoint_ends, self.answers_arrive, self.work, self.look):
                if self.quit is None:
                    act()
                if world.exit_code == 137:
                    world.exit_code = None
                    return
        assert self.quit is not None, f"no end: {machine.story(self.state)[-5:]}"
        world.exit_code, world.last_words = self.quit.exit_code, self.quit.reason
        if self.quit.exit_code == 0:
            assert world.done == self.job.splits, "exit 0 with work left"
        if world.pending is not None and world.pending[0] <= world.at_s and self.policy.mode is ResizeMode.RESTART:
            world.limit_bytes = world.pending[1]
            world.resizes.append(world.limit_bytes)
            world.pending = None

    def kubelet_acts(self) -> None:
        world = self.world
        if world.pending is None or world.at_s < world.pending[0]:
            return
        if self.policy.mode is ResizeMode.RESTART:
            if not self.draining:
                self.feed(Terminating(world.at_s, "SIGTERM", GRACE_S))
            return
        world.limit_bytes = world.pending[1]
        world.resizes.append(world.limit_bytes)
        world.pending = None
        self.feed(LimitChanged(world.at_s, world.limit_bytes))
        self.tell(0.05, ResizeOutcome.ACTUATED, world.limit_bytes)

    def checkpoint_ends(self) -> None:
        world = self.world
        if self.saving is None or world.at_s < self.saving[0]:
            return
        _, what, splits, state_bytes = self.saving
        self.saving = None
        world.done += splits
        self.unsaved -= splits
        if what.spill:
            self.memory_state -= state_bytes
        self.saved_at_s = world.at_s
        if self.intent is not None:
            self.patch(self.intent.to_bytes)
            self.intent = None
        self.feed(CheckpointCommitted(world.at_s, 1, 0.02 + state_bytes / (400 * MIB), state_bytes + 1000, what.reason))

    def answers_arrive(self) -> None:
        for answer in [a for a in self.answers if a[0] <= self.world.at_s]:
            if answer in self.answers and self.quit is None:
                self.answers.remove(answer)
                self.feed(answer[1])

    def work(self) -> None:
        world, job = self.world, self.job
        for split in [s for s in self.running if s[0] <= world.at_s]:
            self.running.remove(split)
            self.unsaved += 1
            self.finished += 1
            self.tries = 0
            self.memory_state += job.growth_bytes
        if self.used_bytes > world.limit_bytes:
            world.killed += 1
            world.exit_code = 137
            return
        if self.draining:
            if world.at_s >= self.drain_by_s:
                self.running.clear()
            if not self.running and not self.told_drained:
                self.told_drained = True
                self.feed(Drained(world.at_s))
            return
        if world.done == job.splits:
            self.feed(WorkFinished(world.at_s))
            return
        if world.done + self.unsaved == job.splits and self.saving is None and not self.running:
            # The last commit is the runtime's: publication.
            world.done, self.unsaved = job.splits, 0
            return
        while len(self.running) < self.most and world.at_s >= self.retry_at_s and self.quit is None:
            if world.done + self.unsaved + len(self.running) >= job.splits or not self.start_one():
                return

    def start_one(self) -> bool:
        world, job = self.world, self.job
        forecast = job.working_bytes(self.rows)
        room = world.limit_bytes - self.used_bytes
        if self.running and forecast > room:
            return False  # the ledger: no split starts without room beside others
        really = int(forecast * job.surprise)
        # The wall also keeps room for the state that the running splits will leave.
        if self.world.wall and really + job.growth_bytes * (len(self.running) + 1) > room - 2 * MIB:
            self.tries += 1
            world.failures += 1
            self.retry_at_s = world.at_s + 0.2
            self.feed(AllocationFailed(world.at_s, f"split {world.done}", self.tries, self.rows, really))
            return False
        slower = 1 + 0.1 * max(0, (job.rows // max(1, self.rows)) ** 0.5 - 1)
        self.running.append([world.at_s + job.split_s * slower, really, self.rows])
        return True

    def look(self) -> None:
        world, job, policy = self.world, self.job, self.policy
        left = job.splits - world.done - self.unsaved
        peak = self.used_bytes + left * job.growth_bytes
        over = max(0, peak - world.limit_bytes)
        self.feed(
            Observed(
                world.at_s,
                world.limit_bytes,
                self.used_bytes,
                self.used_bytes,
                self.memory_state,
                peak,
                job.base_bytes + job.working_bytes(policy.min_slice_rows),
                world.at_s - self.saved_at_s,
                left * job.split_s / max(1, self.most),
                over * 3 / (200 * MIB),
                1.0 if policy.mode is ResizeMode.RESTART else 0.1,
                0.0,
                self.finished,
                job.author,
            )
        )


JOBS = st.builds(
    Job,
    splits=st.integers(1, 120),
    split_s=st.floats(0.05, 1.5),
    rows=st.sampled_from([1_000, 65_536, 500_000]),
    row_bytes=st.integers(10, 1500),
    fixed_bytes=st.integers(0, 24).map(lambda n: n * MIB),
    growth_bytes=st.integers(0, 8 * MIB),
    surprise=st.sampled_from([1.0, 1.0, 1.3, 2.0]),
    author=st.sampled_from([False, False, True]),
)
ANSWERS = ["grant", "defer", "never", "infeasible", "refuse", "unreachable"]


def make(job: Job, answer: str, mode: ResizeMode, limit_mib: int, **more: object) -> World:
    policy = Policy(mode=mode, max_memory_bytes=2048 * MIB)
    return World(job, Kubelet(answer), policy, limit_mib * MIB, **more)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    JOBS, st.sampled_from(ANSWERS), st.sampled_from(list(ResizeMode)), st.integers(96, 600), st.integers(1, 4),
    st.integers(0, 6), st.booleans(),
)  # fmt: skip
def test_it_always_ends(
    job: Job, answer: str, mode: ResizeMode, limit_mib: int, workers: int, backoff_limit: int, says_most: bool
) -> None:
    """Whatever the cluster answers: no kill, an honest code, no more resizes than the Job's budget; done if it fits."""
    world = make(job, answer, mode, limit_mib, workers=workers, backoff_limit=backoff_limit)
    world.kubelet = replace(world.kubelet, says_most=says_most)
    world.run()
    assert world.killed == 0
    assert world.exit_code in (0, 75, 77, 78)
    assert world.exit_code != 0 or world.done == job.splits
    assert world.exit_code != 77 or answer in ("infeasible", "refuse"), "77 is the cluster's no"
    if mode is ResizeMode.RESTART:
        assert len(world.resizes) <= max(0, backoff_limit - 1)
    assert all(size <= 2048 * MIB for size in world.resizes)
    room = limit_mib * MIB - 3 * MIB
    fits = job.least_bytes(world.policy) + job.growth_bytes
    if fits <= room:
        assert world.exit_code == 0, f"it fits ({fits} of {room}) and stopped: {world.last_words}"
    elif answer == "grant" and (mode is ResizeMode.LIVE or (mode is ResizeMode.RESTART and backoff_limit >= 3)):
        assert world.exit_code == 0, world.last_words
    elif world.exit_code in (77, 78):
        assert "bytes" in world.last_words


@pytest.mark.parametrize("mode", [ResizeMode.RESTART, ResizeMode.LIVE])
def test_few_resizes_are_enough(mode: ResizeMode) -> None:
    """Over jobs of many shapes, at most 1.5 resizes on average, and hardly any job needs three."""
    dice = random.Random(7)
    counts = []
    for _ in range(60):
        job = Job(
            splits=dice.randint(5, 100),
            split_s=dice.uniform(0.1, 1.0),
            rows=dice.choice([65_536, 500_000]),
            row_bytes=dice.randint(10, 1000),
            fixed_bytes=dice.randint(0, 16) * MIB,
            growth_bytes=dice.randint(0, 6 * MIB),
            surprise=dice.choice([1.0, 1.2, 1.6]),
        )
        world = make(job, "grant", mode, dice.choice([96, 128, 192, 256, 384, 600])).run()
        assert (world.exit_code, world.killed) == (0, 0), world.last_words
        counts.append(len(world.resizes))
    assert sum(counts) / len(counts) <= 1.5, counts
    assert max(counts) <= 3, counts
    assert sum(counts) > 0


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.integers(20, 120), st.floats(0.1, 1.0), st.integers(0, 3 * MIB), st.sampled_from(ANSWERS),
    st.sampled_from(list(ResizeMode)), st.integers(160, 400),
)  # fmt: skip
def test_without_a_wall_growing_state_is_seen_in_time(
    splits: int, split_s: float, growth: int, answer: str, mode: ResizeMode, limit_mib: int
) -> None:
    """A kill is what the forecast and the levels alone prevent here; splits are small and known."""
    job = Job(splits, split_s, 65_536, 40, 2 * MIB, growth, surprise=1.0)
    world = make(job, answer, mode, limit_mib, wall=False).run()
    assert (world.killed, world.exit_code) == (0, 0), world.last_words
