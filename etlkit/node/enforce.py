"""How memory is really limited on this machine: the choice, and what every enforcer offers.

Covers the order of preference: a writable cgroup v2 memory controller, cgroup v1 memory, sampling and killing.
It does not cover the starting of a user scope by systemd: that needs a new process and is ``scope``, before the node starts.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..errors import ConfigError

GROUP_PREFIX = "etlkit-node-"
_numbers = itertools.count()


class ContainerGroup(Protocol):
    """What one run of a container is put into. A new run gets a new one."""

    @property
    def joins(self) -> tuple[Path, ...]:
        """Files that the process writes its own id to before it becomes the container."""

    @property
    def environment(self) -> dict[str, str]:
        """What the container must know to find its limit; empty where the kernel tells it."""

    def attach(self, pid: int) -> None:
        """The container's first process is running."""

    def set_memory(self, limit_bytes: int | None) -> None: ...

    def set_cpu(self, cores: float | None) -> None: ...

    def usage_bytes(self) -> int: ...

    def peak_bytes(self) -> int: ...

    def oom_kills(self) -> int: ...

    def kill_all(self) -> None: ...

    def remove(self) -> None: ...


class PodGroup(Protocol):
    """The pod's own group, whose limit is the sum of its containers'."""

    def set_memory(self, limit_bytes: int | None) -> None: ...

    def set_cpu(self, cores: float | None) -> None: ...

    def container(self, name: str) -> ContainerGroup: ...

    def remove(self) -> None: ...


class Enforcer(Protocol):
    """One way of limiting memory. ``real`` says whether survival and smallest-limit figures mean anything."""

    name: str
    real: bool

    def describe(self) -> str: ...

    def pod(self, uid: str) -> PodGroup: ...

    def close(self) -> None: ...


class Unavailable(Exception):
    """This enforcer cannot work here; the text says why."""


def own_group_name() -> str:
    """A name from which a later node can tell whether its maker still lives."""
    return f"{GROUP_PREFIX}{os.getpid()}-{start_ticks(os.getpid())}-{next(_numbers)}"


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot: with the pid it names a process for ever."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def orphans(parent: Path) -> list[Path]:
    """Groups below ``parent`` whose node is dead."""
    found = []
    for child in parent.glob(f"{GROUP_PREFIX}*"):
        match = re.fullmatch(rf"{GROUP_PREFIX}(\d+)-(\d+)-\d+", child.name)
        if match and start_ticks(int(match.group(1))) != int(match.group(2)):
            found.append(child)
    return found


def choose(name: str | None = None) -> Enforcer:
    """The best enforcer that works here, or the one that is asked for."""
    from . import cgroup_v1, cgroup_v2, sampling

    makers: dict[str, Callable[[], Enforcer]] = {
        "v2": cgroup_v2.CgroupV2,
        "v1": cgroup_v1.CgroupV1,
        "sampling": sampling.SamplingEnforcer,
    }
    if name is not None and name not in makers:
        raise ConfigError(f"there is no memory enforcement called '{name}'", f"choose one of {', '.join(makers)}")
    reasons = []
    for key in [name] if name else list(makers):
        try:
            return makers[key]()
        except (Unavailable, OSError) as error:
            reasons.append(f"{key}: {error}")
    raise ConfigError("no memory can be enforced here: " + "; ".join(reasons), "leave the choice to the node")
