"""What the machine is shown at each tick: the cgroup's sample and the engine's figures, as one ``Observed``.

Covers the arithmetic between them: what the process itself takes (base), what the work will take at full speed (projected) and at the
least (floor), what it costs to spill or to be resized, and how much the ledger may promise. It reads; it decides nothing.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import field

import pyarrow as pa

from ..decide.events import Observed, ResizeMode
from ..decide.policy import Policy
from ..engine.demand import split_demand_bytes
from ..engine.exchange import ExchangeState
from ..engine.executor import ROWS_HELD_BYTES, STATE, Executor
from ..engine.reports import Figures
from ..engine.stages import ExchangeOutput, ScanInput
from ..engine.widths import row_bytes
from ..engine.work import Task
from ..lazyclass import dataclass
from ..memory import Leak, Ledger, MemoryReader, MemorySample, SplitForecast
from ..memory.growth import distinct_keys
from ..memory.thrash import thrash
from ..memory.wall import Wall, WallPlacement

FULL_SPEED_FOLD_BYTES = 32 << 20
"""Unfolded state that the engine gathers where there is room: folding rarely is what makes a group-by fast."""
RESTART_S = 0.8
"""Assumed until measured: PATCH, SIGTERM, final checkpoint, new process, first batch."""
SPILL_S, SPILL_BYTES_PER_S = 0.1, 200 << 20
"""Assumed until measured: letting state go once (folding, writing it as a run, reading it back later)."""
LEDGER_SHARE = 0.92
"""The ledger promises no more than this share of what the wall lets Arrow allocate; the rest goes to fragmentation."""
HEAP = 1.25
"""What the heap holds over what Arrow asks of it. Measured: the main job at scale 2 without a limit, 183 MiB at its peak, was
forecast at 150 MiB without this."""
RISK, BACK_OFF_S = 0.2, 10.0
"""Going on below what is forecast may end in a kill all the same (an author's function, native code, a sidecar): one time in
five is a judgement, and the back-off after a kill is the kubelet's (F13)."""
LONG_SPLIT_S = 5.0
"""From here on a stage without a finished split has long ones, and not only just begun."""
SPLITS_TO_TRUST = 8
"""Until so many splits were measured, the estimate from metadata stands as it is."""
LEAST_FACTOR, MOST_FACTOR = 0.4, 4.0
"""Bounds of what is believed of a learned factor: a measurement at a look is a sample, not a peak."""
STALL = 2.5
"""What letting go of state costs beside writing it: workers that wait for room, splits undone at the wall, cache read again.
Measured: docs/adr/0011."""


@dataclass(slots=True)
class Gauge:
    reader: MemoryReader
    executor: Executor
    ledger: Ledger
    wall: Wall
    workers: int
    resize_cost_s: float | None = None
    """Measured by an earlier attempt of this run."""
    spill_s: float | None = None
    """Measured: the newest checkpoint that let state go."""
    split: SplitForecast = field(default_factory=SplitForecast)
    """Measured over estimated, of a split; learned from run to run."""
    leak: Leak | None = None
    """Growth that no split explains, as far as it has been found."""
    sample: MemorySample = field(init=False)
    peak_bytes: int = 0
    _bases: deque[int] = field(default_factory=lambda: deque(maxlen=20))
    _outside_bytes: int | None = None
    _rates: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=40))
    _paces: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=240))
    """Splits done, over the last looks at this stage."""
    _stage: int = -1
    _stage_began_s: float = 0.0
    _flight: tuple[int, int] = (0, 0)
    """Reserved and allocated by running splits, at their most since a split was last learned from."""
    _learned_at: int = 0
    _last_s: float = 0.0
    _begun_with: int = 0
    slice_rows: int = 65536
    _later: dict[int, int] = field(default_factory=dict)
    figures: Figures = field(init=False)
    observed: Observed = field(init=False)

    def look(self, at_s: float, policy: Policy, unsaved_s: float, *, saving: bool = False) -> Observed:
        """Read everything once, move the ledger, and say what is seen. ``saving``: a checkpoint is being written."""
        before = getattr(self, "sample", None)
        sample = self.sample = self.reader.read()
        figures = self.figures = self.executor.figures()
        self.peak_bytes = max(self.peak_bytes, sample.own_bytes)
        self._bases.append(max(0, sample.own_bytes - pa.total_allocated_bytes()))
        base = min(self._bases)
        placement = self.wall.raise_to(sample.limit_bytes, sample)
        capacity = self._capacity_bytes(sample, placement, base)
        if capacity != self.ledger.capacity_bytes:
            self.ledger.resize(capacity)
        if figures.stage != self._stage:
            self._stage, self._stage_began_s = figures.stage, at_s
            self._rates.clear()
            self._paces.clear()
        self._rates.append((at_s, figures.rows_in))
        self._paces.append((at_s, figures.splits_done))
        if not saving:
            self._learn(figures)
        least = base + figures.smallest_need_bytes
        arrow = max(
            self.workers * self.split_bytes(figures.split_need_bytes)
            + self.full_state_bytes(figures)
            + figures.held_bytes,
            self._later_bytes(figures),
        )
        full = base + int(HEAP * arrow)
        full += self._leaking_bytes(figures)
        elapsed = at_s - self._last_s if self._last_s else 0.0
        if not self._last_s:
            self._begun_with = figures.splits_done
        self._last_s = at_s
        remaining = self.remaining_s(figures)
        self.observed = Observed(
            at_s=at_s,
            limit_bytes=sample.limit_bytes,
            used_bytes=sample.own_bytes,
            reserved_bytes=self.ledger.reserved_bytes,
            state_bytes=figures.state_bytes,
            projected_bytes=full,
            floor_bytes=least,
            unsaved_s=unsaved_s,
            # Stages to come may need more than this one, and nobody knows yet how much: no time at which to give back.
            remaining_s=None if self._gathers_later(figures) else remaining,
            spill_cost_s=self.spill_cost_s(
                figures, over=sample.limit_bytes is not None and full > policy.tight * sample.limit_bytes
            ),
            resize_cost_s=(self.resize_cost_s or RESTART_S) if policy.mode is ResizeMode.RESTART else 0.1,
            splits_done=figures.splits_done - self._begun_with,
            slices_fixed=figures.slices_fixed,
            thrash=thrash(before, sample, elapsed) if before is not None and elapsed > 0 else 0.0,
        )
        return self.observed

    def first_capacity_bytes(self) -> int | None:
        """Before the wall stands: what may be held from the beginning."""
        sample = self.reader.read()
        return self._capacity_bytes(sample, None, max(0, sample.used_bytes - pa.total_allocated_bytes()))

    def _capacity_bytes(self, sample: MemorySample, wall: WallPlacement | None, base: int) -> int | None:
        """What may be reserved: what the wall lets Arrow allocate in all, less a share for fragmentation."""
        if sample.limit_bytes is None:
            return None
        if wall is None:
            return max(4 << 20, int(LEDGER_SHARE * (sample.limit_bytes * LEDGER_SHARE - base)))
        # Data outside of Arrow's buffers at its lowest; what is above it is freed memory that malloc keeps for Arrow.
        outside = wall.mapped_data_bytes - pa.total_allocated_bytes()
        self._outside_bytes = outside if self._outside_bytes is None else min(self._outside_bytes, outside)
        return max(4 << 20, int(LEDGER_SHARE * (wall.data_bytes - self._outside_bytes)))

    def full_state_bytes(self, figures: Figures) -> int:
        """State at its peak until the stage ends, never spilled and folded as rarely as is fastest."""
        exchange = self.executor.exchange
        if exchange is None or not figures.rows_total or not figures.rows_in:
            return figures.state_bytes
        stage = self.executor.plan.stages[figures.stage]
        assert isinstance(stage.output, ExchangeOutput)
        width = row_bytes(stage.output.combiner.partial_schema)
        raw_total = int(figures.raw_rows * max(1.0, figures.rows_total / figures.rows_in))
        if not stage.output.combiner.foldable:
            # Rows of a join or a sort are written as they come, however much room there is: one lot gathers, one is written.
            return min(2 * ROWS_HELD_BYTES, raw_total * row_bytes(stage.output.combiner.raw_schema))
        groups = _groups_at(exchange, raw_total)
        if stage.output.groups_at_most is not None:
            groups = min(groups, stage.output.groups_at_most)
        raw = min(FULL_SPEED_FOLD_BYTES, raw_total * row_bytes(stage.output.combiner.raw_schema))
        # One generation is gathered while the one before it is folded and written; a merge holds old, new and result.
        return 2 * raw + 2 * groups * width

    def spill_cost_s(self, figures: Figures, *, over: bool) -> float:
        """Going on within the limit: how often what room there is fills up, times what letting it go takes; and the risk."""
        capacity = self.ledger.capacity_bytes
        exchange = self.executor.exchange
        if capacity is None or exchange is None or not figures.rows_in or not figures.rows_total:
            return 0.0
        room = max(4 << 20, capacity - self.workers * self.split_bytes(figures.split_need_bytes))
        left = figures.raw_rows * max(0.0, figures.rows_total / figures.rows_in - 1.0)
        bytes_left = left * row_bytes(exchange.combiner.raw_schema)
        if bytes_left + figures.state_bytes <= room:
            return 0.0
        times = bytes_left / room
        if not exchange.combiner.foldable:
            # Rows go to disk anyway; only that they go in smaller lots costs.
            times -= bytes_left / max(room, ROWS_HELD_BYTES)
            over = over and times > 0
        each_s = self.spill_s or SPILL_S + room / SPILL_BYTES_PER_S
        risk_s = RISK * (BACK_OFF_S + (self.resize_cost_s or RESTART_S)) if over else 0.0
        return float(STALL * times * each_s) + risk_s

    def split_bytes(self, estimated_bytes: int) -> int:
        """What a split will need, by what splits have needed so far."""
        if self.split.seen < SPLITS_TO_TRUST and self.split.factor == 1.0:
            return estimated_bytes
        return int(min(max(self.split.factor, LEAST_FACTOR), MOST_FACTOR) * estimated_bytes)

    def _learn(self, figures: Figures) -> None:
        """Compare what running splits have reserved with what Arrow holds beside the state, once a round of splits."""
        held = self.ledger.held()
        reserved = sum(size for name, size in held.items() if name != STATE) - figures.held_bytes
        allocated = pa.total_allocated_bytes() - figures.state_bytes - figures.held_bytes
        most_reserved, most_allocated = self._flight
        self._flight = (max(most_reserved, reserved), max(most_allocated, allocated))
        if figures.splits_done - self._learned_at < max(1, self.workers):
            return
        self.split.update(*self._flight)
        self._flight, self._learned_at = (0, 0), figures.splits_done

    def _leaking_bytes(self, figures: Figures) -> int:
        """What a leak will have grown to by the end, on top of what it is."""
        if self.leak is None:
            return 0
        return int(self.leak.bytes_per_split * max(0, figures.splits_total - figures.splits_done))

    def _later_bytes(self, figures: Figures) -> int:
        """Splits of scans in stages to come, all workers at it; their state can't be known before they run."""
        if figures.stage not in self._later:
            later = self.executor.later(figures.stage)
            tasks = [
                Task(stage, 0, one, scan=index)
                for stage in later
                for one in stage.inputs
                if isinstance(one, ScanInput)
                for index in range(len(one.splits))
            ]
            # A few thousand splits differ little; the first, the last and a sample between them will do.
            tasks = tasks[:: max(1, len(tasks) // 64)] + tasks[-1:]
            self._later[figures.stage] = max(
                (split_demand_bytes(task, self.slice_rows, {}) for task in tasks), default=0
            )
        return self.workers * self.split_bytes(self._later[figures.stage])

    def _gathers_later(self, figures: Figures) -> bool:
        later = self.executor.later(figures.stage)
        return any(isinstance(stage.output, ExchangeOutput) for stage in later)

    def rows_per_s(self) -> float:
        return _rate(self._rates)

    def remaining_s(self, figures: Figures) -> float | None:
        """By rows while the input is read, by splits of the stage after that, or where nobody knows how many rows there are."""
        rate = self.rows_per_s()
        if rate and figures.rows_total is not None and figures.rows_total > figures.rows_in:
            return (figures.rows_total - figures.rows_in) / rate
        left = max(0, figures.splits_total - figures.splits_done)
        pace = _rate(self._paces)
        if pace and left:
            return left / pace
        # None of this stage's splits is done yet: those that wait will take as long as these have already, at the least.
        # With none waiting nobody knows how far those that run have come: no figure then, and never "0 ms left".
        elapsed_s = self._last_s - self._stage_began_s
        waiting = left - self.workers
        return elapsed_s * waiting / self.workers if waiting > 0 and elapsed_s >= LONG_SPLIT_S else None


def _rate(points: deque[tuple[float, int]]) -> float:
    if len(points) < 2:
        return 0.0
    (first_s, first), (last_s, last) = points[0], points[-1]
    return max(0.0, (last - first) / (last_s - first_s)) if last_s > first_s else 0.0


def _groups_at(exchange: ExchangeState, raw_total: int) -> int:
    """Distinct keys at the end, from what folding one cell's rows has left so far."""
    folds, rows, groups = exchange.folds, exchange.folded_rows, exchange.folded_groups
    if not folds or not groups:
        return raw_total
    total = max(rows / folds, raw_total / exchange.partitions)
    expected, _ = distinct_keys(rows / folds, groups / folds, total)
    return int(expected * exchange.partitions)


def now_s() -> float:
    return time.monotonic()
