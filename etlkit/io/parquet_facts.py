"""What a Parquet footer tells about the cost of its row groups, in a few numbers each.

Covers leaf columns, and estimates of decoded and resident bytes. It opens no file. Sizes of fixed-width columns are
exact. Strings are estimated: a dictionary-encoded chunk decodes to far more than its uncompressed size, and a footer
has no count of the decoded bytes that pyarrow shows. So the mean length of a value comes from the dictionary page: its
bytes over the fewest entries that the width of the indices allows, held below four times the longer of the two
statistics (but never below 64 bytes). It errs upwards, except where long values are rare in the dictionary and
common in the rows.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

READ_BUFFER_BYTES = 64 * 1024
PAGE_BYTES = 2 * 1024 * 1024
"""What a page of these writers rarely exceeds; they aim at 1 MiB. DuckDB makes one page of a whole column chunk."""
FEW_BYTES = 2 * 1024
"""Dictionaries up to so many bytes are worth keeping: every batch, slice and run has its own copy."""
LOOKED_AT = 8
_SMALL_PAGES = ("parquet-cpp", "parquet-rs", "parquet-mr", "polars")
_MIN_LENGTH_CAP = 64
_FOOTER_EXPANSION = 8
"""A footer in memory against its bytes in the file (measured: 6 to 9)."""


@dataclass(frozen=True, slots=True)
class RowGroupFacts:
    """One row group, for the columns asked for."""

    rows: int
    encoded_bytes: int
    decoded_bytes: int
    unit_bytes: int


def leaf_types(kind: pa.DataType) -> list[pa.DataType]:
    """The Parquet leaves of one Arrow column, in file order."""
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in leaf_types(field.type)]
    if pa.types.is_map(kind):
        return leaf_types(kind.key_type) + leaf_types(kind.item_type)
    if pa.types.is_nested(kind):
        return leaf_types(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return leaf_types(kind.storage_type)
    return [kind]


def column_leaves(schema: pa.Schema) -> dict[str, list[tuple[int, pa.DataType]]]:
    """For each column its leaves: index in the file, and type. By position, since a name may contain a dot."""
    leaves: dict[str, list[tuple[int, pa.DataType]]] = {}
    index = 0
    for field in schema:
        kinds = leaf_types(field.type)
        leaves[field.name] = list(zip(range(index, index + len(kinds)), kinds, strict=True))
        index += len(kinds)
    return leaves


def row_group_facts(metadata: Any, index: int, leaves: Sequence[tuple[int, pa.DataType]]) -> RowGroupFacts:
    """``metadata`` is a pyarrow ``FileMetaData``."""
    group = metadata.row_group(index)
    page_bytes = PAGE_BYTES if str(metadata.created_by).lower().startswith(_SMALL_PAGES) else None
    encoded, decoded, unit = 0, 0, metadata.serialized_size * _FOOTER_EXPANSION
    for leaf, kind in leaves:
        chunk = group.column(leaf)
        dictionary_bytes = _dictionary_bytes(chunk)
        encoded += chunk.total_compressed_size
        decoded += _decoded_bytes(chunk, kind, dictionary_bytes)
        page = chunk.total_uncompressed_size if page_bytes is None else min(chunk.total_uncompressed_size, page_bytes)
        unit += READ_BUFFER_BYTES + 2 * page + dictionary_bytes
    return RowGroupFacts(group.num_rows, encoded, decoded, unit)


def byte_range(metadata: Any, index: int) -> tuple[int, int]:
    """Where a row group lies in its file: start and length."""
    group = metadata.row_group(index)
    starts, ends = [], []
    for leaf in range(group.num_columns):
        chunk = group.column(leaf)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and chunk.dictionary_page_offset:
            start = min(start, chunk.dictionary_page_offset)
        starts.append(start)
        ends.append(start + chunk.total_compressed_size)
    return (min(starts), max(ends) - min(starts)) if starts else (0, 0)


def _dictionary_bytes(chunk: Any) -> int:
    """Uncompressed bytes of the dictionary page, by the chunk's own compression ratio."""
    if not chunk.has_dictionary_page or not chunk.dictionary_page_offset:
        return 0
    packed = max(0, chunk.data_page_offset - chunk.dictionary_page_offset)
    ratio = chunk.total_uncompressed_size / max(1, chunk.total_compressed_size)
    return min(int(chunk.total_uncompressed_size), int(packed * max(1.0, ratio)))


def _decoded_bytes(chunk: Any, kind: pa.DataType, dictionary_bytes: int) -> int:
    values = int(chunk.num_values)
    bitmap = values // 8
    if pa.types.is_dictionary(kind):
        return values * int(kind.index_type.bit_width) // 8 + dictionary_bytes + bitmap
    try:
        return values * int(kind.bit_width) // 8 + bitmap
    except ValueError:  # a type without a fixed width
        pass
    if pa.types.is_null(kind):
        return 0
    offsets = values * (8 if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) else 4)
    plain = int(chunk.total_uncompressed_size)
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        plain *= 4  # values share prefixes; the footer does not say how much
    if dictionary_bytes:
        plain = max(plain, values * _mean_length(chunk, dictionary_bytes))
    return offsets + plain + bitmap


def _mean_length(chunk: Any, dictionary_bytes: int) -> int:
    index_bits = 8 * (int(chunk.total_uncompressed_size) - dictionary_bytes) // max(1, int(chunk.num_values))
    fewest_entries = (1 << (min(index_bits, 24) - 1)) + 1 if index_bits > 0 else 1
    mean = max(1, dictionary_bytes // fewest_entries - 4)
    statistics = chunk.statistics
    if statistics is not None and statistics.has_min_max and isinstance(statistics.max_raw, bytes):
        mean = min(mean, max(_MIN_LENGTH_CAP, 4 * len(statistics.min_raw), 4 * len(statistics.max_raw)))
    return mean


def few_values(metadata: Any, leaf: int) -> bool:
    """Whether a column is stored as indices into small dictionaries: so small that no writer has given them up half-way."""
    groups = range(min(metadata.num_row_groups, LOOKED_AT))
    chunks = [metadata.row_group(group).column(leaf) for group in groups]
    return all(
        0 < _dictionary_bytes(chunk) <= min(FEW_BYTES, chunk.num_values) and "RLE_DICTIONARY" in chunk.encodings
        for chunk in chunks
    )


def integer_range(metadata: Any, leaf: int) -> tuple[int, int] | None:
    """Least and greatest value of an integer or date column in a file; None where the statistics do not say."""
    lows: list[int] = []
    highs: list[int] = []
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(leaf)
        statistics = chunk.statistics
        if statistics is None or not statistics.has_min_max:
            return None
        low, high = statistics.min, statistics.max
        if isinstance(low, datetime.date) and not isinstance(low, datetime.datetime):
            low, high = low.toordinal(), high.toordinal()
        if type(low) is not int or type(high) is not int:
            return None
        lows.append(low)
        highs.append(high)
    return (min(lows), max(highs)) if lows else None
