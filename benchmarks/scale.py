"""Cost a row as the data grows, start-up apart: the same job at one scale after the other.

    python -m benchmarks.scale [--scales 0.1,1,10] [--works filter_write,group_many] [--repeats 3]

Start-up is what the job takes over a single row group: the intercept is measured, not fitted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import data
from .measure import Measured
from .results import Result, add_common_arguments, finish, say
from .throughput import one_run

NAME = "scale"
HELP = "cost a row from scale 0.1 upwards, start-up apart"
AT_MOST = 1.15
TINY = 0.001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--scales", default="0.1,1,10")
    parser.add_argument("--works", default="filter_write,group_many,group_few")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)


def measure_suite(args: argparse.Namespace) -> Result:
    scales = [float(word) for word in args.scales.split(",")]
    made = {scale: data.tables(Path(args.data), scale).resolve() for scale in (TINY, *scales)}
    work = Path(args.work).resolve() / NAME
    result = Result(NAME, {"scales": scales, "repeats": args.repeats, "threads": args.threads})
    for job in args.works.split(","):
        runs: dict[float, list[Measured]] = {scale: [] for scale in made}
        for _ in range(args.repeats):
            for scale, src in made.items():
                runs[scale].append(one_run("etlkit", job, src, work, args.threads))
                say(f"{job} at scale {scale:g}: {runs[scale][-1].wall_s:.2f} s, cpu {runs[scale][-1].cpu_s:.2f} s")
        for what in ("wall_s", "cpu_s"):
            start = [getattr(one, what) for one in runs[TINY]]
            per_scale = {
                scale: [(getattr(one, what) - start[i]) / scale for i, one in enumerate(runs[scale])]
                for scale in scales
            }
            result.add(f"{job} · start-up · {what[:-2]}", "s", start)
            for scale in scales[1:]:
                grown = [theirs / first for theirs, first in zip(per_scale[scale], per_scale[scales[0]], strict=True)]
                result.add(f"{job} · a row at {scale:g} / at {scales[0]:g} · {what[:-2]}", "×", grown, at_most=AT_MOST)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
