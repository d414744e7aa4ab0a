"""Which rows of a held table a batch of keys meets. Row numbers only; payload of any type is taken by them afterwards.

Three ways, by what the held keys are: a **table** where they are integers of a range that is not much wider than they are many
(built once; a lookup is one take of a row's number, or of a list of them where keys repeat); pyarrow's ``index_in`` where each is
there once (its hash table is built again for every batch, but knows nothing of payload); pyarrow's hash join for all else. Null
keys meet nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from .packing import as_integers
from .physical import count_up

WIDEST_RANGE = 8
"""Times as many as there are keys: a table costs four bytes for each number of the range."""
BUILT_EACH_TIME_ROWS = 1 << 16
"""So many held rows are put into a hash table for each batch in less time than the batch takes to be read."""
Pairs = tuple[pa.Array | None, pa.Array]
"""Numbers of the batch's rows (None: all of them, in order), and of the held rows that they meet."""


class Matches:
    """Over the keys of one held table. Immutable: threads may share it."""

    def __init__(self, keys: Sequence[pa.Array]) -> None:
        self._names = [f"k{at}" for at in range(len(keys))]
        self._keys = keys
        self._rows = len(keys[0])
        self._lowest = 0
        self._table: pa.Array | None = None
        """From a key, less the lowest, to its row, or to the list of its rows."""
        self._once = False
        plain = _plain(keys[0]) if len(keys) == 1 else None
        if plain is None:
            return
        self._keys = [plain]
        if (ends := _narrow_range(plain)) is not None:
            self._lowest = ends[0]
            self._table = _table(plain, *ends)
            self._once = not pa.types.is_list(self._table.type)
            self._keys = []
        else:
            self._once = bool(pc.count_distinct(plain, mode="only_valid").as_py() == len(plain) - plain.null_count)

    @property
    def nbytes(self) -> int:
        """Beside the keys."""
        return 0 if self._table is None else int(self._table.nbytes)

    @property
    def quick(self) -> bool:
        """Whether asking many batches costs no more than asking one large one."""
        return self._table is not None or self._rows <= BUILT_EACH_TIME_ROWS

    def pairs(self, keys: Sequence[pa.Array], *, keep_all: bool) -> Pairs:
        """In the order of the batch. ``keep_all``: rows that meet nobody too, with null for the other's number."""
        if self._table is None and not self._once:
            return self._joined(keys, keep_all)
        plain = _plain(keys[0])
        found = (
            pc.index_in(plain, value_set=self._keys[0], skip_nulls=True)
            if self._table is None
            else self._looked_up(plain)
        )
        if not self._once:
            return _listed(found, keep_all)
        if keep_all or not found.null_count:
            return None, found
        return pc.indices_nonzero(found.is_valid()), found.drop_null()

    def _looked_up(self, whole: pa.Array) -> pa.Array:
        assert self._table is not None
        ends = pc.min_max(whole)
        lowest, highest = ends["min"].as_py(), ends["max"].as_py()
        if lowest is None:
            return pa.nulls(len(whole), self._table.type)
        whole = whole.cast(pa.int64())
        top = self._lowest + len(self._table) - 1
        if lowest < self._lowest or highest > top:
            inside = pc.and_(pc.greater_equal(whole, self._lowest), pc.less_equal(whole, top))
            whole = pc.if_else(inside, whole, pa.scalar(None, pa.int64()))
        return self._table.take(pc.subtract(whole, self._lowest))

    def _joined(self, keys: Sequence[pa.Array], keep_all: bool) -> Pairs:
        mine = pa.table([*keys, count_up(len(keys[0]))], names=[*self._names, "mine"])
        held = pa.table([*self._keys, count_up(self._rows)], names=[*self._names, "held"])
        how = "left outer" if keep_all else "inner"
        pairs = mine.join(held, self._names, join_type=how, use_threads=False)
        pairs = pairs.take(pc.sort_indices(pairs, sort_keys=[("mine", "ascending"), ("held", "ascending")]))
        return pairs["mine"].combine_chunks(), pairs["held"].combine_chunks()


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


def _table(whole: pa.Array, lowest: int, highest: int) -> pa.Array:
    """Row numbers by key, int32: one each where keys are there once, else a list each."""
    shifted = pc.subtract(whole.cast(pa.int64()), lowest)
    once = _placed(shifted, highest - lowest)
    if len(once) - once.null_count == len(whole) - whole.null_count:
        return once
    order = pc.sort_indices(shifted).cast(pa.int32()).slice(0, len(whole) - whole.null_count)
    runs = pc.run_end_encode(shifted.take(order), run_end_type=pa.int32())
    ends = pc.fill_null_forward(runs.run_ends.take(_placed(runs.values, highest - lowest)))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, order)


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
