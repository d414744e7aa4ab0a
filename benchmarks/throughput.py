"""Whole jobs beside DuckDB, Polars and plain pyarrow: wall, cpu and peak memory, start-up included.

    python -m benchmarks.throughput [--scale 2] [--repeats 5] [--works group_many,…] [--rivals duckdb,polars]

etlkit runs as it always does: a checkpoint every second, exactly-once output, every byte synced. Rounds are
interleaved and every other one
runs in reverse order. The sort gives DuckDB the memory limit that the issue names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import data, measure, rivals
from .measure import Measured
from .results import MIB, Result, add_common_arguments, engines, finish, ratios, say

NAME = "throughput"
HELP = "filter, group-by, join, sort and distinct beside DuckDB, Polars and pyarrow"

ASKED = {
    "filter_write": (1.0, 0.8),
    "group_many": (1.1, 1.2),
    "group_few": (1.1, 1.0),
    "join_write": (1.3, 0.8),
    "sort_write": (1.0, 1.0),
    "distinct": (1.2, 0.8),
}
"""Work → at most so much of DuckDB's wall time and of its peak memory."""
RIVALS = ("duckdb", "polars", "pyarrow")
DUCKDB_MEMORY = {"sort_write": "400MiB"}
_TABLES = {"join_write": ("lineitem", "orders")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--works", default=",".join(ASKED), help="comma-separated (default: all)")
    parser.add_argument(
        "--rivals", type=engines(*RIVALS), default=",".join(RIVALS), help="comma-separated; empty for none"
    )


def measure_suite(args: argparse.Namespace) -> Result:
    src = data.tables(Path(args.data), args.scale).resolve()
    work = Path(args.work).resolve() / NAME
    beside = [name for name in args.rivals.split(",") if name]
    result = Result(NAME, {"scale": args.scale, "repeats": args.repeats, "threads": args.threads})
    for job in args.works.split(","):
        runs: dict[str, list[Measured]] = {}
        ran = ["etlkit", *(rival for rival in beside if rival != "pyarrow" or job in rivals.PYARROW)]
        for repeat in range(args.repeats):
            for engine in ran if repeat % 2 == 0 else reversed(ran):
                found = one_run(engine, job, src, work, args.threads)
                say(f"{job} {engine}: {found.wall_s:.2f} s, cpu {found.cpu_s:.2f} s, {found.rss_bytes // MIB} MiB")
                runs.setdefault(engine, []).append(found)
        _report(result, job, runs)
    return result


def one_run(
    engine: str,
    job: str,
    src: Path,
    work: Path,
    threads: int,
    limit_bytes: int | None = None,
    memory: str | None = None,
    timeout_s: float = 900.0,
) -> Measured:
    """One work by one engine, from nothing; what it wrote is removed. ``memory``: what DuckDB is told to keep to."""
    measure.discard(work)
    work.mkdir(parents=True)
    measure.warm(data.files(src, *_TABLES.get(job, ("lineitem",))))
    if engine == "etlkit":
        argv = measure.etlkit_run(job, {"src": src, "out": work / "out"}, work / "state", threads=threads)
    else:
        argv = [sys.executable, "-m", "benchmarks.rivals", engine, job, str(src), str(work / "out"), str(threads)]
        memory = memory or DUCKDB_MEMORY.get(job)
        argv += [memory] if engine == "duckdb" and memory else []
    found = measure.run(argv, limit_bytes=limit_bytes, timeout_s=timeout_s)
    measure.discard(work)
    if not found.ok and limit_bytes is None:
        raise SystemExit(f"{job} by {engine} failed with {found.exit_code}:\n{found.stderr}")
    return found


def _report(result: Result, job: str, runs: dict[str, list[Measured]]) -> None:
    mine = runs["etlkit"]
    for engine, several in runs.items():
        result.add(f"{job} · {engine} · wall", "s", (one.wall_s for one in several))
        result.add(f"{job} · {engine} · cpu", "s", (one.cpu_s for one in several))
        result.add(f"{job} · {engine} · rss", "MiB", (one.rss_bytes / MIB for one in several))
        if all(one.charged_bytes is not None for one in several):
            result.add(f"{job} · {engine} · charged", "MiB", ((one.charged_bytes or 0) / MIB for one in several))
    for engine, several in runs.items():
        if engine == "etlkit":
            continue
        wall, memory = ASKED[job] if engine == "duckdb" else (None, None)
        pairs = (("wall", wall), ("cpu", None), ("rss", memory), ("charged", None))
        for what, asked in pairs:
            name = {"rss": "rss_bytes", "charged": "charged_bytes"}.get(what, f"{what}_s")
            values = [[getattr(one, name) for one in several] for several in (mine, several)]
            if all(value is not None for side in values for value in side):
                result.add(f"{job} · etlkit / {engine} · {what}", "×", ratios(*values), at_most=asked)


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
