"""Watching and resizing a process that is not written on etlkit: a JVM, a pandas script, a Go program.

The same machine decides as for a job. What it is told: memory in use, and where its slope of the last seconds leads. What a
process like this can't do is left out: it has no state to spill and no checkpoint to go on from, so only live resizes
(NotRequired) help, and RestartContainer is refused. There is no wall in it either: a process that takes memory faster than the
kubelet can give is killed as ever.

Standard library only: the supervisor takes some 20 MiB of the container's memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from ..decide import events, instructions
from ..decide.machine import State, initial, step
from ..decide.policy import Policy
from ..errors import ConfigError, UsageError
from ..kube.client import PodClient
from ..kube.identity import find_access, find_identity
from ..kube.resizer import Resizer
from ..memory import MemoryReader, find_cpu_reader, find_reader, interval_s, thrash
from ..settings import Settings
from ..units import MIB, format_bytes
from .cores import workers_for
from .policy_file import policy_from

HEAP_SHARE = 0.7
"""Of the limit, for a JVM's heap; the rest is metaspace, threads, code and buffers outside of it."""
SOFT_SHARE = 0.85
"""Of the limit, from which Go's collector and DuckDB's buffer manager hold back."""
LOOK_BACK_S, LOOK_AHEAD_S = 4.0, 8.0
COOLDOWN_S = 2.0
"""Between two requests. Nothing is lost by a live resize, and a process that can't be slowed down can't wait either."""
FACTS_WAIT_S = 5.0
TICK_S = 0.1
PASSED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT")


def surroundings(limit_bytes: int | None, cores: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with what runtimes read at their start. What the author has set is left as it is. Pure."""
    given = {**environ, "POLARS_MAX_THREADS": environ.get("POLARS_MAX_THREADS", str(cores))}
    if limit_bytes is None:
        return given
    mib = max(1, int(limit_bytes * HEAP_SHARE) // MIB)
    java = environ.get("JAVA_TOOL_OPTIONS", "")
    if "-Xmx" not in java and "MaxRAMPercentage" not in java:
        given["JAVA_TOOL_OPTIONS"] = f"{java} -Xmx{mib}m -XX:ActiveProcessorCount={cores}".strip()
    soft = max(1, int(limit_bytes * SOFT_SHARE) // MIB)
    given.setdefault("GOMEMLIMIT", f"{soft}MiB")
    # Polars and DuckDB's library read no limit from the environment: a script hands these on.
    given.setdefault("ETLKIT_LIMIT_BYTES", str(limit_bytes))
    given.setdefault("ETLKIT_DUCKDB_MEMORY_LIMIT", f"{soft}MiB")
    return given


def with_limits(command: Sequence[str], limit_bytes: int | None) -> list[str]:
    """The command; the DuckDB shell, which reads no variable either, is told its memory limit as its first statement."""
    words = list(command)
    if limit_bytes is not None and os.path.basename(words[0]) == "duckdb":  # noqa: PTH119
        words[1:1] = ["-cmd", f"SET memory_limit='{max(1, int(limit_bytes * SOFT_SHARE) // MIB)}MiB'"]
    return words


def ceiling(limit_bytes: int | None, policy: Policy) -> int | None:
    """What the limit may come to: a heap's size is fixed at the start, while the limit can follow it live."""
    if limit_bytes is None or policy.mode is not events.ResizeMode.LIVE or policy.max_memory_bytes is None:
        return limit_bytes
    return max(limit_bytes, policy.max_memory_bytes)


@dataclass(slots=True)
class Slope:
    """Where memory in use leads."""

    _points: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, at_s: float, used_bytes: int) -> int:
        """Bytes in use some seconds from now, if it goes on like this."""
        points = self._points
        points.append((at_s, used_bytes))
        while points[0][0] < at_s - LOOK_BACK_S:
            points.popleft()
        elapsed_s = at_s - points[0][0]
        if elapsed_s < 3 * TICK_S:
            return used_bytes
        grown = max(0, used_bytes - points[0][1])
        return used_bytes + int(grown / elapsed_s * LOOK_AHEAD_S)


def supervise(command: Sequence[str], settings: Settings) -> int:
    """Run it to its end; its exit code, or 128 + the signal that ended it. Errors: ConfigError, UsageError."""
    reader = find_reader()
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    resizer = None
    try:
        policy = replace(policy_from(settings), cooldown_s=COOLDOWN_S, checkpoint_every_s=None)
        access, identity = find_access(), find_identity()
        if access is not None and identity is not None and policy.max_memory_bytes is not None:
            client = PodClient(access, identity)
            keep = settings.resize_request == "keep"
            resizer = Resizer(client, identity, inbox.put, reader.limit_bytes, keep_request=keep)
            pod = resizer.facts(FACTS_WAIT_S)
            if pod is not None and pod.memory_policy is events.ResizeMode.RESTART:
                raise ConfigError(
                    f"container '{identity.container}' says RestartContainer for memory: a resize would start this process"
                    " from zero, and what it has done would be lost",
                    "set its resizePolicy for memory to NotRequired",
                )
            if pod is not None and not pod.static:
                policy = replace(policy, mode=events.ResizeMode.LIVE)
            elif pod is None:
                trouble = resizer.trouble()
                _say(f"nobody to ask for memory: {trouble.explain() if trouble else 'the API server does not answer'}")
        limit_bytes = ceiling(reader.limit_bytes(), policy)
        cpu = find_cpu_reader()
        cores = workers_for(cpu.read().quota_cores)
        cpu.close()
        try:
            process = subprocess.Popen(
                with_limits(command, limit_bytes), env=surroundings(limit_bytes, cores, os.environ)
            )
        except OSError as error:
            raise UsageError(
                f"{command[0]} can't be started: {error.strerror}", "check the command after --"
            ) from error
        return _Watch(process, reader, resizer, policy, inbox).run()
    finally:
        if resizer is not None:
            resizer.close()
        reader.close()


class _Watch:
    """The loop: a look at a time, the machine's word carried out. The child's end is ours."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: MemoryReader,
        resizer: Resizer | None,
        policy: Policy,
        inbox: queue.SimpleQueue[Any],
    ) -> None:
        self._process, self._reader, self._resizer = process, reader, resizer
        self._policy, self._inbox = policy, inbox
        self._state: State = initial(policy)
        self._slope = Slope()
        self._before: tuple[float, Any] | None = None

    def run(self) -> int:
        before = {number: signal.signal(number, self._pass_on) for number in _signals()}
        try:
            began_s = time.monotonic()
            self._step(events.Started(began_s, self._reader.limit_bytes(), 1, 0))
            while (code := self._reaped()) is None:
                self._look()
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._take(self._inbox.get(timeout=TICK_S))
            return code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def _reaped(self) -> int | None:
        """The child's end. As PID 1 of a container we are handed everybody's orphans: those are only buried."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if pid == 0:
                return None
            if pid == self._process.pid:
                code = os.waitstatus_to_exitcode(status)
                self._process.returncode = code
                if code == -signal.SIGKILL and self._reader.read().oom_kills:
                    _say("the kernel killed it at the memory limit: it took memory faster than it could be given")
                return 128 - code if code < 0 else code

    def _look(self) -> None:
        at_s, sample = time.monotonic(), self._reader.read()
        lost = 0.0
        if self._before is not None:
            lost = thrash(self._before[1], sample, at_s - self._before[0])
        self._before = (at_s, sample)
        projected = self._slope.add(at_s, sample.used_bytes)
        self._step(
            events.Observed(
                at_s, sample.limit_bytes, sample.used_bytes, 0, 0, projected, sample.used_bytes, 0.0, None,
                spill_cost_s=math.inf, resize_cost_s=0.1, thrash=lost,
            )
        )  # fmt: skip
        if interval_s(sample) > 2 * TICK_S and projected == sample.used_bytes:
            time.sleep(TICK_S)

    def _take(self, event: events.ResizeReported) -> None:
        if event.outcome is events.ResizeOutcome.ACTUATED:
            _say(f"{format_bytes(event.to_bytes)} granted")
        elif event.outcome in events.FINAL_OUTCOMES:
            _say(f"{format_bytes(event.to_bytes)}: {event.outcome} {event.message}")
        self._step(event)

    def _step(self, event: events.Event) -> None:
        self._state, told = step(self._state, event, self._policy)
        asked = next((one for one in told if isinstance(one, instructions.RequestMemory)), None)
        for one in told:
            if isinstance(one, instructions.WithdrawResize) and self._resizer is not None:
                self._resizer.withdraw(one.to_bytes)
        if asked is not None:
            # Written down first: the log is all that this process has (law 4).
            _say(asked.reason)
        if any(isinstance(one, instructions.Checkpoint) for one in told):
            self._step(events.CheckpointCommitted(event.at_s, 0, 0.0, 0, "nothing to save"))
        if asked is not None and self._resizer is not None:
            self._resizer.request(asked.to_bytes, asked.reason)


def _signals() -> list[signal.Signals]:
    return [signal.Signals[name] for name in PASSED if hasattr(signal, name)]


def _say(text: str) -> None:
    print(f"etlkit supervise: {text}", file=sys.stderr, flush=True)
