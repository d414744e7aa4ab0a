"""What watching costs: a reading of the group, a placing of the wall, and the same work with the wall up and without it.

    python -m benchmarks.watch [--scale 1] [--repeats 7] [--json FILE]

Times are cpu, not wall, of the thread that looks. A share of a core is at the rate at which a job looks near its limit. The work is a
group-by of every row group in two threads, in a real cgroup with room to spare, while the wall is placed again at that rate: one run
with it and one without next to each other, each a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from etlkit.memory.sample import SHORTEST_INTERVAL_S
from etlkit.testing.cgroups import make_group, unavailable
from etlkit.units import GIB

from . import data, measure
from .results import Result, add_common_arguments, finish, ratios, say

NAME = "watch"
HELP = "what a look at memory costs, and the wall: cpu of a reading, of a placing, of work with and without it"
READINGS = 2000
AT_MOST_WALL = 1.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7)


def measure_suite(args: argparse.Namespace) -> Result:
    reason = unavailable()
    if reason is not None:
        raise SystemExit(f"a memory limit needs a real cgroup: {reason}")
    src = data.tables(Path(args.data), args.scale).resolve()
    files = data.files(src, "lineitem")
    measure.warm(files)
    result = Result(NAME, {"scale": args.scale, "repeats": args.repeats})
    looks = [_child(["look"]) for _ in range(args.repeats)]
    a_second = 1 / SHORTEST_INTERVAL_S
    reading, placing = ([one[what] for one in looks] for what in ("reading_s", "placing_s"))
    result.add("a reading · cpu", "µs", [1e6 * one for one in reading])
    result.add("a placing of the wall · cpu", "µs", [1e6 * one for one in placing])
    result.add("readings near the limit · share of a core", "%", [100 * a_second * one for one in reading], at_most=0.2)
    result.add("placings near the limit · share of a core", "%", [100 * a_second * one for one in placing], at_most=1.0)
    with_it, without = [], []
    for _ in range(args.repeats):
        with_it.append(_child(["work", "wall", *map(str, files)])["cpu_s"])
        without.append(_child(["work", "none", *map(str, files)])["cpu_s"])
        say(f"with the wall {with_it[-1]:.3f} s of cpu, without {without[-1]:.3f} s")
    result.add("work under the wall · cpu", "s", with_it)
    result.add("the same without · cpu", "s", without)
    result.add("with the wall / without · cpu", "×", ratios(with_it, without), at_most=AT_MOST_WALL)
    result.add("with the wall / without · cpu · least of each", "×", [min(with_it) / min(without)])
    return result


def _child(words: list[str]) -> dict[str, float]:
    with make_group(GIB) as group:
        argv = group.command([sys.executable, "-m", f"benchmarks.{NAME}", "--child", *words])
        environ = measure.environment({"ARROW_DEFAULT_MEMORY_POOL": "system"})
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def look() -> dict[str, float]:
    """Cpu of one reading and of one placing, in a pause of which the caches have gone cold."""
    import pyarrow  # noqa: F401  (the process that is looked at has it loaded)

    from etlkit.memory import Wall, find_reader

    reader, wall = find_reader(), Wall()
    spent = {"reading_s": 0.0, "placing_s": 0.0}
    for _ in range(READINGS):
        time.sleep(0.002)
        at_s = time.thread_time()
        sample = reader.read()
        read_s = time.thread_time()
        wall.raise_to(sample.limit_bytes, sample)
        spent["reading_s"] += (read_s - at_s) / READINGS
        spent["placing_s"] += (time.thread_time() - read_s) / READINGS
    wall.lift()
    return spent


def work(with_wall: bool, files: list[str]) -> dict[str, float]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from etlkit.memory import Wall, find_reader, tune_allocator

    tune_allocator(GIB)
    reader, wall, over = find_reader(), Wall(), threading.Event()

    def place() -> None:
        while not over.wait(SHORTEST_INTERVAL_S):
            sample = reader.read()
            if with_wall:
                wall.raise_to(sample.limit_bytes, sample)

    def group(part: tuple[str, int]) -> int:
        table = pq.ParquetFile(part[0]).read_row_group(part[1], columns=["l_partkey", "l_quantity"], use_threads=False)
        return int(pa.TableGroupBy(table, "l_partkey", use_threads=False).aggregate([("l_quantity", "max")]).num_rows)

    parts = [(name, number) for name in files for number in range(pq.ParquetFile(name).num_row_groups)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(group, parts[:2]))
        watcher = threading.Thread(target=place)
        watcher.start()
        began_s = time.process_time()
        list(pool.map(group, parts))
        cpu_s = time.process_time() - began_s
        over.set()
        watcher.join()
    wall.lift()
    return {"cpu_s": cpu_s}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(look() if sys.argv[2] == "look" else work(sys.argv[3] == "wall", sys.argv[4:])))
        return 0
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=HELP)
    add_arguments(parser)
    args = parser.parse_args()
    return finish(measure_suite(args), args, HELP)


if __name__ == "__main__":
    sys.exit(main())
