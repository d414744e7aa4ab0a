"""One self-contained HTML page about a run: no script, nothing fetched, light and dark, readable on a phone.

Covers what is on the page. How charts are drawn is ``charts.py``'s, how the page looks ``page.css``'s, the figures ``timeline.py``'s.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any

from ..units import format_bytes, format_seconds
from .charts import Chart, Key, Mark, byte_ticks, decimal_ticks
from .summary import lines
from .timeline import Timeline

_Story = Mapping[str, Any]


def page(story: _Story, seen: Timeline) -> str:
    """The whole page."""
    title = f"{story['job']}: {story['status']}"
    body = [_header(story, seen), _tiles(story, seen)]
    if seen.points and seen.end_s > 0:
        body += [_memory(story, seen), _throughput(seen), _checkpoints(story, seen), _forecast(seen), _cost(seen)]
    body += [_attempts(story), _resizes(story), _decisions(story)]
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>\n{style}</style></head><body>\n"
        + "\n".join(part for part in body if part)
        + f"\n<footer>run {html.escape(story['run_id'])} · fingerprint {html.escape(story['fingerprint'][:16])} · "
        "made by etlkit report</footer>\n</body></html>\n"
    )


def _header(story: _Story, seen: Timeline) -> str:
    parameters = " · ".join(f"{name} = {value}" for name, value in story["parameters"].items())
    began = f"{seen.began_at:%Y-%m-%d %H:%M:%S} UTC" if seen.began_at else ""
    words = "".join(f"<p>{html.escape(line)}</p>" for line in lines(story, seen))
    return (
        f'<header><h1>{html.escape(str(story["job"]))}<span class="status {story["status"]}">{story["status"]}</span></h1>'
        f'<p class="soft">{html.escape(" · ".join(one for one in (began, parameters) if one))}</p>{words}</header>'
    )


def _tiles(story: _Story, seen: Timeline) -> str:
    granted = sum(one["outcome"] == "actuated" for one in story["resizes"])
    kills = story["oom_kills"]
    reserved, static = seen.reserved_gib_s(), seen.static_gib_s()
    found = [
        ("", format_seconds(seen.end_s), "from first event to last"),
        ("", f"{story['rows_in']:,}", "rows in"),
        ("", f"{story['rows_out']:,}", "rows out"),
        ("", str(max(0, len(story["attempts"]) - 1)), "restarts"),
        ("bad" if kills else "good", str(kills), "OOM kills"),
        ("", f"{granted} of {len(story['resizes'])}", "resizes granted"),
        ("", f"{story['rows_repeated']:,}", "rows read again"),
    ]
    if reserved is not None and static and reserved < static:
        found.append(
            ("good", f"{100 * (static - reserved) / static:.0f} %", "memory saved against the peak all the time")
        )
    tiles = (
        f'<div class="tile {kind}"><b>{html.escape(value)}</b><small>{html.escape(text)}</small></div>'
        for kind, value, text in found
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _memory(story: _Story, seen: Timeline) -> str:
    known = [(at_s, float(limit)) for at_s, limit in seen.limits if limit is not None]
    highest = max([limit for _, limit in known] + [float(point.used_bytes) for point in seen.points])
    chart = Chart(seen.end_s, highest * 1.12, byte_ticks(highest * 1.12), format_bytes, 300)
    _pauses(chart, seen)
    for points in _each_attempt(seen):
        chart.area("used", [(point.at_s, point.used_bytes) for point in points])
        chart.line("used", [(point.at_s, point.used_bytes) for point in points])
        chart.line("projected", [(p.at_s, float(p.projected_bytes)) for p in points if p.projected_bytes is not None])
    chart.stairs("limit", known)
    told: object = None
    for at_s, event in seen.marks:
        mark = _mark(at_s, event)
        if mark is not None and (not mark.label or mark.label != told):
            chart.mark(mark)
            told = mark.label or told
    chart.keys = [
        Key("limit thin", "limit"),
        Key("used", "used (without inactive page cache)"),
        Key("projected dashed", "forecast of the peak to come, at full speed"),
        Key("good thin", "checkpoint"),
        Key("pause", "restarting"),
    ]
    return chart.html(
        "Memory against the limit", "Where the forecast rises over the limit, etlkit spills or asks for memory."
    )


def _mark(at_s: float, event: Mapping[str, Any]) -> Mark | None:
    match event.get("event"):
        case "checkpoint":
            text = f"checkpoint {event['id']}: {format_bytes(event.get('bytes') or 0)}, {event.get('reason')}"
            return Mark(at_s, "good tick", text)
        case "resize" if event.get("outcome") == "requested":
            to = format_bytes(event.get("to_bytes") or 0)
            return Mark(at_s, "warn", f"asks for {to}: {event.get('reason')}", f"asks for {to}")
        case "resize" if event.get("outcome") in ("infeasible", "refused", "unreachable", "deferred"):
            return Mark(at_s, "bad", f"{event['outcome']}: {event.get('message')}", str(event["outcome"]))
        case "allocation_failed":
            return Mark(at_s, "warn tick", f"an allocation did not fit in split {event.get('split')}")
    return None


def _pauses(chart: Chart, seen: Timeline) -> None:
    for before, after in pairwise(seen.spans):
        took = after.start_s - before.end_s
        text = f"restart: {format_seconds(took)}"
        chart.band("pause", before.end_s, after.start_s, text, label=took > seen.end_s / 8)


def _each_attempt(seen: Timeline) -> list[list[Any]]:
    found: dict[int, list[Any]] = {}
    for point in seen.points:
        found.setdefault(point.attempt, []).append(point)
    return list(found.values())


def _throughput(seen: Timeline) -> str:
    series = []
    for points in _each_attempt(seen):
        pairs = pairwise(points)
        series.append([(b.at_s, (b.rows_in - a.rows_in) / (b.at_s - a.at_s)) for a, b in pairs if b.at_s > a.at_s])
    top = max((rate for one in series for _, rate in one), default=0.0) * 1.1
    chart = Chart(seen.end_s, top, decimal_ticks(top), _rate, 180)
    _pauses(chart, seen)
    for one in series:
        chart.area("rows", one)
        chart.line("rows", one)
    return chart.html("Throughput", "Input rows a second. Zero while later stages work on what was read.")


def _rate(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {unit}/s"
    return f"{value:g}/s"


def _checkpoints(story: _Story, seen: Timeline) -> str:
    found = [(at_s, event) for at_s, event in seen.marks if event.get("event") == "checkpoint"]
    if not found:
        return ""
    charts = []
    for title, key, ticks, say in (
        ("Checkpoints: size", "bytes", byte_ticks, format_bytes),
        ("Checkpoints: time", "duration_s", decimal_ticks, _duration),
    ):
        values = [(at_s, float(event.get(key) or 0), _checkpoint(event)) for at_s, event in found]
        top = max([value for _, value, _ in values] + [1e-3]) * 1.1
        chart = Chart(seen.end_s, top, ticks(top), say, 150)
        chart.bars("state" if key == "bytes" else "good", values)
        charts.append(chart.html(title))
    return f'<div class="pair">{"".join(charts)}</div>'


def _duration(value: float) -> str:
    return "0" if value == 0 else f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"


def _checkpoint(event: Mapping[str, Any]) -> str:
    return (
        f"checkpoint {event.get('id')}: {format_bytes(event.get('bytes') or 0)} in "
        f"{format_seconds(event.get('duration_s') or 0)}, {event.get('reason')}"
    )


def _forecast(seen: Timeline) -> str:
    """The peak that was forecast at each moment, against the peak that then came."""
    came: list[tuple[float, float]] = []
    highest = 0.0
    for point in reversed(seen.points):
        highest = max(highest, float(point.used_bytes))
        came.append((point.at_s, highest))
    came.reverse()
    said = [(point.at_s, float(point.projected_bytes)) for point in seen.points if point.projected_bytes is not None]
    if len(said) < 2:
        return ""
    top = max(value for _, value in (*said, *came)) * 1.1
    chart = Chart(seen.end_s, top, byte_ticks(top), format_bytes, 180)
    chart.area("fact", came)
    chart.line("fact", came)
    chart.line("projected", said)
    chart.keys = [
        Key("projected dashed", "forecast, without spilling"),
        Key("fact", "the peak that came, spilling included"),
    ]
    return chart.html(
        "Forecast and fact", "How high memory was expected to rise from each moment on, and how high it did."
    )


def _cost(seen: Timeline) -> str:
    reserved, static = seen.reserved_gib_s(), seen.static_gib_s()
    if reserved is None or not static:
        return ""
    peak = format_bytes(seen.peak_limit_bytes or 0)
    found = [
        ("limit", f"{peak} all the time", static),
        ("projected", "reserved", reserved),
        ("used", "used", seen.used_gib_s()),
    ]
    most = max(value for _, _, value in found)
    bars = "".join(
        f'<div class="{kind}"><span>{html.escape(text)}</span><i style="width:{100 * value / most:.1f}%"></i>'
        f"<span>{value:.2f} GiB·s</span></div>"
        for kind, text, value in found
    )
    return f'<section class="bars"><h2>Memory over time</h2>{bars}</section>'


def _attempts(story: _Story) -> str:
    return _table(
        "Attempts",
        ("", "started", "ended", "by", "exit code", "limit", "peak", "from checkpoint"),
        [
            (
                one["number"], _clock(one["started_at"]), _clock(one["ended_at"]), one["ended_by"], one["exit_code"],
                _size(one["limit_bytes"]), _size(one["peak_bytes"]), one["resumed_from"],
            )
            for one in story["attempts"]
        ],
    )  # fmt: skip


def _resizes(story: _Story) -> str:
    return _table(
        "Resizes",
        ("at", "from", "to", "outcome", "took", "why"),
        [
            (
                _clock(one["at"]), _size(one["from_bytes"]), _size(one["to_bytes"]), one["outcome"],
                _took(one["requested_to_actuated_s"]), one["reason"],
            )
            for one in story["resizes"]
        ],
    )  # fmt: skip


def _decisions(story: _Story) -> str:
    rows = [(_clock(one["at"]), one["instruction"], one["reason"]) for one in story["decisions"]]
    table = _table("", ("at", "decision", "why"), rows)
    return f"<section><details><summary>Decisions ({len(rows)})</summary>{table}</details></section>" if rows else ""


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<section><h2>{html.escape(title)}</h2>{table}</section>" if title else table


def _cell(value: object) -> str:
    text = "–" if value is None else str(value)
    return f"<td{' class=long' if len(text) > 40 else ''}>{html.escape(text)}</td>"


def _clock(at: Any) -> str | None:
    return None if at is None else str(at)[11:23].rstrip("Z")


def _size(value: Any) -> str | None:
    return None if value is None else format_bytes(value)


def _took(value: Any) -> str | None:
    return None if value is None else format_seconds(value)
