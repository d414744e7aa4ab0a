"""A resize in flight: what its reports mean, how long it is waited for, and limits that change.

A limit that changed without our asking is adopted and not fought (F27). What is in force is what the limit file says;
a report alone never moves the limit that the machine reckons with.
"""

from __future__ import annotations

from dataclasses import replace

from ..units import format_bytes, format_seconds
from . import ladder
from .events import FINAL_OUTCOMES, ResizeMode, ResizeOutcome, ResizeReported
from .instructions import Level, WithdrawResize
from .policy import Policy
from .state import Refusal, Request, State, Step

PAGE_SLACK_BYTES = 64 * 1024
"""The kernel rounds a limit down to whole pages, which are at most this large."""
_SLOW = frozenset({ResizeOutcome.DEFERRED, ResizeOutcome.ERROR})


def landed(request_bytes: int, limit_bytes: int | None) -> bool:
    return limit_bytes is not None and request_bytes - PAGE_SLACK_BYTES < limit_bytes <= request_bytes


def reported(state: State, event: ResizeReported, policy: Policy) -> Step:
    request = state.request
    if request is None:
        return _adopt(state, event, policy)
    if event.to_bytes != request.to_bytes and request.withdrawn_at_s is None:
        return state, ()  # late news of another request
    if event.outcome is ResizeOutcome.UNREACHABLE and request.withdrawn_at_s is not None:
        return state, ()  # nobody knows whether it was withdrawn: ask again when its time is up
    if event.outcome in FINAL_OUTCOMES:
        return close(state, event.outcome, event.message, policy, event.most_bytes)
    was_slow = request.waiting_since_s is not None
    slow = event.outcome in _SLOW
    since_s = (request.waiting_since_s if was_slow else state.at_s) if slow else None
    request = replace(
        request, sent=True, outcome=event.outcome, message=event.message, waiting_since_s=since_s,
        asked_at_s=state.at_s if was_slow and not slow else request.asked_at_s,
    )  # fmt: skip
    state = replace(state, request=request)
    if not slow or was_slow or state.ending is not None:
        return state, ()
    if request.give_back:
        return withdraw(state, f"a smaller limit can't be had now: {event.message or event.outcome}")
    return ladder.degrade(state, policy, f"the resize is {event.outcome}: {event.message}")


def _adopt(state: State, event: ResizeReported, policy: Policy) -> Step:
    """News without a request of ours: one that an earlier life of this container made still stands (F14)."""
    limit_bytes = state.limit_bytes
    if event.outcome in FINAL_OUTCOMES or state.ending is not None or limit_bytes is None or event.to_bytes <= 0:
        return state, ()
    if event.to_bytes == limit_bytes or landed(event.to_bytes, limit_bytes):
        return state, ()
    since_s = state.at_s if event.outcome in _SLOW else None
    request = Request(
        event.to_bytes, limit_bytes, state.at_s, give_back=event.to_bytes < limit_bytes, sent=True,
        outcome=event.outcome, message=event.message, waiting_since_s=since_s,
    )  # fmt: skip
    return replace(state, request=request), ()


def close(state: State, outcome: ResizeOutcome, message: str, policy: Policy, most_bytes: int | None = None) -> Step:
    """A final outcome: nothing is in flight any more. What was refused is remembered."""
    request = state.request
    assert request is not None
    state = replace(state, request=None, want_ticks=0, gave_back=state.gave_back or request.give_back)
    quiet_until_s = state.at_s + policy.cooldown_s
    if outcome is ResizeOutcome.ACTUATED:
        left = state.restarts_left - (1 if policy.mode is ResizeMode.RESTART else 0)
        state = replace(state, restarts_left=max(0, left), refusal=None, unreachable=0)
        return replace(state, quiet_until_s=max(state.quiet_until_s, quiet_until_s)), ()
    size = format_bytes(request.to_bytes)
    why = message or str(outcome)
    if outcome is ResizeOutcome.REFUSED:
        state = replace(state, refusal=Refusal(f"{size} was refused: {why}", passes=False, forever=True))
    elif outcome is ResizeOutcome.INFEASIBLE:
        state = replace(state, refusal=Refusal(f"{size} can't be had: {why}", passes=False))
        if not request.give_back:
            refused = min(request.to_bytes, state.refused_bytes or request.to_bytes)
            if most_bytes is not None and state.most_bytes is None:
                quiet_until_s = state.at_s  # the refusal itself says what to ask for instead: once that needs no pause
            if most_bytes is not None:
                quantum = max(1, policy.quantum_bytes)
                most_bytes = min(most_bytes // quantum * quantum, state.most_bytes or most_bytes)
            state = replace(state, refused_bytes=refused, most_bytes=most_bytes)
    elif outcome is ResizeOutcome.UNREACHABLE:
        quiet_until_s = state.at_s + policy.refused_retry_s
        refusal = Refusal(f"{size} could not be asked for: {why}", passes=True)
        state = replace(state, refusal=refusal, unreachable=state.unreachable + 1)
    elif request.withdrawn_at_s is not None and not request.give_back:
        # It was waited for and did not come. The node is full; asking soon would only wait again.
        quiet_until_s = state.at_s + policy.refused_retry_s
        waited = f"{size} was not granted in {format_seconds(state.at_s - request.asked_at_s)}"
        state = replace(state, refusal=Refusal(f"{waited}: {request.message or why}", passes=True))
    state = replace(state, quiet_until_s=max(state.quiet_until_s, quiet_until_s))
    if state.ending is not None or request.give_back:
        return state, ()
    return ladder.degrade(state, policy, f"the resize to {size} ended as {outcome}: {why}")


def withdraw(state: State, reason: str) -> Step:
    """Take back what is in flight. What has not been sent yet is forgotten at once."""
    request = state.request
    assert request is not None
    to_bytes = state.limit_bytes if state.limit_bytes is not None else request.from_bytes
    out = (WithdrawResize(to_bytes, reason),)
    if not request.sent:
        return replace(state, request=None), out
    return replace(state, request=replace(request, withdrawn_at_s=state.at_s)), out


def wait(state: State, policy: Policy) -> Step:
    """Deadlines of what is in flight."""
    request = state.request
    if request is None or not request.sent:
        return state, ()
    size = format_bytes(request.to_bytes)
    if request.withdrawn_at_s is not None:
        if state.at_s - request.withdrawn_at_s < policy.request_deadline_s:
            return state, ()
        return withdraw(state, f"{size} is still not known to be withdrawn")
    if request.give_back and state.pressure is not Level.CALM:
        return withdraw(state, f"memory is needed after all: {ladder.use(state)}")
    if request.waiting_since_s is None:
        stuck_at_s = request.asked_at_s + policy.request_deadline_s
        if state.at_s < stuck_at_s:
            return state, ()
        state = replace(state, request=replace(request, waiting_since_s=stuck_at_s))
        if state.ending is not None:
            return state, ()
        return ladder.degrade(state, policy, f"nothing came of the resize to {size} yet")
    waited_s = state.at_s - request.waiting_since_s
    if waited_s < policy.deferred_deadline_s:
        return state, ()
    return withdraw(
        state, f"{size} was not granted within {format_seconds(waited_s)}: {request.message or request.outcome}"
    )


def limit_changed(state: State, limit_bytes: int | None, policy: Policy) -> Step:
    """Adopt what the limit file says, whoever changed it."""
    before, request = state.limit_bytes, state.request
    if limit_bytes == before:
        return state, ()
    quiet_until_s = max(state.quiet_until_s, state.at_s + policy.cooldown_s)
    state = replace(state, limit_bytes=limit_bytes, quiet_until_s=quiet_until_s, want_ticks=0)
    if limit_bytes is None:
        state = replace(state, pressure=Level.CALM)
    if limit_bytes is not None and state.refused_bytes is not None and limit_bytes >= state.refused_bytes:
        state = replace(state, refused_bytes=None, most_bytes=None)
    out: Step = (state, ())
    if request is not None and not request.sent:
        # Somebody was quicker: nothing of ours goes out within the cool-down.
        out = withdraw(state, "the limit changed before our request was sent")
    elif request is not None and landed(request.to_bytes, limit_bytes):
        out = close(state, ResizeOutcome.ACTUATED, "the limit file says so", policy)
    state, instructions = out
    if state.ending is not None:
        return state, instructions
    sizes = f"from {_words(before)} to {_words(limit_bytes)}"
    if limit_bytes is None or (before is not None and limit_bytes > before):
        state, more = ladder.restore(state, policy, f"the limit grew {sizes}")
    elif state.seen is not None and state.seen.used_bytes >= policy.tight * limit_bytes:
        state, more = ladder.squeezed(state, policy)
    else:
        more = ()
    return state, instructions + more


def _words(limit_bytes: int | None) -> str:
    return "no limit" if limit_bytes is None else format_bytes(limit_bytes)
