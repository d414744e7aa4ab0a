"""A state directory as an observer reads it: its newest checkpoint, its event log, and whether somebody is at it now.

Covers reading only, without a lock, so that it never stands in a run's way; a run may go on meanwhile.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from ..checkpoint import Phase, Snapshot, StateDir
from ..errors import ConfigError
from .stored_events import read_log
from .story import tell

LOCK = "writer.lock"
FRESH = timedelta(seconds=15)
"""A run on another machine is taken to be alive for so long after its last event."""


@dataclass(frozen=True, slots=True)
class Observed:
    snapshot: Snapshot
    events: Sequence[Mapping[str, Any]]
    story: Mapping[str, Any]
    warnings: tuple[str, ...]


def observe(state: str | os.PathLike[str]) -> Observed:
    """Errors: ConfigError if there is no state, CorruptStateError and StateError from the checkpoints."""
    place = os.fspath(state)
    if "://" not in place and not Path(place).is_dir():
        raise ConfigError(f"{place}: there is no such state directory", "name the folder that --state named")
    state_dir = StateDir.open(place, read_only=True)
    try:
        snapshot = state_dir.snapshot
        warnings = tuple(state_dir.warnings)
    finally:
        state_dir.close()
    if snapshot is None:
        raise ConfigError(f"{place}: no run has begun here", "name the folder that --state named")
    events = list(read_log(place))
    running = _is_running(Path(place), snapshot, events)
    return Observed(snapshot, events, tell(snapshot, events, running=running), warnings)


def _is_running(place: Path, snapshot: Snapshot, events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the newest attempt is alive: by the lock that it holds where it is on this machine, else by its last event."""
    attempts = snapshot.facts.get("attempts") or []
    if snapshot.phase in (Phase.DONE, Phase.FAILED) or not attempts or attempts[-1].get("ended_at") is not None:
        return False
    try:
        holder = orjson.loads((place / LOCK).read_bytes())
        if holder["host"] == socket.gethostname():
            return _holds(int(holder["pid"]), place / LOCK)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    if not events:
        return False
    return datetime.now(UTC) - datetime.fromisoformat(events[-1]["at"]) < FRESH


def _holds(pid: int, lock: Path) -> bool:
    """Whether that process has the lock, without trying for it: a run that starts at this moment must find it free."""
    inode = f":{lock.stat().st_ino}"
    try:
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return _is_alive(pid)
    return any("FLOCK" in words and str(pid) in words and any(word.endswith(inode) for word in words) for words in held)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
