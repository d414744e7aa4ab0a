"""What the machine tells the runtime to do. Each instruction carries its reason, in words a person reads in `show`."""

from __future__ import annotations

from enum import StrEnum

from ..lazyclass import dataclass


class Level(StrEnum):
    CALM = "calm"
    TIGHT = "tight"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class SetLevel:
    """The memory level changed; shown to people, and nothing else follows from it."""

    level: Level
    reason: str


@dataclass(frozen=True, slots=True)
class ReleasePools:
    """Give freed memory back to the system (pool.release_unused, malloc_trim, fadvise on our own files)."""

    reason: str


@dataclass(frozen=True, slots=True)
class SetWorkers:
    """From now on at most this many splits run at once; running ones finish."""

    workers: int
    reason: str


@dataclass(frozen=True, slots=True)
class SetSliceRows:
    """Read and process at most this many rows at a time in splits that start from now on."""

    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Commit what is finished. ``spill``: let the state in memory go afterwards; that is how state is spilled."""

    reason: str
    spill: bool = False


@dataclass(frozen=True, slots=True)
class RequestMemory:
    """PATCH pods/resize to this limit, once the Checkpoint of the same step, with the intent in it, is committed.

    If that checkpoint fails, the request is forgotten. ``give_back``: the limit gets smaller.
    """

    to_bytes: int
    reason: str
    give_back: bool = False


@dataclass(frozen=True, slots=True)
class WithdrawResize:
    """PATCH back to this, the limit in force, so that a Deferred resize is not granted later (F6).

    If the PATCH has not been sent yet, because its checkpoint is still being written, it is not sent at all.
    """

    to_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Start no more splits; let running ones finish until ``deadline_s`` on the events' clock, then give them up."""

    deadline_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Quit:
    """End the process with this code. Never 0 with work left, never between a PATCH and its actuation (F15)."""

    exit_code: int
    reason: str


Instruction = (
    SetLevel | ReleasePools | SetWorkers | SetSliceRows | Checkpoint | RequestMemory | WithdrawResize | Drain | Quit
)  # fmt: skip
