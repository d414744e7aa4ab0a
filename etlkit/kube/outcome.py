"""What a pod object says, and where a resize stands. Pure, standard library only.

``read_pod`` takes a pod as the API server prints it (1.33 and newer) and one container or sidecar of it.
``ResizeTracker`` follows one wanted size through requested, in progress, deferred, error, to one of the final
outcomes, from levels and never from edges (F21): each observation is judged alone, whatever came before it was missed.
Times are handed in, from one monotonic clock of ours; the server's clock is never read. Nothing here asks the server
or reads a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..decide.events import FINAL_OUTCOMES, ResizeMode, ResizeOutcome
from ..errors import UsageError
from ..units import format_bytes, format_seconds, parse_bytes, parse_cpu

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
PAGE_SLACK_BYTES = 64 * 1024
"""The kernel rounds a limit down to whole pages, which are at most this large."""


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


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a resize stands at one moment, in a word and in a sentence."""

    outcome: ResizeOutcome
    message: str

    @property
    def final(self) -> bool:
        return self.outcome in FINAL_OUTCOMES


@dataclass(frozen=True, slots=True)
class Deadlines:
    stuck_s: float = 5.0
    """A live resize takes some 0.1 s. One that the kubelet holds in progress this long is failing (F5), though its
    condition gives no reason."""
    settle_s: float = 0.5
    """Without a limit file, the status must say done for this long: it can flip back for a moment."""
    silent_s: float = 30.0
    """No pod could be read for this long: nobody knows where the resize stands."""
    withdraw_s: float = 10.0
    """A withdrawn size that the kubelet has not confirmed by then counts as withdrawn: nobody wants it any more."""


class ResizeTracker:
    """Follows one accepted resize of memory, cpu or both. Not thread-safe; it keeps times and the last standing.

    ``limit_file_bytes`` is the cgroup's own word on memory. Where there is one, it alone says that memory is actuated;
    the status may be early and late. A watcher outside (``etlkit resize --wait``) has none and goes by the status.
    """

    def __init__(
        self,
        target: Resources,
        before: PodView,
        at_s: float,
        *,
        generation: int = 0,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.target = target
        self._mode = before.memory_policy if target.limit_bytes is not None else before.cpu_policy
        self._shrinks = (target.limit_bytes or 0) < (before.limit_bytes or 0)
        self._generation = generation
        self._deadlines = deadlines or Deadlines()
        self._seen_at_s = at_s
        self._done_since_s: float | None = None
        self._progress_since_s: float | None = None
        self._withdrawn_at_s: float | None = None
        self.standing = Standing(ResizeOutcome.REQUESTED, "taken by the API server; the kubelet has not answered yet")

    @property
    def withdrawing(self) -> bool:
        return self._withdrawn_at_s is not None

    def withdraw(self, target: Resources, at_s: float, generation: int = 0) -> None:
        """The API server took the old size again: from now on wait for the kubelet to see that."""
        self.target = target
        self._generation = generation
        self._withdrawn_at_s = self._seen_at_s = at_s
        self._done_since_s = self._progress_since_s = None

    def observe(self, view: PodView | None, limit_file_bytes: int | None, at_s: float) -> Standing:
        """``view`` None: the pod could not be read this time (or was not asked)."""
        if not self.standing.final:
            self.standing = self._judge(view, limit_file_bytes, at_s)
        return self.standing

    def _judge(self, view: PodView | None, limit_file_bytes: int | None, at_s: float) -> Standing:
        if not self.withdrawing and self._limit_file_says_so(limit_file_bytes):
            return Standing(ResizeOutcome.ACTUATED, f"the limit is {format_bytes(limit_file_bytes or 0)} now")
        if view is not None:
            self._seen_at_s = at_s
            self._note_levels(view, at_s)
        if self.withdrawing:
            return self._judge_withdrawal(view, at_s)
        if view is None:
            return self._judge_silence(at_s)
        return self._judge_view(view, limit_file_bytes, at_s)

    def _judge_view(self, view: PodView, limit_file_bytes: int | None, at_s: float) -> Standing:
        if view.generation < self._generation:
            return self.standing  # an older answer than the one to our own PATCH
        if not _wanted(self.target, view.spec):
            size = format_bytes(view.spec.limit_bytes or 0)
            return Standing(ResizeOutcome.WITHDRAWN, f"somebody else changed the wanted size; it is {size} now")
        if not view.observed:
            return self._stuck(at_s) or self.standing
        pending = _condition(view, PENDING)
        if pending is not None and pending.reason == "Infeasible":
            return Standing(ResizeOutcome.INFEASIBLE, explain_pending(pending))
        if pending is not None:
            return Standing(ResizeOutcome.DEFERRED, explain_pending(pending))
        progress = _condition(view, IN_PROGRESS)
        if progress is not None and progress.reason == "Error":
            return Standing(ResizeOutcome.ERROR, f"the kubelet could not apply it and keeps trying: {progress.message}")
        if progress is not None:
            return self._stuck(at_s) or Standing(ResizeOutcome.IN_PROGRESS, self._progress_words())
        done_for_s = self._done_for_s(at_s)
        if limit_file_bytes is None or self.target.limit_bytes is None:
            if done_for_s >= self._deadlines.settle_s:
                return Standing(ResizeOutcome.ACTUATED, "the pod's status says that it is in force")
        elif done_for_s >= self._deadlines.stuck_s:
            seen = format_bytes(limit_file_bytes)
            return Standing(ResizeOutcome.ERROR, f"the pod's status says done, but the cgroup's limit is {seen}")
        return self._stuck(at_s) or self.standing

    def _note_levels(self, view: PodView, at_s: float) -> None:
        done = view.settled and view.generation >= self._generation and _wanted(self.target, view.actual)
        self._done_since_s = (self._done_since_s if self._done_since_s is not None else at_s) if done else None
        moving = view.observed and _condition(view, IN_PROGRESS) is not None
        self._progress_since_s = (
            (self._progress_since_s if self._progress_since_s is not None else at_s) if moving else None
        )

    def _judge_withdrawal(self, view: PodView | None, at_s: float) -> Standing:
        assert self._withdrawn_at_s is not None
        seen = view is not None and view.generation >= self._generation
        if seen and self._done_since_s is not None:
            return Standing(ResizeOutcome.WITHDRAWN, "the old size is the wanted one again")
        if at_s - self._withdrawn_at_s >= self._deadlines.withdraw_s:
            return Standing(
                ResizeOutcome.WITHDRAWN, "the old size is the wanted one again; the kubelet has not confirmed it yet"
            )
        return self.standing

    def _judge_silence(self, at_s: float) -> Standing:
        silent_s = at_s - self._seen_at_s
        if silent_s >= self._deadlines.silent_s:
            return Standing(
                ResizeOutcome.UNREACHABLE,
                f"accepted, but no answer from the API server for {format_seconds(silent_s)}; it may still be granted",
            )
        return self.standing

    def _stuck(self, at_s: float) -> Standing | None:
        """Held in progress by a kubelet that says no reason. Only live: a restart may take the whole grace period."""
        since_s = self._progress_since_s
        if self._mode is not ResizeMode.LIVE or since_s is None or at_s - since_s < self._deadlines.stuck_s:
            return None
        why = (
            "the new limit is most likely below what is in use, clean page cache included; it may land in a later dip"
            if self._shrinks
            else "the pod's events say why (kubectl describe pod)"
        )
        return Standing(ResizeOutcome.ERROR, f"in progress for {format_seconds(at_s - since_s)} and not applied: {why}")

    def _progress_words(self) -> str:
        if self._mode is ResizeMode.RESTART:
            return "the node has room; the container is being restarted with the new size"
        return "the node has room; the kubelet is applying it"

    def _limit_file_says_so(self, limit_file_bytes: int | None) -> bool:
        target = self.target.limit_bytes
        if limit_file_bytes is None or target is None or self.target.limit_millis is not None:
            return False
        return target - PAGE_SLACK_BYTES < limit_file_bytes <= target

    def _done_for_s(self, at_s: float) -> float:
        return -1.0 if self._done_since_s is None else at_s - self._done_since_s


_ROOM = re.compile(r"(memory|cpu), requested: (\d+), used: (\d+), capacity: (\d+)")


def explain_pending(condition: Condition) -> str:
    """Deferred and Infeasible in words, then the kubelet's own."""
    room = _ROOM.search(condition.message)
    words = ""
    if room is not None:
        what, numbers = room.group(1), [int(n) for n in room.groups()[1:]]
        wanted, used, capacity = (
            (format_bytes(n) for n in numbers) if what == "memory" else (f"{n / 1000:g} cores" for n in numbers)
        )
        words = f": it wants {wanted} of {what} where {used} of {capacity} are promised to others"
    if condition.reason == "Infeasible":
        return f"this node can never grant it{words} ({condition.message})"
    return (
        f"the node has no room now{words}. It is granted when others leave, at any later moment,"
        f" unless it is withdrawn ({condition.message})"
    )


def _wanted(target: Resources, found: Resources) -> bool:
    """Everything that the target names is what was found."""
    return (target.limit_bytes is None or target.limit_bytes == found.limit_bytes) and (
        target.limit_millis is None or target.limit_millis == found.limit_millis
    )


def _condition(view: PodView, kind: str) -> Condition | None:
    return next((c for c in view.conditions if c.type == kind), None)


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
