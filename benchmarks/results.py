"""What a suite found: rows of figures, as JSON, as a table, and against an older result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: the median of ``samples``, and what was asked of it if anything was."""

    name: str
    unit: str
    samples: tuple[float, ...]
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> str:
        return f"{min(self.samples):.3g}–{max(self.samples):.3g}" if len(self.samples) > 1 else ""

    @property
    def asked(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else ""

    @property
    def met(self) -> bool | None:
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.value >= self.at_least if self.at_least is not None else None


@dataclass(slots=True)
class Result:
    suite: str
    settings: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, unit: str, samples: Iterable[float], **more: Any) -> Figure:
        figure = Figure(name, unit, tuple(samples), **more)
        self.figures.append(figure)
        return figure

    def to_json(self) -> dict[str, Any]:
        figures = [{**asdict(one), "value": one.value} for one in self.figures]
        return {"suite": self.suite, "settings": self.settings, "machine": machine(), "figures": figures}


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Repeat by repeat: the two ran next to each other, so what slowed one down slowed the other."""
    return tuple(a / b for a, b in zip(mine, theirs, strict=True))


def machine() -> dict[str, Any]:
    names = ("etlkit-runtime", "pyarrow", "duckdb", "polars")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def table(figures: Sequence[Figure], older: dict[str, float] | None = None) -> str:
    """Markdown."""
    head = ["figure", "median", "spread", "asked", ""] + (["older", "change"] if older is not None else [])
    rows = []
    for one in figures:
        met = {True: "met", False: "missed", None: ""}[one.met]
        row = [one.name, f"{one.value:.3g} {one.unit}".strip(), one.spread, one.asked, f"{met} {one.note}".strip()]
        if older is not None:
            was = older.get(one.name)
            row += ["", ""] if not was else [f"{was:.3g}", f"{one.value / was - 1:+.0%}"]
        rows.append(row)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="DIR", default="data/bench", help="where the input is, or is made (default: %(default)s)"
    )
    parser.add_argument("--work", metavar="DIR", default="out/bench", help="where runs write (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.add_argument("--against", metavar="FILE", help="an older result to compare with")


def finish(result: Result, args: argparse.Namespace) -> int:
    """Print the table, write the JSON, compare. 0: whether figures were met is for the reader to judge."""
    older = None
    if args.against:
        said = json.loads(Path(args.against).read_text())
        if said["suite"] != result.suite:
            raise SystemExit(f"{args.against} is a result of '{said['suite']}', not of '{result.suite}'")
        older = {one["name"]: one["value"] for one in said["figures"]}
    print(table(result.figures, older))
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(result.to_json(), indent=1) + "\n")
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
