"""Asking for memory: whether, how much, and what follows from the answer.

**Necessary** is what the inelastic need asks for: the job can't go on within the limit. **Worth while** is decided by
cost: spilling against resizing. One request is in flight at most, and its intent is in a checkpoint before it is sent.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..lazyclass import dataclass
from ..units import format_bytes, format_seconds
from . import ladder, saving, sizing
from .events import ResizeMode
from .instructions import Instruction, Level, ReleasePools, RequestMemory
from .policy import Policy
from .state import Request, State, Step

STEADY_TICKS = 3
"""A forecast must say the same this often in a row while there is still room to wait."""
MOST_UNREACHABLE = 3
GIVE_BACK_AFTER_S = 30.0
"""A forecast younger than this gives nothing back."""


@dataclass(frozen=True, slots=True)
class Wish:
    projected_bytes: int
    floor_bytes: int
    reason: str
    to_bytes: int


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why nothing can be asked for now."""

    reason: str
    until_s: float | None
    """When it passes; None: not in this attempt."""


def hindrance(state: State, policy: Policy) -> Hindrance | None:
    if policy.mode is ResizeMode.NONE:
        return Hindrance("there is nobody to ask for more memory here", None)
    if policy.max_memory_bytes is None:
        return Hindrance("no max_memory is set, so none is asked for", None)
    if state.limit_bytes is None:
        return Hindrance("there is no memory limit to raise", None)
    if state.refusal is not None and state.refusal.forever:
        return Hindrance(f"asking was refused: {state.refusal.who}", None)
    if policy.mode is ResizeMode.RESTART and state.restarts_left <= 0:
        return Hindrance("the Job allows no more restarts for resizes (see backoffLimit)", None)
    if state.unreachable >= MOST_UNREACHABLE:
        return Hindrance(f"the API server could not be reached {state.unreachable} times", None)
    if state.at_s < state.quiet_until_s:
        why = state.refusal.who if state.refusal is not None else "a limit changed or a request ended just now"
        return Hindrance(why, state.quiet_until_s)
    if state.retry_save_at_s > state.at_s:
        return Hindrance("the last checkpoint failed, and the intent must be in one", state.retry_save_at_s)
    if state.request is not None or not saving.may_save(state):
        return Hindrance("a request or a checkpoint is under way", state.at_s)
    return None


def affordable(projected_bytes: int, floor_bytes: int, state: State, policy: Policy) -> int | None:
    """The size to ask for; below what was refused already, if that still helps."""
    if state.limit_bytes is None:
        return None
    size = sizing.target(projected_bytes, floor_bytes, state.limit_bytes, policy, state.most_bytes)
    if size is None or state.refused_bytes is None or size < state.refused_bytes:
        return size
    cap_bytes = sizing.below_refused(state.refused_bytes, state.limit_bytes, policy)
    return sizing.target(projected_bytes, floor_bytes, state.limit_bytes, policy, cap_bytes)


def wish(state: State, policy: Policy) -> Wish | None:
    """What would be asked for if nothing hindered it."""
    seen, limit_bytes = state.seen, state.limit_bytes
    if limit_bytes is None:
        return None
    limit = format_bytes(limit_bytes)
    if state.needed_bytes:
        need = state.needed_bytes
        words = f"allocations fail at the limit of {limit}; {format_bytes(need)} are needed"
        projected = max(need, seen.projected_bytes if seen is not None else 0)
        # The need is an estimate and smaller slices need less: whatever the cap allows is worth a try.
        return _sized(state, policy, projected, 0, words)
    if seen is None:
        return None
    if (known := sizing.known(state.learned_bytes, limit_bytes, policy)) is not None:
        words = f"the run before came to need {format_bytes(state.learned_bytes)}; the limit is {limit}"
        return Wish(known, 0, words, known)
    floor_bytes, projected = seen.floor_bytes, max(seen.projected_bytes, seen.floor_bytes)
    if floor_bytes > policy.critical * limit_bytes:
        words = f"even one worker with all state spilled needs {format_bytes(floor_bytes)}; the limit is {limit}"
        return _sized(state, policy, projected, floor_bytes, words)
    if state.pressure is Level.CRITICAL and ladder.exhausted(state, policy) and ladder.settled(state):
        words = f"{ladder.use(state)} with one worker, the smallest slices and nothing left to spill"
        return _sized(state, policy, max(projected, seen.used_bytes), floor_bytes, words)
    if projected <= policy.tight * limit_bytes:
        return None
    if seen.remaining_s is not None and seen.remaining_s <= seen.resize_cost_s:
        return None  # the job ends before a resize is through
    found = _sized(state, policy, projected, floor_bytes, "")
    if found is None:
        return None
    # A capped size saves only its share of the spilling.
    share = (
        min(1.0, (found.to_bytes - limit_bytes) / max(1, projected - limit_bytes)) if projected > limit_bytes else 1.0
    )
    if seen.spill_cost_s * share <= seen.resize_cost_s:
        return None
    if math.isinf(seen.spill_cost_s):  # not an etlkit job: nothing can be spilled, and its end is not known
        words = f"memory is about to reach {format_bytes(projected)}; the limit is {limit}"
        return replace(found, reason=words)
    spilling, resizing = format_seconds(seen.spill_cost_s * share), format_seconds(seen.resize_cost_s)
    what = "a restart" if policy.mode is ResizeMode.RESTART else "a live resize"
    words = (
        f"memory is forecast to reach {format_bytes(projected)} by the end; the limit is {limit}; "
        f"spilling would cost {spilling}, {what} {resizing}"
    )
    return replace(found, reason=words)


def _sized(state: State, policy: Policy, projected_bytes: int, floor_bytes: int, reason: str) -> Wish | None:
    size = affordable(projected_bytes, floor_bytes, state, policy)
    return None if size is None else Wish(projected_bytes, floor_bytes, reason, size)


def consider(state: State, policy: Policy, *, at_once: bool = False) -> Step:
    """Ask if there is reason to and nothing hinders it; otherwise see whether some can be given back."""
    if state.ending is not None:
        return state, ()
    wanted = wish(state, policy)
    if wanted is None:
        return _consider_giving_back(replace(state, want_ticks=0) if state.want_ticks else state, policy)
    if state.want_ticks < STEADY_TICKS:
        state = replace(state, want_ticks=state.want_ticks + 1)
    if hindrance(state, policy) is not None:
        return state, ()
    if state.want_ticks < STEADY_TICKS and state.pressure is Level.CALM and not at_once:
        return state, ()
    return _ask(state, wanted.to_bytes, wanted.reason)


def _ask(state: State, to_bytes: int, reason: str) -> Step:
    limit_bytes = state.limit_bytes
    assert limit_bytes is not None
    change = f"{format_bytes(limit_bytes)} to {format_bytes(to_bytes)}"
    state, out = saving.begin(state, f"resize: {change}", spill=ladder.spill_helps(state))
    less = to_bytes < limit_bytes
    request = Request(to_bytes, limit_bytes, state.at_s, give_back=less)
    asked = RequestMemory(to_bytes, f"{reason}; asking for {change}", give_back=less)
    return replace(state, request=request, want_ticks=0, learned_bytes=0), (*out, asked)


def _consider_giving_back(state: State, policy: Policy) -> Step:
    seen, limit_bytes = state.seen, state.limit_bytes
    if seen is None or limit_bytes is None or state.gave_back or state.level is not Level.CALM:
        return state, ()
    if state.at_s - state.started_at_s < GIVE_BACK_AFTER_S or hindrance(state, policy) is not None:
        return state, ()
    need = max(seen.projected_bytes, seen.used_bytes)
    size = sizing.give_back(need, seen.floor_bytes, limit_bytes, seen.remaining_s, seen.resize_cost_s, policy)
    if size is None or size > (policy.max_memory_bytes or 0):
        return state, ()
    assert seen.remaining_s is not None
    words = (
        f"the rest of the job, {format_seconds(seen.remaining_s)}, needs {format_bytes(need)} "
        f"of a limit of {format_bytes(limit_bytes)}"
    )
    # The kernel refuses a limit below what is in use, clean page cache included (F5).
    first: tuple[Instruction, ...] = (ReleasePools(f"{words}; making room for a smaller limit"),)
    state, out = _ask(replace(state, gave_back=True), size, words)
    return state, first + out
