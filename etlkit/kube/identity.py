"""Who this pod is and how it reaches its API server, from the environment.

Covers the pod's own names and the mounted service account. It does not read the token (that is done anew for
each call) and does not ask the server anything. Standard library only: a start too small for pyarrow uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..lazyclass import dataclass

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
POD_NAME, POD_NAMESPACE, CONTAINER_NAME = "ETLKIT_POD_NAME", "ETLKIT_POD_NAMESPACE", "ETLKIT_CONTAINER_NAME"


@dataclass(frozen=True, slots=True)
class PodIdentity:
    namespace: str
    pod: str
    container: str
    """From a literal environment variable. Never the first container of the list: webhooks inject containers (F28)."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod} container {self.container}"


@dataclass(frozen=True, slots=True)
class Access:
    """The API server, and the files that open it. The files rotate, so only their places are kept."""

    host: str
    port: int
    token_file: Path | None
    """None with a client certificate alone."""
    ca_file: Path
    client_cert_file: Path | None = None
    client_key_file: Path | None = None

    @property
    def server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


def service_account_folder(environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get("ETLKIT_SERVICE_ACCOUNT") or SERVICE_ACCOUNT)


def find_access(environ: Mapping[str, str] = os.environ) -> Access | None:
    """The pod's own, else that of a kubeconfig which KUBECONFIG names, else None. Missing files show up at the first call."""
    host = environ.get("KUBERNETES_SERVICE_HOST", "").strip("[]")
    if not host and environ.get("KUBECONFIG"):
        from .kubeconfig import access_from

        return access_from(Path(environ["KUBECONFIG"].split(os.pathsep)[0]))
    port = environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or environ.get("KUBERNETES_SERVICE_PORT") or "443"
    if not host or not port.isdigit():
        return None
    folder = service_account_folder(environ)
    return Access(host, int(port), folder / "token", folder / "ca.crt")


def find_identity(environ: Mapping[str, str] = os.environ) -> PodIdentity | None:
    """None when pod or container are not named. The namespace may come from the service account's folder."""
    pod, container = environ.get(POD_NAME, ""), environ.get(CONTAINER_NAME, "")
    namespace = environ.get(POD_NAMESPACE, "")
    if not namespace:
        try:
            namespace = (service_account_folder(environ) / "namespace").read_text().strip()
        except OSError:
            return None
    if not pod or not container or not namespace:
        return None
    return PodIdentity(namespace, pod, container)


def missing_names(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The environment variables that a manifest forgot, for ``doctor``."""
    missing = [name for name in (POD_NAME, CONTAINER_NAME) if not environ.get(name)]
    if not environ.get(POD_NAMESPACE) and not (service_account_folder(environ) / "namespace").is_file():
        missing.append(POD_NAMESPACE)
    return tuple(missing)
