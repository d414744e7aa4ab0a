"""Real memory limits by cgroup v2, as root or in a group that was delegated to this user.

Covers memory (no swap, ``memory.oom.group=1`` as the kubelet sets it, F13) and the cpu quota. A group with processes
may not hand its controllers on, so a place is looked for from this process's group upwards; this process and its
ancestors are moved into a leaf of their own group only where nobody else is in it, and moved back at the end.
It does not cover how a group comes to be delegated: ``scope`` asks systemd for one.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from .cgroup_v1 import kill_members, remove_tree
from .enforce import Unavailable, orphans, own_group_name

_PERIOD_US = 100_000
_LEAF = "etlkit-self"


def _mount() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] == "cgroup2":
            return Path(left.split()[4])
    return None


def _own(mount: Path) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            return mount / path.lstrip("/")
    return mount


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _writable(group: Path) -> bool:
    return os.access(group, os.W_OK) and os.access(group / "cgroup.procs", os.W_OK)


def _ancestors() -> set[int]:
    """This process and the ones that it descends from."""
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _enable(group: Path) -> bool:
    """Hands memory (and cpu, if there) on to the children of the group; whether memory is."""
    control = group / "cgroup.subtree_control"
    for controller in ("memory", "cpu"):
        if controller in _words(group / "cgroup.controllers") and controller not in _words(control):
            with contextlib.suppress(OSError):
                control.write_text(f"+{controller}")
        if "memory" not in _words(control):
            # cpu alone must not follow: with processes inside it would make this a threaded group, for memory useless.
            return False
    return True


class _V2Group:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def set_memory(self, limit_bytes: int | None) -> None:
        swap = self.folder / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
        (self.folder / "memory.max").write_text("max" if limit_bytes is None else str(limit_bytes))

    def set_cpu(self, cores: float | None) -> None:
        limit = self.folder / "cpu.max"
        if limit.exists():
            quota = "max" if cores is None else str(max(1000, round(cores * _PERIOD_US)))
            limit.write_text(f"{quota} {_PERIOD_US}")

    def remove(self) -> None:
        if self.folder.exists():
            remove_tree(self.folder)


class _V2Container(_V2Group):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._peak_bytes = 0
        group_kill = folder / "memory.oom.group"
        if group_kill.exists():
            group_kill.write_text("1")

    @property
    def joins(self) -> tuple[Path, ...]:
        return (self.folder / "cgroup.procs",)

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def attach(self, pid: int) -> None:
        """The process has joined by itself."""

    def usage_bytes(self) -> int:
        usage = int((self.folder / "memory.current").read_text())
        self._peak_bytes = max(self._peak_bytes, usage)
        return usage

    def peak_bytes(self) -> int:
        peak = self.folder / "memory.peak"  # Linux 5.19 and later
        return int(peak.read_text()) if peak.exists() else max(self._peak_bytes, self.usage_bytes())

    def oom_kills(self) -> int:
        for line in (self.folder / "memory.events").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def kill_all(self) -> None:
        until = time.monotonic() + 5.0
        while kill_members(self.folder) and time.monotonic() < until:
            time.sleep(0.002)


class _V2Pod(_V2Group):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not _enable(folder):
            raise Unavailable(f"{folder} cannot hand the memory controller on")

    def container(self, name: str) -> _V2Container:
        return _V2Container(self.folder / name)


class CgroupV2:
    """A group of this node's own, as near to this process's group as the rules of v2 allow."""

    name = "v2"
    real = True

    def __init__(self) -> None:
        mount = _mount()
        if mount is None:
            raise Unavailable("cgroup v2 is not mounted")
        if "memory" not in _words(mount / "cgroup.controllers"):
            raise Unavailable("cgroup v2 is mounted without the memory controller")
        self._left: Path | None = None
        own = _own(mount)
        parent = self._find(mount, own)
        for orphan in orphans(parent):
            remove_tree(orphan)
        self._root = _V2Group(parent / own_group_name())
        if not _enable(self._root.folder):
            self.close()
            raise Unavailable(f"{self._root.folder} cannot hand the memory controller on")

    def _find(self, mount: Path, own: Path) -> Path:
        """The group to work below: this process's own if it can hand memory on, else one that does already."""
        if _writable(own) and (_enable(own) or self._leave(own, {os.getpid()})):
            return own
        for parent in own.parents:
            inside = parent == mount or mount in parent.parents
            if inside and _writable(parent) and "memory" in _words(parent / "cgroup.subtree_control"):
                return parent
        if _writable(own) and self._leave(own, _ancestors()):
            return own
        raise Unavailable(f"no group from {own} upwards may be written and hands the memory controller on")

    def _leave(self, own: Path, movable: set[int]) -> bool:
        """Moves all members of the own group into a leaf of it, if they are all ``movable``."""
        members = {int(word) for word in _words(own / "cgroup.procs")}
        if not members <= movable:
            return False
        leaf = own / _LEAF
        leaf.mkdir(exist_ok=True)
        self._left = own
        for pid in members:
            (leaf / "cgroup.procs").write_text(str(pid))
        if not _enable(own):
            self._move_back()
            return False
        return True

    def _move_back(self) -> None:
        """Processes may return only when the group hands nothing on any more."""
        own, self._left = self._left, None
        if own is None:
            return
        for controller in _words(own / "cgroup.subtree_control"):
            with contextlib.suppress(OSError):
                (own / "cgroup.subtree_control").write_text(f"-{controller}")
        with contextlib.suppress(OSError):
            for pid in _words(own / _LEAF / "cgroup.procs"):
                (own / "cgroup.procs").write_text(pid)
            (own / _LEAF).rmdir()

    def describe(self) -> str:
        return f"cgroup v2 memory limits below {self._root.folder.parent}: the kernel kills what goes over"

    def pod(self, uid: str) -> _V2Pod:
        return _V2Pod(self._root.folder / f"pod{uid}")

    def close(self) -> None:
        self._root.remove()
        self._move_back()
