"""How often to checkpoint when nothing else asks for one. Pure arithmetic.

The author's bound on lost work is kept at any cost if the author set one: what a kill loses goes on growing until a checkpoint is
written, so it begins earlier by what the last ones took. Otherwise the default interval stretches
until the checkpoints cost no more than ``policy.overhead`` of the time. Checkpoints on pressure, before a resize and
at the end are not this module's.
"""

from __future__ import annotations

from collections.abc import Sequence

from .policy import Policy

LEAST_SHARE = 1 / 3
"""Of the author's interval: checkpoints that take longer than it shall not follow each other for every split."""
LONGEST_STRETCH = 30
"""Work that may be lost matters too: never more than this many intervals, however slow the disk is."""


def next_checkpoint_s(policy: Policy, durations_s: Sequence[float]) -> float | None:
    """Seconds of unsaved work after which to checkpoint, from what the last checkpoints took. None: never by time."""
    every_s = policy.checkpoint_every_s
    if every_s is None or not durations_s:
        return every_s
    if policy.every_is_bound:
        return max(every_s - max(durations_s), every_s * LEAST_SHARE)
    mean_s = sum(durations_s) / len(durations_s)
    longest_s = every_s * LONGEST_STRETCH
    if policy.overhead <= 0:
        return longest_s
    return min(max(every_s, mean_s / policy.overhead), longest_s)
