"""One run of a container: a real process in its group, in its own session, with a real exit code.

Covers start (the process joins its groups before it becomes the command), its output, its end, and that what it
left behind is killed when it ends, as a process namespace does. It does not decide about restarts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .enforce import ContainerGroup

# Joins every group named before "--", then becomes the command. A shell starts in a millisecond; python would not.
_JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@"'

LineSink = Callable[[bytes], None]


@dataclass(slots=True)
class ContainerRun:
    """What is known of one run, while it goes on and after it. Times are of the monotonic clock."""

    container: str
    restart_count: int
    limit_bytes: int | None
    started_s: float
    limits: list[tuple[float, int | None]] = field(default_factory=list)
    """Every limit that it had, with the moment from which on."""
    ended_s: float | None = None
    exit_code: int | None = None
    reason: str = ""
    oom_kills: int = 0
    peak_bytes: int = 0
    asked_to_stop: str = ""
    """``resize``, ``delete`` or ``finish``, when the node sent SIGTERM."""
    outlived_grace: bool = False

    def reserved_byte_seconds(self) -> float:
        """Limit × time, over the run."""
        until = self.ended_s if self.ended_s is not None else time.monotonic()
        edges = [*self.limits, (until, None)]
        return sum((limit or 0) * (end - start) for (start, limit), (end, _) in itertools.pairwise(edges))


class RunningContainer:
    """A process and its group. ``on_exit`` is called once, from a thread of its own."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        group: ContainerGroup,
        on_exit: Callable[[int], None],
        folder: Path | None = None,
        stdout: LineSink | None = None,
        stderr: LineSink | None = None,
    ) -> None:
        self.group = group
        joins = [str(path) for path in group.joins]
        argv = ["/bin/sh", "-c", _JOIN, "container", *joins, "--", *command] if joins else list(command)
        self._process = subprocess.Popen(
            argv,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=None if stdout is None else subprocess.PIPE,
            stderr=None if stderr is None else subprocess.PIPE,
            start_new_session=True,
        )
        group.attach(self._process.pid)
        pumps = [
            threading.Thread(target=_pump, args=(stream, sink), name=f"etlkit-log-{self._process.pid}", daemon=True)
            for stream, sink in ((self._process.stdout, stdout), (self._process.stderr, stderr))
            if stream is not None and sink is not None
        ]
        for pump in pumps:
            pump.start()
        waiter = threading.Thread(
            target=self._wait, args=(pumps, on_exit), name=f"etlkit-wait-{self._process.pid}", daemon=True
        )
        waiter.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """To the first process alone, as a runtime does; SIGKILL to all of them."""
        if number == signal.SIGKILL:
            self.group.kill_all()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _wait(self, pumps: list[threading.Thread], on_exit: Callable[[int], None]) -> None:
        code = self._process.wait()
        self.group.kill_all()
        for pump in pumps:
            # All writers are dead, so the pipes are at their end; the bound is for a process that left its group.
            pump.join(5.0)
        on_exit(128 - code if code < 0 else code)


def _pump(stream: IO[bytes], sink: LineSink) -> None:
    failure: Exception | None = None
    with stream:
        for line in stream:
            if failure is not None:
                # Read on, or the container would wait for ever on a full pipe.
                continue
            try:
                sink(line)
            except Exception as error:
                failure = error
    if failure is not None:
        raise failure


def small_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process needs to find its programs, and nothing else: a container's image would bring as much."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    source = os.environ if environ is None else environ
    return {name: source[name] for name in kept if name in source}
