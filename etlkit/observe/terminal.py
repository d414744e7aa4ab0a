"""Text and tables on a terminal: long lines broken between words, at its width. Where there is no terminal, text stays as it is."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

_AMOUNT = re.compile(r"(?<=\d) (?=([KMGT]iB|GiB·s|B|ms|s|min|h|%)\b|%)")
"""The space between a number and its unit: no line is broken there."""
_LEAST_COLUMNS = 20
"""Of words; where there is less room, they begin at the left."""


def wrapped(text: str, stream: TextIO | None = None, hang: int = 2) -> str:
    """``text`` for ``stream`` (default: stdout). What goes on below is set in by ``hang`` more than its line began."""
    columns = columns_of(stream)
    return text if columns is None else at_width(text, columns, hang)


def columns_of(stream: TextIO | None = None) -> int | None:
    """How wide the terminal is; None where there is none."""
    out = stream if stream is not None else sys.stdout
    return shutil.get_terminal_size().columns if out.isatty() else None


def table(
    head: Sequence[str], body: Sequence[Sequence[object]], *, indent: str = "  ", columns: int | None = None
) -> list[str]:
    """Columns aligned with spaces, numbers to the right. Within ``columns`` the last one goes on below itself."""
    cells = [["–" if value is None else str(value) for value in row] for row in body]
    widths = [max(len(row[column]) for row in [list(head), *cells]) for column in range(len(head))]
    right = [all(_is_number(row[column]) for row in cells) for column in range(len(head))]
    before = len(indent) + sum(widths[:-1]) + 2 * len(widths[:-1])
    below = before if columns is None or before <= columns - _LEAST_COLUMNS else len(indent) + 4
    lines: list[str] = []
    for row in [list(head), *cells]:
        words = [
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(row, widths, right, strict=True)
        ]
        line = f"{indent}{'  '.join(words)}".rstrip()
        begins = len(line) - len(line.lstrip())
        lines += [line] if columns is None else at_width(line, columns, below - begins).split("\n")
    return lines


def _is_number(text: str) -> bool:
    return text == "–" or (text[:1].isdigit() and ":" not in text)


def go_on(stream: TextIO) -> str:
    """On a terminal, the command line that goes on with what was interrupted, to be copied; else nothing."""
    return f"\n  {shlex.join(['etlkit', *sys.argv[1:]])}" if stream.isatty() else ""


def at_width(text: str, columns: int, hang: int = 2) -> str:
    lines = []
    for line in text.splitlines():
        begins = len(line) - len(line.lstrip())
        if len(line) <= columns or columns < 20:
            lines.append(line)
            continue
        lines += textwrap.wrap(
            _AMOUNT.sub("\N{NO-BREAK SPACE}", line), columns, subsequent_indent=" " * (begins + hang),
            break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
        )  # fmt: skip
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
