"""What an operator may do through the API server, and a pod may not: create and delete Jobs and pods, drain, read logs.

    GET    /api/v1/nodes                                   GET    /api/v1/pods
    GET    /api/v1/namespaces/NS
    POST   /api/v1/namespaces/NS/pods                      DELETE /api/v1/namespaces/NS/pods/NAME
    POST   /api/v1/namespaces/NS/pods/NAME/eviction        GET    /api/v1/namespaces/NS/pods/NAME/log[?container=&previous=]
    POST   /apis/batch/v1/namespaces/NS/jobs               DELETE /apis/batch/v1/namespaces/NS/jobs/NAME
    PATCH  /apis/batch/v1/namespaces/NS/jobs/NAME          (only: suspend false)

A manifest's command runs as a process of this machine; its image is a name only.
"""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from typing import Protocol

from . import answers, quantity, spec
from .answers import ApiError, Json
from .controller import JobHandle
from .kubelet import PodRuntime
from .store import Store


class PodLog:
    """What the containers of a pod, or of a Job's pods, have written; one list of lines a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, list[list[bytes]]] = defaultdict(lambda: [[]])

    def write(self, container: str, line: bytes) -> None:
        with self._lock:
            self._runs[container][-1].append(line)

    def event(self, event: Json) -> None:
        """A container that starts begins a new log."""
        if event["event"] == "container_started" and event["restart_count"] > 0:
            with self._lock:
                self._runs[event["container"]].append([])

    def read(self, container: str, *, previous: bool) -> str:
        with self._lock:
            runs = self._runs[container]
            lines = runs[-1] if not previous else runs[-2] if len(runs) > 1 else []
            return b"".join(lines).decode(errors="replace")


class Backend(Protocol):
    """What these calls need of their node."""

    store: Store
    capacity_bytes: int
    version: Json

    def apply_job(self, manifest: Json) -> JobHandle: ...

    def apply_pod(self, manifest: Json) -> PodRuntime: ...

    def job_handle(self, namespace: str, name: str) -> JobHandle: ...

    def pod_runtime(self, namespace: str, name: str) -> PodRuntime: ...

    def log_of(self, uid: str) -> PodLog: ...


def asked(method: str, parts: list[str]) -> tuple[str, str, str, str, str]:
    """Verb, resource, name, namespace and group of a call, for RBAC."""
    group, rest = (parts[1], parts[3:]) if parts[0] == "apis" else ("", parts[2:])
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, *sub = [*rest, "", ""][: max(2, len(rest))]
    verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update"}.get(method, method.lower())
    return verb, "/".join([resource, *sub]), name, namespace, group


def serve(node: Backend, method: str, parts: list[str], body: Json, query: dict[str, str]) -> tuple[int, Json | str]:
    """The answer. ApiError 404 for everything that is not listed above."""
    match method, parts:
        case "GET", ["api", "v1", "nodes"]:
            return 200, _nodes(node)
        case "GET", ["api", "v1", "pods"]:
            with node.store.lock:
                items = [copy.deepcopy(pod) for pod in node.store.pods.values()]
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
        case "GET", ["api", "v1", "namespaces", namespace]:
            return 200, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}}
        case "POST", ["api", "v1", "namespaces", namespace, "pods"]:
            return 201, copy.deepcopy(node.apply_pod(_named(node, body, namespace, "pods")).pod)
        case "DELETE", ["api", "v1", "namespaces", namespace, "pods", name]:
            pod = node.pod_runtime(namespace, name)
            pod.delete(_grace_s(body, query))
            return 200, copy.deepcopy(pod.pod)
        case "POST", ["api", "v1", "namespaces", namespace, "pods", name, "eviction"]:
            grace_s = _grace_s(body.get("deleteOptions") or {}, query)
            node.pod_runtime(namespace, name).delete(grace_s, "EvictionByEvictionAPI")
            return 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        case "GET", ["api", "v1", "namespaces", namespace, "pods", name, "log"]:
            pod = node.pod_runtime(namespace, name)
            container = query.get("container") or pod.pod["spec"]["containers"][0]["name"]
            previous = query.get("previous") in ("true", "True", "1")
            return 200, node.log_of(pod.pod["metadata"]["uid"]).read(container, previous=previous)
        case "POST", ["apis", "batch", "v1", "namespaces", namespace, "jobs"]:
            node.apply_job(_named(node, body, namespace, "jobs"))
            with node.store.lock:
                return 201, copy.deepcopy(node.store.jobs[(namespace, body["metadata"]["name"])])
        case "PATCH", ["apis", "batch", "v1", "namespaces", namespace, "jobs", name]:
            if (body.get("spec") or {}).get("suspend") is False:
                node.job_handle(namespace, name).resume()
            with node.store.lock:
                return 200, copy.deepcopy(node.store.jobs[(namespace, name)])
        case "DELETE", ["apis", "batch", "v1", "namespaces", namespace, "jobs", name]:
            node.job_handle(namespace, name).stop()
            with node.store.lock:
                return 200, node.store.jobs.pop((namespace, name))
    raise answers.no_such_path()


def _named(node: Backend, body: Json, namespace: str, kind: str) -> Json:
    """The manifest, in the namespace of the path, if its name is free."""
    manifest = copy.deepcopy(body)
    meta = manifest.setdefault("metadata", {})
    name = str(meta.get("name", ""))
    if meta.setdefault("namespace", namespace) != namespace:
        raise answers.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    with node.store.lock:
        taken = node.store.pods if kind == "pods" else node.store.jobs
        if (namespace, name) in taken:
            shown = "pods" if kind == "pods" else "jobs.batch"
            details: Json = {"name": name, "kind": shown}
            message = f'{shown} "{name}" already exists'
            raise ApiError(409, answers.failure(409, "AlreadyExists", message, details))
    return manifest


def _grace_s(options: Json, query: dict[str, str]) -> float | None:
    given = options.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    return None if given is None else float(given)


def _nodes(node: Backend) -> Json:
    memory = str(node.capacity_bytes)
    item: Json = {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": "node1"},
        "spec": {},
        "status": {
            "capacity": {"memory": memory},
            "allocatable": {"memory": quantity.canonical(memory)},
            "nodeInfo": {"kubeletVersion": node.version["gitVersion"]},
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": spec.now_text()}],
        },
    }
    return {"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [item]}
