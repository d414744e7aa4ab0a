"""What a source is: a schema, an inventory, splits, and batches of one split.

Covers the protocol and its data. The formats are beside it, one file each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from ..plan.expr import Expr


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One input file as it was when the run began. ``version`` is whatever tells a changed file (mtime_ns, ETag)."""

    path: str
    size_bytes: int
    version: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A contiguous piece of one file, by the file's place in the inventory.

    ``start`` and ``stop`` count row groups (Parquet), record batches (IPC) or bytes (CSV, JSON lines).
    """

    file: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Split:
    """What one worker reads in one go. Boundaries depend on the input and the plan only, never on memory or time."""

    segments: tuple[Segment, ...]
    rows: int | None
    """None where the format does not tell before reading."""
    encoded_bytes: int
    """On disk, for the columns asked for."""
    decoded_bytes: int
    """Estimated in Arrow memory, the whole split, for the columns asked for."""
    unit_bytes: int
    """Estimated memory to read one batch of it: the encoded column chunks and dictionaries that stay resident."""


@runtime_checkable
class Source(Protocol):
    """Where rows come from. An author's own source implements this.

    ``schema`` is normalised: ``string_view`` is ``string``, ``binary_view`` is ``binary``.
    Errors: ``InputError`` with the file and row group or line; ``ConfigError`` for a path that is not there.
    """

    @property
    def schema(self) -> pa.Schema:
        """Names and types of its columns, the same in every process."""
        ...

    def inventory(self) -> Sequence[FileRecord]:
        """The files, in the order that defines the order of rows."""
        ...

    def describe(self) -> dict[str, object]:
        """Format, paths and options as JSON data, for the fingerprint and for `plan`."""
        ...

    def splits(self, columns: Sequence[str] | None, predicate: Expr | None, target_bytes: int) -> Sequence[Split]:
        """Consecutive splits of about ``target_bytes`` encoded bytes, in input order, whole row groups.

        Small files share a split. Row groups whose statistics exclude ``predicate`` may be left out.
        """
        ...

    def read(
        self, split: Split, columns: Sequence[str] | None, predicate: Expr | None, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """The rows of one split, in order, as batches of at most ``batch_rows``, with ``schema`` cut to ``columns``.

        ``predicate`` only saves reading (row-group statistics); whoever calls still filters. Never prefetches.
        """
        ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """Files that came together while the job ran, and how they are cut. ``Segment.file`` counts over all arrivals.

    ``inodes``: one a file, 0 where the file system has none; a file keeps it when it is renamed.
    """

    files: tuple[FileRecord, ...]
    inodes: tuple[int, ...]
    splits: tuple[Split, ...]


@runtime_checkable
class Growing(Protocol):
    """A source whose list of splits grows while the job runs. ``splits`` is empty when the job is planned; what arrives is recorded
    before it is used, so that a restart sees the same split numbers."""

    @property
    def arrivals(self) -> Sequence[Arrival]:
        """Everything recorded so far, in order."""
        ...

    @property
    def ended(self) -> bool:
        """Nothing will arrive any more."""
        ...

    def recall(self, schema: pa.Schema, arrivals: Sequence[Arrival]) -> None:
        """Take up what an earlier attempt recorded, before anything else is asked."""
        ...

    def watch(self) -> None:
        """Begin to look. Every thread it needs starts here."""
        ...

    def next(self, timeout_s: float) -> Arrival | None:
        """What has arrived, once each; None after ``timeout_s`` without news, or when it ended."""
        ...

    def take(self, arrival: Arrival) -> None:
        """The arrival is recorded: its splits may be read from now on."""
        ...

    def wrong(self, files: Sequence[int]) -> list[str]:
        """Which of these files are not as they were taken, in words."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class KnowsRanges(Protocol):
    """A source that can bound how many distinct values a column has, from statistics alone. Optional."""

    def distinct_at_most(self, column: str) -> int | None: ...


@runtime_checkable
class SkipsRowGroups(Protocol):
    """A source that leaves out what its statistics exclude. Optional."""

    @property
    def row_groups_skipped(self) -> tuple[int, int]:
        """How many ``splits`` left out the last time, and of how many."""
        ...


@runtime_checkable
class KnowsRepetition(Protocol):
    """A source whose strings may stay in the dictionaries that they are stored in. Optional.

    Most of what reading, filtering and writing such a column costs is copying the same few strings again and again.
    """

    def repeating(self, columns: Sequence[str]) -> frozenset[str]:
        """Those string columns that repeat a few values. A guess: a wrong one costs time, no more."""
        ...

    def in_dictionaries(self, columns: frozenset[str]) -> Source:
        """The same rows, with these columns as ``dictionary(int32, string)``."""
        ...


@runtime_checkable
class KnowsShortDecimals(Protocol):
    """A source that may hand out decimals of up to 18 digits as decimal64, as they are stored. Optional.

    For whoever computes with their unscaled values: making 16 bytes of 8 and 8 of 16 again is a tenth of what a scan costs.
    """

    def in_short_decimals(self, columns: frozenset[str]) -> Source:
        """The same rows under the same ``schema``, but these columns may come as decimal64, batch by batch as it can be done."""
        ...
