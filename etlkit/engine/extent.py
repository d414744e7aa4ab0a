"""What of a plan runs in this process, and where the rows of earlier stages are found. Here: all of it, in one state directory.

A share of a fan-out is another extent (``runtime/fanout.py``). The executor asks, and knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..checkpoint import Delta, Phase, RunReader, RunRef, Snapshot, StateDir
from ..lazyclass import dataclass
from .stages import ReduceInput, Stage
from .work import POSITION_BITS, Task


@dataclass(frozen=True, slots=True)
class Ranges:
    """How a sort cuts its rows into partitions, and how many bits of a row's position are its number in its split."""

    boundaries: str
    position_bits: int

    @staticmethod
    def recorded(stage: int, facts: Mapping[str, Any]) -> Ranges | None:
        text = (facts.get("boundaries") or {}).get(str(stage))
        bits = (facts.get("position_bits") or {}).get(str(stage), POSITION_BITS)
        return None if text is None else Ranges(text, bits)

    def facts(self, stage: int, before: Mapping[str, Any]) -> dict[str, Any]:
        """As they are committed, beside those of other stages."""
        return {
            "boundaries": {**(before.get("boundaries") or {}), str(stage): self.boundaries},
            "position_bits": {**(before.get("position_bits") or {}), str(stage): self.position_bits},
        }


class Extent:
    """All of the plan."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir

    may_hold = True
    """Whether a join may hold its right side: all splits of the left are done here."""

    def runs_here(self, stage: Stage) -> bool:
        return True

    def own(self, tasks: list[Task]) -> list[Task]:
        """Those of a stage's splits that this process does."""
        return tasks

    def groups(self, stage: int, snapshot: Snapshot) -> Sequence[Sequence[int]]:
        """How the partitions that a stage filled are cut into splits; recorded when it ended."""
        found: Sequence[Sequence[int]] = (snapshot.facts.get("ended") or {}).get(str(stage), ())
        return found

    def runs(self, stage: int, snapshot: Snapshot) -> tuple[RunRef, ...]:
        """What an earlier stage has left."""
        return snapshot.stages[stage].runs if stage in snapshot.stages else ()

    def open_run(self, ref: RunRef) -> RunReader:
        return self._state_dir.open_run(ref)

    def ranges(self, stage: int, snapshot: Snapshot, find: Callable[[], Ranges]) -> Ranges:
        """The ranges of a sort: found once, and recorded before they are used (law 10)."""
        known = Ranges.recorded(stage, snapshot.facts)
        if known is None:
            known = find()
            self._state_dir.commit(Delta("ranges of a sort", {}, known.facts(stage, snapshot.facts), Phase.RUNNING))
        return known


def rounds(stages: Sequence[Stage]) -> tuple[int, ...]:
    """The round of each stage: 0 if it only reads the input, else one more than the stages whose partitions it takes."""
    found: list[int] = []
    for stage in stages:
        below = [found[number] + 1 for one in stage.inputs if isinstance(one, ReduceInput) for number in one.stages]
        found.append(max(below, default=0))
    return tuple(found)
