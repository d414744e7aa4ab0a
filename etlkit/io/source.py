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
    def schema(self) -> pa.Schema: ...

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


@runtime_checkable
class KnowsRanges(Protocol):
    """A source that can bound how many distinct values a column has, from statistics alone. Optional."""

    def distinct_at_most(self, column: str) -> int | None: ...
