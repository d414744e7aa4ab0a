"""``etlkit resize`` by the official client against the loopback API server, and the contract between the two clients."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from kube_server import ApiServer, Call, Reply, certificates, ok, pod_body, recorded, server

from etlkit.cli import resize
from etlkit.errors import ConfigError, UsageError
from etlkit.kube.answer import Kind
from etlkit.kube.client import Patience, PodClient
from etlkit.kube.identity import Access, PodIdentity
from etlkit.kube.official import OfficialClient
from etlkit.kube.pod import read_pod
from etlkit.units import MIB

__all__ = ["certificates", "server"]


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kubeconfig"
    cluster = {"server": f"https://127.0.0.1:{server.port}", "certificate-authority": str(server.ca_file)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "operator-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "etl"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    import kubernetes

    monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    resize.add_arguments(parser)
    return parser.parse_args(words)


def as_sent(call: Call) -> tuple[str, str, str, Any]:
    return call.method, call.path, call.headers["content-type"], call.json


@pytest.mark.parametrize(
    ("pod", "container", "words", "sizes"),
    [
        ("get-running", "etl", ["--memory", "256Mi"], (256 * MIB, None)),
        ("get-running", "etl", ["--cpu", "1500m"], (None, 1500)),
        ("get-with-sidecar", "log-collector", ["--memory", "96Mi"], (96 * MIB, None)),
        ("get-after-live-resize", "etl", ["--memory", "100000000"], (100_000_000, None)),
    ],
)
def test_both_clients_send_the_same_request(
    server: ApiServer,
    kubeconfig: Path,
    pod: str,
    container: str,
    words: list[str],
    sizes: tuple[int | None, int | None],
) -> None:
    server.fallback = ok(pod_body(pod))
    assert resize.run(arguments("running", "--container", container, *words)) == 0
    view = read_pod(pod_body(pod), container)
    access = Access("127.0.0.1", server.port, server.token_file, server.ca_file)
    thin = PodClient(access, PodIdentity("etl", "running", container))
    assert thin.get_pod().ok
    memory, cpu = sizes
    assert (thin.resize_memory(memory, view) if memory is not None else thin.resize_cpu(cpu or 0, view)).ok
    get, patch, thin_get, thin_patch = server.calls
    assert as_sent(patch) == as_sent(thin_patch)
    assert (get.method, get.path) == (thin_get.method, thin_get.path)
    assert patch.headers["authorization"] == "Bearer operator-token"


def test_a_dry_run_is_the_same_too(server: ApiServer, kubeconfig: Path) -> None:
    view = read_pod(pod_body(), "etl")
    access = Access("127.0.0.1", server.port, server.token_file, server.ca_file)
    PodClient(access, PodIdentity("etl", "running", "etl")).resize_memory(MIB, view, dry_run=True)
    OfficialClient().resize("running", server.calls[0].json, dry_run=True)
    assert as_sent(server.calls[0]) == as_sent(server.calls[1])
    assert server.calls[0].path.endswith("/resize?dryRun=All")


def test_memory_and_cpu_go_in_one_request(server: ApiServer, kubeconfig: Path) -> None:
    assert resize.run(arguments("running", "--container", "etl", "--memory", "1Gi", "--cpu", "2", "-n", "other")) == 0
    (patch,) = server.patches()
    assert patch.path == "/api/v1/namespaces/other/pods/running/resize"
    both = {"memory": "1Gi", "cpu": "2"}
    assert patch.json["spec"]["containers"] == [{"name": "etl", "resources": {"requests": both, "limits": both}}]


class World:
    """The status after a PATCH, GET by GET; the last one stays."""

    def __init__(self, server: ApiServer, *statuses: dict[str, Any], pod: str = "get-running") -> None:
        self.body = copy.deepcopy(pod_body(pod))
        self.statuses = list(statuses)
        self.patched = False
        server.fallback = self.answer

    def answer(self, call: Call) -> Reply:
        if call.method == "PATCH":
            self.patched = True
            resources = call.json["spec"]["containers"][0]["resources"]
            self.body["spec"]["containers"][0]["resources"] = copy.deepcopy(resources)
            self.body["metadata"]["generation"] += 1
        elif self.patched:
            step = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            self.body["status"]["observedGeneration"] = self.body["metadata"]["generation"]
            self.body["status"]["conditions"] = step.get("conditions", [])
            if step.get("done"):
                resources = self.body["spec"]["containers"][0]["resources"]
                self.body["status"]["containerStatuses"][0]["resources"] = copy.deepcopy(resources)
        return ok(copy.deepcopy(self.body))


def pending(
    reason: str, message: str = "Node didn't have enough resource: memory, requested: 8, used: 4, capacity: 6"
) -> Any:
    return {"conditions": [{"type": "PodResizePending", "status": "True", "reason": reason, "message": message}]}


MOVING = {"conditions": [{"type": "PodResizeInProgress", "status": "True"}]}
WAIT = ("running", "--container", "etl", "--memory", "1Gi", "--cpu", "1", "--wait")


def test_waiting_until_it_is_in_force(server: ApiServer, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    World(server, {}, MOVING, {"done": True})
    assert resize.run(arguments(*WAIT)) == 0
    said = capsys.readouterr().out
    assert "128 MiB, 0.1 cores → 1 GiB, 1 cores" in said
    assert "NotRequired" in said and "nothing restarts" in said
    assert said.index("in progress:") < said.index("in force after")


def test_deferred_is_explained_and_granted(
    server: ApiServer, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    World(server, pending("Deferred"), MOVING, {"done": True})
    assert resize.run(arguments(*WAIT)) == 0
    said = capsys.readouterr().out
    assert "deferred: the node has no room now: it wants 8 B of memory where 4 B of 6 B are promised" in said


def test_deferred_until_the_time_is_up(server: ApiServer, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    World(server, pending("Deferred"))
    assert resize.run(arguments(*WAIT, "--timeout", "300ms")) == 75
    said = capsys.readouterr().out
    assert "it stays wanted" in said
    assert "to take it back: etlkit resize running --container etl --memory 128Mi --cpu 100m" in said


def test_infeasible(server: ApiServer, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    World(server, pending("Infeasible"))
    assert resize.run(arguments(*WAIT)) == 77
    said = capsys.readouterr().out
    assert "infeasible: this node can never grant it" in said and "to take it back" in said


def test_a_restart_is_announced(server: ApiServer, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = pod_body("get-after-grant")
    body["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "nightly"}]
    server.fallback = ok(body)
    resize.run(arguments("running", "--container", "etl", "--memory", "1Gi"))
    said = capsys.readouterr().out
    assert "SIGTERM and 10.0 s to end" in said and "backoffLimit of Job nightly (1 so far)" in said


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("error-over-node", 77),
        ("error-limitrange", 77),
        ("error-quota", 77),
        ("error-qos", 78),
        ("error-request-above-limit", 78),
        ("error-not-found", 78),
    ],
)
def test_refusals(
    server: ApiServer, kubeconfig: Path, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = [ok(pod_body()), recorded(name)]
    assert resize.run(arguments(*WAIT)) == code
    assert recorded(name)[1]["message"] in capsys.readouterr().err


def test_what_may_pass(server: ApiServer, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.fallback = ok({"message": "etcd is slow"}, 503)
    assert resize.run(arguments(*WAIT)) == 75
    assert "etcd is slow" in capsys.readouterr().err


def test_a_pod_that_goes_away(server: ApiServer, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.script = [ok(pod_body()), recorded("patch-accepted"), recorded("get-not-found")]
    assert resize.run(arguments(*WAIT)) == 78
    assert "gone" in capsys.readouterr().out


def test_a_server_that_is_not_trusted(server: ApiServer, kubeconfig: Path, tmp_path: Path) -> None:
    from kube_server import make_certificates

    other = tmp_path / "other"
    other.mkdir()
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["certificate-authority"] = str(make_certificates(other)[2])
    kubeconfig.write_text(json.dumps(config))
    assert OfficialClient().get_pod("running").kind is Kind.TLS
    assert server.calls == []


def test_nobody_answers(server: ApiServer, kubeconfig: Path) -> None:
    server.close()
    answer = OfficialClient().get_pod("running")
    assert answer.kind is Kind.UNREACHED and f"127.0.0.1:{server.port}" in answer.message


def test_wrong_calls(server: ApiServer, kubeconfig: Path) -> None:
    for words in ((), ("--memory", "0"), ("--memory", "12 apples"), ("--cpu", "0")):
        with pytest.raises(UsageError):
            resize.run(arguments("running", "--container", "etl", *words))
    with pytest.raises(UsageError, match="it has: etl"):
        resize.run(arguments("running", "--container", "nobody", "--memory", "1Gi"))
    assert server.patches() == []


def test_without_a_kubeconfig(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig.unlink()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="kubeconfig"):
        OfficialClient()


def test_quick_calls_do_not_retry_for_long() -> None:
    """The patience that the job's client has by default fits into the time that the machine waits for an answer."""
    assert Patience().budget_s < 15
