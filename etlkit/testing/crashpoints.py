"""Named places at which a test may kill or stop the process.

``ETLKIT_CRASH_AT=manifest.linked`` kills the process with SIGKILL when it reaches that point, ``manifest.linked:3`` the third
time, ``manifest.linked:stop`` stops it with SIGSTOP (``manifest.linked:3:stop``: the third time). Unset, as in production,
``reach`` compares one string and returns.

It covers the registry and the act. Where the points lie is decided by the modules that declare them.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

VARIABLE = "ETLKIT_CRASH_AT"

_declared: dict[str, None] = {}
_counting = threading.Lock()


@dataclass(slots=True)
class _Armed:
    name: str
    remaining: int
    signal: signal.Signals


def _parse(text: str) -> _Armed | None:
    if not text:
        return None
    name, *words = text.split(":")
    times, act = 1, signal.SIGKILL
    for word in words:
        if word == "stop":
            act = signal.SIGSTOP
        elif word.isdecimal() and int(word) > 0:
            times = int(word)
        else:
            raise ValueError(f"{VARIABLE}={text}: write NAME, NAME:TIMES, NAME:stop or NAME:TIMES:stop")
    return _Armed(name, times, act)


_armed: _Armed | None = None


def arm(text: str) -> None:
    """Die or stop as ``text`` says, which has the form of ``ETLKIT_CRASH_AT``. Errors: ValueError."""
    global _armed
    _armed = _parse(text)


arm(os.environ.get(VARIABLE, ""))


def declare(*names: str) -> tuple[str, ...]:
    """Register points; a module that reaches them calls this once, when it is imported."""
    _declared.update(dict.fromkeys(names))
    return names


def names() -> tuple[str, ...]:
    """Every point that the modules imported so far have declared, in the order of declaration."""
    return tuple(_declared)


def reach(name: str) -> None:
    """Die or stop here if the environment says so."""
    if _armed is not None and name == _armed.name:
        _act(_armed)


def _act(armed: _Armed) -> None:
    with _counting:
        armed.remaining -= 1
        due = armed.remaining == 0
    if due:
        os.kill(os.getpid(), armed.signal)
