"""How tight memory is: from what is in use, from thrashing and from the forecast, with hysteresis.

**Pressure** is now: memory in use against the limit, raised by thrashing. **Level** is what people are shown: the
pressure, or tight when the forecast is. The ladder acts on pressure alone, so that a forecast never slows a job down.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..units import format_bytes
from .events import Observed
from .instructions import Level, SetLevel
from .policy import Policy
from .state import State, Step

GAP = 0.05
"""A level is left only this far below where it is entered."""
THRASH_TIGHT, THRASH_CRITICAL = 0.15, 0.40
THRASH_GAP = 0.07
_ORDER = {Level.CALM: 0, Level.TIGHT: 1, Level.CRITICAL: 2}


def rank(level: Level) -> int:
    return _ORDER[level]


def _grade(value: float, tight: float, critical: float, before: Level, gap: float) -> Level:
    """``before`` lowers the thresholds that it has already passed."""
    if value >= critical - (gap if before is Level.CRITICAL else 0.0):
        return Level.CRITICAL
    if value >= tight - (gap if before is not Level.CALM else 0.0):
        return Level.TIGHT
    return Level.CALM


def pressure(used_bytes: int, limit_bytes: int | None, thrash: float, before: Level, policy: Policy) -> Level:
    if limit_bytes is None or limit_bytes <= 0:
        return Level.CALM
    by_use = _grade(used_bytes / limit_bytes, policy.tight, policy.critical, before, GAP)
    by_thrash = _grade(thrash, THRASH_TIGHT, THRASH_CRITICAL, before, THRASH_GAP)
    return max(by_use, by_thrash, key=rank)


def update(state: State, seen: Observed, policy: Policy) -> Step:
    """Judges an observation at the limit that the state knows."""
    limit_bytes = state.limit_bytes
    now = pressure(seen.used_bytes, limit_bytes, seen.thrash, state.pressure, policy)
    level = now
    if limit_bytes and now is Level.CALM:
        share = seen.projected_bytes / limit_bytes
        # A forecast above the limit is tight, not critical: there is room now, and time.
        level = _grade(share, policy.tight, math.inf, state.level, GAP)
    short = state.at_s < state.short_until_s
    if short:
        # The wall refuses what the cgroup would still have room for, so use alone would say calm.
        level = max(level, Level.CRITICAL if state.floor_tries else Level.TIGHT, key=rank)
    calm_since_s = state.calm_since_s if now is Level.CALM else None
    if now is Level.CALM and calm_since_s is None:
        calm_since_s = state.at_s
    changed = level is not state.level
    if changed or now is not state.pressure or calm_since_s != state.calm_since_s:
        state = replace(state, pressure=now, level=level, calm_since_s=calm_since_s)
    return state, (SetLevel(level, _why(seen, limit_bytes, policy, short)),) if changed else ()


def _why(seen: Observed, limit_bytes: int | None, policy: Policy, short: bool) -> str:
    if not limit_bytes:
        return "there is no limit"
    share = 100 * seen.used_bytes / limit_bytes
    words = f"{format_bytes(seen.used_bytes)} in use are {share:.0f} % of the limit of {format_bytes(limit_bytes)}"
    if short:
        words += "; allocations fail and are tried again"
    if seen.thrash >= THRASH_TIGHT:
        words += f"; {100 * seen.thrash:.0f} % of the time goes into reading pages back"
    return f"{words}; {format_bytes(seen.projected_bytes)} are forecast at the peak"
