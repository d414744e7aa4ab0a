"""Parquet files as a sink.

Covers row groups, and encodings chosen from the first batch of each file (ADR 0005): dictionary where values repeat,
plain where they do not. Staging and publication are in folder_sink. Nothing but data decides, so a re-run writes the
same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError
from ..plan.nodes import IfExists, Visible
from .collector import Collector
from .folder_sink import FolderSink
from .part_file import PartFile
from .sink import StagedPart

COMPRESSIONS = ("snappy", "zstd", "lz4", "gzip", "brotli", "none")
ROW_GROUP_ROWS = 128 * 1024
ROW_GROUP_BYTES = 32 * 1024 * 1024
"""Decoded bytes at which a row group is written though it has fewer rows."""
DICTIONARY_BYTES = 64 << 10
"""Of one column of a row group; past it the column goes on plain. Arrow's table of it takes six times as much."""
SAMPLE_ROWS = 16 * 1024
DICTIONARY_RATIO = 0.25
"""Dictionary where at most this share of the sample's values is distinct."""


class ParquetSink(FolderSink):
    """``compression`` as pyarrow names it; zstd is at level 1."""

    format = "parquet"
    extension = "parquet"
    takes_dictionaries = True

    def __init__(
        self,
        path: str,
        if_exists: IfExists = "error",
        partition_by: Sequence[str] = (),
        compression: str = "snappy",
        row_group_rows: int = ROW_GROUP_ROWS,
        visible: Visible = "end",
        target_file_bytes: int | None = None,
    ) -> None:
        super().__init__(path, if_exists, partition_by, visible, target_file_bytes)
        if compression not in COMPRESSIONS:
            raise ConfigError(f"compression={compression!r} is not known", f"one of {', '.join(COMPRESSIONS)}")
        if row_group_rows < 1:
            raise ConfigError(f"row_group_rows={row_group_rows} is below 1", f"leave it out for {ROW_GROUP_ROWS}")
        self.compression = compression
        self.row_group_rows = row_group_rows
        self._shown: pa.Schema | None = None

    def options(self) -> dict[str, object]:
        return {"compression": self.compression, "row_group_rows": self.row_group_rows}

    def stage(self, split: int, epoch: int, schema: pa.Schema) -> StagedPart:
        self._shown = schema
        return super().stage(split, epoch, schema)

    def open_writer(self, file: PartFile, first: pa.RecordBatch) -> _RowGroupWriter:
        shown = (
            first.schema if self._shown is None else pa.schema([self._shown.field(name) for name in first.schema.names])
        )
        return _RowGroupWriter(file, first, shown, self.compression, self.row_group_rows)


class _RowGroupWriter(Collector):
    """``schema`` is what a reader shall see. Strings may come in dictionaries: written as they are, and read as strings."""

    def __init__(
        self, file: PartFile, first: pa.RecordBatch, schema: pa.Schema, compression: str, row_group_rows: int
    ) -> None:
        super().__init__(first.schema, row_group_rows, ROW_GROUP_BYTES)
        self._as_read = schema if schema != first.schema else None
        self._writer = pq.ParquetWriter(
            file,
            first.schema,
            compression=compression,
            compression_level=1 if compression == "zstd" else None,
            use_dictionary=dictionary_columns(first),
            dictionary_pagesize_limit=DICTIONARY_BYTES,
            store_schema=self._as_read is None,
            store_decimal_as_integer=True,  # to 18 digits, as DuckDB writes them: three times as fast as fixed bytes
        )

    def emit(self, table: pa.Table) -> None:
        if self._as_read is not None:
            table = table.unify_dictionaries()  # a writer meets one dictionary a row group, or writes plain
        self._writer.write_table(table, row_group_size=self._max_rows)

    def close(self) -> None:
        self.flush()
        if self._as_read is not None:
            said = base64.b64encode(self._as_read.serialize().to_pybytes()).decode()
            self._writer.add_key_value_metadata({"ARROW:schema": said})
        self._writer.close()


def dictionary_columns(first: pa.RecordBatch) -> list[str]:
    """The leaves whose values repeat, judged by the first rows. Those of nested columns keep the format's default."""
    leaves = []
    for field in first.schema:
        if pa.types.is_nested(field.type):
            leaves += _leaf_paths(field.name, field.type)
        elif _repeats(first.column(field.name).slice(0, SAMPLE_ROWS)):
            leaves.append(field.name)
    return leaves


def _leaf_paths(path: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaf_paths(f"{path}.{field.name}", field.type)]
    if pa.types.is_map(kind):
        ends = {"key": kind.key_type, "value": kind.item_type}
        return [leaf for name, end in ends.items() for leaf in _leaf_paths(f"{path}.key_value.{name}", end)]
    return _leaf_paths(f"{path}.list.element", kind.value_type) if pa.types.is_nested(kind) else [path]


def _repeats(sample: pa.Array) -> bool:
    if pa.types.is_boolean(sample.type) or pa.types.is_null(sample.type):
        return False
    if pa.types.is_dictionary(sample.type):
        return True
    return len(sample.unique()) <= max(1, int(len(sample) * DICTIONARY_RATIO))
