"""How large the next limit should be. Pure arithmetic on bytes.

Sizes are for the end of the job, not for the next step, so that one resize is enough. Whether it is worth asking at
all, and when, is decided in ``asking``.
"""

from __future__ import annotations

from .events import ResizeMode
from .policy import Policy

LEAST_GAIN = 1.10
"""A limit that is not at least this many times the present one is not worth a request."""
GIVE_BACK_BELOW = 0.5
"""Only a need below this share of the limit is worth giving memory back for."""
GIVE_BACK_LIVE_S = 60.0
"""How long a smaller limit must serve to pay for a live change."""
GIVE_BACK_RESTART_S = 600.0
GIVE_BACK_RESTART_COSTS = 100.0
"""With a restart, the rest must last this long, and this many times the restart's cost."""


def comfortable(need_bytes: int, policy: Policy) -> int:
    """The limit in which ``need_bytes`` is not tight, in whole quanta.

    The margin alone would not do: a need with 15 % to spare is above the share that counts as tight, and would be asked
    for again.
    """
    share = max(1 + policy.margin, 1 / policy.tight if policy.tight > 0 else 1.0)
    quantum = max(1, policy.quantum_bytes)
    return -(-int(need_bytes * share + 1) // quantum) * quantum


def target(
    projected_bytes: int, floor_bytes: int, limit_bytes: int, policy: Policy, cap_bytes: int | None = None
) -> int | None:
    """The limit to ask for, or None when the cap leaves nothing worth asking for.

    ``cap_bytes`` lowers the policy's cap, after a larger size has been refused.
    """
    if policy.max_memory_bytes is None:
        return None
    cap = policy.max_memory_bytes if cap_bytes is None else min(cap_bytes, policy.max_memory_bytes)
    size = min(comfortable(max(projected_bytes, floor_bytes), policy), cap)
    if size < limit_bytes * LEAST_GAIN or size <= limit_bytes or size < floor_bytes:
        return None
    return size


def known(learned_bytes: int, limit_bytes: int, policy: Policy) -> int | None:
    """What an earlier run came to need, as far as the cap allows; None when the limit is about that already."""
    size = min(learned_bytes, policy.max_memory_bytes or 0)
    return size if size >= limit_bytes * LEAST_GAIN and size > limit_bytes else None


def below_refused(refused_bytes: int, limit_bytes: int, policy: Policy) -> int:
    """The largest size to try after ``refused_bytes`` was refused: half-way down, so that few requests find it."""
    quantum = max(1, policy.quantum_bytes)
    return (limit_bytes + refused_bytes) // 2 // quantum * quantum


def give_back(
    projected_bytes: int,
    floor_bytes: int,
    limit_bytes: int,
    remaining_s: float | None,
    resize_cost_s: float,
    policy: Policy,
) -> int | None:
    """A smaller limit that serves to the end of the job, or None when the change would not pay for itself."""
    if policy.mode is ResizeMode.NONE or remaining_s is None:
        return None
    long_enough_s = GIVE_BACK_LIVE_S
    if policy.mode is ResizeMode.RESTART:
        long_enough_s = max(GIVE_BACK_RESTART_S, GIVE_BACK_RESTART_COSTS * resize_cost_s)
    if remaining_s < long_enough_s:
        return None
    size = comfortable(max(projected_bytes, floor_bytes), policy)
    return size if size <= limit_bytes * GIVE_BACK_BELOW else None
