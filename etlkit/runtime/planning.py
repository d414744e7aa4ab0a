"""What a job will need before it runs: stages, splits, projected memory, the limit to ask for.

Pure arithmetic over a plan; it reads no rows. The forecast of a run itself is the gauge's, from what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..decide.policy import Policy
from ..decide.sizing import comfortable
from ..engine.demand import split_demand_bytes
from ..engine.splits import probes_of
from ..engine.stages import ExchangeOutput, Plan, ScanInput, Stage, row_groups_skipped
from ..engine.widths import row_bytes
from ..engine.work import Task
from .gauge import FULL_SPEED_FOLD_BYTES

BASE_BYTES = 90 << 20
"""Measured: Python, pyarrow and etlkit before the first batch, charged to a cgroup whose libraries are warm."""


@dataclass(frozen=True, slots=True)
class StageForecast:
    """``projected_bytes``: the stage at full speed; ``floor_bytes``: with one worker, small slices and its state spilled."""

    stage: int
    kind: str
    splits: int | None
    rows: int | None
    partitions: int | None
    projected_bytes: int
    floor_bytes: int
    row_groups_skipped: int = 0
    row_groups: int = 0
    skipped_if_held: int | None = None
    """The stage of a join's other side: if its rows fit into memory, this one is left out and its rows stream past them."""


@dataclass(frozen=True, slots=True)
class PlanForecast:
    stages: tuple[StageForecast, ...]
    workers: int
    projected_bytes: int
    floor_bytes: int
    suggested_bytes: int
    """The limit that holds the forecast with the policy's margin."""


def forecast(plan: Plan, workers: int, policy: Policy) -> PlanForecast:
    held = {left: probe.right.index for left, probe in probes_of(plan).items()}
    stages = tuple(
        replace(_stage(plan, stage, workers, policy.slice_rows), skipped_if_held=held.get(stage.index))
        for stage in plan.stages
    )
    projected = BASE_BYTES + max(stage.projected_bytes for stage in stages)
    floor = BASE_BYTES + max(stage.floor_bytes for stage in stages)
    suggested = comfortable(projected, policy)
    return PlanForecast(stages, workers, projected, floor, suggested)


def _stage(plan: Plan, stage: Stage, workers: int, slice_rows: int) -> StageForecast:
    scans = [one for one in stage.inputs if isinstance(one, ScanInput)]
    tasks = [Task(stage, 0, one, scan=index) for one in scans for index in range(len(one.splits))]
    need = max((split_demand_bytes(task, slice_rows, {}) for task in tasks), default=0)
    least = max((split_demand_bytes(task, 1024, {}) for task in tasks), default=0)
    counts = [split.rows for one in scans for split in one.splits]
    rows = sum(count or 0 for count in counts) if counts and None not in counts else None
    state = 0
    if isinstance(stage.output, ExchangeOutput):
        # Every row its own key, unless the statistics say better: the most that the state can be.
        bound = stage.output.groups_at_most
        groups = min(rows or 0, bound) if bound is not None else rows or 0
        raw = min(FULL_SPEED_FOLD_BYTES, (rows or 0) * row_bytes(stage.output.combiner.raw_schema))
        state = 2 * raw + 2 * groups * row_bytes(stage.output.combiner.partial_schema)
    skipped, groups = row_groups_skipped((stage,))
    return StageForecast(
        stage=stage.index,
        kind=stage.kind,
        splits=len(tasks) if scans else None,
        rows=rows,
        partitions=stage.output.partitions if isinstance(stage.output, ExchangeOutput) else None,
        projected_bytes=workers * need + state,
        floor_bytes=least,
        row_groups_skipped=skipped,
        row_groups=groups,
    )
