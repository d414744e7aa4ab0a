"""The operator's client: the official Kubernetes client with the user's kubeconfig, read the way the pod's own client reads.

For verbs that people type (``resize``, ``status``, ``doctor``), never for the running job: it costs half a second and
some thirty MiB to import, so it is imported when a client is made. Answers are taken as JSON and not as its models, which
refuse fields that a newer server adds. A contract test holds that both clients send the same request.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError
from .answer import Answer, Kind, read_answer
from .client import PATCH_TYPE

TIMEOUTS_S = (3.0, 15.0)
"""To connect, and to be answered."""


class OfficialClient:
    """Errors of making one: ``ConfigError``. Calls return an ``Answer`` and raise nothing."""

    def __init__(self, namespace: str | None = None) -> None:
        """``namespace`` None: the one of the kubeconfig's current context, or of the pod that this runs in."""
        import kubernetes
        from kubernetes import client

        # It announces each of its own tries; the one that counts is in the answer.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        config: Any = kubernetes.config
        found = None
        try:
            config.load_kube_config()
            found = config.list_kube_config_contexts()[1].get("context", {}).get("namespace")
        except (config.ConfigException, OSError) as error:
            _load_in_cluster(config, error)
        self.namespace = namespace or found or "default"
        self.api = client.CoreV1Api()
        self.server: str = self.api.api_client.configuration.host

    def get_pod(self, pod: str) -> Answer:
        return self._answer(self.api.read_namespaced_pod, pod, self.namespace)

    def resize(self, pod: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Answer:
        call = self.api.patch_namespaced_pod_resize
        options: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
        # Up to 36 the client chooses the strategic merge for a dict by itself and takes no such argument.
        if "_content_type" in inspect.signature(call).parameters:
            options["_content_type"] = PATCH_TYPE
        return self._answer(call, pod, self.namespace, body, **options)

    def _answer(self, call: Callable[..., Any], *args: Any, **options: Any) -> Answer:
        from kubernetes.client import ApiException
        from urllib3.exceptions import (
            ConnectTimeoutError,
            HTTPError,
            MaxRetryError,
            NewConnectionError,
            SSLError,
            TimeoutError,
        )

        try:
            raw = call(*args, _preload_content=False, _request_timeout=TIMEOUTS_S, **options)
            return read_answer(raw.status, raw.data or raw.read(), raw.headers.get("Retry-After"))
        except ApiException as error:
            body = error.body.encode() if isinstance(error.body, str) else error.body or b""
            return read_answer(int(error.status or 0), body, (error.headers or {}).get("Retry-After"))
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            message = f"{self.server}: {cause}"
            if isinstance(cause, SSLError):
                return Answer(Kind.TLS, message=message)
            if isinstance(cause, NewConnectionError):
                return Answer(Kind.UNREACHED, message=message)
            if isinstance(cause, TimeoutError):
                sent = not isinstance(cause, ConnectTimeoutError)
                return Answer(Kind.TIMEOUT, message=message, may_be_applied=sent)
            return Answer(Kind.UNREACHED, message=message, may_be_applied=True)


def _load_in_cluster(config: Any, error: Exception) -> None:
    try:
        config.load_incluster_config()
    except (config.ConfigException, OSError):
        raise ConfigError(
            f"there is no usable kubeconfig: {error}",
            "set KUBECONFIG, or run `kubectl config use-context NAME`, then try `kubectl get pods`",
        ) from error
