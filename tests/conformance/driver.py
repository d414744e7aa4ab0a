"""What a conformance test asks of a cluster, and the local node's way of doing it.

A test says what container to run (as a shell script, so that any image with ``sh`` will do) and then acts and looks
only through a ``Driver``. The other implementation is ``cluster.py``: a real one.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from etlkit.node.answers import Json
from etlkit.node.controller import JobHandle
from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
from etlkit.units import GIB

PATIENCE_S = 25.0
"""How long anything may take before a test fails. Nothing waits for as long as that when all is well."""

LIMIT = """
limit() {
  if [ -n "$ETLKIT_CGROUP" ]; then read v rest < "$ETLKIT_CGROUP/memory.max"; echo $v; return; fi
  one=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup); two=$(sed -n 's/^0:://p' /proc/self/cgroup)
  for f in "/sys/fs/cgroup/memory$one/memory.limit_in_bytes" "/sys/fs/cgroup$two/memory.max" \\
           /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do
    if [ -r "$f" ]; then cat "$f"; return; fi
  done
}
nap() { sleep 0.05; }
"""
"""The container's own view of its limit: v2, v1, private namespace or not."""

WAITS = LIMIT + "trap 'echo term $(limit); exit 75' TERM; echo start $(limit); while :; do nap; done"
"""Says its limit at the start and at SIGTERM, and ends with 75 then."""


@dataclass(frozen=True)
class Ask:
    """A Job of one pod with one container named ``etl``."""

    script: str = WAITS
    memory: str = "64Mi"
    cpu: str | None = "500m"
    request_memory: str | None = None
    policy: str = "NotRequired"
    restart_policy: str = "OnFailure"
    container: Json = field(default_factory=dict)
    """Merged into the container."""
    pod: Json = field(default_factory=dict)
    """Merged into the pod's spec."""
    sidecars: tuple[Json, ...] = ()
    backoff_limit: int = 6
    grace_s: int = 10
    failure_rules: tuple[Json, ...] = ()
    replacement_policy: str = "Failed"

    def manifest(self, name: str, namespace: str) -> Json:
        made = pod_manifest(
            name,
            ["/bin/sh", "-c", self.script],
            memory=self.memory,
            cpu=self.cpu,
            request_memory=self.request_memory,
            namespace=namespace,
            resize_policy=self.policy,
            restart_policy=self.restart_policy,
            grace_s=self.grace_s,
            sidecars=self.sidecars,
        )
        made["spec"]["containers"][0] |= self.container
        made["spec"] |= self.pod
        return made


class Driver(Protocol):
    """A cluster under test. Names of Jobs and pods are the driver's to make."""

    kind: str
    """``node`` or ``cluster``."""
    minor: int

    def start(self, ask: Ask) -> str:
        """Creates the Job and waits until its pod runs; the pod's name."""

    def refused(self, ask: Ask) -> tuple[int, Json]:
        """Creates a bare pod that must be refused; status and body."""

    def pod(self, name: str) -> Json: ...

    def call(
        self, method: str, path: str, body: Json | None = None, *, content_type: str = "", token: str | None = None
    ) -> tuple[int, Json]:
        """One call of the API, path below the namespace; status and body."""

    def events(self, name: str) -> list[Json]: ...

    def log(self, name: str) -> list[str]:
        """Lines of the container ``etl``, over all its runs, oldest first."""

    def job_condition(self, name: str) -> tuple[str, str]:
        """Type and reason of the Job's end; empty while it runs. ``name`` is the first pod's."""

    def pods_of(self, name: str) -> list[str]:
        """All pods that the Job of this first pod has made, oldest first."""

    def fill(self, leaving: str) -> Callable[[], None]:
        """Takes all room but ``leaving`` (beside what runs); call the answer to give it back."""

    def allocatable_bytes(self) -> int: ...

    def evict(self, name: str) -> None: ...


def resources(memory: str | None = None, cpu: str | None = None, *, request: str | None = None) -> Json:
    limits = ({"memory": memory} if memory else {}) | ({"cpu": cpu} if cpu else {})
    requests = limits | ({"memory": request} if request else {})
    return {"limits": limits, "requests": requests}


def resize_body(values: Json, container: str = "etl", where: str = "containers") -> Json:
    return {"spec": {where: [{"name": container, "resources": values}]}}


def patch(driver: Driver, name: str, body: Json, query: str = "") -> tuple[int, Json]:
    return driver.call(
        "PATCH", f"pods/{name}/resize{query}", body, content_type="application/strategic-merge-patch+json"
    )


def resize(driver: Driver, name: str, memory: str) -> Json:
    """Moves request and limit of ``etl``; the PATCH must be taken."""
    status, body = patch(driver, name, resize_body(resources(memory)))
    assert status == 200, body
    return body


def eventually(what: str, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The first true value of the condition; fails by name when there is none in time."""
    until = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not in {patience_s:g} s: {what}"
        time.sleep(0.01)


def container_status(pod: Json, name: str = "etl") -> Json:
    found: Json = next(
        status
        for status in [*pod["status"].get("containerStatuses", ()), *pod["status"].get("initContainerStatuses", ())]
        if status["name"] == name
    )
    return found


def conditions(pod: Json) -> dict[str, Json]:
    """The resize conditions that are there."""
    return {c["type"]: c for c in pod["status"]["conditions"] if c["type"].startswith("PodResize")}


def settled(pod: Json) -> bool:
    """F21."""
    status = container_status(pod)
    wanted = pod["spec"]["containers"][0]["resources"]
    seen = pod["status"]["observedGeneration"] >= pod["metadata"]["generation"]
    return seen and not conditions(pod) and status.get("resources") == wanted and "running" in status["state"]


class NodeDriver:
    """The local node, through its HTTPS server wherever a pod or an operator would go that way."""

    kind = "node"

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.minor = int(node.version["minor"])
        self.folder = folder
        self._jobs: dict[str, JobHandle] = {}
        self._lines: dict[str, list[str]] = {}
        self._versions: list[Json] = []
        self._number = 0
        self._context = ssl.create_default_context(cafile=str(node.ca_file))
        self._lock = threading.Lock()
        node.store.watchers.append(self._saw)

    def start(self, ask: Ask) -> str:
        self._number += 1
        name = f"job{self._number}"
        lines = self._lines.setdefault(name, [])

        def keep(container: str, line: bytes) -> None:
            if container == "etl":
                lines.append(line.decode().rstrip())

        self._jobs[name] = self.node.start_job(
            ask.manifest(name, self.node.namespace),
            backoff_limit=ask.backoff_limit,
            failure_rules=ask.failure_rules,
            replacement_policy=ask.replacement_policy,
            working_folder=self.folder,
            stdout=keep,
        )
        eventually("the pod runs", lambda: self.pod(name)["status"]["phase"] != "Pending")
        return name

    def refused(self, ask: Ask) -> tuple[int, Json]:
        from etlkit.node.answers import ApiError

        try:
            self.node.start_pod(ask.manifest("never", self.node.namespace))
        except ApiError as error:
            assert isinstance(error.body, dict)
            return error.code, error.body
        raise AssertionError("the pod was accepted")

    def handle(self, name: str) -> JobHandle:
        return self._jobs[name]

    def pod(self, name: str) -> Json:
        status, body = self.call("GET", f"pods/{name}")
        assert status == 200, body
        return body

    def call(
        self, method: str, path: str, body: Json | None = None, *, content_type: str = "", token: str | None = None
    ) -> tuple[int, Json]:
        host, port = self.node.address
        request = urllib.request.Request(
            f"https://{host}:{port}/api/v1/namespaces/{self.node.namespace}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.node.admin_token if token is None else token}"}
            | ({"Content-Type": content_type} if content_type else {}),
        )
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read()
            is_json = error.headers.get("Content-Type", "").startswith("application/json")
            return error.code, json.loads(text) if is_json else {"text": text.decode(), **dict(error.headers)}

    def events(self, name: str) -> list[Json]:
        _, body = self.call("GET", f"events?fieldSelector=involvedObject.name={name}")
        found: list[Json] = body["items"]
        return found

    def log(self, name: str) -> list[str]:
        return list(self._lines[re.sub(r"-\d+$", "", name)])

    def job_condition(self, name: str) -> tuple[str, str]:
        with self.node.store.lock:
            job = self.node.store.jobs[(self.node.namespace, name)]
            found = job["status"].get("conditions") or [{"type": "", "reason": ""}]
            return found[0]["type"], found[0]["reason"]

    def pods_of(self, name: str) -> list[str]:
        return [str(pod.pod["metadata"]["name"]) for pod in self._jobs[name].pods]

    def versions(self, name: str) -> list[Json]:
        """Every state of the pod since it was created, as a watch would see them."""
        with self._lock:
            return [v for v in self._versions if v["kind"] == "Pod" and v["metadata"]["name"] == name]

    def fill(self, leaving: str) -> Callable[[], None]:
        from etlkit.units import parse_bytes, quantity_bytes

        used = self.node.used_by_others("")
        assert self.node.add_pod("blocker", quantity_bytes(self.node.capacity_bytes - used - parse_bytes(leaving)))
        return lambda: self.node.remove_pod("blocker")

    def allocatable_bytes(self) -> int:
        return self.node.capacity_bytes

    def evict(self, name: str) -> None:
        self.node.evict(name)

    def _saw(self, obj: Json) -> None:
        with self._lock:
            self._versions.append(obj)


CAPACITY_BYTES = 4 * GIB


def starts(lines: Sequence[str]) -> list[str]:
    """The limits that the runs saw at their start."""
    return [line.split()[1] for line in lines if line.startswith("start ")]
