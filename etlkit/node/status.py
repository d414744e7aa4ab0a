"""The pod's status, written from what the kubelet knows. Pure.

Covers the fields and their order as recorded: conditions (present and True, or absent), container statuses,
allocated and actual resources of containers and pod. It does not decide when they move: ``kubelet`` does.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import spec
from .answers import Json

NO_ROOM = (
    "0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, "
    "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
)
_BASE = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


@dataclass(slots=True)
class ContainerView:
    """One container as the status shows it."""

    name: str
    sidecar: bool
    image: str
    allocated: Json
    actual: Json
    state: Json = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Json = field(default_factory=dict)
    restart_count: int = 0
    container_id: str = ""


@dataclass(slots=True)
class ResizeView:
    """The two resize conditions; None where absent (F21)."""

    pending: Json | None = None
    in_progress: Json | None = None


def condition(kind: str, now: str, *, reason: str = "", message: str = "") -> Json:
    """A resize condition, without the generation: that is added when it is shown."""
    found: Json = {"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
    if reason:
        found |= {"reason": reason}
    if message:
        found |= {"message": message}
    return found


def unschedulable() -> Json:
    """The only condition of a pod that the scheduler finds no room for."""
    found = condition("PodScheduled", spec.now_text(), reason="Unschedulable", message=NO_ROOM)
    return found | {"status": "False"}


def terminated(view: ContainerView, exit_code: int, reason: str, message: str = "") -> Json:
    """The state of a container that has just ended."""
    since = view.state.get("running", {}).get("startedAt", spec.now_text())
    return {
        "terminated": {
            "exitCode": exit_code,
            "reason": reason,
            "startedAt": since,
            "finishedAt": spec.now_text(),
            "containerID": view.container_id,
        }
        | ({"message": message} if message else {})
    }


def write(
    pod: Json,
    views: Sequence[ContainerView],
    resize: ResizeView,
    *,
    phase: str,
    observed_generation: int,
    first_requests: Json,
    extra_conditions: Sequence[Json] = (),
) -> None:
    """Replaces ``pod["status"]``. Of ``first_requests``, the pod's at its start, memory stays (recorded)."""
    before = pod["status"]
    status: Json = {"observedGeneration": observed_generation, "phase": phase}
    status["conditions"] = _conditions(before, views, resize, phase, observed_generation, extra_conditions)
    for kept in ("hostIP", "hostIPs", "podIP", "podIPs", "startTime"):
        status[kept] = before[kept]
    for key, sidecar in (("initContainerStatuses", True), ("containerStatuses", False)):
        shown = [_container(view, phase) for view in views if view.sidecar is sidecar]
        if shown:
            status[key] = shown
    status["qosClass"] = before["qosClass"]
    allocated = {view.name: view.allocated for view in views}
    actual = {view.name: view.actual for view in views}
    sums = {"limits": spec.summed(actual, "limits"), "requests": spec.summed(actual, "requests")}
    if "memory" in first_requests:
        sums["requests"]["memory"] = first_requests["memory"]
    status["allocatedResources"] = spec.summed(allocated, "requests")
    status["resources"] = {kind: values for kind, values in sums.items() if values}
    pod["status"] = status


def _conditions(
    before: Json,
    views: Sequence[ContainerView],
    resize: ResizeView,
    phase: str,
    generation: int,
    extra: Sequence[Json],
) -> list[Json]:
    now = spec.now_text()
    known = {found["type"]: found for found in before.get("conditions") or ()}
    shown: list[Json] = [
        {"type": given["type"], "observedGeneration": generation, **given}
        for given in (resize.pending, resize.in_progress, *extra)
        if given is not None
    ]
    running = all("running" in view.state for view in views)
    for kind in _BASE:
        true = running if kind in ("Ready", "ContainersReady") else phase != "Pending" or kind == "PodScheduled"
        value = "True" if true else "False"
        old = known.get(kind)
        since = old["lastTransitionTime"] if old is not None and old["status"] == value else now
        shown.append(
            {
                "type": kind,
                "observedGeneration": generation,
                "status": value,
                "lastProbeTime": None,
                "lastTransitionTime": since,
            }
        )
    return shown


def _container(view: ContainerView, phase: str) -> Json:
    running = "running" in view.state
    image_id = hashlib.sha256(view.image.encode()).hexdigest()
    shown: Json = {
        "name": view.name,
        "state": copy.deepcopy(view.state),
        "lastState": copy.deepcopy(view.last_state),
        "ready": running,
        "restartCount": view.restart_count,
        "image": view.image,
        "imageID": f"sha256:{image_id}",
        "containerID": view.container_id,
        "started": running,
        "allocatedResources": copy.deepcopy(view.allocated.get("requests") or {}),
        "resources": copy.deepcopy(view.actual),
    }
    if phase in ("Succeeded", "Failed"):
        shown["started"] = False
    return shown
