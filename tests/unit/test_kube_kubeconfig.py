"""A kubeconfig as the way to the API server: read, used against a real TLS server, refused with the file's name."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml
from kube_server import ApiServer, certificates, server

from etlkit.errors import ConfigError
from etlkit.kube.client import PodClient
from etlkit.kube.identity import PodIdentity, find_access

__all__ = ["certificates", "server"]


def write(path: Path, cluster: dict[str, str], user: dict[str, str], context: str = "here") -> Path:
    config = {
        "current-context": context,
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_token_and_authority_inline(server: ApiServer, tmp_path: Path) -> None:
    authority = base64.b64encode(server.ca_file.read_bytes()).decode()
    cluster = {"server": f"https://127.0.0.1:{server.port}", "certificate-authority-data": authority}
    path = write(tmp_path / "config", cluster, {"token": "inline-token"})
    access = find_access({"KUBECONFIG": str(path)})
    assert access is not None and access.token_file is not None
    assert access.token_file.stat().st_mode & 0o077 == 0, "only this user reads it"
    assert PodClient(access, PodIdentity("etl", "running", "etl")).get_pod().ok
    assert server.calls[0].headers["authorization"] == "Bearer inline-token"


def test_a_pods_own_account_goes_first(tmp_path: Path) -> None:
    access = find_access({"KUBECONFIG": str(tmp_path / "none"), "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert access is not None and access.host == "10.0.0.1"


@pytest.mark.parametrize(
    ("cluster", "context", "lacks"),
    [
        ({"server": "https://h"}, "here", "certificate-authority"),
        ({"server": "http://h", "certificate-authority": "ca"}, "here", "not https"),
        ({"server": "https://h", "certificate-authority": "ca"}, "there", "current-context"),
    ],
)
def test_what_it_lacks_is_named(cluster: dict[str, str], context: str, lacks: str, tmp_path: Path) -> None:
    path = write(tmp_path / "config", cluster, {"token": "t"}, context)
    with pytest.raises(ConfigError) as error:
        find_access({"KUBECONFIG": str(path)})
    assert str(path) in str(error.value) and lacks in str(error.value)
