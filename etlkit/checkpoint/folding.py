"""All deltas of a run, folded: the mutable state that a writer keeps and a reader builds.

Covers adding a manifest's stages to it and giving out an immutable snapshot. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from itertools import islice

from ..io.sink import Part
from ..lazyclass import dataclass
from .intervals import Intervals
from .model import Json, Phase, RunRef, Snapshot, StageDelta, StageState


@dataclass(slots=True)
class _Stage:
    finished: Intervals = field(default_factory=Intervals)
    runs: dict[str, RunRef] = field(default_factory=dict)
    parts: dict[str, tuple[int, Part]] = field(default_factory=dict)
    rows_in: int = 0
    rows_out: int = 0

    def frozen(self) -> StageState:
        return StageState(
            self.finished, tuple(self.runs.values()), tuple(self.parts.values()), self.rows_in, self.rows_out
        )


class Folding:
    def __init__(self) -> None:
        self._stages: dict[int, _Stage] = {}
        self.facts: dict[str, Json] = {}

    def refusal(self, stages: Mapping[int, StageDelta]) -> str:
        """Why these increments cannot be added; empty if they can. An increment that does not fit would double or lose rows."""
        for number, delta in stages.items():
            stage = self._stages.get(number, _Stage())
            if again := stage.finished & delta.finished:
                return f"splits {again} of stage {number} were finished before"
            names = [run.name for run in delta.runs] + [part.name for _, part in delta.parts]
            if len(set(names)) != len(names):
                return f"stage {number} names a run or part twice"
            if there := [name for name in names if name in stage.runs or name in stage.parts]:
                return f"stage {number} names {there[0]} again"
            if missing := [name for name in delta.dropped if name not in stage.runs and name not in stage.parts]:
                return f"stage {number} drops {missing[0]}, which it does not have"
        return ""

    def add(self, stages: Mapping[int, StageDelta]) -> None:
        for number, delta in stages.items():
            stage = self._stages.setdefault(number, _Stage())
            stage.finished = stage.finished | delta.finished
            for name in delta.dropped:
                if stage.runs.pop(name, None) is None:
                    stage.parts.pop(name, None)
            stage.runs.update((run.name, run) for run in delta.runs)
            stage.parts.update((part.name, (sink, part)) for sink, part in delta.parts)
            stage.rows_in += delta.rows_in
            stage.rows_out += delta.rows_out

    def add_facts(self, facts: Mapping[str, Json]) -> None:
        for key, value in facts.items():
            if value is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = value

    def shows_early(self) -> bool:
        """Whether a sink that shows its parts at each checkpoint has some."""
        sinks = self.facts.get("sinks") or []
        early = {number for number, sink in enumerate(sinks) if sink.get("visible") == "checkpoint"}
        return any(number in early for stage in self._stages.values() for number, _ in stage.parts.values())

    def add_parts(self, stage: int, parts: Iterable[tuple[int, Part]]) -> None:
        self._stages.setdefault(stage, _Stage()).parts.update((part.name, (sink, part)) for sink, part in parts)

    def drops_parts(self, stages: Mapping[int, StageDelta]) -> bool:
        return any(
            name in self._stages[number].parts
            for number, delta in stages.items()
            if number in self._stages
            for name in delta.dropped
        )

    def part_counts(self) -> dict[int, int]:
        return {number: len(stage.parts) for number, stage in self._stages.items()}

    def stages(self, listed: Mapping[int, int]) -> dict[int, StageDelta]:
        """The whole state in the shape of a delta, without the first ``listed`` parts of each stage (they are in lists)."""
        return {
            number: StageDelta(
                stage.finished,
                tuple(stage.runs.values()),
                (),
                tuple(islice(stage.parts.values(), listed.get(number, 0), None)),
                stage.rows_in,
                stage.rows_out,
            )
            for number, stage in sorted(self._stages.items())
        }

    def copy(self) -> Folding:
        made = Folding()
        made.facts = dict(self.facts)
        made._stages = {
            number: replace(stage, runs=dict(stage.runs), parts=dict(stage.parts))
            for number, stage in self._stages.items()
        }
        return made

    def snapshot(
        self, number: int, epoch: int, phase: Phase, run_id: str, fingerprint: Mapping[str, str], at: str
    ) -> Snapshot:
        stages = {number: stage.frozen() for number, stage in sorted(self._stages.items())}
        return Snapshot(number, epoch, phase, run_id, dict(fingerprint), dict(self.facts), stages, at)
