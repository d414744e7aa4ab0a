"""Checkpoints: when one is due by time, and what follows when one is committed or fails.

At most one is being written at any time; everything that wants one asks ``may_save`` first.
"""

from __future__ import annotations

from dataclasses import replace

from .cadence import next_checkpoint_s
from .events import CheckpointCommitted, CheckpointFailed
from .instructions import Checkpoint
from .policy import Policy
from .state import MEASURED, MOST_FAILURES, Saving, State, Step

FIRST_RETRY_S = 1.0
"""After a checkpoint that failed; it doubles with each failure in a row."""


def may_save(state: State) -> bool:
    return state.saving is None and state.ending is None and state.at_s >= state.retry_save_at_s


def begin(state: State, reason: str, *, spill: bool = False, final: bool = False) -> Step:
    saving = Saving(state.at_s, final=final, spill=spill)
    return replace(state, saving=saving), (Checkpoint(reason, spill=spill),)


def periodic(state: State, policy: Policy) -> Step:
    every_s = next_checkpoint_s(policy, state.durations_s)
    if every_s is None or state.seen is None or not may_save(state) or state.seen.unsaved_s < every_s:
        return state, ()
    if not policy.every_is_bound and state.saved_at_s is not None and state.at_s - state.saved_at_s < every_s:
        return state, ()
    return begin(state, "interval")


def committed(state: State, event: CheckpointCommitted, policy: Policy) -> State:
    request = state.request
    if request is not None and not request.sent:
        # The intent is durable now, so the runtime sends the PATCH.
        request = replace(request, sent=True, asked_at_s=state.at_s)
    return replace(
        state,
        saving=None,
        request=request,
        durations_s=(*state.durations_s, max(0.0, event.duration_s))[-MEASURED:],
        saved_at_s=state.at_s,
        checkpoint_failures=0,
        retry_save_at_s=0.0,
    )


def failed(state: State, event: CheckpointFailed, policy: Policy) -> State:
    """The next one waits a while. A resize whose intent was in it was never asked for."""
    failures = min(state.checkpoint_failures + 1, MOST_FAILURES)
    state = replace(
        state,
        saving=None,
        checkpoint_failures=failures,
        retry_save_at_s=state.at_s + FIRST_RETRY_S * 2 ** (failures - 1),
    )
    if state.request is not None and not state.request.sent:
        state = replace(state, request=None, quiet_until_s=max(state.quiet_until_s, state.at_s + policy.cooldown_s))
    return state


def longest_s(state: State) -> float | None:
    return max(state.durations_s, default=None)
