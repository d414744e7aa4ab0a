"""Charts over time: inline SVG for shapes, HTML for words, so that words keep their size on any screen.

A chart's shapes live in a box of 1000 by 1000 that is stretched to the page; strokes do not stretch. Lanes of blocks and pins lie
above the plot on the same axis; a narrow column for each moment shows its figures when it is pointed at or touched, by CSS alone.
Covers scales, axes, lanes, lines, areas, bars. It knows nothing of what is drawn.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Points = Sequence[tuple[float, float]]
MOST_POINTS = 700
MOST_HITS = 90


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend."""

    kind: str
    text: str


@dataclass(slots=True)
class Lane:
    """A strip above the plot: ``blocks`` from one moment to another, ``pins`` at one moment."""

    name: str
    kind: str = ""
    _end_s: float = 0.0
    _parts: list[str] = field(default_factory=list)

    def block(self, kind: str, start_s: float, stop_s: float, text: str, tip: str = "") -> None:
        left, width = _share(start_s, self._end_s), _share(stop_s - start_s, self._end_s)
        slim = " slim" if width < 6 else ""
        self._parts.append(
            f'<i class="block {kind}{slim}" style="left:{left:.2f}%;width:{max(width, 0.3):.2f}%" '
            f'title="{html.escape(tip or text)}">{html.escape(text if not slim else "")}</i>'
        )

    def pin(self, kind: str, at_s: float, tip: str, label: str = "") -> None:
        left = _share(at_s, self._end_s)
        edge = " at-end" if left > 70 else ""
        word = f"<b>{html.escape(label)}</b>" if label else ""
        self._parts.append(
            f'<i class="pin {kind}{edge}" style="left:{left:.2f}%" title="{html.escape(tip)}">{word}</i>'
        )

    def html(self) -> str:
        name = html.escape(self.name)
        return f'<div class="lane {self.kind}" data-name="{name}">{"".join(self._parts)}</div>'


@dataclass(slots=True)
class Chart:
    """Built up layer by layer, the lowest first; ``kind`` is the CSS class that gives a layer its colour."""

    end_s: float
    top: float
    ticks: Sequence[float]
    say: Callable[[float], str]
    height_px: int = 240
    keys: list[Key] = field(default_factory=list)
    _lanes: list[Lane] = field(default_factory=list)
    _below: list[str] = field(default_factory=list)
    _shapes: list[str] = field(default_factory=list)
    _words: list[str] = field(default_factory=list)
    _hits: list[tuple[float, str]] = field(default_factory=list)

    def x(self, at_s: float) -> float:
        return 10 * _share(at_s, self.end_s)

    def y(self, value: float) -> float:
        return 1000 * (1 - min(1.0, max(0.0, value / self.top))) if self.top else 1000.0

    def lane(self, name: str, kind: str = "") -> Lane:
        lane = Lane(name, kind, self.end_s)
        self._lanes.append(lane)
        return lane

    def area(self, kind: str, points: Points) -> None:
        if len(points) > 1:
            line = self._path(points)
            first, last = self.x(points[0][0]), self.x(points[-1][0])
            self._shapes.append(f'<path class="area {kind}" d="{line} L{last:.1f} 1000 L{first:.1f} 1000 Z"/>')

    def line(self, kind: str, points: Points) -> None:
        if len(points) > 1:
            self._shapes.append(f'<path class="line {kind}" d="{self._path(points)}"/>')

    def stairs(self, kind: str, steps: Points) -> None:
        """(from when, value) until the next, the last until the end."""
        path: list[str] = []
        for at, (start_s, value) in enumerate(steps):
            stop_s = steps[at + 1][0] if at + 1 < len(steps) else self.end_s
            path.append(f"{'L' if path else 'M'}{self.x(start_s):.1f} {self.y(value):.1f}")
            path.append(f"L{self.x(stop_s):.1f} {self.y(value):.1f}")
        if path:
            self._shapes.append(f'<path class="line {kind}" d="{" ".join(path)}"/>')

    def pause(self, start_s: float, stop_s: float, text: str) -> None:
        """A stretch in which nothing ran; its words stand in it where there is room."""
        left, width = _share(start_s, self.end_s), _share(stop_s - start_s, self.end_s)
        word = f"<em>{html.escape(text)}</em>" if width > 14 else ""
        self._below.append(
            f'<div class="pause-band" style="left:{left:.2f}%;width:{max(0.2, width):.2f}%" title="{html.escape(text)}">{word}</div>'
        )

    def bars(self, kind: str, found: Sequence[tuple[float, float, str]]) -> None:
        """(when, how much, what): thin bars that stand on the time axis."""
        width = max(2.0, min(14.0, 600 / max(1, len(found))))
        for at_s, value, text in found:
            top = self.y(value)
            self._shapes.append(
                f'<rect class="bar {kind}" x="{min(1000 - width, max(0, self.x(at_s) - width / 2)):.1f}" y="{top:.1f}" '
                f'width="{width:.1f}" height="{1000 - top:.1f}"><title>{html.escape(text)}</title></rect>'
            )

    def rule(self, kind: str, at_s: float) -> None:
        """A dashed line down the plot, below a pin of a lane."""
        self._below.append(f'<i class="rule {kind}" style="left:{_share(at_s, self.end_s):.2f}%"></i>')

    def tag(self, kind: str, at_s: float, value: float, text: str) -> None:
        """Words just above a value, that begin at a moment; near the right edge they end at the edge."""
        left = _share(at_s, self.end_s)
        place = f"left:{left:.2f}%" if left <= 60 else "right:0"
        self._words.append(
            f'<b class="tag {kind}" style="{place};top:{self.y(value) / 10:.2f}%">{html.escape(text)}</b>'
        )

    def hit(self, at_s: float, text: str) -> None:
        """What is shown when this moment is pointed at; lines of plain text."""
        self._hits.append((at_s, text))

    def html(self, title: str, note: str = "") -> str:
        grid = "".join(
            f'<span class="tick-y" style="top:{self.y(tick) / 10:.2f}%"><b>{html.escape(self.say(tick))}</b></span>'
            for tick in self.ticks
        )
        times = "".join(
            f'<span class="tick-x" style="left:{100 * tick / self.end_s:.2f}%">{html.escape(clock(tick))}</span>'
            for tick in time_ticks(self.end_s)
        )
        keys = "".join(f'<li><i class="key {key.kind}"></i>{html.escape(key.text)}</li>' for key in self.keys)
        said = f"<p>{html.escape(note)}</p>" if note else ""
        lanes = "".join(lane.html() for lane in self._lanes)
        return (
            f"<figure><figcaption><h2>{html.escape(title)}</h2>{said}</figcaption>"
            f"{f'<ul class=legend>{keys}</ul>' if keys else ''}"
            f'<div class="chart">{f"<div class=lanes>{lanes}</div>" if lanes else ""}'
            f'<div class="plot" style="height:{self.height_px}px">{grid}{"".join(self._below)}'
            f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{html.escape(title)}">'
            f"{''.join(self._shapes)}</svg>{''.join(self._words)}{self._columns()}</div>"
            f'<div class="times">{times}</div></div></figure>'
        )

    def _columns(self) -> str:
        """Equal columns over the plot, each with the words of the moment nearest to its middle, if one is near."""
        if len(self._hits) < 2 or not self.end_s:
            return ""
        count = min(MOST_HITS, max(12, len(self._hits)))
        near = self.end_s / count
        cells: list[str] = []
        at = 0
        for number in range(count):
            middle = (number + 0.5) * near
            while at + 1 < len(self._hits) and abs(self._hits[at + 1][0] - middle) <= abs(self._hits[at][0] - middle):
                at += 1
            when, text = self._hits[at]
            side = " left" if number > count * 0.6 else ""
            if abs(when - middle) <= 2 * near:
                cells.append(f'<i class="hit{side}" tabindex="-1"><span>{html.escape(text)}</span></i>')
            else:
                cells.append('<i class="hit none"></i>')
        return f'<div class="hits">{"".join(cells)}</div>'

    def _path(self, points: Points) -> str:
        return "M" + " L".join(f"{self.x(at_s):.1f} {self.y(value):.1f}" for at_s, value in thinned(points))


def _share(at_s: float, end_s: float) -> float:
    """Per cent of the axis."""
    return 100 * at_s / end_s if end_s else 0.0


def thinned(points: Points) -> Points:
    """At most ``MOST_POINTS``, keeping the highest of each stretch: a peak is what one looks for."""
    if len(points) <= MOST_POINTS:
        return points
    stretch = math.ceil(len(points) / MOST_POINTS)
    inner = [max(points[at : at + stretch], key=lambda point: point[1]) for at in range(1, len(points) - 1, stretch)]
    return [points[0], *inner, points[-1]]


def byte_ticks(top: float) -> list[float]:
    """Powers of two, four or five of them below ``top``."""
    step = 2.0 ** math.floor(math.log2(max(1.0, top / 4)))
    if top / step > 5:
        step *= 2
    return [step * number for number in range(int(top / step) + 1)]


def decimal_ticks(top: float) -> list[float]:
    """1, 2 or 5 times a power of ten, three to six of them."""
    if top <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if top / (power * factor) <= 5)
    return [step * number for number in range(int(top / step) + 1)]


def time_ticks(end_s: float) -> list[float]:
    """Moments that people say: 5 s, 1 min, 15 min; three to seven of them, none at the very end."""
    if end_s <= 0:
        return []
    steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400]
    step = next((one for one in steps if end_s / one <= 6), 86400.0 * math.ceil(end_s / 86400 / 6))
    return [step * number for number in range(int(end_s / step) + 1) if step * number <= end_s * 0.97]


def clock(at_s: float) -> str:
    if at_s < 60:
        return f"{at_s:g} s"
    hours, rest = divmod(round(at_s), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02d}" if minutes else f"{hours} h"
    return f"{minutes} min {seconds:02d}" if seconds else f"{minutes} min"
