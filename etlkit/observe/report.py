"""The page about one run: what happened in a sentence, the figures that matter, and charts on one axis of time.

Covers what is on the page. How charts are drawn is ``charts.py``'s and ``ranges.py``'s, the frame and the look ``pages.py``'s, the
figures ``timeline.py``'s, the words of the head ``verdict.py``'s.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from statistics import median
from typing import Any

from ..units import format_bytes, format_seconds
from .charts import Chart, Key, Lane, byte_ticks, clock, decimal_ticks
from .pages import Tile, document, section, table, tiles
from .ranges import Bar, bars
from .summary import WORTH_TELLING, throttled_share
from .timeline import Point, Timeline
from .verdict import verdict

_Story = Mapping[str, Any]
_Event = Mapping[str, Any]

MOST_PINS = 150
_ENDED_WELL = ("done", "SIGTERM", "SIGINT", "resize")


def page(story: _Story, seen: Timeline) -> str:
    """The whole page."""
    body = [_header(story, seen), _tiles(story, seen)]
    if seen.points and seen.end_s > 0:
        body += [_memory(story, seen), _cost(seen), _throughput(seen), _checkpoints(story, seen), _forecast(seen)]
    body += [_attempts(story), _resizes(story), _decisions(story)]
    footer = f"run {story['run_id']} · fingerprint {story['fingerprint'][:16]} · made by etlkit report"
    return document(f"{story['job']}: {story['status']}", body, footer)


def _header(story: _Story, seen: Timeline) -> str:
    parameters = " · ".join(f"{name} = {value}" for name, value in story["parameters"].items())
    began = f"{seen.began_at:%Y-%m-%d %H:%M:%S} UTC" if seen.began_at else ""
    failure = (story.get("failure") or {}).get("message")
    failed = f'<p class="failure">{html.escape(str(failure))}</p>' if failure else ""
    return (
        f'<header><h1>{html.escape(str(story["job"]))}<span class="status {story["status"]}">{story["status"]}</span></h1>'
        f'<p class="soft">{html.escape(" · ".join(one for one in (began, parameters) if one))}</p>'
        f'<p class="verdict">{html.escape(verdict(story, seen))}</p>{failed}</header>'
    )


def _tiles(story: _Story, seen: Timeline) -> str:
    kills, restarts = story["oom_kills"], max(0, len(story["attempts"]) - 1)
    granted = sum(one["outcome"] == "actuated" for one in story["resizes"])
    again = story["rows_repeated"]
    longest = story["checkpoint_cost"]["longest_stretch_s"]
    limit, reserved, static = seen.peak_limit_bytes, seen.reserved_gib_s(), seen.static_gib_s()
    peak = max((one["peak_bytes"] or 0 for one in story["attempts"]), default=0)
    out = f", {story['rows_out']:,} out" if story["status"] == "done" else " and saved"
    saved = 100 * (static - reserved) / static if reserved is not None and static else 0.0
    held = throttled_share(story, seen)
    return tiles(
        [
            Tile(format_seconds(seen.end_s), "from first event to last"),
            Tile(f"{story['rows_in']:,}", f"rows in{out}"),
            Tile(
                format_bytes(peak), f"most in use; the limit came to {format_bytes(limit)}" if limit else "most in use"
            ),
            Tile(f"{saved:.0f} %", "of the memory saved, against the last size all the time", "good")
            if saved >= 1
            else Tile("–" if longest is None else format_seconds(longest), "of work at most stood to be lost"),
            Tile(str(kills), "OOM kills", "bad" if kills else "good"),
            Tile(str(restarts), "restarts"),
            Tile(f"{granted} of {len(story['resizes'])}", "resizes granted"),
            Tile(f"{again:,}", "rows read a second time"),
            *(
                [Tile(f"{100 * held:.0f} %", "of the time held back by the CPU quota", "bad")]
                if held >= WORTH_TELLING
                else []
            ),
        ]
    )


def _memory(story: _Story, seen: Timeline) -> str:
    known = [(at_s, float(limit)) for at_s, limit in seen.limits if limit is not None]
    highest = max([limit for _, limit in known] + [float(point.used_bytes) for point in seen.points])
    foreseen = max((float(point.projected_bytes or 0) for point in seen.points), default=0.0)
    top = max(highest, min(foreseen, 1.5 * highest)) * 1.12
    chart = Chart(seen.end_s, top, byte_ticks(top), format_bytes, 300)
    _attempt_lane(chart, story, seen)
    _resize_lane(chart, story, seen)
    _checkpoint_lane(chart, seen)
    _level_lane(chart, seen)
    _pauses(chart, seen)
    for points in _each_attempt(seen):
        used = [(point.at_s, float(point.used_bytes)) for point in points]
        chart.area("used", used)
        chart.line("projected", [(p.at_s, float(p.projected_bytes)) for p in points if p.projected_bytes is not None])
        chart.line("used", used)
    chart.stairs("limit", known)
    for at_s, limit in known[:4]:
        chart.tag("limit", at_s, limit, f"limit {format_bytes(limit)}")
    for point in seen.points:
        chart.hit(point.at_s, _memory_words(point))
    chart.keys = [
        Key("limit thin", "limit"),
        Key("used fill", "used (without inactive page cache)"),
        Key("projected dashed", "forecast of the peak to come, at full speed"),
        Key("pause", "restarting"),
        Key("calm", "calm"),
        Key("tight", "tight"),
        Key("critical", "critical"),
    ]
    return chart.html(
        "Memory against the limit", "Where the forecast rises over the limit, etlkit spills or asks for memory."
    )


def _memory_words(point: Point) -> str:
    words = [f"{clock(round(point.at_s, 1))}, attempt {point.attempt}: {point.level}"]
    words.append(f"used      {format_bytes(point.used_bytes)}")
    if point.limit_bytes is not None:
        words.append(f"limit     {format_bytes(point.limit_bytes)}")
    if point.projected_bytes is not None:
        words.append(f"forecast  {format_bytes(point.projected_bytes)}")
    words.append(f"reserved  {format_bytes(point.reserved_bytes)}")
    words.append(f"state     {format_bytes(point.state_bytes)}")
    return "\n".join(words)


def _attempt_lane(chart: Chart, story: _Story, seen: Timeline) -> None:
    lane = chart.lane("attempts")
    told = {one["number"]: one for one in story["attempts"]}
    for span in seen.spans:
        one = told.get(span.number, {})
        by = one.get("ended_by")
        kind = "good" if by == "done" else "used" if by in _ENDED_WELL or by is None else "bad"
        tip = f"attempt {span.number}: {format_seconds(span.end_s - span.start_s)}, {f'ended by {by}' if by else 'not ended'}"
        lane.block(kind, span.start_s, span.end_s, f"{span.number} · {by or 'running'}", tip)
        if by == "OOMKilled":
            chart.rule("bad", span.end_s)


def _resize_lane(chart: Chart, story: _Story, seen: Timeline) -> None:
    """Where memory was short, what was asked for and what came of it. The checkpoint knows that even where nobody could log it."""
    notable = [(at_s, event) for at_s, event in seen.marks if event.get("event") in ("allocation_failed", "leak")]
    # A lane of their own: they come in crowds, and would cover a resize's words.
    lane = chart.lane("pressure") if notable else None
    for at_s, event, count in _apart(notable, seen.end_s):
        what = (
            "an allocation did not fit and was tried again smaller"
            if event["event"] == "allocation_failed"
            else "a leak"
        )
        assert lane is not None
        lane.pin("warn small", at_s, f"{what}{f' ({count} times)' if count > 1 else ''}")
    if not story["resizes"]:
        return
    lane, free_s = chart.lane("resizes"), -1.0
    for asked_s, one in _requests(story, seen):
        wanted, outcome = format_bytes(one["to_bytes"] or 0), str(one["outcome"])
        took = one["requested_to_actuated_s"]
        good = outcome == "actuated"
        label = f"asks for {wanted}" if good else f"{wanted}: {outcome}"
        kind = "warn square" if good or outcome in ("requested", "in_progress", "deferred") else "bad square"
        if good and took is not None and took < 0.4 * seen.end_s:
            kind += " near"  # its words would cover the pin of the grant, on a phone
        lane.pin(kind, asked_s, f"asks for {wanted}: {one['reason']}", label if asked_s >= free_s else "")
        chart.rule(kind.split()[0], asked_s)
        free_s = asked_s + seen.end_s * (0.05 + 0.011 * len(label))
        if good and took is not None:
            got_s = min(seen.end_s, asked_s + took)
            lane.pin(
                "good square",
                got_s,
                f"{wanted} granted after {format_seconds(took)}",
                "granted" if got_s >= free_s else "",
            )
            free_s = max(free_s, got_s + seen.end_s * 0.12)


def _requests(story: _Story, seen: Timeline) -> Iterator[tuple[float, _Event]]:
    from .sentences import moment

    for one in story["resizes"]:
        at = moment(one["at"])
        if at is not None and seen.began_at is not None:
            yield min(seen.end_s, max(0.0, (at - seen.began_at).total_seconds())), one


def _checkpoint_lane(chart: Chart, seen: Timeline) -> None:
    found = [(at_s, event) for at_s, event in seen.marks if event.get("event") == "checkpoint"]
    if not found:
        return
    lane = chart.lane("saved")
    for at_s, event, count in _apart(found, seen.end_s):
        lane.pin("good small", at_s, f"{_checkpoint(event)}{f', and {count - 1} more' if count > 1 else ''}")


def _level_lane(chart: Chart, seen: Timeline) -> None:
    lane = chart.lane("level", "levels")
    for points in _each_attempt(seen):
        for level, group in groupby(points, key=lambda point: point.level):
            several = list(group)
            stop_s = next((one.at_s for one in points if one.at_s > several[-1].at_s), several[-1].at_s)
            lane.block(level, several[0].at_s, stop_s, "", level)


def _apart(found: Sequence[tuple[float, _Event]], end_s: float) -> Iterator[tuple[float, _Event, int]]:
    """So few that each can be seen: the first of those that share a place, and how many they are."""
    place = (lambda one: int(one[0] / end_s * MOST_PINS)) if end_s else (lambda one: 0)
    for _, group in groupby(found, key=place):
        several = list(group)
        yield (*several[0], sum(int(event.get("count", 1)) for _, event in several))


def _pauses(chart: Chart, seen: Timeline) -> None:
    for before, after in pairwise(seen.spans):
        chart.pause(before.end_s, after.start_s, f"restart: {format_seconds(after.start_s - before.end_s)}")


def _each_attempt(seen: Timeline) -> list[list[Point]]:
    return [list(group) for _, group in groupby(seen.points, key=lambda point: point.attempt)]


def _cost(seen: Timeline) -> str:
    reserved, static = seen.reserved_gib_s(), seen.static_gib_s()
    if reserved is None or not static:
        return ""
    used = seen.used_gib_s()
    note = (
        f"What a cluster bills is what is reserved. {100 * used / reserved:.0f} % of that was in use"
        if reserved
        else ""
    )
    if static - reserved >= 0.01 * static:
        note += f"; with the last size from the beginning it would have been {100 * used / static:.0f} %"
    peak = format_bytes(seen.peak_limit_bytes or 0)
    found = [(f"{peak} all the time", static, "theirs"), ("reserved", reserved, "ours"), ("used", used, "rows")]
    rows = [Bar(text, value, f"{value:.2f} GiB·s", kind) for text, value, kind in found]
    return section("The bill: memory × time", bars(rows), f"{note}.")


def _throughput(seen: Timeline) -> str:
    series = []
    for points in _each_attempt(seen):
        pairs = pairwise(points)
        series.append([(b.at_s, (b.rows_in - a.rows_in) / (b.at_s - a.at_s)) for a, b in pairs if b.at_s > a.at_s])
    top = max((rate for one in series for _, rate in one), default=0.0) * 1.1
    chart = Chart(seen.end_s, top, decimal_ticks(top), _rate, 170)
    if seen.stages:
        _stage_lane(chart.lane("stages"), seen)
    _pauses(chart, seen)
    for one in series:
        chart.area("rows", one)
        chart.line("rows", one)
        for at_s, rate in one:
            chart.hit(at_s, f"{clock(round(at_s, 1))}\n{rate:,.0f} rows/s")
    return chart.html("Throughput", "Input rows a second. Zero while later stages work on what was read.")


def _stage_lane(lane: Lane, seen: Timeline) -> None:
    for points in _each_attempt(seen):
        stop_s = next((span.end_s for span in seen.spans if span.number == points[0].attempt), points[-1].at_s)
        runs = [(stage, next(group)) for stage, group in groupby(points, key=lambda point: point.stage)]
        ends = [first.at_s for _, first in runs[1:]] + [max(stop_s, points[-1].at_s)]
        for (stage, first), end_s in zip(runs, ends, strict=True):
            if stage is not None:
                lane.block(
                    "rows" if stage % 2 == 0 else "state", first.at_s, end_s, f"{stage} {seen.stages.get(stage, '')}"
                )


def _rate(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {unit}/s"
    return f"{value:g}/s"


def _checkpoints(story: _Story, seen: Timeline) -> str:
    found = [(at_s, event) for at_s, event in seen.marks if event.get("event") == "checkpoint"]
    if not found:
        return ""
    cost = story["checkpoint_cost"]
    sizes = [size for _, event in found for size in _each(event, "bytes")]
    times = [took_s for _, event in found for took_s in _each(event, "duration_s")]
    slowest_s = max(float(event.get("duration_s") or 0) for _, event in found)
    told = {
        "bytes": f"{cost['count']:,} of them, {format_bytes(cost['bytes'])} in all, the median {format_bytes(median(sizes))}.",
        "duration_s": f"The median took {format_seconds(median(times))}, the slowest {format_seconds(slowest_s)}"
        + (
            f"; written beside the work for {100 * cost['share']:.1f} % of the time."
            if cost["share"] is not None
            else "."
        ),
    }
    charts = []
    for title, key, ticks, say in (
        ("Checkpoints: size", "bytes", byte_ticks, format_bytes),
        ("Checkpoints: time", "duration_s", decimal_ticks, _duration),
    ):
        most = [
            (at_s, max(float(one.get(key) or 0) for one in several), _checkpoint(several[0]))
            for at_s, several in _columns(found, seen.end_s)
        ]
        top = max([value for _, value, _ in most] + [1e-3]) * 1.1
        chart = Chart(seen.end_s, top, ticks(top), say, 150)
        _pauses(chart, seen)
        chart.bars("state" if key == "bytes" else "good", most)
        charts.append(chart.html(title, told[key]))
    return f'<div class="pair">{"".join(charts)}</div>'


def _each(event: _Event, name: str) -> list[float]:
    """Of one checkpoint, or the mean of those that one line of a shortened log stands for, as often as there were."""
    count = int(event.get("count", 1))
    return [float(event.get(f"sum_{name}", event.get(name)) or 0) / count] * count


def _columns(found: Sequence[tuple[float, _Event]], end_s: float) -> Iterator[tuple[float, list[_Event]]]:
    """Checkpoints that share a place, as ``_apart``, but all of them: the largest is what one looks for."""
    for _, group in groupby(found, key=lambda one: int(one[0] / end_s * MOST_PINS) if end_s else 0):
        several = list(group)
        yield several[0][0], [event for _, event in several]


def _duration(value: float) -> str:
    return "0" if value == 0 else f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"


def _checkpoint(event: _Event) -> str:
    return (
        f"checkpoint {event.get('id')}{f', the largest of {count}' if (count := event.get('count')) else ''}: "
        f"{format_bytes(event.get('bytes') or 0)} in "
        f"{format_seconds(event.get('duration_s') or 0)}, {event.get('reason')}"
    )


def _forecast(seen: Timeline) -> str:
    """The peak that was forecast at each moment, against the peak that then came."""
    came: dict[float, float] = {}
    highest = 0.0
    for point in reversed(seen.points):
        highest = max(highest, float(point.used_bytes))
        came[point.at_s] = highest
    said = [
        [(p.at_s, float(p.projected_bytes)) for p in points if p.projected_bytes is not None]
        for points in _each_attempt(seen)
    ]
    if sum(map(len, said)) < 2:
        return ""
    top = max(max(value for one in said for _, value in one), *came.values()) * 1.1
    chart = Chart(seen.end_s, top, byte_ticks(top), format_bytes, 170)
    _pauses(chart, seen)
    for points, forecast in zip(_each_attempt(seen), said, strict=True):
        fact = [(point.at_s, came[point.at_s]) for point in points]
        chart.area("fact", fact)
        chart.line("fact", fact)
        chart.line("projected", forecast)
        for at_s, value in forecast:
            chart.hit(
                at_s, f"{clock(round(at_s, 1))}\nforecast  {format_bytes(value)}\ncame      {format_bytes(came[at_s])}"
            )
    chart.keys = [
        Key("projected dashed", "forecast, without spilling"),
        Key("fact fill", "the peak that came, spilling included"),
    ]
    note = "How high memory was expected to rise from each moment on, and how high it did."
    return chart.html("Forecast and fact", f"{note}{_how_right(seen)}")


def _how_right(seen: Timeline) -> str:
    """The last attempt's forecasts on the way, against its peak."""
    ended = [event for _, event in seen.marks if event.get("event") == "attempt_ended" and event.get("peak_bytes")]
    if not ended or not ended[-1].get("forecasts"):
        return ""
    peak = ended[-1]["peak_bytes"]
    said = (
        f"{100 * one['done']:.0f} % of the way {one['projected_bytes'] / peak:.2f} ×" for one in ended[-1]["forecasts"]
    )
    return f" Of the peak of the last attempt it said, {', '.join(said)}."


def _attempts(story: _Story) -> str:
    rows = [
        (
            one["number"], _clock(one["started_at"]), _clock(one["ended_at"]), one["ended_by"], one["exit_code"],
            _size(one["limit_bytes"]), _size(one["peak_bytes"]), one["resumed_from"],
        )
        for one in story["attempts"]
    ]  # fmt: skip
    head = ("", "started", "ended", "by", "exit code", "limit", "peak", "from checkpoint")
    return section("Attempts", table(head, rows))


def _resizes(story: _Story) -> str:
    rows = [
        (
            _clock(one["at"]), _size(one["from_bytes"]), _size(one["to_bytes"]), one["outcome"],
            _took(one["requested_to_actuated_s"]), str(one["reason"]).partition("; asking for ")[0],
        )
        for one in story["resizes"]
    ]  # fmt: skip
    return section("Resizes", table(("at", "from", "to", "outcome", "took", "why"), rows))


def _decisions(story: _Story) -> str:
    rows = [(_clock(one["at"]), one["instruction"], one["reason"]) for one in story["decisions"]]
    return section(f"Decisions ({len(rows)})", table(("at", "decision", "why"), rows), folded=True)


def _clock(at: Any) -> str | None:
    return None if at is None else str(at)[11:23].rstrip("Z")


def _size(value: Any) -> str | None:
    return None if value is None else format_bytes(value)


def _took(value: Any) -> str | None:
    return None if value is None else format_seconds(value)
