"""What happened in a run, as the one object that ``show --json`` prints.

Pure: made of a checkpoint (which is the truth about rows, attempts and resizes) and the event log (which adds each checkpoint's
figures and each decision's reason). The log may lack lines, so nothing that the checkpoint says is taken from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..checkpoint import Phase, Snapshot
from ..plan.fingerprint import digest
from .sentences import moment
from .timeline import Span, Timeline, timeline

_ATTEMPT = (
    "number", "started_at", "ended_at", "exit_code", "ended_by", "limit_bytes", "peak_bytes", "resumed_from",
    "throttled_s",
)  # fmt: skip
_RESIZE = ("at", "from_bytes", "to_bytes", "reason", "outcome", "requested_to_actuated_s")
_CHECKPOINT = ("id", "at", "duration_s", "bytes", "reason")
OOM_KILLED = "OOMKilled"


def tell(snapshot: Snapshot, events: Iterable[Mapping[str, Any]], *, running: bool = False) -> dict[str, Any]:
    """The story of the newest run in a state directory. ``running``: some process is at it now."""
    facts = snapshot.facts
    seen = timeline(events)
    splits_done = sum(len(stage.finished) for stage in snapshot.stages.values())
    attempts = [_only(_ATTEMPT, one) for one in facts.get("attempts") or []]
    _fill_peaks(attempts, seen)
    status = _status(snapshot.phase, running)
    return {
        "job": facts.get("job"),
        "run_id": snapshot.run_id,
        "status": status,
        "fingerprint": digest(dict(snapshot.fingerprint)),
        "parameters": dict(facts.get("parameters") or {}),
        "rows_in": _rows_in(snapshot),
        "rows_out": sum(part.rows for stage in snapshot.stages.values() for _, part in stage.parts),
        "rows_repeated": seen.rows_repeated(),
        "splits_done": splits_done,
        "splits_total": _splits_total(snapshot, seen, splits_done, status),
        "checkpoints": [_only(_CHECKPOINT, event) for _, event in seen.marks if event.get("event") == "checkpoint"],
        "checkpoint_cost": _checkpoint_cost(seen),
        "attempts": attempts,
        "resizes": [_only(_RESIZE, one) for one in facts.get("resizes") or []],
        "oom_kills": sum(one["ended_by"] == OOM_KILLED for one in attempts),
        "decisions": [_decision(event) for _, event in seen.marks if event.get("event") in ("decision", "level")],
        "failure": facts.get("failure"),
        "outputs": [sink.get("path") for sink in facts.get("sinks") or [] if sink.get("path")],
    }


def _checkpoint_cost(seen: Timeline) -> dict[str, Any]:
    """What the cadence cost, and what a kill could have cost. The writer is a thread of its own, so ``share`` (seconds of writing in
    each second of work) is a bound on what it slowed the work down. ``write_amplification``: bytes written, those of merging old
    runs included, for each byte that checkpoints added."""
    written = [(at_s, event) for at_s, event in seen.marks if event.get("event") == "checkpoint"]
    added = sum(_all(event, "bytes") for _, event in written)
    merged = sum(_all(event, "bytes") for _, event in seen.marks if event.get("event") == "merged")
    seconds = sum(_all(event, "duration_s") for _, event in written)
    worked_s = sum(span.end_s - span.start_s for span in seen.spans)
    stretches = [stretch for span in seen.spans for stretch in _stretches(span, written, seen)]
    return {
        "count": sum(event.get("count", 1) for _, event in written),
        "bytes": int(added),
        "merged_bytes": int(merged),
        "write_amplification": round((added + merged) / added, 3) if added else None,
        "seconds": round(seconds, 4),
        "share": round(seconds / worked_s, 5) if worked_s > 0 else None,
        "longest_stretch_s": round(max(stretches), 3) if stretches else None,
    }


def _stretches(span: Span, written: Sequence[tuple[float, Mapping[str, Any]]], seen: Timeline) -> Iterator[float]:
    """Seconds without a checkpoint, in one attempt."""
    saved_s = span.start_s
    for at_s, event in written:
        if span.start_s <= at_s <= span.end_s:
            first = moment(event.get("first_at"))
            first_s = at_s if first is None or seen.began_at is None else (first - seen.began_at).total_seconds()
            yield from (max(0.0, first_s - saved_s), float(event.get("longest_gap_s") or 0))
            saved_s = at_s


def _all(event: Mapping[str, Any], name: str) -> float:
    """Of one event, or of all those that it stands for in a log that was shortened."""
    return float(event.get(f"sum_{name}", event.get(name)) or 0)


def _status(phase: Phase, running: bool) -> str:
    if phase in (Phase.DONE, Phase.FAILED):
        return phase.value
    return "running" if running else "interrupted"


def _rows_in(snapshot: Snapshot) -> int:
    """Rows of the input: what stages that scan have read, or stream it past a held side, not what later ones read of earlier ones."""
    plan = snapshot.facts.get("plan") or []
    scanning = {number for number, stage in enumerate(plan) if stage.get("scans") or stage.get("probes")}
    return sum(stage.rows_in for number, stage in snapshot.stages.items() if number in scanning)


def _splits_total(snapshot: Snapshot, seen: Timeline, done: int, status: str) -> int:
    """As far as it is known: a later stage's splits are cut when it begins."""
    if status == "done":
        return done
    planned = sum(sum(stage.get("scans") or []) or 1 for stage in snapshot.facts.get("plan") or [])
    shown = [event.get("splits_total") or 0 for _, event in seen.marks if event.get("event") == "planned"]
    return max([planned, done, *shown])


def _fill_peaks(attempts: list[dict[str, Any]], seen: Timeline) -> None:
    """An attempt that was killed could not write its peak down: the log saw at least this much."""
    peaks = {span.number: span.peak_bytes for span in seen.spans}
    for one in attempts:
        if one["peak_bytes"] is None:
            one["peak_bytes"] = peaks.get(one["number"]) or None


def _decision(event: Mapping[str, Any]) -> dict[str, Any]:
    what = "SetLevel" if event["event"] == "level" else event.get("instruction")
    rest = {key: value for key, value in event.items() if key not in ("event", "at", "instruction", "reason")}
    return {"at": event["at"], "instruction": what, "reason": event.get("reason"), **rest}


def _only(keys: tuple[str, ...], record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record.get(key) for key in keys}
