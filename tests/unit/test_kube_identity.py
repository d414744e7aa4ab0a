"""Who this pod is, from the environment."""

from __future__ import annotations

from pathlib import Path

from etlkit.kube.identity import PodIdentity, find_access, find_identity, missing_names

NAMES = {"ETLKIT_POD_NAME": "p-1", "ETLKIT_POD_NAMESPACE": "etl", "ETLKIT_CONTAINER_NAME": "main"}


def test_in_a_pod(tmp_path: Path) -> None:
    environ = NAMES | {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert find_identity(environ) == PodIdentity("etl", "p-1", "main")
    access = find_access(environ)
    assert access is not None and access.server == "https://10.0.0.1:443"
    assert str(access.token_file) == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    moved = find_access(environ | {"ETLKIT_SERVICE_ACCOUNT": str(tmp_path), "KUBERNETES_SERVICE_PORT_HTTPS": "6443"})
    assert moved is not None and moved.ca_file == tmp_path / "ca.crt" and moved.port == 6443


def test_an_ipv6_server() -> None:
    for host in ("fd00::1", "[fd00::1]"):
        access = find_access({"KUBERNETES_SERVICE_HOST": host})
        assert access is not None and (access.host, access.server) == ("fd00::1", "https://[fd00::1]:443")


def test_not_in_a_pod() -> None:
    assert find_access({}) is None
    assert find_access({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "tcp://x"}) is None


def test_the_container_s_name_is_never_guessed(tmp_path: Path) -> None:
    environ = NAMES | {"ETLKIT_SERVICE_ACCOUNT": str(tmp_path)}
    for name in NAMES:
        assert find_identity({k: v for k, v in environ.items() if k != name}) is None
        assert missing_names({k: v for k, v in environ.items() if k != name}) == (name,)
    assert missing_names(environ) == ()


def test_the_namespace_may_come_from_the_service_account(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("team-a\n")
    environ = {"ETLKIT_POD_NAME": "p", "ETLKIT_CONTAINER_NAME": "c", "ETLKIT_SERVICE_ACCOUNT": str(tmp_path)}
    assert find_identity(environ) == PodIdentity("team-a", "p", "c")
    assert missing_names(environ) == ()
