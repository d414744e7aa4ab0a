"""A real cluster under test, through its API alone. A kubeconfig says where it is; the official client reads it.

Needs a namespace that may be filled, an image with ``sh``, and enough rights to create Jobs and pods there, to list nodes and all
pods, to evict, and to patch ``pods/resize``. The local node answers the same calls, so this is tested without a cluster.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etlkit.node import quantity
from etlkit.node.answers import Json
from etlkit.units import parse_bytes

from .driver import PATIENCE_S, Ask, eventually

LOG_EVERY_S = 0.1


class ClusterDriver:
    """One namespace of a cluster. Everything that it made is deleted at the end."""

    kind = "cluster"

    def __init__(self, configuration: Any, namespace: str, image: str) -> None:
        self.namespace = namespace
        self._image = image
        self._host = configuration.host.rstrip("/")
        self._headers = {str(a["key"]): str(a["value"]) for a in configuration.auth_settings().values()}
        self._context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            self._context.load_cert_chain(configuration.cert_file, configuration.key_file)
        if not configuration.verify_ssl:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        self._jobs: dict[str, str] = {}
        self._seen: dict[str, list[str]] = {}
        self._blockers: list[str] = []
        self._logs: dict[str, dict[str, list[str]]] = {}
        self._reading = threading.Lock()
        self._stop = threading.Event()
        _, version = self._ask("GET", "/version")
        self.minor = int(version["minor"].rstrip("+"))

    @classmethod
    @contextmanager
    def connect(cls, kubeconfig: Path) -> Iterator[ClusterDriver]:
        from kubernetes import config

        configuration = config.new_client_from_config(str(kubeconfig)).configuration
        namespace = os.environ.get("ETLKIT_TEST_NAMESPACE", "etlkit-conformance")
        driver = cls(configuration, namespace, os.environ.get("ETLKIT_TEST_IMAGE", "busybox:1"))
        collector = threading.Thread(target=driver._collect, daemon=True)
        collector.start()
        try:
            yield driver
        finally:
            driver._stop.set()
            collector.join(10)
            driver._clean()

    def start(self, ask: Ask) -> str:
        job = f"conf-{uuid.uuid4().hex[:10]}"
        template = self._fitted(ask.manifest(job, self.namespace))
        spec: Json = {
            "backoffLimit": ask.backoff_limit,
            "podReplacementPolicy": ask.replacement_policy,
            "template": {"spec": template["spec"]},
        }
        if ask.failure_rules:
            spec["podFailurePolicy"] = {"rules": list(ask.failure_rules)}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job}, "spec": spec}
        status, answer = self._ask("POST", f"/apis/batch/v1/namespaces/{self.namespace}/jobs", body)
        assert status == 201, answer
        name: str = eventually("the Job has a pod", lambda: next(iter(self._pods(job)), None))
        self._jobs[name] = job
        self._logs[name] = {}
        eventually("the pod runs", lambda: self.pod(name)["status"]["phase"] != "Pending", 120)
        return name

    def refused(self, ask: Ask) -> tuple[int, Json]:
        manifest = self._fitted(ask.manifest("never", self.namespace))
        body = {"apiVersion": "v1", "kind": "Pod", **manifest}
        return self._ask("POST", f"/api/v1/namespaces/{self.namespace}/pods", body)

    def pod(self, name: str) -> Json:
        status, body = self.call("GET", f"pods/{name}")
        assert status == 200, body
        return body

    def call(
        self, method: str, path: str, body: Json | None = None, *, content_type: str = "", token: str | None = None
    ) -> tuple[int, Json]:
        headers = {"Content-Type": content_type} if content_type else {}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return self._ask(method, f"/api/v1/namespaces/{self.namespace}/{path}", body, headers)

    def events(self, name: str) -> list[Json]:
        _, body = self.call("GET", f"events?fieldSelector=involvedObject.name={name}")
        found: list[Json] = body["items"]
        return found

    def log(self, name: str) -> list[str]:
        self._read_logs(name)
        return [line for lines in self._logs[name].values() for line in lines]

    def job_condition(self, name: str) -> tuple[str, str]:
        status, body = self._ask("GET", f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{self._jobs[name]}")
        assert status == 200, body
        for found in body["status"].get("conditions") or ():
            if found["type"] in ("Complete", "Failed") and found["status"] == "True":
                return found["type"], found["reason"]
        return "", ""

    def pods_of(self, name: str) -> list[str]:
        self._pods(self._jobs[name])
        return list(self._seen[self._jobs[name]])

    def fill(self, leaving: str) -> Callable[[], None]:
        _, pods = self._ask("GET", "/api/v1/pods")
        used = 0
        for pod in pods["items"]:
            if pod["status"]["phase"] in ("Running", "Pending"):
                for container in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]:
                    requests = (container.get("resources") or {}).get("requests") or {}
                    used += quantity.whole(requests.get("memory", 0))
        name = f"blocker-{uuid.uuid4().hex[:8]}"
        wanted = self.allocatable_bytes() - used - parse_bytes(leaving)
        container = {
            "name": "etl",
            "image": self._image,
            "command": ["sh", "-c", "while :; do sleep 1; done"],
            "resources": {"requests": {"memory": str(wanted)}},
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        status, answer = self._ask("POST", f"/api/v1/namespaces/{self.namespace}/pods", body)
        assert status == 201, answer
        self._blockers.append(name)
        eventually("the room is taken", lambda: self.pod(name)["status"]["phase"] == "Running", 60)

        def leave() -> None:
            self.call("DELETE", f"pods/{name}?gracePeriodSeconds=0")
            self._blockers.remove(name)

        return leave

    def allocatable_bytes(self) -> int:
        """Of the only node that pods are placed on: these tests are for a one-node cluster."""
        _, nodes = self._ask("GET", "/api/v1/nodes")
        assert len(nodes["items"]) == 1, "the conformance tests fill a node: they need a cluster with one"
        return quantity.whole(nodes["items"][0]["status"]["allocatable"]["memory"])

    def evict(self, name: str) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.namespace}}
        status, answer = self.call("POST", f"pods/{name}/eviction", body)
        assert status == 201, answer

    def _fitted(self, manifest: Json) -> Json:
        """The manifest with an image that is there, and without what the namespace does not have."""
        for container in [*manifest["spec"]["containers"], *(manifest["spec"].get("initContainers") or ())]:
            container["image"] = self._image
        manifest["spec"]["serviceAccountName"] = "default"
        return manifest

    def _pods(self, job: str) -> list[str]:
        _, body = self.call("GET", f"pods?labelSelector=batch.kubernetes.io/job-name={job}")
        items = sorted(body["items"], key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        seen = self._seen.setdefault(job, [])
        seen += [pod["metadata"]["name"] for pod in items if pod["metadata"]["name"] not in seen]
        return [str(pod["metadata"]["name"]) for pod in items]

    def _collect(self) -> None:
        """Logs of runs that are over are thrown away by a kubelet after the next one: read them in time."""
        while not self._stop.wait(LOG_EVERY_S):
            for name in list(self._logs):
                self._read_logs(name)

    def _read_logs(self, name: str) -> None:
        with self._reading:
            before = self._runs(name)
            read = {}
            for run, query in zip(before, ("&previous=true", ""), strict=False):
                code, answer = self.call("GET", f"pods/{name}/log?container=etl{query}")
                if run and code == 200:
                    read[run] = answer.get("text", "").splitlines()
            # Only if no run has ended meanwhile is it sure whose lines these are.
            if self._runs(name) == before:
                self._logs[name] |= read

    def _runs(self, name: str) -> tuple[str | None, ...]:
        """The run before this one, and this one."""
        status, pod = self.call("GET", f"pods/{name}")
        for found in (pod["status"].get("containerStatuses") or ()) if status == 200 else ():
            if found["name"] == "etl":
                return (found["lastState"].get("terminated") or {}).get("containerID"), found.get("containerID")
        return ()

    def _clean(self) -> None:
        for job in self._jobs.values():
            path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{job}?propagationPolicy=Background"
            self._ask("DELETE", path)
        for name in self._blockers:
            self.call("DELETE", f"pods/{name}?gracePeriodSeconds=0")
        # The next test counts the room on the node: what this one had must be given back.
        names = [name for names in self._seen.values() for name in names]
        eventually("all pods are gone", lambda: not any(self._lives(name) for name in names), 60)

    def _lives(self, name: str) -> bool:
        status, pod = self.call("GET", f"pods/{name}")
        return status == 200 and pod["status"]["phase"] in ("Pending", "Running")

    def _ask(self, method: str, path: str, body: Json | None = None, headers: Json | None = None) -> tuple[int, Json]:
        request = urllib.request.Request(
            self._host + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | self._headers | (headers or {}),
        )
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=PATIENCE_S) as answer:
                return answer.status, _read(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _read(error.read())


def _read(content: bytes) -> Json:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"text": content.decode(errors="replace")}
