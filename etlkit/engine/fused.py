"""A scan that ends in a group-by, as one program: from a batch of the source to the narrow rows that travel.

Filters and projections are put into the aggregate's inputs, so that decimals are never made between them, what several share is
computed once, and a row is moved once: which rows a filter keeps is handed on, and the exchange leaves the others out when it
sorts rows into partitions. An expression may then meet a row that a filter would have dropped; if it fails, the batch goes step
by step, as it always could. Author's functions and ``explode`` are not covered, nor what ends elsewhere than in a group-by.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import EtlkitError
from ..io.batches import as_plain
from ..lazyclass import dataclass
from ..plan.binding import Together, bind, bind_together
from ..plan.decimals import narrow
from ..plan.expr import Call, Column, Expr, col
from .aggregate import AggregatePlan
from .physical import Convert, count_up
from .steps import FilterOp, Op, ProjectOp, Step

_MOST_BYTES = 1 << 16
"""Of canonical expressions: names that are used over and over make trees that double with each step."""
_FEW_KEPT = 0.5
"""Below this share of rows, the others are dropped before anything is computed from them."""
_HALF = pa.int32()


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows that travel, and which of them count (None: all of them). ``rows`` is how many that are."""

    batch: pa.RecordBatch
    mask: pa.Array | None
    rows: int


@dataclass(frozen=True, slots=True)
class Fused:
    plan: AggregatePlan
    predicate: Together | None
    wanted: Together
    forms: tuple[Convert | None, ...]
    """What brings each column into the form in which it travels; None: it is computed so."""
    columns: tuple[str, ...]
    """Of the source, that ``wanted`` reads."""
    steps: tuple[Step, ...]
    """The same, one after the other."""
    schema: pa.Schema
    """What ``steps`` take."""
    short: frozenset[str]
    """Decimals that are asked for as whole numbers only, so that they may come as decimal64."""

    def apply(self, batch: pa.RecordBatch, position: int, wide: set[int]) -> Kept:
        """``wide``: columns that were seen to need 64 bits; it learns."""
        try:
            return self._at_once(batch, position, wide)
        except (pa.ArrowInvalid, EtlkitError):
            return self._step_by_step(batch, position)

    def _at_once(self, batch: pa.RecordBatch, position: int, wide: set[int]) -> Kept:
        mask, kept = None, batch.num_rows
        if self.predicate is not None:
            (mask,) = self.predicate.run(batch)
            if mask.null_count:
                mask = pc.fill_null(mask, False)
            kept = mask.true_count
            if kept == batch.num_rows:
                mask = None
            elif kept < _FEW_KEPT * batch.num_rows and self.columns:
                batch, mask = batch.select(list(self.columns)).filter(mask), None
        arrays = [
            array if form is None else form(array)
            for array, form in zip(self.wanted.run(batch), self.forms, strict=True)
        ]
        arrays = [_narrowed(array, at, wide) for at, array in enumerate(arrays)]
        plan = self.plan
        if not plan.keys:
            arrays.insert(0, pa.repeat(pa.scalar(0, pa.int8()), batch.num_rows))
        if plan.needs_position:
            arrays.append(pc.add(count_up(batch.num_rows), position))
        return Kept(pa.RecordBatch.from_arrays(arrays, names=plan.raw_schema.names), mask, kept)

    def _step_by_step(self, batch: pa.RecordBatch, position: int) -> Kept:
        batch = as_plain(batch, self.schema)
        for step in self.steps:
            batch = step.apply(batch)
        return Kept(self.plan.prepare(batch, position), None, batch.num_rows)


def fuse(ops: Sequence[Op], steps: tuple[Step, ...], schema: pa.Schema, plan: AggregatePlan) -> Fused | None:
    """The program of ``ops`` and of what ``plan`` reads, over batches of ``schema``. None where they are not of that kind."""
    now: dict[str, Expr] = {name: col(name) for name in schema.names}
    filters: list[Expr] = []
    for op in ops:
        if isinstance(op, FilterOp):
            filters.append(op.predicate.substitute(now))
        elif isinstance(op, ProjectOp):
            now = {name: expr.substitute(now) for name, expr in op.columns if expr.columns() <= now.keys()}
        else:
            return None
        if (
            sum(len(expr.canonical()) for expr in (*now.values(), *filters) if not isinstance(expr, Column))
            > _MOST_BYTES
        ):
            return None
    raw = [*(column for _, column in plan.keys), *plan.values]
    wanted = [column.bound.expr.substitute(now) for column in raw]
    if not raw or any(bind(e, schema).type != column.bound.type for e, column in zip(wanted, raw, strict=True)):
        return None
    # Of values of up to 18 digits that is the form itself; others may come so, if whoever aggregates them can take it.
    short = [column.form.way == "narrow" or column.name in plan.unscaled for column in raw]
    together = bind_together(wanted, schema, short)
    forms = tuple(
        None if scale is not None or column.form.is_same else column.form.forth
        for column, scale in zip(raw, together.scales, strict=True)
    )
    read = frozenset().union(*(expr.columns() for expr in wanted))
    columns = tuple(name for name in schema.names if name in read)
    predicate = bind_together([reduce(_both, filters)], schema) if filters else None
    short_columns = _only_narrow((together,) if predicate is None else (predicate, together))
    return Fused(plan, predicate, together, forms, columns, steps, schema, short_columns)


def _only_narrow(programs: Sequence[Together]) -> frozenset[str]:
    """Columns of which nothing but the unscaled values is read."""
    narrowed: set[str] = set()
    otherwise: set[str] = set()
    for step in (step for program in programs for step in program.steps):
        if step.takes_batch:
            otherwise |= step.expr.columns()
        elif step.column is not None:
            (narrowed if step.run is narrow else otherwise).add(step.column)
    return frozenset(narrowed - otherwise)


def _both(left: Expr, right: Expr) -> Expr:
    return Call("and", (left, right))


def _narrowed(array: pa.Array, at: int, wide: set[int]) -> pa.Array:
    """Half as wide, where every value allows it: half of what is moved, held and grouped."""
    if array.type != pa.int64() or at in wide:
        return array
    ends = pc.min_max(array)  # with a cast that does not look, half of what one takes that does
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if low is not None and not -(2**31) <= low <= high < 2**31:
        wide.add(at)
        return array
    return array.cast(_HALF, safe=False)
