"""Binding: an expression and a schema become a program over record batches.

Covers names, types, functions and literals: whatever is wrong with an expression is a ``PlanError`` here, before any
row is read. The program is a flat list of steps, each result kept in a register and dropped after its last use; a
branch that occurs twice is computed once. Each step's type is found by running it on no rows at all, so what binding
promises is what evaluating gives.

How operators are lowered is in ``operators.py``; it does not cover aggregates (``engine/aggregate.py``), nor the bounds
that a reader may prune by (``predicates.py``).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError, PlanError
from ..lazyclass import dataclass
from . import decimals, literals, operators
from .canonical import resolve_type
from .decimals import Datum
from .expr import Call, Column, Expr, Literal, TypeName
from .operands import Operand, StepError, broadcast, decoder
from .predicates import predicate_bounds
from .unscaled import Unscaled

__all__ = ["Bound", "bind", "predicate_bounds"]

Run = Callable[..., Datum]
_NOT_REPEATABLE = frozenset({"random"})


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: ``run`` on the registers ``inputs``; ``frees`` are the registers that nobody reads afterwards."""

    expr: Expr
    run: Run
    inputs: tuple[int, ...]
    frees: tuple[int, ...] = ()
    column: str | None = None
    takes_batch: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """An expression over batches of one schema. Safe to use from several threads."""

    expr: Expr
    type: pa.DataType
    steps: tuple[Step, ...]
    columns: frozenset[str]
    short: Together | None = None
    """The same with decimals as whole numbers, where that can be: tried first."""

    def evaluate(self, batch: pa.RecordBatch) -> pa.Array:
        """One value a row. ``InputError`` names the expression where a value of the batch makes it impossible."""
        value = self.datum(batch)
        value = broadcast(value, batch.num_rows)
        if len(value) != batch.num_rows:
            raise PlanError(
                f"{self.expr} gave {len(value)} values for {batch.num_rows} rows",
                "use only functions that give one value a row",
            )
        return value

    def datum(self, batch: pa.RecordBatch) -> Datum:
        """As ``evaluate``, but a constant stays a scalar."""
        if self.short is not None:
            try:
                (value,) = self.short.run(batch)
                return value if self.short.scales[0] is None else decimals.widen(value, self.type)
            except pa.ArrowInvalid:
                pass  # too large for that, or wrong: the long way will tell
        try:
            return self.run(batch)
        except StepError as failed:
            where = "" if failed.expr is self.expr else f" in {self.expr}"
            raise InputError(f"{failed.expr}{where}: {failed.error}", _remedy(str(failed.error))) from failed.error

    def run(self, batch: pa.RecordBatch) -> Datum:
        registers: list[Datum | None] = [None] * len(self.steps)
        for index, step in enumerate(self.steps):
            try:
                if step.column is not None:
                    registers[index] = step.run(batch.column(step.column))
                elif step.takes_batch:
                    registers[index] = step.run(batch)
                else:
                    registers[index] = step.run(*(registers[i] for i in step.inputs))
            except StepError:
                raise
            except pa.ArrowInvalid as error:
                raise StepError(step.expr, error) from error
            for register in step.frees:
                registers[register] = None
        return registers[-1]


def bind(expr: Expr, schema: pa.Schema) -> Bound:
    """``expr`` over batches of ``schema``. ``PlanError`` names it, what is wrong, and what is near."""
    if isinstance(expr, Column):
        # Passed on as it is, dictionary or not. Only what is computed is decoded.
        kind = _field(expr, schema, expr).type
        return Bound(expr, kind, (Step(expr, _same, (), column=expr.name),), expr.columns())
    binder = _Binder(schema, expr)
    try:
        operand = binder.operand(expr)
    except RecursionError as error:
        raise PlanError("an expression is nested too deeply", "use isin for long lists of alternatives") from error
    bound = Bound(expr, operand.type, binder.program(operand.register), expr.columns())
    return replace(bound, short=_short(binder, expr))


def _short(binder: _Binder, expr: Expr) -> Together | None:
    lowered = Unscaled(binder)
    kind = binder.type_of(expr)
    scale = None
    if pa.types.is_decimal128(kind):
        number = lowered.number(expr)
        if number is None or number[1] != kind.scale:
            return None
        register, scale = number
    elif pa.types.is_boolean(kind) and isinstance(expr, Call):
        register = lowered.condition(expr)
        if not lowered.used:
            return None
    else:
        return None
    steps, places = binder.programs([register])
    return Together(steps, places, (scale,))


@dataclass(frozen=True, slots=True)
class Together:
    """Several expressions over batches of one schema, computed in one go: a branch that they share once."""

    steps: tuple[Step, ...]
    results: tuple[int, ...]
    scales: tuple[int | None, ...]
    """Of results that are the unscaled values of decimals, as int64; None for all others."""

    def run(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """``pa.ArrowInvalid`` also where only the short way is barred: a whole number that leaves int64."""
        registers: list[Datum | None] = [None] * len(self.steps)
        for index, step in enumerate(self.steps):
            if step.column is not None:
                registers[index] = step.run(batch.column(step.column))
            elif step.takes_batch:
                registers[index] = step.run(batch)
            else:
                registers[index] = step.run(*(registers[i] for i in step.inputs))
            for register in step.frees:
                registers[register] = None
        return [broadcast(registers[result], batch.num_rows) for result in self.results]


def bind_together(exprs: Sequence[Expr], schema: pa.Schema, unscaled: Sequence[bool] = ()) -> Together:
    """``exprs`` that were bound to ``schema`` before, so that nothing can be wrong with them.

    ``unscaled``: whose decimals may come as int64, where they can be computed so. A condition compares decimals that way.
    """
    binder = _Binder(schema, exprs[0])
    short = Unscaled(binder)
    results: list[int] = []
    scales: list[int | None] = []
    for at, expr in enumerate(exprs):
        kind = binder.type_of(expr)
        number = short.number(expr) if unscaled and unscaled[at] and pa.types.is_decimal(kind) else None
        if number is not None and number[1] == kind.scale:
            results.append(number[0])
            scales.append(number[1])
        else:
            results.append(short.condition(expr) if pa.types.is_boolean(kind) else binder.plain(expr))
            scales.append(None)
    steps, places = binder.programs(results)
    return Together(steps, places, tuple(scales))


class _Binder:
    """Collects the steps of one expression, children first."""

    def __init__(self, schema: pa.Schema, whole: Expr) -> None:
        self._schema = schema
        self._whole = whole
        self._steps: list[Step] = []
        self._known: dict[bytes, Operand] = {}

    def operand(self, expr: Expr) -> Operand:
        known = self._known.get(expr.canonical())
        if known is None:
            known = self._known[expr.canonical()] = self._lower(expr)
        return known

    def apply(self, expr: Expr, run: Run, *inputs: Operand) -> Operand:
        """A step. Its type is that of its result on no rows; of constants only, it is a constant itself."""
        try:
            sample = run(*(operand.sample for operand in inputs))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError) as error:
            raise self.wrong(expr, inputs, str(error).splitlines()[0]) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise self.wrong(expr, inputs, str(error)) from error
        if isinstance(sample, pa.Scalar):
            return self.constant(expr, sample)
        return self._add(Step(expr, run, tuple(operand.register for operand in inputs)), sample)

    def constant(self, expr: Expr, value: pa.Scalar) -> Operand:
        return self._add(Step(expr, lambda: value, ()), value)

    def apply_to_batch(self, expr: Expr, run: Run, sample: Datum) -> Operand:
        """A step that reads the batch itself."""
        return self._add(Step(expr, run, (), takes_batch=True), sample)

    def inner(self) -> _Binder:
        """For programs that may be run on some of the rows only."""
        return _Binder(self._schema, self._whole)

    def bound(self, operand: Operand) -> Bound:
        """The program that computes ``operand`` alone."""
        return Bound(operand.expr, operand.type, self.program(operand.register), operand.expr.columns())

    def wrong(self, expr: Expr, inputs: Sequence[Operand], why: str) -> PlanError:
        types = ", ".join(str(operand.type) for operand in inputs)
        where = f" in {self._whole}" if expr is not self._whole else ""
        names = sorted(expr.columns())
        columns = f" (columns {', '.join(f'{n}: {self._schema.field(n).type}' for n in names)})" if names else ""
        return PlanError(f"{expr}{where} cannot be computed from {types or 'nothing'}{columns}: {why}", _remedy(why))

    def program(self, result: int) -> tuple[Step, ...]:
        """The steps that ``result`` needs, renumbered, with what each frees."""
        return self.programs([result])[0]

    def programs(self, results: Sequence[int]) -> tuple[tuple[Step, ...], tuple[int, ...]]:
        """The steps that ``results`` need, renumbered, with what each frees, and the places of the results."""
        needed = set(results)
        for index in range(max(results), -1, -1):
            if index in needed:
                needed.update(self._steps[index].inputs)
        order = sorted(needed)
        place = {old: new for new, old in enumerate(order)}
        last_use = {i: index for index in order for i in self._steps[index].inputs if i not in results}
        steps = tuple(
            replace(
                step,
                inputs=tuple(place[i] for i in step.inputs),
                frees=tuple({place[i] for i in step.inputs if last_use.get(i) == index}),
            )
            for index, step in ((index, self._steps[index]) for index in order)
        )
        return steps, tuple(place[result] for result in results)

    # What ``unscaled`` builds on.

    def type_of(self, expr: Expr) -> pa.DataType:
        return _field(expr, self._schema, self._whole).type if isinstance(expr, Column) else self.operand(expr).type

    def plain(self, expr: Expr) -> int:
        if isinstance(expr, Column):  # as it is, dictionary or not
            return self.column(expr, _same, self.type_of(expr))
        return self.operand(expr).register

    def column(self, expr: Column, run: Run, kind: pa.DataType) -> int:
        return self._add(Step(expr, run, (), column=expr.name), pa.nulls(0, kind)).register

    def step(self, expr: Expr, run: Run, kind: pa.DataType, *inputs: int) -> int:
        return self._add(Step(expr, run, inputs), pa.nulls(0, kind)).register

    def _add(self, step: Step, sample: Datum) -> Operand:
        self._steps.append(step)
        return Operand(len(self._steps) - 1, sample, step.expr)

    def _lower(self, expr: Expr) -> Operand:
        if isinstance(expr, Column):
            kind = _field(expr, self._schema, self._whole).type
            decode = decoder(kind)
            sample = decode(pa.nulls(0, kind)) if not pa.types.is_string_view(kind) else pa.array([], pa.string())
            return self._add(Step(expr, decode, (), column=expr.name), sample)
        if isinstance(expr, Literal):
            return self._literal(expr)
        if isinstance(expr, Call):
            if expr.name.startswith("fn."):
                return self._function(expr)
            return operators.lower(self, expr)
        raise PlanError(f"{expr!r} is not an expression", "use col, lit, fn and when")

    def _literal(self, expr: Literal) -> Operand:
        try:
            if expr.type is None:
                return self.constant(expr, literals.natural(expr.value))
            kind = resolve_type(expr.type.given)
            return self.constant(expr, literals.typed(expr.value, kind))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            kind_name = "" if expr.type is None else f" as {expr.type}"
            raise PlanError(
                f"the literal {expr.value!r}{kind_name} in {self._whole}: {error}", "give it another type"
            ) from error

    def _function(self, expr: Call) -> Operand:
        name = expr.name.removeprefix("fn.")
        known = pc.list_functions()
        if name.endswith("_") and name not in known:
            name = name[:-1]  # pyarrow writes and_, or_
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            raise PlanError(
                f"pyarrow.compute has no function '{name}', in {self._whole}",
                f"did you mean {' or '.join(near)}?" if near else "see pyarrow.compute for the names",
            )
        function = pc.get_function(name)
        if function.kind != "scalar" or name in _NOT_REPEATABLE:
            why = "gives other values when a row is read again" if name in _NOT_REPEATABLE else "does not go row by row"
            raise PlanError(f"pyarrow.compute.{name} {why}, in {self._whole}", "use an aggregate, sort, or map_batches")
        arity = len(expr.arguments) if function.arity is ... else function.arity
        inputs = [self.operand(argument) for argument in expr.arguments[:arity]]
        extra = []
        for argument in expr.arguments[arity:]:
            if not isinstance(argument, Literal):
                raise PlanError(
                    f"{name} takes {arity} columns; {argument} must be a value, in {self._whole}",
                    "pass it as an option",
                )
            extra.append(argument.value)
        options = {key: _option(key, value) for key, value in expr.options}
        call = getattr(pc, name, None) or getattr(pc, f"{name}_")
        return self.apply(expr, lambda *values: call(*values, *extra, **options), *inputs)


def _same(value: Datum) -> Datum:
    return value


def _option(key: str, value: object) -> object:
    if isinstance(value, TypeName):
        return value.given
    return pa.array(value) if key == "value_set" and isinstance(value, (list, tuple)) else value


def _field(column: Column, schema: pa.Schema, whole: Expr) -> pa.Field:
    places = schema.get_all_field_indices(column.name)
    if len(places) == 1:
        return schema.field(places[0])
    if places:
        raise PlanError(f"column '{column.name}' is there {len(places)} times, in {whole}", "rename one of them first")
    near = difflib.get_close_matches(column.name, schema.names, 3, 0.5)
    same = [name for name in schema.names if name.lower() == column.name.lower()]
    names = list(dict.fromkeys(same + near)) or schema.names[:10]
    hint = "did you mean" if same or near else "the columns are"
    where = "" if column is whole else f", in {whole}"
    raise PlanError(f"there is no column '{column.name}'{where}", f"{hint} {', '.join(names) or 'none'}")


def _remedy(why: str) -> str:
    lowered = why.lower()
    if "overflow" in lowered or "out of bounds" in lowered or "not in range" in lowered or "does not fit" in lowered:
        return "cast to a wider type first, such as .cast('int64') or .cast('decimal(38, 4)')"
    if "divide by zero" in lowered:
        return "guard it: when(y != 0).then(x // y).otherwise(None)"
    if "zone" in lowered:
        return "give both a time zone, or cast the column"
    if "no kernel" in lowered or "matching input types" in lowered:
        return "cast one of them with .cast(...)"
    return "look at the values of these columns, or cast them with .cast(type, safe=False)"
