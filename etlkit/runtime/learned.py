"""What a run teaches the next one of the same job: the right size, and what was measured on the way.

Kept as the fact ``learned`` in the checkpoint, by job, across runs in the same state; ``.learned.json`` is a copy for starts that
import nothing large. Pure but for reading that note. Standard library only.

The right size is not the peak: a job that was content in its limit keeps it. Only where memory had to be asked for does
the next start ask at once, for what was granted or, if less was used of it, for that with room to spare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from ..decide.policy import Policy
from ..decide.sizing import comfortable
from ..lazyclass import dataclass
from . import notes

PAGE_SLACK_BYTES = 64 * 1024
KEPT = 16
"""Jobs remembered in one state; the oldest goes."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Of the newest attempt that had something to teach. None: not measured yet."""

    limit_bytes: int | None = None
    """What to ask for at the next start, if the limit is smaller."""
    resume_bytes: int | None = None
    """The same for a start that goes on with the unfinished run: what was given back stays given back."""
    peak_bytes: int | None = None
    projected_bytes: int | None = None
    split_factor: float | None = None
    split_spread: float | None = None
    resize_cost_s: float | None = None
    spill_s: float | None = None
    rows: int | None = None
    """Rows of input that it was for."""
    target: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def from_json(record: object) -> Learned:
    """Also of another version's record: what is not known here is left out, what is of the wrong kind is nothing."""
    if not isinstance(record, Mapping):
        return Learned()
    kept: dict[str, Any] = {}
    for field in fields(Learned):
        value = record.get(field.name)
        if field.name == "target":
            kept["target"] = str(value or "")
        elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            kept[field.name] = value
    return Learned(**kept)


def of_job(facts: Mapping[str, Any], job: str) -> Learned:
    learned = facts.get("learned")
    return from_json(learned.get(job)) if isinstance(learned, Mapping) else Learned()


def remember(facts: Mapping[str, Any], job: str, record: Learned) -> dict[str, Any]:
    """The fact with this job's record in it, newest last."""
    before = facts.get("learned")
    others = {name: one for name, one in before.items() if name != job} if isinstance(before, Mapping) else {}
    return {**dict(list(others.items())[-(KEPT - 1) :]), job: record.to_json()}


def for_target(state: str, target: str) -> Learned:
    """From the note alone: what the newest run of this target has learned."""
    note = notes.read(state, notes.LEARNED)
    found = [one for one in map(from_json, note.values()) if one.target == target] if isinstance(note, Mapping) else []
    return found[-1] if found else Learned()


def of_note(state: str, job: str) -> Learned:
    """From the note alone, by the job's name."""
    return of_job({"learned": notes.read(state, notes.LEARNED)}, job)


def resume_size(resizes: Sequence[Mapping[str, Any]]) -> int | None:
    """Where the unfinished run stands: at the newest size that was granted, or that is being granted now."""
    standing = ("actuated", "requested", "in_progress")
    return next((int(one["to_bytes"]) for one in reversed(resizes) if one.get("outcome") in standing), None)


def right_size(
    resizes: Sequence[Mapping[str, Any]], limit_bytes: int | None, peak_bytes: int, policy: Policy, *, done: bool
) -> int | None:
    """What the next start should ask for: None where this one never had to ask.

    ``limit_bytes``: in force now. ``done``: the whole job ran, so what was not used is not needed.
    """
    larger = [one for one in resizes if int(one["to_bytes"]) > int(one.get("from_bytes") or 0)]
    if not larger:
        return None
    granted = [int(one["to_bytes"]) for one in larger if one.get("outcome") == "actuated"]
    if not granted:
        # It made do. The node may have room another day.
        return int(larger[-1]["to_bytes"])
    size = max(granted) if limit_bytes is None else max(max(granted), limit_bytes)
    return min(size, comfortable(peak_bytes, policy)) if done else size
