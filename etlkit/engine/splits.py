"""Which splits each stage has, as the state stands, and which of them are left.

Covers how splits are numbered: scans, what has arrived, groups of partitions, and **probes**. Where a join holds its right side
(``held.py``), the splits of its left are not exchanged but streamed past it, as splits of the stage that joins, by numbers of their
own before those of its partitions. So what was streamed past before the right side had to be let go is known, and only the rest is
exchanged then. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..checkpoint import Intervals, Snapshot
from ..io.source import Arrival, Growing
from ..lazyclass import dataclass
from .extent import Extent
from .growth import growing_input
from .join import JoinReducer
from .stages import Plan, ReduceInput, ScanInput, SinkOutput, Stage
from .work import Task

PROBE_SPLIT_BYTES = 8 << 20
"""Encoded input bytes of a split that is streamed past a held side and goes to a sink: one split is one part."""
SMALL_BYTES = 1 << 20
"""State of less than this is reduced in one split, to one part."""
PARTITIONS_A_SPLIT = 8
HELD = "held"
"""The fact that says of which joins the right side is held: by the stage of its left, true or false; nothing before it is decided."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A join that may hold its right side. ``stage`` joins; ``first``: the number of its first split that is a probe."""

    left: Stage
    right: Stage
    stage: Stage
    input: ReduceInput
    first: int
    splits: int
    """Probes there may be at most."""

    @property
    def bundled(self) -> bool:
        """Whether several small splits of the left are one probe: where each will be a part."""
        return isinstance(self.stage.output, SinkOutput) and all(isinstance(one, ScanInput) for one in self.left.inputs)

    @property
    def reducer(self) -> JoinReducer:
        assert isinstance(self.input.reducer, JoinReducer)
        return self.input.reducer


def probes_of(plan: Plan) -> dict[int, Probe]:
    """The joins that may hold their right side, by the stage of the left.

    Not where a source grows, whose splits are numbered last. Nor with an author's function on rows of the left or of the join: it must
    be given the same batches whatever memory there is.
    """
    found: dict[int, Probe] = {}
    for stage in plan.stages:
        first = 0
        for one in stage.inputs:
            left = plan.stages[one.stages[0]] if isinstance(one, ReduceInput) else stage
            plain = not any(some.has_author_functions or growing_input(some) for some in (stage, left))
            if (
                isinstance(one, ReduceInput)
                and isinstance(one.reducer, JoinReducer)
                and one.reducer.streams_left
                and plain
            ):
                most = sum(_most(some, found) for some in left.inputs)
                found[left.index] = Probe(left, plan.stages[one.stages[1]], stage, one, first, most)
            first += _most(one, found)
    return found


def _most(one: ScanInput | ReduceInput, probes: Mapping[int, Probe]) -> int:
    """Numbers that are kept for an input's splits."""
    if isinstance(one, ScanInput):
        return len(one.splits)
    probe = probes.get(one.stages[0])
    return one.partitions + (probe.splits if probe is not None else 0)


def is_held(snapshot: Snapshot, left: int) -> bool | None:
    """None: not decided yet."""
    said: bool | None = (snapshot.facts.get(HELD) or {}).get(str(left))
    return said


class Splits:
    """Of one plan, in one process."""

    def __init__(self, plan: Plan, extent: Extent) -> None:
        self._plan = plan
        self._extent = extent
        self.probes: Mapping[int, Probe] = probes_of(plan) if extent.may_hold else {}
        self._spaced = {stage.index for probe in self.probes.values() for stage in (probe.left, probe.stage)}
        """Stages whose splits have numbers that do not depend on how many there are of other inputs."""

    def of(self, stage: Stage, snapshot: Snapshot) -> list[Task]:
        """Those that are done here, finished ones too."""
        if self._skipped(stage, snapshot):
            return []
        elsewhere = self._probed(stage, snapshot)
        return self._extent.own([task for task in self.all_of(stage, snapshot) if task.index not in elsewhere])

    def left(self, tasks: Sequence[Task], stage: Stage, snapshot: Snapshot) -> list[Task]:
        done = _finished(stage, snapshot)
        return [task for task in tasks if task.index not in done]

    def is_over(self, stage: Stage, snapshot: Snapshot) -> bool:
        return self._skipped(stage, snapshot) or str(stage.index) in (snapshot.facts.get("ended") or {})

    def all_of(self, stage: Stage, snapshot: Snapshot) -> list[Task]:
        """Of the whole run, wherever they are done."""
        tasks: list[Task] = []
        first = 0
        for one in stage.inputs:
            first = first if stage.index in self._spaced else len(tasks)
            if isinstance(one, ScanInput):
                tasks += [Task(stage, first + index, one, scan=index) for index in range(len(one.splits))]
                if isinstance(one.source, Growing):
                    for arrival in one.source.arrivals:
                        tasks += arrived(stage, one, arrival, len(tasks))
                first += len(one.splits)
                continue
            probe = self.probes.get(one.stages[0])
            groups = self._extent.groups(max(one.stages), snapshot)
            skip = 0 if probe is None else probe.splits
            tasks += [] if probe is None else self._probing(probe, snapshot)
            tasks += [
                Task(stage, first + skip + index, one, partitions=range(start, stop))
                for index, (start, stop) in enumerate(groups)
            ]
            first += skip + one.partitions
        return tasks

    def holding(self, tasks: Sequence[Task]) -> dict[int, Probe]:
        """The joins whose right sides these splits are streamed past, by the stage of the left."""
        found: dict[int, Probe] = {}
        for task in tasks:
            for inner in task.probes:
                found[inner.stage.index] = self.probes[inner.stage.index]
                found |= self.holding([inner])
        return found

    def _skipped(self, stage: Stage, snapshot: Snapshot) -> bool:
        return stage.index in self.probes and is_held(snapshot, stage.index) is True

    def _probing(self, probe: Probe, snapshot: Snapshot) -> list[Task]:
        """All probes while the right side is held; those that are finished, if it was let go."""
        tasks = [
            Task(probe.stage, probe.first + number, probe.input, probes=several)
            for number, several in self._bundles(probe, snapshot)
        ]
        if is_held(snapshot, probe.left.index):
            return tasks
        done = self._done(probe.stage, snapshot)
        return [task for task in tasks if task.index in done]

    def _bundles(self, probe: Probe, snapshot: Snapshot) -> list[tuple[int, tuple[Task, ...]]]:
        """The splits of the left, bundled and numbered. It depends on the plan alone."""
        splits = self.all_of(probe.left, snapshot)
        if not probe.bundled:
            return [(task.index, (task,)) for task in splits]
        bundles: list[list[Task]] = []
        gathered = PROBE_SPLIT_BYTES
        for task in splits:
            assert isinstance(task.input, ScanInput)
            if gathered >= PROBE_SPLIT_BYTES:
                bundles.append([])
                gathered = 0
            bundles[-1].append(task)
            gathered += task.input.splits[task.scan].encoded_bytes
        return [(number, tuple(bundle)) for number, bundle in enumerate(bundles)]

    def _done(self, stage: Stage, snapshot: Snapshot) -> set[int]:
        """Splits that need not be done again: finished, or streamed past the join after next."""
        finished = {number for start, stop in _finished(stage, snapshot).pairs for number in range(start, stop)}
        return finished | self._probed(stage, snapshot)

    def _probed(self, stage: Stage, snapshot: Snapshot) -> set[int]:
        """Of a left side's splits, those that were finished as probes."""
        probe = self.probes.get(stage.index)
        if probe is None or not (done := self._done(probe.stage, snapshot)):
            return set()
        if not probe.bundled:
            return {number - probe.first for number in done if 0 <= number - probe.first < probe.splits}
        return {
            task.index
            for number, bundle in self._bundles(probe, snapshot)
            if probe.first + number in done
            for task in bundle
        }


def _finished(stage: Stage, snapshot: Snapshot) -> Intervals:
    return snapshot.stages[stage.index].finished if stage.index in snapshot.stages else Intervals()


def arrived(stage: Stage, scan: ScanInput, arrival: Arrival, first: int) -> list[Task]:
    """The tasks of one arrival, numbered from ``first``."""
    grown = replace(scan, splits=arrival.splits)
    return [Task(stage, first + index, grown, scan=index) for index in range(len(arrival.splits))]


@dataclass(frozen=True, slots=True)
class Planned:
    """What is known of a stage's splits before they run. ``rows`` of the input, None where nobody knows."""

    splits: int
    rows: int | None


def planned(stage: Stage, tasks: Sequence[Task]) -> Planned:
    growing = any(isinstance(one, ScanInput) and isinstance(one.source, Growing) for one in stage.inputs)
    reduced = sum(isinstance(one, ReduceInput) for one in stage.inputs)
    counts = [task.rows for task in tasks]
    rows = None if growing or None in counts else sum(count or 0 for count in counts)
    return Planned(max(len(tasks), reduced), rows)


def reduce_groups(stored_bytes: int, partitions: int, shares: int = 1) -> list[list[int]]:
    """Ranges of partitions, each one split and one part of the next stage: eight partitions each, all in one if there is little.

    They depend on the plan, not on when checkpoints were written, so that parts have the same names in every run. They are
    recorded when the stage ends, before they are used (law 10). With ``shares``
    there are at least as many, if there are partitions enough.
    """
    width = partitions if stored_bytes < SMALL_BYTES else max(1, min(PARTITIONS_A_SPLIT, partitions // shares))
    return [[start, min(start + width, partitions)] for start in range(0, partitions, width)]
