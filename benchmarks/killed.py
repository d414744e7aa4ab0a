"""One SIGKILL half way through the same work, by engine: what is done again, and how much longer it takes, for ``recovery``.

etlkit and Bytewax save what they have done once a second and go on from it. DuckDB, Polars and plain pyarrow have nothing to go on
from: their second start is a first one. The time a supervisor takes to start a process again is left out, for all alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from . import data, measure
from .results import Result, ratios, say

WORK = "growing"
ENGINES = ("bytewax", "duckdb", "polars", "pyarrow")
EVERY_S = 1


@dataclass(frozen=True, slots=True)
class Twice:
    """Killed half way and started again: both processes' wall time."""

    whole_s: float
    killed_s: float
    again_s: float
    rows_twice: int | None = None
    """Where the engine can go on, and says what it reads."""

    @property
    def more(self) -> float:
        return (self.killed_s + self.again_s) / self.whole_s


def compare(result: Result, src: Path, work: Path, args: argparse.Namespace) -> None:
    """Adds the figures of every engine that is installed; says which is not."""
    wanted = [name for name in args.rivals.split(",") if name]
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        say(f"not installed, so left out: {', '.join(missing)} (pip install -e '.[bench]')")
        result.settings["left_out"] = ", ".join(missing)
    engines = ["etlkit", *(name for name in wanted if name not in missing)]
    found: dict[str, list[Twice]] = {engine: [] for engine in engines}
    for repeat in range(args.repeats):
        for engine in engines if repeat % 2 == 0 else reversed(engines):
            found[engine].append(one_run(engine, src, work, args.threads))
            last = found[engine][-1]
            say(
                f"{engine}: {last.whole_s:.2f} s; killed at {last.killed_s:.2f} s, {last.again_s:.2f} s more, "
                f"{last.more:.2f} × in all"
            )
    for engine in engines:
        result.add(f"{WORK} · {engine} · undisturbed", "s", (one.whole_s for one in found[engine]))
    for engine in engines:
        result.add(
            f"{WORK} · {engine} · killed half way, start to end",
            "s",
            (one.killed_s + one.again_s for one in found[engine]),
        )
    for engine in engines:
        result.add(f"{engine} · killed half way / undisturbed", "×", (one.more for one in found[engine]))
        rows = [one.rows_twice for one in found[engine] if one.rows_twice is not None]
        if rows:
            result.add(f"{engine} · killed half way, rows read twice", "rows", rows)
    mine = [one.killed_s + one.again_s for one in found["etlkit"]]
    for engine in engines[1:]:
        theirs = [one.killed_s + one.again_s for one in found[engine]]
        result.add(f"etlkit / {engine} · both killed half way", "×", ratios(mine, theirs))


def one_run(engine: str, src: Path, work: Path, threads: int) -> Twice:
    whole = start(engine, src, work, threads)
    first = start(engine, src, work, threads, kill_after_s=whole.wall_s / 2)
    if first.exit_code == 0:
        raise SystemExit(f"{engine} was done before half of its own time: take a larger --scale")
    again = start(engine, src, work, threads, fresh=False)
    twice = _rows_twice(engine, src, work)
    measure.discard(work)
    return Twice(whole.wall_s, first.wall_s, again.wall_s, twice)


def _rows_twice(engine: str, src: Path, work: Path) -> int | None:
    if engine == "etlkit":
        command = [sys.executable, "-m", "etlkit", "show", str(work / "state"), "--json"]
        done = subprocess.run(command, env=measure.environment(), capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout)["rows_repeated"])
    if engine == "bytewax":
        import pyarrow.parquet as pq

        read = sum(int(line) for line in (work / "log").read_text().split())
        return read - sum(pq.read_metadata(path).num_rows for path in data.files(src, "lineitem"))
    return None


def start(
    engine: str,
    src: Path,
    work: Path,
    threads: int,
    *,
    fresh: bool = True,
    saving: bool = True,
    kill_after_s: float | None = None,
) -> measure.Measured:
    """The work from nothing, or again where it was killed. ``saving``: whether Bytewax saves what it has done."""
    if fresh:
        measure.discard(work)
        work.mkdir(parents=True)
        if engine == "bytewax":
            (work / "db").mkdir()
            made = [sys.executable, "-m", "bytewax.recovery", str(work / "db"), str(threads)]
            subprocess.run(made, check=True, env=measure.environment())
    measure.warm(data.files(src, "lineitem"))
    argv, env = _command(engine, src, work, threads, saving)
    found = measure.run(argv, env=env, timeout_s=kill_after_s or 900.0)
    if not found.ok and kill_after_s is None:
        raise SystemExit(f"{engine} failed with {found.exit_code}:\n{found.stderr}")
    return found


def _command(engine: str, src: Path, work: Path, threads: int, saving: bool) -> tuple[list[str], dict[str, str]]:
    env = measure.environment()
    out = work / "out"
    if engine == "etlkit":
        parameters = {"src": src, "out": out}
        return measure.etlkit_run(WORK, parameters, work / "state", every=f"{EVERY_S}s", threads=threads), env
    if engine == "bytewax":
        argv = [sys.executable, "-m", "bytewax.run", "benchmarks.bytewax_flow:flow", "-w", str(threads)]
        argv += ["-r", str(work / "db"), "-s", str(EVERY_S), "-b", "0"] if saving else []
        told = {"BENCH_SRC": str(src), "BENCH_OUT": str(out), "BENCH_LOG": str(work / "log")}
        return argv, {**env, **told}
    return [sys.executable, "-m", "benchmarks.rivals", engine, WORK, str(src), str(out), str(threads)], env
