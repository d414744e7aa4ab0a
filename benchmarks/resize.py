"""From the PATCH to the first new batch: what a resize costs a running job, in both modes, on the local node.

    python -m benchmarks.resize [--repeats 10] [--json FILE]

Each repeat is one job in a real cgroup that outgrows 128 MiB. With RestartContainer the time runs from the PATCH through SIGTERM, the
final checkpoint, the new process and its imports, to the first rows that it reads. Live, from the PATCH until the new limit is in
force; the job never stops for it. The whole job is set beside itself with 1 GiB from the beginning, and beside what happens today: the
same work in plain pyarrow, killed at 128 MiB and started again from nothing with 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
from etlkit.units import GIB, MIB, quantity_bytes

from . import data, measure
from .results import Result, add_common_arguments, finish, ratios, say

NAME = "resize"
HELP = "PATCH to the first new batch, p50 and p99, with and without a restart; the job beside a kill and a start from nothing"
AT_MOST_S = 1.0
BEGIN_BYTES, MOST_BYTES = 128 * MIB, GIB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=10)


def measure_suite(args: argparse.Namespace) -> Result:
    src = data.tables(Path(args.data), args.scale).resolve()
    work = Path(args.work).resolve() / NAME
    result = Result(NAME, {"scale": args.scale, "repeats": args.repeats})
    wall: dict[str, list[float]] = {}
    for policy in ("RestartContainer", "NotRequired"):
        took: list[float] = []
        for _ in range(args.repeats):
            found, whole_s = one_run(policy, src, work)
            say(f"{policy}: {'no resize' if found is None else f'{found:.3f} s'}, the job {whole_s:.2f} s")
            took += [] if found is None else [found]
            wall.setdefault(policy, []).append(whole_s)
        if not took:
            raise SystemExit(f"{policy}: no run asked for memory; take a larger --scale")
        what = "PATCH to first new batch" if policy == "RestartContainer" else "PATCH to new limit in force"
        result.add(f"{policy} · {what} · p50", "s", took, at_most=AT_MOST_S)
        took.sort()
        p99 = took[min(len(took) - 1, round(0.99 * (len(took) - 1)))]
        result.add(f"{policy} · {what} · p99", "s", [p99], note=f"of {len(took)}")
    for _ in range(args.repeats):
        wall.setdefault("1 GiB at once", []).append(one_run("NotRequired", src, work, MOST_BYTES)[1])
        wall.setdefault("pyarrow, killed and started again", []).append(killed_and_again(src, work))
        say(", ".join(f"{name} {several[-1]:.2f} s" for name, several in list(wall.items())[2:]))
    for name, several in wall.items():
        result.add(f"the job · {name} · wall", "s", several)
    for policy in ("RestartContainer", "NotRequired"):
        for name in ("1 GiB at once", "pyarrow, killed and started again"):
            result.add(f"the job · {policy} / {name} · wall", "×", ratios(wall[policy], wall[name]))
    measure.discard(work)
    return result


def killed_and_again(src: Path, work: Path) -> float:
    """Seconds of both processes together."""
    measure.discard(work)
    work.mkdir(parents=True)
    argv = [sys.executable, "-m", "benchmarks.rivals", "pyarrow", "group_many", str(src), str(work / "out"), "2"]
    first = measure.run(argv, limit_bytes=BEGIN_BYTES)
    if first.ok:
        say("plain pyarrow finished at 128 MiB: take a larger --scale")
        return first.wall_s
    again = measure.run(argv, limit_bytes=MOST_BYTES)
    if not again.ok:
        raise SystemExit(f"plain pyarrow at 1 GiB ended with {again.exit_code}:\n{again.stderr}")
    return first.wall_s + again.wall_s


def one_run(policy: str, src: Path, work: Path, begin_bytes: int = BEGIN_BYTES) -> tuple[float | None, float]:
    """Seconds of the first resize, None where the job got by without one; and of the whole job."""
    measure.discard(work)
    work.mkdir(parents=True)
    command = measure.etlkit_run("group_many", {"src": src, "out": work / "out"}, work / "state")
    manifest = pod_manifest("resize", command, memory=quantity_bytes(begin_bytes), resize_policy=policy)
    quiet = {"stdout": lambda container, line: None, "stderr": lambda container, line: None}
    with Node(4 * GIB) as node:
        done = node.run_pod(
            manifest,
            max_memory=quantity_bytes(MOST_BYTES),
            timeout_s=300,
            environment_base=measure.environment(),
            **quiet,
        )
    if done.oom_kills or done.job_condition != "Complete":
        raise SystemExit(f"the job ended with {done.exit_code} and {done.oom_kills} OOM kills")
    lines = (work / "state" / "events.jsonl").read_text().splitlines()
    return _seconds(policy, [json.loads(line) for line in lines]), done.seconds


def _seconds(policy: str, events: list[dict[str, Any]]) -> float | None:
    """The second ``requested`` is the resizer's: the server has taken the PATCH. Until then the intent was being written."""
    asked = [event for event in events if event["event"] == "resize" and event["outcome"] == "requested"]
    if len(asked) < 2 and policy == "NotRequired":
        return None
    if not asked:
        return None
    patched = _at(asked[min(1, len(asked) - 1)])
    wanted = "first_batch" if policy == "RestartContainer" else "limit_changed"
    later = [_at(event) for event in events if event["event"] == wanted and _at(event) >= patched]
    return later[0] - patched if later else None


def _at(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(event["at"])).timestamp()


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
