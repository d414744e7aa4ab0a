"""What checkpoints cost: every second and every 100 ms against none, wall and cpu; and how fast state is read back.

    python -m benchmarks.checkpoint --what stateless --scale 2 --times 20     # runs of half a minute, as are the next
    python -m benchmarks.checkpoint --what growing --scale 20
    python -m benchmarks.checkpoint --what restore --restore-mib 1024
    python -m benchmarks.checkpoint --scale 0.1 --times 1 --repeats 1 --restore-mib 32     # all three, as a smoke test

The stateless job reads its input ``--times`` times over (links to the same files); the group-by needs a scale that is large, for its
state to grow all the time. Beside it, what saving once a second costs Bytewax in the same growing job, at scale 1 at most. Restoring
is timed with a cold cache where this user may drop it (root), against reading the same file from end to end with nothing done to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from . import data, killed, measure
from .measure import Measured
from .results import Result, add_common_arguments, engines, finish, ratios, say

NAME = "checkpoint"
HELP = "a checkpoint every second and every 100 ms against none, beside Bytewax; restoring against the disk"
ASKED = {("stateless", "1s"): 1.01, ("growing", "1s"): 1.05, ("stateless", "100ms"): 1.05}
EVERY = ("1s", "100ms")
WHAT = ("stateless", "growing", "rivals", "restore")
RESTORE_AT_LEAST = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--what", type=_list, default=WHAT, help=f"some of {','.join(WHAT)} (default: all)")
    parser.add_argument("--every", type=_list, default=EVERY, help=f"some of {','.join(EVERY)} (default: all)")
    parser.add_argument("--scale", type=float, default=10.0)
    parser.add_argument("--times", type=int, default=8, help="how often the stateless job reads its input")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--restore-mib", type=int, default=1024)
    parser.add_argument("--rivals", type=engines("bytewax", needed=False), default="bytewax", help="empty for none")


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def measure_suite(args: argparse.Namespace) -> Result:
    made = data.tables(Path(args.data), args.scale, ("lineitem",)).resolve()
    work = Path(args.work).resolve() / NAME
    measure.discard(work)
    result = Result(NAME, {"scale": args.scale, "times": args.times, "repeats": args.repeats, "threads": args.threads})
    for job in args.what:
        if job == "restore":
            _restore(result, work, args.restore_mib)
        elif job == "rivals" and args.rivals:
            _bytewax(result, data.tables(Path(args.data), min(args.scale, 1.0)).resolve(), work / "run", args)
        if job not in ("stateless", "growing"):
            continue
        src = _repeated(made, work / "input", args.times) if job == "stateless" else made
        variants = ("none", *args.every)
        runs: dict[str, list[Measured]] = {every: [] for every in variants}
        for repeat in range(args.repeats):
            for every in variants if repeat % 2 == 0 else variants[::-1]:
                runs[every].append(_one(job, src, work, every, args.threads))
                say(f"{job}, every {every}: {runs[every][-1].wall_s:.2f} s, cpu {runs[every][-1].cpu_s:.2f} s")
        result.add(f"{job} · none · wall", "s", (one.wall_s for one in runs["none"]))
        for every in args.every:
            asked = ASKED.get((job, every))
            for what in ("wall_s", "cpu_s"):
                sides = [[getattr(one, what) for one in runs[which]] for which in (every, "none")]
                result.add(f"{job} · {every} / none · {what[:-2]}", "×", ratios(*sides), at_most=asked)
    measure.discard(work)
    return result


def _one(job: str, src: Path, work: Path, every: str, threads: int) -> Measured:
    measure.discard(work / "run")
    measure.warm(data.files(src, "lineitem"))
    run = work / "run"
    argv = measure.etlkit_run(job, {"src": src, "out": run / "out"}, run / "state", every=every, threads=threads)
    found = measure.run(argv)
    if not found.ok:
        raise SystemExit(f"{job} with a checkpoint every {every} failed with {found.exit_code}:\n{found.stderr}")
    return found


def _bytewax(result: Result, src: Path, work: Path, args: argparse.Namespace) -> None:
    if find_spec("bytewax") is None:
        say("bytewax is not installed, so left out (pip install -e '.[bench]')")
        return
    runs: dict[str, list[Measured]] = {"none": [], "1s": []}
    for repeat in range(args.repeats):
        for every in ("none", "1s") if repeat % 2 == 0 else ("1s", "none"):
            runs[every].append(killed.start("bytewax", src, work, args.threads, saving=every != "none"))
            say(f"bytewax, every {every}: {runs[every][-1].wall_s:.2f} s, cpu {runs[every][-1].cpu_s:.2f} s")
    for what in ("wall_s", "cpu_s"):
        sides = [[getattr(one, what) for one in runs[which]] for which in ("1s", "none")]
        result.add(f"growing, bytewax · 1s / none · {what[:-2]}", "×", ratios(*sides))


def _repeated(made: Path, folder: Path, times: int) -> Path:
    target = folder / "lineitem"
    target.mkdir(parents=True)
    for time in range(times):
        for path in data.files(made, "lineitem"):
            (target / f"{time:03d}.{path.name}").symlink_to(path)
    return folder


def _restore(result: Result, work: Path, mib: int) -> None:
    command = [sys.executable, "-m", "benchmarks.restore", str(work / "restore"), str(mib)]
    done = subprocess.run(command, env=measure.environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"restoring failed:\n{done.stderr}")
    said = json.loads(done.stdout)
    note = "cold cache" if said["cold"] else "warm cache: only root may drop it"
    result.add("restore · disk alone", "MiB/s", said["disk"], note=note)
    result.add("restore · state", "MiB/s", said["state"], note=note)
    result.add("restore · state / disk", "×", ratios(said["state"], said["disk"]), at_least=RESTORE_AT_LEAST, note=note)


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
