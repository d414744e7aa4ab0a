"""``etlkit doctor`` in this very process, with a loopback API server for the pod's side."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
from kube_server import ApiServer, Call, Reply, certificates, ok, pod_body, recorded, server

from etlkit.cli import doctor
from etlkit.kube.checks import Level

__all__ = ["certificates", "server"]

VERSION = ok({"major": "1", "minor": "36", "gitVersion": "v1.36.2"})


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a pod, in a folder of our own, held to a limit that is written in a file."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("ETLKIT_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text("268435456\n")
    (group / "memory.current").write_text("50000000\n")
    (group / "memory.stat").write_text("anon 40000000\nfile 10000000\ninactive_file 5000000\n")
    (group / "memory.events").write_text("oom 0\noom_kill 0\n")
    monkeypatch.setenv("ETLKIT_CGROUP", str(group))


class Pod:
    def __init__(self, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.body = pod_body("get-after-grant")
        self.body["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "nightly"}]
        self.patched: Reply = ok({"kind": "Pod"})
        self.got: Reply | None = None
        (server.token_file.parent / "ca.crt").write_bytes(server.ca_file.read_bytes())
        environ = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "ETLKIT_SERVICE_ACCOUNT": str(server.token_file.parent),
            "ETLKIT_POD_NAME": "running",
            "ETLKIT_POD_NAMESPACE": "etl",
            "ETLKIT_CONTAINER_NAME": "etl",
            "ETLKIT_BACKOFF_LIMIT": "6",
            "ETLKIT_MAX_MEMORY": "64Gi",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        server.fallback = self.answer

    def answer(self, call: Call) -> Reply:
        if call.path == "/version":
            return VERSION
        if call.method == "PATCH":
            return self.patched
        return self.got or ok(self.body)


@pytest.fixture
def pod(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.setattr(doctor, "in_pod", lambda *_: False)  # the state lies wherever this test runs
    return Pod(server, monkeypatch)


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    code = doctor.run(arguments("--json", *words))
    found = json.loads(capsys.readouterr().out)
    return code, {check["name"]: check for check in found["checks"]}, found


def test_on_a_laptop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, checks, found = asked(capsys)
    assert code == 0
    assert checks["cgroup"]["level"] == "ok" and "256 MiB" in checks["cgroup"]["what"]
    assert checks["commit"]["level"] == checks["state"]["level"].replace("warn", "ok") == "ok"
    assert "this is no pod" in checks["pod"]["what"]
    assert found["request_for_admin"] is None
    assert not (tmp_path / ".etlkit").exists(), "it changes nothing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["group"]


def test_settings_with_their_origin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("etlkit.toml").write_text('checkpoint_every = "5s"\n[policy]\ntight = 0.7\n')
    monkeypatch.setenv("ETLKIT_KEEP", "3")
    assert doctor.run(arguments("--max-memory", "2Gi")) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.split("Settings\n")[1].splitlines()]
    rows = {key: (value, origin) for key, value, origin in lines}
    assert rows["max_memory"] == ("2Gi", "option --max-memory")
    assert rows["keep"] == ("3", "environment ETLKIT_KEEP")
    assert rows["checkpoint_every"] == ("5s", "file etlkit.toml")
    assert rows["policy.tight"] == ("0.7", "file etlkit.toml")
    assert rows["workers"] == ("-", "default")


def test_in_a_good_pod(capsys: pytest.CaptureFixture[str], pod: Pod, server: ApiServer) -> None:
    code, checks, _ = asked(capsys)
    assert code == 0
    assert {name for name, check in checks.items() if check["level"] == "fail"} == set()
    assert checks["API server version"]["what"] == "v1.36.2"
    assert checks["may be resized to max_memory (64 GiB)"]["level"] == "ok"
    patches = server.patches()
    assert len(patches) == 2 and all(call.path.endswith("/resize?dryRun=All") for call in patches)


def test_without_permission_it_prints_what_to_send(capsys: pytest.CaptureFixture[str], pod: Pod) -> None:
    user = 'User "system:serviceaccount:etl:runner" cannot patch resource "pods/resize" in API group ""'
    pod.patched = ok({"message": f'pods "running" is forbidden: {user}'}, 403)
    pod.body["spec"]["serviceAccountName"] = "runner"
    assert doctor.run(arguments()) == 78
    said = capsys.readouterr().out
    assert "FAIL  may resize itself" in said and "goes on within its limit" in said
    assert "To send to an administrator:" in said and "- kind: ServiceAccount\n    name: runner" in said


def test_without_get_too(capsys: pytest.CaptureFixture[str], pod: Pod) -> None:
    user = 'User "system:serviceaccount:etl:runner" cannot get resource "pods" in API group ""'
    pod.got = ok({"message": f'pods "running" is forbidden: {user}'}, 403)
    code, checks, found = asked(capsys)
    assert code == 78 and checks["may read its own pod"]["level"] == "fail"
    assert "name: runner" in found["request_for_admin"]


def test_a_cap_that_quota_refuses(capsys: pytest.CaptureFixture[str], pod: Pod, server: ApiServer) -> None:
    answers = iter([ok({"kind": "Pod"}), recorded("error-quota")])

    def answer(call: Call) -> Reply:
        return next(answers) if call.method == "PATCH" else pod.answer(call)

    server.fallback = answer
    code, checks, found = asked(capsys)
    check = checks["may be resized to max_memory (64 GiB)"]
    assert code == 78 and "exceeded quota" in check["what"] and "ResourceQuota" in check["remedy"]
    assert found["request_for_admin"] is None


def test_names_that_the_manifest_forgot(
    capsys: pytest.CaptureFixture[str], pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ETLKIT_CONTAINER_NAME")
    code, checks, _ = asked(capsys)
    assert code == 78 and checks["pod identity"]["what"] == "ETLKIT_CONTAINER_NAME not set"
    assert checks["API server version"]["level"] == "ok"


def test_another_container(capsys: pytest.CaptureFixture[str], pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETLKIT_CONTAINER_NAME", "other")
    code, checks, _ = asked(capsys)
    assert code == 78 and "it has: etl" in checks["container"]["remedy"]


def test_no_service_account(capsys: pytest.CaptureFixture[str], pod: Pod, server: ApiServer) -> None:
    server.token_file.unlink()
    code, checks, _ = asked(capsys)
    assert code == 78 and "ETLKIT_SERVICE_ACCOUNT" in checks["API server version"]["remedy"]
    assert server.calls == []


def test_a_state_that_can_not_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    code, checks, _ = asked(capsys, "--state", "/proc/etlkit")
    assert code == 78 and checks["state"]["level"] == "fail" and "ETLKIT_STATE" in checks["state"]["remedy"]


def test_a_state_in_an_object_store(capsys: pytest.CaptureFixture[str]) -> None:
    code, checks, _ = asked(capsys, "--state", "memory://bucket/state")
    assert code == 0 and "conditional put was tried" in checks["state"]["what"]
    code, checks, _ = asked(capsys, "--state", "ftp://host/state")
    assert code == 78 and "no conditional put" in checks["state"]["what"]


MOUNTS = """\
22 1 0:1 / / rw - overlay overlay rw
23 22 0:2 / /dev/shm rw - tmpfs tmpfs rw
24 22 8:1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/state /mnt/scratch rw - ext4 /dev/sda1 rw
25 22 8:2 / /mnt/with\\040space rw shared:1 - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("folder", "inside", "outside"),
    [
        ("/state", Level.FAIL, Level.OK),
        ("/dev/shm/x", Level.FAIL, Level.WARN),
        ("/mnt/scratch/x", Level.WARN, Level.WARN),
        ("/mnt/with space/x", Level.OK, Level.OK),
        ("/mnt/scratchy", Level.FAIL, Level.OK),
    ],
)
def test_what_a_file_system_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, inside: Level, outside: Level
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    for pod, level in ((True, inside), (False, outside)):
        monkeypatch.setattr(doctor, "in_pod", lambda pod=pod: pod)
        assert doctor._filesystem(folder, Path(folder), str(mounts)).level is level


def test_small_limits_and_kills_are_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "group" / "memory.max").write_text("67108864\n")
    (tmp_path / "group" / "memory.events").write_text("oom 2\noom_kill 2\n")
    code, checks, _ = asked(capsys)
    assert code == 0
    assert checks["cgroup"]["level"] == "warn" and "192Mi" in checks["cgroup"]["remedy"]
    assert checks["OOM kills"]["what"] == "2"
    (tmp_path / "group" / "memory.max").write_text("max\n")
    assert asked(capsys)[1]["cgroup"]["why"].startswith("without a limit")
