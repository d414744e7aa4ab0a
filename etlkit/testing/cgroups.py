"""Real memory cgroups for tests and benchmarks: a hard limit, a command in it, what became of it.

Covers v1 and v2 where this user may make a group below the mount root (in practice: root). It makes the group, sets
and moves the limit, runs a command, says whether the kernel killed it and what the peak was, and cleans up. CPU
limits, pods and restarts are for ``etlkit.node``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EtlkitError
from ..memory.discover import read_mounts

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class GroupRun:
    """How a command in a group ended. ``oom_killed``: the kernel killed something in the group meanwhile."""

    returncode: int
    stdout: str
    stderr: str
    oom_killed: bool
    timed_out: bool
    peak_bytes: int | None
    seconds: float


class RealGroup:
    """One memory cgroup, made by ``make_group``."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.version = version

    @property
    def limit_bytes(self) -> int | None:
        text = self._text("memory.limit_in_bytes" if self.version == 1 else "memory.max")
        return None if text == "max" or int(text) >= 1 << 62 else int(text)

    def set_limit(self, limit_bytes: int | None) -> None:
        """Move the hard limit. The kernel refuses (EBUSY) to lower it below what it cannot reclaim."""
        if self.version == 2:
            self._write("memory.swap.max", "0", optional=True)
            self._write("memory.max", "max" if limit_bytes is None else str(limit_bytes))
            return
        text = "-1" if limit_bytes is None else str(limit_bytes)
        # Memory and swap together may never be below memory alone: raise that one first, lower it last.
        self._write("memory.memsw.limit_in_bytes", text, optional=True)
        self._write("memory.limit_in_bytes", text)
        self._write("memory.memsw.limit_in_bytes", text, optional=True)

    @property
    def current_bytes(self) -> int:
        return int(self._text("memory.usage_in_bytes" if self.version == 1 else "memory.current"))

    @property
    def oom_kills(self) -> int:
        text = self._text("memory.oom_control" if self.version == 1 else "memory.events")
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))

    @property
    def peak_bytes(self) -> int | None:
        """The most that was ever charged, page cache included; None on a v2 kernel without memory.peak (5.19)."""
        try:
            return int(self._text("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"))
        except FileNotFoundError:
            return None

    @property
    def pids(self) -> list[int]:
        return [int(word) for word in self._text("cgroup.procs").split()]

    def add(self, pid: int) -> None:
        """Move a process here. What it already uses stays charged to where it was."""
        self._write("cgroup.procs", str(pid))

    def command(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command that joins this group and then becomes ``argv``, so that not a byte is charged elsewhere."""
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return ["/bin/sh", "-c", script, str(self.folder), *(os.fspath(word) for word in argv)]

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
    ) -> GroupRun:
        """Run to the end. Past the time-out everything in the group is killed."""
        kills = self.oom_kills
        if self.version == 1:
            self._write("memory.max_usage_in_bytes", "0", optional=True)
        started_s = time.monotonic()
        process = subprocess.Popen(
            self.command(argv), env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        timed_out = False
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            self.kill()
            stdout, stderr = process.communicate()
        return GroupRun(
            process.returncode,
            stdout,
            stderr,
            self.oom_kills > kills,
            timed_out,
            self.peak_bytes,
            time.monotonic() - started_s,
        )

    def kill(self) -> None:
        """SIGKILL to everything in the group."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def drop_cache(self) -> None:
        """Let the kernel take back what it can, so that the next run starts cold."""
        if self.version == 1:
            self._write("memory.force_empty", "0", optional=True)
        else:
            self._write("memory.reclaim", str(self.current_bytes), optional=True)

    def remove(self) -> None:
        """Kill what is left and remove the group."""
        deadline_s = time.monotonic() + 10
        while True:
            self.kill()
            # Otherwise the cache keeps a dead group alive in the kernel.
            self.drop_cache()
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if time.monotonic() > deadline_s:
                    raise EtlkitError(
                        f"the cgroup {self.folder} cannot be removed: {error.strerror}",
                        f"end the processes in {self.folder}/cgroup.procs, then rmdir it",
                    ) from error
            time.sleep(0.02)

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    def _write(self, name: str, text: str, *, optional: bool = False) -> None:
        try:
            # Without O_CREAT: a file that the kernel does not offer cannot be made.
            fd = os.open(self.folder / name, os.O_WRONLY)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError:
            if not optional:
                raise


def unavailable() -> str | None:
    """Why no memory group can be made here; None where one can."""
    try:
        _parent()
    except EtlkitError as error:
        return error.message
    return None


@contextlib.contextmanager
def make_group(limit_bytes: int | None = None) -> Iterator[RealGroup]:
    """A new group with a hard limit and no swap, removed at the end."""
    parent, version = _parent()
    group = RealGroup(parent / f"etlkit-{os.getpid()}-{next(_numbers)}", version)
    group.folder.mkdir()
    try:
        group.set_limit(limit_bytes)
        yield group
    finally:
        group.remove()


def _parent() -> tuple[Path, int]:
    """The topmost folder that a memory group can be made in."""
    reason = "there is no memory cgroup mount"
    for mount in read_mounts(Path("/")):
        folder = Path(mount.point)
        if mount.version == 1 and "memory" not in mount.controllers:
            continue
        if not os.access(folder, os.W_OK):
            reason = f"{folder} may not be written (it takes root)"
            continue
        if mount.version == 1:
            return folder, 1
        if "memory" not in (folder / "cgroup.controllers").read_text().split():
            reason = f"{folder} has no memory controller"
            continue
        try:
            (folder / "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            # A group that holds processes cannot hand controllers down, unless it is the real root.
            reason = f"{folder} cannot hand the memory controller down: {error.strerror}"
            continue
        return folder, 2
    raise EtlkitError(reason, "run as root, or inside User-Mode Linux (etlkit.testing.uml)")
