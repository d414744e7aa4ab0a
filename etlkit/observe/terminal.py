"""Text on a terminal: long lines broken between words, at the terminal's width. Where there is no terminal, text stays as it is."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from typing import TextIO


def wrapped(text: str, stream: TextIO | None = None, hang: int = 2) -> str:
    """``text`` for ``stream`` (default: stdout). What goes on below is set in by ``hang`` more than its line began."""
    out = stream if stream is not None else sys.stdout
    if not out.isatty():
        return text
    return at_width(text, shutil.get_terminal_size().columns, hang)


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
            line, columns, subsequent_indent=" " * (begins + hang), break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True,
        )  # fmt: skip
    return "\n".join(lines)
