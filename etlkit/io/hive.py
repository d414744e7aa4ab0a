"""Columns that stand in the names of folders: ``k=v/part-00000.parquet``.

Covers what DuckDB, Spark and ``partition_by`` of our own sinks write. As in DuckDB, they count only where every file has the
same keys; values are whole numbers or dates if all are, else text. A file's own column of that name comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from .source import FileRecord
from .staged import NULL_PARTITION


def folder_values(path: str) -> dict[str, str | None]:
    """The keys and values in the folders of one path."""
    pairs = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    return {unquote(key): None if value == NULL_PARTITION else unquote(value) for key, _, value in pairs if key}


def folder_columns(files: Sequence[FileRecord]) -> pa.Schema:
    """The columns that the folders of all files give."""
    names = list(folder_values(files[0].path))
    if not names:
        return pa.schema([])
    values: dict[str, set[str]] = {name: set() for name in names}
    for file in files:
        found = folder_values(file.path)
        if list(found) != names:
            return pa.schema([])
        for name, value in found.items():
            if value is not None:
                values[name].add(value)
    return pa.schema([(name, _type(sorted(values[name]))) for name in names])


def folder_scalars(path: str, columns: pa.Schema) -> dict[str, pa.Scalar]:
    """One file's values of ``columns``."""
    found = folder_values(path)
    return {one.name: pa.scalar(found.get(one.name), pa.string()).cast(one.type) for one in columns}


def with_constants(batch: pa.RecordBatch, constants: Mapping[str, Any]) -> pa.RecordBatch:
    """The batch with the named columns replaced by one value each."""
    if not constants:
        return batch
    arrays = [
        pa.repeat(constants[name], batch.num_rows) if name in constants else batch.column(index)
        for index, name in enumerate(batch.schema.names)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _type(texts: list[str]) -> pa.DataType:
    for kind in (pa.int64(), pa.date32()):
        try:
            back = pa.array(texts, pa.string()).cast(kind).cast(pa.string()).to_pylist()
        except (pa.ArrowException, ValueError):
            continue
        if back == texts and texts:  # not so for 007
            return kind
    return pa.string()
