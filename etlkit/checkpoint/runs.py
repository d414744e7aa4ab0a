"""Run files: the state of one stage at one checkpoint, partition by partition, in Arrow IPC streams.

    ETLKRUN1 | section | section | … | index | index length (8 bytes) | crc32 of the index (4) | ETLKRUN1

A section is one whole IPC stream of at most about 1 MiB of one partition, with a crc32 in the index that is checked before
Arrow sees a byte of it. A large partition has several, in order. Numbers are little-endian. Covers writing behind the page
cache and reading in bounded memory from any thread; what the tables mean is the engine's.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator

import orjson
import pyarrow as pa

from ..errors import CorruptStateError, StateError
from .model import RunRef, Section
from .store import Readable, Store, Target

MAGIC = b"ETLKRUN1"
_TAIL = struct.Struct("<QI8s")
_SECTION_BYTES = 960 * 1024
"""With its framing below 1 MiB: the buffer that it is made in doubles, and the next step was what did not fit near a limit."""
SMALL_SECTION_BYTES = 120 * 1024
"""For a writer that has hardly any memory."""
_BATCH_BYTES = 1024 * 1024
_FLUSH_BYTES = 8 * 1024 * 1024
_WRITE_BYTES = 1024 * 1024
_REMEDY = (
    "`etlkit verify` lists what is damaged; go back to an earlier checkpoint (`etlkit checkpoints`) or use --restart"
)


class RunWriter:
    """Writes one run file. ``add`` in partition order, then ``close``; leaving a ``with`` block by an error aborts."""

    def __init__(
        self,
        target: Target,
        name: str,
        stage: int,
        level: int,
        removed: Callable[[], None],
        section_bytes: int = _SECTION_BYTES,
    ) -> None:
        self._target: Target | None = target
        self._name, self._stage, self._level = name, stage, level
        self._removed = removed
        self._section_bytes = section_bytes
        self._sections: list[Section] = []
        self._partition = -1
        self._at = self._flushed = 0
        try:
            self._emit(MAGIC)
        except BaseException:
            self.abort()
            raise

    @property
    def name(self) -> str:
        return self._name

    @property
    def bytes_written(self) -> int:
        return self._at

    def add(self, partition: int, table: pa.Table | pa.RecordBatch) -> None:
        """Rows of one partition. Empty ones are left out; the same partition may be added to again before the next one."""
        if partition < self._partition:
            raise ValueError(f"partition {partition} after {self._partition}: a run is written in partition order")
        self._partition = partition
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        if not table.num_rows:
            return
        rows_a_section = max(1, table.num_rows * self._section_bytes // max(1, table.nbytes))
        for start in range(0, table.num_rows, rows_a_section):
            self._add_section(partition, table.slice(start, rows_a_section))

    def _add_section(self, partition: int, table: pa.Table) -> None:
        if self._target is None:
            raise ValueError(f"run {self._name} is closed")
        in_memory = table.nbytes
        rows_a_batch = max(1, table.num_rows * _BATCH_BYTES // max(1, in_memory))
        # A section is made in memory, in one native call: writing it piece by piece from Python took three times as long.
        made = pa.BufferOutputStream()
        with pa.ipc.new_stream(made, table.schema) as stream:
            stream.write_table(table, max_chunksize=rows_a_batch)
        section = memoryview(made.getvalue())
        crc32 = zlib.crc32(section)
        for start in range(0, len(section), _WRITE_BYTES):
            self._target.write(section[start : start + _WRITE_BYTES])
        self._sections.append(Section(partition, self._at, len(section), table.num_rows, in_memory, crc32))
        self._at += len(section)
        if self._at - self._flushed >= _FLUSH_BYTES:
            self._target.flush_behind()
            self._flushed = self._at

    def _emit(self, data: bytes) -> None:
        assert self._target is not None
        self._target.write(data)
        self._at += len(data)

    def close(self) -> RunRef:
        """Durable when this returns. On an error nothing of it stays."""
        if self._target is None:
            raise ValueError(f"run {self._name} is closed")
        try:
            index = _encode_index(self._sections)
            crc32 = zlib.crc32(index)
            self._emit(index)
            self._emit(_TAIL.pack(len(index), crc32, MAGIC))
            self._target.finish()
        except BaseException:
            self.abort()
            raise
        self._target = None
        sections = tuple(self._sections)
        return RunRef(
            self._name,
            self._stage,
            self._level,
            self._at,
            sum(section.rows for section in sections),
            sum(section.bytes for section in sections),
            crc32,
            sections,
        )

    def abort(self) -> None:
        """Remove it. Never raises."""
        target, self._target = self._target, None
        if target is not None:
            target.abort()
            self._removed()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def _encode_index(sections: list[Section]) -> bytes:
    rows = [[s.partition, s.offset, s.length, s.rows, s.bytes, s.crc32] for s in sections]
    return orjson.dumps({"format": 1, "sections": rows})


class RunReader:
    """Reads one run file. Threads may share it; each ``batches`` holds one section (about 1 MiB) at a time."""

    def __init__(self, store: Store, ref: RunRef) -> None:
        self._place = f"{store.location}/{ref.name}"
        self._ref = ref
        readable = store.open(ref.name)
        if readable is None:
            raise self._corrupt("is missing")
        self._readable: Readable = readable
        self._lock = threading.Lock()
        self._by_partition: dict[int, list[Section]] | None = None
        if readable.length != ref.length:
            readable.close()
            raise self._corrupt(f"has {readable.length} bytes where its checkpoint says {ref.length}")

    @property
    def ref(self) -> RunRef:
        return self._ref

    @property
    def sections(self) -> tuple[Section, ...]:
        return tuple(section for sections in self._index().values() for section in sections)

    def partitions(self) -> tuple[int, ...]:
        """The ones that have rows, ascending."""
        return tuple(self._index())

    def bytes_of(self, partition: int) -> int:
        """In Arrow memory."""
        return sum(section.bytes for section in self._index().get(partition, ()))

    def rows_of(self, partition: int) -> int:
        return sum(section.rows for section in self._index().get(partition, ()))

    def batches(self, partition: int) -> Iterator[pa.RecordBatch]:
        """The rows of one partition in the order written; nothing if it has none."""
        for section in self._index().get(partition, ()):
            yield from self._read(section)

    def table(self, partition: int) -> pa.Table | None:
        """All rows of one partition; None if it has none."""
        batches = list(self.batches(partition))
        return pa.Table.from_batches(batches) if batches else None

    def check(self) -> None:
        """Read every byte. ``CorruptStateError`` if one is not what was written."""
        at = len(MAGIC)
        if bytes(self._pread(0, at)) != MAGIC:
            raise self._corrupt("does not begin like a run file")
        for section in self.sections:
            if section.offset != at:
                raise self._corrupt(f"has a gap at byte {at}")
            self._pread_checked(section)
            at += section.length

    def close(self) -> None:
        self._readable.close()

    def __enter__(self) -> RunReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _index(self) -> dict[int, list[Section]]:
        with self._lock:
            if self._by_partition is None:
                by_partition: dict[int, list[Section]] = {}
                for section in self._load_index():
                    by_partition.setdefault(section.partition, []).append(section)
                self._by_partition = by_partition
            return self._by_partition

    def _load_index(self) -> list[Section]:
        if self._ref.length < len(MAGIC) + _TAIL.size:
            raise self._corrupt("is too short for a run file")
        length, crc32, magic = _TAIL.unpack(self._pread(self._ref.length - _TAIL.size, _TAIL.size))
        start = self._ref.length - _TAIL.size - length
        if magic != MAGIC or crc32 != self._ref.index_crc32 or start < len(MAGIC):
            raise self._corrupt("does not end like the run file that its checkpoint names")
        index = self._pread(start, length)
        if zlib.crc32(index) != crc32:
            raise self._corrupt("has a damaged index")
        said = orjson.loads(memoryview(index))
        if said["format"] != 1:
            raise StateError(
                f"{self._place} was written in format {said['format']}, and this etlkit reads format 1",
                "use the version of etlkit that wrote it, or a later one",
            )
        return [Section(*row) for row in said["sections"]]

    def _read(self, section: Section) -> Iterator[pa.RecordBatch]:
        # Checked before Arrow sees it: a damaged offset inside a stream could make it read past its buffers.
        with pa.ipc.open_stream(self._pread_checked(section)) as stream:
            yield from stream

    def _pread_checked(self, section: Section) -> pa.Buffer:
        buffer = self._pread(section.offset, section.length)
        if zlib.crc32(buffer) != section.crc32:
            raise self._corrupt(
                f"is damaged between bytes {section.offset} and {section.offset + section.length} (partition {section.partition})"
            )
        return buffer

    def _pread(self, offset: int, length: int) -> pa.Buffer:
        buffer = pa.allocate_buffer(length)
        got = self._readable.read_into(offset, memoryview(buffer).cast("B"))
        if got != length:
            raise self._corrupt(f"ends after {offset + got} bytes")
        return buffer

    def _corrupt(self, what: str) -> CorruptStateError:
        return CorruptStateError(f"{self._place} {what}", _REMEDY, name=self._ref.name)
