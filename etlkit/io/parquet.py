"""Parquet files as a source: splits of whole row groups, read one row group at a time.

Covers schemas of several files, columns in the names of folders, splits with their cost, and reading with little memory
(no prefetch, 64 KiB a column, the page cache dropped behind). Footers are read once for a plan and boiled down
(parquet_facts); no more than two are kept. It does not filter rows: a predicate only leaves out row groups. Writing is
in parquet_sink.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, InputError
from ..memory.allocation import is_allocation_failure
from .batches import (
    IN_DICTIONARY,
    SCHEMA_MODES,
    SchemaMode,
    check_drift,
    conform,
    cut,
    empty_batch,
    merge_schemas,
    normal_schema,
    rebatch,
)
from .hive import folder_columns, folder_scalars, with_constants
from .parquet_facts import READ_BUFFER_BYTES, byte_range, column_leaves, few_values, integer_range, row_group_facts
from .parquet_prune import bounds_of, excluded, excluded_by_folder
from .parquet_short import short_footer, shortened
from .paths import REMOTE_READ_BYTES, drop_behind, expand, local_path, open_input
from .source import FileRecord, Segment, Split

if TYPE_CHECKING:
    from ..plan.expr import Expr

SPLIT_OVERHEAD_BYTES = 16 * 1024
"""What a row group counts for in a split beside its columns, so that a count(*) or a million tiny files split too."""
_KEPT_FOOTERS = 2
_DAMAGE = (pa.ArrowException, OSError, ValueError, EOFError)


@dataclass(frozen=True, slots=True)
class _Footer:
    """What pyarrow makes of one file's footer; ``arrow`` is as it will be read, ``schema`` is normalised."""

    metadata: Any
    arrow: pa.Schema
    schema: pa.Schema


@dataclass(slots=True)
class _Known:
    """What a source has learned so far. Filled on first use, under its lock."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    files: tuple[FileRecord, ...] | None = None
    schema: pa.Schema | None = None
    in_files: pa.Schema | None = None
    in_folders: pa.Schema | None = None
    footers: dict[int, _Footer] = field(default_factory=dict)


class ParquetSource:
    """Rows of Parquet files. ``schema`` is what to do where files differ: "strict" refuses, "union" takes all columns
    and fills with null, "first" takes the first file's columns. Nothing is read before it is asked for."""

    __slots__ = ("_dictionaries", "_known", "_short", "_short_footers", "_skipped", "mode", "paths")

    def __init__(self, paths: Sequence[str], schema: SchemaMode = "strict") -> None:
        if schema not in SCHEMA_MODES:
            raise ConfigError(f"schema={schema!r} is not known", f"one of {', '.join(SCHEMA_MODES)}")
        self.paths = tuple(paths)
        self.mode = schema
        self._known = _Known()
        self._dictionaries: frozenset[str] = frozenset()
        self._short: frozenset[str] = frozenset()
        self._skipped = (0, 0)
        self._short_footers: dict[int, Any] = {}
        """By file: the footer by which those columns are read as decimal64; None where there is none."""

    @property
    def schema(self) -> pa.Schema:
        """The files' columns, then those that stand in the names of their folders."""
        plain = self._plain_schema
        if not self._dictionaries:
            return plain
        return pa.schema([pa.field(f.name, IN_DICTIONARY) if f.name in self._dictionaries else f for f in plain])

    def repeating(self, columns: Sequence[str]) -> frozenset[str]:
        if not self.inventory():
            return frozenset()
        footer = self._footer(0)
        leaves = column_leaves(footer.arrow)
        strings = [name for name in columns if name in leaves and self._plain_schema.field(name).type == pa.string()]
        return frozenset(name for name in strings if few_values(footer.metadata, leaves[name][0][0]))

    def in_dictionaries(self, columns: frozenset[str]) -> ParquetSource:
        return self._again(columns, self._short)

    def in_short_decimals(self, columns: frozenset[str]) -> ParquetSource:
        return self._again(self._dictionaries, columns)

    def _again(self, dictionaries: frozenset[str], short: frozenset[str]) -> ParquetSource:
        made = ParquetSource(self.paths, self.mode)
        made._known, made._dictionaries, made._short = self._known, dictionaries, short
        return made

    @property
    def _plain_schema(self) -> pa.Schema:
        with self._known.lock:
            if self._known.schema is None:
                in_files = self._file_schema
                added = [one for one in folder_columns(self.inventory()) if one.name not in in_files.names]
                self._known.in_folders = pa.schema(added)
                self._known.schema = pa.schema([*in_files, *added])
            return self._known.schema

    def pin(self, files: Sequence[FileRecord], schema: pa.Schema | None) -> None:
        """Exactly these files, read as ``schema`` (None: as the first one is), without columns from the names of folders."""
        with self._known.lock:
            self._known.files = tuple(files)
            self._known.in_folders = pa.schema([])
            self._known.in_files = schema
            self._known.schema = self._file_schema

    @property
    def _file_schema(self) -> pa.Schema:
        with self._known.lock:
            if self._known.in_files is None:
                files = self.inventory()
                if self.mode == "union":
                    schemas = ((file.path, self._footer(index).schema) for index, file in enumerate(files))
                    self._known.in_files = merge_schemas(schemas)
                else:
                    self._known.in_files = self._footer(0).schema
            return self._known.in_files

    def _constants(self, file: FileRecord) -> dict[str, pa.Scalar]:
        with self._known.lock:
            if self._known.in_folders is None:
                _ = self.schema
            return folder_scalars(file.path, self._known.in_folders)

    def inventory(self) -> Sequence[FileRecord]:
        with self._known.lock:
            if self._known.files is None:
                self._known.files = expand(self.paths)
            return self._known.files

    def describe(self) -> dict[str, object]:
        return {"format": "parquet", "paths": list(self.paths), "schema": self.mode}

    def splits(self, columns: Sequence[str] | None, predicate: Expr | None, target_bytes: int) -> Sequence[Split]:
        wanted = self.schema.names if columns is None else columns
        done: list[Split] = []
        segments: list[Segment] = []
        rows = encoded = decoded = unit = cost = skipped = groups = 0
        for index, file in enumerate(self.inventory()):
            constants = self._constants(file)
            if excluded_by_folder(predicate, constants):
                continue
            footer = self._footer(index)
            metadata = footer.metadata
            if self.mode == "strict":
                check_drift(file.path, footer.schema, self._file_schema, self.inventory()[0].path)
            constant_bytes = sum(8 + len(str(value)) for name, value in constants.items() if name in wanted)
            by_column = column_leaves(footer.arrow)
            leaves = [
                (leaf, IN_DICTIONARY if name in self._dictionaries else kind)
                for name in wanted
                for leaf, kind in by_column.get(name, ())
            ]
            bounds = bounds_of(predicate, footer.arrow, by_column)
            groups += int(metadata.num_row_groups)
            for group in range(metadata.num_row_groups):
                if excluded(metadata, group, bounds):
                    skipped += 1
                    continue
                facts = row_group_facts(metadata, group, leaves)
                weight = facts.encoded_bytes + SPLIT_OVERHEAD_BYTES
                if segments and cost + weight > target_bytes:
                    done.append(Split(tuple(segments), rows, encoded, decoded, unit))
                    segments, rows, encoded, decoded, unit, cost = [], 0, 0, 0, 0, 0
                if segments and segments[-1].file == index and segments[-1].stop == group:
                    segments[-1] = Segment(index, segments[-1].start, group + 1)
                else:
                    segments.append(Segment(index, group, group + 1))
                rows += facts.rows
                encoded += facts.encoded_bytes
                decoded += facts.decoded_bytes + facts.rows * constant_bytes
                unit = max(unit, facts.unit_bytes)
                cost += weight
        if segments:
            done.append(Split(tuple(segments), rows, encoded, decoded, unit))
        self._skipped = (skipped, groups)
        return done

    @property
    def row_groups_skipped(self) -> tuple[int, int]:
        return self._skipped

    def distinct_at_most(self, column: str) -> int | None:
        """A bound on the distinct values of an integer or date column: the width of its range in the statistics."""
        lowest: int | None = None
        highest = 0
        for index in range(len(self.inventory())):
            footer = self._footer(index)
            leaves = column_leaves(footer.arrow).get(column, ())
            if len(leaves) != 1:
                return None
            found = integer_range(footer.metadata, leaves[0][0])
            if found is None:
                return None
            lowest = found[0] if lowest is None else min(lowest, found[0])
            highest = max(highest, found[1]) if index else found[1]
        return None if lowest is None else highest - lowest + 2  # and null

    def read(
        self, split: Split, columns: Sequence[str] | None, predicate: Expr | None, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Batches of exactly ``batch_rows`` rows, but for the last of each row group; none crosses a row group."""
        whole = cut(self.schema, columns)
        for segment in split.segments:
            file = self.inventory()[segment.file]
            constants = {name: value for name, value in self._constants(file).items() if name in whole.names}
            kept = self._kept_footer(segment.file)
            schema, metadata = whole, None if kept is None else kept.metadata
            if self._short:
                schema, metadata = self._shortened(segment.file, whole)
            with _opened(file, metadata, self._dictionaries) as (opened, parquet):
                if not self._short:
                    self._keep_footer(segment.file, _footer(parquet, file))
                if segment.stop > parquet.num_row_groups:
                    raise InputError(
                        f"has {parquet.num_row_groups} row groups, the plan counts on {segment.stop}",
                        "the file changed: put the old one back, or start again with --restart",
                        place=file.path,
                    )
                names = set(parquet.schema_arrow.names)
                present = [name for name in schema.names if name in names]
                for group in range(segment.start, segment.stop):
                    place = f"{file.path}, row group {group}"
                    if present:
                        raw = _row_group(parquet, group, present, batch_rows, place)
                    else:
                        count = parquet.metadata.row_group(group).num_rows
                        raw = (empty_batch(min(batch_rows, count - at)) for at in range(0, count, batch_rows))
                    done = (with_constants(conform(batch, schema, place), constants) for batch in raw)
                    yield from rebatch(done, batch_rows)
                    drop_behind(opened, file, *byte_range(parquet.metadata, group))

    def _shortened(self, index: int, schema: pa.Schema) -> tuple[pa.Schema, Any]:
        """What one file is read as, and by which footer."""
        footer = self._footer(index)
        # Where a file's own type is another one than is asked for, it is cast as ever.
        alike = [f.name for f in schema if f.name in self._short and f.name in footer.schema.names]
        alike = [name for name in alike if footer.schema.field(name).type == schema.field(name).type]
        if not alike:
            return schema, footer.metadata
        with self._known.lock:
            if index not in self._short_footers:
                self._short_footers[index] = short_footer(footer.metadata, alike)
                while len(self._short_footers) > _KEPT_FOOTERS:
                    self._short_footers.pop(next(iter(self._short_footers)))
            short = self._short_footers[index]
        return (schema, footer.metadata) if short is None else (shortened(schema, alike), short)

    def _kept_footer(self, index: int) -> _Footer | None:
        with self._known.lock:
            return self._known.footers.get(index)

    def _keep_footer(self, index: int, footer: _Footer) -> None:
        """Row groups of one file are read one after the other; a large footer need not be parsed for each."""
        with self._known.lock:
            self._known.footers[index] = footer
            while len(self._known.footers) > _KEPT_FOOTERS:
                self._known.footers.pop(next(iter(self._known.footers)))

    def _footer(self, index: int) -> _Footer:
        kept = self._kept_footer(index)
        if kept is None:
            file = self.inventory()[index]
            with _opened(file, None, ()) as (_, parquet):
                kept = _footer(parquet, file)
            self._keep_footer(index, kept)
        return kept


def _footer(parquet: pq.ParquetFile, file: FileRecord) -> _Footer:
    try:
        metadata, arrow = parquet.metadata, parquet.schema_arrow
        # These are text that may not be UTF-8.
        names, schema, _ = arrow.names, normal_schema(arrow), metadata.created_by
    except _DAMAGE as error:
        if is_allocation_failure(error):
            raise
        raise _damaged(file.path, error) from error
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError("two columns have this name", "rename one", place=f"{file.path}, column {twice}")
    return _Footer(metadata, arrow, schema)


@contextmanager
def _opened(
    file: FileRecord, metadata: Any, dictionaries: Iterable[str]
) -> Iterator[tuple[pa.NativeFile, pq.ParquetFile]]:
    opened = open_input(file)
    try:
        try:
            parquet = pq.ParquetFile(
                opened,
                metadata=metadata,
                read_dictionary=list(dictionaries),
                memory_map=False,
                pre_buffer=False,
                buffer_size=READ_BUFFER_BYTES if local_path(file.path) is not None else REMOTE_READ_BYTES,
                coerce_int96_timestamp_unit="us",  # what DuckDB reads; nanoseconds do not reach year 9999
                page_checksum_verification=True,
                arrow_extensions_enabled=False,
            )
        except _DAMAGE as error:
            if is_allocation_failure(error):
                raise
            raise _damaged(file.path, error) from error
        yield opened, parquet
    finally:
        opened.close()


def _row_group(
    parquet: pq.ParquetFile, group: int, columns: list[str], batch_rows: int, place: str
) -> Iterator[pa.RecordBatch]:
    try:
        yield from parquet.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False)
    except _DAMAGE as error:
        if is_allocation_failure(error):
            raise
        column = _damaged_column(parquet, group, columns)
        raise _damaged(f"{place}, column {column}" if column else place, error) from error


def _damaged_column(parquet: pq.ParquetFile, group: int, columns: list[str]) -> str | None:
    """Which column it is: pyarrow does not say, so each is tried alone."""
    for column in columns:
        try:
            for _ in parquet.iter_batches(65536, row_groups=[group], columns=[column], use_threads=False):
                pass
        except _DAMAGE:
            return column
    return None


def _damaged(place: str, error: BaseException) -> InputError:
    remedy = "write the file anew, or take it out of the input"
    return InputError(f"not readable as Parquet: {error}", remedy, place=place)
