"""Arrow IPC files (Feather version 2) as a source and a sink.

The source's segments are record batches; sizes of single record batches are not in the footer, so splits share a file's bytes
evenly. What is read is validated in full, since IPC has no checksums and a wrong offset would be followed out of memory.
The sink collects small batches, compresses with lz4, and writes dictionary columns as plain ones (the file format
takes one dictionary a column, and batches bring several). The streaming format is not read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from ..errors import ConfigError, InputError
from ..memory.allocation import is_allocation_failure
from ..plan.nodes import IfExists, Visible
from .batches import SCHEMA_MODES, SchemaMode, check_drift, conform, cut, merge_schemas, normal_schema, rebatch
from .collector import Collector
from .folder_sink import FolderSink
from .part_file import PartFile
from .paths import drop_behind, expand, open_input
from .source import FileRecord, Segment, Split

if TYPE_CHECKING:
    from ..plan.expr import Expr

COMPRESSIONS = ("lz4", "zstd", "none")
BATCH_ROWS = 64 * 1024
BATCH_BYTES = 16 * 1024 * 1024
BATCH_OVERHEAD_BYTES = 16 * 1024
_EXPANSION = 3
"""Decoded bytes for a byte of the file, which may be compressed: the footer does not say."""
_DAMAGE = (pa.ArrowException, OSError, ValueError, EOFError)


@dataclass(slots=True)
class _Known:
    lock: threading.RLock = field(default_factory=threading.RLock)
    files: tuple[FileRecord, ...] | None = None
    schema: pa.Schema | None = None


class IpcSource:
    """Rows of Arrow IPC files. ``schema`` as for Parquet: "strict", "union" or "first"."""

    __slots__ = ("_known", "mode", "paths")

    def __init__(self, paths: Sequence[str], schema: SchemaMode = "strict") -> None:
        if schema not in SCHEMA_MODES:
            raise ConfigError(f"schema={schema!r} is not known", f"one of {', '.join(SCHEMA_MODES)}")
        self.paths = tuple(paths)
        self.mode = schema
        self._known = _Known()

    @property
    def schema(self) -> pa.Schema:
        with self._known.lock:
            if self._known.schema is None:
                files = self.inventory() if self.mode == "union" else self.inventory()[:1]
                self._known.schema = merge_schemas((file.path, _schema_of(file)) for file in files)
            return self._known.schema

    def inventory(self) -> Sequence[FileRecord]:
        with self._known.lock:
            if self._known.files is None:
                self._known.files = expand(self.paths)
            return self._known.files

    def pin(self, files: Sequence[FileRecord], schema: pa.Schema | None) -> None:
        """Exactly these files, read as ``schema`` (None: as the first one is)."""
        with self._known.lock:
            self._known.files = tuple(files)
            self._known.schema = schema

    def describe(self) -> dict[str, object]:
        return {"format": "ipc", "paths": list(self.paths), "schema": self.mode}

    def splits(self, columns: Sequence[str] | None, predicate: Expr | None, target_bytes: int) -> Sequence[Split]:
        wanted = len(self.schema if columns is None else columns) / max(1, len(self.schema))
        done: list[Split] = []
        segments: list[Segment] = []
        encoded = cost = unit = 0
        for index, file in enumerate(self.inventory()):
            with _opened(file) as (_, reader):
                if self.mode == "strict":
                    check_drift(file.path, normal_schema(reader.schema), self.schema, self.inventory()[0].path)
                count = reader.num_record_batches
            size = int(file.size_bytes * wanted) // max(1, count)
            for batch in range(count):
                if segments and cost + size + BATCH_OVERHEAD_BYTES > target_bytes:
                    done.append(Split(tuple(segments), None, encoded, encoded * _EXPANSION, unit))
                    segments, encoded, cost, unit = [], 0, 0, 0
                if segments and segments[-1].file == index:
                    segments[-1] = Segment(index, segments[-1].start, batch + 1)
                else:
                    segments.append(Segment(index, batch, batch + 1))
                encoded += size
                cost += size + BATCH_OVERHEAD_BYTES
                unit = max(unit, size * (1 + _EXPANSION))
        if segments:
            done.append(Split(tuple(segments), None, encoded, encoded * _EXPANSION, unit))
        return done

    def read(
        self, split: Split, columns: Sequence[str] | None, predicate: Expr | None, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Batches of exactly ``batch_rows`` rows, but for the last of each record batch of the file."""
        schema = cut(self.schema, columns)
        for segment in split.segments:
            file = self.inventory()[segment.file]
            with _opened(file, schema.names) as (opened, reader):
                for index in range(segment.start, segment.stop):
                    place = f"{file.path}, record batch {index}"
                    yield from rebatch([conform(_record_batch(reader, index, place), schema, place)], batch_rows)
                    drop_behind(opened, file, 0, opened.tell())


@contextmanager
def _opened(
    file: FileRecord, columns: Sequence[str] | None = None
) -> Iterator[tuple[pa.NativeFile, pa.ipc.RecordBatchFileReader]]:
    opened = open_input(file)
    try:
        try:
            reader = pa.ipc.open_file(opened)
            names = normal_schema(reader.schema).names  # text that may not be UTF-8
            if columns is not None:
                found = [index for index, name in enumerate(names) if name in columns]
                # None means all to pyarrow; one column is the least that still has rows.
                options = pa.ipc.IpcReadOptions(included_fields=found or [0], use_threads=False)
                reader = pa.ipc.open_file(opened, options=options)
        except _DAMAGE as error:
            if is_allocation_failure(error):
                raise
            raise _damaged(file.path, error) from error
        yield opened, reader
    finally:
        opened.close()


def _schema_of(file: FileRecord) -> pa.Schema:
    with _opened(file) as (_, reader):
        return normal_schema(reader.schema)


def _record_batch(reader: pa.ipc.RecordBatchFileReader, index: int, place: str) -> pa.RecordBatch:
    try:
        batch = reader.get_batch(index)
        batch.validate(full=True)
    except _DAMAGE as error:
        if is_allocation_failure(error):
            raise
        raise _damaged(place, error) from error
    return batch


def _damaged(place: str, error: BaseException) -> InputError:
    remedy = "write the file anew (pyarrow.ipc.new_file), or take it out of the input"
    return InputError(f"not readable as an Arrow IPC file: {error}", remedy, place=place)


class IpcSink(FolderSink):
    """Arrow IPC files, named .arrow."""

    format = "ipc"
    extension = "arrow"

    def __init__(
        self,
        path: str,
        if_exists: IfExists = "error",
        compression: str = "lz4",
        visible: Visible = "end",
        target_file_bytes: int | None = None,
    ) -> None:
        super().__init__(path, if_exists, (), visible, target_file_bytes)
        if compression not in COMPRESSIONS:
            raise ConfigError(f"compression={compression!r} is not known", f"one of {', '.join(COMPRESSIONS)}")
        self.compression = compression

    def cannot_hold(self, kind: pa.DataType) -> bool:
        return False

    def options(self) -> dict[str, object]:
        return {"compression": self.compression}

    def open_writer(self, file: PartFile, first: pa.RecordBatch) -> _IpcWriter:
        return _IpcWriter(file, first.schema, self.compression)


class _IpcWriter(Collector):
    def __init__(self, file: PartFile, schema: pa.Schema, compression: str) -> None:
        plain = [pa.field(one.name, one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in schema]
        self._plain = pa.schema(plain)
        options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression, use_threads=False)
        self._writer = pa.ipc.new_file(file, self._plain, options=options)
        super().__init__(schema, BATCH_ROWS, BATCH_BYTES)

    def emit(self, table: pa.Table) -> None:
        plain = table if table.schema.equals(self._plain) else table.cast(self._plain)
        self._writer.write_table(plain.combine_chunks(), max_chunksize=BATCH_ROWS)

    def close(self) -> None:
        self.flush()
        self._writer.close()
