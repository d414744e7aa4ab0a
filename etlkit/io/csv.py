"""CSV files as a source.

Values are read as DuckDB reads them: an empty value is null (quoted or not), no other text is; ``007`` keeps its zeros; dates,
times and timestamps (microseconds) are found; types named by ``schema`` are exact, decimals included. Types not named
are inferred from the first MiB of the first file; a later value that does not fit is a bad row. Columns go by name:
files may have them in another order. UTF-8 only. Cutting, compression and bad rows are in text_source.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ..errors import ConfigError, InputError
from .bad_rows import BadRows, Parse, readable
from .batches import conform, empty_batch
from .records import split_records
from .source import FileRecord
from .text_source import TextSource

_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 64 * 1024
_LEADING_ZERO = r"^[+-]?0[0-9]"
_WHOLE = r"^[+-]?[0-9]{1,38}$"
_COLUMN = re.compile(r"CSV column #(\d+)")


class CsvSource(TextSource):
    """``schema`` maps column names to types, also in part. Without a ``header`` the columns are named by ``schema``, in its
    order, else column0, column1, …"""

    format = "csv"

    def __init__(
        self,
        paths: Sequence[str],
        schema: Mapping[str, Any] | pa.Schema | None = None,
        delimiter: str = ",",
        header: bool = True,
        bad_rows: BadRows = "error",
        quarantine: str | None = None,
    ) -> None:
        super().__init__(paths, schema, bad_rows, quarantine, delimiter.encode())
        if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"delimiter={delimiter!r} is not one plain character", 'give one, such as ";" or "\\t"')
        self.delimiter = delimiter
        self.header = header

    def options(self) -> dict[str, object]:
        return {"delimiter": self.delimiter, "header": self.header}

    def infer(self, sample: bytes, file: FileRecord) -> tuple[pa.Schema, pa.Table]:
        names = self._names(sample, file)
        unknown = [name for name in self.types if name not in names]
        if unknown:
            raise ConfigError(
                f"schema names a column '{unknown[0]}' that {file.path} does not have", f"it has {', '.join(names)}"
            )
        rows = sample[self.head(sample, file) :]
        raw = {name: pa.binary() for name in names}
        parts = list(readable(rows, self.separator, lambda rows: self._table(rows, names, None, raw)))
        if not parts:
            return pa.schema([(name, self.types.get(name, pa.string())) for name in names]), pa.table({})
        texts = pa.concat_tables([table for _, table in parts])
        guessed = self._table(
            b"".join(good for good, _ in parts), names, None, {name: pa.binary() for name in self.types}
        )
        fields = []
        for name in names:
            kind = self.types.get(name) or _as_duckdb(guessed.schema.field(name).type, texts[name])
            fields.append(pa.field(name, kind))
        return pa.schema(fields), guessed

    def head(self, data: bytes, file: FileRecord) -> int:
        if self.header:
            return self._first_record(data)[1]
        return len(_BOM) if data.startswith(_BOM) else 0

    def parser(self, file: FileRecord, head: Callable[[], bytes], schema: pa.Schema) -> Parse:
        names = self._names(head(), file) if file.size_bytes else tuple(self.schema.names)
        self._check(names, file)
        # With no column wanted, one is decoded as text to count the rows.
        types = {one.name: _parsed_type(one.type) for one in schema} or {names[0]: pa.string()}
        place = file.path

        def parse(rows: bytes) -> pa.RecordBatch | None:
            if not rows.strip():
                return None
            table = self._table(rows, names, list(types), types)
            if not schema.names:
                return empty_batch(table.num_rows)
            batches = table.combine_chunks().to_batches()
            return conform(batches[0], schema, place) if batches else None

        return parse

    def column_in(self, reason: str, file: FileRecord, head: Callable[[], bytes]) -> str | None:
        found = _COLUMN.search(reason)
        return self._names(head(), file)[int(found.group(1))] if found else None

    def _table(
        self,
        rows: bytes,
        names: Sequence[str],
        columns: list[str] | None,
        types: Mapping[str, pa.DataType],
    ) -> pa.Table:
        return arrow_csv.read_csv(
            pa.py_buffer(rows),
            arrow_csv.ReadOptions(column_names=list(names), use_threads=False, block_size=len(rows) + 1),
            arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                column_types=dict(types),
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )

    def _names(self, data: bytes, file: FileRecord) -> tuple[str, ...]:
        """The columns of one file, in its order."""
        record, _ = self._first_record(data)
        place = f"{file.path}, line 1"
        if not record:
            raise InputError("the file is empty, not even a header", "take it out of the input", place=file.path)
        try:
            values = next(csv.reader([record.decode()], delimiter=self.delimiter))
        except (UnicodeDecodeError, csv.Error, StopIteration) as error:
            raise InputError(
                f"no row of CSV in UTF-8: {error}", "mend the line, or convert the file", place=place
            ) from error
        if not self.header:
            if self.types and len(self.types) != len(values):
                raise InputError(
                    f"has {len(values)} values, schema names {len(self.types)} columns",
                    "name every column by schema, or none",
                    place=place,
                )
            return tuple(self.types) or tuple(f"column{index}" for index in range(len(values)))
        names: list[str] = []
        for index, value in enumerate(values):
            name = value or f"column{index}"
            while name in names:
                name += f"_{names.count(value)}"
            names.append(name)
        return tuple(names)

    def _first_record(self, data: bytes) -> tuple[bytes, int]:
        """The first record that is not blank, and where it ends."""
        end = len(_BOM) if data.startswith(_BOM) else 0
        for _, record in split_records(data[end : end + _HEAD_BYTES], self.separator):
            end += len(record)
            if record.strip():
                return record, end
        return b"", end

    def _check(self, names: tuple[str, ...], file: FileRecord) -> None:
        first = self.inventory()[0].path
        for name in self.schema.names:
            if name not in names:
                raise InputError(
                    f"the column is missing, {first} has it", "mend the file", place=f"{file.path}, column {name}"
                )
        for name in names:
            if name not in self.schema.names:
                raise InputError(
                    f"a column that {first} does not have", "mend the file", place=f"{file.path}, column {name}"
                )


def _as_duckdb(kind: pa.DataType, texts: pa.ChunkedArray) -> pa.DataType:
    """An inferred type as DuckDB would infer it."""
    if pa.types.is_null(kind) or pa.types.is_binary(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_int64(kind) and pc.any(pc.match_substring_regex(texts, _LEADING_ZERO)).as_py():
        return pa.string()
    if pa.types.is_float64(kind) and pc.all(pc.match_substring_regex(texts, _WHOLE)).as_py():
        return pa.decimal128(38, 0)  # whole numbers past 64 bits
    return pa.time64("us") if pa.types.is_time(kind) else kind


def _parsed_type(kind: pa.DataType) -> pa.DataType:
    """What the parser converts to; the rest is a cast."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
