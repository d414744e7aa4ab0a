"""The output of one split while it is written: one staged file, or one for each partition value.

Covers what all formats share: files that begin with their first row, hive-style partition folders, a bound on open
files and on buffered bytes. Formats bring a writer. Publication is in folder_sink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import EtlkitError, InputError
from ..lazyclass import dataclass
from ..testing.crashpoints import reach
from .part_file import PartFile, sync_folder
from .paths import state_error
from .sink import Part

MAX_OPEN_FILES = 32
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""Over all open partitions of one split; the fullest is written out first."""
TARGET_ROWS = 16 * 1024
"""Rows between two looks at a file's size, where a target is set."""
NEAR = 0.9
"""A file that has this share of its target is not filled up with a tiny last piece."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class FormatWriter(Protocol):
    """Writes batches of one schema to one file. ``close`` ends the format (a footer), not the file."""

    @property
    def buffered_bytes(self) -> int: ...

    def write(self, batch: pa.RecordBatch) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


OpenWriter = Callable[[PartFile, pa.RecordBatch], FormatWriter]


@dataclass(slots=True)
class _Open:
    file: PartFile
    writer: FormatWriter
    name: str
    final: str
    rows: int = 0
    written_bytes: int = 0


class StagedFiles:
    """``staged`` and ``final`` make names from a number (files of this split so far) and a partition folder."""

    def __init__(
        self,
        folder: Path,
        split: int,
        partition_by: tuple[str, ...],
        open_writer: OpenWriter,
        staged: Callable[[int], str],
        final: Callable[[str, int], str],
        target_bytes: int | None = None,
    ) -> None:
        self._target_bytes = target_bytes
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._folder = folder
        self._split = split
        self._partition_by = partition_by
        self._open_writer = open_writer
        self._staged_name = staged
        self._final_name = final
        self._open: dict[str, _Open] = {}
        self._begun: dict[str, int] = {}
        self._paths: list[PartFile] = []
        self._done: list[Part] = []

    def write(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        if self._target_bytes is None:
            self._write_batch(batch)
            return
        # Where a file ends must not depend on how large the slices were that memory allowed.
        while self._waiting_rows + batch.num_rows >= TARGET_ROWS:
            piece = batch.slice(0, TARGET_ROWS - self._waiting_rows)
            batch = batch.slice(piece.num_rows)
            self._write_waiting(piece)
        if batch.num_rows:
            self._waiting.append(batch)
            self._waiting_rows += batch.num_rows

    def write_empty(self, schema: pa.Schema) -> None:
        """A file without rows, in no partition's folder."""
        first = pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)
        self._open[""] = self._begin("", first)

    def _write_waiting(self, *more: pa.RecordBatch) -> None:
        pieces = [*self._waiting, *more]
        self._waiting, self._waiting_rows = [], 0
        if pieces:
            self._write_batch(pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces))

    def _write_batch(self, batch: pa.RecordBatch) -> None:
        for folder, piece in partitions(batch, self._partition_by) if self._partition_by else [("", batch)]:
            self._write(folder, piece)
        if self._partition_by:
            self._bound_buffers()

    def close(self) -> tuple[Part, ...]:
        self._write_waiting()
        for folder in list(self._open):
            self._finish(folder)
        if self._done:
            reach("sink.staged")
            sync_folder(self._folder)
        return tuple(self._done)

    def abort(self) -> None:
        for file in self._paths:
            file.discard()
        for one in self._open.values():
            try:
                one.writer.close()
            except (EtlkitError, OSError, ValueError, pa.ArrowException):
                pass  # it writes to nowhere; the file is gone
        self._open.clear()

    def _write(self, folder: str, piece: pa.RecordBatch) -> None:
        one = self._open.pop(folder, None)
        if one is None:
            if len(self._open) >= MAX_OPEN_FILES:
                self._finish(next(iter(self._open)))
            one = self._begin(folder, piece)
        self._open[folder] = one  # the last written comes last: the first is the one to close
        try:
            one.writer.write(piece)
        except OSError as error:
            raise state_error("the part cannot be written", one.file.path, error) from error
        one.rows += piece.num_rows
        one.written_bytes += piece.nbytes
        if self._target_bytes is not None and self._is_full(one, self._target_bytes):
            self._finish(folder)

    def _is_full(self, one: _Open, target_bytes: int) -> bool:
        """Whether the file has its size. What the writer holds back counts as far as it has been seen to shrink."""
        held = one.writer.buffered_bytes
        encoded = one.written_bytes - held
        ratio = min(1.0, one.file.length / encoded) if encoded > 0 else 1.0
        if held and one.file.length + held * ratio >= target_bytes:
            one.writer.flush()
        return one.file.length >= NEAR * target_bytes

    def _begin(self, folder: str, first: pa.RecordBatch) -> _Open:
        name = self._staged_name(len(self._paths))
        again = self._begun.get(folder, 0)
        self._begun[folder] = again + 1
        file = PartFile(self._folder / name)
        self._paths.append(file)
        return _Open(file, self._open_writer(file, first), name, self._final_name(folder, again))

    def _finish(self, folder: str) -> None:
        one = self._open.pop(folder)
        one.writer.close()
        one.file.close()
        self._done.append(Part(self._split, one.name, one.final, one.rows, one.file.length, one.file.crc32))

    def _bound_buffers(self) -> None:
        while sum(one.writer.buffered_bytes for one in self._open.values()) > MAX_BUFFERED_BYTES:
            max(self._open.values(), key=lambda one: one.writer.buffered_bytes).writer.flush()


def partitions(batch: pa.RecordBatch, keys: tuple[str, ...]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each partition value, in their order, without the key columns: ``("k=v/l=w", rows)``."""
    codes: pa.Array = pa.repeat(pa.scalar(0, pa.int64()), batch.num_rows)
    for key in keys:
        encoded = _plain(batch.column(key)).dictionary_encode(null_encoding="encode")
        codes = pc.add(pc.multiply(codes, len(encoded.dictionary)), encoded.indices.cast(pa.int64()))
    order = pc.sort_indices(codes)  # stable: rows of one value keep their order
    runs = pc.run_end_encode(codes.take(order), run_end_type=pa.int64())
    names = batch.select(list(keys)).take(order)
    rows = batch.drop_columns(list(keys)).take(order)
    start = 0
    for end in runs.run_ends.to_pylist():
        folder = "/".join(
            f"{quote(key, safe='')}={partition_value(_plain(names.column(key))[start], key)}" for key in keys
        )
        yield folder, rows.slice(start, end - start)
        start = end


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def partition_value(value: pa.Scalar, key: str) -> str:
    """As DuckDB, Spark and pyarrow write it: the text, percent-encoded."""
    if not value.is_valid:
        return NULL_PARTITION
    return quote(as_text(value, f"partition_by: '{key}'").as_py(), safe="")


def as_text(values: Any, what: str) -> Any:
    """A column or a value, cast to text. ``InputError`` for bytes that are none."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{what} has bytes that are no UTF-8 text", "write Parquet, JSON or IPC, or drop it"
        ) from error
