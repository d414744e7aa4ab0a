"""Charts that set figures side by side: bars from zero, and ratios around one on a scale of doublings.

Covers drawing in plain HTML, so that words keep their size on any screen. Each row shows the median and, as a thin line, the range of
the repeats. What is compared with what, and which way is better, the caller knows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """``kind`` is the CSS class that gives the colour; ``heading`` begins a group of bars."""

    label: str
    value: float
    text: str
    kind: str = ""
    low: float | None = None
    high: float | None = None
    heading: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """``asked``: the bound that was set, if any; ``was``: the median of an older result."""

    label: str
    value: float
    low: float
    high: float
    kind: str = ""
    asked: float | None = None
    was: float | None = None
    note: str = ""


def bars(found: Sequence[Bar]) -> str:
    """On one scale that begins at zero."""
    most = max((max(one.value, one.high or 0.0) for one in found), default=0.0) or 1.0
    parts: list[str] = []
    for one in found:
        if one.heading:
            parts.append(f"<h3>{html.escape(one.heading)}</h3>")
        share = 100 * max(0.0, one.value) / most
        parts.append(
            f'<div class="row {one.kind}"><span>{html.escape(one.label)}</span>'
            f'<div class="lane"><i class="bar" style="width:{share:.2f}%"></i>{_whisker(one, most)}</div>'
            f"<span>{html.escape(one.text)}</span></div>"
        )
    return f'<div class="bars">{"".join(parts)}</div>'


def _whisker(one: Bar, most: float) -> str:
    if one.low is None or one.high is None or one.high <= one.low:
        return ""
    left, width = 100 * one.low / most, 100 * (one.high - one.low) / most
    return f'<i class="whisker" style="left:{left:.2f}%;width:{width:.2f}%"></i>'


def ratios(found: Sequence[Ratio]) -> str:
    """Around a line at one; twice and half are equally far from it."""
    numbers = [number for one in found for number in (one.low, one.high, one.asked, one.was) if number and number > 0]
    numbers += [one.value for one in found if one.value > 0]
    least = math.floor(math.log2(min([*numbers, 0.6])))
    most = math.ceil(math.log2(max([*numbers, 1.7])))
    step = max(1, math.ceil((most - least) / 8))

    def place(number: float) -> float:
        if number <= 0:
            return 0.0
        return min(100.0, max(0.0, 100 * (math.log2(number) - least) / (most - least)))

    ticks = "".join(
        f'<em style="left:{place(2.0**power):.2f}%">{_times(2.0**power)}</em>' for power in range(least, most + 1, step)
    )
    rows = "".join(_ratio(one, place) for one in found)
    return (
        f'<div class="ratios" style="--one:{place(1.0):.2f}%">{rows}'
        f'<div class="row axis"><span></span><div class="lane">{ticks}</div><span></span></div></div>'
    )


def _ratio(one: Ratio, place) -> str:  # type: ignore[no-untyped-def]
    left, right = place(one.low), place(one.high)
    marks = f'<i class="range" style="left:{left:.2f}%;width:{max(0.4, right - left):.2f}%"></i>'
    if one.asked is not None:
        marks += f'<i class="asked" style="left:{place(one.asked):.2f}%" title="asked: {one.asked:g}"></i>'
    if one.was is not None:
        marks += f'<i class="was" style="left:{place(one.was):.2f}%" title="before: {one.was:.3g} ×"></i>'
    marks += f'<i class="dot" style="left:{place(one.value):.2f}%"></i>'
    note = f"<small>{html.escape(one.note)}</small>" if one.note else ""
    return (
        f'<div class="row {one.kind}"><span>{html.escape(one.label)}</span><div class="lane">{marks}</div>'
        f"<span>{html.escape(f'{one.value:.3g} ×')}{note}</span></div>"
    )


def _times(number: float) -> str:
    return f"{number:g} ×" if number >= 1 else f"1/{1 / number:g}"
