"""From what the author wrote to what runs: stages, their inputs, fused steps and outputs.

Covers name resolution, column pruning, predicate push-down and the cut into stages. It reads schemas and footers of the
inputs, no rows. The result is deterministic: the same job over the same files gives the same stages and splits (law 10).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import pyarrow as pa

from ..errors import PlanError
from ..io.formats import open_sink, open_source
from ..io.sink import Sink, TakesDictionaries
from ..io.source import Growing, KnowsRanges, KnowsRepetition, KnowsShortDecimals, Source
from ..io.watch import WatchSource, same_folder
from ..lazyclass import dataclass
from ..plan import nodes
from ..plan.aggregates import Aggregate, first
from ..plan.binding import bind
from ..plan.expr import Column, Expr, col
from ..plan.operands import common_type
from ..plan.pipeline import Pipeline
from .aggregate import AggregatePlan, plan_aggregates
from .combiners import FirstRows
from .combiners import rows as rows_of
from .distinct_counts import two_groupings
from .fused import fuse
from .growth import recall
from .join import plan_join
from .reducers import Groups, Reducer, Sorted
from .routing import ByHash, ByRange, ToOne
from .stages import ExchangeOutput, Plan, ReduceInput, ScanInput, SinkOutput, Stage
from .steps import ExplodeOp, FilterOp, MapOp, Op, PlainStep, ProjectOp, Step, bind_ops, needed_before
from .widths import row_bytes, value_bytes

SINK_SPLIT_BYTES = 32 * 1024 * 1024
AUTHOR_SPLIT_BYTES = 4 * 1024 * 1024
"""What an author's function takes is not foreseen, and its batches can't be made smaller: a split that is undone should be little."""
"""Encoded input bytes of a split whose rows go to a sink: one split is one part."""
EXCHANGE_SPLIT_BYTES = 2 * 1024 * 1024
"""Encoded input bytes of a split whose rows go to an exchange: small, since a split counts only when it is whole."""
PARTITION_BYTES = 8 * 1024 * 1024
MIN_PARTITIONS, MAX_PARTITIONS = 8, 512


@dataclass(frozen=True, slots=True)
class _Met:
    """Rows that met in an exchange: the stages that filled it, and what becomes of a partition."""

    stages: tuple[int, ...]
    reducer: Reducer
    seen: pa.Schema
    """What the reducer gives to the author's eyes, where strings are strings."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """A row stream while lowering: where its rows come from, and the ops on it so far."""

    begin: Source | Callable[[Sequence[str] | None], _Met]
    """A source, or the stages below, which are made once it is known which columns are wanted of them (None: all)."""
    begun: pa.Schema
    """Of all columns at the beginning."""
    ops: tuple[Op, ...]
    schema: pa.Schema
    """After ``ops``."""

    @property
    def source(self) -> Source | None:
        return None if callable(self.begin) else self.begin


@dataclass(slots=True)
class _Lowering:
    facts: Mapping[str, Any]
    stages: list[Stage] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    # ── nodes to streams ────────────────────────────────────────────────────────────────────────────────────────

    def lower(self, node: nodes.Node) -> list[_Stream]:
        """The node as the union of streams."""
        match node:
            case nodes.Read(format, paths, options):
                return [self._source(open_source(format, paths, dict(options)))]
            case nodes.ReadSource(source):
                return [self._source(source)]
            case nodes.Watch():
                return [self._source(_watched(node))]
            case nodes.Union(inputs):
                return self._union([self.lower(one) for one in inputs])
            case nodes.GroupBy(below, keys, aggregates):
                return [self._group(self.lower(below), keys, dict(aggregates))]
            case nodes.Distinct(below, keys):
                return [self._distinct(self.lower(below), keys)]
            case nodes.Sort(below, keys, descending):
                return [self._sort(self.lower(below), keys, descending)]
            case nodes.Limit(nodes.Sort(below, keys, descending), rows):
                return [self._sort(self.lower(below), keys, descending, rows)]
            case nodes.Limit(below, rows):
                return [self._limit(self.lower(below), rows)]
            case nodes.Join():
                return [self._join(node)]
            case _:
                return [self._step(stream, node) for stream in self.lower(node.input)]

    def _source(self, source: Source) -> _Stream:
        if isinstance(source, Growing):
            recall(source, len(self.sources), self.facts)
        self.sources.append(source)
        return _Stream(source, source.schema, (), source.schema)

    def _union(self, several: Sequence[Sequence[_Stream]]) -> list[_Stream]:
        streams = [stream for streams in several for stream in streams]
        if any(isinstance(stream.source, Growing) for stream in streams[:-1]):
            raise PlanError(
                "union: splits of a watched folder are numbered last, so there can be one, and it comes last",
                "write other.union(ek.watch_dir(...))",
            )
        names = streams[0].schema.names
        for stream in streams[1:]:
            if set(stream.schema.names) != set(names):
                raise PlanError(
                    f"union: columns {sorted(stream.schema.names)} are not {sorted(names)}",
                    "select the same ones",
                )
        kinds = {name: _common(name, streams) for name in names}
        return [self._aligned(stream, kinds) for stream in streams]

    def _aligned(self, stream: _Stream, kinds: dict[str, pa.DataType]) -> _Stream:
        """The stream's columns in the order and the types that a union has."""
        schema = stream.schema
        if schema.names == list(kinds) and schema.types == list(kinds.values()):
            return stream
        casts = (
            (name, col(name) if schema.field(name).type == kind else col(name).cast(kind))
            for name, kind in kinds.items()
        )
        return self._with(stream, ProjectOp(tuple(casts)))

    def _step(self, stream: _Stream, node: nodes.Node) -> _Stream:
        names = stream.schema.names
        match node:
            case nodes.Filter(_, predicate):
                return self._with(stream, FilterOp(predicate))
            case nodes.Select(_, columns):
                return self._with(stream, ProjectOp(columns))
            case nodes.WithColumns(_, columns):
                new = dict(columns)
                kept = [(name, new.pop(name, col(name))) for name in names]
                return self._with(stream, ProjectOp((*kept, *new.items())))
            case nodes.Rename(_, pairs):
                renamed = dict(pairs)
                self._known(renamed, names, "rename")
                made = [renamed.get(name, name) for name in names]
                twice = next((name for name in made if made.count(name) > 1), None)
                if twice is not None:
                    raise PlanError(
                        f"rename: two columns would be called '{twice}'", "drop one, or give it another name"
                    )
                return self._with(stream, ProjectOp(tuple(zip(made, map(col, names), strict=True))))
            case nodes.Drop(_, dropped):
                self._known(dropped, names, "drop")
                if set(names) <= set(dropped):
                    raise PlanError("drop: no column is left", f"keep one of {', '.join(names)}")
                return self._with(stream, ProjectOp(tuple((name, col(name)) for name in names if name not in dropped)))
            case nodes.Cast(_, types):
                kinds = dict(types)
                self._known(kinds, names, "cast")
                pairs_ = tuple((name, col(name).cast(kinds[name]) if name in kinds else col(name)) for name in names)
                return self._with(stream, ProjectOp(pairs_))
            case nodes.MapBatches(_, fn, schema, _):
                return self._with(stream, MapOp(fn, schema, getattr(fn, "__name__", type(fn).__name__)))
            case nodes.Explode(_, column):
                return self._with(stream, ExplodeOp(column))
        raise AssertionError(f"unknown node {node}")

    def _known(self, wanted: Sequence[str] | dict[str, object] | dict[str, str], names: list[str], what: str) -> None:
        for name in wanted:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                raise PlanError(
                    f"{what}: no column '{name}'",
                    f"did you mean '{near[0]}'?" if near else f"columns: {', '.join(names)}",
                )

    def _with(self, stream: _Stream, op: Op) -> _Stream:
        """One more op; binding it to the schema so far finds unknown names and types at once."""
        _, schema = bind_ops((op,), stream.schema, None)
        return replace(stream, ops=(*stream.ops, op), schema=schema)

    # ── stage boundaries ────────────────────────────────────────────────────────────────────────────────────────

    def _group(
        self,
        streams: list[_Stream],
        keys: tuple[str, ...],
        aggregates: dict[str, Aggregate],
        partition_bytes: int = PARTITION_BYTES,
    ) -> _Stream:
        schema = streams[0].schema
        self._known(keys, schema.names, "group_by")
        full = plan_aggregates(keys, aggregates, schema)
        inputs = {name: bind(one.input, schema).type for name, one in aggregates.items() if one.input is not None}
        two = two_groupings(keys, aggregates, inputs, full.schema)
        if two is not None:
            streams = [self._with(stream, ProjectOp(two.below)) for stream in streams]
            # Most rows are a group of their own, and its state is wider than the row.
            values = self._group(streams, (*keys, two.value), two.parts, PARTITION_BYTES // 2)
            return self._with(self._group([values], keys, two.wholes), ProjectOp(two.result))

        def build(wanted: Sequence[str] | None) -> _Met:
            asked = {name: one for name, one in aggregates.items() if wanted is None or name in wanted}
            private = plan_aggregates(keys, asked, schema)
            needed = sorted(set().union(*(expr.columns() for _, expr in private.inputs)), key=schema.names.index)
            inputs = self._inputs(streams, needed, EXCHANGE_SPLIT_BYTES, encoded=True)
            combiner = plan_aggregates(keys, asked, inputs[0].schema)
            partitions = self._partitions(inputs, combiner.raw_schema, partition_bytes) if keys else 1
            output = ExchangeOutput(combiner, ByHash(len(keys)), partitions, _groups_at_most(streams, keys))
            inputs = [_fused(one, stream.ops, combiner) for one, stream in zip(inputs, streams, strict=True)]
            index = self._stage("group", inputs, output, combiner.partial_schema)
            return _Met((index,), Groups(combiner), combiner.schema)

        return _Stream(build, full.schema, (), full.schema)

    def _distinct(self, streams: list[_Stream], keys: tuple[str, ...]) -> _Stream:
        """A group-by of the keys that keeps the first of every other column."""
        names = streams[0].schema.names
        self._known(keys, names, "distinct")
        keys = keys or tuple(names)
        grouped = self._group(streams, keys, {name: first(name) for name in names if name not in keys})
        return self._with(grouped, ProjectOp(tuple((name, col(name)) for name in names)))

    def _limit(self, streams: list[_Stream], rows: int) -> _Stream:
        """Each split keeps its first rows, one partition keeps the first of those, by position."""
        return self._in_order(streams, "limit", (), (), rows)

    def _sort(
        self, streams: list[_Stream], keys: tuple[str, ...], descending: tuple[bool, ...], limit: int | None = None
    ) -> _Stream:
        """Ranges of the keys, each sorted by all of them; with a limit, one range that keeps the first rows."""
        self._known(keys, streams[0].schema.names, "sort")
        for key in keys:
            kind = streams[0].schema.field(key).type
            if pa.types.is_nested(kind) or pa.types.is_interval(kind) or isinstance(kind, pa.BaseExtensionType):
                raise PlanError(f"sort: '{key}' is {kind}, which has no order", "sort by one of its parts, or cast it")
        return self._in_order(streams, "sort", keys, descending, limit)

    def _in_order(
        self,
        streams: list[_Stream],
        kind: str,
        keys: tuple[str, ...],
        descending: tuple[bool, ...],
        limit: int | None,
    ) -> _Stream:
        full = streams[0].schema

        def build(wanted: Sequence[str] | None) -> _Met:
            out = _at_least_one(full, full.names if wanted is None else wanted, keys)
            kept = [name for name in full.names if name in out or name in keys]
            inputs = self._inputs(streams, kept, EXCHANGE_SPLIT_BYTES, encoded=bool(keys), but=keys)
            schema = inputs[0].schema
            stored = rows_of(schema, keys, positioned=True)
            if limit is None:
                ranges = self._partitions(inputs, stored.raw_schema)
                output = ExchangeOutput(stored, ByRange(descending), ranges)
            else:
                output = ExchangeOutput(FirstRows(stored, limit, descending), ToOne(), 1)
            index = self._stage(kind, inputs, output, stored.raw_schema)
            given = pa.schema([schema.field(name) for name in out])
            reducer = Sorted(stored.raw_schema, given, keys, descending, limit)
            return _Met((index,), reducer, pa.schema([full.field(name) for name in out]))

        return _Stream(build, full, (), full)

    def _join(self, node: nodes.Join) -> _Stream:
        """Both sides cut by the same hash; a partition of one is held while the other streams past it: of the right, or of the left
        where the join may be turned round and the left is known to be smaller. The held side comes first: all of it may fit."""
        sides = [self.lower(node.left), self.lower(node.right)]
        both = (node.left_on, node.right_on)
        for streams, on in zip(sides, both, strict=True):
            self._known(on, streams[0].schema.names, "join")
        full = [streams[0].schema for streams in sides]
        shape = plan_join(full[0], full[1], *both, node.how, node.suffix)

        def build(wanted: Sequence[str] | None) -> _Met:
            out = _at_least_one(shape.schema, shape.schema.names if wanted is None else wanted, node.left_on)
            needed = shape.needed(out)
            inputs = [
                self._inputs(streams, [name for name in schema.names if name in names], EXCHANGE_SPLIT_BYTES, encoded=True, but=on)
                for streams, schema, names, on in zip(sides, full, needed, both, strict=True)
            ]  # fmt: skip
            stored = [
                rows_of(several[0].schema, on, positioned=False) for several, on in zip(inputs, both, strict=True)
            ]
            partitions = max(self._partitions(i, s.raw_schema) for i, s in zip(inputs, stored, strict=True))
            sizes = [_known_bytes(i, s.raw_schema) for i, s in zip(inputs, stored, strict=True)]
            turned = node.how in ("inner", "right") and None not in sizes and sizes[0] < sizes[1]  # type: ignore[operator]
            streamed, held = (1, 0) if turned else (0, 1)
            built: dict[int, int] = {}
            for side in (held, streamed):
                output = ExchangeOutput(stored[side], ByHash(len(both[side])), partitions)
                kind = f"join {('left', 'right')[side]}"
                built[side] = self._stage(kind, inputs[side], output, stored[side].raw_schema)
            reducer = (shape.turned if turned else shape.reducer)(node.how, out, *(kept.raw_schema for kept in stored))
            seen = pa.schema([shape.schema.field(name) for name in out])
            return _Met((built[streamed], built[held]), reducer, seen)

        return _Stream(build, shape.schema, (), shape.schema)

    def _partitions(
        self, inputs: Sequence[ScanInput | ReduceInput], raw: pa.Schema, partition_bytes: int = PARTITION_BYTES
    ) -> int:
        """A power of two, so that a partition of everything, not folded at all, stays near ``partition_bytes``."""
        rows = sum(split.rows or 0 for one in inputs if isinstance(one, ScanInput) for split in one.splits)
        unknown = any(
            not isinstance(one, ScanInput)
            or isinstance(one.source, Growing)
            or any(split.rows is None for split in one.splits)
            for one in inputs
        )
        if unknown:
            return 64
        needed = max(1, rows * row_bytes(raw) // partition_bytes)
        return min(MAX_PARTITIONS, max(MIN_PARTITIONS, 1 << (needed - 1).bit_length()))

    def end(self, end: nodes.End) -> None:
        streams = self.lower(end.input)
        sink = end.sink if isinstance(end, nodes.WriteSink) else open_sink(end.format, end.path, dict(end.options))
        for source in self.sources:
            if isinstance(source, WatchSource) and same_folder(source.path, str(sink.describe().get("path", ""))):
                raise PlanError(
                    f"{source.path}: the job would watch its own output", "write to another folder than the watched one"
                )
        self.sinks.append(sink)
        inputs = self._inputs(streams, None, SINK_SPLIT_BYTES, encoded=isinstance(sink, TakesDictionaries))
        self._stage("write", inputs, SinkOutput(len(self.sinks) - 1), streams[0].schema)

    def _stage(
        self,
        kind: str,
        inputs: Sequence[ScanInput | ReduceInput],
        output: ExchangeOutput | SinkOutput,
        schema: pa.Schema,
    ) -> int:
        begin = "scan" if isinstance(inputs[0], ScanInput) else "reduce"
        stage = Stage(len(self.stages), f"{begin} → {kind}", tuple(inputs), output, schema)
        self.stages.append(stage)
        return stage.index

    def _inputs(
        self,
        streams: Sequence[_Stream],
        wanted: Sequence[str] | None,
        target_bytes: int,
        *,
        encoded: bool = False,
        but: Sequence[str] = (),
    ) -> list[ScanInput | ReduceInput]:
        """``encoded``: strings may come in dictionaries where the source has them so, all columns ``but`` these.

        An author's function never sees that, and streams that are united must agree.
        """
        return [
            self._input(stream, wanted, target_bytes, encoded and len(streams) == 1 and not _has_author(stream), but)
            for stream in streams
        ]

    def _input(
        self,
        stream: _Stream,
        wanted: Sequence[str] | None,
        target_bytes: int,
        encoded: bool = False,
        but: Sequence[str] = (),
    ) -> ScanInput | ReduceInput:
        if wanted is not None:
            stream = replace(stream, ops=(*stream.ops, ProjectOp(tuple((name, col(name)) for name in wanted))))
        source = stream.source
        if source is None:
            return self._reduced(stream, wanted, encoded and not but)
        needed = needed_before(stream.ops, wanted)
        columns = None if needed is None else tuple(name for name in source.schema.names if name in needed)
        if columns is not None and len(columns) == len(source.schema.names):
            columns = None
        if encoded and isinstance(source, KnowsRepetition):
            kept_plain = {_source_column(stream.ops, name) for name in but}
            few = source.repeating(source.schema.names if columns is None else columns) - kept_plain
            source = source.in_dictionaries(few) if few else source
        if _has_author(stream):
            target_bytes = min(target_bytes, AUTHOR_SPLIT_BYTES)
        narrow = source.schema if columns is None else pa.schema([source.schema.field(name) for name in columns])
        steps, schema = bind_ops(stream.ops, narrow, wanted)
        predicate = self._pushed(stream.ops)
        splits = tuple(source.splits(columns, predicate, target_bytes))
        return ScanInput(source, columns, predicate, steps, splits, schema)

    def _reduced(self, stream: _Stream, wanted: Sequence[str] | None, encoded: bool) -> ReduceInput:
        assert callable(stream.begin)
        needed = needed_before(stream.ops, wanted)
        met = stream.begin(None if needed is None else [name for name in stream.begun.names if name in needed])
        first: tuple[Step, ...] = ()
        schema = met.reducer.schema
        if not encoded and not met.seen.equals(schema):
            schema = met.seen
            first = (PlainStep(schema),)
        steps, schema = bind_ops(stream.ops, schema, wanted)
        output = self.stages[met.stages[0]].output
        assert isinstance(output, ExchangeOutput)
        return ReduceInput(met.stages, met.reducer, output.partitions, (*first, *steps), schema)

    def _pushed(self, ops: Sequence[Op]) -> Expr | None:
        """What filters ask of columns that were only passed on so far, as one predicate for the reader's statistics."""
        pushed: Expr | None = None
        for at, op in enumerate(ops):
            if isinstance(op, MapOp):
                break
            if not isinstance(op, FilterOp):
                continue
            sources = {name: _source_column(ops[:at], name) for name in op.predicate.columns()}
            names = {name: col(source) for name, source in sources.items() if source is not None}
            if len(names) == len(sources):
                asked = op.predicate.substitute(names)
                pushed = asked if pushed is None else pushed & asked
        return pushed


def _fused(one: ScanInput | ReduceInput, ops: Sequence[Op], plan: AggregatePlan) -> ScanInput | ReduceInput:
    if not isinstance(one, ScanInput):
        return one
    schema = one.source.schema if one.columns is None else pa.schema([one.source.schema.field(n) for n in one.columns])
    fused = fuse(ops, one.steps, schema, plan)
    source = one.source
    if fused is not None and fused.short and isinstance(source, KnowsShortDecimals):
        source = source.in_short_decimals(fused.short)
    return replace(one, source=source, fused=fused)


def _known_bytes(inputs: Sequence[ScanInput | ReduceInput], raw: pa.Schema) -> int | None:
    """Of all rows as they travel, before filters; None if it is not known how many there are."""
    counts = [split.rows for one in inputs if isinstance(one, ScanInput) for split in one.splits]
    if None in counts or not all(isinstance(one, ScanInput) for one in inputs):
        return None
    return sum(count or 0 for count in counts) * row_bytes(raw)


def _at_least_one(schema: pa.Schema, wanted: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The wanted columns, in the order of the schema. If none is, one that travels anyway: rows must still be counted."""
    names = [name for name in schema.names if name in wanted]
    return names or [min(keys or schema.names, key=lambda name: value_bytes(schema.field(name).type))]


def _common(name: str, streams: Sequence[_Stream]) -> pa.DataType:
    """The type that holds a column's values of every stream of a union."""
    kind = streams[0].schema.field(name).type
    for stream in streams[1:]:
        other = stream.schema.field(name).type
        common = common_type(kind, other)
        if common is None:
            raise PlanError(f"union: '{name}' is {kind} in one and {other} in another", "cast one of them")
        kind = common
    return kind


def _groups_at_most(streams: Sequence[_Stream], keys: Sequence[str]) -> int | None:
    """The product of the ranges of the keys, where each is a column of the source, passed on as it is."""
    total = 0
    for stream in streams:
        source: object = stream.source
        if not isinstance(source, KnowsRanges):
            return None
        product = 1
        for key in keys:
            name = _source_column(stream.ops, key)
            width = source.distinct_at_most(name) if name is not None else None
            if width is None:
                return None
            product *= width
        total += product
    return total


def _has_author(stream: _Stream) -> bool:
    return any(isinstance(op, MapOp) for op in stream.ops)


def _source_column(ops: Sequence[Op], name: str) -> str | None:
    """The source's name of a column that the ops only pass on."""
    for op in reversed(ops):
        if isinstance(op, MapOp):
            return None
        if isinstance(op, ProjectOp):
            expr = dict(op.columns).get(name)
            if not isinstance(expr, Column):
                return None
            name = expr.name
        elif isinstance(op, ExplodeOp) and op.column == name:
            return None
    return name


def _watched(node: nodes.Watch) -> Source:
    return WatchSource(
        node.path,
        node.format,
        dict(node.options),
        idle_s=node.idle_s,
        until=node.until,
        settle_s=node.settle_s,
        poll_s=node.poll_s,
    )


def lower(pipelines: Sequence[Pipeline], facts: Mapping[str, Any] | None = None) -> Plan:
    """The stages of a job, in the order in which they run. Errors: PlanError, ConfigError, InputError.

    ``facts``: those of the run that goes on; growing sources take up from them what they have taken before.
    """
    lowering = _Lowering(facts or {})
    for pipeline in pipelines:
        assert isinstance(pipeline.node, nodes.Write | nodes.WriteSink)
        lowering.end(pipeline.node)
    return Plan(tuple(lowering.stages), tuple(lowering.sinks), tuple(lowering.sources))
