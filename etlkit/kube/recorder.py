"""Kubernetes Events on the pod, one for each turn of a resize, where the pod's role lets it create them.

They are for people: `kubectl describe pod` and `etlkit status` show them, long after the log has gone. Nothing waits
for them. They leave on a thread of their own, one try each, and are dropped when the server is slow or the process
ends; at the first "you may not" it asks no more. Standard library only. The right is opt-in (`etlkit manifest --events`).
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ..decide.events import ResizeOutcome
from ..units import format_bytes
from .answer import Answer, Kind
from .outcome import Standing
from .pod import PodView
from .termination import without_passwords

SOURCE, REPORTER = "etlkit", "etlkit.dev/runtime"
MOST_WAITING = 16
MESSAGE_CHARS = 1024
"""As the newer of the two APIs for events allows."""
_OFF = frozenset({Kind.RBAC, Kind.FORBIDDEN, Kind.POLICY, Kind.NOT_FOUND})
_SAID: dict[ResizeOutcome, tuple[str, str]] = {
    ResizeOutcome.REQUESTED: ("Normal", "MemoryResizeRequested"),
    ResizeOutcome.DEFERRED: ("Warning", "MemoryResizeDeferred"),
    ResizeOutcome.ERROR: ("Warning", "MemoryResizeFailing"),
    ResizeOutcome.ACTUATED: ("Normal", "MemoryResizeActuated"),
    ResizeOutcome.INFEASIBLE: ("Warning", "MemoryResizeInfeasible"),
    ResizeOutcome.REFUSED: ("Warning", "MemoryResizeRefused"),
    ResizeOutcome.WITHDRAWN: ("Normal", "MemoryResizeWithdrawn"),
}
"""What is left out: in progress is the kubelet's own news, and an unreachable server takes no event either."""


class EventRecorder:
    """Starts its thread at once, since one may not be had any more when memory is short. No method waits or raises."""

    def __init__(self, send: Callable[[dict[str, Any]], Answer]) -> None:
        self._send = send
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._off = False
        try:
            threading.Thread(target=self._run, name="etlkit-events", daemon=True).start()
        except RuntimeError:
            self._off = True  # no room for another thread: then without events

    def record(self, pod: PodView | None, from_bytes: int | None, to_bytes: int, standing: Standing, why: str) -> None:
        said = _SAID.get(standing.outcome)
        if pod is None or said is None or self._off:
            return
        try:
            self._waiting.put_nowait(event(pod, *said, message(pod, from_bytes, to_bytes, standing, why)))
        except (queue.Full, MemoryError):
            pass

    def close(self) -> None:
        self._off = True
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            pass  # the thread sees that it is off after the next one

    def _run(self) -> None:
        while (body := self._waiting.get()) is not None:
            try:
                self._off |= self._send(body).kind in _OFF
            except Exception:
                pass  # memory may be short just now; the job must not hear of it
            if self._off:
                return


def message(pod: PodView, from_bytes: int | None, to_bytes: int, standing: Standing, why: str) -> str:
    """Sizes and the reason; a refusal's own words may hold anything, so that they are cleaned and cut."""
    sizes = ("" if from_bytes is None else f"{format_bytes(from_bytes)} to ") + format_bytes(to_bytes)
    words = (
        why.removesuffix(f"; asking for {sizes}") if standing.outcome is ResizeOutcome.REQUESTED else standing.message
    )
    text = f"container {pod.container}, {sizes}" + (f": {words}" if words else "")
    return without_passwords(text)[:MESSAGE_CHARS]


def event(pod: PodView, kind: str, reason: str, text: str) -> dict[str, Any]:
    """As the core API has it, which `kubectl describe` looks up by the pod's uid."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    place = "initContainers" if pod.sidecar else "containers"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{pod.name[:220]}.{uuid.uuid4().hex[:16]}", "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "fieldPath": f"spec.{place}{{{pod.container}}}",
        },
        "type": kind,
        "reason": reason,
        "message": text,
        "source": {"component": SOURCE},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "reportingComponent": REPORTER,
        "reportingInstance": pod.name,
    }
