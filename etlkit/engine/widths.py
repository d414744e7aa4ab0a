"""How many bytes a row takes in Arrow memory, by type: the base of every forecast before anything was measured."""

from __future__ import annotations

import pyarrow as pa

VARIABLE_BYTES = 24
"""Assumed content of a string or binary value, offsets apart, until something is learned."""
LIST_ITEMS = 4


def value_bytes(kind: pa.DataType) -> float:
    """Bytes of one value of a type, validity bitmap included."""
    if pa.types.is_dictionary(kind):
        return value_bytes(kind.index_type)
    if pa.types.is_struct(kind):
        return sum(value_bytes(field.type) for field in kind) + 0.125
    if pa.types.is_map(kind):
        return LIST_ITEMS * (value_bytes(kind.key_type) + value_bytes(kind.item_type)) + 4
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * value_bytes(kind.value_type) + 0.125
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return LIST_ITEMS * value_bytes(kind.value_type) + 4
    try:
        return int(kind.bit_width) / 8 + 0.125
    except ValueError:
        return VARIABLE_BYTES + 4


def row_bytes(schema: pa.Schema) -> int:
    """Bytes of one row, rounded up."""
    return int(sum(value_bytes(field.type) for field in schema)) + 1
