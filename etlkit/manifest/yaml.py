"""YAML with comments: a document is plain data in which a value may carry a note, printed above it.

Covers writing only, of what JSON can say: mappings with text keys, lists, text, numbers, booleans, null. A note is lost by
``plain``, which gives the data alone. It does not cover anchors, tags or reading: PyYAML reads what this writes.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Data = Any
"""What JSON can say, with ``Noted`` anywhere in it."""
WIDTH = 116
_FLOW_WIDTH = 60
_BARE = re.compile(
    r"(?:[A-Za-z0-9_./]|-(?=[A-Za-z0-9-]))(?:[A-Za-z0-9_./@+=-]|:(?=[A-Za-z0-9_./-])|(?<=[A-Za-z]) (?=[A-Za-z]))*"
)
_AMBIGUOUS = re.compile(
    r"(?i:y|n|yes|no|true|false|on|off|null|\.inf|\.nan)|[-+.0-9][-+.0-9_:a-fxo]*|[0-9]{4}-.*|-{3,}.*|\.{3,}.*"
)
"""Words and numbers of YAML 1.1, dates and base-60 among them: more than are numbers, which does no harm."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A value, and what to say above it."""

    text: str
    value: Data


def note(text: str, value: Data) -> Noted:
    return Noted(text, value)


def plain(value: Data) -> Data:
    """The data without its notes."""
    if isinstance(value, Noted):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def documents(several: Iterable[Data]) -> str:
    """Several documents, as ``kubectl apply -f -`` takes them."""
    return "---\n".join(document(one) for one in several)


def document(value: Data) -> str:
    head, body = _open(value, 0)
    return "".join(f"{line}\n" for line in [*head, *_block(body, 0)])


def _open(value: Data, indent: int) -> tuple[list[str], Data]:
    """The lines of the note, and the value below it."""
    lines: list[str] = []
    while isinstance(value, Noted):
        lines += _comment(value.text, indent)
        value = value.value
    return lines, value


def _comment(text: str, indent: int) -> list[str]:
    lead = " " * indent + "# "
    wrapped: list[str] = []
    for paragraph in text.split("\n"):
        found = [paragraph] if paragraph.startswith("  ") else textwrap.wrap(paragraph, max(40, WIDTH - len(lead)))
        wrapped += found or [""]
    return [(lead + line).rstrip() for line in wrapped]


def _block(value: Data, indent: int) -> list[str]:
    if isinstance(value, Mapping) and value:
        return _mapping(value, indent)
    if isinstance(value, list | tuple) and value:
        return _sequence(value, indent)
    return [" " * indent + scalar(value)]


def _mapping(value: Mapping[str, Data], indent: int) -> list[str]:
    lines: list[str] = []
    for key, item in value.items():
        head, inner = _open(item, indent)
        lines += head
        lead = " " * indent + scalar(str(key)) + ":"
        lines += _below(lead, inner, indent)
    return lines


def _below(lead: str, inner: Data, indent: int) -> list[str]:
    flow = _flow(inner)
    if flow is not None:
        return [f"{lead} {flow}"]
    if isinstance(inner, str) and "\n" in inner and _literal(inner):
        body = inner.removesuffix("\n").split("\n")
        mark = "|" if inner.endswith("\n") else "|-"
        return [f"{lead} {mark}", *((" " * (indent + 2) + line).rstrip() for line in body)]
    if isinstance(inner, Mapping | list | tuple):
        return [lead, *_block(inner, indent + 2)]
    return [f"{lead} {scalar(inner)}"]


def _sequence(value: list[Data] | tuple[Data, ...], indent: int) -> list[str]:
    lines: list[str] = []
    for item in value:
        head, inner = _open(item, indent)
        lines += head
        flow = _flow(inner)
        if flow is not None:
            lines.append(f"{' ' * indent}- {flow}")
            continue
        block = _block(inner, indent + 2)
        # A note of the first key would stand before the dash: put the dash on a line with what follows it.
        first = next(at for at, line in enumerate(block) if not line.lstrip().startswith("#"))
        lines += [line[2:] if line.strip() else line for line in block[:first]]
        lines.append(f"{' ' * indent}- {block[first].lstrip()}")
        lines += block[first + 1 :]
    return lines


def _flow(value: Data) -> str | None:
    """Short lists of scalars, and empty things, on one line."""
    if isinstance(value, Mapping):
        return "{}" if not value else None
    if not isinstance(value, list | tuple):
        return None
    if any(isinstance(item, Mapping | list | tuple | Noted) for item in value):
        return None
    text = f"[{', '.join(scalar(item, flow=True) for item in value)}]"
    return text if not value or (len(text) <= _FLOW_WIDTH and not any(str(i).startswith("-") for i in value)) else None


def _literal(text: str) -> bool:
    """Whether a block scalar gives exactly this text back."""
    lines = text.split("\n")
    printable = all(ch == "\n" or ch.isprintable() for ch in text)
    trailing = any(line != line.rstrip() for line in lines)
    return printable and not trailing and not lines[0].startswith(" ") and lines[0] != "" and not text.endswith("\n\n")


def scalar(value: Data, *, flow: bool = False) -> str:
    """One value on one line. Text that YAML 1.1 might take for something else is quoted."""
    if isinstance(value, str):
        bare = _BARE.fullmatch(value) and not _AMBIGUOUS.fullmatch(value) and not (flow and "," in value)
        return value if bare else _quoted(value)
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    raise TypeError(f"{type(value).__name__} is nothing that YAML says plainly")


def _quoted(text: str) -> str:
    """JSON's escapes are YAML's too, but for the characters that JSON writes as two."""
    return '"' + "".join(f"\\U{ord(ch):08x}" if ord(ch) > 0xFFFF else json.dumps(ch)[1:-1] for ch in text) + '"'
