"""What a sink is: stage, commit, recover.

A sink is handed the rows of one split at a time, writes them to staged parts that no reader sees, and publishes all
of them when the run's last checkpoint names them. Covers the protocol and its data; formats are beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """One durable staged file. ``name`` is relative to the sink's staging folder (``part-00017.e3.parquet``);
    ``final`` is the plain name, relative to the output folder, that it is published under (it may contain
    partition folders). ``crc32`` is over the file's bytes."""

    split: int
    name: str
    final: str
    rows: int
    length: int
    crc32: int


class StagedPart(Protocol):
    """The output of one split while it is written. Not thread-safe; one worker owns it."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Rows of the split, in order. Raises ``StateError`` for I/O."""
        ...

    def close(self) -> tuple[Part, ...]:
        """Make all of it durable (file synced, folder synced) and say what there is; empty if no rows were written."""
        ...

    def abort(self) -> None:
        """Remove what was written. Never raises."""
        ...


@runtime_checkable
class TakesDictionaries(Protocol):
    """A sink that writes strings that come in dictionaries as strings. Optional; others are given plain strings."""

    takes_dictionaries: bool


@runtime_checkable
class Sink(Protocol):
    """Where rows go. Errors: ``ConfigError`` for an output that exists (if_exists="error"), ``StateError`` for I/O."""

    def describe(self) -> dict[str, object]:
        """Format, path and options as JSON data, for the fingerprint and for `plan`."""
        ...

    def prepare(self, run_id: str, *, resuming: bool) -> None:
        """Check ``if_exists`` (only when not ``resuming``) and make the staging folder of this run on the output's
        own filesystem."""
        ...

    def stage(self, split: int, epoch: int, schema: pa.Schema) -> StagedPart:
        """Begin the output of one split. Staged names carry epoch and split and are never overwritten."""
        ...

    def recover(self, parts: Sequence[Part]) -> int:
        """Remove staged files of this run that ``parts`` does not name; bytes removed. Raises ``CorruptStateError`` if
        a named one is missing in staging and at its final name, or has another length."""
        ...

    def commit(self, parts: Sequence[Part], fence: Callable[[], None]) -> None:
        """Publish: every part under its final name, ``_SUCCESS`` last, staging removed. May be repeated after a crash
        at any point; rolls forward. Calls ``fence`` (which raises ``FencedError``) before each visible change."""
        ...


@runtime_checkable
class ShowsEarly(Protocol):
    """A sink whose parts can be seen before the run is done. Optional."""

    @property
    def visible(self) -> str:
        """``checkpoint``: show parts as soon as a checkpoint names them; ``end``: only with ``commit``."""
        ...

    def publish(self, parts: Sequence[Part], fence: Callable[[], None]) -> None:
        """Show these parts under their final names. May be repeated after a crash at any point; ``commit`` still comes at the
        end, with all parts. ``recover`` takes back what was shown and is not named any more."""
        ...


@runtime_checkable
class HasShares(Protocol):
    """A sink whose parts several processes stage, each its own splits, and one of them commits. Optional; without it a job can't be
    fanned out."""

    def share(self, name: str) -> Sink:
        """The same output for one of the processes: ``prepare`` takes part in what the whole sink has prepared, ``stage`` marks names
        with ``name``, ``recover`` looks at those alone. It is never committed."""
        ...


@runtime_checkable
class ShowsEmpty(Protocol):
    """A sink that leaves something readable where there are no rows at all. Optional."""

    def stage_empty(self, epoch: int, schema: pa.Schema) -> tuple[Part, ...]:
        """A durable part of no rows that tells the columns, as split 0; or nothing, where the format can't say it."""
        ...
