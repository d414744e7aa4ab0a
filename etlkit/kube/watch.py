"""Following a Job: its pods, their restarts and sizes, and the new lines of their logs since the last look.

Covers one look (``JobWatch.look``), by polling: no connection is held, so that a lost one costs a look. Lines are
told apart by the times that the kubelet gives them. A container that ended between two looks is read to its end by
``previous``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .answer import Kind
from .apply import condition
from .cluster import Cluster, refused
from .pod import PodView, read_pod
from .recorder import SOURCE
from .trouble import Trouble, troubles

Json = Mapping[str, Any]
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"


@dataclass(frozen=True, slots=True)
class Ended:
    """One end of the container: from its status, so that it is seen even where the log is lost."""

    exit_code: int
    reason: str
    message: str
    number: int
    """How many ends there have been: 1 for the first."""


@dataclass(frozen=True, slots=True)
class PodLook:
    name: str
    index: int | None
    view: PodView
    ended: Ended | None
    """The last end of the container, if it has ended before."""
    lines: tuple[str, ...]
    """New ones, without their times."""


@dataclass(frozen=True, slots=True)
class Look:
    kind: str
    name: str
    condition: str
    """``Complete``, ``Failed``, or nothing while it runs."""
    pods: tuple[PodLook, ...]
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """An event that a pod has created about itself."""

    at: str
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class _Cursor:
    """How far one container's log has been read."""

    at: str | None = None
    seen: set[str] = field(default_factory=set)
    """The lines with exactly that time."""
    container_id: str = ""


class JobWatch:
    """A Job, or a bare pod, by name."""

    def __init__(self, cluster: Cluster, name: str, container: str = "etl", *, logs: bool = True) -> None:
        self._cluster = cluster
        self.name = name
        self._container = container
        self._logs = logs
        self._cursors: dict[str, _Cursor] = {}
        self.kind = ""

    def look(self) -> Look:
        """Errors: ``refused``'s, when the Job is not there or may not be read."""
        found = self._find()
        pods = self._pods(found)
        looks = tuple(self._pod(pod) for pod in pods)
        events: Sequence[Json] = ()
        if not pods or any((p.get("status") or {}).get("phase") == "Pending" for p in pods):
            answer = self._cluster.list("Event")
            events = answer.body.get("items") or () if answer.ok else ()
        # A Job without pods may be one whose pods can't be made: only its events say why.
        return Look(self.kind, self.name, condition(self.kind, found), looks, tuple(troubles(found, pods, events)))

    def told(self) -> list[Told]:
        """What the pods said of their resizes, oldest first, as far as they may create events and we may read them."""
        answer = self._cluster.list("Event", fieldSelector=f"source={SOURCE}")
        if not answer.ok:
            return []
        names = {str(pod["metadata"]["name"]) for pod in self._pods(self._find())}
        found = [
            one for one in answer.body.get("items") or () if (one.get("involvedObject") or {}).get("name") in names
        ]
        return [
            Told(*(str(one.get(key) or "") for key in ("lastTimestamp", "type", "reason", "message")))
            for one in sorted(found, key=lambda one: str(one.get("lastTimestamp") or ""))
        ]

    def _find(self) -> Json:
        kinds = (self.kind,) if self.kind else ("Job", "Pod")
        for kind in kinds:
            answer = self._cluster.get(kind, self.name)
            if answer.ok:
                self.kind = kind
                return answer.body
            if answer.kind is not Kind.NOT_FOUND or kind == kinds[-1]:
                raise refused(answer, f"{kinds[0]} {self._cluster.namespace}/{self.name}")
        raise AssertionError("the last kind raises")

    def _pods(self, found: Json) -> list[Json]:
        if self.kind == "Pod":
            return [found]
        answer = self._cluster.list("Pod", labelSelector=f"{JOB_NAME}={self.name}")
        if not answer.ok:
            raise refused(answer, f"the pods of Job {self.name}")
        pods = [p for p in answer.body.get("items") or () if isinstance(p, Mapping)]
        return sorted(pods, key=lambda p: (_index(p) or 0, str(p["metadata"].get("creationTimestamp", ""))))

    def _pod(self, pod: Json) -> PodLook:
        view = read_pod(pod, self._container)
        statuses = (pod.get("status") or {}).get("containerStatuses") or ()
        status: Json = next((s for s in statuses if s.get("name") == self._container), {})
        lines = tuple(self._read(view)) if self._logs else ()
        return PodLook(view.name, _index(pod), view, _ended(status), lines)

    def _read(self, view: PodView) -> list[str]:
        cursor = self._cursors.setdefault(view.name, _Cursor())
        lines: list[str] = []
        if not view.container_id:
            return lines
        # One that has restarted before the first look, too.
        if cursor.container_id != view.container_id and (cursor.container_id or view.restart_count):
            lines += self._since(view.name, cursor, previous=True)
        cursor.container_id = view.container_id
        return lines + self._since(view.name, cursor, previous=False)

    def _since(self, pod: str, cursor: _Cursor, *, previous: bool) -> list[str]:
        # The server takes whole seconds, so that some lines come twice.
        since = None if cursor.at is None else cursor.at[:19] + "Z"
        answer = self._cluster.log(pod, self._container, since=since, previous=previous)
        fresh: list[str] = []
        # A log that can't be read now (the container is being made) is read at the next look.
        for line in answer.message.splitlines() if answer.ok else ():
            at, _, text = line.partition(" ")
            if cursor.at is not None and (at < cursor.at or (at == cursor.at and text in cursor.seen)):
                continue
            if at != cursor.at:
                cursor.at, cursor.seen = at, set()
            cursor.seen.add(text)
            fresh.append(text)
        return fresh


def _index(pod: Json) -> int | None:
    given = ((pod.get("metadata") or {}).get("annotations") or {}).get(INDEX)
    return int(given) if isinstance(given, str) and given.isdigit() else None


def _ended(status: Json) -> Ended | None:
    ended = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
    if not ended:
        return None
    number = int(status.get("restartCount") or 0) + ("running" not in (status.get("state") or {}))
    return Ended(int(ended.get("exitCode", 0)), str(ended.get("reason", "")), str(ended.get("message") or ""), number)
