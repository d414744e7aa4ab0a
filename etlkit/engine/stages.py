"""What a plan is made of when it runs: stages, their inputs and outputs. Data only."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ..io.sink import Sink
from ..io.source import SkipsRowGroups, Source, Split
from ..lazyclass import dataclass
from ..plan.expr import Expr
from .combiners import Combiner
from .fused import Fused
from .reducers import Reducer
from .routing import Router
from .steps import MapStep, Step


@dataclass(frozen=True, slots=True)
class ScanInput:
    """Rows of a source through fused steps."""

    source: Source
    columns: tuple[str, ...] | None
    predicate: Expr | None
    steps: tuple[Step, ...]
    splits: tuple[Split, ...]
    schema: pa.Schema
    fused: Fused | None = None
    """The steps and what the stage's aggregate reads, as one program."""


@dataclass(frozen=True, slots=True)
class ReduceInput:
    """Partitions of the exchanges that earlier stages filled, reduced to rows, through fused steps.

    ``stages``: one, or the left and the right side of a join, cut by the same hash into as many partitions.
    """

    stages: tuple[int, ...]
    reducer: Reducer
    partitions: int
    steps: tuple[Step, ...]
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class ExchangeOutput:
    """Rows go to partitions, for a later stage to reduce."""

    combiner: Combiner
    router: Router
    partitions: int
    groups_at_most: int | None = None
    """Distinct keys can be no more than this, by the ranges that the input's statistics give."""


@dataclass(frozen=True, slots=True)
class SinkOutput:
    """Rows go to sink number ``sink`` of the job."""

    sink: int


@dataclass(frozen=True, slots=True)
class Stage:
    index: int
    kind: str
    """For people: ``scan → group``, ``reduce → write``."""
    inputs: tuple[ScanInput | ReduceInput, ...]
    output: ExchangeOutput | SinkOutput
    schema: pa.Schema

    @property
    def has_author_functions(self) -> bool:
        return any(isinstance(step, MapStep) for one in self.inputs for step in one.steps)


def row_groups_skipped(stages: Sequence[Stage]) -> tuple[int, int]:
    """How many row groups statistics leave out of what these stages read, and of how many."""
    found = [
        one.source.row_groups_skipped
        for stage in stages
        for one in stage.inputs
        if isinstance(one, ScanInput) and isinstance(one.source, SkipsRowGroups)
    ]
    return sum(skipped for skipped, _ in found), sum(groups for _, groups in found)


@dataclass(frozen=True, slots=True)
class Plan:
    stages: tuple[Stage, ...]
    sinks: tuple[Sink, ...]
    sources: tuple[Source, ...]
