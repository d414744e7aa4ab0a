"""What the machine remembers between two events, and what must always hold of it.

Everything is frozen; ``replace`` makes the next state. Nothing here decides anything.
"""

from __future__ import annotations

from ..lazyclass import dataclass
from .events import FINAL_OUTCOMES, Observed, ResizeOutcome
from .instructions import Instruction, Level
from .policy import Policy

STORY_LENGTH = 64
MEASURED = 8
"""How many checkpoint durations are remembered."""
PATIENCE_S = 5.0
"""How long it must be calm before a setting is raised again; it doubles each time that was too early."""
MOST_FAILURES = 3
"""Checkpoints that may fail in a row before the run ends."""


@dataclass(frozen=True, slots=True)
class Request:
    """The one resize in flight."""

    to_bytes: int
    from_bytes: int
    asked_at_s: float
    give_back: bool = False
    sent: bool = False
    """False until the checkpoint with the intent is committed: the PATCH has not been sent."""
    outcome: ResizeOutcome = ResizeOutcome.REQUESTED
    message: str = ""
    waiting_since_s: float | None = None
    """Since when it is known not to come at once: Deferred, failing or stuck."""
    withdrawn_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Saving:
    """The one checkpoint that is being written."""

    since_s: float
    final: bool = False
    spill: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """The way out has begun; only its steps are left."""

    exit_code: int
    reason: str
    stage: str
    """``withdrawing``, ``draining``, then ``saving``."""
    quit_by_s: float
    """The process ends by then, whatever is still missing."""
    drain_by_s: float = 0.0
    terminated: bool = False
    """A signal has come. Leaving is then what is expected, also with a resize in flight (F2)."""
    failed: bool = False
    """The job itself cannot go on; no later news makes it a success."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who said no last, and whether asking again later makes sense."""

    who: str
    passes: bool
    forever: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    at_s: float
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class State:
    workers: int
    most_workers: int
    slice_rows: int
    at_s: float = 0.0
    started_at_s: float = 0.0
    limit_bytes: int | None = None
    restarts_left: int = 0
    learned_bytes: int = 0
    """What the run before came to need, until it was asked for, once."""
    seen: Observed | None = None
    """The newest observation."""

    level: Level = Level.CALM
    """What people are shown: pressure, or tight when the forecast is."""
    pressure: Level = Level.CALM
    """What memory in use and thrashing say, now."""
    calm_since_s: float | None = None
    patience_s: float = PATIENCE_S
    raised: bool = False
    """The newest change of a setting was one up."""
    settle_until_s: float = 0.0
    """The last relief is given until then to work."""
    settle_by_s: float = 0.0
    settle_splits: int = 0
    """A smaller setting works only on splits that start later: until so many are done, or ``settle_by_s``, it is waited."""
    released_at_s: float | None = None
    short_until_s: float = 0.0
    """An allocation failed a moment ago: until then nobody is told that memory is calm."""
    floor_tries: int = 0
    """Allocations that failed at the smallest settings, with nothing getting done in between."""
    needed_bytes: int = 0
    """What failed allocations have shown to be needed in all; 0 when there were none at this limit."""

    saving: Saving | None = None
    durations_s: tuple[float, ...] = ()
    saved_at_s: float | None = None
    checkpoint_failures: int = 0
    retry_save_at_s: float = 0.0

    request: Request | None = None
    want_ticks: int = 0
    """Observations in a row that spoke for asking."""
    quiet_until_s: float = 0.0
    refused_bytes: int | None = None
    """The smallest size that was refused at this limit."""
    most_bytes: int | None = None
    """What a refusal said could be had; no more than that is asked for at this limit."""
    refusal: Refusal | None = None
    unreachable: int = 0
    gave_back: bool = False

    ending: Ending | None = None
    over: bool = False
    story: tuple[Decision, ...] = ()


Step = tuple[State, tuple[Instruction, ...]]


def initial(policy: Policy) -> State:
    return State(workers=policy.min_workers, most_workers=policy.min_workers, slice_rows=policy.slice_rows)


def thinnest(state: State, policy: Policy) -> bool:
    """Slices can't get smaller: they are the smallest, or an author's function gets the same ones always."""
    fixed = state.seen is not None and state.seen.slices_fixed
    return fixed or state.slice_rows <= policy.min_slice_rows


def at_floor(state: State, policy: Policy) -> bool:
    """Nothing can be made smaller any more."""
    return state.workers <= policy.min_workers and thinnest(state, policy)


def validate(state: State) -> None:
    """Raises AssertionError on a state that no history may lead to."""
    assert 1 <= state.workers <= max(state.most_workers, state.workers), "workers"
    assert state.slice_rows >= 1, "slice rows"
    assert state.restarts_left >= 0, "restarts"
    assert state.limit_bytes is not None or state.pressure is Level.CALM, "without a limit there is no pressure"
    assert state.pressure is not Level.CRITICAL or state.level is Level.CRITICAL, (
        "the level shown is never below the pressure"
    )
    assert len(state.story) <= STORY_LENGTH and len(state.durations_s) <= MEASURED, "what is remembered is bounded"
    assert 0 <= state.checkpoint_failures <= MOST_FAILURES, "failures"
    request, saving, ending = state.request, state.saving, state.ending
    if request is not None and not state.over:
        assert request.outcome not in FINAL_OUTCOMES, "a request that ended is not in flight"
        assert request.to_bytes > 0 and request.to_bytes != request.from_bytes, "a request changes the size"
        assert request.give_back == (request.to_bytes < request.from_bytes), "only giving back makes it smaller"
        assert request.sent or (saving is not None and not saving.final), "the intent is written before the PATCH"
        assert request.sent or request.withdrawn_at_s is None, "what was not sent is not withdrawn"
    if ending is not None:
        assert ending.stage in ("withdrawing", "draining", "saving"), "stage"
        assert ending.exit_code != 0, "only finished work exits 0"
        if ending.stage == "withdrawing" and not state.over:
            assert request is not None and request.withdrawn_at_s is not None, "withdrawing something"
            assert not ending.terminated, "a signal ends the wait"
        assert request is None or request.sent or state.over, "the way out sends no PATCH"
    if saving is not None and saving.final:
        assert ending is not None and ending.stage == "saving", "the final checkpoint belongs to the end"
    if state.checkpoint_failures >= MOST_FAILURES:
        assert state.over or ending is not None, "too many failures end the run"


def story(state: State) -> tuple[str, ...]:
    """The last decisions as lines, oldest first."""
    return tuple(
        f"{decision.at_s:10.3f}  {type(decision.instruction).__name__}: {decision.instruction.reason}"
        for decision in state.story
    )
