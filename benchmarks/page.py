"""A suite's result as one self-contained page: ratios around one, figures side by side, every number in a table.

Covers what is drawn from which figures. A figure's name says it, ``work · engine · what``: figures of one unit and one ``what``
share a chart, ``×`` is a ratio. The charts and the look are the report's (``etlkit.observe``).
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etlkit.observe.pages import Tile, document, section, table, tiles
from etlkit.observe.ranges import Bar, Ratio, bars, ratios

from .results import Comparison, Figure, Result, machine

SEPARATOR = " · "
_WHAT = {
    "wall": "Wall time", "cpu": "CPU time", "rss": "Peak resident memory", "charged": "Peak of the cgroup, page cache included",
    "smallest limit": "Smallest hard memory limit at which it finishes",
}  # fmt: skip


def page(result: Result, says: str, older: Comparison | None = None) -> str:
    """``says``: what the suite measures, in a line."""
    here = result.made_on or machine()
    settings = " · ".join(
        f"{name} {value}" for name, value in result.settings.items() if isinstance(value, int | float | str)
    )
    where = f"{here['at']} · {here['cores']} cores, load {here['load']} · {settings}"
    head = (
        f"<header><h1>etlkit bench {html.escape(result.suite)}</h1>"
        f'<p class="soft">{html.escape(where)}</p>'
        f'<p class="verdict">{html.escape(says[:1].upper() + says[1:])}.</p></header>'
    )
    body = [head, _tiles(result, older)]
    body += [_ratios(what, found, older) for what, found in _groups(result, ratio=True)]
    body.append(_cells(result.settings.get("cells") or []))
    body += [_bars(what, found) for what, found in _groups(result, ratio=False)]
    body.append(section("Every figure", _table(result.figures, older), folded=True))
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    return document(
        f"etlkit bench {result.suite}", body, f"Python {here['python']}, Linux {here['kernel']}, {versions}"
    )


def _tiles(result: Result, older: Comparison | None) -> str:
    asked = [one for one in result.figures if one.met is not None]
    met = sum(bool(one.met) for one in asked)
    found = [Tile(str(len(result.figures)), "figures")]
    if asked:
        found.append(Tile(f"{met} of {len(asked)}", "goals met", "good" if met == len(asked) else "warn"))
    repeats = max((len(one.samples) for one in result.figures), default=0)
    found.append(Tile(str(repeats), "repeats; points are medians, lines the range of the repeats"))
    if older is not None:
        changes = [older.verdict(one) for one in result.figures]
        worse = changes.count("worse")
        found.append(
            Tile(
                f"{changes.count('better')} / {worse}", f"better / worse than {older.name}", "warn" if worse else "good"
            )
        )
    return tiles(found)


def _groups(result: Result, *, ratio: bool) -> Iterator[tuple[str, list[tuple[str, Figure]]]]:
    """Figures that belong in one chart, each with what is left of its name."""
    found: dict[tuple[str, str], list[tuple[str, Figure]]] = {}
    for one in result.figures:
        if (one.unit == "×") != ratio or not one.unit:
            continue
        rest, separator, what = one.name.rpartition(SEPARATOR)
        label, key = (rest, what) if separator else (one.name, "")
        found.setdefault((key, one.unit), []).append((label, one))
    for (what, _), group in found.items():
        yield what, group


def _ratios(what: str, found: Sequence[tuple[str, Figure]], older: Comparison | None) -> str:
    rows = []
    for label, one in found:
        kind = {True: "good", False: "bad", None: "used"}[one.met]
        was = older.values.get(one.name) if older is not None else None
        asked = one.at_most if one.at_most is not None else one.at_least
        note = " ".join(part for part in (f"asked {one.asked}" if one.asked else "", one.note) if part)
        rows.append(Ratio(label or what, one.value, min(one.samples), max(one.samples), kind, asked, was, note))
    note = "Left of the line is less. Green meets what was asked (dotted), red misses it."
    return section(f"{_title(what)}: ratios", ratios(rows), note)


def _bars(what: str, found: Sequence[tuple[str, Figure]]) -> str:
    rows, before = [], ""
    for label, one in found:
        work, separator, rest = label.rpartition(SEPARATOR)
        heading = work if separator and work != before else ""
        before = work
        name = rest if separator else label
        text = f"{one.value:,.0f} {one.unit}" if one.value >= 1000 else f"{one.value:.3g} {one.unit}"
        rows.append(
            Bar(
                name or what,
                one.value,
                text,
                "ours" if "etlkit" in name else "theirs",
                min(one.samples),
                max(one.samples),
                heading,
            )
        )
    if len(rows) == 1 or not any(row.kind == "ours" for row in rows):
        rows = [Bar(r.label, r.value, r.text, "ours", r.low, r.high, r.heading) for r in rows]
    return section(_title(what), bars(rows))


def _title(what: str) -> str:
    return _WHAT.get(what, what[:1].upper() + what[1:]) or "Figures"


def _cells(cells: Sequence[Mapping[str, Any]]) -> str:
    """Survival: which way of sizing lives through which limit."""
    if not cells:
        return ""
    ways = list(dict.fromkeys(str(cell["way"]) for cell in cells))
    rows: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for cell in cells:
        rows.setdefault((str(cell["job"]), int(cell["start_bytes"])), {})[str(cell["way"])] = cell
    heads = "".join(f"<th>{html.escape(way)}</th>" for way in ways)
    body = "".join(
        f"<tr><th>{html.escape(job)}, {start >> 20} MiB</th>{''.join(_cell(found.get(way)) for way in ways)}</tr>"
        for (job, start), found in rows.items()
    )
    grid = f'<div class="scroll"><table class="grid"><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    note = "Each job from each first limit. The number is GiB·s of reserved memory; k counts OOM kills, r restarts."
    return section("Who lives", grid, note)


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "<td></td>"
    kills, restarts = int(cell["oom_kills"]), int(cell["restarts"])
    kind = "bad" if cell["exit_code"] not in (0, 75, 78) else "warn" if kills or cell["exit_code"] else "good"
    words = (
        f"{cell['gib_s']:.2f}"
        if cell["exit_code"] == 0
        else {78: "says why", 75: "waits"}.get(cell["exit_code"], "killed")
    )
    words += f" · {kills} k" if kills else ""
    words += f" · {restarts} r" if restarts else ""
    return f'<td><i class="{kind}">{html.escape(words)}</i></td>'


def _table(figures: Sequence[Figure], older: Comparison | None) -> str:
    head = ["figure", "median", "spread", "asked", ""] + (["before", "change", ""] if older is not None else [])
    rows = []
    for one in figures:
        met = {True: "met", False: "missed", None: ""}[one.met]
        row = [one.name, f"{one.value:.4g} {one.unit}".strip(), one.spread, one.asked, f"{met} {one.note}".strip()]
        if older is not None:
            row += [*older.cells(one), older.verdict(one)]
        rows.append(row)
    return table(head, rows)
