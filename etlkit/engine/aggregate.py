"""Group-by: raw rows to partial states, partial states merged, and the result.

Covers ``plan_aggregates`` and the plan that it makes. All tables are flat apart from the list states of
``count_distinct`` and ``quantile``; columns have private names (``k0`` for keys, ``v0`` for values, ``s0`` for
states, ``p`` for the input position). What each aggregate keeps is in ``accumulators.py``, ``sums.py`` and
``spreads.py``; how rows get to the right partition is in ``hashing.py``.

    batch ── prepare ──> raw rows ── fold ──> one partial row a key ── merge ──> one a key ── final ──> what the author asked for

Float sums fold in the order in which rows arrive, so their last digits may differ from run to run. Everything else is the
same however the rows are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import EtlkitError, PlanError
from ..lazyclass import dataclass
from ..plan.aggregates import Aggregate
from ..plan.binding import Bound, bind
from ..plan.expr import Expr, col
from . import accumulators as acc
from . import spreads, sums
from .few import group_few
from .packing import unpacked
from .physical import Form, Use, count_up, form_of

_GLOBAL_KEY = "k0"
_POSITION = "p"
_ROW = "row"


@dataclass(frozen=True, slots=True)
class RawColumn:
    """One column of the raw rows: an input in one physical form."""

    name: str
    bound: Bound
    form: Form


@dataclass(frozen=True, slots=True)
class Output:
    """One aggregate of the result, with the names of its state columns."""

    name: str
    accumulator: acc.Accumulator
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AggregatePlan:
    """How one ``group_by(...).agg(...)`` is computed. Immutable, and safe to use from several threads."""

    keys: tuple[tuple[str, RawColumn], ...]
    values: tuple[RawColumn, ...]
    outputs: tuple[Output, ...]
    inputs: tuple[tuple[str, Expr], ...]
    """Private name and expression of every column that must travel."""
    raw_schema: pa.Schema
    partial_schema: pa.Schema
    schema: pa.Schema
    """Of the result: keys, then aggregates."""
    needs_position: bool
    unscaled: frozenset[str] = frozenset()
    """Decimals of more than 18 digits that may travel as int64 where their values allow it, by private name."""

    @property
    def foldable(self) -> bool:
        return True

    @property
    def key_names(self) -> tuple[str, ...]:
        """The private names of the keys, to partition by."""
        return tuple(column.name for _, column in self.keys) or (_GLOBAL_KEY,)

    def prepare(self, batch: pa.RecordBatch, position: int = 0) -> pa.RecordBatch:
        """The raw rows of a batch whose first row is at ``position`` of the whole input."""
        arrays = [
            column.form.forth(column.bound.evaluate(batch)) for column in (*(raw for _, raw in self.keys), *self.values)
        ]
        if not self.keys:
            arrays.insert(0, pa.repeat(pa.scalar(0, pa.int8()), batch.num_rows))
        if self.needs_position:
            arrays.append(pc.add(count_up(batch.num_rows), position))
        return pa.RecordBatch.from_arrays(arrays, schema=self.raw_schema)

    def fold(self, raw: pa.Table) -> pa.Table:
        """Raw rows to one partial row a key, in no particular order."""
        raw = raw.combine_chunks()  # a copy, but grouping many small chunks takes a third longer
        requests = [output.accumulator.fold(raw) for output in self.outputs]
        few = group_few([acc.one_array(raw[n]) for n in self.key_names], [r for several in requests for r in several])
        if few is None:
            groups, parts = self._grouped(self._by_index(raw), requests, ())
        else:
            groups = pa.table(few[0], names=list(self.key_names))
            parts = self._shared_out(raw, requests, few[1], len(few[0][0]))
        groups = self._by_value(groups, raw)
        return self._partials(groups, [o.accumulator.folded(part) for o, part in zip(self.outputs, parts, strict=True)])

    def _by_index(self, raw: pa.Table) -> pa.Table:
        """Keys in dictionaries as their indices: numbers group several times as fast as strings. One chunk, so one dictionary.

        Should a dictionary have a value twice, the group comes twice, and merging makes them one.
        """
        for name in self.key_names:
            if pa.types.is_dictionary(raw.schema.field(name).type):
                raw = raw.set_column(raw.schema.get_field_index(name), name, acc.one_array(raw[name]).indices)
        return raw

    def _by_value(self, groups: pa.Table, raw: pa.Table) -> pa.Table:
        for at, name in enumerate(self.key_names):
            if pa.types.is_dictionary(raw.schema.field(name).type):
                values = acc.one_array(raw[name]).dictionary
                groups = groups.set_column(at, name, values.take(acc.one_array(groups[name])))
        return groups

    def merge(self, partials: pa.Table) -> pa.Table:
        """Partial rows to one a key, in no particular order."""
        partials = partials.combine_chunks()
        states = [[partials[name] for name in output.states] for output in self.outputs]
        requests = [o.accumulator.merge(state) for o, state in zip(self.outputs, states, strict=True)]
        need = [i for i, output in enumerate(self.outputs) if output.accumulator.needs_groups]
        groups, parts = self._grouped(partials, requests, need)
        merged = [o.accumulator.merged(state, part) for o, state, part in zip(self.outputs, states, parts, strict=True)]
        return self._partials(groups, merged)

    def final(self, partial: pa.Table) -> pa.Table:
        """The result of merged partial rows. Without keys it is exactly one row, also of no rows at all."""
        if not self.keys and partial.num_rows == 0:
            partial = pa.table([pa.nulls(1, field.type) for field in self.partial_schema], schema=self.partial_schema)
        columns = [raw.form.back(acc.one_array(partial[raw.name])) for _, raw in self.keys]
        columns += [o.accumulator.final([acc.one_array(partial[name]) for name in o.states]) for o in self.outputs]
        return pa.table(columns, schema=self.schema)

    def _grouped(
        self, rows: pa.Table, requests: Sequence[Sequence[acc.Request]], need_groups: Sequence[int]
    ) -> tuple[pa.Table, list[acc.Grouping]]:
        """One group-by for all requests: the keys, and each accumulator's own results."""
        table = rows.select(list(self.key_names))
        calls: list[tuple[str, str] | tuple[str, str, object]] = []
        for request in (request for several in requests for request in several):
            name = f"c{len(calls)}"
            table = table.append_column(name, request.column)
            calls.append((name, request.function, request.options))
        if need_groups:
            table = table.append_column(_ROW, count_up(rows.num_rows))
            calls.append((_ROW, "list", None))
        done = table.group_by(list(self.key_names), use_threads=False).aggregate(calls)
        results = [acc.one_array(done.column(len(self.key_names) + i)) for i in range(len(calls))]
        return done.select(list(self.key_names)), self._shared_out(rows, requests, results, done.num_rows)

    def _shared_out(
        self, rows: pa.Table, requests: Sequence[Sequence[acc.Request]], results: Sequence[pa.Array], groups: int
    ) -> list[acc.Grouping]:
        """To each accumulator its own results."""
        parts, start = [], 0
        for several in requests:
            stop = start + len(several)
            parts.append(acc.Grouping(rows, results[start:stop], groups, lambda: results[-1]))
            start = stop
        return parts

    def _partials(self, groups: pa.Table, states: Sequence[Sequence[pa.Array]]) -> pa.Table:
        columns = [acc.one_array(column) for column in groups.columns] + [a for several in states for a in several]
        columns = [unpacked(column, kind) for column, kind in zip(columns, self.partial_schema.types, strict=True)]
        return pa.table(columns, schema=self.partial_schema)


def plan_aggregates(keys: Sequence[str], aggs: Mapping[str, Aggregate], schema: pa.Schema) -> AggregatePlan:
    """The plan of grouping rows of ``schema`` by ``keys``. ``PlanError`` for what cannot be grouped or aggregated."""
    return _Planner(schema).plan(tuple(keys), aggs)


class _Planner:
    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._raw: dict[tuple[bytes, str], RawColumn] = {}

    def plan(self, keys: tuple[str, ...], aggs: Mapping[str, Aggregate]) -> AggregatePlan:
        if len(set(keys)) < len(keys):
            raise PlanError(f"group_by({', '.join(keys)}) names a key twice", "name each key once")
        for name in aggs:
            if name in keys:
                raise PlanError(f"agg({name}=…) has the name of a key", "give the aggregate another name")
        key_columns = tuple((name, self._key(f"k{i}", name)) for i, name in enumerate(keys))
        outputs: list[Output] = []
        # Counts come last, so that they can count a column that travels anyway.
        by_cost = sorted(aggs, key=lambda name: aggs[name].kind == "count")
        made = {name: self._accumulator(name, aggs[name], keys) for name in by_cost}
        states = 0
        for name in aggs:
            width = len(made[name].state)
            outputs.append(Output(name, made[name], tuple(f"s{states + i}" for i in range(width))))
            states += width
        needs_position = any(isinstance(output.accumulator, acc.Edge) for output in outputs)
        return self._assembled(key_columns, tuple(outputs), needs_position)

    def _assembled(
        self, keys: tuple[tuple[str, RawColumn], ...], outputs: tuple[Output, ...], needs_position: bool
    ) -> AggregatePlan:
        values = tuple(self._raw.values())
        key_fields = [pa.field(raw.name, raw.form.physical) for _, raw in keys] or [pa.field(_GLOBAL_KEY, pa.int8())]
        raw_fields = [*key_fields, *(pa.field(value.name, value.form.physical) for value in values)]
        if needs_position:
            raw_fields.append(pa.field(_POSITION, pa.int64()))
        folded_fields = [pa.field(raw.name, raw.form.folded) for _, raw in keys] or key_fields
        state_fields = [
            pa.field(name, kind)
            for output in outputs
            for name, kind in zip(output.states, output.accumulator.state, strict=True)
        ]
        result = [pa.field(name, raw.form.logical) for name, raw in keys]
        result += [pa.field(output.name, output.accumulator.result) for output in outputs]
        plan = AggregatePlan(
            keys=keys,
            values=values,
            outputs=outputs,
            inputs=tuple((raw.name, raw.bound.expr) for raw in (*(raw for _, raw in keys), *values)),
            raw_schema=pa.schema(raw_fields),
            partial_schema=pa.schema([*folded_fields, *state_fields]),
            schema=pa.schema(result),
            needs_position=needs_position,
            unscaled=_may_be_unscaled(values, outputs),
        )
        _try_out(plan, self._schema)
        return plan

    def _key(self, private: str, name: str) -> RawColumn:
        bound = bind(col(name), self._schema)
        try:
            return RawColumn(private, bound, form_of(bound.type, "key"))
        except TypeError as error:
            raise PlanError(f"cannot group by '{name}': {error}", "group by one of its parts, or cast it") from error

    def _value(self, name: str, aggregate: Aggregate, use: Use) -> RawColumn:
        """The raw column of an aggregate's input in the form for ``use``; one that is there already is shared."""
        assert aggregate.input is not None
        bound = bind(aggregate.input, self._schema)
        try:
            form = form_of(bound.type, use)
        except TypeError as error:
            raise PlanError(
                f"{name}={aggregate}: {error}", "cast the column first, or use another aggregate"
            ) from error
        identity = (aggregate.input.canonical(), form.way)
        if use == "valid":
            shared = [raw for (expr, _), raw in self._raw.items() if expr == identity[0]]
            if shared:
                return shared[0]
        known = self._raw.get(identity)
        if known is None:
            known = self._raw[identity] = RawColumn(f"v{len(self._raw)}", bound, form)
        return known

    def _accumulator(self, name: str, aggregate: Aggregate, keys: tuple[str, ...]) -> acc.Accumulator:
        kind, key, label = aggregate.kind, "k0", f"{name}={aggregate}"
        options = dict(aggregate.options)
        if kind == "count":
            column = None if aggregate.input is None else self._value(name, aggregate, "valid").name
            return acc.Count(column, key)
        if kind in ("sum", "mean"):
            raw = self._value(name, aggregate, "sum")
            total = _sum_of(raw, label)
            return total if kind == "sum" else sums.Mean(total, acc.Count(raw.name, key))
        if kind in ("min", "max"):
            raw = self._value(name, aggregate, "order")
            return acc.Extreme(raw.name, kind, raw.form)
        if kind in ("any", "all"):
            raw = self._value(name, aggregate, "order")
            if not pa.types.is_boolean(raw.form.logical):
                raise PlanError(
                    f"{label} needs true and false, not {raw.form.logical}", "compare first: ek.any(col(x) > 0)"
                )
            return acc.Extreme(raw.name, kind, raw.form)
        if kind in ("first", "last"):
            raw = self._value(name, aggregate, "carry")
            return acc.Edge(raw.name, _POSITION, "min" if kind == "first" else "max", raw.form)
        if kind == "count_distinct":
            raw = self._value(name, aggregate, "group")
            return spreads.Distinct(raw.name, raw.form)
        if kind == "quantile":
            return spreads.Quantile(self._value(name, aggregate, "number").name, options["q"])
        if kind in ("stddev", "variance"):
            return spreads.Spread(self._value(name, aggregate, "number").name, kind == "stddev", options["ddof"])
        raise PlanError(f"{label}: there is no aggregate '{kind}'", "see etlkit.plan.aggregates for the ones there are")


def _may_be_unscaled(values: Sequence[RawColumn], outputs: Sequence[Output]) -> frozenset[str]:
    refusing = {o.accumulator.column for o in outputs if not o.accumulator.takes_unscaled}
    return frozenset(v.name for v in values if pa.types.is_decimal128(v.form.physical)) - refusing


def _sum_of(raw: RawColumn, label: str) -> sums.WholeSum | sums.WideSum:
    kind, physical = raw.form.logical, raw.form.physical
    if pa.types.is_floating(physical):
        return sums.WideSum(raw.name, pa.float64(), label)
    if pa.types.is_decimal(physical):
        wide = pa.decimal256(76, kind.scale) if pa.types.is_decimal256(physical) else pa.decimal128(38, kind.scale)
        return sums.WideSum(raw.name, wide, label)
    if pa.types.is_decimal(kind):
        return sums.WholeSum(raw.name, pa.decimal128(38, kind.scale), label)
    return sums.WholeSum(raw.name, pa.uint64() if pa.types.is_unsigned_integer(kind) else pa.int64(), label)


def _try_out(plan: AggregatePlan, schema: pa.Schema) -> None:
    """Runs the plan on one row of nulls, so that a type without a kernel is found before any row is read."""
    row = pa.RecordBatch.from_arrays([pa.nulls(1, field.type) for field in schema], names=schema.names)
    try:
        raw = pa.Table.from_batches([plan.prepare(row)])
        plan.final(plan.merge(plan.fold(raw)))
    except EtlkitError:
        raise
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        names = ", ".join(f"{name}: {kind}" for name, kind in zip(plan.schema.names, plan.schema.types, strict=True))
        raise PlanError(
            f"cannot aggregate to ({names}): {error}", "cast the column that has no such aggregate"
        ) from error
