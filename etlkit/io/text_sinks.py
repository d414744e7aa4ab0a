"""CSV and JSON lines as sinks.

CSV: a header in each part, null as nothing, values quoted where needed; nested columns are refused. JSON lines: one object a
line; decimals as exact numbers, dates and times as ISO text, binary as base64, NaN and infinity as null, for JSON has none. Staging
and publication are in folder_sink.
"""

from __future__ import annotations

import base64
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import csv as arrow_csv

from ..errors import ConfigError
from ..plan.nodes import IfExists, Visible
from .folder_sink import FolderSink
from .part_file import PartFile
from .sink import Part
from .staged import as_text

JSON_ROWS = 8 * 1024
"""Rows that are Python objects at a time."""


class CsvSink(FolderSink):
    format = "csv"
    extension = "csv"

    def __init__(
        self,
        path: str,
        if_exists: IfExists = "error",
        delimiter: str = ",",
        visible: Visible = "end",
        target_file_bytes: int | None = None,
    ) -> None:
        super().__init__(path, if_exists, (), visible, target_file_bytes)
        if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"delimiter={delimiter!r} is not one plain character", 'give one, such as ";" or "\\t"')
        self.delimiter = delimiter

    def options(self) -> dict[str, object]:
        return {"delimiter": self.delimiter}

    def cannot_hold(self, kind: pa.DataType) -> bool:
        return super().cannot_hold(kind) or bool(pa.types.is_nested(kind))

    def open_writer(self, file: PartFile, first: pa.RecordBatch) -> _CsvWriter:
        return _CsvWriter(file, first.schema, self.delimiter)


class _CsvWriter:
    buffered_bytes = 0

    def __init__(self, file: PartFile, schema: pa.Schema, delimiter: str) -> None:
        self._plain = pa.schema([pa.field(one.name, _plain_type(one.type)) for one in schema])
        self._writer = arrow_csv.CSVWriter(file, self._plain, write_options=arrow_csv.WriteOptions(delimiter=delimiter))

    def write(self, batch: pa.RecordBatch) -> None:
        batch = batch if batch.schema.equals(self._plain) else batch.cast(self._plain)
        try:
            self._writer.write_batch(batch)
        except pa.ArrowInvalid:
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                as_text(column, f"write_csv: column '{name}'")
            raise

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._writer.close()


class JsonLinesSink(FolderSink):
    format = "json"
    extension = "jsonl"

    def __init__(
        self,
        path: str,
        if_exists: IfExists = "error",
        visible: Visible = "end",
        target_file_bytes: int | None = None,
    ) -> None:
        super().__init__(path, if_exists, (), visible, target_file_bytes)

    def stage_empty(self, epoch: int, schema: pa.Schema) -> tuple[Part, ...]:
        """JSON lines have no place for a schema: no row, no file."""
        return ()

    def options(self) -> dict[str, object]:
        return {}

    def open_writer(self, file: PartFile, first: pa.RecordBatch) -> _JsonLinesWriter:
        return _JsonLinesWriter(file)


class _JsonLinesWriter:
    buffered_bytes = 0

    def __init__(self, file: PartFile) -> None:
        self._file = file

    def write(self, batch: pa.RecordBatch) -> None:
        names = batch.schema.names
        columns = [_exact(batch.column(index)) for index in range(batch.num_columns)]
        for start in range(0, batch.num_rows, JSON_ROWS):
            values = [column.slice(start, JSON_ROWS).to_pylist(maps_as_pydicts="strict") for column in columns]
            rows = zip(*values, strict=True)
            lines = [
                orjson.dumps(dict(zip(names, row, strict=True)), _as_json, orjson.OPT_APPEND_NEWLINE) for row in rows
            ]
            self._file.write(b"".join(lines))

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """JSON lines have no end to write."""


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _exact(column: pa.Array) -> pa.Array:
    """Nanoseconds have no Python object that keeps them: as text, durations as a decimal number of seconds."""
    kind = column.type
    if kind == pa.duration("ns"):
        return column.cast(pa.int64()).cast(pa.decimal128(19, 0)).view(pa.decimal128(19, 9))
    moment = pa.types.is_timestamp(kind) and kind.unit == "ns"
    return column.cast(pa.string()) if moment or kind == pa.time64("ns") else column


def _as_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(f"{value:f}")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(type(value).__name__)
