"""Writes checkpoints, one at a time, on a thread of its own, and publishes the output after the last.

Covers the order of a commit (runs, then the manifest, then what follows from it) and what happens when one fails: what was captured
is unsaved again, and the last good checkpoint stands. When to write one is the machine's decision.

The order of a whole run: … checkpoint n, stage ended · … · last stage ended = phase *publishing*, with every part named ·
sinks publish · phase *done*. A crash anywhere is rolled forward from the newest commit.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import pyarrow as pa

from ..checkpoint import (
    Committed,
    Delta,
    Intervals,
    Phase,
    RunRef,
    Snapshot,
    StageDelta,
    StateDir,
)
from ..checkpoint.compaction import GaveWay, choose_compaction, compact
from ..engine.exchange import Generation, drain_cell, drain_in_pieces, merge_runs
from ..engine.executor import Executor
from ..engine.reports import Capture
from ..engine.splits import reduce_groups
from ..engine.stages import ExchangeOutput, ReduceInput, SinkOutput
from ..errors import EtlkitError, FencedError, StateError
from ..io.sink import Part, ShowsEarly, ShowsEmpty
from ..lazyclass import dataclass
from ..memory.allocation import is_allocation_failure, release_pools
from ..memory.reserve import Reserve
from .opening import parts_of

FAN_IN, FAN_IN_OF_ROWS = 8, 64
"""Runs that are merged into one. Merging makes groups fewer; whole rows it only writes again, to have fewer files."""


PAUSE_S = 10.0
"""How long running splits are waited for when a checkpoint needs their memory."""
RESERVE_BYTES, RESERVE_CELLS = 6 << 20, 4
"""Kept under the wall for a checkpoint when memory has run out: so much, and so many times the state of one partition, since each is
folded before it is written. Measured: ADR 11."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One checkpoint to write. ``facts`` are committed with it; ``then`` runs right after the commit."""

    reason: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    then: Callable[[], None] | None = None
    even_if_empty: bool = False
    decided: bool = False
    """The machine asked for it and waits for the answer; others follow from mechanics."""
    urgent: bool = False
    """Memory is to be asked for, a stage has ended, or the process is to end: a merge gives way to it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint is durable."""

    committed: Committed
    wanted: Wanted
    splits_done: int
    captured_s: float | None
    """When it was cut: what is finished later is not in it. None if it holds facts alone."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """There was nothing new to write."""

    wanted: Wanted


@dataclass(frozen=True, slots=True)
class NotWritten:
    wanted: Wanted
    error: BaseException


@dataclass(frozen=True, slots=True)
class Published:
    """The run is done: the output is visible, or a share of it is handed over."""

    parts: int
    rows: int
    bytes: int
    seconds: float
    visible: bool = True


@dataclass(frozen=True, slots=True)
class Merged:
    """Old runs are one run now; ``committed.bytes`` of what was written before were written again."""

    committed: Committed
    runs: int


Report = Written | Skipped | NotWritten | Published | Merged


class Checkpointer:
    """Owns every commit after the claim. ``post`` is called on its thread."""

    def __init__(
        self,
        executor: Executor,
        state_dir: StateDir,
        post: Callable[[Report], None],
        hand_over: Callable[[], Sequence[Part] | None] | None = None,
    ) -> None:
        """``hand_over``: what is done with the parts in place of publishing them (a share of a fan-out). It gives the parts of all
        shares if this one was the last, and the output is visible with it."""
        self._executor = executor
        self._hand_over = hand_over
        self._state_dir = state_dir
        self._post = post
        self._queue: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="etlkit-checkpointer", daemon=True)
        self._early: dict[int, ShowsEarly] = {
            number: sink
            for number, sink in enumerate(executor.plan.sinks)
            if isinstance(sink, ShowsEarly) and sink.visible == "checkpoint"
        }
        self._unseen: list[tuple[int, Part]] = []
        """Committed, and not shown yet, of the sinks that show early."""
        self._reserve = Reserve()
        self._writing_alone = False
        self.busy = False
        self._lock = threading.Lock()
        self._urgent = 0
        """Urgent requests that wait, and the end."""
        self.last_commit_s = time.monotonic()

    def start(self) -> None:
        self.keep_reserve()
        self._thread.start()

    def keep_reserve(self) -> None:
        """Have room for a checkpoint of the state that there is. At each look: while state grows, there is room to grow with it."""
        wall, exchange = self._executor.bench.wall, self._executor.exchange
        if wall is None or wall.placement is None or self._writing_alone:
            return
        cell_bytes = exchange.bytes // exchange.partitions if exchange is not None else 0
        self._reserve.hold(RESERVE_BYTES + RESERVE_CELLS * cell_bytes)

    def _snapshot(self) -> Snapshot:
        snapshot = self._state_dir.snapshot
        assert snapshot is not None
        return snapshot

    def request(self, wanted: Wanted) -> None:
        self.busy = True
        if wanted.urgent:
            self._hurry(1)
        self._queue.put(wanted)

    def close(self, wait_s: float) -> None:
        self._hurry(1)
        self._queue.put(None)
        self._thread.join(wait_s)
        self._reserve.let_go()

    def _hurry(self, more: int) -> None:
        with self._lock:
            self._urgent += more

    def _run(self) -> None:
        self._show_all()
        while (wanted := self._queue.get()) is not None:
            if wanted.urgent:
                self._hurry(-1)
            stage = self._executor.figures().stage
            try:
                report = self._write(wanted)
            except BaseException as error:
                if not is_allocation_failure(error):
                    report = NotWritten(wanted, error)
                else:
                    # Its frames hold what was being written: half of all that Arrow had then, as measured.
                    report = self._write_alone(wanted, error.with_traceback(None))
            self.keep_reserve()
            self.busy = not self._queue.empty()
            self._post(report)
            if isinstance(report, Written) and self._snapshot().phase is Phase.PUBLISHING:
                self._post(self._publish(wanted))
            elif isinstance(report, Written | Skipped):
                unseen = self._show()
                if unseen is not None:
                    self._post(NotWritten(wanted, unseen))
                elif isinstance(report, Written) and self._executor.figures().stage == stage:
                    merged = self._merge(stage)
                    if merged is not None:
                        self._post(merged)

    def _show_all(self) -> None:
        """What an earlier attempt committed and perhaps could not show any more; an error will come again with the next commit."""
        if self._early and self._snapshot().phase is Phase.RUNNING:
            self._unseen = parts_of(self._snapshot())
            self._show()

    def _show(self) -> BaseException | None:
        """Committed parts of sinks that show them at each checkpoint. What went wrong is tried again with the next one."""
        try:
            for number, sink in self._early.items():
                sink.publish([part for at, part in self._unseen if at == number], self._state_dir.fence)
        except BaseException as error:
            return error
        self._unseen = []
        return None

    def _write_alone(self, wanted: Wanted, error: BaseException) -> Report:
        """Memory ran out beside the workers: an intent goes without the state, anything else once they have stopped."""
        self._writing_alone = True
        try:
            if wanted.then is not None:
                return self._write_facts(wanted)
            self._executor.pause(PAUSE_S)
            self._make_room()
            return self._write(wanted, small=True)
        except BaseException as again:
            return NotWritten(wanted, again if not is_allocation_failure(again) else again.with_traceback(None))
        finally:
            # Before the workers take that room, too: the last checkpoint of all may need it.
            self._writing_alone = False
            self.keep_reserve()
            self._executor.resume()

    def _make_room(self) -> None:
        """Let go what can be let go. The wall opens no further than its margin: more of it was an OOM kill (ADR 11)."""
        self._reserve.let_go()
        wall = self._executor.bench.wall
        if wall is not None:
            wall.give_way()
        gc.collect()
        release_pools()

    def _write_facts(self, wanted: Wanted) -> Report:
        """The facts alone: what is finished stays unsaved. More memory must not wait for memory to ask for it."""
        self._make_room()
        committed = self._state_dir.commit(Delta(wanted.reason, {}, wanted.facts, self._snapshot().phase))
        if wanted.then is not None:
            wanted.then()
        return Written(committed, wanted, 0, None)

    def _write(self, wanted: Wanted, *, small: bool = False) -> Report:
        executor = self._executor
        began_s = time.monotonic()
        capture = executor.capture()
        try:
            moves = capture.complete or capture.let_go
            empty = not capture.fresh.finished and not capture.generation and not moves
            if empty and not wanted.facts and not wanted.even_if_empty:
                executor.committed(capture, self._snapshot())
                return Skipped(wanted)
            self._leave_something(capture)
            runs = self._write_runs(capture, small)
            facts = dict(wanted.facts) | executor.facts_of(capture, self._snapshot())
            phase = Phase.RUNNING
            if capture.complete:
                facts["ended"] = self._ended(capture, runs)
                if not executor.later(capture.stage):
                    phase = Phase.PUBLISHING
            fresh = capture.fresh
            delta = StageDelta(
                finished=Intervals.of(fresh.finished),
                runs=runs,
                parts=tuple(fresh.parts),
                rows_in=fresh.rows_in,
                rows_out=fresh.rows_out,
            )
            committed = self._state_dir.commit(Delta(wanted.reason, {capture.stage: delta}, facts, phase))
        except BaseException:
            executor.not_committed(capture)
            raise
        if self._early:
            self._unseen += [pair for pair in capture.fresh.parts if pair[0] in self._early]
        self.last_commit_s = time.monotonic()
        committed = replace(committed, duration_s=self.last_commit_s - began_s)
        if wanted.then is not None:
            wanted.then()
        executor.committed(capture, self._snapshot())
        return Written(committed, wanted, capture.splits_done, began_s)

    def _leave_something(self, capture: Capture) -> None:
        """An output without rows still says its columns, so that readers can open it."""
        stage = self._executor.plan.stages[capture.stage]
        if not capture.complete or not isinstance(stage.output, SinkOutput) or capture.fresh.parts or self._hand_over:
            return
        number = stage.output.sink
        sink = self._executor.plan.sinks[number]
        if isinstance(sink, ShowsEmpty) and not any(at == number for at, _ in parts_of(self._snapshot())):
            epoch = self._snapshot().epoch
            capture.fresh.parts.extend((number, part) for part in sink.stage_empty(epoch, stage.schema))

    def _write_runs(self, capture: Capture, small: bool) -> tuple[RunRef, ...]:
        """The captured state as one run file, partition by partition. ``small``: in little memory, unmerged."""
        output = self._executor.plan.stages[capture.stage].output
        generation = capture.generation
        if not generation or not isinstance(output, ExchangeOutput):
            return ()
        writer = self._state_dir.run_writer(capture.stage, small=small)
        try:
            for partition, table in (_pieces if small else _tables)(generation, output):
                writer.add(partition, table)
            return (writer.close(),)
        except BaseException:
            writer.abort()
            raise

    def _merge(self, number: int) -> Merged | None:
        """Merge old runs of the stage when enough of one size have gathered, so that their number stays bounded. A commit of its own,
        after the one that was asked for: nobody waits for it, and a request for memory or the end of the attempt makes it give way.
        What fails leaves the runs as they are, for the next time."""
        output = self._executor.plan.stages[number].output
        stage = self._snapshot().stages.get(number)
        if stage is None or not isinstance(output, ExchangeOutput):
            return None
        chosen = choose_compaction(stage.runs, FAN_IN if output.combiner.foldable else FAN_IN_OF_ROWS)
        if not chosen:
            return None
        began_s = time.monotonic()

        def merge(_: int, batches: Sequence[pa.RecordBatch]) -> pa.Table:
            if self._hurried():
                raise GaveWay
            return merge_runs(output.combiner, batches)

        try:
            merged = compact(self._state_dir, chosen, merge)
            dropped = tuple(run.name for run in chosen)
            reason = f"{len(chosen)} runs of stage {number} merged into one"
            delta = Delta(reason, {number: StageDelta(runs=(merged,), dropped=dropped)}, phase=self._snapshot().phase)
            committed = self._state_dir.commit(delta)
        except (GaveWay, StateError, ValueError):
            return None  # fenced, full or closed: the next checkpoint says so
        except BaseException as error:
            if not is_allocation_failure(error):
                raise
            self._make_room()
            return None
        return Merged(replace(committed, duration_s=time.monotonic() - began_s), len(chosen))

    def _hurried(self) -> bool:
        with self._lock:
            return self._urgent > 0

    def _ended(self, capture: Capture, runs: tuple[RunRef, ...]) -> dict[str, Any]:
        """Which stages have ended, and how the stage after cuts their partitions into splits."""
        snapshot = self._snapshot()
        ended = dict(snapshot.facts.get("ended") or {})
        output = self._executor.plan.stages[capture.stage].output
        groups: list[list[int]] = []
        if isinstance(output, ExchangeOutput):
            groups = reduce_groups(self._stored_bytes(capture, output, runs), output.partitions)
        ended[str(capture.stage)] = groups
        return ended

    def _stored_bytes(self, capture: Capture, output: ExchangeOutput, fresh: tuple[RunRef, ...]) -> int:
        """State that the next stage reads. What folds counts by its largest run: each holds most of the keys again."""
        snapshot = self._snapshot()
        runs = list(fresh)
        for number in self._met_with(capture.stage):
            stage = snapshot.stages.get(number)
            runs += stage.runs if stage else ()
        sizes = [run.bytes for run in runs]
        return max(sizes, default=0) if output.combiner.foldable else sum(sizes)

    def _met_with(self, number: int) -> tuple[int, ...]:
        """The stages whose partitions are reduced together with this one's: both sides of a join."""
        for stage in self._executor.plan.stages:
            for one in stage.inputs:
                if isinstance(one, ReduceInput) and number in one.stages:
                    return one.stages
        return (number,)

    def _publish(self, wanted: Wanted) -> Report:
        """Make the output visible and say so. May be repeated: a restarted run comes here at once."""
        began_s = time.monotonic()
        try:
            parts = parts_of(self._snapshot())
            shown: Sequence[Part] | None = [part for _, part in parts]
            if self._hand_over is not None:
                shown = self._hand_over()
            else:
                for number, sink in enumerate(self._executor.plan.sinks):
                    sink.commit([part for at, part in parts if at == number], self._state_dir.fence)
            said = "output published" if self._hand_over is None else "share handed over"
            self._state_dir.commit(Delta(said, {}, wanted.facts, Phase.DONE))
        except BaseException as error:
            return NotWritten(wanted, error)
        told = [part for _, part in parts] if shown is None else shown
        rows, size = sum(part.rows for part in told), sum(part.length for part in told)
        return Published(len(told), rows, size, time.monotonic() - began_s, shown is not None)

    def publish_now(self) -> None:
        """For a start that finds every part named and staged: nothing is left but to publish."""
        self._post(self._publish(Wanted("publish")))

    def commit_facts(self, reason: str, facts: Mapping[str, Any], phase: Phase | None = None) -> None:
        """Write facts down from the caller's thread, once nothing else is being written (the end of an attempt)."""
        now = self._snapshot().phase
        self._state_dir.commit(Delta(reason, {}, facts, phase or now))


def _tables(generation: Generation, output: ExchangeOutput) -> Iterator[tuple[int, pa.Table]]:
    for partition, cell in enumerate(generation.cells):
        table = drain_cell(output.combiner, cell)
        if table is not None and table.num_rows:
            yield partition, table


def _pieces(generation: Generation, output: ExchangeOutput) -> Iterator[tuple[int, pa.Table]]:
    for partition, cell in enumerate(generation.cells):
        for piece in drain_in_pieces(output.combiner, cell):
            yield partition, piece


def as_state_error(error: BaseException) -> EtlkitError:
    """What went wrong with a checkpoint, as an error with an exit code."""
    if isinstance(error, FencedError | StateError | EtlkitError):
        return error
    if is_allocation_failure(error):
        return StateError(f"no memory left to write a checkpoint: {error}", "raise the limit; the last good one stands")
    return StateError(f"a checkpoint failed: {type(error).__name__}: {error}", "the last good one is untouched")
