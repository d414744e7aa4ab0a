"""Cost a row as the data grows, start-up apart: the same job at one scale after the other.

    python -m benchmarks.scale [--scales 0.1,1,10] [--works filter_write,group_many] [--repeats 3] [--rivals duckdb]

Start-up is what the job takes over a single row group: the intercept is measured, not fitted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from . import data
from .measure import Measured
from .results import Result, add_common_arguments, finish, say
from .throughput import one_run

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
    parser.add_argument("--rivals", default="duckdb", help="comma-separated; empty for none")


def measure_suite(args: argparse.Namespace) -> Result:
    scales = [float(word) for word in args.scales.split(",")]
    made = {scale: data.tables(Path(args.data), scale).resolve() for scale in (TINY, *scales)}
    work = Path(args.work).resolve() / NAME
    result = Result(NAME, {"scales": scales, "repeats": args.repeats, "threads": args.threads})
    engines = ["etlkit", *(name for name in args.rivals.split(",") if name)]
    for job in args.works.split(","):
        runs: dict[tuple[str, float], list[Measured]] = {(engine, scale): [] for scale in made for engine in engines}
        for _ in range(args.repeats):
            for (engine, scale), several in runs.items():
                several.append(one_run(engine, job, made[scale], work, args.threads))
                say(f"{job} by {engine} at scale {scale:g}: {several[-1].wall_s:.2f} s, cpu {several[-1].cpu_s:.2f} s")
        for engine in engines:
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
        for scale in scales[1:]:
            pairs = zip(per_scale[scale], per_scale[scales[0]], strict=True)
            grown = [theirs / first for theirs, first in pairs if first > 0 and theirs > 0]
            if grown:
                result.add(f"{who} · a row at {scale:g} / at {scales[0]:g} · {what[:-2]}", "×", grown, at_most=asked)
            else:
                say(
                    f"{who} at {scale:g}: start-up varied by more than the rows took; take more repeats or larger scales"
                )


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
