"""Each event as one line of plain English, for the display, the log and the story.

Covers the wording only. An event without a sentence (``progress``, a periodic checkpoint) is for figures, not for reading, and so is
one that says again what was just said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from ..exits import HOPELESS
from ..lazyclass import dataclass
from ..units import format_bytes, format_seconds

PERIODIC = "interval"
"""How the reason of a checkpoint begins that came because its time had come."""
QUIET = timedelta(seconds=3)
"""What comes in floods is told no more often, by the events' own time."""

EXITS: Mapping[Any, str] = {
    1: "an unexpected failure",
    2: "usage",
    65: "bad input",
    73: "the state is in use",
    74: "the state could not be written or read",
    75: "checkpointed, work left",
    77: "refused by the cluster",
    78: "configuration or plan",
    137: "SIGKILL",
    143: "SIGTERM",
}

_Event = Mapping[str, Any]


class Tone(StrEnum):
    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    tone: Tone = Tone.PLAIN


class Teller:
    """Tells events in order: a reason or a request's outcome once, and of what comes in floods one in a while."""

    def __init__(self) -> None:
        self._reason: object = None
        self._resize: object = None
        self._told: dict[str, datetime] = {}
        self._held: dict[str, int] = {}

    def tell(self, event: _Event) -> Sentence | None:
        """None where there is nothing that a person would want to read."""
        match event.get("event"):
            case "attempt_started":
                self._reason, self._told, self._held = None, {}, {}
            case "resize":
                outcome = (event.get("outcome"), event.get("to_bytes"), event.get("from_bytes"))
                if outcome == self._resize:
                    return None
                self._resize = outcome
            case "allocation_failed":
                self._reason = "an allocation failed"
            case "decision":
                reason = str(event.get("reason"))
                if self._reason is not None and reason.startswith(str(self._reason)):
                    event = {**event, "reason": None}
                else:
                    self._reason = reason
        told = sentence(event)
        return told if told is None else self._held_back(event, told)

    def _held_back(self, event: _Event, told: Sentence) -> Sentence | None:
        """Under pressure the same kind of thing may happen many times a second."""
        kind, at = _flood(event), moment(event.get("at"))
        if kind is None or at is None:
            return told
        before = self._told.get(kind)
        if before is not None and at - before < QUIET:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._told[kind] = at
        held = self._held.pop(kind, 0)
        return Sentence(f"{told.text} (and {held} more like it)", told.tone) if held else told


def _flood(event: _Event) -> str | None:
    match event.get("event"):
        case "allocation_failed":
            return "allocation"
        case "level":
            return f"level {event.get('level')}"
        case "decision":
            return f"decision {event.get('instruction')}"
        case "checkpoint" if str(event.get("reason")).startswith(("spill", "pressure")):
            return "spill"
    return None


def moment(text: Any) -> datetime | None:
    """An event's ``at`` as a time; None where it is none."""
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def sentence(event: _Event) -> Sentence | None:
    """What to say about this event alone."""
    told = _TELLERS.get(str(event.get("event")))
    return told(event) if told is not None else None


def size(value: Any) -> str:
    return "no limit" if value is None else format_bytes(value)


def rows(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"


def cores(value: Any) -> str:
    return "no CPU limit" if value is None else f"{value:g} core{'' if value == 1 else 's'}"


def _attempt_started(event: _Event) -> Sentence:
    number, limit = event.get("attempt"), event.get("limit_bytes")
    at = f"with {size(limit)} of memory" if limit is not None else "without a memory limit"
    if event.get("resumed_from") is not None:
        return Sentence(f"attempt {number} goes on from checkpoint {event['resumed_from']}, {at}", Tone.GOOD)
    if number not in (None, 1):
        return Sentence(f"attempt {number} begins, {at}")
    most = event.get("max_memory_bytes")
    asks = ""
    if most is not None and event.get("mode") not in (None, "None"):
        how = "by a restart" if event["mode"] == "RestartContainer" else "live"
        asks = f"; may ask for up to {size(most)}, granted {how}"
    return Sentence(f"{event.get('job') or 'the job'} begins, {at}, {_count(event.get('workers'), 'worker')}{asks}")


def _planned(event: _Event) -> Sentence:
    stages = event.get("stages") or []
    words = [_count(len(stages), "stage"), _count(event.get("splits_total"), "split")]
    if event.get("rows_total") is not None:
        words.append(f"{rows(event['rows_total'])} rows")
    if event.get("row_groups_skipped"):
        words.append(
            f"{event['row_groups_skipped']} of {event['row_groups_total']} row groups skipped by their statistics"
        )
    done = event.get("splits_done")
    return Sentence(f"planned: {', '.join(words)}{f'; {done} splits are done already' if done else ''}")


def _level(event: _Event) -> Sentence:
    level = str(event.get("level"))
    tone = {"calm": Tone.GOOD, "tight": Tone.WARN}.get(level, Tone.BAD)
    return Sentence(f"memory is {level}: {event.get('reason')}", tone)


def _decision(event: _Event) -> Sentence | None:
    why = f": {event['reason']}" if event.get("reason") else ""
    match event.get("instruction"):
        case "SetWorkers":
            return Sentence(f"{_count(event.get('workers'), 'worker')} from now on{why}")
        case "SetSliceRows":
            return Sentence(f"slices of {rows(event.get('rows'))} rows from now on{why}")
        case "ReleasePools":
            return Sentence(f"gives freed memory back{why}")
        case "RequestCpu":
            return Sentence(f"asks for {cores(event.get('to_cores'))}{why}")
        case "Drain" if str(event.get("reason")).startswith("SIGINT"):
            return Sentence("Ctrl-C: finishes and saves the splits that run; Ctrl-C again stops at once", Tone.WARN)
        case "Drain":
            return Sentence(f"starts no more splits{why}", Tone.WARN)
    return None  # asking, withdrawing and leaving have events of their own


def _checkpoint(event: _Event) -> Sentence | None:
    reason = str(event.get("reason") or "")
    if reason.startswith(PERIODIC):
        return None
    wrote = f"{size(event.get('bytes') or 0)} in {format_seconds(event.get('duration_s') or 0)}"
    return Sentence(f"checkpoint {event.get('id')} ({wrote}): {reason}", Tone.GOOD)


def _resize(event: _Event) -> Sentence:
    to, before = size(event.get("to_bytes")), size(event.get("from_bytes"))
    message = event.get("message")
    said = f": {message}" if message else ""
    match event.get("outcome"):
        case "requested":
            why = str(event.get("reason") or "").partition("; asking for ")[0]
            return Sentence(f"asks for {to} in place of {before}: {why}", Tone.WARN)
        case "in_progress":
            return Sentence(f"the resize to {to} is being carried out", Tone.WARN)
        case "actuated":
            took = event.get("requested_to_actuated_s")
            return Sentence(f"{to} granted{f' after {format_seconds(took)}' if took is not None else ''}", Tone.GOOD)
        case "deferred":
            return Sentence(f"the node has no room for {to} now{said}", Tone.WARN)
        case "withdrawn":
            return Sentence(f"the request for {to} is withdrawn{said}", Tone.WARN)
        case "error":
            return Sentence(f"the kubelet could not apply {to} yet{said}", Tone.WARN)
        case "unreachable":
            return Sentence(f"the API server could not be asked for {to}{said}", Tone.BAD)
        case outcome:
            return Sentence(f"{to} is {outcome}{said}", Tone.BAD)


def _limit_changed(event: _Event) -> Sentence:
    words = f"the memory limit is {size(event.get('to_bytes'))} now, it was {size(event.get('from_bytes'))}"
    return Sentence(words if event.get("asked") else f"{words}; somebody else changed it", Tone.GOOD)


def _allocation_failed(event: _Event) -> Sentence:
    return Sentence(
        f"an allocation did not fit in split {event.get('split')} (try {event.get('tries')}, slices of "
        f"{rows(event.get('slice_rows'))} rows); it is undone and tried again",
        Tone.WARN,
    )


def _published(event: _Event) -> Sentence:
    where = f" in {event['path']}" if event.get("path") else ""
    return Sentence(
        f"the output is visible{where}: {rows(event.get('rows'))} rows in {_count(event.get('parts'), 'file')}, "
        f"{size(event.get('bytes') or 0)}",
        Tone.GOOD,
    )


def _handed_over(event: _Event) -> Sentence:
    made = f": {rows(event['rows'])} rows in {_count(event.get('parts'), 'file')}" if event.get("parts") else ""
    return Sentence(f"this index's share is handed over{made}", Tone.GOOD)


def _attempt_ended(event: _Event) -> Sentence:
    code, number = event.get("exit_code"), event.get("attempt")
    took = f" after {format_seconds(event['seconds'])}" if event.get("seconds") is not None else ""
    if code == 0:
        return Sentence(f"attempt {number} is done{took}", Tone.GOOD)
    if code == 75:
        return Sentence(f"attempt {number} ends{took}: {event.get('reason')}", Tone.WARN)
    return Sentence(f"attempt {number} ends with exit code {code}{took}: {event.get('reason')}", Tone.BAD)


def _container_started(event: _Event) -> Sentence | None:
    if not event.get("restart_count"):
        return None
    return Sentence(
        f"restart {event['restart_count']}: a new process, with {size(event.get('limit_bytes'))}", Tone.GOOD
    )


def _container_exited(event: _Event) -> Sentence | None:
    if event.get("exit_code") == 0:
        return None
    wait = event.get("restart_in_s") if event.get("exit_code") not in HOPELESS else None
    again = "" if wait is None else "; starting again" if wait < 1 else f"; starting again in {format_seconds(wait)}"
    if event.get("oom_killed"):
        return Sentence(f"OOM kill: the container was killed at its memory limit{again}", Tone.BAD)
    code = event.get("exit_code")
    return Sentence(f"the container ended with {code} ({EXITS.get(code, event.get('reason'))}){again}", Tone.WARN)


def _checkpoint_failed(event: _Event) -> Sentence:
    return Sentence(f"a checkpoint could not be written: {event.get('error')}", Tone.BAD)


def _went_back(event: _Event) -> Sentence:
    return Sentence(f"the state is damaged: {event.get('message')}", Tone.BAD)


def _record_failed(event: _Event) -> Sentence:
    return Sentence(f"how the attempt ended could not be written down: {event.get('error')}", Tone.BAD)


def _first_batch(event: _Event) -> Sentence | None:
    took = event.get("restart_s")
    return None if took is None else Sentence(f"back at work, {format_seconds(took)} after SIGTERM", Tone.GOOD)


def _leak(event: _Event) -> Sentence:
    left = event.get("splits_until_full")
    until = f", enough for {_count(left, 'split')} more" if left is not None else ""
    return Sentence(f"{size(event.get('grown_bytes') or 0)} have leaked{until}: {event.get('reason')}", Tone.WARN)


def _cpu_changed(event: _Event) -> Sentence:
    return Sentence(
        f"{cores(event.get('to_cores'))} now, it was {cores(event.get('from_cores'))}; "
        f"{_count(event.get('workers'), 'worker')}"
    )


def _cpu_resize(event: _Event) -> Sentence | None:
    if event.get("outcome") == "requested":
        return None  # the decision said it
    return Sentence(f"{cores(event.get('to_cores'))}: {event.get('outcome')}, {event.get('message')}", Tone.WARN)


def _policy(event: _Event) -> Sentence:
    if event.get("accepted"):
        return Sentence(f"the policy is changed: {event.get('message')}", Tone.GOOD)
    return Sentence(f"the changed policy is not taken, the one before stays: {event.get('message')}", Tone.WARN)


def _count(number: Any, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}" if isinstance(number, int) else f"? {noun}s"


_TELLERS: Mapping[str, Callable[[_Event], Sentence | None]] = {
    "attempt_started": _attempt_started,
    "planned": _planned,
    "level": _level,
    "decision": _decision,
    "checkpoint": _checkpoint,
    "resize": _resize,
    "limit_changed": _limit_changed,
    "allocation_failed": _allocation_failed,
    "published": _published,
    "handed_over": _handed_over,
    "attempt_ended": _attempt_ended,
    "container_started": _container_started,
    "container_exited": _container_exited,
    "checkpoint_failed": _checkpoint_failed,
    "record_failed": _record_failed,
    "went_back": _went_back,
    "first_batch": _first_batch,
    "leak": _leak,
    "cpu_changed": _cpu_changed,
    "cpu_resize": _cpu_resize,
    "policy": _policy,
}
