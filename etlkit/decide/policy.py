"""The thresholds of the machine, in one frozen place. A running job may be handed a new one (live policy)."""

from __future__ import annotations

from ..lazyclass import dataclass
from .events import ResizeMode


@dataclass(frozen=True, slots=True)
class Policy:
    mode: ResizeMode = ResizeMode.NONE
    max_memory_bytes: int | None = None
    """Never ask for more than this. None: never ask at all."""
    checkpoint_every_s: float | None = 1.0
    """The author's bound on lost work. None: only on pressure and at the end."""
    overhead: float = 0.01
    """Share of the time that periodic checkpoints may cost before the cadence stretches, if the author set no bound."""
    every_is_bound: bool = False
    """True when the author asked for ``checkpoint_every_s``: then it is kept whatever it costs."""
    tight: float = 0.80
    """Memory is tight when what is used or projected is above this share of the limit."""
    critical: float = 0.92
    """Above this share it is critical: state is spilled and splits are held back at once."""
    margin: float = 0.15
    """Room above the forecast in what is asked for, as a share of it."""
    quantum_bytes: int = 16 * 1024 * 1024
    """Sizes asked for are multiples of this."""
    cooldown_s: float = 10.0
    """No second request of ours this soon after a limit changed or a request ended."""
    deferred_deadline_s: float = 60.0
    """How long a Deferred or failing resize is waited for before it is withdrawn."""
    request_deadline_s: float = 15.0
    """How long an accepted request may take to be actuated before it counts as stuck."""
    refused_retry_s: float = 300.0
    """How long after UNREACHABLE the next request may be tried. REFUSED and INFEASIBLE sizes are not tried again."""
    min_workers: int = 1
    """Never fewer splits at once than this, however tight memory is."""
    min_slice_rows: int = 1024
    """Rows a slice is halved down to, after allocations that failed."""
    slice_rows: int = 65536
    """Rows of a slice of a batch: what an operator works on in one go while memory is calm."""
    max_tries: int = 6
    """Tries of one split at the smallest setting, each ended by a failed allocation, before the job stops with the size it needs."""
