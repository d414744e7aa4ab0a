"""What a checkpoint says, as data: runs, parts, increments, and all increments folded.

Covers the types that the engine and the runtime hand in and get back. How they lie on disk is ``manifest.py``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, TypeAlias

from ..io.sink import Part
from ..lazyclass import dataclass
from .intervals import Intervals

Json: TypeAlias = Any
"""What orjson reads and writes: dict, list, str, int (64 bits), float (finite), bool, None."""


class Phase(StrEnum):
    RUNNING = "running"
    PUBLISHING = "publishing"
    """From here on the output may be visible: recovery only rolls forward."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Section:
    """One Arrow IPC stream inside a run file. A large partition has several, in order. ``length`` counts bytes in the file,
    ``bytes`` bytes in Arrow memory."""

    partition: int
    offset: int
    length: int
    rows: int
    bytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class RunRef:
    """One durable run file, by name, length and checksum.

    ``index_crc32`` covers the file's index, which holds the checksum of every section: so it covers all of the file.
    ``sections`` is filled by ``RunWriter.close``; in a snapshot it is empty (manifests must not grow with the number of
    partitions) and ``RunReader.sections`` has it.
    """

    name: str
    stage: int
    level: int
    length: int
    rows: int
    bytes: int
    index_crc32: int
    sections: tuple[Section, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class StageDelta:
    """What one stage has done since the checkpoint before. ``parts`` are (sink number, part). ``dropped`` names runs (and
    parts) that the ones here replace."""

    finished: Intervals = field(default_factory=Intervals)
    runs: tuple[RunRef, ...] = ()
    dropped: tuple[str, ...] = ()
    parts: tuple[tuple[int, Part], ...] = ()
    rows_in: int = 0
    rows_out: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """One commit. Of ``facts`` the last one wins, by key; None removes a key."""

    reason: str
    stages: Mapping[int, StageDelta] = field(default_factory=dict)
    facts: Mapping[str, Json] = field(default_factory=dict)
    phase: Phase = Phase.RUNNING


@dataclass(frozen=True, slots=True)
class StageState:
    """All deltas of one stage, folded."""

    finished: Intervals = field(default_factory=Intervals)
    runs: tuple[RunRef, ...] = ()
    parts: tuple[tuple[int, Part], ...] = ()
    rows_in: int = 0
    rows_out: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at one checkpoint. ``at`` is RFC 3339, UTC."""

    id: int
    epoch: int
    phase: Phase
    run_id: str
    fingerprint: Mapping[str, str]
    facts: Mapping[str, Json]
    stages: Mapping[int, StageState]
    at: str


@dataclass(frozen=True, slots=True)
class Committed:
    """``bytes`` is what this checkpoint added to the state directory: its runs, its manifest and the lists beside it."""

    id: int
    duration_s: float
    bytes: int
    reason: str
    at: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something on disk that is not what was written. ``fatal``: the newest checkpoint needs it."""

    name: str
    text: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"
