"""Which rows of a held table a batch of keys meets. Row numbers only; payload of any type is taken by them afterwards.

Three ways, by what the held keys are: a **table** from key to row where they are integers, each once, of a range that is not much
wider than they are many (built once, a lookup is one take); pyarrow's ``index_in`` where each is there once (its hash table is
built again for every batch, but knows nothing of payload); pyarrow's hash join for all else. Null keys meet nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from .packing import as_integers
from .physical import count_up

WIDEST_RANGE = 8
"""Times as many as there are keys: a table costs four bytes for each number of the range."""
Pairs = tuple[pa.Array | None, pa.Array]
"""Numbers of the batch's rows (None: all of them, in order), and of the held rows that they meet."""


class Matches:
    """Over the keys of one held table. Immutable: threads may share it."""

    def __init__(self, keys: Sequence[pa.Array]) -> None:
        self._names = [f"k{at}" for at in range(len(keys))]
        self._keys = keys
        self._lowest = 0
        self._table: pa.Array | None = None
        self._once = False
        if len(keys) == 1 and (plain := _plain(keys[0])) is not None:
            self._once = bool(pc.count_distinct(plain, mode="only_valid").as_py() == len(plain) - plain.null_count)
            if self._once:
                self._keys = [plain]
                self._make_table()

    @property
    def nbytes(self) -> int:
        """Beside the keys."""
        return 0 if self._table is None else int(self._table.nbytes)

    def pairs(self, keys: Sequence[pa.Array], *, keep_all: bool) -> Pairs:
        """In the order of the batch. ``keep_all``: rows that meet nobody too, with null for the other's number."""
        if not self._once:
            return self._joined(keys, keep_all)
        plain = _plain(keys[0])
        found = (
            pc.index_in(plain, value_set=self._keys[0], skip_nulls=True)
            if self._table is None
            else self._looked_up(plain)
        )
        if keep_all or not found.null_count:
            return None, found
        return pc.indices_nonzero(found.is_valid()), found.drop_null()

    def _make_table(self) -> None:
        whole = self._keys[0]
        if not pa.types.is_signed_integer(whole.type) or whole.null_count == len(whole):
            return
        ends = pc.min_max(whole)
        lowest, highest = ends["min"].as_py(), ends["max"].as_py()
        if highest - lowest >= max(1 << 12, WIDEST_RANGE * len(whole)) or len(whole) >= 1 << 31:
            return
        options = pc.InversePermutationOptions(max_index=highest - lowest, output_type=pa.int32())
        self._lowest = lowest
        self._table = pc.call_function("inverse_permutation", [pc.subtract(whole.cast(pa.int64()), lowest)], options)

    def _looked_up(self, whole: pa.Array) -> pa.Array:
        ends = pc.min_max(whole)
        lowest, highest = ends["min"].as_py(), ends["max"].as_py()
        if lowest is None:
            return pa.nulls(len(whole), pa.int32())
        assert self._table is not None
        whole = whole.cast(pa.int64())
        top = self._lowest + len(self._table) - 1
        if lowest < self._lowest or highest > top:
            inside = pc.and_(pc.greater_equal(whole, self._lowest), pc.less_equal(whole, top))
            whole = pc.if_else(inside, whole, pa.scalar(None, pa.int64()))
        return self._table.take(pc.subtract(whole, self._lowest))

    def _joined(self, keys: Sequence[pa.Array], keep_all: bool) -> Pairs:
        mine = pa.table([*keys, count_up(len(keys[0]))], names=[*self._names, "mine"])
        held = pa.table([*self._keys, count_up(len(self._keys[0]))], names=[*self._names, "held"])
        how = "left outer" if keep_all else "inner"
        pairs = mine.join(held, self._names, join_type=how, use_threads=False)
        pairs = pairs.take(pc.sort_indices(pairs, sort_keys=[("mine", "ascending"), ("held", "ascending")]))
        return pairs["mine"].combine_chunks(), pairs["held"].combine_chunks()


def _plain(keys: pa.Array) -> pa.Array | None:
    """Keys that ``index_in`` compares as a join does: numbers that are integers, and texts."""
    if pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type):
        return keys
    return as_integers(keys)
