"""How long things take on a node, as measured on a real one (facts F2, F4, F6, F10, F13, recorded timelines).

Covers every delay of the local node, so that a test may shorten the long ones (back-off) and leave the
order of things as it is. It does not cover what the machine itself takes: a fork, a write, a kill.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """Delays in seconds. A pair is drawn from evenly, as an idle node's times spread."""

    observe_s: tuple[float, float] = (0.030, 0.060)
    """From the PATCH to ``observedGeneration``, the first condition and ``allocatedResources``."""
    withdraw_s: tuple[float, float] = (0.010, 0.020)
    """The same, when the PATCH only takes a pending resize back."""
    sigterm_s: float = 0.13
    """From the PATCH to SIGTERM, policy RestartContainer."""
    restart_s: tuple[float, float] = (0.25, 0.50)
    """From the exit of a container to the start of the next one."""
    rule_restart_s: float = 1.2
    """The same, when ``restartPolicyRules`` ask for the restart."""
    live_apply_s: float = 0.020
    """From the allocation to the write of the limit file, policy NotRequired."""
    live_status_s: float = 0.020
    """From the write of the limit file to ``status.containerStatuses[].resources``: the file comes first."""
    resize_error_retry_s: float = 2.0
    """Between two tries of a shrink below use. The facts say that the kubelet keeps trying, not how often: ours."""
    room_s: float = 0.15
    """From another pod's leaving to the grant of a deferred resize."""
    deferred_retry_s: tuple[float, float] = (30.0, 180.0)
    """The first retry of a deferred resize, and every later one."""
    backoff_first_s: float = 10.0
    backoff_max_s: float = 300.0
    backoff_forget_s: float = 600.0
    job_backoff_first_s: float = 10.0
    """Between a failed pod of a Job and its replacement; doubled with every further one."""
    job_backoff_max_s: float = 600.0
    flip_back_s: float = 0.15
    """How long a status that flips back stays wrong (only when that fault is switched on)."""
