"""A namespace of a cluster as an operator's verbs use it: get, list, apply, create, delete, read logs.

Built on the official client's configuration and connection pool, so that every kubeconfig works that works with it.
Objects go in and come out as JSON. Calls return an ``Answer`` and raise nothing; ``refused`` turns one into the error
that a verb ends with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from ..decide.events import ResizeOutcome
from ..errors import ConfigError, EtlkitError, RefusedError, error_for
from ..exits import Exit
from .answer import OUTCOMES, Answer, Kind, read_answer
from .official import TIMEOUTS_S, OfficialClient

APPLY_TYPE = "application/apply-patch+yaml"
MERGE_TYPE = "application/merge-patch+json"
MANAGER = "etlkit"

_PATHS = {
    "ServiceAccount": "api/v1 serviceaccounts",
    "ConfigMap": "api/v1 configmaps",
    "PersistentVolumeClaim": "api/v1 persistentvolumeclaims",
    "Pod": "api/v1 pods",
    "Event": "api/v1 events",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1 rolebindings",
    "NetworkPolicy": "apis/networking.k8s.io/v1 networkpolicies",
    "Job": "apis/batch/v1 jobs",
    "CronJob": "apis/batch/v1 cronjobs",
}


class Cluster:
    """Errors of making one: ``ConfigError``."""

    def __init__(self, namespace: str | None = None) -> None:
        client = OfficialClient(namespace)
        self.namespace = client.namespace
        self.server = client.server
        self._api = client.api.api_client

    def get(self, kind: str, name: str) -> Answer:
        return self._call("GET", self._path(kind, name))

    def list(self, kind: str, **query: str) -> Answer:
        return self._call("GET", self._path(kind), query=query)

    def apply(self, body: Mapping[str, Any]) -> Answer:
        """Server-side apply: made if it is not there, else changed to be like this. Doing it twice does nothing."""
        path = self._path(str(body["kind"]), str(body["metadata"]["name"]))
        return self._call("PATCH", path, body, APPLY_TYPE, {"fieldManager": MANAGER, "force": "true"})

    def create(self, body: Mapping[str, Any]) -> Answer:
        return self._call("POST", self._path(str(body["kind"])), body, query={"fieldManager": MANAGER})

    def resume(self, job: str) -> Answer:
        """A suspended Job may start its pods."""
        body = {"spec": {"suspend": False}}
        return self._call("PATCH", self._path("Job", job), body, MERGE_TYPE, {"fieldManager": MANAGER})

    def delete(self, kind: str, name: str) -> Answer:
        """With what it owns."""
        return self._call("DELETE", self._path(kind, name), query={"propagationPolicy": "Background"})

    def log(self, pod: str, container: str, *, since: str | None = None, previous: bool = False) -> Answer:
        """Each line with its time; the text is the answer's message."""
        query = {"container": container, "timestamps": "true"}
        if since is not None:
            query["sinceTime"] = since
        if previous:
            query["previous"] = "true"
        return self._call("GET", self._path("Pod", pod) + "/log", query=query, text=True)

    def _path(self, kind: str, name: str | None = None) -> str:
        group, plural = _PATHS[kind].split(" ")
        end = f"/{quote(name, '')}" if name is not None else ""
        return f"/{group}/namespaces/{quote(self.namespace, '')}/{plural}{end}"

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> Answer:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError, MaxRetryError, SSLError, TimeoutError

        headers = {"Accept": "*/*" if text else "application/json"}
        for setting in self._api.configuration.auth_settings().values():
            if setting.get("in") == "header" and setting.get("value"):
                headers[str(setting["key"])] = str(setting["value"])
        if body is not None:
            headers["Content-Type"] = content_type
        url = self.server.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        try:
            raw = self._api.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=Timeout(connect=TIMEOUTS_S[0], read=TIMEOUTS_S[1]),
                retries=False,
            )
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            kind = (
                Kind.TLS if isinstance(cause, SSLError) else Kind.TIMEOUT if isinstance(cause, TimeoutError) else None
            )
            return Answer(kind or Kind.UNREACHED, message=f"{self.server}: {cause}", may_be_applied=body is not None)
        if text and 200 <= raw.status < 300:
            return Answer(Kind.OK, raw.status, message=raw.data.decode("utf-8", "replace"))
        return read_answer(raw.status, raw.data, raw.headers.get("Retry-After"))


def refused(answer: Answer, what: str) -> EtlkitError:
    """The error for an answer that is not OK: 77 refused, 78 can't work as it is asked, 75 try again."""
    remedy = _remedy(answer)
    message = f"{what}: {_said(answer)}"
    if answer.kind in (Kind.INVALID, Kind.NOT_FOUND, Kind.NO_TOKEN, Kind.TLS, Kind.QOS, Kind.MALFORMED):
        return ConfigError(message, remedy)
    if OUTCOMES[answer.kind] is ResizeOutcome.UNREACHABLE:
        return error_for(int(Exit.AGAIN), message, remedy)
    return RefusedError(message, remedy)


def _said(answer: Answer) -> str:
    """The server's words say what of what; our own words for RBAC are about resizing only."""
    if answer.kind in (Kind.RBAC, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.INVALID, Kind.UNAUTHORIZED) and answer.message:
        return answer.message
    return answer.explain()


def _remedy(answer: Answer) -> str:
    words = answer.message
    if "attempting to grant RBAC permissions not currently held" in words:
        return "a cluster administrator applies `etlkit manifest --platform` once; then a namespace's admin may bind the role"
    if answer.kind is Kind.NOT_FOUND and "namespaces" in words:
        return "create the namespace: kubectl create namespace NAME"
    if "violates PodSecurity" in words:
        return "the namespace allows restricted pods only: take --pod-patch back, or ask for another namespace"
    return {
        Kind.RBAC: "ask an administrator for the right that is named, or use another namespace with --namespace",
        Kind.FORBIDDEN: "ask an administrator, with the server's words",
        Kind.QUOTA: "give a smaller --memory or --state-size, or ask for a larger ResourceQuota",
        Kind.LIMIT_RANGE: "give a smaller --memory, or ask for a larger maximum in the LimitRange",
        Kind.POLICY: "ask whoever keeps that policy",
        Kind.UNAUTHORIZED: "log in to the cluster again; `kubectl get pods` should work",
        Kind.TLS: "check the kubeconfig's certificate-authority",
        Kind.INVALID: "`etlkit lint` and `kubectl apply --dry-run=server` say more",
    }.get(answer.kind, "check KUBECONFIG and the network, then try the same command again")
