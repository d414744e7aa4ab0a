"""The local node with what an operator's verbs need beside: server-side apply of other kinds, and times in logs.

Pods, Jobs, resizes, restarts and logs are the local node's own, with real processes. The rest is kept as it was sent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from etlkit.node import answers, operator_api
from etlkit.node.answers import ApiError, Json
from etlkit.node.node import Node
from etlkit.node.timings import Timings
from etlkit.units import GIB

KEPT = ("serviceaccounts", "configmaps", "persistentvolumeclaims", "rolebindings", "cronjobs")
SHOWN = {"jobs": "jobs.batch", "rolebindings": "rolebindings.rbac.authorization.k8s.io"}


class Double:
    """``calls``: method and path of each; ``refusals``: what a call is answered with instead, by its resource."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.objects: dict[tuple[str, str], Json] = {}
        self.calls: list[tuple[str, str]] = []
        self.refusals: dict[str, tuple[int, str, str]] = {}

    def serve(self, real: Any, node: Any, method: str, parts: list[str], body: Json, query: dict[str, str]) -> Any:
        self.calls.append((method, "/".join(parts)))
        resource = parts[parts.index("namespaces") + 2] if "namespaces" in parts and len(parts) > 4 else ""
        if resource in self.refusals and method in ("PATCH", "POST"):
            code, reason, message = self.refusals[resource]
            raise ApiError(code, answers.failure(code, reason, message, {}))
        if resource in KEPT:
            return self._kept(method, resource, parts[-1], body)
        if parts[-1] == "log":
            return self._log(parts[3], parts[5], query)
        if resource == "jobs" and method == "DELETE":
            return self._delete_job(parts[4], parts[6])
        code, answer = real(node, method, parts, body, query)
        if resource == "jobs" and method == "POST":
            key = (parts[4], body["metadata"]["name"])
            with node.store.lock:
                node.store.jobs[key]["metadata"]["annotations"] = body["metadata"].get("annotations", {})
        return code, answer

    def _delete_job(self, namespace: str, name: str) -> tuple[int, Json]:
        handle = self.node.job_handle(namespace, name)
        handle.stop(0.0)
        handle.wait(20)
        with self.node.store.lock:
            return 200, self.node.store.jobs.pop((namespace, name))

    def _kept(self, method: str, resource: str, name: str, body: Json) -> tuple[int, Json]:
        if method == "PATCH":
            self.objects[resource, name] = copy.deepcopy(body)
        if (resource, name) not in self.objects:
            raise answers.not_found(name, SHOWN.get(resource, resource))
        return 200, self.objects[resource, name]

    def _log(self, namespace: str, name: str, query: dict[str, str]) -> tuple[int, str]:
        """Each line has a time of its own, a tenth of a second after the one before; sinceTime is whole seconds."""
        pod = self.node.pod_runtime(namespace, name)
        log = self.node.log_of(pod.pod["metadata"]["uid"])
        with log._lock:
            runs = [list(run) for run in log._runs[query["container"]]]
        run = len(runs) - (2 if query.get("previous") == "true" else 1)
        lines = []
        for position, line in enumerate(runs[run] if run >= 0 else []):
            seconds, tenth = divmod(run * 36000 + position, 10)
            at = f"2026-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{tenth}00000000Z"
            if at >= query.get("sinceTime", "").removesuffix("Z"):
                lines.append(f"{at} {line.decode()}")
        return 200, "".join(lines)


@contextmanager
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    timings = Timings(backoff_first_s=0.2, job_backoff_first_s=0.1, resize_error_retry_s=0.2, rule_restart_s=0.1)
    with Node(4 * GIB, timings=timings) as node:
        made = Double(node)
        real = operator_api.serve
        monkeypatch.setattr(operator_api, "serve", lambda *args: made.serve(real, *args))
        # The client reads the variable when it is imported, which may have been before.
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(node.kubeconfig()))
        yield made
        assert node.failure is None, node.failure
