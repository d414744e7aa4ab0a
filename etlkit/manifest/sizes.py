"""How large, and how patient: first and largest memory, and the grace period, from what is known. Pure arithmetic.

What was given beats what was learned from an earlier run, and that beats the plan's forecast. Each size comes with the sentence that
says where it is from, for the manifest to print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..decide.policy import Policy
from ..decide.sizing import comfortable
from ..errors import ConfigError
from ..units import GIB, MIB, format_bytes, format_seconds

DEFAULT_START_BYTES, DEFAULT_MOST_BYTES = 512 * MIB, 4 * GIB
"""Where nothing is known."""
LEAST_START_BYTES = 192 * MIB
"""Python, pyarrow and room to work: with less, the first thing that a job does is to ask for more."""
MOST_STEP_BYTES = 256 * MIB
GRACE_S, LEAST_GRACE_S, MOST_GRACE_S = 60, 30, 600
GRACE_PER_CHECKPOINT = 8
"""A quarter of the grace is the last checkpoint's, and it may take twice as long as the slowest that was measured."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of ``etlkit plan``: at full speed, and with one worker and everything spilled."""

    projected_bytes: int
    floor_bytes: int


@dataclass(frozen=True, slots=True)
class Learned:
    """From the state of an earlier run."""

    peak_bytes: int | None = None
    slowest_checkpoint_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    memory_bytes: int
    max_memory_bytes: int
    grace_s: int
    why: dict[str, str]


def choose(
    *,
    memory_bytes: int | None = None,
    max_memory_bytes: int | None = None,
    grace_s: int | None = None,
    forecast: Forecast | None = None,
    learned: Learned | None = None,
    policy: Policy | None = None,
) -> Sizes:
    """Errors: ConfigError when the job can't fit under the cap."""
    rules, why = policy or Policy(), dict[str, str]()
    learned = learned or Learned()
    cap = max_memory_bytes
    if forecast is not None and cap is not None and forecast.floor_bytes > cap:
        raise ConfigError(
            f"the job needs at least {format_bytes(forecast.floor_bytes)}, and --max-memory is {format_bytes(cap)}",
            "raise --max-memory, or write the input with smaller row groups",
        )
    memory = memory_bytes
    if memory is None and learned.peak_bytes is not None:
        memory = max(LEAST_START_BYTES, comfortable(learned.peak_bytes, rules))
        why["memory"] = f"Learned: an earlier run used {format_bytes(learned.peak_bytes)} at most."
    if memory is None and forecast is not None:
        memory = max(LEAST_START_BYTES, comfortable(forecast.floor_bytes, rules))
        why["memory"] = (
            f"From the plan: {format_bytes(forecast.floor_bytes)} at the least, "
            f"{format_bytes(forecast.projected_bytes)} at full speed. It starts small and asks for more when the forecast says so."
        )
    if memory is None:
        memory = DEFAULT_START_BYTES if cap is None else min(DEFAULT_START_BYTES, cap)
        why["memory"] = "A guess: the job could not be planned where this was printed."
        cap = DEFAULT_MOST_BYTES if cap is None else cap
    if cap is None:
        most = max(2 * memory, comfortable(forecast.projected_bytes, rules) if forecast is not None else 0)
        cap = -(-most // MOST_STEP_BYTES) * MOST_STEP_BYTES
        why["max_memory"] = "Twice the first size, or what the plan says for full speed, whichever is more."
    if memory_bytes is None:
        memory = min(memory, cap)
    grace = grace_s
    if grace is None and learned.slowest_checkpoint_s is not None:
        slowest = learned.slowest_checkpoint_s
        grace = min(MOST_GRACE_S, max(LEAST_GRACE_S, math.ceil(GRACE_PER_CHECKPOINT * slowest)))
        why["grace"] = f"the slowest checkpoint of an earlier run took {format_seconds(slowest)}"
    return Sizes(memory, cap, GRACE_S if grace is None else grace, why)
