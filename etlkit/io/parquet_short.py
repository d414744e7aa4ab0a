"""Decimals of up to 18 digits out of a Parquet file in the 8 bytes that they are stored in.

pyarrow makes decimals of 16 bytes, unless the Arrow schema in the file's key-value metadata (``ARROW:schema``) says decimal64. So the
reader is given another footer: that of an empty file which pyarrow writes under such a schema, with the true footer's row groups
appended, which it refuses unless each column is stored alike. It covers any file whose columns pyarrow would store in the same
way. What it cannot do so is read as ever: files that hold other columns, and those of old writers, for whose mistakes readers look
at the writer's name, which is pyarrow's own here. Statistics and push-down go on using the true footer.

The footer's format: parquet.thrift of the Parquet format, ``FileMetaData``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..plan.decimals import NARROW_DIGITS

LEAST_ROWS = 500_000
"""Of a file. Making the footer takes 2 ms, and saves half of one a row group."""
_MOST_FOOTER_BYTES = 1 << 20
"""Kept beside the true one, and several times as large in memory."""
_OLD_WRITERS = re.compile(
    r"parquet-mr(?! version 1\.1\d)|parquet-cpp(?!-arrow)|parquet-cpp-arrow version [0-3]\.|impala|unknown|none"
)


def is_short(kind: pa.DataType) -> bool:
    """Whether values of a type may travel as decimal64."""
    return bool(pa.types.is_decimal128(kind) and kind.precision <= NARROW_DIGITS)


def shortened(schema: pa.Schema, columns: Iterable[str]) -> pa.Schema:
    """``schema`` with those ``columns`` as decimal64 that may be so."""
    fields = (field for field in schema if field.name in columns and is_short(field.type))
    short = {field.name: pa.decimal64(field.type.precision, field.type.scale) for field in fields}
    return pa.schema([field.with_type(short.get(field.name, field.type)) for field in schema])


def short_footer(metadata: Any, columns: Iterable[str]) -> Any:
    """A footer (``pyarrow.parquet.FileMetaData``) by which ``columns`` are read as decimal64. None: there is none."""
    if (
        is_old(str(metadata.created_by))
        or metadata.num_rows < LEAST_ROWS
        or metadata.serialized_size > _MOST_FOOTER_BYTES
    ):
        return None
    plain = metadata.schema.to_arrow_schema()
    wanted = shortened(plain, columns)
    if wanted.equals(plain):
        return None
    for as_integers in (True, False):
        try:
            made = _footer_of(wanted, as_integers)
            made.append_row_groups(metadata)
        except (RuntimeError, ValueError, pa.ArrowException):
            continue  # stored in another way
        if made.num_rows == metadata.num_rows and made.schema.to_arrow_schema().equals(wanted):
            return made
    return None


def is_old(writer: str) -> bool:
    """Whether readers know this writer's mistakes by its name, as the footer gives it."""
    return not writer or _OLD_WRITERS.match(writer.lower()) is not None


def _footer_of(schema: pa.Schema, as_integers: bool) -> Any:
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema, store_decimal_as_integer=as_integers).close()
    return pq.read_metadata(pa.BufferReader(sink.getvalue()))
