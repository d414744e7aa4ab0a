"""What a pod object says of one container. Pure, standard library only.

``read_pod`` takes a pod as the API server prints it (1.33 and newer) and one container or sidecar of it. Where a
resize stands is judged in ``outcome.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..decide.events import ResizeMode
from ..errors import UsageError
from ..lazyclass import dataclass
from ..units import parse_bytes, parse_cpu

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of one container; None where nothing is said."""

    limit_bytes: int | None = None
    request_bytes: int | None = None
    limit_millis: int | None = None
    request_millis: int | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    reason: str
    message: str
    observed_generation: int | None


@dataclass(frozen=True, slots=True)
class LastState:
    """How the container's life before this one ended."""

    exit_code: int
    reason: str
    """``OOMKilled``, ``Error``, ``Completed``."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One container of a pod, and what of the pod matters to it."""

    name: str
    namespace: str
    uid: str
    container: str
    sidecar: bool
    """An init container with ``restartPolicy: Always`` (F20)."""
    spec: Resources
    """What is wanted."""
    actual: Resources
    """``containerStatuses[].resources``: what is in force, as far as the kubelet has said."""
    allocated_bytes: int | None
    """What the node has promised; it moves before ``actual`` does (F5)."""
    memory_policy: ResizeMode
    cpu_policy: ResizeMode
    qos: str
    generation: int
    observed_generation: int
    conditions: tuple[Condition, ...]
    """The resize conditions that are True, and no others."""
    restart_count: int
    restart_counts: tuple[int, ...]
    """Of all containers of the pod, init and sidecars included: what a Job adds up (F8)."""
    container_id: str
    state: str
    """``running``, ``waiting``, ``terminated`` or nothing yet."""
    last_state: LastState | None
    restart_policy: str
    grace_s: float
    job: str | None
    """Name of the Job that owns the pod."""
    phase: str
    deleting: bool
    static: bool
    """From a file on the node: the API server can't resize it."""

    @property
    def limit_bytes(self) -> int | None:
        return self.actual.limit_bytes

    @property
    def request_bytes(self) -> int | None:
        return self.actual.request_bytes

    @property
    def oom_killed(self) -> bool:
        return self.last_state is not None and self.last_state.reason == "OOMKilled"

    @property
    def observed(self) -> bool:
        """The kubelet has seen the newest spec, so the conditions are about it."""
        return self.observed_generation >= self.generation

    @property
    def settled(self) -> bool:
        """Done, by F21: seen, no condition, and what is in force is what is wanted.

        The CPU request is left out: the kubelet reports it rounded to the kernel's shares.
        """
        wanted = replace(self.spec, request_millis=None)
        return self.observed and not self.conditions and wanted == replace(self.actual, request_millis=None)


def read_pod(pod: Mapping[str, Any], container: str) -> PodView:
    """Raises ``UsageError`` when the pod has no such container or sidecar."""
    metadata, spec, status = _map(pod, "metadata"), _map(pod, "spec"), _map(pod, "status")
    sidecars = [c for c in _list(spec, "initContainers") if c.get("restartPolicy") == "Always"]
    ordinary = _list(spec, "containers")
    wanted = next((c for c in (*ordinary, *sidecars) if c.get("name") == container), None)
    if wanted is None:
        names = ", ".join(str(c.get("name")) for c in (*ordinary, *sidecars))
        raise UsageError(
            f"pod {metadata.get('name')} has no container or sidecar '{container}'",
            f"it has: {names}; set the container's name",
        )
    statuses = [*_list(status, "containerStatuses"), *_list(status, "initContainerStatuses")]
    now = next((s for s in statuses if s.get("name") == container), {})
    policies = {p.get("resourceName"): p.get("restartPolicy") for p in _list(wanted, "resizePolicy")}
    owners = _list(metadata, "ownerReferences")
    generation = int(metadata.get("generation") or 0)
    ended = _map(_map(now, "lastState"), "terminated")
    state = _map(now, "state")
    grace = spec.get("terminationGracePeriodSeconds")
    return PodView(
        name=str(metadata.get("name", "")),
        namespace=str(metadata.get("namespace", "")),
        uid=str(metadata.get("uid", "")),
        container=container,
        sidecar=wanted not in ordinary,
        spec=read_resources(_map(wanted, "resources")),
        # A server that does not say what is in force can't be asked to change it either; the spec is the best guess.
        actual=read_resources(_map(now, "resources") or _map(wanted, "resources")),
        allocated_bytes=_bytes(_map(now, "allocatedResources").get("memory")),
        memory_policy=_mode(policies.get("memory")),
        cpu_policy=_mode(policies.get("cpu")),
        qos=str(status.get("qosClass", "")),
        generation=generation,
        # 1.33 does not say it; there the conditions and the resources alone decide.
        observed_generation=int(status.get("observedGeneration") or generation),
        conditions=_conditions(status, generation),
        restart_count=int(now.get("restartCount") or 0),
        restart_counts=tuple(int(s.get("restartCount") or 0) for s in statuses),
        container_id=str(now.get("containerID", "")),
        state=next(iter(state), ""),
        last_state=LastState(int(ended.get("exitCode", 0)), str(ended.get("reason", ""))) if ended else None,
        restart_policy=str(spec.get("restartPolicy", "Always")),
        grace_s=float(30 if grace is None else grace),
        job=next((str(o.get("name")) for o in owners if o.get("kind") == "Job"), None),
        phase=str(status.get("phase", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
        static=any(o.get("kind") == "Node" for o in owners)
        or "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}),
    )


def read_resources(resources: Mapping[str, Any]) -> Resources:
    limits, requests = _map(resources, "limits"), _map(resources, "requests")
    return Resources(
        _bytes(limits.get("memory")),
        _bytes(requests.get("memory")),
        _millis(limits.get("cpu")),
        _millis(requests.get("cpu")),
    )


def _conditions(status: Mapping[str, Any], generation: int) -> tuple[Condition, ...]:
    """True ones about the newest spec. A condition that names an older generation is about an older wish."""
    found = []
    for condition in _list(status, "conditions"):
        if condition.get("type") not in (PENDING, IN_PROGRESS) or condition.get("status") != "True":
            continue
        observed = condition.get("observedGeneration")
        if observed is None or int(observed) >= generation:
            reason, message = str(condition.get("reason") or ""), str(condition.get("message") or "")
            found.append(Condition(str(condition["type"]), reason, message, observed))
    return tuple(found)


def _mode(policy: object) -> ResizeMode:
    """NotRequired is the default of a container that says nothing."""
    return ResizeMode.RESTART if policy == ResizeMode.RESTART.value else ResizeMode.LIVE


def _bytes(value: object) -> int | None:
    return None if value is None else parse_bytes(str(value))


def _millis(value: object) -> int | None:
    return None if value is None else round(parse_cpu(str(value)) * 1000)


def _map(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(parent: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    value = parent.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
