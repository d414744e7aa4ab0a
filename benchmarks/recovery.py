"""What a kill costs: SIGKILL in the middle, started again, until rows are read again; and how many rows are read twice.

    python -m benchmarks.recovery [--scale 2] [--repeats 5] [--rivals bytewax,duckdb,polars,pyarrow]
    python -m benchmarks.recovery --what lost --scale 20 --repeats 3     # how much work, at a checkpoint a second

Beside it, in ``killed.py``, every engine is killed once half way through the same work. Times of the first part end where the event
log says ``first_batch``: the first rows that an attempt reads, late by a look of 0.02 s at most. They begin before the process starts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import data, killed, measure
from .results import Result, add_common_arguments, engines, finish, say

NAME = "recovery"
HELP = "SIGKILL to the first new rows, rows read twice; killed half way beside Bytewax with recovery, DuckDB, Polars, pyarrow"
FIRST_ROWS_AT_MOST_S = 0.7
EVERY_S = 0.2
LOST_EVERY_S = 1.0
WHAT = ("lost", "rows", "rivals")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument(
        "--what", type=lambda text: tuple(text.split(",")), default=WHAT, help=f"some of {','.join(WHAT)}"
    )
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rivals",
        type=engines(*killed.ENGINES, needed=False),
        default=",".join(killed.ENGINES),
        help="comma-separated; empty: etlkit alone; what is not installed is left out",
    )


def measure_suite(args: argparse.Namespace) -> Result:
    src = data.tables(Path(args.data), args.scale, data.TABLES if "rivals" in args.what else ("lineitem",)).resolve()
    work = Path(args.work).resolve() / NAME
    result = Result(NAME, {"scale": args.scale, "repeats": args.repeats, "every_s": EVERY_S})
    if "lost" in args.what:
        _lost(result, src, work, args)
    if "rows" in args.what:
        _rows(result, src, work, args)
    measure.discard(work)
    if "rivals" in args.what:
        killed.compare(result, src, work, args)
    return result


def _start(src: Path, work: Path, every_s: float, threads: int) -> tuple[list[str], Path]:
    measure.discard(work)
    measure.warm(data.files(src, "lineitem"))
    every = f"{every_s:g}s"
    argv = measure.etlkit_run(
        "growing", {"src": src, "out": work / "out"}, work / "state", every=every, threads=threads
    )
    return argv, work / "state" / "events.jsonl"


def _lost(result: Result, src: Path, work: Path, args: argparse.Namespace) -> None:
    """Killed later each time. What is lost is counted from the moment at which the rows that are saved had been read."""
    lost: list[float] = []
    for number in range(args.repeats):
        argv, log = _start(src, work, LOST_EVERY_S, args.threads)
        process, _ = _until_rows(argv, log)
        total = next(one["rows_total"] for one in _events(log) if one["event"] == "planned")
        at = total * (number + 1) // (args.repeats + 1)
        _wait(log, process, lambda seen, at=at: any(one.get("rows_in", 0) >= at for one in seen[-20:]))  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        killed_at = datetime.now(UTC)
        process.wait()
        saved = _shown(work / "state")["rows_in"]
        begun = [one["at"] for one in _events(log) if one["event"] == "first_batch" and not saved]
        unsaved = begun or [one["at"] for one in _events(log) if one["event"] == "progress" and one["rows_in"] > saved]
        since = datetime.fromisoformat(unsaved[0]) if unsaved else killed_at
        lost.append(max(0.0, (killed_at - since).total_seconds()) / LOST_EVERY_S)
        say(f"killed at {at:,} rows of {total:,}: {saved:,} saved, {lost[-1] * LOST_EVERY_S:.2f} s of work lost")
    result.add("work lost at a kill / interval", "×", lost, at_most=1.0)


def _rows(result: Result, src: Path, work: Path, args: argparse.Namespace) -> None:
    fresh, resumed, repeated = [], [], []
    for _ in range(args.repeats):
        argv, log = _start(src, work, EVERY_S, args.threads)
        process, took_s = _until_rows(argv, log)
        fresh.append(took_s)
        _wait(log, process, lambda events: any(one["event"] == "checkpoint" for one in events))
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = _events(log)
        reached = max((one["rows_in"] for one in before if one["event"] == "progress"), default=0)
        saved = _shown(work / "state")["rows_in"]
        process, took_s = _until_rows(argv, log, skip=len(before))
        resumed.append(took_s)
        repeated.append(max(0, reached - saved))
        if process.wait(timeout=600) != 0:
            raise SystemExit(f"the resumed run ended with {process.returncode}")
        say(f"first rows {fresh[-1]:.2f} s, resumed {resumed[-1]:.2f} s, {repeated[-1]:,} rows again")
    result.add("process start to first rows", "s", fresh, at_most=FIRST_ROWS_AT_MOST_S)
    result.add("SIGKILL and started again to first new rows", "s", resumed)
    result.add("rows read twice", "rows", repeated)


def _until_rows(argv: list[str], log: Path, skip: int = 0) -> tuple[subprocess.Popen[bytes], float]:
    """A start, and the seconds from before it to the first rows that it reads. ``skip``: events of the attempts before."""
    began = datetime.now(UTC)
    process = subprocess.Popen(argv, env=measure.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(log, process, lambda events: any(one["event"] == "first_batch" for one in events[skip:]))
    first = next(one["at"] for one in _events(log)[skip:] if one["event"] == "first_batch")
    return process, (datetime.fromisoformat(first) - began).total_seconds()


def _wait(log: Path, process: subprocess.Popen[bytes], seen: Callable[[list[dict[str, Any]]], bool]) -> None:
    while not seen(_events(log)):
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode} too early: take a larger --scale")
        time.sleep(0.005)


def _events(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _shown(state: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "etlkit", "show", str(state), "--json"]
    done = subprocess.run(
        command, env=measure.environment(dict(os.environ)), capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
