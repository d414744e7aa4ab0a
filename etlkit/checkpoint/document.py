"""The envelope of every JSON file in a state directory: one object, with a checksum over the bytes as they lie there.

    {"sha256":"<64 hex digits>","body":{…}}\\n

The digest covers the bytes of ``body`` exactly as written; everything else is compared literally, so that no byte of the file
can change unnoticed. The envelope is the same in every format version: what is inside says which one it is. Covers
wrapping and checking; what is inside is ``manifest.py``'s.
"""

from __future__ import annotations

import hashlib

import orjson

from ..errors import CorruptStateError
from .model import Json

_HEAD, _MIDDLE, _TAIL = b'{"sha256":"', b'","body":', b"}\n"
_DIGEST_END = len(_HEAD) + 64
_BODY_START = _DIGEST_END + len(_MIDDLE)
_REMEDY = "`etlkit verify` lists what is damaged; restore the file from a backup, or start over with --restart"


def wrap(body: Json) -> bytes:
    """Canonical: keys sorted, no spaces. ``TypeError`` for what is not JSON."""
    inner = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return b"".join((_HEAD, hashlib.sha256(inner).hexdigest().encode(), _MIDDLE, inner, _TAIL))


def digest_of(document: bytes) -> str:
    """The digest that a wrapped document carries."""
    return document[len(_HEAD) : _DIGEST_END].decode("ascii", "replace")


def unwrap(document: bytes, name: str) -> Json:
    """The body, or ``CorruptStateError`` naming the file."""
    if (
        len(document) < _BODY_START + len(_TAIL)
        or not document.startswith(_HEAD)
        or document[_DIGEST_END:_BODY_START] != _MIDDLE
        or not document.endswith(_TAIL)
    ):
        raise CorruptStateError(f"{name} is not a whole document of etlkit ({len(document)} bytes)", _REMEDY, name=name)
    inner = memoryview(document)[_BODY_START : -len(_TAIL)]
    if hashlib.sha256(inner).hexdigest().encode() != document[len(_HEAD) : _DIGEST_END]:
        raise CorruptStateError(f"{name} does not have the checksum that it was written with", _REMEDY, name=name)
    try:
        return orjson.loads(inner)
    except ValueError as error:
        raise CorruptStateError(f"{name} is not JSON: {error}", _REMEDY, name=name) from error
