"""What a suite found: rows of figures, as JSON, as a table, as a page (``page.py``), and against an older result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

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
    made_on: Mapping[str, Any] | None = None
    """The machine and the time, of a result that was read; of a new one they are taken now."""

    def add(self, name: str, unit: str, samples: Iterable[float], **more: Any) -> Figure:
        figure = Figure(name, unit, tuple(samples), **more)
        self.figures.append(figure)
        return figure

    def to_json(self) -> dict[str, Any]:
        figures = [{**asdict(one), "value": one.value} for one in self.figures]
        return {
            "suite": self.suite,
            "settings": self.settings,
            "machine": self.made_on or machine(),
            "figures": figures,
        }


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Repeat by repeat: the two ran next to each other, so what slowed one down slowed the other."""
    return tuple(a / b for a, b in zip(mine, theirs, strict=True))


def machine() -> dict[str, Any]:
    names = ("etlkit-runtime", "pyarrow", "duckdb", "polars", "bytewax")
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """An older result of the same suite: medians and samples by the figure's name."""

    name: str
    values: Mapping[str, float]
    samples: Mapping[str, Sequence[float]]

    def cells(self, one: Figure) -> tuple[str, str]:
        was = self.values.get(one.name)
        if was is None:
            return "", ""
        return f"{was:.3g}", f"{one.value / was - 1:+.0%}" if was else ""

    def verdict(self, one: Figure) -> str:
        """``better`` or ``worse`` only where no repeat of then lies among those of now: what is less is noise."""
        before = self.samples.get(one.name)
        if not before or one.value == self.values[one.name]:
            return ""
        if max(one.samples) >= min(before) and min(one.samples) <= max(before):
            return "within the spread"
        more_is_better = one.at_least is not None or one.unit.endswith("/s")
        return "better" if (one.value > self.values[one.name]) == more_is_better else "worse"


def older_result(path: str, suite: str) -> Comparison:
    """Errors: SystemExit(2) where it is no result, or one of another suite."""
    said = read(path)
    if said["suite"] != suite:
        refuse(f"{path} is a result of '{said['suite']}', not of '{suite}'")
    values = {one["name"]: float(one["value"]) for one in said["figures"]}
    return Comparison(
        Path(path).name, values, {one["name"]: one.get("samples") or [one["value"]] for one in said["figures"]}
    )


def read(path: str) -> dict[str, Any]:
    """A result that was written by ``finish``. Errors: SystemExit(2)."""
    try:
        said = json.loads(Path(path).read_text())
        return {"suite": str(said["suite"]), "figures": list(said["figures"]), **said}
    except OSError as error:
        refuse(f"{path} can't be read: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        refuse(f"{path} is no result of `etlkit bench`: it has no suite and figures")


def from_json(said: Mapping[str, Any]) -> Result:
    """What ``to_json`` made."""
    known = ("name", "unit", "at_most", "at_least", "note")
    figures = [
        Figure(samples=tuple(one.get("samples") or [one["value"]]), **{key: one[key] for key in known if key in one})
        for one in said["figures"]
    ]
    return Result(str(said["suite"]), dict(said.get("settings") or {}), figures, said.get("machine"))


def table(figures: Sequence[Figure], older: Comparison | None = None) -> str:
    """Markdown, its columns aligned for a terminal."""
    head = ["figure", "median", "spread", "asked", ""] + (["before", "change", ""] if older is not None else [])
    rows = []
    for one in figures:
        met = {True: "met", False: "missed", None: ""}[one.met]
        row = [one.name, f"{one.value:.3g} {one.unit}".strip(), one.spread, one.asked, f"{met} {one.note}".strip()]
        if older is not None:
            row += [*older.cells(one), older.verdict(one)]
        rows.append(row)
    widths = [max(3, *(len(row[column]) for row in [head, *rows])) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def engines(*known: str, needed: bool = True) -> Callable[[str], str]:
    """The type of an option that names rivals. It is read before the run starts: an engine that is ``needed`` and not
    installed is told then."""

    def those(text: str) -> str:
        named = [name for name in text.split(",") if name]
        for name in named:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(known)}")
        missing = [name for name in named if needed and find_spec(name) is None]
        if missing:
            there = ",".join(name for name in named if name not in missing)
            raise argparse.ArgumentTypeError(
                f"not installed: {', '.join(missing)}. Run: pip install -e '.[bench]' (DuckDB: '.[dev,bench]'), "
                f"or go on without: --rivals {there or chr(39) * 2}"
            )
        return text

    return those


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="DIR", default="data/bench", help="where the input is, or is made (default: %(default)s)"
    )
    parser.add_argument("--work", metavar="DIR", default="out/bench", help="where runs write (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the result here (default: WORK/SUITE.json)")
    parser.add_argument("--html", metavar="FILE", help="write a page with plots here (default: WORK/SUITE.html)")
    parser.add_argument("--against", metavar="FILE", help="an older result to compare with")


def finish(result: Result, args: argparse.Namespace, says: str = "") -> int:
    """Print the table, write JSON and page, compare; without ``args.work`` only files that are named are written. Always 0: whether
    figures were met is for the reader to judge."""
    from .page import page

    older = older_result(args.against, result.suite) if args.against else None
    print(table(result.figures, older))
    texts = {"json": json.dumps(result.to_json(), indent=1) + "\n", "html": page(result, says or result.suite, older)}
    written = []
    for suffix, given in (("json", args.json), ("html", args.html)):
        if not given and not args.work:
            continue
        path = Path(given or Path(args.work) / f"{result.suite}.{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[suffix], encoding="utf-8")
        written.append(str(path))
    if written:
        say(f"written: {', '.join(written)}")
    return 0


def refuse(text: str) -> NoReturn:
    """The call is wrong."""
    say(text)
    raise SystemExit(2)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
