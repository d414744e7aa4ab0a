"""Small batches collected into tables of about a fixed size, for formats that write in units (row groups, record batches)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa


class Collector(ABC):
    """Emits before it would exceed ``max_rows``, and when it holds ``max_bytes``. A format says how to ``emit``."""

    def __init__(self, schema: pa.Schema, max_rows: int, max_bytes: int) -> None:
        self._schema = schema
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self.buffered_bytes = 0

    @abstractmethod
    def emit(self, table: pa.Table) -> None: ...

    def write(self, batch: pa.RecordBatch) -> None:
        if self._waiting and self._rows + batch.num_rows > self._max_rows:
            self.flush()
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self.buffered_bytes += batch.nbytes
        if self._rows >= self._max_rows or self.buffered_bytes >= self._max_bytes:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._waiting, self._rows, self.buffered_bytes = [], 0, 0
            self.emit(table)
