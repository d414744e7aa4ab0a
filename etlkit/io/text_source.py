"""What CSV and JSON lines share as sources: files cut at records, read block by block, rows that do not parse.

Covers inventory, splits (byte ranges of whole records; a compressed file is one piece, read from its start), lines, and
estimates from a sample. A format says how a schema is inferred from the sample and how a block is parsed. It does not
prefetch and keeps no more than a block.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from ..errors import ConfigError, InputError
from ..memory.allocation import is_allocation_failure
from .bad_rows import BAD_ROWS, BadRows, Parse, Quarantine, Reject, parsed, refuse, skip
from .batches import cut, normal_type, rebatch
from .paths import drop_behind, expand, local_path, open_input
from .records import BLOCK_BYTES, MAX_RECORD_BYTES, blocks, last_end, pieces
from .source import FileRecord, Segment, Split

if TYPE_CHECKING:
    from ..plan.expr import Expr

FILE_OVERHEAD_BYTES = 16 * 1024
_DECODED_RATIO = 2.0
"""Arrow bytes for a byte of text where no sample says better."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The schema, and for each column its Arrow bytes for a byte of text."""

    schema: pa.Schema
    ratios: Mapping[str, float]


@dataclass(slots=True)
class _Known:
    lock: threading.RLock = field(default_factory=threading.RLock)
    files: tuple[FileRecord, ...] | None = None
    sample: Sample | None = None


class TextSource(ABC):
    """A format gives ``format``, ``options``, ``infer``, ``head``, ``parser`` and ``column_in``."""

    format: ClassVar[str]

    def __init__(
        self,
        paths: Sequence[str],
        schema: Mapping[str, Any] | pa.Schema | None,
        bad_rows: BadRows,
        quarantine: str | None,
        separator: bytes,
    ) -> None:
        if bad_rows not in BAD_ROWS:
            raise ConfigError(f"bad_rows={bad_rows!r} is not known", f"one of {', '.join(BAD_ROWS)}")
        self.paths = tuple(paths)
        self.bad_rows = bad_rows
        self.types = _types(schema)
        self.separator = separator
        self._quarantine = quarantine
        self._known = _Known()

    @abstractmethod
    def options(self) -> dict[str, object]:
        """The format's own options, as JSON data."""

    @abstractmethod
    def infer(self, sample: bytes, file: FileRecord) -> tuple[pa.Schema, pa.Table]:
        """Schema (types given by the author win) and the sample as a table. ``sample`` is whole records from the start."""

    @abstractmethod
    def head(self, data: bytes, file: FileRecord) -> int:
        """How many bytes at the start of a file are no rows. ``data`` is whole records from the start."""

    @abstractmethod
    def parser(self, file: FileRecord, head: Callable[[], bytes], schema: pa.Schema) -> Parse:
        """What makes a batch of ``schema`` out of whole records. ``head`` reads the start of the file."""

    @abstractmethod
    def column_in(self, reason: str, file: FileRecord, head: Callable[[], bytes]) -> str | None:
        """The column that a parser's message is about."""

    @property
    def schema(self) -> pa.Schema:
        return self._sample().schema

    def inventory(self) -> Sequence[FileRecord]:
        with self._known.lock:
            if self._known.files is None:
                self._known.files = expand(self.paths)
            return self._known.files

    def pin(self, files: Sequence[FileRecord], schema: pa.Schema | None) -> None:
        """Exactly these files, read as ``schema`` (None: as found in the first one)."""
        with self._known.lock:
            self._known.files = tuple(files)
            if schema is not None:
                ratio = _DECODED_RATIO / max(1, len(schema))
                self._known.sample = Sample(schema, dict.fromkeys(schema.names, ratio))

    def describe(self) -> dict[str, object]:
        types = {name: str(kind) for name, kind in self.types.items()}
        shared = {"format": self.format, "paths": list(self.paths), "schema": types, "bad_rows": self.bad_rows}
        return {**shared, **self.options()}

    def splits(self, columns: Sequence[str] | None, predicate: Expr | None, target_bytes: int) -> Sequence[Split]:
        sample = self._sample()
        names = sample.schema.names if columns is None else columns
        ratio = sum(sample.ratios[name] for name in names)
        done: list[Split] = []
        segments: list[Segment] = []
        size = cost = 0
        for index, file in enumerate(self.inventory()):
            for start, stop in self._pieces(file, target_bytes):
                weight = stop - start + FILE_OVERHEAD_BYTES
                if segments and cost + weight > target_bytes:
                    done.append(_split(segments, size, ratio))
                    segments, size, cost = [], 0, 0
                segments.append(Segment(index, start, stop))
                size += stop - start
                cost += weight
        if segments:
            done.append(_split(segments, size, ratio))
        return done

    def read(
        self, split: Split, columns: Sequence[str] | None, predicate: Expr | None, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Batches of exactly ``batch_rows`` rows, but for the last of each segment."""
        schema = cut(self.schema, columns)
        for segment in split.segments:
            file = self.inventory()[segment.file]
            aside = self._aside(file, segment.start) if self.bad_rows == "quarantine" else None
            reject = aside.reject if aside else skip if self.bad_rows == "skip" else self._refuse(file)
            try:
                yield from rebatch(self._segment(segment, file, schema, reject), batch_rows)
                if aside:
                    aside.close()
            except BaseException:
                if aside:
                    aside.abandon()
                raise

    def _segment(
        self, segment: Segment, file: FileRecord, schema: pa.Schema, reject: Reject
    ) -> Iterator[pa.RecordBatch]:
        parse = self.parser(file, lambda: self._start(file), schema)
        packed = compression_of(file.path) is not None
        position = segment.start
        line = 1
        before = -1

        def located(line: int, text: bytes, reason: str) -> None:
            nonlocal before
            before = self._newlines(file, segment.start) if before < 0 else before
            reject(line + before, text, reason)

        with opened_text(file) as opened:
            if position:
                opened.seek(position)
            for block, torn in blocks(opened, None if packed else segment.stop - position, self.separator, file.path):
                skipped = self.head(block, file) if position == 0 else 0
                rows = block[skipped:]
                if torn:
                    located(line, rows, "a quote is never closed")
                elif rows:
                    yield from parsed(rows, self.separator, parse, line + block.count(b"\n", 0, skipped), located)
                line += block.count(b"\n")
                if not packed:
                    drop_behind(opened, file, position, len(block))
                position += len(block)

    def _refuse(self, file: FileRecord) -> Reject:
        return refuse(file.path, lambda reason: self.column_in(reason, file, lambda: self._start(file)))

    def _aside(self, file: FileRecord, start: int) -> Quarantine:
        if self._quarantine is not None:
            return Quarantine(Path(self._quarantine), file.path, start)
        local = local_path(file.path)
        if local is None:
            raise ConfigError(f"{file.path}: bad rows cannot be kept beside it", "name a folder: quarantine=…")
        return Quarantine(Path(local).parent / "_bad_rows", file.path, start)

    def _pieces(self, file: FileRecord, target_bytes: int) -> list[tuple[int, int]]:
        if file.size_bytes <= target_bytes or compression_of(file.path) is not None:
            return [(0, file.size_bytes)]
        with opened_text(file) as opened:
            return pieces(opened, file.size_bytes, target_bytes, self.separator, file.path)

    def _newlines(self, file: FileRecord, stop: int) -> int:
        """How many lines lie before a byte of the file. Counted only where a row is bad and its line will be said."""
        if stop == 0 or self.bad_rows == "skip":
            return 0
        count = 0
        with opened_text(file) as opened:
            while stop > 0 and (data := opened.read(min(stop, BLOCK_BYTES))):
                count += data.count(b"\n")
                stop -= len(data)
        return count

    def _start(self, file: FileRecord) -> bytes:
        """Whole records from the start of the file, about a block of them."""
        with opened_text(file) as opened:
            data = opened.read(BLOCK_BYTES)
            while not (end := last_end(data, self.separator)) and len(data) <= MAX_RECORD_BYTES:
                more = opened.read(BLOCK_BYTES)
                if not more:
                    return bytes(data)
                data += more
            return bytes(data[:end] if len(data) >= BLOCK_BYTES else data)

    def _sample(self) -> Sample:
        with self._known.lock:
            if self._known.sample is None:
                file = next((file for file in self.inventory() if file.size_bytes), self.inventory()[0])
                data = self._start(file)
                schema, table = self.infer(data, file)
                ratios = {}
                for one in schema:
                    found = table.schema.get_field_index(one.name) >= 0 and table.num_rows
                    ratios[one.name] = table[one.name].nbytes / len(data) if found else _DECODED_RATIO / len(schema)
                self._known.sample = Sample(schema, ratios)
            return self._known.sample


def compression_of(path: str) -> str | None:
    """By the ending of the name: .gz, .bz2, .zst, .lz4, .br."""
    try:
        return str(pa.Codec.detect(path).name)
    except (ValueError, TypeError):
        return None


@contextmanager
def opened_text(file: FileRecord) -> Iterator[pa.NativeFile]:
    """The file, decompressed; what is wrong with reading it is an ``InputError``."""
    opened = open_input(file)
    codec = compression_of(file.path)
    try:
        yield opened if codec is None else pa.CompressedInputStream(opened, codec)
    except OSError as error:
        if is_allocation_failure(error):
            raise
        raise InputError(f"cannot be read: {error}", "is the file whole? write it anew", place=file.path) from error
    finally:
        opened.close()


def _split(segments: list[Segment], size: int, ratio: float) -> Split:
    unit = int(BLOCK_BYTES * (3 + 2 * ratio))
    return Split(tuple(segments), None, size, int(size * ratio), unit)


def _types(schema: Mapping[str, Any] | pa.Schema | None) -> dict[str, pa.DataType]:
    """Types by column; a name of a type is taken too ("int64", "decimal128(15, 2)")."""
    pairs = {} if schema is None else {name: schema[name] for name in schema} if isinstance(schema, Mapping) else None
    if pairs is None:
        pairs = {one.name: one.type for one in schema}  # type: ignore[union-attr]
    return {name: normal_type(_type(name, kind)) for name, kind in pairs.items()}


def _type(column: str, kind: Any) -> pa.DataType:
    if isinstance(kind, pa.DataType):
        return kind
    words = str(kind).replace("(", " ").replace(")", " ").replace(",", " ").split()
    try:
        if words[0] in ("decimal", "decimal128", "decimal256"):
            make = pa.decimal256 if words[0] == "decimal256" else pa.decimal128
            return make(int(words[1]), int(words[2]) if len(words) > 2 else 0)
        return pa.type_for_alias(str(kind))
    except (ValueError, IndexError) as error:
        raise ConfigError(
            f"schema: '{kind}' is no type, for column '{column}'", 'give a pyarrow type, or a name such as "int64"'
        ) from error
