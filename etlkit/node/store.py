"""What the API server remembers: pods, jobs, events, under one lock.

Covers versions of objects, and waiting for a change. It does not decide anything.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable

from . import spec
from .answers import Json, bad_value, invalid, not_found

Key = tuple[str, str]


class Store:
    """Objects by namespace and name. Whoever changes one holds ``lock`` and calls ``touch``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._version = 100
        self.pods: dict[Key, Json] = {}
        self.jobs: dict[Key, Json] = {}
        self.events: list[Json] = []
        self.watchers: list[Callable[[Json], None]] = []
        """Each is called with a copy of every object that changes, as a watch would see it."""

    def touch(self, obj: Json) -> None:
        """The object has changed: a new version of it is there to be read."""
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        for watcher in self.watchers:
            watcher(copy.deepcopy(obj))
        self._changed.notify_all()

    def notify(self) -> None:
        """Something that is no object has changed; who waits looks again."""
        with self.lock:
            self._changed.notify_all()

    def pod(self, namespace: str, name: str) -> Json:
        """The stored pod itself, for who holds the lock. ApiError 404 if there is none."""
        found = self.pods.get((namespace, name))
        if found is None:
            raise not_found(name)
        return found

    def read_pod(self, namespace: str, name: str) -> Json:
        """A copy, as an answer."""
        with self.lock:
            return copy.deepcopy(self.pod(namespace, name))

    def wait_until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Waits for a change that makes the condition true; False when the time is over."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self.lock:
            while not condition():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                # Woken by changes; the bound is for conditions that look at more than objects.
                self._changed.wait(0.5 if left is None else min(left, 0.5))
            return True

    def add_event(self, namespace: str, body: Json) -> Json:
        """One that a client made. ApiError 422 where the API server would say so."""
        meta, about = body.get("metadata") or {}, body.get("involvedObject") or {}
        if about.get("namespace") != namespace or meta.get("namespace", namespace) != namespace:
            wrong = bad_value("involvedObject.namespace", str(about.get("namespace")), "does not match event.namespace")
            raise invalid("Event", str(meta.get("name", "")), [wrong])
        with self.lock:
            self._version += 1
            made = {
                "uid": str(uuid.uuid4()),
                "resourceVersion": str(self._version),
                "creationTimestamp": spec.now_text(),
            }
            added = copy.deepcopy({**body, "metadata": {**meta, "namespace": namespace, **made}})
            self.events.append(added)
            self._changed.notify_all()
            return copy.deepcopy(added)

    def event(self, about: Json, kind: str, reason: str, message: str, source: str = "kubelet") -> None:
        """Records an event of the core API about a pod."""
        meta = about["metadata"]
        with self.lock:
            now = spec.now_text()
            self._version += 1
            self.events.append(
                {
                    "kind": "Event",
                    "apiVersion": "v1",
                    "metadata": {
                        "name": f"{meta['name']}.{uuid.uuid4().hex[:16]}",
                        "namespace": meta["namespace"],
                        "uid": str(uuid.uuid4()),
                        "resourceVersion": str(self._version),
                        "creationTimestamp": now,
                    },
                    "involvedObject": {
                        "kind": about.get("kind", "Pod"),
                        "namespace": meta["namespace"],
                        "name": meta["name"],
                        "uid": meta.get("uid", ""),
                    },
                    "reason": reason,
                    "message": message,
                    "source": {"component": source} if source else {},
                    "firstTimestamp": now,
                    "lastTimestamp": now,
                    "count": 1,
                    "type": kind,
                    "reportingComponent": source,
                    "reportingInstance": "",
                }
            )
            self._changed.notify_all()
