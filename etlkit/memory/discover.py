"""Which files say what this process may use: from /proc/self/cgroup and /proc/self/mountinfo.

Covers cgroup v1, v2 and hybrid mounts, private and host cgroup namespaces, nested groups up to the mount root, and
``ETLKIT_CGROUP``. It does not read a single number: that is for ``cgroup_v1``, ``cgroup_v2`` and ``process``.
Limits above the mount root are out of sight in a private namespace (v1 alone tells them, in memory.stat).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import ConfigError
from ..lazyclass import dataclass
from .cgroup_v1 import CgroupV1Reader
from .cgroup_v2 import CgroupV2Reader
from .process import ProcessReader
from .sample import MemoryReader

# The file by which a folder is known to have the controller.
_V1_MARKERS = {"memory": "memory.stat", "cpu": "cpu.stat", "cpuacct": "cpuacct.usage"}
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One cgroup mount: the hierarchy's folder ``inside`` is seen at ``point``."""

    inside: str
    point: str
    version: int
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Group:
    """The folders of one controller for this process: its own first, then up to the mount root."""

    version: int
    levels: tuple[Path, ...]


def find_reader(root: str | os.PathLike[str] = "/", environ: Mapping[str, str] | None = None) -> MemoryReader:
    """The reader for the memory this process is held to.

    ``root`` is where /proc and the mount points are looked up, for tests. ``ETLKIT_CGROUP`` names a folder shaped
    like a v2 group to read instead. Without a memory cgroup it is the process's own size, and no limit.
    """
    folder = (os.environ if environ is None else environ).get("ETLKIT_CGROUP")
    if folder:
        path = Path(folder)
        if not (path / "memory.current").is_file():
            raise ConfigError(
                f"ETLKIT_CGROUP is '{folder}', and there is no file memory.current in it",
                "name a folder shaped like a cgroup v2 group (memory.max, memory.current), or unset the variable",
            )
        return CgroupV2Reader((path,), keep_open=False)
    base = Path(root)
    group = find_group("memory", base)
    if group is None:
        return ProcessReader(base)
    if group.version == 1:
        return CgroupV1Reader(group.levels, base)
    return CgroupV2Reader(group.levels, base)


def find_group(controller: str, root: Path) -> Group | None:
    """The group of this process that has ``controller``; None where there is none but the machine's own root."""
    paths, mounts = _read_memberships(root), read_mounts(root)
    own_v1 = paths.get(controller)
    if own_v1 is not None:
        for mount in mounts:
            if mount.version == 1 and controller in mount.controllers:
                levels = _levels(mount, own_v1, root, _V1_MARKERS[controller], _is_v1_root)
                if levels:
                    return Group(1, levels)
    own_v2 = paths.get("")
    if own_v2 is not None:
        # The root of a v2 hierarchy has no memory.current and no cpu.max: only a real group does.
        marker = "memory.current" if controller == "memory" else f"{controller}.max"
        for mount in mounts:
            if mount.version == 2:
                levels = _levels(mount, own_v2, root, marker, lambda _folder: False)
                if levels:
                    return Group(2, levels)
    return None


def read_mounts(root: Path) -> list[Mount]:
    """Every cgroup mount, in the order of /proc/self/mountinfo."""
    mounts = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        # v1 writes its controllers into the super options: rw,memory or rw,cpu,cpuacct.
        mounts.append(
            Mount(
                _unescape(fields[3]),
                _unescape(fields[4]),
                1 if kind[0] == "cgroup" else 2,
                frozenset(kind[2].split(",")),
            )
        )
    return mounts


def _read_memberships(root: Path) -> dict[str, str]:
    """Controller → path below the hierarchy's root; the key is empty for v2."""
    paths: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, first, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if not (number and first and second):
            continue
        # A process whose group was removed under it carries this mark.
        path = path.removesuffix(" (deleted)")
        for name in controllers.split(","):
            paths[name] = path
    return paths


def _levels(mount: Mount, own: str, root: Path, marker: str, is_machine: Callable[[Path], bool]) -> tuple[Path, ...]:
    """Folders from the process's own group up to the mount root, those that hold ``marker``."""
    top = root / mount.point.lstrip("/")
    inside = mount.inside.rstrip("/")
    below = own == inside or own.startswith(inside + "/")
    # The mount may show another part of the tree than the one we are told we are in (a bind mount made before the
    # namespace was). What is mounted for us is then the best there is.
    parts = [part for part in own[len(inside) :].split("/") if part] if below else []
    if ".." in parts:
        parts = []
    folders = [top.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]
    return tuple(folder for folder in folders if (folder / marker).is_file() and not is_machine(folder))


def _is_v1_root(folder: Path) -> bool:
    """Only the root of a v1 hierarchy has a release agent. Its numbers are the whole machine's."""
    return (folder / "release_agent").exists()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found.group(1), 8)), text)
