"""What the runtime tells the machine: everything that happened, as frozen data.

Times are seconds of one monotonic clock, handed in; nothing here reads a clock. Memory is in bytes and comes in
the four quantities of the house: limit, used (working set: usage without inactive page cache), reserved
(the ledger's promises), projected (the forecast peak to the end of the job).
"""

from __future__ import annotations

from enum import StrEnum

from ..lazyclass import dataclass


class ResizeMode(StrEnum):
    """The memory entry of the container's resizePolicy, or NONE where nobody can be asked."""

    RESTART = "RestartContainer"
    LIVE = "NotRequired"
    NONE = "None"


class ResizeOutcome(StrEnum):
    """Where a resize that we asked for stands. The last five are final."""

    REQUESTED = "requested"
    IN_PROGRESS = "in_progress"
    DEFERRED = "deferred"
    ERROR = "error"  # the kubelet could not apply it (F5) and keeps trying
    ACTUATED = "actuated"
    INFEASIBLE = "infeasible"  # the node can never hold it (F7), or quota, LimitRange, policy (F18)
    REFUSED = "refused"  # 401, 403 RBAC, 422: asking again would be refused again
    UNREACHABLE = "unreachable"  # the API server did not answer in time; asking later may work
    WITHDRAWN = "withdrawn"


FINAL_OUTCOMES = frozenset(
    {
        ResizeOutcome.ACTUATED,
        ResizeOutcome.INFEASIBLE,
        ResizeOutcome.REFUSED,
        ResizeOutcome.UNREACHABLE,
        ResizeOutcome.WITHDRAWN,
    }
)


@dataclass(frozen=True, slots=True)
class Started:
    """The first event of an attempt."""

    at_s: float
    limit_bytes: int | None
    workers: int
    restarts_left: int
    """Restarts that the Job still allows for resizes (F8: backoffLimit − 1 − restarts so far); 0 means none."""
    learned_bytes: int = 0
    """What the run before came to need; 0 where nothing is known, or nothing had to be asked for."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One tick of the sampler, with what the engine knows at that moment."""

    at_s: float
    limit_bytes: int | None
    used_bytes: int
    reserved_bytes: int
    state_bytes: int
    """State in memory that a checkpoint would let go of (the elastic part)."""
    projected_bytes: int
    """Forecast of ``used_bytes`` at its peak until the end of the job, at full speed and without spilling."""
    floor_bytes: int
    """The least with which the job can still go on: one worker, its largest split in slices, all state spilled."""
    unsaved_s: float
    """Work since the last checkpoint, in seconds."""
    remaining_s: float | None
    """Forecast of the time to the end of the job; None while unknown."""
    spill_cost_s: float
    """Forecast of what going on within the present limit costs: writing and reading back state, smaller folds."""
    resize_cost_s: float
    """Measured or assumed cost of a resize: with RestartContainer checkpoint, restart and resume; live nearly 0."""
    thrash: float
    """0 to 1: share of the last tick lost to refaults, major faults or PSI memory."""
    splits_done: int = 0
    """Splits finished in this attempt: without any, starting again would only repeat it."""
    slices_fixed: bool = False
    """The stage has an author's function: its batches depend on the plan, and smaller slices can't be had."""


@dataclass(frozen=True, slots=True)
class AllocationFailed:
    """The wall stopped an allocation in a worker; the split was rolled back and will be tried again."""

    at_s: float
    split: str
    tries: int
    """How often this split has failed so, this time included, since it last made progress."""
    slice_rows: int
    needed_bytes: int
    """Best estimate of what the split needs, at its present slice size."""


@dataclass(frozen=True, slots=True)
class CheckpointCommitted:
    at_s: float
    id: int
    duration_s: float
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """A checkpoint could not be written; the last good one is untouched."""

    at_s: float
    error: str
    fenced: bool
    short: bool = False
    """It was memory that was missing."""


@dataclass(frozen=True, slots=True)
class ResizeReported:
    """The resize client's news of the request in flight."""

    at_s: float
    outcome: ResizeOutcome
    to_bytes: int
    message: str
    most_bytes: int | None = None
    """INFEASIBLE: the size that would not have been refused, where the refusal says so."""


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The limit file changed, by our asking or not (F27)."""

    at_s: float
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class CoresChanged:
    """The CPU quota changed: so many workers are worth having at most from now on."""

    at_s: float
    workers: int


@dataclass(frozen=True, slots=True)
class Terminating:
    """SIGTERM or SIGINT: checkpoint inside the grace period and exit 75. A second one ends at once."""

    at_s: float
    signal: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Drained:
    """No split is running any more, after a Drain."""

    at_s: float


@dataclass(frozen=True, slots=True)
class WorkFinished:
    """Every split is done and the output is committed and visible."""

    at_s: float


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """The job cannot go on: bad input, an author's exception, a plan that cannot work."""

    at_s: float
    exit_code: int
    message: str


Event = (
    Started | Observed | AllocationFailed | CheckpointCommitted | CheckpointFailed | ResizeReported | LimitChanged
    | CoresChanged | Terminating | Drained | WorkFinished | WorkFailed
)  # fmt: skip
