"""A log that has grown too long, made at most half as long, so that all of it stays below a bound.

Pure: lines in, lines out, no file. The older half is thinned first: of four ``progress`` lines that with the most memory in use
stays, and of lines that come often and say much the same (checkpoints, levels, what the ladder did) four become one that says
what it stands for. Attempts, resizes, limits and the decisions about them stay. Only where all of that does not do, as after
thousands of attempts, the oldest lines go, and never the one that says how the newest run began.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import orjson

KEEP_EVERY = 4
"""Of as many figures one stays; as many lines of a kind become one."""
_Kind = tuple[str, str, str]
_OFTEN = frozenset(
    (
        "progress",
        "checkpoint",
        "checkpoint_failed",
        "merged",
        "level",
        "allocation_failed",
        "cpu_changed",
        "policy",
        "leak",
    )
)
_OFTEN_DECIDED = frozenset(("ReleasePools", "SetWorkers", "SetSliceRows"))
_SUMMED = ("bytes", "duration_s")


def shortened(lines: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """The same log in at most half of ``max_bytes``; as it was where it is so short already. Torn lines are left out."""
    kept, goal = [line for line in lines if line.endswith(b"\n")], max_bytes // 2
    for older in (0.5, 0.75, 0.9, 1.0):
        while _size(kept) > goal:
            before, at = len(kept), int(len(kept) * older)
            kept = [*_thinned(kept[:at]), *kept[at:]]
            if len(kept) > 0.9 * before:  # little is left to thin there
                break
    return _newest(kept, goal)


def _size(lines: Sequence[bytes]) -> int:
    return sum(map(len, lines))


def _name(line: bytes) -> str:
    """Of the event, without reading all of the line: it is what a line begins with."""
    return line[10 : line.find(b'"', 10, 64)].decode("ascii", "replace") if line.startswith(b'{"event":"') else ""


def _thinned(lines: Sequence[bytes]) -> list[bytes]:
    """Within an attempt; its first and its last line of each kind stay as they are."""
    kept: dict[int, bytes] = {}
    groups: dict[_Kind, list[tuple[int, bytes, dict[str, Any]]]] = {}
    for at, line in enumerate(lines):
        name = _name(line)
        if name == "attempt_started":
            kept |= {left: text for group in groups.values() for left, text, _ in group}
            groups = {}
        event = _read(line) if name in _OFTEN or name == "decision" else None
        kind = _kind(event) if event is not None else None
        if event is None or kind is None or kind not in groups:
            kept[at] = line
            if kind is not None:
                groups[kind] = []
            continue
        group = groups[kind]
        group.append((at, line, event))
        if len(group) > KEEP_EVERY:
            before = group[:KEEP_EVERY]
            del group[:KEEP_EVERY]
            if name == "progress":
                place, text, _ = max(before, key=lambda one: int(one[2].get("used_bytes") or 0))
            else:
                place, text = before[-1][0], _one_for([one for _, _, one in before])
            kept[place] = text
    kept |= {left: text for group in groups.values() for left, text, _ in group}
    return [kept[at] for at in sorted(kept)]


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "at" in event else None


def _kind(event: dict[str, Any]) -> _Kind | None:
    """Lines of a kind may stand for each other. A reason's first word is its kind: ``interval``, ``spill: no room for …``."""
    told = event.get("instruction") or event.get("level")
    if event["event"] == "decision" and told not in _OFTEN_DECIDED:
        return None
    reason = str(event.get("reason") or "").partition(":")[0] if event["event"] == "checkpoint" else ""
    return (event["event"], "" if event["event"] == "progress" else str(told), reason)


def _one_for(group: Sequence[dict[str, Any]]) -> bytes:
    """The newest of them; its size and its time are the largest among them, and ``count`` and ``sum_…`` say what all came
    to, ``longest_gap_s`` how far they were apart."""
    told: dict[str, Any] = dict(group[-1])
    told["count"] = sum(event.get("count", 1) for event in group)
    told["first_at"] = _first_at(group[0])
    gaps = [_seconds(earlier.get("at"), _first_at(later)) for earlier, later in pairwise(group)]
    told["longest_gap_s"] = round(max([*gaps, *(event.get("longest_gap_s", 0.0) for event in group)]), 3)
    for name in _SUMMED:
        if name in told:
            told[name] = max(event.get(name) or 0 for event in group)
            told[f"sum_{name}"] = round(sum(event.get(f"sum_{name}", event.get(name)) or 0 for event in group), 4)
    return orjson.dumps(told) + b"\n"


def _first_at(event: dict[str, Any]) -> Any:
    return event.get("first_at", event.get("at"))


def _seconds(earlier: Any, later: Any) -> float:
    return (datetime.fromisoformat(str(later)) - datetime.fromisoformat(str(earlier))).total_seconds()


def _newest(lines: list[bytes], goal: int) -> list[bytes]:
    """The last lines that fit, behind the one that says how the newest run began."""
    if _size(lines) <= goal:
        return lines
    began = next((at for at in range(len(lines) - 1, -1, -1) if _begins_a_run(lines[at])), 0)
    room, at = goal - len(lines[began]), len(lines)
    while at > 0 and (room := room - len(lines[at - 1])) >= 0:
        at -= 1
    return lines[at:] if at <= began else [lines[began], *lines[at:]]


def _begins_a_run(line: bytes) -> bool:
    return _name(line) == "attempt_started" and (_read(line) or {}).get("attempt") == 1
