"""The smallest hard memory limit at which each work finishes without a resize, in a real cgroup, beside DuckDB and Polars.

    python -m benchmarks.limits [--scale 2] [--works …] [--rivals duckdb,polars]

A limit holds where the work ends with exit code 0 and without a kill. What holds once is taken to hold above: the ladder is halved, so
that a work takes four tries, and the answer has one that failed just below it. DuckDB is told four fifths of the limit as its
``memory_limit``, as its documentation advises; Polars has no such setting.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import data
from .measure import Measured
from .results import MIB, Result, add_common_arguments, engines, finish, say
from .throughput import ASKED, one_run

NAME = "limits"
HELP = "the smallest hard memory limit at which each work finishes without a resize"
AT_MOST_MIB = 128
RIVALS = ("duckdb", "polars")
LADDER_MIB = (64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--works", default=",".join(ASKED))
    parser.add_argument("--rivals", type=engines(*RIVALS), default=",".join(RIVALS), help="empty for none")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds; slower than that has not finished")


def measure_suite(args: argparse.Namespace) -> Result:
    src = data.tables(Path(args.data), args.scale).resolve()
    work = Path(args.work).resolve() / NAME
    result = Result(NAME, {"scale": args.scale, "threads": args.threads, "timeout_s": args.timeout})
    for job in args.works.split(","):
        for engine in ("etlkit", *(name for name in args.rivals.split(",") if name)):
            found = _smallest(engine, job, src, work, args)
            if found is None:
                say(f"{job} {engine}: not at {LADDER_MIB[-1]} MiB")
                continue
            limit_mib, run = found
            asked = AT_MOST_MIB if engine == "etlkit" else None
            result.add(
                f"{job} · {engine} · smallest limit",
                "MiB",
                [limit_mib],
                at_most=asked,
                note=f"{run.wall_s:.1f} s there",
            )
    return result


def _smallest(engine: str, job: str, src: Path, work: Path, args: argparse.Namespace) -> tuple[int, Measured] | None:
    held: tuple[int, Measured] | None = None
    low, high = 0, len(LADDER_MIB)
    while low < high:
        middle = (low + high) // 2
        limit_mib = LADDER_MIB[middle]
        memory = f"{limit_mib * 4 // 5}MiB" if engine == "duckdb" else None
        run = one_run(engine, job, src, work, args.threads, limit_mib * MIB, memory, args.timeout)
        ended = "finished" if run.ok else "killed" if run.oom_killed else f"ended with {run.exit_code}"
        say(f"{job} {engine} at {limit_mib} MiB: {ended} after {run.wall_s:.1f} s")
        if run.ok:
            held, high = (limit_mib, run), middle
        else:
            low = middle + 1
    return held


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
