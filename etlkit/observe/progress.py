"""Progress while a job runs: drawn on a terminal, as lines in a log, as JSON for a program, or not at all.

Covers choosing the renderer and the two that write lines. The drawn one is ``screen.py``; it alone imports rich, and only when
it is used. A renderer is fed every event, in order, across the restarts of a run, by one thread at a time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, TextIO

from ..units import format_bytes, format_seconds
from .live import Live
from .sentences import Teller

PLAIN_EVERY = timedelta(seconds=3)


class Renderer(Protocol):
    def feed(self, event: Mapping[str, Any]) -> None:
        """Show one event."""

    def say(self, text: str) -> None:
        """A line that is no event, such as a job's own print, where it does not disturb the display."""

    def close(self) -> None:
        """Nothing more comes. May be called twice."""


def make_renderer(mode: str, stream: TextIO | None = None) -> Renderer:
    """``auto``: drawn where ``stream`` (default: stderr) is a terminal that can, else plain. ``plain``, ``json``, ``none``."""
    out = stream if stream is not None else sys.stderr
    if mode == "none":
        return Silent(out)
    if mode == "json":
        return JsonLines(out)
    if mode == "auto" and out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from .screen import Screen

        return Screen(out)
    return Plain(out)


class Silent:
    """No progress; but that a checkpoint was damaged is said."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def feed(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "went_back":
            _write(self._stream, f"warning: {event.get('message')}")

    def say(self, text: str) -> None:
        _write(self._stream, text)

    def close(self) -> None:
        pass


class JsonLines:
    """One event a line, each with ``event`` and ``at``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def feed(self, event: Mapping[str, Any]) -> None:
        import orjson

        _write(self._stream, orjson.dumps(dict(event), default=str, option=orjson.OPT_NON_STR_KEYS).decode())

    def say(self, text: str) -> None:
        _write(self._stream, text)

    def close(self) -> None:
        pass


class Plain:
    """A line for each notable event, and one with the figures every few seconds of the events' own time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = Live()
        self._teller = Teller()
        self._figures_at: datetime | None = None

    def feed(self, event: Mapping[str, Any]) -> None:
        live = self._live
        live.take(event)
        told = self._teller.tell(event)
        if told is not None:
            self._line(told.text)
        elif event.get("event") == "progress" and self._due():
            self._figures_at = live.at
            self._line(figures(live))

    def say(self, text: str) -> None:
        _write(self._stream, text)

    def close(self) -> None:
        pass

    def _due(self) -> bool:
        at = self._live.at
        return at is not None and (self._figures_at is None or at - self._figures_at >= PLAIN_EVERY)

    def _line(self, text: str) -> None:
        _write(self._stream, f"{self._live.elapsed_s:7.1f} s  {text}")


def figures(live: Live) -> str:
    """The state of things in one line."""
    words = []
    if live.splits_total:
        words.append(f"{100 * live.splits_done // live.splits_total} %")
    words.append(f"{live.rows_in:,} rows")
    if live.rows_per_s:
        words.append(f"{live.rows_per_s:,.0f} rows/s")
    if live.remaining_s is not None:
        words.append(f"{format_seconds(live.remaining_s)} left")
    if live.used_bytes is not None:
        limit = f" of {format_bytes(live.limit_bytes)}" if live.limit_bytes is not None else ""
        words.append(f"memory {format_bytes(live.used_bytes)}{limit} ({live.level})")
    if live.state_bytes:
        words.append(f"state {format_bytes(live.state_bytes)}")
    return ", ".join(words)


def _write(stream: TextIO, line: str) -> None:
    """Nobody reads progress any more: that is no reason to stop the job."""
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except (BrokenPipeError, ValueError):
        pass
