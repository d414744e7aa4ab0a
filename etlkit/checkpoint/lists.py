"""Documents below ``lists/``: what would make manifests grow with time, kept beside them.

Covers one document, and which ones to merge. What a run has in them is ``shelf.py``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..errors import CorruptStateError
from ..io.sink import Part
from .document import digest_of, unwrap, wrap
from .manifest import ListRef, decode_parts, encode_part
from .model import Json
from .store import Store

LARGE_FACT_BYTES = 8 * 1024
PARTS_A_LIST = 256
FAN_IN = 8
_REMEDY = "`etlkit verify` lists what is damaged; restore the file from a backup, or start over with --restart"


def is_large(value: Json) -> bool:
    return len(orjson.dumps(value)) > LARGE_FACT_BYTES


def digest(body: Json) -> str:
    """What ``write_list`` would say of it."""
    return digest_of(wrap(body))


def write_list(store: Store, name: str, body: Json, entries: int = 0) -> ListRef:
    """Durable when it returns."""
    document = wrap(body)
    target = store.create(name)
    try:
        target.write(document)
        target.finish()
    except BaseException:
        target.abort()
        raise
    return ListRef(name, len(document), digest_of(document), entries)


def read_list(store: Store, ref: ListRef) -> Any:
    document = store.read(ref.name)
    if document is None:
        raise CorruptStateError(f"{ref.name} is missing", _REMEDY, name=ref.name)
    if len(document) != ref.length or digest_of(document) != ref.sha256:
        raise CorruptStateError(f"{ref.name} is not the one that the manifest names", _REMEDY, name=ref.name)
    return unwrap(document, ref.name)


def encode_parts(parts: Mapping[int, Sequence[tuple[int, Part]]]) -> Json:
    return {"format": 1, "parts": [[stage, sink, *encode_part(part)] for stage in parts for sink, part in parts[stage]]}


def read_parts(store: Store, ref: ListRef) -> dict[int, list[tuple[int, Part]]]:
    found: dict[int, list[tuple[int, Part]]] = {}
    try:
        for stage, *rest in read_list(store, ref)["parts"]:
            found.setdefault(stage, []).extend(decode_parts([rest]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStateError(f"{ref.name} is not a list of parts: {error!r}", _REMEDY, name=ref.name) from error
    return found


def read_fact(store: Store, ref: ListRef) -> Json:
    try:
        return read_list(store, ref)["fact"]
    except (KeyError, TypeError) as error:
        raise CorruptStateError(f"{ref.name} is not a fact: {error!r}", _REMEDY, name=ref.name) from error


def lists_to_merge(lists: Sequence[ListRef]) -> Sequence[ListRef]:
    """The eight or more that are of one size class; empty if there are not so many. Smaller classes first."""
    classes: dict[int, list[ListRef]] = {}
    for ref in lists:
        size = 0
        while PARTS_A_LIST * FAN_IN ** (size + 1) <= ref.entries:
            size += 1
        classes.setdefault(size, []).append(ref)
    return next((members for _, members in sorted(classes.items()) if len(members) >= FAN_IN), ())
