"""What the machine is shown at each tick: the cgroup's sample and the engine's figures, as one ``Observed``.

Covers the arithmetic between them: what the process itself takes (base), what the work will take at full speed (projected) and at the
least (floor), what it costs to spill or to be resized, and how much the ledger may promise. It reads; it decides nothing.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import pyarrow as pa

from ..decide.events import Observed, ResizeMode
from ..decide.policy import Policy
from ..engine.exchange import ExchangeState
from ..engine.executor import Executor, Figures
from ..engine.stages import ExchangeOutput
from ..engine.widths import row_bytes
from ..memory import Ledger, MemoryReader, MemorySample
from ..memory.growth import distinct_keys
from ..memory.thrash import thrash
from ..memory.wall import Wall, WallPlacement

FULL_SPEED_FOLD_BYTES = 64 << 20
"""Unfolded state that the engine gathers where there is room: folding rarely is what makes a group-by fast."""
RESTART_S = 0.8
"""Assumed until measured: PATCH, SIGTERM, final checkpoint, new process, first batch."""
SPILL_S, SPILL_BYTES_PER_S = 0.1, 200 << 20
"""Assumed until measured: letting state go once (folding, writing it as a run, reading it back later)."""
LEDGER_SHARE = 0.92
"""The ledger promises no more than this share of what the wall lets Arrow allocate; the rest goes to fragmentation."""
RISK, BACK_OFF_S = 0.2, 10.0
"""Going on below what is forecast may end in a kill all the same (an author's function, native code, a sidecar): one time in
five is a judgement, and the back-off after a kill is the kubelet's (F13)."""
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
    sample: MemorySample = field(init=False)
    peak_bytes: int = 0
    _bases: deque[int] = field(default_factory=lambda: deque(maxlen=20))
    _outside_bytes: int | None = None
    _rates: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=40))
    _last_s: float = 0.0
    _begun_with: int = 0
    figures: Figures = field(init=False)
    observed: Observed = field(init=False)

    def look(self, at_s: float, policy: Policy, unsaved_s: float) -> Observed:
        """Read everything once, move the ledger, and say what is seen."""
        before = getattr(self, "sample", None)
        sample = self.sample = self.reader.read()
        figures = self.figures = self.executor.figures()
        self.peak_bytes = max(self.peak_bytes, sample.used_bytes)
        self._bases.append(max(0, sample.used_bytes - pa.total_allocated_bytes()))
        base = min(self._bases)
        capacity = self._capacity_bytes(sample, self.wall.raise_to(sample.limit_bytes, sample), base)
        if capacity != self.ledger.capacity_bytes:
            self.ledger.resize(capacity)
        self._rates.append((at_s, figures.rows_in))
        least = base + figures.smallest_need_bytes
        full = base + self.workers * figures.split_need_bytes + self.full_state_bytes(figures)
        elapsed = at_s - self._last_s if self._last_s else 0.0
        if not self._last_s:
            self._begun_with = figures.splits_done
        self._last_s = at_s
        remaining = self.remaining_s(figures)
        self.observed = Observed(
            at_s=at_s,
            limit_bytes=sample.limit_bytes,
            used_bytes=sample.used_bytes,
            reserved_bytes=self.ledger.reserved_bytes,
            state_bytes=figures.state_bytes,
            projected_bytes=full,
            floor_bytes=least,
            unsaved_s=unsaved_s,
            remaining_s=remaining,
            spill_cost_s=self.spill_cost_s(figures, over=sample.limit_bytes is not None and full > sample.limit_bytes),
            resize_cost_s=(self.resize_cost_s or RESTART_S) if policy.mode is ResizeMode.RESTART else 0.1,
            splits_done=figures.splits_done - self._begun_with,
            thrash=thrash(before, sample, elapsed) if before is not None and elapsed > 0 else 0.0,
        )
        return self.observed

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
        room = max(4 << 20, capacity - self.workers * figures.split_need_bytes)
        left = figures.raw_rows * max(0.0, figures.rows_total / figures.rows_in - 1.0)
        bytes_left = left * row_bytes(exchange.combiner.raw_schema)
        if bytes_left + figures.state_bytes <= room:
            return 0.0
        each_s = self.spill_s or SPILL_S + room / SPILL_BYTES_PER_S
        risk_s = RISK * (BACK_OFF_S + (self.resize_cost_s or RESTART_S)) if over else 0.0
        return float(STALL * bytes_left / room * each_s) + risk_s

    def rows_per_s(self) -> float:
        if len(self._rates) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._rates[0], self._rates[-1]
        return max(0.0, (last - first) / (last_s - first_s)) if last_s > first_s else 0.0

    def remaining_s(self, figures: Figures) -> float | None:
        rate = self.rows_per_s()
        if not rate or figures.rows_total is None:
            return None
        return max(0.0, (figures.rows_total - figures.rows_in) / rate)


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
