"""The machine: every decision of a run as a pure function of what happened.

``step(state, event, policy)`` gives the next state and what to do. It reads no clock, touches no file and draws no
random number: the same history gives the same decisions. This module only hands each event to the part that decides
on it: ``levels`` (how tight), ``ladder`` (making do), ``saving`` (checkpoints), ``asking`` and ``inflight`` (resizes),
``ending``. It does not carry anything out; the runtime does, in the order given.
"""

from __future__ import annotations

from dataclasses import replace

from ..exits import Exit
from . import asking, ending, inflight, ladder, levels, saving
from .events import (
    AllocationFailed,
    CheckpointCommitted,
    CheckpointFailed,
    CoresChanged,
    Drained,
    Event,
    LimitChanged,
    Observed,
    ResizeReported,
    Started,
    Terminating,
    WorkFailed,
    WorkFinished,
)
from .policy import Policy
from .state import STORY_LENGTH, Decision, State, Step, initial, story, validate

__all__ = ["State", "Step", "initial", "step", "story", "validate"]


def step(state: State, event: Event, policy: Policy) -> Step:
    """The next state, and the instructions in the order in which to carry them out. After Quit nothing follows."""
    if state.over:
        return state, ()
    state = replace(state, at_s=max(state.at_s, event.at_s))
    state, out = _decide(state, event, policy)
    for due in (inflight.wait, _end_deadlines):
        if not state.over:
            state, more = due(state, policy)
            out += more
    if out:
        told = tuple(Decision(state.at_s, instruction) for instruction in out)
        state = replace(state, story=(state.story + told)[-STORY_LENGTH:])
    return state, out


def _end_deadlines(state: State, policy: Policy) -> Step:
    return ending.deadlines(state)


def _decide(state: State, event: Event, policy: Policy) -> Step:
    match event:
        case Observed():
            return _observed(state, event, policy)
        case AllocationFailed():
            return _allocation_failed(state, event, policy)
        case CheckpointCommitted():
            final = state.saving is not None and state.saving.final
            state = saving.committed(state, event, policy)
            return ending.saved(state, final=final) if state.ending is not None else (state, ())
        case CheckpointFailed():
            return _checkpoint_failed(state, event, policy)
        case ResizeReported():
            state, out = inflight.reported(state, event, policy)
        case LimitChanged():
            state, out = inflight.limit_changed(state, event.limit_bytes, policy)
        case CoresChanged():
            return ladder.cores_changed(state, event.workers, policy)
        case Terminating():
            return ending.terminating(state, event, policy)
        case Drained():
            return ending.drained(state)
        case WorkFinished():
            return ending.finished(state)
        case WorkFailed():
            return ending.work_failed(state, event, policy)
        case Started():
            return _started(state, event, policy), ()
    state, more = ending.resize_ended(state)
    return state, out + more


def _started(state: State, event: Started, policy: Policy) -> State:
    workers = max(policy.min_workers, event.workers)
    return replace(
        state,
        started_at_s=state.at_s,
        limit_bytes=event.limit_bytes,
        workers=workers,
        most_workers=workers,
        restarts_left=max(0, event.restarts_left),
        learned_bytes=max(0, event.learned_bytes),
    )


def _observed(state: State, event: Observed, policy: Policy) -> Step:
    state = replace(state, seen=event)
    # The limit file is believed at every look, so that a change nobody reported is seen too.
    state, out = inflight.limit_changed(state, event.limit_bytes, policy)
    state, more = levels.update(state, event, policy)
    out += more
    if state.ending is not None:
        state, more = ending.resize_ended(state)
        return state, out + more
    # Asking comes before spilling: its checkpoint spills too, and only one is written at a time.
    for act in (asking.consider, ladder.relieve, saving.periodic):
        state, more = act(state, policy)
        out += more
    return state, out


def _allocation_failed(state: State, event: AllocationFailed, policy: Policy) -> Step:
    if state.ending is not None:
        return ladder.short_at_the_end(state, event, policy)
    state, out = ladder.allocation_failed(state, event, policy)
    for more_of in (_ask_at_once, lambda s, p: ending.give_up(s, event, p)):
        state, more = more_of(state, policy)
        out += more
    return state, out


def _ask_at_once(state: State, policy: Policy) -> Step:
    return asking.consider(state, policy, at_once=True) if state.needed_bytes else (state, ())


def _checkpoint_failed(state: State, event: CheckpointFailed, policy: Policy) -> Step:
    if event.fenced:
        words = f"another run has taken over this state: {event.error}"
        return ending.leave(state, Exit.STATE_BUSY, words)
    final = state.saving is not None and state.saving.final
    state = saving.failed(state, event, policy)
    if event.short and state.ending is None:
        # What would let the state go does not fit any more: memory is asked for before it is tried again.
        short = replace(state, needed_bytes=max(state.needed_bytes, state.limit_bytes or 0))
        asked, out = asking.consider(replace(short, retry_save_at_s=0.0, checkpoint_failures=0), policy, at_once=True)
        if asked.request is not None:
            return asked, out
    if state.ending is not None:
        return ending.saved(state, final=final)
    return ending.save_failed(state, event, policy)
