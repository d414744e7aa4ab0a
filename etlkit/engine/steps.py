"""Fused steps: what happens to a batch between a stage's input and its output.

Two forms of the same thing. An **op** is a step whose column names are resolved but which is not bound to a schema:
unused columns can be pruned from it. A **step** is bound and runs on record batches. Covers filter, project, map and
explode; anything that makes rows meet is a stage boundary and lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import EtlkitError, PlanError
from ..io.batches import as_plain
from ..lazyclass import dataclass
from ..plan.binding import Bound, bind
from ..plan.expr import Column, Expr


@dataclass(frozen=True, slots=True)
class FilterOp:
    predicate: Expr


@dataclass(frozen=True, slots=True)
class ProjectOp:
    columns: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class MapOp:
    fn: Callable[[Any], Any]
    schema: pa.Schema | None
    """What it returns; None: the schema that it is given."""
    name: str


@dataclass(frozen=True, slots=True)
class ExplodeOp:
    column: str


Op = FilterOp | ProjectOp | MapOp | ExplodeOp


class Step(Protocol):
    """A bound op. ``schema`` is what it gives out."""

    @property
    def schema(self) -> pa.Schema: ...

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...


@dataclass(frozen=True, slots=True)
class FilterStep:
    """Keeps rows, and of the columns only those that a later step wants."""

    predicate: Bound
    keep: tuple[str, ...]
    schema: pa.Schema

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        mask = self.predicate.evaluate(batch)
        if len(self.keep) != batch.num_columns:
            batch = _select(batch, self.keep)
        return batch.filter(mask) if batch.num_columns else _columnless(pc.sum(mask).as_py() or 0)


@dataclass(frozen=True, slots=True)
class ProjectStep:
    columns: tuple[Bound, ...]
    schema: pa.Schema

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self.columns:
            return _select(batch, ())
        return pa.RecordBatch.from_arrays([bound.evaluate(batch) for bound in self.columns], schema=self.schema)


@dataclass(frozen=True, slots=True)
class MapStep:
    fn: Callable[[Any], Any]
    schema: pa.Schema
    name: str

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            made = self.fn(batch)
        except EtlkitError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            raise AuthorError(self.name, error) from error
        if isinstance(made, pa.Table):
            made = _single(made)
        if not isinstance(made, pa.RecordBatch):
            raise PlanError(
                f"map_batches({self.name}) returned {type(made).__name__}", "return a pyarrow RecordBatch or Table"
            )
        if made.schema.equals(self.schema):
            return made
        return self._conform(made)

    def _conform(self, made: pa.RecordBatch) -> pa.RecordBatch:
        said, got = self.schema, made.schema
        if got.names != said.names:
            raise PlanError(
                f"map_batches({self.name}) returned columns {got.names}, its schema says {said.names}",
                "mend the function, or the schema=… given to map_batches",
            )
        for field in said:
            if not got.field(field.name).type.equals(field.type):
                raise PlanError(
                    f"map_batches({self.name}) returned '{field.name}' as {got.field(field.name).type}, "
                    f"its schema says {field.type}",
                    "mend the function, or the schema=… given to map_batches",
                )
        return pa.RecordBatch.from_arrays(made.columns, schema=said)


@dataclass(frozen=True, slots=True)
class ExplodeStep:
    column: int
    schema: pa.Schema

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        lists = batch.column(self.column)
        if pa.types.is_fixed_size_list(lists.type):
            lists = lists.cast(pa.list_(lists.type.value_field))
        # A null or empty list keeps its row, as in DuckDB's left join with unnest and in Polars' explode.
        hollow = pc.fill_null(pc.less(pc.list_value_length(lists), 1), True)
        if pc.any(hollow).as_py():
            one_null = pa.array([[None]], lists.type)
            lists = pc.if_else(hollow, one_null[0], lists)
        parents = pc.list_parent_indices(lists)
        columns = [
            pc.list_flatten(lists) if index == self.column else batch.column(index).take(parents)
            for index in range(batch.num_columns)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


@dataclass(frozen=True, slots=True)
class PlainStep:
    """Strings that travelled in dictionaries are strings again, for who knows nothing of that."""

    schema: pa.Schema

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return as_plain(batch, self.schema)


class AuthorError(EtlkitError):
    """An author's function raised. The engine adds the file and the rows that it was given."""

    def __init__(self, name: str, error: BaseException, place: str = "") -> None:
        where = f" on {place}" if place else ""
        super().__init__(
            f"map_batches({name}) raised {type(error).__name__}: {error}{where}",
            "mend the function and run again: finished splits are kept if its version stays the same",
        )
        self.name = name
        self.error = error


def bind_ops(ops: Sequence[Op], schema: pa.Schema, wanted: Sequence[str] | None) -> tuple[tuple[Step, ...], pa.Schema]:
    """Bind ``ops`` to an input schema, dropping columns as soon as nobody wants them.

    ``wanted``: columns needed at the end; None means all. Errors: PlanError for a name or a type.
    """
    needs = needed_after(ops, wanted)
    steps: list[Step] = []
    for op, after in zip(ops, needs, strict=True):
        match op:
            case FilterOp(predicate):
                bound = bind(predicate, schema)
                if not pa.types.is_boolean(bound.type):
                    raise PlanError(f"filter({predicate}) is {bound.type}, not boolean", "compare it with something")
                keep = tuple(name for name in schema.names if after is None or name in after)
                schema = pa.schema([schema.field(name) for name in keep])
                steps.append(FilterStep(bound, keep, schema))
            case ProjectOp(columns):
                chosen = [(name, expr) for name, expr in columns if after is None or name in after]
                bounds = [(name, bind(expr, schema), expr) for name, expr in chosen]
                schema_after = pa.schema([_field(name, bound, expr, schema) for name, bound, expr in bounds])
                trivial = [expr.name if isinstance(expr, Column) else None for _, expr in chosen]
                if schema_after.names == schema.names == trivial:
                    continue
                schema = schema_after
                steps.append(ProjectStep(tuple(bound for _, bound, _ in bounds), schema))
            case MapOp(fn, out, name):
                schema = out if out is not None else schema
                steps.append(MapStep(fn, schema, name))
            case ExplodeOp(column):
                if column not in schema.names:
                    raise PlanError(f"explode: no column '{column}'", f"columns: {', '.join(schema.names)}")
                index = schema.get_field_index(column)
                kind = schema.field(index).type
                if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
                    raise PlanError(f"explode: '{column}' is {kind}, not a list", "explode a list column")
                schema = schema.set(index, pa.field(column, kind.value_type))
                steps.append(ExplodeStep(index, schema))
    return tuple(steps), schema


def needed_after(ops: Sequence[Op], wanted: Sequence[str] | None) -> list[set[str] | None]:
    """For each op, the columns that are wanted of what it gives out (None: all of them)."""
    needs: list[set[str] | None] = []
    now = None if wanted is None else set(wanted)
    for op in reversed(ops):
        needs.append(None if now is None else set(now))
        now = _needs_before(op, now)
    needs.reverse()
    return needs


def needed_before(ops: Sequence[Op], wanted: Sequence[str] | None) -> set[str] | None:
    """The columns that ``ops`` want of their input; None: all of them."""
    now = None if wanted is None else set(wanted)
    for op in reversed(ops):
        now = _needs_before(op, now)
    return now


def _needs_before(op: Op, now: set[str] | None) -> set[str] | None:
    match op:
        case FilterOp(predicate):
            return None if now is None else now | predicate.columns()
        case ProjectOp(columns):
            used: set[str] = set()
            for name, expr in columns:
                if now is None or name in now:
                    used |= expr.columns()
            return used
        case MapOp():
            return None
        case ExplodeOp(column):
            return None if now is None else now | {column}


def run_steps(steps: Sequence[Step], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Each batch through all steps; batches that lost all their rows are left out."""
    for batch in batches:
        for step in steps:
            batch = step.apply(batch)
            if not batch.num_rows:
                break
        else:
            if batch.num_rows:
                yield batch


def _field(name: str, bound: Bound, expr: Expr, schema: pa.Schema) -> pa.Field:
    """A column that is only passed on keeps what is known of it; a computed one may be null."""
    if isinstance(expr, Column):
        return schema.field(expr.name).with_name(name)
    return pa.field(name, bound.type)


def _select(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    return batch.select(list(names)) if names else _columnless(batch.num_rows)


def _columnless(rows: int) -> pa.RecordBatch:
    """A batch of rows without columns, as a count(*) needs."""
    return pa.RecordBatch.from_struct_array(pa.StructArray.from_buffers(pa.struct([]), rows, [None]))


def _single(table: pa.Table) -> pa.RecordBatch:
    table = table.combine_chunks()
    arrays = [column.chunk(0) if column.num_chunks else pa.nulls(0, column.type) for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)
