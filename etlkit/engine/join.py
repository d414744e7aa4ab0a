"""Joins: the right side in memory, the left side streamed past it in chunks. Of one partition, or of all (``held.py``).

Only keys are matched (``matching.py``); payload of any type is taken by row number afterwards, packed as it came. So a hot key of
the left side is spread over chunks. A partition of the right that is larger than one block is taken block by block, the left
streamed past each, so that a hot key of the right costs time and not memory. Null keys meet nobody; NaN meets NaN. Covers inner,
left, right, outer, semi and anti.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import PlanError
from ..lazyclass import dataclass
from ..plan.nodes import JoinHow
from .matching import Matches
from .packing import together, unpacked
from .physical import count_up, index_in, normal_floats
from .reducers import Side
from .widths import row_bytes

CHUNK_ROWS = 65_536
OUT_ROWS = 65_536
BLOCK_BYTES = 32 << 20
"""Of the right side of a partition at once. A constant: the rows that a later step sees must not depend on memory."""
_LEFT, _RIGHT = "__left", "__right"


class Block:
    """Rows of the right side, and which of them a key meets. Immutable: threads share it."""

    def __init__(self, rows: pa.Table, keys: list[pa.Array]) -> None:
        self.rows = rows
        self.matches = Matches(keys)

    @property
    def nbytes(self) -> int:
        return int(self.rows.nbytes) + self.matches.nbytes


@dataclass(frozen=True, slots=True)
class JoinReducer:
    left: pa.Schema
    """As stored: keys first."""
    right: pa.Schema
    keys: tuple[tuple[str, str, pa.DataType], ...]
    how: JoinHow
    columns: tuple[tuple[int, str, str], ...]
    """Of the result: (0 left, 1 right, 2 key of either), stored name, name."""
    schema: pa.Schema
    even_if_empty: bool = False
    cut_again: None = None
    keys_in_front: int = 0

    def reduce(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]:
        if self.how in ("semi", "anti"):
            yield from self._half(sides)
            return
        left_alone = self.how in ("left", "outer")
        met: list[pa.Array] = []
        for block, last in _blocks(sides[1](), self.right):
            keep_all = left_alone and last and not met
            yield from self._block(sides[0], block, met if left_alone and not keep_all else None, keep_all)
            if keep_all:
                return
        if left_alone:
            yield from self._left_alone(sides[0], met)

    @property
    def streams_left(self) -> bool:
        """Whether a row of the left is all that it takes to say what becomes of it, where all of the right is held."""
        return self.how in ("inner", "left", "semi", "anti")

    def hold(self, right: Sequence[pa.RecordBatch]) -> Block:
        """All of the right, for ``past``."""
        rows = pa.Table.from_batches([together(right, self.right)])
        if self.how in ("semi", "anti"):
            keys = _keys(rows, self.right, self._kinds(), _RIGHT).drop_columns([_RIGHT])
            keys = keys.group_by(keys.column_names, use_threads=False).aggregate([]).combine_chunks()
            return Block(rows.schema.empty_table(), [_array(column) for column in keys.columns])
        return Block(rows, _key_arrays(rows, self.right, self._kinds()))

    def past(self, batch: pa.RecordBatch, block: Block) -> Iterator[pa.RecordBatch]:
        """Rows of the left past all of the right."""
        chunk = pa.Table.from_batches([batch])
        keys = _key_arrays(chunk, self.left, self._kinds())
        if self.how in ("semi", "anti"):
            met = block.matches.meet(keys).somebody
            yield from self._rows(chunk.filter(met if self.how == "semi" else pc.invert(met)), None)
        else:
            for pairs in block.matches.meet(keys).pairs(keep_all=self.how == "left"):
                yield from self._paired(chunk, block.rows, *pairs)

    def _kinds(self) -> list[pa.DataType]:
        return [kind for _, _, kind in self.keys]

    def _half(self, sides: Sequence[Side]) -> Iterator[pa.RecordBatch]:
        """semi and anti: each key of the right once is all that is held."""
        build: pa.Table | None = None
        for chunk in _chunks(sides[1](), self.right):
            keys = _keys(chunk, self.right, self._kinds(), _RIGHT).drop_columns([_RIGHT])
            both = keys if build is None else pa.concat_tables([build, keys])
            build = both.group_by(keys.column_names, use_threads=False).aggregate([])
        for chunk in _chunks(sides[0](), self.left):
            if build is None:
                if self.how == "anti":
                    yield from self._rows(chunk, None)
                continue
            probe = _keys(chunk, self.left, self._kinds(), _LEFT)
            kept = probe.join(build, build.column_names, join_type=f"left {self.how}", use_threads=False)
            yield from self._rows(chunk.take(_in_order(kept[_LEFT])), None)

    def _block(
        self, left: Side, right: pa.Table, met: list[pa.Array] | None, keep_all: bool
    ) -> Iterator[pa.RecordBatch]:
        """All of the left past one block of the right. ``met``: for each chunk of the left who found somebody so far, brought up
        to date; ``keep_all``: there is no other block, so whoever finds nobody is told at once."""
        kinds = self._kinds()
        matches = Matches(_key_arrays(right, self.right, kinds))
        found: pa.Array | None = None
        for number, chunk in enumerate(_chunks(left(), self.left)):
            here = matches.meet(_key_arrays(chunk, self.left, kinds))
            if met is not None:
                known = met[number : number + 1]
                met[number : number + 1] = [pc.or_(known[0], here.somebody) if known else here.somebody]
            for mine, theirs in here.pairs(keep_all=keep_all):
                if self.how in ("right", "outer"):
                    new = pc.unique(theirs.drop_null())
                    found = new if found is None else pc.unique(pa.concat_arrays([found, new]))
                yield from self._paired(chunk, right, mine, theirs)
        if self.how in ("right", "outer"):
            alone = count_up(right.num_rows)
            if found is not None:
                alone = alone.filter(index_in(alone, found.cast(alone.type)).is_null())
            if len(alone):
                yield from self._rows(None, right.take(alone))

    def _paired(
        self, left: pa.Table, right: pa.Table, mine: pa.Array | None, theirs: pa.Array
    ) -> Iterator[pa.RecordBatch]:
        for at in range(0, len(theirs), OUT_ROWS):
            some = left.slice(at, OUT_ROWS) if mine is None else left.take(mine.slice(at, OUT_ROWS))
            yield from self._rows(some, right.take(theirs.slice(at, OUT_ROWS)))

    def _left_alone(self, left: Side, met: Sequence[pa.Array]) -> Iterator[pa.RecordBatch]:
        for number, chunk in enumerate(_chunks(left(), self.left)):
            alone = chunk.filter(pc.invert(met[number]))
            if alone.num_rows:
                yield from self._rows(alone, None)

    def _rows(self, left: pa.Table | None, right: pa.Table | None) -> Iterator[pa.RecordBatch]:
        some = left if left is not None else right
        assert some is not None
        arrays = []
        for (side, stored, _), field in zip(self.columns, self.schema, strict=True):
            table = (left if left is not None else right) if side == 2 else (left, right)[side]
            if table is None:
                arrays.append(pa.chunked_array([pa.nulls(some.num_rows, field.type)]))
                continue
            schema = self.right if side == 1 else self.left
            if side == 2 and left is None:
                schema, stored = self.right, self.right.names[self.left.names.index(stored)]  # keys stand first on both
            column = _meant(table[stored], schema.field(stored).type)
            arrays.append(column if column.type == field.type else column.cast(field.type))
        yield from pa.table(arrays, schema=self.schema).combine_chunks().to_batches()


@dataclass(frozen=True, slots=True)
class JoinShape:
    """Which columns a join gives: the keys, the left's other columns, then the right's without its keys."""

    keys: tuple[tuple[str, str, pa.DataType], ...]
    """Left name, right name, and the type in which values of both can be equal."""
    columns: tuple[tuple[int, str, str], ...]
    schema: pa.Schema

    def needed(self, wanted: Sequence[str]) -> tuple[set[str], set[str]]:
        """Of the left and of the right."""
        left, right = {key[0] for key in self.keys}, {key[1] for key in self.keys}
        for side, stored, name in self.columns:
            if name in wanted:
                (right if side == 1 else left).add(stored)
        return left, right

    def reducer(self, how: JoinHow, wanted: Sequence[str], left: pa.Schema, right: pa.Schema) -> JoinReducer:
        columns, schema = self._cut(wanted, left, right)
        return JoinReducer(left, right, self.keys, how, columns, schema)

    def turned(self, how: JoinHow, wanted: Sequence[str], left: pa.Schema, right: pa.Schema) -> JoinReducer:
        """The same join with the left side held: an inner one, or a right one, which is then a left one."""
        columns, schema = self._cut(wanted, left, right)
        theirs = {key[0]: key[1] for key in self.keys}
        turned = tuple(
            (1 - side, stored, name) if side < 2 else (1, stored, name) if how == "inner" else (0, theirs[stored], name)
            for side, stored, name in columns
        )
        keys = tuple((right_name, left_name, kind) for left_name, right_name, kind in self.keys)
        return JoinReducer(right, left, keys, "left" if how == "right" else how, turned, schema)

    def _cut(
        self, wanted: Sequence[str], left: pa.Schema, right: pa.Schema
    ) -> tuple[tuple[tuple[int, str, str], ...], pa.Schema]:
        """The wanted columns and their schema, in the types that the sides are stored in."""
        columns = tuple(column for column in self.columns if column[2] in wanted)
        fields = [
            field if side == 2 else field.with_type((left, right)[side].field(stored).type)
            for (side, stored, _), field in zip(columns, (self.schema.field(c[2]) for c in columns), strict=True)
        ]
        return columns, pa.schema(fields)


def plan_join(
    left: pa.Schema, right: pa.Schema, left_on: Sequence[str], right_on: Sequence[str], how: JoinHow, suffix: str
) -> JoinShape:
    """A right column whose name is taken gets ``suffix``. Errors: PlanError for keys of types that do not meet."""
    keys: list[tuple[str, str, pa.DataType]] = []
    for mine, theirs in zip(left_on, right_on, strict=True):
        a, b = left.field(mine).type, right.field(theirs).type
        common = _common_type(_value(a), _value(b))
        if common is None:
            raise PlanError(
                f"join: '{mine}' is {a} and '{theirs}' is {b}", "cast one of them, so that values can be equal"
            )
        keys.append((mine, theirs, common))
    loose = how in ("right", "outer")
    wide = {
        mine: common for mine, theirs, common in keys if loose and left.field(mine).type != right.field(theirs).type
    }
    columns: list[tuple[int, str, str]] = []
    fields: list[pa.Field] = []
    for field in left:
        columns.append((2 if field.name in left_on else 0, field.name, field.name))
        fields.append(field.with_nullable(field.nullable or loose).with_type(wide.get(field.name, field.type)))
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
    return JoinShape(tuple(keys), tuple(columns), pa.schema(fields))


def _common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """In which values of both types are equal exactly if they mean the same; None if they cannot meet."""
    texts, bytes_ = (pa.types.is_string, pa.types.is_large_string), (pa.types.is_binary, pa.types.is_large_binary)
    for same in (texts, bytes_):
        if any(test(a) for test in same) and any(test(b) for test in same):
            return a if a == b else pa.large_string() if same is texts else pa.large_binary()
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        if a == b:
            return a
        if pa.types.is_uint64(a) or pa.types.is_uint64(b):
            signed = pa.types.is_signed_integer(a) or pa.types.is_signed_integer(b)
            return pa.decimal128(20, 0) if signed else pa.uint64()
        return pa.int64()
    if pa.types.is_floating(a) and pa.types.is_floating(b):
        return pa.float32() if a == b == pa.float16() else a if a == b else pa.float64()
    if pa.types.is_decimal(a) and pa.types.is_decimal(b):
        if a.scale != b.scale:
            return None
        wide = pa.decimal256 if max(a.precision, b.precision) > 38 else pa.decimal128
        return wide(max(a.precision, b.precision), a.scale)
    if pa.types.is_nested(a) or pa.types.is_null(a):
        return None
    return a if a == b else None


def _value(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _keys(table: pa.Table, schema: pa.Schema, kinds: Sequence[pa.DataType], number: str) -> pa.Table:
    """The keys in one form for both sides, and the row's number."""
    names = [f"k{index}" for index in range(len(kinds))]
    return pa.table([*_key_arrays(table, schema, kinds), count_up(table.num_rows)], names=[*names, number])


def _key_arrays(table: pa.Table, schema: pa.Schema, kinds: Sequence[pa.DataType]) -> list[pa.Array]:
    columns = [_meant(table.column(index), schema.types[index]) for index in range(len(kinds))]
    return [_array(_common(column, kind)) for column, kind in zip(columns, kinds, strict=True)]


def _common(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type != kind:
        column = column.cast(kind)
    if pa.types.is_floating(kind):
        # One bit pattern for zero and one for NaN: they are joined by their bits.
        column = pa.chunked_array([normal_floats(chunk) for chunk in column.chunks], kind)
    return column


def _meant(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Stored columns are packed."""
    return column if column.type == kind else pa.chunked_array([unpacked(one, kind) for one in column.chunks], kind)


def _chunks(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        gathered.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield pa.Table.from_batches([together(gathered, schema)])
            gathered, rows = [], 0
    if gathered:
        yield pa.Table.from_batches([together(gathered, schema)])


def _blocks(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[tuple[pa.Table, bool]]:
    """The right side in pieces that can be held, and whether it is the last: usually one, also if it is empty. Rows of one key are
    cut here too, which no hash can part, and batches: a run has all rows of a partition in one."""
    gathered: list[pa.RecordBatch] = []
    held, least = 0, row_bytes(schema)
    for batch in batches:
        a_row = max(least, batch.nbytes // max(1, batch.num_rows))
        step = max(1, BLOCK_BYTES // 4 // a_row)
        for start in range(0, batch.num_rows, step):
            if held >= BLOCK_BYTES:
                block = pa.Table.from_batches([together(gathered, schema)])
                gathered, held = [], 0
                yield block, False
            gathered.append(batch.slice(start, step))
            held += gathered[-1].num_rows * a_row
    block = pa.Table.from_batches([together(gathered, schema)])
    gathered.clear()
    yield block, True


def _in_order(numbers: pa.ChunkedArray) -> pa.Array:
    return _array(numbers.take(pc.sort_indices(numbers)))


def _array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
