"""Real memory limits by cgroup v1: one group a node, a pod and a run of a container.

Covers memory (with swap kept out where the kernel counts it) and the cpu quota where that controller is writable.
Page cache counts as use here, as it does in a pod. It does not set kernel-memory or hugepage limits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from .enforce import Unavailable, orphans, own_group_name

_UNLIMITED = -1
_PERIOD_US = 100_000


def _mount_and_path(controller: str) -> tuple[Path, Path] | None:
    """Where the controller is mounted, and the group of this process in it."""
    mount = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup" and controller in options.split(","):
            fields = left.split()
            mount = (Path(fields[4]), fields[3])
    if mount is None:
        return None
    where, root = mount
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            # In a private mount the path may start with what is mounted.
            inside = path.removeprefix(root) if root != "/" else path
            return where, where / inside.lstrip("/")
    return None


def _write(path: Path, value: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def remove_tree(group: Path, deadline_s: float = 5.0) -> None:
    """Kills what is left in a group that a node made, and removes it with all below it."""
    until = time.monotonic() + deadline_s
    for folder in sorted((p for p in [group, *group.rglob("*")] if p.is_dir()), key=lambda p: -len(p.parts)):
        while folder.exists():
            kill_members(folder)
            try:
                folder.rmdir()
            except OSError:
                if time.monotonic() > until:
                    return
                time.sleep(0.005)


def kill_members(folder: Path) -> int:
    """SIGKILL to every process in the group; how many there were."""
    try:
        pids = [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


class _V1Group:
    """A folder in the memory hierarchy and, where writable, its twin in the cpu hierarchy."""

    def __init__(self, memory: Path, cpu: Path | None) -> None:
        self.memory = memory
        self.cpu = cpu
        for folder in (memory, cpu):
            if folder is not None:
                folder.mkdir()

    def set_memory(self, limit_bytes: int | None) -> None:
        limit = self.memory / "memory.limit_in_bytes"
        swap = self.memory / "memory.memsw.limit_in_bytes"
        value = _UNLIMITED if limit_bytes is None else limit_bytes
        grows = limit_bytes is None or limit_bytes > int(limit.read_text())
        # memory + swap may never be below memory: the larger one moves first.
        files = [swap, limit] if grows else [limit, swap]
        for file in files:
            if file.exists():
                _write(file, str(value))

    def set_cpu(self, cores: float | None) -> None:
        if self.cpu is None:
            return
        quota = _UNLIMITED if cores is None else max(1000, round(cores * _PERIOD_US))
        _write(self.cpu / "cpu.cfs_period_us", str(_PERIOD_US))
        _write(self.cpu / "cpu.cfs_quota_us", str(quota))

    def remove(self) -> None:
        for folder in (self.memory, self.cpu):
            if folder is not None and folder.exists():
                remove_tree(folder)


class _V1Container(_V1Group):
    @property
    def joins(self) -> tuple[Path, ...]:
        folders = [self.memory] if self.cpu is None else [self.memory, self.cpu]
        return tuple(folder / "cgroup.procs" for folder in folders)

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def attach(self, pid: int) -> None:
        """The process has joined by itself."""

    def usage_bytes(self) -> int:
        return int((self.memory / "memory.usage_in_bytes").read_text())

    def peak_bytes(self) -> int:
        return int((self.memory / "memory.max_usage_in_bytes").read_text())

    def oom_kills(self) -> int:
        for line in (self.memory / "memory.oom_control").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def kill_all(self) -> None:
        until = time.monotonic() + 5.0
        while kill_members(self.memory) and time.monotonic() < until:
            time.sleep(0.002)


class _V1Pod(_V1Group):
    def container(self, name: str) -> _V1Container:
        return _V1Container(self.memory / name, None if self.cpu is None else self.cpu / name)


class CgroupV1:
    """Groups below this process's own."""

    name = "v1"
    real = True

    def __init__(self) -> None:
        found = _mount_and_path("memory")
        if found is None:
            raise Unavailable("the memory controller is not mounted as cgroup v1")
        parent = found[1]
        if not os.access(parent, os.W_OK):
            raise Unavailable(f"{parent} is not writable")
        cpu = _mount_and_path("cpu")
        cpu_parent = cpu[1] if cpu is not None and os.access(cpu[1], os.W_OK) else None
        for place in (parent, cpu_parent):
            for orphan in orphans(place) if place is not None else ():
                remove_tree(orphan)
        try:
            name = own_group_name()
            self._root = _V1Group(parent / name, None)
        except OSError as error:
            raise Unavailable(f"no group can be made below {parent}: {error}") from error
        self._cpu_root: Path | None = None
        if cpu_parent is not None:
            try:
                self._cpu_root = cpu_parent / name
                self._cpu_root.mkdir()
                self._root.cpu = self._cpu_root
            except OSError:
                self._cpu_root = None

    def describe(self) -> str:
        cpu = "and cpu " if self._cpu_root is not None else ""
        return f"cgroup v1 memory {cpu}limits below {self._root.memory.parent}: the kernel kills what goes over"

    def pod(self, uid: str) -> _V1Pod:
        return _V1Pod(self._root.memory / f"pod{uid}", self._cpu_root / f"pod{uid}" if self._cpu_root else None)

    def close(self) -> None:
        self._root.remove()
