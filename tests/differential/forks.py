"""A process that is ready to run jobs: it has imported everything, and forks a child for each.

So a job runs in a process of its own, and can be killed for real, at the price of a fork (some 20 ms) in place of a start
(some 600 ms). The parent computes nothing, so that no thread of Arrow's is ever forked. Requests and answers are JSON lines on
standard input and output. ``Forks`` is the test's end of it.

In a child, splits are small: the cuts of the planner are made for gigabytes, and the tables here are small.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

SPLIT_BYTES = 48 * 1024
PARTITION_BYTES = 768 * 1024
TIGHT_BYTES = 24 * 1024
"""Of a partition at once, where a run is asked to find its partitions too large."""
PAUSE_S = 0.012
"""After each split of a run that will be killed between two: a checkpoint every 10 ms gets its chance."""


@dataclass(frozen=True)
class Ran:
    """How a child ended. ``splits``: how many it began."""

    code: int
    splits: int = 0
    resumed_from: int | None = None
    attempts: int = 0
    error: str = ""
    kind: str = ""


class Forks:
    """Runs named queries in forked processes."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **request: Any) -> Ran:
        """``module``, ``name``, ``data``, ``out``, ``state``; ``kill``: a crash point, or ``split:n``; ``tight``; ``hold``: no
        join may hold a side where it is false."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        return Ran(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def serve() -> None:
    """The parent: one request at a time."""
    for name in ("runtime.api", "runtime.opening", "engine.planner", "io.parquet", "io.parquet_sink"):
        import_module(f"etlkit.{name}")
    for name in ("io.csv", "io.jsonl", "io.ipc", "io.text_sinks"):
        import_module(f"etlkit.{name}")
    for line in sys.stdin:
        request = json.loads(line)
        import_module(request["module"])
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _child(request, writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        status = os.waitpid(child, 0)[1]
        answer = json.loads(said) if said else {}
        answer["code"] = os.waitstatus_to_exitcode(status)
        print(json.dumps(answer), flush=True)


def _child(request: dict[str, Any], writer: int) -> None:
    answer: dict[str, Any] = {}
    code = 1
    try:
        signal.alarm(60)
        code = _run(request, answer)
    except Exception as error:
        import traceback

        from etlkit import EtlkitError

        code = int(error.exit_code) if isinstance(error, EtlkitError) else 1
        answer["kind"] = type(error).__name__
        answer["error"] = str(error) if isinstance(error, EtlkitError) else traceback.format_exc()
    os.write(writer, json.dumps(answer).encode())
    os._exit(code)


def _run(request: dict[str, Any], answer: dict[str, Any]) -> int:
    from etlkit.engine import executor, held, join, planner, reducers, splits, work
    from etlkit.io import parquet_short
    from etlkit.runtime import checkpointer
    from etlkit.runtime.api import run
    from etlkit.testing import crashpoints

    small: Any = planner
    small.EXCHANGE_SPLIT_BYTES = small.SINK_SPLIT_BYTES = request.get("split_bytes", SPLIT_BYTES)
    small.PARTITION_BYTES = PARTITION_BYTES
    splitting: Any = splits
    splitting.PROBE_SPLIT_BYTES = request.get("split_bytes", SPLIT_BYTES)
    if not request.get("hold", True):
        holding: Any = held
        holding.MOST_BYTES = 0
    saving: Any = checkpointer
    saving.SINK_SPLIT_BYTES = request.get("split_bytes", SPLIT_BYTES)
    if request.get("tight"):
        for room, name, value in (
            (work, "CUT_AGAIN_BYTES", TIGHT_BYTES), (join, "BLOCK_BYTES", TIGHT_BYTES), (reducers, "MERGE_ROWS", 500),
            (join, "CHUNK_ROWS", 700), (join, "OUT_ROWS", 900), (parquet_short, "LEAST_ROWS", 0),
        ):  # fmt: skip
            setattr(room, name, value)
    kill = request.get("kill", "")
    doomed = 0
    if kill.startswith("split:"):
        doomed = int(kill.removeprefix("split:"))
    elif kill:
        crashpoints.arm(kill)
    begun = 0
    original = executor.run_task

    def counted(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if doomed:
            time.sleep(PAUSE_S)
            if begun >= doomed:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    working: Any = executor
    working.run_task = counted
    query = import_module(request["module"]).QUERIES[request["name"]]
    pipelines = query.pipelines(Path(request["data"]), Path(request["out"]))
    done = run(pipelines, state=request["state"], checkpoint_every="10ms" if kill else "1s", workers=2)
    answer |= {"splits": begun, "resumed_from": done.resumed_from, "attempts": done.attempts}
    return done.exit_code


if __name__ == "__main__":
    serve()
