"""The display on a terminal: what happens, line by line, above a live panel of progress and memory.

Covers drawing with rich. What the figures are is ``live.py``'s, the wording of the lines ``sentences.py``'s. It draws when it is fed
and starts no thread: in the process that does the work, drawing must not take a turn from it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live as Region
from rich.table import Table
from rich.text import Text

from ..units import format_bytes, format_seconds
from .live import Live
from .sentences import Teller, Tone
from .terminal import at_width

_TONES = {Tone.PLAIN: "", Tone.GOOD: "green", Tone.WARN: "yellow", Tone.BAD: "bold red"}
_MARKS = {Tone.PLAIN: "·", Tone.GOOD: "✓", Tone.WARN: "▲", Tone.BAD: "✗"}
_LEVELS = {"calm": "green", "tight": "yellow", "critical": "red"}
_NARROW = 72


class Screen:
    def __init__(self, stream: TextIO, console: Console | None = None) -> None:
        self.console = console if console is not None else Console(file=stream, highlight=False)
        self.live = Live()
        self._teller = Teller()
        self._region = Region(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a job's output that goes to a file must stay out of the display
        )
        self._open = False

    def feed(self, event: Mapping[str, Any]) -> None:
        live = self.live
        live.take(event)
        if not self._open:
            self._region.start()
            self._open = True
        told = self._teller.tell(event)
        if told is not None:
            self.console.print(_line(live.elapsed_s, told.text, told.tone, self.console.width))
        self._region.update(panel(live, self.console.width), refresh=True)

    def say(self, text: str) -> None:
        self.console.print(Text(text))

    def close(self) -> None:
        if self._open:
            self._open = False
            self._region.stop()


def _line(elapsed_s: float, text: str, tone: Tone, width: int) -> RenderableType:
    """Time, mark, words; long words go on below themselves, not below the time."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", width=8, style="dim", no_wrap=True)
    grid.add_column(width=1, style=_TONES[tone])
    grid.add_column(style=_TONES[tone], overflow="fold")
    grid.add_row(f"{elapsed_s:.1f} s", _MARKS[tone], Text(at_width(text, width - 11, 0)))
    return grid


def panel(live: Live, width: int) -> RenderableType:
    """The live area: a head, progress, memory, what has been saved."""
    bar_width = max(16, min(60, width - 34))  # beside it: a share, and "12 min 30 s left"
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", width=8, no_wrap=True)
    grid.add_column(width=max(20, width - 10), no_wrap=True, overflow="ellipsis")
    share = live.splits_done / live.splits_total if live.splits_total else 0.0
    progress = _bar(share, bar_width, "cyan")
    progress.append(f" {100 * share:3.0f} %")
    if live.between:
        progress.append("  starting again", style="bold yellow")
    elif live.remaining_s is not None and not live.ended:
        progress.append(f"  {format_seconds(live.remaining_s)} left", style="bold")
    grid.add_row("progress", progress)
    grid.add_row("", _rows(live, width))
    if live.stages:
        grid.add_row("stages", _stages(live))
    if live.used_bytes is not None:
        grid.add_row("memory", _memory(live, bar_width))
        for line in _quantities(live, max(20, width - 10)):
            grid.add_row("", line)
    grid.add_row("saved", _saved(live, width))
    return Group(Text(), _head(live, width), grid)


def _head(live: Live, width: int) -> Text:
    head = Text(live.job or "job", style="bold")
    head.append(f"  attempt {live.attempt}", style="not bold dim")
    if live.restarts:
        head.append(f"  {live.restarts} restart{'s' if live.restarts > 1 else ''}", style="not bold")
    if live.oom_kills:
        head.append(f"  {live.oom_kills} OOM kill{'s' if live.oom_kills > 1 else ''}", style="bold red")
    clock = f"{live.elapsed_s:.1f} s"
    head.pad_right(max(1, min(width, 90) - head.cell_len - len(clock)))
    head.append(clock, style="not bold dim")
    return head


def _rows(live: Live, width: int) -> Text:
    of = f" of {live.rows_total:,}" if live.rows_total and width >= _NARROW else ""
    text = Text(f"{live.rows_in:,}{of} rows")
    if live.rows_per_s:
        text.append(f"   {live.rows_per_s:,.0f} rows/s", style="cyan")
    splits = "splits" if width >= _NARROW else "sp."
    text.append(f"   {live.splits_done} of {live.splits_total} {splits}", style="dim")
    if live.workers and width >= _NARROW + 14:
        text.append(f"   {live.workers} at work", style="dim")
    return text


def _stages(live: Live) -> Text:
    text = Text()
    now = live.stage if live.stage is not None else min(live.stages)
    for number, kind in sorted(live.stages.items()):
        if text:
            text.append("   ")
        if number < now or (live.ended and live.splits_done == live.splits_total):
            text.append(f"✓ {number} {kind}", style="green")
        elif number == now:
            text.append(f"● {number} {kind}", style="bold")
        else:
            text.append(f"○ {number} {kind}", style="dim")
    return text


def _bar(share: float, width: int, style: str) -> Text:
    """A bar in eighths of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    text = Text("█" * whole, style=style)
    if rest:
        text.append(" ▏▎▍▌▋▊▉"[rest], style=style)
        whole += 1
    text.append("─" * (width - whole), style="bright_black")
    return text


def _memory(live: Live, width: int) -> Text:
    """Used, then reserved, then what is projected, on one scale; the limit is a wall, and what lies beyond it is red."""
    used = live.used_bytes or 0
    limit = live.limit_bytes
    reserved = used + (live.reserved_bytes or 0)
    projected = max(used, live.projected_bytes or 0)
    if limit is None:
        return Text("no limit here", style="dim")
    # The scale holds the limit always, and the forecast as far as twice that: further away the wall would move to the edge.
    top = max(limit, used, min(projected, 2 * limit)) * 1.02
    wall = min(width - 1, int(limit / top * width))
    text = Text()
    for cell in range(width):
        middle = (cell + 0.5) / width * top
        beyond = cell > wall
        if cell == wall:
            text.append("┃", style="bold")
        elif middle < used:
            text.append("█", style="red" if beyond else _LEVELS.get(live.level, "green"))
        elif middle < reserved:
            text.append("▓", style="red" if beyond else "blue")
        elif middle < projected:
            text.append("░", style="red" if beyond else "bright_black")
        else:
            text.append(" ")
    text.append(f" {live.level}", style=f"bold {_LEVELS.get(live.level, 'green')}")
    return text


def _quantities(live: Live, width: int) -> list[Text]:
    """What the bar's shades mean, in one line where it has room and else in two."""
    level = _LEVELS.get(live.level, "green")
    parts = [Text.assemble(("█ ", level), f"used {format_bytes(live.used_bytes or 0)}")]
    if live.reserved_bytes:
        parts.append(Text.assemble(("▓ ", "blue"), f"reserved {format_bytes(live.reserved_bytes)}"))
    if live.projected_bytes is not None:
        over = live.limit_bytes is not None and live.projected_bytes > live.limit_bytes
        style = "red" if over else "bright_black"
        words = (f"projected {format_bytes(live.projected_bytes)}", "red" if over else "")
        parts.append(Text.assemble(("░ ", style), words))
    if live.limit_bytes is not None:
        parts.append(Text.assemble(("┃ ", "bold"), f"limit {format_bytes(live.limit_bytes)}"))
    if live.wanted_bytes is not None:
        parts.append(Text(f"asked for {format_bytes(live.wanted_bytes)}", style="yellow"))
    lines = [Text()]
    for part in parts:
        if lines[-1] and lines[-1].cell_len + 2 + part.cell_len > width:
            lines.append(Text())
        lines[-1].append("  " if lines[-1] else "").append_text(part)
    return lines


def _saved(live: Live, width: int) -> Text:
    if live.checkpoint is None:
        return Text("nothing yet", style="dim")
    last = live.checkpoint
    text = Text(f"{live.checkpoints} checkpoint{'s' if live.checkpoints > 1 else ''}")
    text.append(
        f"   last: {last.get('id')}, {format_bytes(last.get('bytes') or 0)} "
        f"in {format_seconds(last.get('duration_s') or 0)}",
        style="dim",
    )
    if live.state_bytes and width >= _NARROW:
        text.append(f"   state in memory {format_bytes(live.state_bytes)}", style="dim")
    return text
