"""Joins of one partition: the right side in memory, the left side streamed past it in chunks.

Only keys and row numbers go through pyarrow's hash join; payload of any type is taken by row number afterwards. So a hot key of the
left side is spread over chunks, and memory is the right side's partition and one chunk. Null keys meet nobody. Covers
inner, left, right, outer, semi and anti.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import PlanError
from ..plan.nodes import JoinHow
from .physical import count_up
from .reducers import Side

CHUNK_ROWS = 262_144
_LEFT, _RIGHT = "__left", "__right"
_ARROW_HOW = {"inner": "inner", "left": "left outer", "right": "inner", "outer": "left outer"}


@dataclass(frozen=True, slots=True)
class JoinReducer:
    left: pa.Schema
    """As stored: keys first."""
    right: pa.Schema
    keys: int
    how: JoinHow
    columns: tuple[tuple[int, str, str], ...]
    """Of the result: (0 left, 1 right, 2 key of either), stored name, name."""
    schema: pa.Schema
    even_if_empty: bool = False

    def reduce(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]:
        right = pa.Table.from_batches(sides[1](), self.right).combine_chunks()
        build = _keys(right, self.keys, _RIGHT)
        met = None
        for chunk in _chunks(sides[0](), self.left):
            probe = _keys(chunk, self.keys, _LEFT)
            if self.how in ("semi", "anti"):
                kept = probe.join(build, probe.column_names[:-1], join_type=f"left {self.how}", use_threads=False)
                yield from self._rows(chunk.take(_in_order(kept[_LEFT])), None)
                continue
            pairs = probe.join(build, probe.column_names[:-1], join_type=_ARROW_HOW[self.how], use_threads=False)
            order = pc.sort_indices(pairs, sort_keys=[(_LEFT, "ascending"), (_RIGHT, "ascending")])
            pairs = pairs.take(order)
            if self.how in ("right", "outer"):
                seen = pc.unique(pairs[_RIGHT].drop_null())
                met = seen if met is None else pc.unique(pa.concat_arrays([_array(met), _array(seen)]))
            yield from self._rows(chunk.take(pairs[_LEFT]), right.take(pairs[_RIGHT]))
        if self.how in ("right", "outer"):
            everyone = count_up(right.num_rows)
            alone = everyone if met is None else everyone.filter(pc.invert(pc.is_in(everyone, _array(met))))
            if len(alone):
                yield from self._rows(None, right.take(alone))

    def _rows(self, left: pa.Table | None, right: pa.Table | None) -> Iterator[pa.RecordBatch]:
        some = left if left is not None else right
        assert some is not None
        arrays = []
        for (side, stored, _), field in zip(self.columns, self.schema, strict=True):
            table = (left if left is not None else right) if side == 2 else (left, right)[side]
            if table is None:
                arrays.append(pa.chunked_array([pa.nulls(some.num_rows, field.type)]))
                continue
            if side == 2 and left is None:
                stored = self.right.names[self.left.names.index(stored)]
            column = table[stored]
            arrays.append(column if column.type == field.type else column.cast(field.type))
        yield from pa.table(arrays, schema=self.schema).combine_chunks().to_batches()


def plan_join(
    left: pa.Schema, right: pa.Schema, left_on: Sequence[str], right_on: Sequence[str], how: JoinHow, suffix: str
) -> tuple[tuple[tuple[int, str, str], ...], pa.Schema]:
    """The result's columns: the keys of the left, its other columns, then the right's without its keys.

    A right column whose name is taken gets ``suffix``. Errors: PlanError for keys of types that do not meet.
    """
    for mine, theirs in zip(left_on, right_on, strict=True):
        a, b = left.field(mine).type, right.field(theirs).type
        if not _meets(a, b):
            raise PlanError(
                f"join: '{mine}' is {a} and '{theirs}' is {b}", "cast one of them, so that values can be equal"
            )
    columns: list[tuple[int, str, str]] = []
    fields: list[pa.Field] = []
    loose = how in ("right", "outer")
    for field in left:
        columns.append((2 if field.name in left_on else 0, field.name, field.name))
        fields.append(field.with_nullable(field.nullable or loose))
    if how not in ("semi", "anti"):
        taken = set(left.names)
        for field in right:
            if field.name in right_on:
                continue
            name = field.name if field.name not in taken else f"{field.name}{suffix}"
            if name in taken:
                raise PlanError(f"join: two columns are called '{name}'", "rename one of them before the join")
            taken.add(name)
            columns.append((1, field.name, name))
            fields.append(field.with_name(name).with_nullable(field.nullable or how in ("left", "outer")))
    return tuple(columns), pa.schema(fields)


def _meets(a: pa.DataType, b: pa.DataType) -> bool:
    a, b = _value(a), _value(b)
    texts = (pa.types.is_string, pa.types.is_large_string)
    if any(test(a) for test in texts):
        return any(test(b) for test in texts)
    if pa.types.is_decimal(a) and pa.types.is_decimal(b):
        return bool(a.scale == b.scale)
    return bool(
        a == b
        or (pa.types.is_integer(a) and pa.types.is_integer(b))
        or (pa.types.is_floating(a) and pa.types.is_floating(b))
    )


def _value(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _keys(table: pa.Table, keys: int, number: str) -> pa.Table:
    """The keys in one form for both sides, and the row's number."""
    arrays = [_common(table.column(index)) for index in range(keys)]
    names = [f"k{index}" for index in range(keys)]
    return pa.table([*arrays, count_up(table.num_rows)], names=[*names, number])


def _common(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = _value(column.type)
    if kind != column.type:
        column = column.cast(kind)
    if pa.types.is_large_string(kind):
        return column.cast(pa.string())
    if pa.types.is_unsigned_integer(kind) and kind.bit_width == 64:
        return column
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_decimal128(kind):
        return column.cast(pa.decimal128(38, kind.scale))
    return column


def _chunks(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        gathered.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield pa.Table.from_batches(gathered, schema)
            gathered, rows = [], 0
    if gathered:
        yield pa.Table.from_batches(gathered, schema)


def _in_order(numbers: pa.ChunkedArray) -> pa.Array:
    return _array(numbers.take(pc.sort_indices(numbers)))


def _array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
