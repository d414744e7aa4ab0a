"""CPU: whether to ask for more or give some back, decided from throttling. Pure.

CPU changes live and restarts nothing (F19), so this is its own small machine beside the one for memory: one request in flight, a
cool-down, a cap, and nothing where asking was refused. What it does not know is how to ask: that is the runtime's.
"""

from __future__ import annotations

from dataclasses import replace

from ..lazyclass import dataclass

THROTTLED = 0.10
"""Share of the time that the group stood still for want of quota, from which more is worth asking for."""
STEADY_S = 1.0
"""It must be throttled for so long without a pause."""
WORTH_S = 5.0
"""With less than this left, a faster rest saves nobody anything."""
STEP = 2.0
"""Each request at most doubles the quota: what helps is seen before more is asked for."""
COOLDOWN_S = 5.0
DEADLINE_S = 30.0
"""A request that has not changed the quota by then is not waited for any more."""
IDLE_S = 20.0
IDLE_SHARE = 0.5
"""Less than this share of the quota in use for so long: the rest can be given back."""
SLACK = 0.02
"""A quota is in units of a thousandth; closer than this is the same."""


@dataclass(frozen=True, slots=True)
class CpuPolicy:
    max_cores: float | None
    """Never ask for more. None: never ask."""
    live: bool
    """The pod's own resizePolicy for cpu is NotRequired, and there is somebody to ask."""


@dataclass(frozen=True, slots=True)
class CpuSeen:
    at_s: float
    quota_cores: float | None
    throttled: float
    """0 to 1: share of the time since the last look in which the group was throttled."""
    used_cores: float
    remaining_s: float | None
    splits_left: int | None
    """Of the whole job; None while stages to come are not cut yet."""


@dataclass(frozen=True, slots=True)
class CpuState:
    first_cores: float | None = None
    """The quota that the attempt began with: nothing below it is ever asked for."""
    quota_cores: float | None = None
    asked_cores: float | None = None
    asked_at_s: float = 0.0
    quiet_until_s: float = 0.0
    throttled_since_s: float | None = None
    idle_since_s: float | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class RequestCpu:
    to_cores: float
    reason: str
    give_back: bool = False


def look(state: CpuState, seen: CpuSeen, policy: CpuPolicy) -> tuple[CpuState, RequestCpu | None]:
    quota = seen.quota_cores
    if state.first_cores is None or quota is None:
        state = replace(state, first_cores=quota)
    if quota != state.quota_cores:
        quiet_until_s = seen.at_s + COOLDOWN_S if state.quota_cores is not None else 0.0
        state = replace(state, quota_cores=quota, quiet_until_s=quiet_until_s, idle_since_s=None)
        if state.asked_cores is not None and quota is not None and abs(quota - state.asked_cores) <= SLACK:
            state = replace(state, asked_cores=None)
    if state.asked_cores is not None and seen.at_s - state.asked_at_s > DEADLINE_S:
        state = replace(state, asked_cores=None, quiet_until_s=seen.at_s + COOLDOWN_S)
    throttled = seen.throttled >= THROTTLED
    since_s = state.throttled_since_s if state.throttled_since_s is not None else seen.at_s
    idle = quota is not None and seen.used_cores < IDLE_SHARE * quota and not throttled
    idle_s = state.idle_since_s if state.idle_since_s is not None else seen.at_s
    state = replace(state, throttled_since_s=since_s if throttled else None, idle_since_s=idle_s if idle else None)
    wanted = _wanted(state, seen, policy)
    if wanted is None:
        return state, None
    return replace(state, asked_cores=wanted.to_cores, asked_at_s=seen.at_s), wanted


def refused(state: CpuState) -> CpuState:
    """Asking again would be refused again."""
    return replace(state, asked_cores=None, refused=True)


def _wanted(state: CpuState, seen: CpuSeen, policy: CpuPolicy) -> RequestCpu | None:
    quota, first = seen.quota_cores, state.first_cores
    if quota is None or first is None or policy.max_cores is None or not policy.live or state.refused:
        return None
    if state.asked_cores is not None:
        return None
    if quota > first + SLACK and _over(state, seen):
        words = "hardly any work is left" if seen.splits_left is not None and seen.splits_left <= 1 else "it idles"
        return RequestCpu(first, f"{words}: {seen.used_cores:.2g} of {quota:.2g} cores are in use", give_back=True)
    if seen.at_s < state.quiet_until_s or state.throttled_since_s is None:
        return None
    if seen.at_s - state.throttled_since_s < STEADY_S or (seen.remaining_s is not None and seen.remaining_s < WORTH_S):
        return None
    to_cores = min(policy.max_cores, quota * STEP)
    if to_cores <= quota + SLACK:
        return None
    left = "" if seen.remaining_s is None else f" with {seen.remaining_s:.0f} s to go"
    return RequestCpu(to_cores, f"throttled {100 * seen.throttled:.0f} % of the time at {quota:.2g} cores{left}")


def _over(state: CpuState, seen: CpuSeen) -> bool:
    if seen.splits_left is not None and seen.splits_left <= 1:
        return True
    return state.idle_since_s is not None and seen.at_s - state.idle_since_s >= IDLE_S
