"""Which jobs live through which limits: six jobs × starting limits × four ways a cluster answers, in real cgroups.

    python -m benchmarks.survival [--short] [--starts 96Mi,192Mi,384Mi] [--json FILE]
    python -m benchmarks.survival --campaign out/survival.jsonl --within 200    # in pieces: again until nothing is left

Each etlkit run is a pod of the local node that starts at a limit and may ask for more. Beside it the plain pyarrow script of the same
work, sized in the four ways that people use: **nothing** (the limit is what it is), **retry** (attempt n gets n times the first
limit), **vpa** (a fifth or 100 MiB more after each OOM kill, whichever is larger), **static** (the peak plus a tenth, measured
beforehand, from the beginning). **own_peak** is the etlkit job itself at its own measured peak plus a tenth, never resized: what
starting small costs, the engine's speed apart. Per cell: OOM kills, restarts, resizes, work repeated, wall time, GiB-seconds of limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
from etlkit.units import GIB, MIB, parse_bytes, quantity_bytes

from . import measure
from .results import Result, add_common_arguments, finish, say

NAME = "survival"
HELP = "OOM kills, restarts and GiB-seconds of six jobs at many limits, beside the ways they are sized today"
NAMES = ("steady", "growing", "spike", "huge_row_group", "leak", "skewed_join")
WAYS = ("RestartContainer", "NotRequired", "Deferred", "Infeasible")
RIVALS = ("nothing", "retry", "vpa", "static")
OWN_PEAK = "own_peak"
ANYWHERE = frozenset({"static", OWN_PEAK})
"""Ways that do not depend on the first limit: measured once a job."""
MAX_MEMORY = 1 * GIB
NODE_BYTES = 4 * GIB
ROOM_AFTER_S = 1.0
"""Deferred: the node stays full for so long after it was asked."""
MOST_TRIES = 12
TIMEOUT_S = 240.0
LONG_S = 60.0
"""Wall time is judged on jobs of this length."""


@dataclass(slots=True)
class Cell:
    job: str
    way: str
    start_bytes: int
    exit_code: int = -1
    oom_kills: int = 0
    restarts: int = 0
    resizes: int = 0
    repeated: float = 0.0
    """Share of the work that was done more than once: rows of an etlkit job, time of a plain script."""
    wall_s: float = 0.0
    gib_s: float = 0.0
    end_bytes: int = 0
    rows: int = 0

    @property
    def ended(self) -> str:
        if self.exit_code == 0:
            return "done"
        return {78: "stopped, says why", 75: "waits", 77: "refused", 137: "killed"}.get(
            self.exit_code, f"{self.exit_code}"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--jobs", default=",".join(NAMES))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rivals", default=",".join((*RIVALS, OWN_PEAK)), help="empty for none")
    parser.add_argument("--starts", default="96Mi,192Mi,384Mi,768Mi", help="first limits (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="each job once or twice: under two minutes")
    parser.add_argument(
        "--campaign", metavar="FILE", help="keep each cell here, and run only those that are not in it yet"
    )
    parser.add_argument("--within", type=float, metavar="S", help="begin no cell after so many seconds")


def measure_suite(args: argparse.Namespace) -> Result:
    src = (Path(args.data) / f"survival-{args.rows}").resolve()
    work = Path(args.work).resolve() / NAME
    if not (src / "names").is_dir():
        command = [sys.executable, "-m", "benchmarks.survival_jobs", "make", str(src), str(args.rows)]
        subprocess.run(command, check=True, env=measure.environment())
    began_s = monotonic()
    wanted = list(dict.fromkeys((job, way, 0 if way in ANYWHERE else start) for job, way, start in _cells(args)))
    cells = [cell for cell in kept(args.campaign, args.rows) if (cell.job, cell.way, cell.start_bytes) in wanted]
    known = {(cell.job, cell.way, cell.start_bytes) for cell in cells}
    left = [key for key in wanted if key not in known]
    for number, (job, way, start) in enumerate(left):
        if args.within is not None and monotonic() - began_s > args.within:
            say(f"{len(left) - number} cells are left: the same command goes on")
            break
        measure.discard(work)
        work.mkdir(parents=True)
        if way in WAYS:
            cell = one_run(job, way, start, src, work)
        else:
            cell = one_rival(job, way, start, src, work) if way in RIVALS else own_peak(job, src, work)
        cell.rows = args.rows
        cells.append(cell)
        if args.campaign:
            with Path(args.campaign).open("a") as campaign:
                campaign.write(json.dumps(asdict(cell)) + "\n")
        say(
            f"{job:<15}{way:<17}{start // MIB:>4} MiB  {cell.ended:<18} kills {cell.oom_kills}  restarts {cell.restarts}  "
            f"resizes {cell.resizes}  repeated {cell.repeated:4.0%}  {cell.wall_s:6.1f} s  {cell.gib_s:6.2f} GiB·s"
        )
    measure.discard(work)
    result = Result(NAME, {"rows": args.rows, "cells": [asdict(cell) for cell in cells]})
    report(result, cells)
    return result


def _cells(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    jobs = args.jobs.split(",")
    rivals = [one for one in args.rivals.split(",") if one]
    if args.short:
        for number, job in enumerate(jobs):
            yield job, WAYS[number % 2], 96 * MIB
            yield job, WAYS[(number + 1) % 4], 160 * MIB
        for rival in rivals:
            yield "growing", rival, 160 * MIB
        return
    for job in jobs:
        for start in (parse_bytes(text) for text in args.starts.split(",")):
            for way in (*args.ways.split(","), *rivals):
                yield job, way, start


def kept(campaign: str | None, rows: int) -> list[Cell]:
    """Cells that an earlier piece of the campaign has measured."""
    if campaign is None:
        return []
    path = Path(campaign)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    return [cell for cell in (Cell(**json.loads(line)) for line in lines) if cell.rows == rows]


def one_run(job: str, way: str, start_bytes: int, src: Path, work: Path) -> Cell:
    """The etlkit job in a pod that may ask for more."""
    cell = Cell(job, way, start_bytes)
    # What the node has: plenty, nothing beyond the pod, or nothing until another pod leaves.
    capacity = start_bytes if way == "Infeasible" else NODE_BYTES
    policy = "RestartContainer" if way == "RestartContainer" else "NotRequired"
    manifest = pod_manifest(
        "survival", _command(job, src, work), memory=quantity_bytes(start_bytes), resize_policy=policy
    )
    with Node(capacity) as node:
        if way == "Deferred":
            node.add_pod("neighbour", quantity_bytes(capacity - start_bytes))
        handle = node.start_job(
            manifest,
            max_memory=quantity_bytes(MAX_MEMORY),
            backoff_limit=MOST_TRIES,
            environment_base=measure.environment(),
            stdout=lambda container, line: None,
            stderr=lambda container, line: None,
        )
        result = _wait(handle, _Leaves(node, work / "state") if way == "Deferred" else None)
    _fill(cell, result)
    story = _story(work / "state")
    cell.resizes = sum(one["outcome"] == "actuated" for one in story.get("resizes") or [])
    rows = int(story.get("rows_in") or 0)
    cell.repeated = (story.get("rows_repeated") or 0) / rows if rows else 0.0
    return cell


def _command(job: str, src: Path, work: Path) -> list[str]:
    target = f"{measure.ROOT / 'benchmarks' / 'survival_jobs.py'}:{job}"
    return [
        sys.executable, "-m", "etlkit", "run", target, "--set", f"src={src}", "--set", f"out={work / 'out'}",
        "--state", str(work / "state"), "--progress", "json",
    ]  # fmt: skip


class _Leaves:
    """The neighbour: it leaves the node a while after the job was told to wait."""

    def __init__(self, node: Node, state: Path) -> None:
        self._node, self._events = node, state / "events.jsonl"
        self._at_s: float | None = None
        self._gone = False

    def look(self) -> None:
        if self._at_s is None and self._events.exists() and '"deferred"' in self._events.read_text():
            self._at_s = monotonic() + ROOM_AFTER_S
        if not self._gone and self._at_s is not None and monotonic() >= self._at_s:
            self._gone = True
            self._node.remove_pod("neighbour")


def _wait(handle, leaves: _Leaves | None = None):  # type: ignore[no-untyped-def]
    """The result; a Job that a permanent exit code has ended is not started again."""
    deadline = monotonic() + TIMEOUT_S
    while True:
        if leaves is not None:
            leaves.look()
        try:
            return handle.wait(0.1)
        except TimeoutError:
            ended = [run.exit_code for pod in handle.pods for run in pod.history if run.exit_code is not None]
            if monotonic() > deadline or (ended and ended[-1] in (2, 65, 77, 78)):
                handle.stop(0.0)


def one_rival(job: str, way: str, start_bytes: int, src: Path, work: Path) -> Cell:
    """The plain script, attempt after attempt, each from the beginning."""
    cell = Cell(job, way, start_bytes)
    limit = start_bytes
    if way == "static":
        limit = _peak(job, src, work)
    lost_s = 0.0
    for attempt in range(1, MOST_TRIES + 1):
        result = _plain(job, limit, src, work)
        before = cell.wall_s
        _fill(cell, result)
        if result.oom_kills == 0 or way in ("nothing", "static"):
            break
        lost_s += cell.wall_s - before
        limit = start_bytes * (attempt + 1) if way == "retry" else max(limit + 100 * MIB, int(limit * 1.2))
        cell.restarts += 1
    cell.repeated = lost_s / cell.wall_s if cell.wall_s else 0.0
    return cell


def own_peak(job: str, src: Path, work: Path) -> Cell:
    """The etlkit job at its own peak and a tenth, from the beginning and for good."""
    cell = Cell(job, OWN_PEAK, 0)
    limit = int(measure.run(_command(job, src, work)).rss_bytes * 1.1)
    measure.discard(work)
    work.mkdir(parents=True)
    manifest = pod_manifest("survival", _command(job, src, work), memory=quantity_bytes(limit))
    with Node(NODE_BYTES) as node:
        quiet = {"stdout": lambda container, line: None, "stderr": lambda container, line: None}
        handle = node.start_job(manifest, backoff_limit=MOST_TRIES, environment_base=measure.environment(), **quiet)
        _fill(cell, _wait(handle))
    return cell


def _plain(job: str, limit_bytes: int, src: Path, work: Path):  # type: ignore[no-untyped-def]
    measure.discard(work / "out")
    command = [sys.executable, "-m", "benchmarks.survival_jobs", "plain", job, str(src), str(work / "out")]
    manifest = pod_manifest(
        "plain", command, memory=quantity_bytes(limit_bytes), restart_policy="Never", resize_policy="NotRequired"
    )
    with Node(max(NODE_BYTES, limit_bytes)) as node:
        quiet = {"stdout": lambda container, line: None, "stderr": lambda container, line: None}
        return node.run_pod(
            manifest, timeout_s=TIMEOUT_S, backoff_limit=0, environment_base=measure.environment(), **quiet
        )


def _peak(job: str, src: Path, work: Path) -> int:
    """What somebody would set who has measured it: the resident peak without a limit, and a tenth."""
    command = [sys.executable, "-m", "benchmarks.survival_jobs", "plain", job, str(src), str(work / "out")]
    return int(measure.run(command).rss_bytes * 1.1)


def _fill(cell: Cell, result) -> None:  # type: ignore[no-untyped-def]
    cell.exit_code = result.exit_code
    if result.job_condition == "Complete":
        cell.exit_code = 0
    cell.oom_kills += result.oom_kills
    cell.restarts += result.restarts
    cell.wall_s += result.seconds
    cell.gib_s += result.reserved_byte_seconds() / GIB
    limits = [limit for run in result.history for _, limit in run.limits if limit is not None]
    cell.end_bytes = limits[-1] if limits else cell.start_bytes


def _story(state: Path) -> dict:
    command = [sys.executable, "-m", "etlkit", "show", str(state), "--json"]
    done = subprocess.run(command, env=measure.environment(), capture_output=True, text=True)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def report(result: Result, cells: Sequence[Cell]) -> None:
    """The goals of the whole, over all cells."""
    ours = [cell for cell in cells if cell.way in WAYS]
    asked = [cell for cell in ours if cell.way != "Infeasible"]
    result.add("OOM kills · etlkit", "", [sum(cell.oom_kills for cell in ours)], at_most=0)
    result.add("runs · etlkit", "", [len(ours)])
    result.add("done · etlkit", "", [sum(cell.exit_code == 0 for cell in ours)])
    if asked:
        result.add("resizes a job · etlkit", "", [statistics.mean(cell.resizes for cell in asked)], at_most=1.5)
    result.add("restarts · etlkit", "", [sum(cell.restarts for cell in ours)])
    result.add("work repeated · etlkit", "", [statistics.mean(cell.repeated for cell in ours)])
    for rival in RIVALS:
        theirs = [cell for cell in cells if cell.way == rival]
        if not theirs:
            continue
        result.add(f"OOM kills · {rival}", "", [sum(cell.oom_kills for cell in theirs)])
        result.add(f"done · {rival}", "", [sum(cell.exit_code == 0 for cell in theirs)])
        result.add(f"runs · {rival}", "", [len(theirs)])
    for job in sorted({cell.job for cell in cells}):
        mine = [cell for cell in asked if cell.job == job and cell.exit_code == 0]
        for way, words in (("static", "static peak"), (OWN_PEAK, "itself at its peak")):
            theirs = [cell for cell in cells if cell.job == job and cell.way == way and cell.exit_code == 0]
            if not theirs or not mine:
                continue
            cost, wall = (statistics.median(getattr(cell, what) for cell in theirs) for what in ("gib_s", "wall_s"))
            # A first limit above the peak is the author's own choice, and not what is compared here.
            small = [cell for cell in mine if cell.start_bytes < theirs[0].end_bytes]
            goal = 0.6 if job == "growing" and way == "static" else None
            if small:
                result.add(f"{job} · GiB·s, etlkit / {words}", "×", [cell.gib_s / cost for cell in small], at_most=goal)
            goal = 1.15 if wall >= LONG_S else None
            result.add(f"{job} · wall, etlkit / {words}", "×", [cell.wall_s / wall for cell in mine], at_most=goal)


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
