"""What the executor says of its work: reports to the loop, what a checkpoint takes, figures. Data only."""

from __future__ import annotations

from dataclasses import field

from ..io.sink import Part
from ..lazyclass import dataclass
from .exchange import Generation


@dataclass(frozen=True, slots=True)
class StageFinished:
    """Every split of the stage is done; it ends with a checkpoint.

    ``but``: why splits are left all the same: the right side of a join was let go, and its left is to be exchanged first.
    """

    stage: int
    but: str = ""


@dataclass(frozen=True, slots=True)
class RoomWanted:
    """A split is ready and the ledger has no room for it while state is in memory: a checkpoint would make room."""

    needed_bytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class SplitShort:
    """The wall stopped an allocation. The split was rolled back; no split starts until ``go_on``."""

    task: str
    tries: int
    slice_rows: int
    needed_bytes: int
    error: str


@dataclass(frozen=True, slots=True)
class SplitFailed:
    """A split raised what trying again cannot mend."""

    task: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Idle:
    """No split is running, after ``drain``."""


Report = StageFinished | RoomWanted | SplitShort | SplitFailed | Idle


@dataclass(slots=True)
class Fresh:
    """Finished since the last checkpoint."""

    finished: list[int] = field(default_factory=list)
    parts: list[tuple[int, Part]] = field(default_factory=list)
    rows_in: int = 0
    rows_out: int = 0


@dataclass(frozen=True, slots=True)
class Capture:
    """What one checkpoint makes durable: references, taken in one step."""

    stage: int
    fresh: Fresh
    generation: Generation | None
    complete: bool
    """The stage has no split left: the commit ends it."""
    let_go: tuple[int, ...]
    """Joins that hold their right side no more, by the stage of the left: an earlier stage has splits again."""
    splits_done: int
    """Of all stages, those in this capture included: what finishes while it is written is not saved by it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Where the work stands, for the forecast and for people."""

    stage: int
    kind: str
    splits_done: int
    splits_total: int
    rows_in: int
    rows_out: int
    rows_total: int | None
    running: int
    state_bytes: int
    held_bytes: int
    """Right sides of joins."""
    split_need_bytes: int
    """Projected need of the largest split that is left in this stage."""
    smallest_need_bytes: int
    """The same, at the smallest slice."""
    slices_fixed: bool
    """The stage has an author's function, which gets the same batches whatever memory there is."""
    raw_rows: int
    folded_rows: int
    folded_groups: int
