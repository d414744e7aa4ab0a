"""Runs the stages of a plan on worker threads and hands what is finished to checkpoints.

Covers which split runs when (order, worker count, admission by the ledger), what is finished but not yet committed, and the step from
one stage to the next. It does not decide: it reports (``post``) and does what it is told. Lock order: a cell's lock, then the
executor's, then the ledger's.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Callable

import pyarrow as pa

from ..checkpoint import Delta, Phase, Snapshot, StateDir
from ..io.source import Growing
from ..memory.allocation import is_allocation_failure, release_pools
from ..memory.ledger import Ledger
from ..memory.wall import Wall
from .author_need import AuthorNeed
from .demand import split_demand_bytes
from .exchange import ExchangeState
from .extent import Extent, Ranges
from .growth import Record, growing_input
from .held import Holder, NoRoomToHold, decided
from .reports import Capture, Figures, Fresh, Idle, Report, RoomWanted, SplitFailed, SplitShort, StageFinished
from .routing import ByRange, from_text, to_text
from .sampling import sample_boundaries
from .splits import Planned, Splits, arrived, planned
from .stages import ExchangeOutput, Plan, ReduceInput, ScanInput, SinkOutput, Stage
from .work import POSITION_BITS, GivenUp, Outcome, Task, Workbench, position_bits, run_task

FEED_WAIT_S = 0.5
LEAST_SLICE_ROWS = 1024
FULL_FOLD_BYTES = 32 << 20
"""Unfolded rows that are gathered where there is room. Twice as many take 4 % less cpu and 45 MiB more (ADR 13)."""
ROWS_HELD_BYTES = 48 << 20
"""Rows of a join or a sort in memory before they are written."""
STATE = "state"
"""The ledger's name for rows between stages."""


class Executor:
    """One per process. Thread-safe."""

    def __init__(
        self,
        plan: Plan,
        state_dir: StateDir,
        snapshot: Snapshot,
        ledger: Ledger,
        post: Callable[[Report], None],
        *,
        workers: int,
        slice_rows: int,
        wall: Wall | None = None,
        extent: Extent | None = None,
    ) -> None:
        self.plan = plan
        self._extent = extent or Extent(state_dir)
        self.stages = tuple(stage for stage in plan.stages if self._extent.runs_here(stage))
        """Those of the plan that run in this process."""
        self._planned: dict[int, Planned] = {}
        self._state_dir = state_dir
        self._ledger = ledger
        self._post = post
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._slice_rows = slice_rows
        self._pending: deque[Task] = deque()
        self._running: dict[str, Task] = {}
        self._tries: dict[str, int] = {}
        self._short: set[str] = set()
        """Splits that the wall stopped: they had begun, so a drain lets them try again."""
        self._held = False
        self._draining = False
        self._paused = False
        self._idle_said = False
        self._holding: tuple[int, ...] = ()
        """The joins whose right sides this stage's splits are streamed past, by the stage of the left."""
        self._let_go = ""
        """Why they are to be let go, once no split runs."""
        self._closed = False
        self._room_wanted = False
        self._fresh = Fresh()
        self._exchange: ExchangeState | None = None
        self._stage: Stage | None = None
        self._author = AuthorNeed()
        self._growing: ScanInput | None = None
        """The stage's input that may still get splits."""
        self._records: dict[int, Record] = {}
        self._stage_done = 0
        self._stage_total = 0
        self._done_before = 0
        self._rows_in = sum(stage.rows_in for stage in snapshot.stages.values())
        self._rows_out = sum(stage.rows_out for stage in snapshot.stages.values())
        self._rows_seen = 0
        self._raw_rows = 0
        self._complete_said = False
        self._splits = Splits(plan, self._extent)
        self._holder = Holder(self._splits, self._extent, state_dir, ledger)
        self.bench = Workbench(self._extent.open_run, snapshot.epoch, plan.sinks, {}, threading.Event(), wall=wall)
        self.bench.held = self._holder.blocks
        ledger.try_reserve(STATE, 0)

    # ── stages ──────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, snapshot: Snapshot) -> bool:
        """Take up the first stage that has splits left. False: every stage is done."""
        before = 0
        for stage in self.stages:
            snapshot = self._holder.decide(stage, snapshot)
            tasks = self._splits.of(stage, snapshot)
            left = self._splits.left(tasks, stage, snapshot)
            if left or not self._splits.is_over(stage, snapshot):
                self._planned = {one.index: planned(one, self._splits.of(one, snapshot)) for one in self.stages}
                self._enter(stage, snapshot, left, len(tasks), before)
                return True
            before += len(tasks)
        with self._lock:
            self._done_before = before
            self._stage_done = self._stage_total = 0
        return False

    def _enter(self, stage: Stage, snapshot: Snapshot, left: list[Task], total: int, before: int) -> None:
        joins = self._splits.holding(left)
        self.bench.read_from(
            {
                number: self._extent.runs(number, snapshot)
                for some in (stage, *(probe.left for probe in joins.values()))
                for one in some.inputs
                if isinstance(one, ReduceInput)
                for number in one.stages
            }
        )
        no_room = ""
        boundaries = None
        try:
            self._holder.keep(joins, stage, snapshot)
            boundaries = self._boundaries(stage, snapshot)
        except NoRoomToHold as why:
            no_room = str(why)
        with self._lock:
            self._stage = stage
            self._done_before = before
            self._stage_total = total
            self._stage_done = total - len(left)
            self._holding, self._let_go = tuple(joins), no_room
            self._pending = deque([] if no_room else left)
            self._growing = growing_input(stage)
            self._author = AuthorNeed(known=not stage.has_author_functions)
            self._complete_said = False
            self._raw_rows = 0
            output = stage.output
            self._exchange = (
                ExchangeState(output, self._lock, boundaries) if isinstance(output, ExchangeOutput) else None
            )
            self._wake.notify_all()
        self._say_if_complete()

    def _boundaries(self, stage: Stage, snapshot: Snapshot) -> pa.Array | None:
        """The ranges of a sort, from a sample of all of its splits: found when its stage first begins."""
        output = stage.output
        self.bench.position_bits = POSITION_BITS
        if not isinstance(output, ExchangeOutput) or not isinstance(output.router, ByRange):
            return None

        def find() -> Ranges:
            self.bench.position_bits = position_bits(stage)
            found = sample_boundaries(self._splits.all_of(stage, snapshot), self.bench, output)
            return Ranges(to_text(found), self.bench.position_bits)

        ranges = self._extent.ranges(stage.index, snapshot, find)
        self.bench.position_bits = ranges.position_bits
        return from_text(ranges.boundaries)

    # ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start every thread now: once the wall is up, a new thread's stack may not fit."""
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"etlkit-worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        growing = [source for source in self.plan.sources if isinstance(source, Growing)]
        for source in growing:
            source.watch()
        if growing:
            threading.Thread(target=self._feed, name="etlkit-watcher", daemon=True).start()

    def _feed(self) -> None:
        """Watch for what arrives while a stage with a growing input runs. On a thread of its own."""
        while True:
            with self._wake:
                while not self._closed and not self._draining and self._growing is None:
                    self._wake.wait(1.0)
                if self._closed or self._draining:
                    return
                scan, stage = self._growing, self._stage
            assert scan is not None and stage is not None
            try:
                self._take_in(scan, stage)
            except BaseException as error:
                if is_allocation_failure(error):
                    release_pools()
                    time.sleep(FEED_WAIT_S)
                    continue
                if not self._closed:
                    self._post(SplitFailed("of a watched folder", error))
                return

    def _take_in(self, scan: ScanInput, stage: Stage) -> None:
        """One look: splits that have arrived are recorded before anybody can use them."""
        source = scan.source
        assert isinstance(source, Growing)
        arrival = source.next(FEED_WAIT_S)
        if arrival is not None and not self._draining:
            number = self.plan.sources.index(scan.source)
            record = self._records.pop(number, None) or Record(number, source.arrivals)
            self._state_dir.commit(Delta("files arrived", {}, record.add(arrival), Phase.RUNNING))
            self._records[number] = record  # not before: what is not committed must not be in it
            source.take(arrival)
            with self._wake:
                tasks = arrived(stage, scan, arrival, self._stage_total)
                self._pending += tasks
                self._stage_total += len(tasks)
                self._complete_said = False
                self._wake.notify_all()
        elif source.ended:
            with self._wake:
                self._growing = None
            self._say_if_complete()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            outcome: Outcome | None = None
            failure: BaseException | None = None
            try:
                outcome = run_task(task, self.bench, self._exchange, self._slice_rows, self._see)
            except BaseException as error:
                failure = error.with_traceback(None) if is_allocation_failure(error) else error
            if outcome is not None:
                self._finish(task, outcome)
                outcome = None
                self._maybe_sweep()
            else:
                assert failure is not None
                self._fail(task, failure)

    def _see(self, rows: int) -> None:
        self._rows_seen += rows

    def _next(self) -> Task | None:
        """The next split that may start, with its memory reserved; None when the executor is closed."""
        with self._wake:
            while True:
                if self._closed:
                    return None
                again = self._draining and self._begun_before()
                if self._draining and not self._running and not again and not self._idle_said:
                    self._idle_said = True
                    self._post(Idle())
                ready = self._pending and not self._held and not self._paused and (again or not self._draining)
                room = len(self._running) < self._workers and self._author.may_start(len(self._running))
                if ready and room:
                    task = self._pending[0]
                    if self._admit(task):
                        self._pending.popleft()
                        self._running[str(task)] = task
                        self._author.began()
                        return task
                self._wake.wait(1.0)

    def _begun_before(self) -> bool:
        """The next split is one that ran out of memory; there is time to try it in smaller slices."""
        return bool(self._pending) and str(self._pending[0]) in self._short and not self.bench.giving_up.is_set()

    def _admit(self, task: Task) -> bool:
        needed = self._demand_bytes(task, self._slice_rows)
        exchange = self._exchange
        state = exchange.bytes if exchange is not None else 0
        if (
            exchange is not None
            and not exchange.combiner.foldable
            and self._room_wanted
            and state >= 2 * ROWS_HELD_BYTES
        ):
            return False  # the disk is slower than the workers: they wait for the commit
        if self._ledger.try_reserve(str(task), needed):
            return True
        if state and not self._room_wanted:
            self._room_wanted = True
            self._post(RoomWanted(needed, state))
        if self._running or state:
            return False
        if task.probes:
            self._stop_holding(f"there is no room for a split of {needed >> 20} MiB beside what it holds")
            self._complete()
            return False
        # Nothing runs and nothing can be spilled: it runs alone, and the wall stands behind it.
        self._ledger.release(STATE)
        room = self._ledger.room_bytes
        granted = self._ledger.try_reserve(str(task), max(0, min(needed, room if room is not None else needed)))
        self._ledger.try_reserve(STATE, 0)
        return granted

    def _demand_bytes(self, task: Task, slice_rows: int) -> int:
        """What a split is projected to need, with what its author's functions were seen to take."""
        packed = self._exchange.packed_row_bytes if self._exchange is not None else 0
        return split_demand_bytes(task, slice_rows, self.bench.runs, packed) + self._author.extra_bytes

    def _finish(self, task: Task, outcome: Outcome) -> None:
        with self._wake:
            if not self._author.known:
                self._author.ended(self._demand_bytes(task, self._slice_rows))
            exchange = self._exchange
            if exchange is not None:
                exchange.add(outcome.state)
            self._raw_rows += outcome.state.raw_rows
            fresh = self._fresh
            fresh.finished.append(task.index)
            output = task.stage.output
            if isinstance(output, SinkOutput):
                fresh.parts += [(output.sink, part) for part in outcome.parts]
                fresh.rows_out += outcome.rows_out
                self._rows_out += outcome.rows_out
            fresh.rows_in += outcome.rows_in
            self._rows_in += outcome.rows_in
            self._rows_seen -= outcome.rows_in
            self._stage_done += 1
            self._tries.pop(str(task), None)
            self._short.discard(str(task))
            self._release(task)
        self._say_if_complete()

    def _stop_holding(self, why: str) -> None:
        """Called with the lock held. The splits that run are done; with the next commit the rest is exchanged."""
        self._let_go = self._let_go or why
        self._pending.clear()

    def _release(self, task: Task) -> None:
        del self._running[str(task)]
        self._ledger.release(str(task))
        self._account()
        self._wake.notify_all()

    def _account(self) -> None:
        self._ledger.adjust(STATE, self._exchange.bytes if self._exchange is not None else 0)

    def _fail(self, task: Task, error: BaseException) -> None:
        short = is_allocation_failure(error)
        if short and self.bench.wall is not None:
            self.bench.wall.give_way()
        with self._wake:
            tries = self._tries[str(task)] = self._tries.get(str(task), 0) + 1
            # An author's function gets the same batches again, and below the smallest slice nothing is left to try.
            if short and not task.stage.has_author_functions and self._slice_rows > LEAST_SLICE_ROWS:
                self._short.add(str(task))
            else:
                self._short.discard(str(task))
            stops = short and bool(task.probes)
            if stops:
                self._stop_holding("memory was short for a split beside what it holds")
            elif not self._let_go:
                self._pending.appendleft(task)
            self._rows_seen = 0
            self._held = self._held or not (stops or isinstance(error, GivenUp))
            self._release(task)
        if isinstance(error, GivenUp):
            return
        if stops:
            gc.collect()
            release_pools()
            self._say_if_complete()
            return
        if short:
            gc.collect()
            release_pools()
            needed = self._demand_bytes(task, self._slice_rows)
            self._post(SplitShort(str(task), tries, self._slice_rows, needed, f"{type(error).__name__}: {error}"))
        else:
            self._post(SplitFailed(str(task), error))

    def _maybe_sweep(self) -> None:
        """Fold what has come in, once it is more than a share of the room there is; all of it when there is nothing else to do."""
        exchange = self._exchange
        if exchange is None:
            return
        if not exchange.combiner.foldable:
            self._let_rows_go(exchange)
            return
        due = not self._pending or exchange.raw_bytes >= self._fold_bytes()
        if not due and exchange.folds:
            return
        try:
            exchange.sweep(self.bench.giving_up) if due else exchange.look_at_keys()
        except BaseException as error:
            if not is_allocation_failure(error):
                self._post(SplitFailed("fold", error))
                return
            release_pools()
            self._post(RoomWanted(0, exchange.bytes))
        with self._wake:
            self._account()
            self._wake.notify_all()

    def _let_rows_go(self, exchange: ExchangeState) -> None:
        """Whole rows only grow: they are written as they come, rather than held until somebody needs the memory."""
        with self._lock:
            due = exchange.raw_bytes >= self._held_bytes(ROWS_HELD_BYTES) and not self._room_wanted and self._pending
            self._room_wanted = self._room_wanted or bool(due)
        if due:
            self._post(RoomWanted(0, exchange.bytes))

    def _fold_bytes(self) -> int:
        """How much unfolded state to gather: folding rarely is faster, and takes memory. It follows the ledger's room."""
        return self._held_bytes(FULL_FOLD_BYTES)

    def _held_bytes(self, most: int) -> int:
        room = self._ledger.room_bytes
        if room is None:
            return most
        exchange = self._exchange
        raw = exchange.raw_bytes if exchange is not None else 0
        return min(most, max(2 << 20, (max(room, 0) + raw) // 3))

    def _say_if_complete(self) -> None:
        with self._lock:
            self._complete()

    def _complete(self) -> None:
        """Called with the lock held."""
        left = self._pending or self._running or self._growing is not None
        if self._stage is not None and not left and not self._complete_said:
            self._complete_said = True
            self._post(StageFinished(self._stage.index, self._let_go))

    # ── what it is told ─────────────────────────────────────────────────────────────────────────────────────────

    def set_workers(self, workers: int) -> None:
        with self._wake:
            self._workers = min(workers, len(self._threads) or workers)
            self._wake.notify_all()

    def set_slice_rows(self, rows: int) -> None:
        """From the next split on. Stages with an author's function keep theirs: its batches depend on the plan only."""
        with self._wake:
            if self._stage is None or not self._stage.has_author_functions:
                self._slice_rows = rows
            self._wake.notify_all()

    def go_on(self) -> None:
        """After SplitShort, once what was decided is done."""
        with self._wake:
            self._held = False
            self._room_wanted = False
            self._wake.notify_all()

    def pause(self, wait_s: float) -> bool:
        """Start no split until ``resume``, and wait for the running ones. True when none is left."""
        with self._wake:
            self._paused = True
            return self._wake.wait_for(lambda: not self._running or self._closed, wait_s)

    def resume(self) -> None:
        with self._wake:
            self._paused = False
            self._wake.notify_all()

    def drain(self) -> None:
        with self._wake:
            self._draining = True
            self._wake.notify_all()

    def give_up(self) -> None:
        """Stop running splits at their next batch; they leave nothing."""
        self.bench.giving_up.set()
        with self._wake:
            self._wake.notify_all()

    def close(self) -> None:
        self.give_up()
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for source in self.plan.sources:
            if isinstance(source, Growing):
                source.close()

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────

    def facts_of(self, capture: Capture, snapshot: Snapshot) -> dict[str, object]:
        """What its commit says beside what is finished."""
        return dict(decided(snapshot, dict.fromkeys(capture.let_go, False))) if capture.let_go else {}

    def capture(self) -> Capture:
        """Everything finished and not yet committed, in one step. Give it to ``committed`` or ``not_committed``."""
        with self._lock:
            assert self._stage is not None
            fresh, self._fresh = self._fresh, Fresh()
            generation = self._exchange.take() if self._exchange is not None else None
            idle = not self._pending and not self._running and self._growing is None
            let_go = self._holding if idle and self._let_go else ()
            done = self._done_before + self._stage_done
            return Capture(self._stage.index, fresh, generation, idle and not let_go, let_go, done)

    def committed(self, capture: Capture, snapshot: Snapshot) -> bool:
        """The capture is durable: its memory is free. True when that was the last stage."""
        with self._wake:
            if self._exchange is not None and capture.generation is not None:
                self._exchange.let_go(capture.generation)
                self._account()
            self._room_wanted = False
            self._wake.notify_all()
        if self._ledger.capacity_bytes is not None:
            release_pools()  # without a limit nobody waits for it, and it is faulted in again at once
        if not capture.complete and not capture.let_go:
            return False
        self._holder.let_go(capture.let_go)
        return not self.begin(snapshot)

    def not_committed(self, capture: Capture) -> None:
        """The checkpoint failed: what it held is unsaved again."""
        if self._exchange is not None and capture.generation is not None:
            self._exchange.give_back(capture.generation)
        with self._wake:
            mine, theirs = self._fresh, capture.fresh
            mine.finished[:0] = theirs.finished
            mine.parts[:0] = theirs.parts
            mine.rows_in += theirs.rows_in
            mine.rows_out += theirs.rows_out
            self._complete_said = False
            self._account()
            self._wake.notify_all()

    @property
    def wants_room(self) -> bool:
        """A split waits for room that a checkpoint would make."""
        return self._room_wanted

    @property
    def exchange(self) -> ExchangeState | None:
        return self._exchange

    def figures(self) -> Figures:
        with self._lock:
            stage, exchange = self._stage, self._exchange
            task = self._pending[-1] if self._pending else next(iter(self._running.values()), None)
            need = self._demand_bytes(task, self._slice_rows) if task else 0
            fixed = stage is not None and stage.has_author_functions
            least = self._demand_bytes(task, self._slice_rows if fixed else LEAST_SLICE_ROWS) if task else 0
            return Figures(
                stage=stage.index if stage else len(self.plan.stages),
                kind=stage.kind if stage else "done",
                splits_done=self._done_before + self._stage_done,
                splits_total=self._done_before + self._stage_total + self._later_splits(),
                rows_in=self._rows_in + self._rows_seen,
                rows_out=self._rows_out,
                rows_total=self._rows_total(),
                running=len(self._running),
                state_bytes=exchange.bytes if exchange else 0,
                held_bytes=self._holder.bytes,
                split_need_bytes=need,
                smallest_need_bytes=least,
                slices_fixed=fixed,
                raw_rows=self._raw_rows,
                folded_rows=exchange.folded_rows if exchange else 0,
                folded_groups=exchange.folded_groups if exchange else 0,
            )

    def later(self, stage: int) -> tuple[Stage, ...]:
        """The stages that run here after that one."""
        return tuple(one for one in self.stages if one.index > stage)

    def _later_splits(self) -> int:
        """Splits of stages to come, as far as they are known: reduce stages count as one until they begin."""
        if self._stage is None:
            return 0
        return sum(self._planned[stage.index].splits for stage in self.later(self._stage.index))

    def _rows_total(self) -> int | None:
        counts = [planned.rows for planned in self._planned.values()]
        return None if None in counts else sum(rows or 0 for rows in counts)
