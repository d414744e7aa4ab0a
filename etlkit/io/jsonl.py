"""JSON lines as a source: one object a line.

Types are inferred from the first MiB of the first file as DuckDB does (dates and timestamps in strings are found at the top
level), or named by ``schema``, also in part; decimals are exact. A field that a line does not have is null, one that the
schema does not have is ignored. Cutting, compression and bad rows are in text_source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from ..errors import InputError
from .bad_rows import BadRows, Parse, readable
from .batches import conform, empty_batch, normal_schema
from .source import FileRecord
from .text_source import TextSource

_COLUMN = re.compile(r"Column\(/([^/)]+)")
_TEMPORAL = (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"))


class JsonLinesSource(TextSource):
    """``schema`` maps column names to types; a name that the sample does not have is a column too."""

    format = "json"

    def __init__(
        self,
        paths: Sequence[str],
        schema: Mapping[str, Any] | pa.Schema | None = None,
        bad_rows: BadRows = "error",
        quarantine: str | None = None,
    ) -> None:
        super().__init__(paths, schema, bad_rows, quarantine, b"")

    def options(self) -> dict[str, object]:
        return {}

    def infer(self, sample: bytes, file: FileRecord) -> tuple[pa.Schema, pa.Table]:
        explicit = pa.schema([pa.field(name, _parsed_type(kind)) for name, kind in self.types.items()])
        found, good = explicit, b""
        rows = sample[self.head(sample, file) :]
        for lines, table in readable(rows, b"", lambda lines: _table(lines, explicit, "infer")):
            try:
                found = pa.unify_schemas([found, table.schema], promote_options="permissive")
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                continue  # other types than the lines before: bad rows, when they are read
            good += lines
        if not found.names:
            raise InputError("no line is a JSON object", "write one object a line, or give schema=…", place=file.path)
        found = normal_schema(found)
        kinds = {one.name: pa.string() if pa.types.is_null(one.type) else one.type for one in found}
        texts = [name for name, kind in kinds.items() if pa.types.is_timestamp(kind) or pa.types.is_string(kind)]
        wanted = pa.schema([pa.field(name, pa.string() if name in texts else kind) for name, kind in kinds.items()])
        table = _table(good, wanted, "ignore") if good else pa.table({})
        if good:
            kinds |= {name: _temporal(table[name]) for name in texts}
        return pa.schema(list((kinds | self.types).items())), table

    def head(self, data: bytes, file: FileRecord) -> int:
        return 3 if data.startswith(b"\xef\xbb\xbf") else 0

    def parser(self, file: FileRecord, head: Callable[[], bytes], schema: pa.Schema) -> Parse:
        wanted = pa.schema([pa.field(one.name, _parsed_type(one.type)) for one in schema])

        def parse(rows: bytes) -> pa.RecordBatch | None:
            if not rows.strip():
                return None
            table = _table(rows, wanted, "ignore")
            if not schema.names:
                return empty_batch(table.num_rows)
            batches = table.combine_chunks().to_batches()
            return _cast(batches[0], schema, file.path) if batches else None

        return parse

    def column_in(self, reason: str, file: FileRecord, head: Callable[[], bytes]) -> str | None:
        found = _COLUMN.search(reason)
        return found.group(1) if found else None


def _table(rows: bytes, explicit: pa.Schema | None, unknown: str) -> pa.Table:
    rows.decode()  # pyarrow does not look whether it is UTF-8
    return arrow_json.read_json(
        pa.BufferReader(rows),
        arrow_json.ReadOptions(use_threads=False, block_size=len(rows) + 1),
        arrow_json.ParseOptions(explicit_schema=explicit, unexpected_field_behavior=unknown),
    )


def _temporal(texts: pa.ChunkedArray) -> pa.DataType:
    """Date or timestamp if every text is one, all written alike."""
    if texts.null_count == len(texts) or len(pc.utf8_slice_codeunits(texts, 10, 11).drop_null().unique()) > 1:
        return pa.string()
    for kind in _TEMPORAL:
        try:
            texts.cast(kind)
        except (pa.ArrowException, ValueError):
            continue
        return kind
    return pa.string()


def _parsed_type(kind: pa.DataType) -> pa.DataType:
    """What the parser converts to; the rest is a cast from text."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return pa.string() if pa.types.is_date(kind) or pa.types.is_time(kind) else kind


def _cast(batch: pa.RecordBatch, schema: pa.Schema, place: str) -> pa.RecordBatch:
    try:
        return conform(batch, schema, place)
    except InputError as error:
        raise ValueError(error.message) from error
