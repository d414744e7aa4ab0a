"""Making do with what there is: release, spill, fewer workers, smaller slices, and back again when it is calm.

Acts on pressure (memory in use now), never on a forecast. Asking for memory is ``asking``'s.
"""

from __future__ import annotations

from dataclasses import replace

from ..units import MIB, format_bytes, format_seconds
from . import saving
from .events import AllocationFailed
from .instructions import Instruction, Level, ReleasePools, SetSliceRows, SetWorkers
from .policy import Policy
from .state import PATIENCE_S, State, Step, at_floor, thinnest

SETTLE_S = 0.5
"""How long a relief is given to show in memory in use."""
SHORT_SHOWN_S = 3.0
"""So long after a failed allocation memory is shown as tight at the least."""
LONGEST_SETTLE_S = 3.0
"""How long running splits, which a smaller setting does not reach, are waited for."""
RELEASE_EVERY_S = 5.0
WORTH_TIGHT, WORTH_CRITICAL = 0.25, 0.05
"""State is worth spilling from this share of the limit on."""
ROOMY = 0.6
"""Below this share of the limit nothing is given up in advance."""
LONGEST_PATIENCE_S = 160.0
UNKNOWN_NEED, UNKNOWN_AUTHOR_NEED = 1.5, 2.0
"""Times the limit, where nobody knows what is missing. The second is for an author's function: the engine's own estimates are not
that far off, and asking twice costs a restart, or a cool-down in which nothing gets done."""
ASK_AFTER_TRIES = 3
"""Release and spill, then halve the slice; when that has not helped, more memory is what is missing."""


def use(state: State) -> str:
    """Memory in use, in words."""
    if state.seen is None:
        return "memory in use is not known"
    if state.limit_bytes is None:
        return f"{format_bytes(state.seen.used_bytes)} are in use"
    return f"{format_bytes(state.seen.used_bytes)} of {format_bytes(state.limit_bytes)} are in use"


def spill_helps(state: State) -> bool:
    """There is pressure, and state enough in memory to ease it."""
    return state.pressure is not Level.CALM and _worth_spilling(state, WORTH_CRITICAL)


def exhausted(state: State, policy: Policy) -> bool:
    """Nothing is left that would free memory."""
    return at_floor(state, policy) and not _worth_spilling(state, WORTH_CRITICAL)


def _worth_spilling(state: State, share: float) -> bool:
    if state.seen is None:
        return False
    return state.seen.state_bytes >= max(MIB, share * (state.limit_bytes or 0))


def _spill(state: State, why: str) -> Step:
    assert state.seen is not None
    reason = f"pressure: {why}; {format_bytes(state.seen.state_bytes)} of it is state that a checkpoint lets go of"
    return saving.begin(state, reason, spill=True)


def _release(state: State, why: str, every_s: float) -> Step:
    if state.released_at_s is not None and state.at_s - state.released_at_s < every_s:
        return state, ()
    return replace(state, released_at_s=state.at_s), (ReleasePools(why),)


def _fewer(state: State, policy: Policy, why: str) -> Step:
    """One rung down: workers first, since they cost memory at once, then slices."""
    if state.workers > policy.min_workers:
        workers = max(policy.min_workers, state.workers // 2)
        return replace(_lowered(state), workers=workers), (SetWorkers(workers, why),)
    return _thinner(state, policy, why)


def _thinner(state: State, policy: Policy, why: str) -> Step:
    if thinnest(state, policy):
        return state, ()
    rows = max(policy.min_slice_rows, state.slice_rows // 2)
    return replace(_lowered(state), slice_rows=rows), (SetSliceRows(rows, why),)


def _lowered(state: State) -> State:
    """A setting goes down. If one had just gone up, that was too early: the next time waits longer, so that it does not swing."""
    patience_s = min(state.patience_s * 2, LONGEST_PATIENCE_S) if state.raised else state.patience_s
    done = state.seen.splits_done if state.seen is not None else 0
    return replace(
        state,
        patience_s=patience_s,
        raised=False,
        settle_until_s=state.at_s + SETTLE_S,
        settle_by_s=state.at_s + LONGEST_SETTLE_S,
        settle_splits=done + state.workers,
        calm_since_s=None,
    )


def settled(state: State) -> bool:
    """The last relief has had its time."""
    if state.at_s < state.settle_until_s:
        return False
    done = state.seen.splits_done if state.seen is not None else 0
    return state.at_s >= state.settle_by_s or done >= state.settle_splits


def relieve(state: State, policy: Policy) -> Step:
    """One step for the pressure of now, then time for it to work."""
    if state.pressure is Level.CALM:
        return _recover(state, policy)
    if not settled(state):
        return state, ()
    why = use(state)
    if state.pressure is Level.TIGHT:
        state, out = _release(state, why, RELEASE_EVERY_S)
        if _worth_spilling(state, WORTH_TIGHT) and saving.may_save(state):
            state, more = _spill(state, why)
            out += more
        return state, out
    state, out = _release(state, why, SETTLE_S)
    state = replace(state, settle_until_s=state.at_s + SETTLE_S)
    if state.saving is not None and state.saving.spill:
        return state, out
    if _worth_spilling(state, WORTH_CRITICAL) and saving.may_save(state):
        state, more = _spill(state, why)
    else:
        state, more = _fewer(state, policy, why)
    return state, out + more


def degrade(state: State, policy: Policy, why: str) -> Step:
    """More memory will not come soon: make room, unless there is room."""
    seen, limit_bytes = state.seen, state.limit_bytes
    if seen is None or limit_bytes is None or seen.used_bytes < ROOMY * limit_bytes:
        return state, ()
    out: tuple[Instruction, ...] = ()
    words = f"{use(state)}, and {why}"
    if _worth_spilling(state, WORTH_TIGHT) and saving.may_save(state):
        state, out = _spill(state, words)
    if state.pressure is not Level.CALM:
        state, more = _fewer(state, policy, words)
        out += more
    return state, out


def _recover(state: State, policy: Policy) -> Step:
    """One rung up after a calm while."""
    since_s = state.calm_since_s
    if since_s is None or state.at_s - since_s < state.patience_s:
        return state, ()
    why = f"calm for {format_seconds(state.at_s - since_s)}: {use(state)}"
    if state.workers < state.most_workers:
        workers = min(state.most_workers, state.workers * 2)
        return replace(state, workers=workers, raised=True, calm_since_s=state.at_s), (SetWorkers(workers, why),)
    if state.slice_rows < policy.slice_rows:
        rows = min(policy.slice_rows, state.slice_rows * 2)
        return replace(state, slice_rows=rows, raised=True, calm_since_s=state.at_s), (SetSliceRows(rows, why),)
    return state, ()


def restore(state: State, policy: Policy, why: str) -> Step:
    """The limit has grown: what was given up for the old one is taken back at once."""
    out: list[Instruction] = []
    if state.workers < state.most_workers:
        out.append(SetWorkers(state.most_workers, why))
    if state.slice_rows < policy.slice_rows:
        out.append(SetSliceRows(policy.slice_rows, why))
    state = replace(
        state,
        workers=max(state.workers, state.most_workers),
        slice_rows=max(state.slice_rows, policy.slice_rows),
        patience_s=PATIENCE_S,
        raised=False,
        needed_bytes=0,
        floor_tries=0,
    )
    return state, tuple(out)


def cores_changed(state: State, workers: int, policy: Policy) -> Step:
    """As many workers as the quota has cores; what pressure has taken away comes back only when it is calm."""
    most = max(policy.min_workers, workers)
    given_up = state.workers < state.most_workers
    now = min(state.workers, most) if given_up else most
    changed = now != state.workers
    state = replace(state, workers=now, most_workers=most)
    return state, (SetWorkers(now, f"the CPU quota is good for {most}"),) if changed else ()


def squeezed(state: State, policy: Policy) -> Step:
    """The limit went below what is comfortable: everything at once."""
    why = f"the limit shrank: {use(state)}"
    state, out = _release(state, why, 0.0)
    if _worth_spilling(state, 0.0) and saving.may_save(state):
        state, more = _spill(state, why)
        out += more
    state, more = _fewer(state, policy, why)
    return state, out + more


def allocation_failed(state: State, event: AllocationFailed, policy: Policy) -> Step:
    """Release, spill, then smaller slices, then fewer workers. What was learned stays in the state for asking."""
    why = (
        f"an allocation failed in {event.split} at {event.slice_rows} rows (try {event.tries}), "
        f"it needs about {format_bytes(event.needed_bytes)}; {use(state)}"
    )
    fixed = state.seen is not None and state.seen.slices_fixed
    at_smallest = at_floor(state, policy) and (fixed or event.slice_rows <= policy.min_slice_rows)
    # A first try says that something got done since the last failure.
    before = 0 if event.tries <= 1 else state.floor_tries
    state = replace(
        state,
        floor_tries=before + 1 if at_smallest else 0,
        calm_since_s=None,
        short_until_s=state.at_s + SHORT_SHOWN_S,
    )
    if event.tries >= ASK_AFTER_TRIES or at_smallest:
        state = replace(state, needed_bytes=max(state.needed_bytes, _needed_in_all(state, event)))
    state, out = _release(state, why, SETTLE_S)
    # At the floor every byte of state may be the one that is missing.
    worth = (
        state.seen is not None and state.seen.state_bytes > 0 if at_smallest else _worth_spilling(state, WORTH_CRITICAL)
    )
    if worth and saving.may_save(state):
        state, more = _spill(state, why)
        if event.tries <= 1:
            return state, out + more
        out += more
    # A failure at a size that has been given up since is no news.
    if event.slice_rows <= state.slice_rows or thinnest(state, policy):
        smaller = _fewer if thinnest(state, policy) else _thinner
        state, more = smaller(state, policy, why)
        out += more
    return state, out


def short_at_the_end(state: State, event: AllocationFailed, policy: Policy) -> Step:
    """A split that had begun when the end came is tried once more alone and in smaller slices, while there is time."""
    why = f"{event.split} did not fit at {event.slice_rows} rows while the process ends"
    out: list[Instruction] = [ReleasePools(why)]
    rows = max(policy.min_slice_rows, min(state.slice_rows, event.slice_rows) // 2)
    if state.workers > policy.min_workers:
        out.append(SetWorkers(policy.min_workers, why))
    if rows < state.slice_rows and not thinnest(state, policy):
        out.append(SetSliceRows(rows, why))
        state = replace(state, slice_rows=rows)
    return replace(state, workers=policy.min_workers), tuple(out)


def _needed_in_all(state: State, event: AllocationFailed) -> int:
    """What one split needs, beside what can't be spilled. It did not fit, so always more than the limit."""
    beside = max(0, state.seen.used_bytes - state.seen.state_bytes) if state.seen is not None else 0
    limit_bytes = state.limit_bytes or 0
    known = beside + max(0, event.needed_bytes)
    # By the estimate it should have fitted, so nobody knows how much is missing (an author's function).
    author = state.seen is not None and state.seen.slices_fixed
    return known if known >= limit_bytes else int(limit_bytes * (UNKNOWN_AUTHOR_NEED if author else UNKNOWN_NEED))
