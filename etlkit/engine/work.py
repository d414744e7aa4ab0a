"""What one worker does with one split: read or reduce, fused steps, and what it leaves behind.

A split leaves either staged parts (a sink stage) or rows for the exchange. Nothing of it is visible to anybody until
the executor takes the result in one step; a split that fails, is given up or runs out of memory leaves nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field, replace

import pyarrow as pa
import pyarrow.compute as pc

from ..checkpoint import RunReader, RunRef
from ..errors import InputError
from ..io.sink import Part, Sink
from ..io.source import Growing, Segment, Source, Split
from ..lazyclass import dataclass
from ..memory.wall import Wall
from .combiners import Combiner, FirstRows
from .exchange import ExchangeState, SplitState
from .fused import Kept
from .hashing import partition_ids
from .join import Block, JoinReducer
from .packing import packed, together
from .reducers import Reducer, Side
from .stages import ExchangeOutput, ReduceInput, ScanInput, Stage
from .steps import AuthorError, ExplodeStep, MapStep, run_steps
from .widths import row_bytes

CUT_AGAIN_BYTES = 12 << 20
"""Merging a partition takes about eight times its partials, and there are two workers."""
LEAST_PIECE_BYTES = 2 << 20
PIECE_BYTES_A_ROW = 192
"""A partition's pieces get smaller with the slices: 12 MiB at 65,536 rows, a quarter of that at 16,384."""
MOST_PIECES = 256
POSITION_BITS = 40
"""Of a row's position for its number in its split, if nothing better is known; the bits above are the split's."""
ROUTE_ROWS = 98_304
"""Rows gathered before they are partitioned: larger takes and longer slices, for a few MiB a worker. Below a row group of 112,000."""
FUSED_SLICES = 2
"""So many slices are read at once where a scan ends in a group-by: its columns are few and narrow, and each batch has its price."""
WRITE_ROOM_BYTES = 8 << 20
COUNT_BYTES = 256 << 20
"""So much of a text file is read again to say which rows an author's function was given."""
PREAGGREGATE_BELOW = 0.3
"""A split is folded before it is partitioned where that leaves less than this share of its rows."""


class GivenUp(Exception):
    """The split was stopped between two batches, because the process must end."""


@dataclass(frozen=True, slots=True)
class Task:
    """One split of a stage. ``scan``: its index among the input's splits; ``partitions``: the range to reduce; ``probes``: splits of a
    join's left side, to be streamed past its right side, which is held."""

    stage: Stage
    index: int
    input: ScanInput | ReduceInput
    scan: int = 0
    partitions: range = range(0)
    probes: tuple[Task, ...] = ()

    @property
    def rows(self) -> int | None:
        """Of the source; None where nobody knows."""
        if isinstance(self.input, ScanInput):
            return self.input.splits[self.scan].rows
        counts = [task.rows for task in self.probes]
        return None if None in counts else sum(count or 0 for count in counts)

    def __str__(self) -> str:
        return f"{self.stage.index}.{self.index}"


@dataclass(slots=True)
class Outcome:
    """What a finished split leaves."""

    parts: tuple[Part, ...] = ()
    state: SplitState = field(default_factory=SplitState)
    rows_in: int = 0
    rows_out: int = 0
    last_rows: int = 0
    """Of the batch that was read last."""
    reading: Task | None = None
    """The scan that is read now, and so many of its rows so far."""
    reading_rows: int = 0


@dataclass(slots=True)
class Workbench:
    """What a worker needs beside the task. Shared by all workers; nothing here changes while a stage runs."""

    open_run: Callable[[RunRef], RunReader]
    epoch: int
    sinks: tuple[Sink, ...]
    runs: dict[int, tuple[RunRef, ...]]
    """By producing stage: what its reduce inputs read."""
    giving_up: threading.Event
    wall: Wall | None = None
    position_bits: int = POSITION_BITS
    preaggregate: dict[int, bool] = field(default_factory=dict)
    """By stage: whether its first split showed that folding before partitioning pays."""
    wide: dict[int, set[int]] = field(default_factory=dict)
    """By stage: columns of its raw rows whose values were seen to need 64 bits."""
    held: dict[int, Block] = field(default_factory=dict)
    """By the stage of a join's left side: its right side, while it is held."""
    rows_kept: dict[tuple[int, int], int] = field(default_factory=dict)
    """By stage and split of a limit: how many rows it had."""

    def rows_before(self, task: Task) -> int:
        """Rows that splits before this one are known to have: enough of them, and a limit needs no more."""
        kept = list(self.rows_kept.items())
        return sum(rows for (stage, index), rows in kept if stage == task.stage.index and index < task.index)

    _open: dict[int, list[RunReader]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read_from(self, runs: dict[int, tuple[RunRef, ...]]) -> None:
        """From here on splits reduce these runs. No split may be running."""
        self.close()
        self.runs = runs

    def readers(self, stage: int) -> list[RunReader]:
        """The runs of one stage, opened once for all of its partitions: an index is read once, not once a partition."""
        with self._lock:
            if stage not in self._open:
                self._open[stage] = [self.open_run(run) for run in self.runs.get(stage, ())]
            return self._open[stage]

    def close(self) -> None:
        with self._lock:
            for reader in (reader for several in self._open.values() for reader in several):
                reader.close()
            self._open.clear()


def run_task(
    task: Task, bench: Workbench, exchange: ExchangeState | None, slice_rows: int, seen: Callable[[int], None]
) -> Outcome:
    """Do the whole split. ``seen`` is told rows read, as they are read, for progress only."""
    outcome = Outcome()
    try:
        if exchange is not None:
            _to_exchange(task, bench, exchange, slice_rows, outcome, seen)
        else:
            _to_sink(task, bench, slice_rows, outcome, seen)
    except AuthorError as error:
        raise AuthorError(error.name, error.error, rows_place(task, outcome)) from error.error
    except InputError as error:
        if error.place:
            raise
        raise InputError(error.message, error.remedy, place=rows_place(task, outcome)) from error
    except pa.ArrowInvalid as error:
        raise InputError(str(error), "mend the input or the expression", place=rows_place(task, outcome)) from error
    return outcome


def position_bits(stage: Stage) -> int:
    """As few as its splits need for their rows, so that positions travel in few bytes."""
    most = 1
    for one in stage.inputs:
        known = isinstance(one, ScanInput) and not isinstance(one.source, Growing)
        if not known or any(isinstance(step, MapStep | ExplodeStep) for step in one.steps):
            return POSITION_BITS
        for split in one.splits:  # type: ignore[union-attr]
            if split.rows is None:
                return POSITION_BITS
            most = max(most, split.rows)
    return most.bit_length()


def batches_of(
    task: Task, bench: Workbench, slice_rows: int, outcome: Outcome, seen: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    read = (
        _scan(task.input, task, slice_rows, outcome, seen)
        if isinstance(task.input, ScanInput)
        else _probe(task, bench, slice_rows, outcome, seen)
        if task.probes
        else _reduce(task.input, task, bench, slice_rows)
    )
    for batch in run_steps(task.input.steps, read):
        if bench.giving_up.is_set():
            raise GivenUp
        yield batch


def _scan(
    scan: ScanInput, task: Task, slice_rows: int, outcome: Outcome, seen: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    outcome.reading, outcome.reading_rows = task, 0
    for batch in scan.source.read(scan.splits[task.scan], scan.columns, scan.predicate, slice_rows):
        outcome.rows_in += batch.num_rows
        outcome.reading_rows += batch.num_rows
        outcome.last_rows = batch.num_rows
        seen(batch.num_rows)
        yield batch


def _probe(
    task: Task, bench: Workbench, slice_rows: int, outcome: Outcome, seen: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """Splits of a join's left side, each batch past the right side."""
    assert isinstance(task.input, ReduceInput) and isinstance(task.input.reducer, JoinReducer)
    for split in task.probes:
        output = split.stage.output
        assert isinstance(output, ExchangeOutput)
        block = bench.held[split.stage.index]
        for batch in batches_of(split, bench, slice_rows, outcome, seen):
            for joined in task.input.reducer.past(output.combiner.prepare(batch, 0), block):
                for start in range(0, joined.num_rows, slice_rows):
                    yield joined.slice(start, slice_rows)


def _reduce(reduce: ReduceInput, task: Task, bench: Workbench, slice_rows: int) -> Iterator[pa.RecordBatch]:
    """The partitions one after the other: at any time the memory of one."""
    for partition in task.partitions:
        if bench.giving_up.is_set():
            raise GivenUp
        sides = [_side(bench.readers(stage), partition) for stage in reduce.stages]
        if not reduce.reducer.even_if_empty and not any(rows for rows, _ in sides):
            continue
        for cut in _cut_again(reduce.reducer, sides, piece_bytes(task.stage, slice_rows)):
            for batch in reduce.reducer.reduce(cut):
                for start in range(0, batch.num_rows, slice_rows):
                    yield batch.slice(start, slice_rows)


def piece_bytes(stage: Stage, slice_rows: int) -> int:
    """How much of a partition is reduced at once. It follows the slices only where rows go to a sink: what an author's function is
    given, and which rows a limit or ``first`` after it takes, must not depend on memory."""
    if stage.has_author_functions or isinstance(stage.output, ExchangeOutput):
        return CUT_AGAIN_BYTES
    return min(CUT_AGAIN_BYTES, max(LEAST_PIECE_BYTES, slice_rows * PIECE_BYTES_A_ROW))


def _cut_again(reducer: Reducer, sides: Sequence[tuple[int, Side]], most_bytes: int) -> Iterator[list[Side]]:
    """A partition that is larger than planned, or than there is room for, in smaller ones by other bits of the hash, read once for
    each."""
    streams = [stream for _, stream in sides]
    schema = reducer.cut_again
    held = 0 if schema is None else sum(rows for rows, _ in sides) * row_bytes(schema)
    if held <= most_bytes:
        yield streams
        return
    pieces = min(MOST_PIECES, 1 << (held // most_bytes).bit_length())
    for piece in range(pieces):
        yield [_piece(stream, reducer.keys_in_front, piece, pieces) for stream in streams]


def _piece(stream: Side, keys: int, piece: int, pieces: int) -> Side:
    def some() -> Iterator[pa.RecordBatch]:
        for batch in stream():
            ids = partition_ids(batch.columns[:keys], pieces, level=1)
            yield batch.filter(pc.equal(ids, pa.scalar(piece, ids.type)))

    return some


def _side(readers: Sequence[RunReader], partition: int) -> tuple[int, Side]:
    """Rows stored for a partition, and a function that streams them, run by run."""

    def stream() -> Iterator[pa.RecordBatch]:
        for reader in readers:
            yield from reader.batches(partition)

    return sum(reader.rows_of(partition) for reader in readers), stream


def _to_sink(task: Task, bench: Workbench, slice_rows: int, outcome: Outcome, seen: Callable[[int], None]) -> None:
    sink = bench.sinks[task.stage.output.sink]  # type: ignore[union-attr]
    staged = sink.stage(task.index, bench.epoch, task.stage.schema)

    def room(size_bytes: int) -> AbstractContextManager[None]:
        return nullcontext() if bench.wall is None else bench.wall.room(size_bytes, "writing a part")

    try:
        for batch in batches_of(task, bench, slice_rows, outcome, seen):
            # Writing Parquet does not survive a malloc that fails half-way (ADR 6): fail here, where it is safe.
            with room(2 * batch.nbytes + WRITE_ROOM_BYTES):
                staged.write(batch)
            outcome.rows_out += batch.num_rows
        with room(WRITE_ROOM_BYTES):
            outcome.parts = staged.close()
    except BaseException:
        staged.abort()
        raise


def _to_exchange(
    task: Task,
    bench: Workbench,
    exchange: ExchangeState,
    slice_rows: int,
    outcome: Outcome,
    seen: Callable[[int], None],
) -> None:
    output = task.stage.output
    assert isinstance(output, ExchangeOutput)
    combiner, split = output.combiner, outcome.state
    gathered: list[Kept] = []
    routes: list[pa.Array | None] = []
    rows = 0

    def hand_on() -> None:
        nonlocal rows
        if not gathered:
            return
        batch = together([kept.batch for kept in gathered], combiner.raw_schema)
        mask = _mask_of(gathered)
        if not combiner.foldable:
            ids = None if routes[0] is None else pa.concat_arrays(routes)
            split.raw.extend(exchange.route(batch, ids))
        elif bench.preaggregate.get(task.stage.index, True):
            table = pa.Table.from_batches([batch if mask is None else batch.filter(mask)])
            folded = combiner.fold(table)
            bench.preaggregate.setdefault(task.stage.index, folded.num_rows < PREAGGREGATE_BELOW * table.num_rows)
            batch = _one_batch(folded)
            split.partials.extend(exchange.route(batch, exchange.ids(batch)))
        else:
            split.raw.extend(exchange.route(batch, exchange.ids(batch), mask))
        gathered.clear()
        routes.clear()
        rows = 0

    enough = combiner.rows if isinstance(combiner, FirstRows) and combiner.by_position else None
    if enough is not None and bench.rows_before(task) >= enough:
        return
    for kept in _raw_rows(task, bench, combiner, slice_rows, outcome, seen):
        if not combiner.foldable:
            routes.append(exchange.ids(kept.batch))
            kept = replace(kept, batch=packed(kept.batch))
        gathered.append(kept)
        rows += kept.batch.num_rows
        split.raw_rows += kept.rows
        if rows >= ROUTE_ROWS:
            hand_on()
        if enough is not None and split.raw_rows >= enough:
            break
    hand_on()
    if enough is not None:
        bench.rows_kept[task.stage.index, task.index] = split.raw_rows


def _raw_rows(
    task: Task,
    bench: Workbench,
    combiner: Combiner,
    slice_rows: int,
    outcome: Outcome,
    seen: Callable[[int], None],
) -> Iterator[Kept]:
    """What travels, batch by batch. Positions go up with the rows; where filters leave some out, so may they."""
    position = task.index << bench.position_bits
    fused = task.input.fused if isinstance(task.input, ScanInput) else None
    if fused is None:
        for batch in batches_of(task, bench, slice_rows, outcome, seen):
            yield Kept(combiner.prepare(batch, position), None, batch.num_rows)
            position += batch.num_rows
        return
    wide = bench.wide.setdefault(task.stage.index, set())
    for batch in _scan(task.input, task, FUSED_SLICES * slice_rows, outcome, seen):  # type: ignore[arg-type]
        if bench.giving_up.is_set():
            raise GivenUp
        kept = fused.apply(batch, position, wide)
        if kept.rows:
            yield kept
        position += batch.num_rows


def _mask_of(gathered: Sequence[Kept]) -> pa.Array | None:
    """Which of all these rows count; None if every one does."""
    if all(kept.mask is None for kept in gathered):
        return None
    return pa.concat_arrays([pa.repeat(True, kept.rows) if kept.mask is None else kept.mask for kept in gathered])


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    table = table.combine_chunks()
    arrays = [column.chunk(0) if column.num_chunks else pa.nulls(0, column.type) for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def rows_place(task: Task, outcome: Outcome) -> str:
    """The file and the rows of it, counted from 0, that were read last: what an author's function was working on."""
    task = outcome.reading or task
    if not isinstance(task.input, ScanInput):
        return _place(task)
    source, split = task.input.source, task.input.splits[task.scan]
    first = outcome.reading_rows - outcome.last_rows  # in the split
    try:
        for segment in split.segments:
            rows = _count_rows(source, split, segment)
            if first < rows:
                path = source.inventory()[segment.file].path
                since = ""
                if split.rows is None and segment.start > COUNT_BYTES:
                    since = f", counted from byte {segment.start}"
                elif segment.start:
                    first += _count_rows(source, split, Segment(segment.file, 0, segment.start))
                return f"{path}, rows {first} to {first + outcome.last_rows - 1}{since}"
            first -= rows
    except Exception:
        pass  # the place is a help; what went wrong first is what must be told
    return _place(task)


def _count_rows(source: Source, split: Split, segment: Segment) -> int:
    piece = replace(split, segments=(segment,))
    return sum(batch.num_rows for batch in source.read(piece, (), None, ROUTE_ROWS))


def _place(task: Task) -> str:
    """Where the rows of a split come from, for an error message."""
    if not isinstance(task.input, ScanInput):
        return f"partitions {task.partitions.start} to {task.partitions.stop - 1} of stage {task.input.stages[0]}"
    files = task.input.source.inventory()
    pieces = [
        f"{files[segment.file].path} [{segment.start}, {segment.stop})"
        for segment in task.input.splits[task.scan].segments
    ]
    return ", ".join(pieces[:3]) + (" …" if len(pieces) > 3 else "")
