"""What every page of etlkit is made of: one self-contained document, its tiles and its tables.

Covers the frame and the look (``page.css``, which is put into the document). No script, and nothing is fetched: a page may be sent by
mail, attached to a ticket or opened years later. What is on a page is ``report.py``'s and the benchmarks'.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

LONG = 40
"""A cell with more characters than this may be broken into lines."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure that is read before anything else; ``kind`` is ``good``, ``warn``, ``bad`` or nothing."""

    value: str
    text: str
    kind: str = ""


def document(title: str, body: Sequence[str], footer: str) -> str:
    """The whole page. ``title`` and ``footer`` are text; ``body`` is markup, its empty parts left out."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>\n{style}</style></head><body>\n"
        + "\n".join(part for part in body if part)
        + f"\n<footer>{html.escape(footer)}</footer>\n</body></html>\n"
    )


def tiles(found: Sequence[Tile]) -> str:
    each = (
        f'<div class="tile {one.kind}"><b>{html.escape(one.value)}</b><small>{html.escape(one.text)}</small></div>'
        for one in found
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def section(title: str, content: str, note: str = "", *, folded: bool = False) -> str:
    """A card with a heading; ``content`` is markup. ``folded``: opened by a click."""
    if not content:
        return ""
    said = f"<p>{html.escape(note)}</p>" if note else ""
    if folded:
        return f"<section><details><summary>{html.escape(title)}</summary>{said}{content}</details></section>"
    return f"<section><h2>{html.escape(title)}</h2>{said}{content}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Numbers to the right, as far as a column has nothing else; nothing where there are no rows."""
    if not rows:
        return ""
    texts = [["–" if value is None else str(value) for value in row] for row in rows]
    right = [
        all(text == "–" or (text[:1].isdigit() and ":" not in text) for text in column)
        for column in zip(*texts, strict=True)
    ]
    heads = "".join(
        f"<th{' class=n' if to else ''}>{html.escape(name)}</th>" for name, to in zip(head, right, strict=True)
    )
    body = "".join(f"<tr>{''.join(_cell(text, to) for text, to in zip(row, right, strict=True))}</tr>" for row in texts)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, right: bool) -> str:
    kind = " class=n" if right else " class=long" if len(text) > LONG else ""
    return f"<td{kind}>{html.escape(text)}</td>"
