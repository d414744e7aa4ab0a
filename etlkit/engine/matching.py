"""Which rows of a held table a batch of keys meets. Row numbers only; payload of any type is taken by them afterwards.

Three ways to a key's place, by what the held keys are: a **table** where they are integers of a range that is not much wider than
they are many (built once); pyarrow's ``index_in`` for other integers and texts (its hash table is built again for every batch, but
knows nothing of payload); pyarrow's hash join with the different keys for all else. Where keys repeat, a place stands for a list of
rows: a batch of one hot key meets millions of them, so pairs are made a bounded number at a time. Null keys meet nobody.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ..lazyclass import dataclass
from .packing import as_integers
from .physical import count_up, index_in

WIDEST_RANGE = 8
"""Times as many as there are keys: a table costs four bytes for each number of the range."""
BUILT_EACH_TIME_ROWS = 1 << 16
"""So many held rows are put into a hash table for each batch in less time than the batch takes to be read."""
PAIRS_ROWS = 1 << 19
"""Pairs at once; more only where a single row meets more."""
Pairs = tuple[pa.Array | None, pa.Array]
"""Numbers of the batch's rows (None: all of them, in order), and of the held rows that they meet."""


@dataclass(frozen=True, slots=True)
class Met:
    """What each row of a batch met: a held row's number, or the place of a list of them; null where nobody."""

    places: pa.Array
    lists: pa.Array | None
    lengths: pa.Array | None
    """Of the lists."""

    @property
    def somebody(self) -> pa.Array:
        """Which rows of the batch met a held one."""
        found = self.places.is_valid()
        return found if self.lengths is None else pc.fill_null(pc.greater(self.lengths.take(self.places), 0), False)

    def pairs(self, *, keep_all: bool) -> Iterator[Pairs]:
        """In the order of the batch. ``keep_all``: rows that meet nobody too, with null for the other's number."""
        if self.lists is None or self.lengths is None:
            if keep_all or not self.places.null_count:
                yield None, self.places
            else:
                yield pc.indices_nonzero(self.places.is_valid()), self.places.drop_null()
            return
        meet = pc.fill_null(self.lengths.take(self.places), 0).cast(pa.int64())
        so_far: pa.Array = pc.cumulative_sum(pc.max_element_wise(meet, 1) if keep_all else meet)
        start, rows, before = 0, len(self.places), 0
        while start < rows:
            stop = bisect_right(range(rows), before + PAIRS_ROWS, lo=start, key=lambda row: so_far[row].as_py())
            stop = max(stop, start + 1)
            mine, theirs = _listed(self.lists.take(self.places.slice(start, stop - start)), keep_all)
            if len(theirs):
                yield pc.add(mine, start) if start else mine, theirs
            start, before = stop, so_far[stop - 1].as_py()


class Matches:
    """Over the keys of one held table. Immutable: threads may share it."""

    def __init__(self, keys: Sequence[pa.Array]) -> None:
        self._keys = keys
        """Where there is no table: the different keys, or all of them if none is there twice."""
        self._lowest = self._highest = 0
        self._table: pa.Array | None = None
        """From a key, less the lowest, to its row, where keys are there once."""
        self._lists: pa.Array | None = None
        """Rows by the place of their key, where keys repeat."""
        plain = _plain(keys[0]) if len(keys) == 1 else None
        self._plain = plain is not None
        if plain is None:
            self._keys, self._lists = _grouped(keys)
        elif (ends := _narrow_range(plain)) is not None:
            self._lowest, self._highest = ends
            self._table, self._lists = _table(plain, *ends)
            self._keys = []
        elif pc.count_distinct(plain, mode="only_valid").as_py() == len(plain) - plain.null_count:
            self._keys = [plain]
        else:
            self._keys, self._lists = _grouped([plain])
        self._lengths = None if self._lists is None else pc.list_value_length(self._lists)

    @property
    def nbytes(self) -> int:
        """Beside the keys."""
        return sum(int(one.nbytes) for one in (self._table, self._lists, self._lengths) if one is not None)

    @property
    def quick(self) -> bool:
        """Whether asking many batches costs no more than asking one large one."""
        return not self._keys or len(self._keys[0]) <= BUILT_EACH_TIME_ROWS

    def meet(self, keys: Sequence[pa.Array]) -> Met:
        if not self._plain:
            places = self._joined(keys)
        elif self._keys:
            places = index_in(_plain(keys[0]), self._keys[0])
        else:
            places = self._looked_up(_plain(keys[0]))
        return Met(places, self._lists, self._lengths)

    def _looked_up(self, whole: pa.Array | None) -> pa.Array:
        assert whole is not None
        ends = pc.min_max(whole)
        lowest, highest = ends["min"].as_py(), ends["max"].as_py()
        if lowest is None:
            return pa.nulls(len(whole), pa.int32())
        whole = whole.cast(pa.int64())
        if lowest < self._lowest or highest > self._highest:
            inside = pc.and_(pc.greater_equal(whole, self._lowest), pc.less_equal(whole, self._highest))
            whole = pc.if_else(inside, whole, pa.scalar(None, pa.int64()))
        places = pc.subtract(whole, self._lowest)
        return places if self._table is None else self._table.take(places)

    def _joined(self, keys: Sequence[pa.Array]) -> pa.Array:
        names = [f"k{at}" for at in range(len(keys))]
        mine = pa.table([*keys, count_up(len(keys[0]))], names=[*names, "mine"])
        held = pa.table([*self._keys, count_up(len(self._keys[0]))], names=[*names, "place"])
        met = mine.join(held, names, join_type="left outer", use_threads=False)
        return met["place"].take(pc.sort_indices(met["mine"])).combine_chunks()


def _grouped(keys: Sequence[pa.Array]) -> tuple[list[pa.Array], pa.Array | None]:
    """The different keys, and the rows of each in their order; None for the rows if each key is there once, and no null."""
    names = [f"k{at}" for at in range(len(keys))]
    rows = pa.table([*keys, count_up(len(keys[0])).cast(pa.int32())], names=[*names, "row"])
    groups = rows.group_by(names, use_threads=False).aggregate([("row", "list")])
    if groups.num_rows == rows.num_rows:
        return list(keys), None
    lists = groups["row_list"].combine_chunks()
    return [groups[name].combine_chunks() for name in names], lists


def _plain(keys: pa.Array) -> pa.Array | None:
    """Keys that ``index_in`` compares as a join does: numbers that are integers, and texts."""
    if pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type):
        return keys
    return as_integers(keys)


def _narrow_range(whole: pa.Array) -> tuple[int, int] | None:
    """Lowest and highest key, if a table for all that lie between pays."""
    if not pa.types.is_signed_integer(whole.type) or whole.null_count == len(whole) or len(whole) >= 1 << 31:
        return None
    ends = pc.min_max(whole)
    lowest, highest = ends["min"].as_py(), ends["max"].as_py()
    return (lowest, highest) if highest - lowest < max(1 << 12, WIDEST_RANGE * len(whole)) else None


def _table(whole: pa.Array, lowest: int, highest: int) -> tuple[pa.Array | None, pa.Array | None]:
    """Row numbers by key, int32, where keys are there once; else a list of them for each."""
    shifted = pc.subtract(whole.cast(pa.int64()), lowest)
    once = _placed(shifted, highest - lowest)
    if len(once) - once.null_count == len(whole) - whole.null_count:
        return once, None
    order = pc.sort_indices(shifted).cast(pa.int32()).slice(0, len(whole) - whole.null_count)
    runs = pc.run_end_encode(shifted.take(order), run_end_type=pa.int32())
    ends = pc.fill_null_forward(runs.run_ends.take(_placed(runs.values, highest - lowest)))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return None, pa.ListArray.from_arrays(offsets, order)


def _placed(numbers: pa.Array, highest: int) -> pa.Array:
    """Where each number up to the highest stands; null for those that are not there."""
    options = pc.InversePermutationOptions(max_index=highest, output_type=pa.int32())
    return pc.call_function("inverse_permutation", [numbers], options)


def _listed(found: pa.Array, keep_all: bool) -> Pairs:
    mine, theirs = pc.list_parent_indices(found), pc.list_flatten(found)
    if not keep_all:
        return mine, theirs
    lengths = pc.fill_null(pc.list_value_length(found), 0)
    alone = pc.indices_nonzero(pc.equal(lengths, 0)).cast(mine.type)
    if not len(alone):
        return mine, theirs
    mine = pa.concat_arrays([mine, alone])
    theirs = pa.concat_arrays([theirs, pa.nulls(len(alone), theirs.type)])
    order = pc.sort_indices(mine)
    return mine.take(order), theirs.take(order)
