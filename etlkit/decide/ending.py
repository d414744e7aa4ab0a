"""The way out: drain, final checkpoint, exit code. Also every reason to leave early.

Work that is finished exits 0, nothing else does. Between a PATCH and its end the process does not leave by itself
(F15): it withdraws first and waits for the answer, for a bounded time. A signal ends that wait. So does a lost fence:
another process owns the state then, and the sooner this one is gone the better.
"""

from __future__ import annotations

from dataclasses import replace

from ..exits import Exit
from ..units import format_bytes, format_seconds
from . import asking, inflight, ladder, saving
from .events import AllocationFailed, CheckpointFailed, Terminating, WorkFailed
from .instructions import Drain, Instruction, Quit
from .policy import Policy
from .state import MOST_FAILURES, Ending, State, Step

DRAIN_S = 10.0
"""For running splits, when the end is our own decision."""
OWN_END_S = 120.0
"""For all of an end that is our own decision."""
LEAST_RESERVE, MOST_RESERVE = 0.25, 0.75
"""Shares of the grace period kept for the final checkpoint."""
EXIT_SHARE = 0.05
"""Share of the grace period kept for leaving."""
LEAK = 1.25
"""A process that holds this many times what it needs, with everything let go, would fit again after a restart."""


def leave(state: State, exit_code: int, reason: str) -> Step:
    return replace(state, over=True), (Quit(exit_code, reason),)


def finished(state: State) -> Step:
    """All work is done and visible: a resize in flight does not matter any more, nor does a signal."""
    if state.ending is not None and state.ending.failed:
        return state, ()
    return leave(state, Exit.DONE, "every split is done and the output is committed")


def terminating(state: State, event: Terminating, policy: Policy) -> Step:
    ending = state.ending
    if ending is not None and (ending.terminated or ending.stage == "withdrawing"):
        return leave(state, ending.exit_code, f"{ending.reason}; {event.signal} came, nothing more is waited for")
    grace_s = max(0.0, event.grace_s)
    out: tuple[Instruction, ...] = ()
    if state.request is not None and not state.request.sent:
        state, out = inflight.withdraw(state, f"{event.signal} came before the request was sent")
    longest_s = saving.longest_s(state)
    reserve_s = 2 * longest_s + 0.1 * grace_s if longest_s is not None else 0.0
    reserve_s = min(max(reserve_s, LEAST_RESERVE * grace_s), MOST_RESERVE * grace_s)
    quit_by_s = state.at_s + grace_s * (1 - EXIT_SHARE)
    drain_by_s = state.at_s + grace_s - reserve_s
    reason = f"{event.signal}: checkpointed, work left"
    if ending is not None:
        ending = replace(
            ending,
            terminated=True,
            quit_by_s=min(ending.quit_by_s, quit_by_s),
            drain_by_s=min(ending.drain_by_s, drain_by_s),
        )
        state = replace(state, ending=ending)
        if ending.stage != "draining":
            return state, out
        drain_by_s = ending.drain_by_s
    else:
        ending = Ending(Exit.AGAIN, reason, "draining", quit_by_s, drain_by_s, terminated=True)
        state = replace(state, ending=ending)
    left = format_seconds(max(0.0, drain_by_s - state.at_s))
    words = (
        f"{event.signal}: {left} of the grace of {format_seconds(grace_s)} for running splits, the rest to checkpoint"
    )
    return state, (*out, Drain(drain_by_s, words))


def stop(state: State, exit_code: int, reason: str) -> Step:
    """Leave by our own decision, with what is finished saved. Only when nothing is in flight."""
    drain_by_s = state.at_s + DRAIN_S
    ending = Ending(exit_code, reason, "draining", state.at_s + OWN_END_S, drain_by_s)
    return replace(state, ending=ending), (Drain(drain_by_s, reason),)


def drained(state: State) -> Step:
    ending = state.ending
    if ending is None or ending.stage != "draining":
        return state, ()
    state = replace(state, ending=replace(ending, stage="saving"))
    return _save_last(state) if state.saving is None else (state, ())


def _save_last(state: State) -> Step:
    assert state.ending is not None
    return saving.begin(state, f"final: {state.ending.reason}", final=True)


def saved(state: State, *, final: bool) -> Step:
    """A checkpoint ended, well or not, while the way out goes on."""
    ending = state.ending
    assert ending is not None
    if final:
        return leave(state, ending.exit_code, ending.reason)
    return _save_last(state) if ending.stage == "saving" else (state, ())


def save_failed(state: State, event: CheckpointFailed, policy: Policy) -> Step:
    """The state is one after ``saving.failed``, and no end has begun."""
    if state.checkpoint_failures < MOST_FAILURES:
        return state, ()
    words = f"{state.checkpoint_failures} checkpoints in a row failed, the last good one is untouched: {event.error}"
    return _leave_or_withdraw(state, Exit.STATE_IO, words, policy, failed=False)


def work_failed(state: State, event: WorkFailed, policy: Policy) -> Step:
    ending = state.ending
    if ending is not None and ending.stage == "withdrawing":
        return replace(state, ending=replace(ending, failed=True)), ()  # the first reason stays
    code = event.exit_code if event.exit_code != Exit.DONE else Exit.FAILED
    return _leave_or_withdraw(state, code, event.message, policy, failed=True)


def _leave_or_withdraw(state: State, exit_code: int, reason: str, policy: Policy, *, failed: bool) -> Step:
    request = state.request
    if request is None or (state.ending is not None and state.ending.terminated):
        return leave(state, exit_code, reason)
    out: tuple[Instruction, ...] = ()
    if request.withdrawn_at_s is None:
        state, out = inflight.withdraw(state, f"the run ends: {reason}")
    if state.request is None:
        state, more = leave(state, exit_code, reason)
        return state, out + more
    quit_by_s = state.at_s + policy.request_deadline_s
    return replace(state, ending=Ending(exit_code, reason, "withdrawing", quit_by_s, failed=failed)), out


def resize_ended(state: State) -> Step:
    """Nothing is in flight any more: an end that waited for that goes on."""
    ending = state.ending
    if ending is None or ending.stage != "withdrawing" or state.request is not None:
        return state, ()
    return leave(state, ending.exit_code, ending.reason)


def deadlines(state: State) -> Step:
    ending = state.ending
    if ending is None:
        return state, ()
    if state.at_s >= ending.quit_by_s:
        return leave(state, ending.exit_code, f"{ending.reason}; not everything was done in time")
    if ending.stage == "draining" and state.at_s > (3 * ending.drain_by_s + ending.quit_by_s) / 4:
        return drained(state)  # the news of it is late; what is finished can be saved without it
    return state, ()


def give_up(state: State, event: AllocationFailed, policy: Policy) -> Step:
    """The smallest settings failed too often. Wait while more memory may come, else stop and say what is missing."""
    if state.floor_tries < policy.max_tries or state.request is not None or state.ending is not None:
        return state, ()
    if state.saving is not None and state.saving.spill:
        return state, ()  # what it frees may be enough
    hindrance = asking.hindrance(state, policy)
    # The very question that asking answers: a size that would never be asked for is nothing to wait for.
    wanted = asking.wish(state, policy)
    size = wanted.to_bytes if wanted is not None else None
    if size is not None:
        if hindrance is None:
            return state, ()  # it will be asked for
        if hindrance.until_s is not None and hindrance.until_s - state.at_s <= policy.deferred_deadline_s:
            return state, ()
    seen, limit_bytes = state.seen, state.limit_bytes
    words = (
        f"{event.split} needs about {format_bytes(event.needed_bytes)} ({event.needed_bytes} bytes) "
        f"with {event.slice_rows} rows at a time and failed {state.floor_tries} times; {ladder.use(state)}"
    )
    if seen is not None and limit_bytes is not None and seen.splits_done > 0:
        # Without a finished split, starting again would only repeat this.
        fresh_bytes = max(seen.floor_bytes, event.needed_bytes)
        most_bytes = policy.critical * limit_bytes
        # Room that is there and yet cannot be had: the heap is in pieces.
        in_pieces = seen.used_bytes + event.needed_bytes <= most_bytes
        if fresh_bytes <= most_bytes and (in_pieces or seen.used_bytes > LEAK * fresh_bytes):
            fresh = format_bytes(fresh_bytes)
            return stop(state, Exit.AGAIN, f"{words}; a fresh process needs only {fresh}, so this one starts again")
    who = _who(state, size, hindrance, policy)
    passes = state.refusal is not None and state.refusal.passes and size is not None
    needed = format_bytes(state.needed_bytes)
    if passes:
        return stop(state, Exit.AGAIN, f"{words}; {needed} are needed in all, and {who}; later it may be granted")
    code = Exit.REFUSED if _cluster_said_no(state, hindrance) else Exit.CONFIG
    return stop(state, code, f"{words}; {needed} ({state.needed_bytes} bytes) are needed in all, and {who}")


def _cluster_said_no(state: State, hindrance: asking.Hindrance | None) -> bool:
    """Not what the author has set (a cap, a restart budget), but an answer to what was asked for."""
    refusal = state.refusal
    if refusal is None or refusal.passes:
        return False
    return refusal.forever or hindrance is None or hindrance.until_s is not None


def _who(state: State, size: int | None, hindrance: asking.Hindrance | None, policy: Policy) -> str:
    if hindrance is not None and hindrance.until_s is None:
        return hindrance.reason
    if state.refusal is not None:
        return state.refusal.who
    if size is None and policy.max_memory_bytes is not None:
        return f"max_memory is {format_bytes(policy.max_memory_bytes)}"
    return hindrance.reason if hindrance is not None else "nothing more can be asked for"
