"""A run in a few sentences, as a colleague would tell it: how it ended, what memory had to do with it, what a restart cost.

Pure wording. ``summary.py`` lists the figures; this says what they come to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..units import format_bytes, format_seconds
from .timeline import Timeline


def verdict(story: Mapping[str, Any], seen: Timeline) -> str:
    """One to three sentences."""
    return " ".join(one for one in (_end(story, seen), _memory(story, seen), _again(story)) if one)


def _end(story: Mapping[str, Any], seen: Timeline) -> str:
    took = format_seconds(seen.end_s)
    rows = f"{story['rows_in']:,} rows"
    match story["status"]:
        case "done":
            return f"Done in {took}: {rows} in, {story['rows_out']:,} out, each input row counted once."
        case "failed":
            return f"Failed for good after {took}, with {rows} read and saved. No output is visible."
        case "running":
            return f"Running for {took}, with {rows} read and saved."
    return f"Interrupted after {took}, with {rows} read and saved. The same command goes on from there."


def _memory(story: Mapping[str, Any], seen: Timeline) -> str:
    first = seen.limits[0][1] if seen.limits else None
    if first is None:
        return ""
    kills = story["oom_kills"]
    killed = f"It was killed at its limit {_times(kills)} and went on from its last checkpoint. " if kills else ""
    granted = [one for one in story["resizes"] if one["outcome"] == "actuated"]
    others = [one for one in story["resizes"] if one["outcome"] not in ("actuated", "requested", "in_progress")]
    if granted:
        grown = max(one["to_bytes"] or 0 for one in granted)
        if grown <= first:
            return f"{killed}It gave memory back: {format_bytes(first)} became {format_bytes(granted[-1]['to_bytes'] or 0)}."
        took = [one["requested_to_actuated_s"] for one in granted if one["requested_to_actuated_s"] is not None]
        had = f" and had {'it' if len(granted) == 1 else 'each'} within {format_seconds(max(took))}" if took else ""
        more = (
            format_bytes(grown) if len(granted) == 1 else f"more {_times(len(granted))}, up to {format_bytes(grown)},"
        )
        return f"{killed}It began with {format_bytes(first)}, saw that this would not do, asked for {more}{had}."
    if others:
        wanted, outcome = format_bytes(others[-1]["to_bytes"] or 0), others[-1]["outcome"]
        return f"{killed}Its request for {wanted} was {outcome}, and it got by with {format_bytes(first)}."
    return killed.strip() or f"It kept within its limit of {format_bytes(first)}."


def _again(story: Mapping[str, Any]) -> str:
    restarts = max(0, len(story["attempts"]) - 1)
    if not restarts:
        return ""
    repeated, rows_in = story["rows_repeated"], story["rows_in"]
    what = "One restart" if restarts == 1 else f"{restarts} restarts"
    if not repeated:
        return f"{what}, and no row was read twice."
    share = f" ({100 * repeated / rows_in:.1f} %)" if rows_in else ""
    return f"{what}, after which {repeated:,} rows{share} were read again."


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
