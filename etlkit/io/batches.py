"""Batches of one exact size and one exact schema, whatever a reader hands over.

Covers normalising types (views to plain strings), schema drift between files and cutting to fixed row counts. It
does not read files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError

SchemaMode = Literal["strict", "union", "first"]
IN_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
"""How strings that repeat travel from a reader to a writer."""
SCHEMA_MODES: tuple[str, ...] = get_args(SchemaMode)


def normal_type(kind: pa.DataType) -> pa.DataType:
    """``string_view`` is ``string``, ``binary_view`` is ``binary``, a decimal of 32 or 64 bits one of 128, for which pyarrow has its
    kernels; at any depth. Nested fields are nullable."""
    if kind == pa.string_view():
        return pa.string()
    if kind == pa.binary_view():
        return pa.binary()
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, normal_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(normal_type(kind.key_type), normal_type(kind.item_type), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(normal_field(kind.value_field), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(normal_field(kind.value_field))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(normal_field(kind.value_field))
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, normal_type(kind.value_type), kind.ordered)
    if isinstance(kind, pa.BaseExtensionType):
        return normal_type(kind.storage_type)
    return kind


def normal_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, normal_type(field.type))


def normal_schema(schema: pa.Schema) -> pa.Schema:
    """Normal types, all nullable, without metadata: what is equal then is equal for every operator."""
    return pa.schema([normal_field(field) for field in schema])


def cut(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """The schema of these columns, in this order."""
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def merge_schemas(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """The union: columns by first appearance, types promoted without loss. ``InputError`` names file and column."""
    fields: dict[str, pa.Field] = {}
    for path, schema in schemas:
        for field in schema:
            known = fields.setdefault(field.name, field)
            if known.type == field.type:
                continue
            # A dictionary is one way to store values: with others it is those.
            both = [
                one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one
                for one in (known, field)
            ]
            try:
                merged = pa.unify_schemas([pa.schema([one]) for one in both], promote_options="permissive")
                fields[field.name] = merged.field(0)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise InputError(
                    f"type {field.type}, and {known.type} in files before it: no type holds both",
                    "mend the file, or read the two kinds as two sources",
                    place=f"{path}, column {field.name}",
                ) from error
    return pa.schema(list(fields.values()))


def check_drift(path: str, found: pa.Schema, expected: pa.Schema, first: str) -> None:
    """``schema="strict"``: the same columns of the same types, in any order."""
    remedy = 'mend the file, or read with schema="union" (missing columns are null) or schema="first"'
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            raise InputError(f"the column is missing, {first} has it", remedy, place=f"{path}, column {field.name}")
        if found.field(index).type != field.type:
            message = f"type {found.field(index).type}, {first} has {field.type}"
            raise InputError(message, remedy, place=f"{path}, column {field.name}")
    for name in found.names:
        if expected.get_field_index(name) < 0:
            raise InputError(f"a column that {first} does not have", remedy, place=f"{path}, column {name}")


def conform(batch: pa.RecordBatch, schema: pa.Schema, place: str) -> pa.RecordBatch:
    """The batch with exactly ``schema``: columns by name, cast where they differ, null where they are missing."""
    if batch.schema.equals(schema):
        return batch
    if not schema.names:
        return empty_batch(batch.num_rows)
    arrays = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        array = pa.nulls(batch.num_rows, field.type) if index < 0 else batch.column(index)
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
            array = _as_list(array)
        if array.type != field.type:
            try:
                array = as_dictionary(array) if field.type == IN_DICTIONARY else array.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise InputError(
                    f"cannot be read as {field.type}: {error}", "mend the file", place=f"{place}, column {field.name}"
                ) from error
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _as_list(views: pa.Array) -> pa.Array:
    """A list view as a list: pyarrow's own cast makes an array that is not valid."""
    made = pa.LargeListArray if pa.types.is_large_list_view(views.type) else pa.ListArray
    offsets = pc.cumulative_sum(pc.fill_null(pc.list_value_length(views), 0))
    offsets = pa.concat_arrays([pa.array([0], offsets.type), offsets])
    return made.from_arrays(offsets, views.flatten(), mask=views.is_null())


def as_dictionary(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.DictionaryArray) and array.type.index_type == pa.int32():
        return pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.string()))
    return array.cast(pa.string()).dictionary_encode()


def as_plain(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with ``schema``: strings that travelled in dictionaries are strings again."""
    if batch.schema.equals(schema):
        return batch
    pairs = zip(batch.columns, schema.types, strict=True)
    return pa.RecordBatch.from_arrays([a if a.type == kind else a.cast(kind) for a, kind in pairs], schema=schema)


def empty_batch(rows: int) -> pa.RecordBatch:
    """A batch without columns that still has rows, for ``count()``."""
    return pa.RecordBatch.from_struct_array(pa.StructArray.from_buffers(pa.struct([]), rows, [None]))


def rebatch(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly ``rows``, but for the last."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while batch.num_rows:
            if not waiting and batch.num_rows == rows:
                yield batch
                break
            piece = batch.slice(0, rows - count)
            batch = batch.slice(piece.num_rows)
            waiting.append(piece)
            count += piece.num_rows
            if count == rows:
                yield _joined(waiting)
                waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(pieces) == 1:
        return pieces[0]
    if not pieces[0].schema.names:
        return empty_batch(sum(piece.num_rows for piece in pieces))
    return pa.concat_batches(pieces)
