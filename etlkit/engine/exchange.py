"""The state between two stages: rows hash-partitioned, folded in memory, let go at each checkpoint.

A **cell** holds one partition's rows since the last checkpoint: raw batches (packed, if they do not fold), and partials that
were folded from them. A **generation** is one cell a partition. A checkpoint takes the whole generation under the state's lock
and puts an empty one in its place, so it never sees half a split; what is being folded at that moment stays in its cell, and
the writer waits for that cell's own lock. Nothing here does I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import field

import pyarrow as pa

from ..lazyclass import dataclass
from .combiners import Combiner
from .packing import together
from .routing import route
from .stages import ExchangeOutput

PIECE_ROWS = 16_384
"""Rows that are folded at once where memory is short: a megabyte or two."""
WRITER_BYTES = 8 << 20
"""What writing a generation takes beside it: one cell in one piece, and a section of the run."""


@dataclass(slots=True)
class Cell:
    """One partition of one generation."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    raw: list[pa.RecordBatch] = field(default_factory=list)
    raw_bytes: int = 0
    partials: list[pa.Table] = field(default_factory=list)
    folding: bool = False
    """Its raw rows are in the hands of whoever folds them, and in neither list."""
    taken: bool = False
    """By a checkpoint."""
    drained: bool = False
    """Its rows are in the run already: folding them would help nobody."""
    merged_rows: int = 0
    """Rows of the first partial after the last merge: merging again pays once as many have come on top."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What came in between two checkpoints."""

    cells: tuple[Cell, ...]
    filled: bool
    """Whether there are rows, as it was when it was taken: later a cell that is being folded looks empty."""

    def __bool__(self) -> bool:
        return self.filled


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one batch that go to one partition. ``bytes`` is their share of the batch: asking each slice costs 5 µs."""

    partition: int
    batch: pa.RecordBatch
    bytes: int


@dataclass(slots=True)
class SplitState:
    """What one split adds, gathered by one worker and handed over in one step."""

    raw: list[Piece] = field(default_factory=list)
    partials: list[Piece] = field(default_factory=list)
    raw_rows: int = 0


class ExchangeState:
    """Thread-safe. ``lock`` is the engine's: held for list operations only, never while computing."""

    def __init__(self, output: ExchangeOutput, lock: threading.Lock, boundaries: pa.Array | None = None) -> None:
        self.combiner = output.combiner
        self.partitions = output.partitions
        self._router = output.router
        self._boundaries = boundaries
        self._lock = lock
        self._cells = self._fresh()
        self._writing: tuple[Cell, ...] = ()
        """What a checkpoint has taken and not yet written: workers without a split help to fold it."""
        self.raw_bytes = 0
        self.partial_bytes = 0
        self.pinned_bytes = 0
        """Raw rows that are folded already, but share their buffers with rows that are not: free when the sweep is through."""
        self._sweeping = 0
        self.packed_row_bytes = 0
        """Of rows that do not fold, the most that was seen."""
        self.writing_bytes = 0
        """State taken by a checkpoint that is not durable yet."""
        self.folds = self.folded_rows = self.folded_groups = 0
        """Folds of one cell so far, rows in and partials out: they tell how many distinct keys there are."""

    def _fresh(self) -> tuple[Cell, ...]:
        return tuple(Cell() for _ in range(self.partitions))

    @property
    def bytes(self) -> int:
        return self.raw_bytes + self.pinned_bytes + self.partial_bytes + self.writing_bytes

    def ids(self, batch: pa.RecordBatch) -> pa.Array | None:
        return self._router.ids(batch, self.partitions, self._boundaries)

    def route(self, batch: pa.RecordBatch, ids: pa.Array | None, mask: pa.Array | None = None) -> list[Piece]:
        """The batch, cut into its partitions. ``mask``: the rows that count."""
        a_row = batch.nbytes / max(1, batch.num_rows)
        if not self.combiner.foldable:
            self.packed_row_bytes = max(self.packed_row_bytes, int(a_row) + 1)
        routed = route(batch, ids, self.partitions, mask)
        return [Piece(partition, piece, int(a_row * piece.num_rows)) for partition, piece in routed]

    def add(self, split: SplitState) -> None:
        """Called with the lock held, in the same step that marks the split finished."""
        cells = self._cells
        for piece in split.raw:
            cell = cells[piece.partition]
            cell.raw.append(piece.batch)
            cell.raw_bytes += piece.bytes
            self.raw_bytes += piece.bytes
        for piece in split.partials:
            cells[piece.partition].partials.append(pa.Table.from_batches([piece.batch]))
            self.partial_bytes += piece.bytes

    def take(self) -> Generation:
        """Called with the lock held: all that is there, for a checkpoint to write."""
        filled = any(cell.raw or cell.partials or cell.folding for cell in self._cells)
        taken = Generation(self._cells, filled)
        for cell in self._cells:
            cell.taken = True
        self._writing, self._cells = self._cells, self._fresh()
        if self.raw_bytes or self.partial_bytes:
            self.writing_bytes += self.raw_bytes + self.partial_bytes + WRITER_BYTES
        self.raw_bytes = self.partial_bytes = 0
        return taken

    def give_back(self, generation: Generation) -> None:
        """The checkpoint failed, so its rows are state again. Waits for whoever is folding one of its cells."""
        for mine, theirs in zip(self._cells, generation.cells, strict=True):
            with theirs.lock, mine.lock, self._lock:
                mine.raw[:0] = theirs.raw
                mine.raw_bytes += theirs.raw_bytes
                mine.partials[:0] = theirs.partials
                theirs.raw, theirs.raw_bytes, theirs.partials = [], 0, []
        with self._lock:
            self._recount()
            self._writing = ()
            self.writing_bytes = 0

    def let_go(self, generation: Generation) -> None:
        """Called with the lock held: the checkpoint is durable, so the memory is free."""
        for cell in generation.cells:
            cell.raw.clear()
            cell.raw_bytes = 0
            cell.partials.clear()
        self._writing = ()
        self.writing_bytes = 0

    def _recount(self) -> None:
        self.raw_bytes = sum(cell.raw_bytes for cell in self._cells)
        self.partial_bytes = sum(table.nbytes for cell in self._cells for table in cell.partials)

    def look_at_keys(self) -> None:
        """Fold one cell of middling size, if none was folded yet: how often keys repeat is what the forecast rests on."""
        with self._lock:
            cells = sorted((cell for cell in self._cells if cell.raw), key=lambda cell: cell.raw_bytes)
        if cells and not self.folds and self.combiner.foldable:
            self._fold(cells[len(cells) // 2])

    def sweep(self, stop: threading.Event | None = None) -> None:
        """Fold every cell's raw rows. Several workers may sweep at once; each takes the cells that no other has in hand."""
        with self._lock:
            cells, writing = self._cells, self._writing
            self._sweeping += 1
        try:
            # The writer goes forward through its cells: whoever helps comes from the other end.
            for cell in (*reversed(writing), *cells):
                if stop is not None and stop.is_set():
                    return
                self._fold(cell)
        finally:
            with self._lock:
                self._sweeping -= 1
                if not self._sweeping:
                    self.pinned_bytes = 0

    def _fold(self, cell: Cell) -> None:
        if cell.drained or not cell.raw or not cell.lock.acquire(blocking=False):
            return
        try:
            with self._lock:
                raw, before = cell.raw, cell.raw_bytes
                cell.raw, cell.raw_bytes = [], 0
                cell.folding = bool(raw)
            if not raw:
                return
            try:
                table = fold_raw(self.combiner, raw)
            except BaseException:
                with self._lock:
                    cell.raw[:0] = raw
                    cell.raw_bytes += before
                    cell.folding = False
                raise
            rows = sum(batch.num_rows for batch in raw)
            del raw
            with self._lock:
                cell.partials.append(table)
                cell.folding = False
                self.folds += 1
                self.folded_rows += rows
                self.folded_groups += table.num_rows
                self._grow(cell, -before, int(table.nbytes))
            self._merge(cell)
        finally:
            cell.lock.release()

    def _merge(self, cell: Cell) -> None:
        """Merge a cell's partials once as much has come as was there. Splits may add more while it computes."""
        with self._lock:
            known = list(cell.partials)
        rows = sum(one.num_rows for one in known)
        if len(known) < 2 or rows < 2 * cell.merged_rows:
            return
        merged = self.combiner.merge(pa.concat_tables(known))
        with self._lock:
            cell.merged_rows = merged.num_rows
            cell.partials[: len(known)] = [merged]
            self._grow(cell, 0, int(merged.nbytes - sum(one.nbytes for one in known)))

    def _grow(self, cell: Cell, raw_bytes: int, partial_bytes: int) -> None:
        if cell.taken:
            self.writing_bytes += raw_bytes + partial_bytes
        else:
            self.raw_bytes += raw_bytes
            self.partial_bytes += partial_bytes


def fold_raw(combiner: Combiner, raw: Sequence[pa.RecordBatch]) -> pa.Table:
    return combiner.fold(pa.Table.from_batches([together(raw, combiner.raw_schema)]))


def drain_cell(combiner: Combiner, cell: Cell) -> pa.Table | None:
    """All of one cell as one table of partials, for the writer.

    The cell keeps its rows as they are until the commit: so the writer's memory is one cell, and not a second state.
    """
    with cell.lock:
        cell.drained = True
        if not combiner.foldable:
            # One chunk: hundreds of short ones cost the writer, and whoever reads them again, more than this copy.
            return pa.Table.from_batches([together(cell.raw, combiner.raw_schema)]) if cell.raw else None
        tables = list(cell.partials)
        if cell.raw:
            tables.append(fold_raw(combiner, cell.raw))
        if not tables:
            return None
        return tables[0] if len(tables) == 1 else combiner.merge(pa.concat_tables(tables))


def drain_in_pieces(combiner: Combiner, cell: Cell) -> Iterator[pa.Table]:
    """The same rows a little at a time, nothing merged, for a writer that has no memory for a cell in one piece. Keys may repeat."""
    with cell.lock:
        cell.drained = True
        partials, raw = list(cell.partials), list(cell.raw)
    yield from partials
    gathered: list[pa.RecordBatch] = []
    for batch in raw:
        for start in range(0, batch.num_rows, PIECE_ROWS):
            gathered.append(batch.slice(start, PIECE_ROWS))
            if sum(one.num_rows for one in gathered) >= PIECE_ROWS:
                yield _piece(combiner, gathered)
                gathered = []
    if gathered:
        yield _piece(combiner, gathered)


def _piece(combiner: Combiner, raw: Sequence[pa.RecordBatch]) -> pa.Table:
    return fold_raw(combiner, raw) if combiner.foldable else pa.Table.from_batches([together(raw, combiner.raw_schema)])


def merge_runs(combiner: Combiner, batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """One partition of several runs as one table."""
    if combiner.foldable:
        return combiner.merge(pa.Table.from_batches(batches))
    return pa.Table.from_batches([together(batches, combiner.raw_schema)])
