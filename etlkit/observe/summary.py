"""The end of a run in plain English: what came out, what it cost, what to type next.

Covers wording. The figures are ``story.py``'s and ``timeline.py``'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..units import format_bytes, format_seconds
from .state import observe
from .timeline import Timeline, timeline

WORTH_TELLING = 0.01
"""Of the time throttled."""


def summarise(state: str | os.PathLike[str]) -> str:
    """Several lines about the newest run in that state directory. Errors as ``observe``'s."""
    seen = observe(state)
    told = [*lines(seen.story, timeline(seen.events)), ""]
    if seen.story["status"] == "done" and seen.story["outputs"]:
        told.append(f"  output   {', '.join(seen.story['outputs'])}")
    place = os.fspath(state)
    told += [
        f"  state    {place}",
        f"  next     etlkit show {place}",
        f"           etlkit report {place} -o report.html",
    ]
    return "\n".join(told)


def lines(story: Mapping[str, Any], seen: Timeline) -> list[str]:
    """What happened, a sentence or two a line."""
    told = [_headline(story, seen), _rows(story)]
    told += [
        text for text in (_restarts(story, seen), _memory(story, seen), _cpu(story, seen), _checkpoints(story)) if text
    ]
    told += [
        f"Attempt {event.get('attempt')} found the state damaged: {event.get('message')}."
        for _, event in seen.marks
        if event.get("event") == "went_back"
    ]
    if story.get("failure"):
        told.append(f"It failed for good: {story['failure'].get('message')}")
    return told


def _headline(story: Mapping[str, Any], seen: Timeline) -> str:
    how = {
        "done": "is done",
        "failed": "failed for good",
        "running": "is still running",
        "interrupted": "is interrupted",
    }[story["status"]]
    goes_on = " The same command goes on." if story["status"] == "interrupted" else ""
    return f"{story['job']} {how}, {format_seconds(seen.end_s)} after it began.{goes_on}"


def _rows(story: Mapping[str, Any]) -> str:
    if story["status"] == "done":
        return f"{story['rows_in']:,} rows in, {story['rows_out']:,} rows out, each input row counted once."
    return (
        f"{story['rows_in']:,} rows are read and saved, {story['splits_done']} of {story['splits_total']} splits. "
        "No output is visible yet."
    )


def _restarts(story: Mapping[str, Any], seen: Timeline) -> str:
    restarts = max(0, len(story["attempts"]) - 1)
    kills = story["oom_kills"]
    killed = f"{kills} OOM kill{'s' if kills != 1 else ''}" if kills else "no OOM kill"
    if not restarts:
        return f"No restart, {killed}."
    repeated = story["rows_repeated"]
    again = f"{repeated:,} rows were read a second time" if repeated else "no row was read a second time"
    share = f" ({100 * repeated / story['rows_in']:.1f} %)" if repeated and story["rows_in"] else ""
    took = [
        event["restart_s"] for _, event in seen.marks if event.get("event") == "first_batch" and event.get("restart_s")
    ]
    pause = f" (at most {format_seconds(max(took))} from SIGTERM to the next batch)" if took else ""
    return f"{restarts} restart{'s' if restarts != 1 else ''}{pause}, {killed}; {again}{share}."


def _memory(story: Mapping[str, Any], seen: Timeline) -> str:
    if all(limit is None for _, limit in seen.limits):
        return ""
    sizes = [format_bytes(limit) if limit is not None else "none" for _, limit in seen.limits]
    granted = [one for one in story["resizes"] if one["outcome"] == "actuated"]
    others = [one for one in story["resizes"] if one["outcome"] != "actuated"]
    peak = max((one["peak_bytes"] or 0 for one in story["attempts"]), default=0)
    text = f"Memory limit {' → '.join(sizes)}; at most {format_bytes(peak)} were in use."
    if granted:
        took = [one["requested_to_actuated_s"] for one in granted if one["requested_to_actuated_s"] is not None]
        longest = f", granted within {format_seconds(max(took))}" if took else ""
        text += f" {len(granted)} resize{'s' if len(granted) != 1 else ''} asked for{longest}."
    if others:
        text += f" {len(others)} not granted ({', '.join(sorted({str(one['outcome']) for one in others}))})."
    reserved, static = seen.reserved_gib_s(), seen.static_gib_s()
    if granted and reserved is not None and static:
        saved = 100 * (static - reserved) / static
        text += (
            f"\n{reserved:.2f} GiB·s were reserved, where {sizes[-1] if len(sizes) == 1 else _largest(seen)} "
            f"all the time would have been {static:.2f}: {saved:.0f} % saved."
        )
    return text


def throttled_share(story: Mapping[str, Any], seen: Timeline) -> float:
    """Of the run's time, how much its CPU quota held it back."""
    total_s = sum(one.get("throttled_s") or 0.0 for one in story["attempts"])
    return min(1.0, total_s / seen.end_s) if seen.end_s > 0 else 0.0


def _cpu(story: Mapping[str, Any], seen: Timeline) -> str:
    share = throttled_share(story, seen)
    if share < WORTH_TELLING:
        return ""
    return f"The CPU quota held it back {100 * share:.0f} % of the time: a higher limit, or --max-cpu, makes it faster."


def _largest(seen: Timeline) -> str:
    return format_bytes(seen.peak_limit_bytes or 0)


def _checkpoints(story: Mapping[str, Any]) -> str:
    found = story["checkpoints"]
    if not found:
        return ""
    cost = story["checkpoint_cost"]
    longest = max(one["duration_s"] or 0 for one in found)
    text = (
        f"{cost['count']:,} checkpoint{'s' if cost['count'] != 1 else ''}, {format_bytes(cost['bytes'])} in all, "
        f"the slowest took {format_seconds(longest)}."
    )
    if cost["share"] is not None and cost["longest_stretch_s"] is not None:
        text += (
            f"\nWriting them took {100 * cost['share']:.1f} % of the time, beside the work; "
            f"at most {format_seconds(cost['longest_stretch_s'])} of work stood to be lost."
        )
    return text
