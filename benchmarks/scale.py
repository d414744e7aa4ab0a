"""Cost a row as the data grows, start-up apart: the same job at one scale after the other.

    python -m benchmarks.scale [--scales 0.1,1,10] [--works filter_write,group_many] [--repeats 3] [--rivals duckdb]

Start-up is what the job takes over a single row group: the intercept is measured, not fitted. Where the rows of the smallest scale
take less than start-up varies by, its ratios say little: each scale is set beside the one before it, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from . import data
from .measure import Measured
from .results import Result, add_common_arguments, engines, finish, say
from .throughput import RIVALS, one_run

NAME = "scale"
HELP = "cost a row from scale 0.1 upwards, start-up apart, beside DuckDB"
AT_MOST = 1.15
TINY = 0.001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--scales", default="0.1,1,10")
    parser.add_argument("--works", default="filter_write,group_many,group_few")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rivals", type=engines(*RIVALS), default="duckdb", help="comma-separated; empty for none")


def measure_suite(args: argparse.Namespace) -> Result:
    scales = [float(word) for word in args.scales.split(",")]
    made = {scale: data.tables(Path(args.data), scale).resolve() for scale in (TINY, *scales)}
    work = Path(args.work).resolve() / NAME
    result = Result(NAME, {"scales": scales, "repeats": args.repeats, "threads": args.threads})
    ran = ["etlkit", *(name for name in args.rivals.split(",") if name)]
    for job in args.works.split(","):
        runs: dict[tuple[str, float], list[Measured]] = {(engine, scale): [] for scale in made for engine in ran}
        for _ in range(args.repeats):
            for (engine, scale), several in runs.items():
                several.append(one_run(engine, job, made[scale], work, args.threads))
                say(f"{job} by {engine} at scale {scale:g}: {several[-1].wall_s:.2f} s, cpu {several[-1].cpu_s:.2f} s")
        for engine in ran:
            _report(result, job, engine, scales, runs)
    return result


def _report(
    result: Result, job: str, engine: str, scales: list[float], runs: Mapping[tuple[str, float], list[Measured]]
) -> None:
    who, asked = (job, AT_MOST) if engine == "etlkit" else (f"{job} · {engine}", None)
    for what in ("wall_s", "cpu_s"):
        start = [getattr(one, what) for one in runs[engine, TINY]]
        per_scale = {
            scale: [(getattr(one, what) - start[i]) / scale for i, one in enumerate(runs[engine, scale])]
            for scale in scales
        }
        result.add(f"{who} · start-up · {what[:-2]}", "s", start)
        for scale in scales:
            result.add(f"{who} · scale {scale:g} without start-up, by scale · {what[:-2]}", "s", per_scale[scale])
        beside = {(scales[0], scale): asked for scale in scales[1:]} | dict.fromkeys(pairwise(scales), asked)
        for (base, scale), at_most in beside.items():
            pairs = zip(per_scale[scale], per_scale[base], strict=True)
            grown = [theirs / first for theirs, first in pairs if first > 0 and theirs > 0]
            if grown:
                result.add(f"{who} · a row at {scale:g} / at {base:g} · {what[:-2]}", "×", grown, at_most=at_most)
            else:
                say(
                    f"{who} at {base:g}: start-up varied by more than the rows took; take more repeats or larger scales"
                )


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
