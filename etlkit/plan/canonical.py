"""Canonical bytes of the values that an author writes down: the identity of literals, options and types.

Two values have the same bytes exactly when they mean the same. Python values never go through ``repr``
(a thousand-value set prints like another one), sets and ``isin`` lists are sorted by their bytes (the order of a Python
set changes from process to process), and Arrow scalars and arrays are told apart by type and value.
It does not cover expressions themselves (``expr.py``), nor input files.

pyarrow is only imported when a type or an Arrow value has to be encoded.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import struct
import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import PlanError

if TYPE_CHECKING:
    import pyarrow as pa

TypeLike: TypeAlias = "pa.DataType | str | type"

_LONGEST = 1024
_PYTHON_TYPES: dict[type, str] = {
    bool: "bool", int: "int64", float: "float64", str: "string", bytes: "binary", dt.date: "date32",
    dt.datetime: "timestamp[us]", dt.time: "time64[us]", dt.timedelta: "duration[us]",
}  # fmt: skip


def tagged(tag: bytes, *parts: bytes) -> bytes:
    """``tag`` and the parts, each with its length: no two lists of parts run together. Long ones become a digest."""
    body = tag + b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return body if len(body) <= _LONGEST else b"#" + hashlib.sha256(body).digest()


def is_arrow(value: object) -> bool:
    """Whether ``value`` is pyarrow's, asked without importing pyarrow."""
    return type(value).__module__.split(".", 1)[0] == "pyarrow"


def plain(value: Any) -> Any:
    """NumPy scalars as Python ones, enums as their values, decimal NaN and infinity as floats; all else as it is."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    if isinstance(value, Decimal) and not value.is_finite():
        return float(value)
    return value


def value_bytes(value: Any) -> bytes:
    """The canonical bytes of one Python or Arrow value. ``PlanError`` for anything that has no value of its own."""
    value = plain(value)
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"T" if value else b"F"
    if isinstance(value, int):
        return tagged(b"i", str(int(value)).encode())
    if isinstance(value, float):
        return tagged(b"f", struct.pack("<d", float("nan") if value != value else value))
    if isinstance(value, str):
        return tagged(b"s", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return tagged(b"b", bytes(value))
    if isinstance(value, Decimal):
        sign, digits, exponent = value.as_tuple()
        return tagged(b"d", f"{sign}:{''.join(map(str, digits))}:{exponent}".encode())
    if isinstance(value, dt.datetime):
        zone = "" if value.tzinfo is None else f"{value.tzinfo}:{value.utcoffset()}"
        return tagged(b"D", value.replace(tzinfo=None, fold=0).isoformat().encode(), zone.encode())
    if isinstance(value, dt.date):
        return tagged(b"a", value.isoformat().encode())
    if isinstance(value, dt.time):
        return tagged(b"t", value.isoformat().encode())
    if isinstance(value, dt.timedelta):
        return tagged(b"l", f"{value.days}:{value.seconds}:{value.microseconds}".encode())
    if isinstance(value, uuid.UUID):
        return tagged(b"u", value.bytes)
    if isinstance(value, (set, frozenset)):
        return tagged(b"{", *sorted({value_bytes(item) for item in value}))
    if isinstance(value, Mapping):
        return tagged(b"m", *(value_bytes(item) for pair in value.items() for item in pair))
    if is_arrow(value):
        return _arrow_bytes(value)
    if isinstance(value, (list, tuple, range)):
        return tagged(b"(", *(value_bytes(item) for item in value))
    raise PlanError(
        f"a {type(value).__name__} cannot be part of an expression",
        "use a number, string, bytes, date, time, decimal, bool, None, a list of these, or a pyarrow scalar or array",
    )


def set_bytes(values: Iterable[Any]) -> bytes:
    """Values whose order and repetition mean nothing."""
    return tagged(b"{", *sorted({value_bytes(item) for item in values}))


def resolve_type(kind: TypeLike) -> pa.DataType:
    """A pyarrow type from itself, a Python type or a name: ``"int64"``, ``"decimal(15, 2)"``."""
    import pyarrow as pa

    if isinstance(kind, pa.DataType):
        return kind
    if isinstance(kind, type):
        name = _PYTHON_TYPES.get(kind)
        if name is not None:
            return pa.type_for_alias(name)
    elif isinstance(kind, str):
        text = kind.strip().lower()
        try:
            if text.startswith("decimal"):
                return _decimal_type(text)
            if text.startswith("timestamp[") and "tz=" in text:
                unit, _, zone = kind.strip()[len("timestamp[") : -1].partition(",")
                return pa.timestamp(unit.strip().lower(), tz=zone.split("=", 1)[1].strip())
            return pa.type_for_alias(text)
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise PlanError(
                f"'{kind}' is not a type ({error})", "name it as pyarrow does, or pass a pyarrow type"
            ) from error
    raise PlanError(
        f"{kind!r} is not a type", 'pass a pyarrow type such as pyarrow.int64(), or its name, such as "int64"'
    )


def _decimal_type(text: str) -> pa.DataType:
    import pyarrow as pa

    head, _, rest = text.partition("(")
    precision, _, scale = rest.rstrip(") ").partition(",")
    made = {"decimal": pa.decimal128, "decimal32": pa.decimal32, "decimal64": pa.decimal64,
            "decimal128": pa.decimal128, "decimal256": pa.decimal256}[head.strip()]  # fmt: skip
    return made(int(precision), int(scale or 0))


def type_bytes(kind: TypeLike) -> bytes:
    """The canonical bytes of a type: children by name, type and nullability, never by pointer or address."""
    import pyarrow as pa

    resolved = resolve_type(kind)
    if isinstance(resolved, pa.BaseExtensionType):
        return tagged(b"X", resolved.extension_name.encode(), type_bytes(resolved.storage_type))
    if isinstance(resolved, pa.DictionaryType):
        order = b"1" if resolved.ordered else b"0"
        return tagged(b"Y", type_bytes(resolved.index_type), type_bytes(resolved.value_type), order)
    if resolved.num_fields == 0:
        return tagged(b"y", str(resolved).encode())
    children = [resolved.field(i) for i in range(resolved.num_fields)]
    size = resolved.list_size if pa.types.is_fixed_size_list(resolved) else 0
    name = f"{resolved.id}:{size}"
    return tagged(
        b"Z",
        name.encode(),
        *(tagged(b"z", c.name.encode(), type_bytes(c.type), b"1" if c.nullable else b"0") for c in children),
    )


def _arrow_bytes(value: Any) -> bytes:
    import pyarrow as pa

    if isinstance(value, pa.DataType):
        return type_bytes(value)
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if isinstance(value, pa.Scalar):
        if not value.is_valid:
            return tagged(b"n", type_bytes(value.type))
        if hasattr(value, "value") and isinstance(value.value, int):  # temporal: as_py would lose nanoseconds
            return tagged(b"v", type_bytes(value.type), value_bytes(value.value))
        return tagged(b"v", type_bytes(value.type), value_bytes(value.as_py()))
    if isinstance(value, pa.Array):
        return tagged(b"A", type_bytes(value.type), *(_arrow_bytes(item) for item in value))
    raise PlanError(f"a pyarrow.{type(value).__name__} cannot be part of an expression", "pass a scalar or an array")
