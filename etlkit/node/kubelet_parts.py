"""What the kubelet's parts share: what a pod needs of its node, where it runs, and the state of one of its containers.

Covers types only; what is done with them is in ``kubelet`` and ``resizing``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import status
from .answers import Json
from .container import ContainerRun, RunningContainer
from .faults import Faults
from .job import Backoff
from .store import Store
from .timings import Timings


class Host(Protocol):
    """What the pod needs of its node."""

    store: Store
    faults: Faults
    timings: Timings
    capacity_bytes: int

    def used_by_others(self, uid: str) -> int: ...

    def has_room(self, uid: str, request_bytes: int) -> bool: ...

    def infeasible(self, pod: Json, wanted: Mapping[str, Json], allocated: Mapping[str, Json]) -> str | None: ...

    def room_changed(self, leaving: str) -> None: ...

    def pod_changed(self, uid: str) -> None: ...

    def failed(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the pod's processes run and where their output goes."""

    environment: Mapping[str, str]
    api_environment: Mapping[str, str]
    folder: Path
    working_folder: Path | None = None
    stdout: Callable[[str, bytes], None] | None = None
    stderr: Callable[[str, bytes], None] | None = None
    on_event: Callable[[Json], None] | None = None


@dataclass(slots=True, eq=False)
class ContainerState:
    """One container of the pod, with what the status does not say."""

    manifest: Json
    view: status.ContainerView
    backoff: Backoff
    process: RunningContainer | None = None
    run: ContainerRun | None = None
    stopping: str = ""
    """``resize``, ``delete`` or ``finish``: SIGTERM was sent for that."""
    starting: bool = False
    ended: bool = False
    """It will not be started again."""
    starts: int = 0

    @property
    def name(self) -> str:
        return self.view.name
