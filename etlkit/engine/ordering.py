"""The one order of rows: by several keys, each up or down, then by position; nulls last, NaN before them, whichever way.

Covers putting a table in that order, and cutting all rows into ranges of about equal size. A range is bounded by whole rows of keys,
the position included, so that a first key with few values, or one, does not put everything into one range. It does not
cover where the rows to cut by come from (``sampling.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ..plan import decimals
from .packing import as_integers

MOST_KEYS = 6
"""Of a boundary: its keys' ranks among 512 boundaries fit one int64."""
_NUMBER_BITS = 63
_DIGIT_BITS = 12
"""pyarrow sorts by counting where there are no more than 4096 different values."""
_COUNTED_ROWS = 1024
"""Fewer are sorted by comparing anyway."""


def order_of(columns: Sequence[pa.ChunkedArray], descending: Sequence[bool]) -> pa.Array:
    """The row numbers of ``columns`` in order. The last column is the position, which makes the order complete."""
    number = _as_one_number(columns, descending)
    if number is not None:
        return _order_of_number(*number)
    table = pa.table([_sortable(column) for column in columns], names=[str(at) for at in range(len(columns))])
    ways = ["descending" if down else "ascending" for down in descending[: len(columns)]]
    return pc.sort_indices(table, sort_keys=[(str(at), way, "at_end") for at, way in enumerate(ways)])


def boundary_columns(columns: Sequence[pa.Array]) -> list[pa.Array]:
    """The columns that bound ranges, in a form that can be searched and compared.

    A decimal of more than 18 digits is bounded by its float64, which keeps the order but not every difference: so it is the last.
    """
    found: list[pa.Array] = []
    for column in columns[:MOST_KEYS]:
        plain, exact = _searchable(_sortable(column))
        found.append(plain)
        if not exact:
            break
    return found


def find_boundaries(sample: Sequence[pa.Array], descending: Sequence[bool], ranges: int) -> pa.StructArray:
    """Rows, ascending in the order, that cut the sample into about equal parts. Fewer than asked where rows repeat.

    Of no more columns than it takes to tell them apart: usually the first key alone, which is the quickest to search.
    """
    rows = pa.table(list(sample), names=[str(at) for at in range(len(sample))])
    ordered = rows.take(order_of(rows.columns, descending))
    picks = [rows.num_rows * at // ranges for at in range(1, ranges)] if rows.num_rows else []
    cuts = ordered.take(pa.array(picks, pa.int64())).combine_chunks()
    for width in range(1, len(sample) + 1):
        narrow = cuts.select(range(width))
        once: dict[str, int] = {}
        for at, row in enumerate(narrow.to_pylist()):
            once.setdefault(repr(row), at)
        if len(once) == len(picks):
            break
    narrow = narrow.take(pa.array(once.values(), pa.int64()))
    return pa.StructArray.from_arrays(
        [column.combine_chunks() for column in narrow.columns], fields=list(narrow.schema)
    )


def range_of(columns: Sequence[pa.Array], boundaries: pa.StructArray, descending: Sequence[bool]) -> pa.Array:
    """The range of each row, as uint16."""
    bounds = [boundaries.field(at) for at in range(boundaries.type.num_fields)]
    ranks = _ranks(columns[: len(bounds)], bounds, descending)
    cuts = _ranks(bounds, bounds, descending)
    return pc.search_sorted(cuts, ranks, side="right").cast(pa.uint16())


def _ranks(columns: Sequence[pa.Array], bounds: Sequence[pa.Array], descending: Sequence[bool]) -> pa.Array:
    """One int64 a row, which compares with that of a boundary as the row does.

    In each column a value is an even number between two of the boundaries' values, or an odd one if it is one of them.
    """
    rank = pa.scalar(0, pa.int64())
    for column, bound, down in zip(columns, bounds, descending, strict=False):
        known = bound.drop_null()
        floating = pa.types.is_floating(bound.type)
        if floating:
            known = known.filter(pc.invert(pc.is_nan(known)))
        known = pc.unique(known)
        known = known.take(pc.sort_indices(known))
        most = 2 * len(known)
        if len(known):
            here = pc.add(
                pc.search_sorted(known, column, side="left").cast(pa.int64()),
                pc.search_sorted(known, column, side="right").cast(pa.int64()),
            )
        else:
            here = pc.if_else(column.is_valid(), pa.scalar(0, pa.int64()), pa.scalar(None, pa.int64()))
        if down:
            here = pc.subtract(pa.scalar(most, pa.int64()), here)
        if floating:
            here = pc.if_else(pc.is_nan(column), pa.scalar(most + 1, pa.int64()), here)
        here = pc.if_else(column.is_valid(), here, pa.scalar(most + 2, pa.int64()))
        rank = pc.add(pc.multiply(rank, pa.scalar(most + 3, pa.int64())), here)
    return rank


def _as_one_number(
    columns: Sequence[pa.Array | pa.ChunkedArray], descending: Sequence[bool]
) -> tuple[pa.Array, int] | None:
    """All columns of a row as one int64 that compares as the row does, and its bits; None if that is not to be had.

    Each column counts from its lowest value, in as many bits as its range takes, a null above all.
    """
    spans: list[tuple[pa.Array, int, int, int, bool]] = []
    total = 0
    for column, down in zip(columns, descending, strict=False):
        whole = as_integers(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
        if whole is None:
            return None
        ends = pc.min_max(whole)
        lowest, highest = ends["min"].as_py() or 0, ends["max"].as_py() or 0
        bits = (highest - lowest + (1 if whole.null_count else 0)).bit_length()
        total += bits
        if total > _NUMBER_BITS or highest >= 1 << 63:
            return None
        spans.append((whole, lowest, highest, bits, down))
    number = None
    for whole, lowest, highest, bits, down in spans:
        whole = whole.cast(pa.int64())
        code = pc.subtract(highest, whole) if down else pc.subtract(whole, lowest)
        if whole.null_count:
            code = pc.if_else(code.is_valid(), code, pa.scalar(highest - lowest + 1, pa.int64()))
        number = code if number is None else pc.add(pc.shift_left(number, bits), code)
    return None if number is None else (number, total)


def _order_of_number(number: pa.Array, bits: int) -> pa.Array:
    """Sorted a digit at a time from the lowest, each by counting: a fifth of the time of comparing rows (ADR 13)."""
    if len(number) < _COUNTED_ROWS:
        return pc.sort_indices(number)
    width = -(-bits // max(1, -(-bits // _DIGIT_BITS)))
    order: pa.Array | None = None
    for shift in range(0, max(bits, 1), max(width, 1)):
        digit = pc.bit_wise_and(pc.shift_right(number, shift), (1 << width) - 1).cast(pa.uint16())
        order = pc.sort_indices(digit) if order is None else order.take(pc.sort_indices(digit.take(order)))
    return order


def _sortable(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """What pyarrow can sort, in the same order: dictionaries by value, small floats and decimals as wider ones."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return column.cast(decimals.decimal_of(kind))
    return column


def _searchable(column: pa.Array) -> tuple[pa.Array, bool]:
    """What pyarrow can search, and whether it still tells every two values apart."""
    kind = column.type
    if pa.types.is_null(kind):
        return pa.repeat(pa.scalar(0, pa.uint8()), len(column)), True
    if pa.types.is_decimal(kind):
        if kind.precision <= decimals.NARROW_DIGITS:
            return decimals.narrow(column), True
        return column.cast(pa.float64()), False
    if pa.types.is_boolean(kind):
        return column.cast(pa.uint8()), True
    if pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary()), True
    return column, True
