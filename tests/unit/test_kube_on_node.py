"""Client, resizer, doctor and ``etlkit resize`` against the local node: real TLS, tokens, processes and limits."""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="the local node needs a certificate (extra: local)")

from etlkit.cli import doctor, resize
from etlkit.decide.events import ResizeMode, ResizeOutcome, ResizeReported
from etlkit.kube.answer import Kind
from etlkit.kube.client import PodClient
from etlkit.kube.identity import Access, PodIdentity
from etlkit.kube.outcome import Deadlines
from etlkit.kube.resizer import Resizer
from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
from etlkit.node.timings import Timings
from etlkit.units import GIB, MIB, quantity_bytes
from tests.conformance.driver import eventually

O = ResizeOutcome  # noqa: E741
WAIT_S = 20
QUICK = Timings(resize_error_retry_s=0.2)
SCRIPT = "trap 'exit 75' TERM; while :; do sleep 0.05; done"
ENDS = frozenset({O.ACTUATED, O.INFEASIBLE, O.REFUSED, O.UNREACHABLE, O.WITHDRAWN})


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(4 * GIB, timings=QUICK) as made:
        yield made
        assert made.failure is None, made.failure


class Running:
    """A pod of one shell, and the pieces that would run inside of it."""

    def __init__(self, node: Node, folder: Path, policy: ResizeMode = ResizeMode.LIVE) -> None:
        manifest = pod_manifest(
            "shell", ["/bin/sh", "-c", SCRIPT], memory="64Mi", cpu="100m", resize_policy=policy.value, grace_s=5
        )
        self.node = node
        self.job = node.start_job(manifest, backoff_limit=6, working_folder=folder)
        self.name = self._pod_name()
        host, port = node.address
        account = node.service_account(self.name)
        self.identity = PodIdentity(node.namespace, self.name, manifest["spec"]["containers"][0]["name"])
        self.client = PodClient(Access(host, port, account / "token", account / "ca.crt"), self.identity)
        self.news: queue.SimpleQueue[ResizeReported] = queue.SimpleQueue()

    def _pod_name(self) -> str:
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(Exception):
                for pod in list(self.node.store.pods.values()):
                    if pod["status"].get("phase") == "Running":
                        return str(pod["metadata"]["name"])
            time.sleep(0.02)
        raise AssertionError("the pod does not run")

    @contextlib.contextmanager
    def resizer(self, **options: Any) -> Iterator[Resizer]:
        made = Resizer(self.client, self.identity, self.news.put, lambda: None, **options)
        try:
            yield made
        finally:
            made.close(WAIT_S)

    def until_final(self) -> list[ResizeOutcome]:
        seen = [self.news.get(timeout=WAIT_S).outcome]
        while seen[-1] not in ENDS:
            seen.append(self.news.get(timeout=WAIT_S).outcome)
        return seen

    def until(self, outcome: ResizeOutcome) -> ResizeReported:
        while True:
            report = self.news.get(timeout=WAIT_S)
            if report.outcome is outcome:
                return report


@pytest.fixture
def running(node: Node, tmp_path: Path) -> Running:
    return Running(node, tmp_path)


def test_a_live_resize(running: Running) -> None:
    with running.resizer() as resizer:
        view = resizer.facts(WAIT_S)
        assert view is not None and view.limit_bytes == 64 * MIB and view.memory_policy is ResizeMode.LIVE
        assert view.job is not None and view.grace_s == 5
        resizer.request(128 * MIB, "")
        seen = running.until_final()
    assert seen[0] is O.REQUESTED and seen[-1] is O.ACTUATED
    assert running.node.get_pod(running.name)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_restart_seen_from_outside(node: Node, tmp_path: Path) -> None:
    running = Running(node, tmp_path, ResizeMode.RESTART)
    with running.resizer() as resizer:
        resizer.request(128 * MIB, "")
        assert running.until_final()[-1] is O.ACTUATED
        view = running.client.get_pod()
        assert view.body["status"]["containerStatuses"][0]["restartCount"] == 1


def test_deferred_granted_and_withdrawn(running: Running) -> None:
    assert running.node.add_pod("blocker", quantity_bytes(3 * GIB))
    with running.resizer() as resizer:
        resizer.request(2 * GIB, "")
        deferred = running.until(O.DEFERRED)
        assert "no room now" in deferred.message and "promised" in deferred.message
        resizer.withdraw(64 * MIB)
        assert running.until_final() == [O.WITHDRAWN]
        resizer.request(2 * GIB, "")
        running.until(O.DEFERRED)
        running.node.remove_pod("blocker")
        assert running.until_final()[-1] is O.ACTUATED


def _events(running: Running) -> list[tuple[str, str, str]]:
    found = [e for e in running.node.events(running.name) if e["source"].get("component") == "etlkit"]
    uid = running.node.get_pod(running.name)["metadata"]["uid"]
    assert all(e["involvedObject"]["uid"] == uid for e in found), "kubectl describe looks them up by it"
    return [(e["type"], e["reason"], e["message"]) for e in found]


def test_each_turn_of_a_resize_is_an_event_on_the_pod_where_its_role_allows(running: Running) -> None:
    running.node.rules.granted.add(("create", "events"))
    assert running.node.add_pod("blocker", quantity_bytes(3 * GIB))
    with running.resizer() as resizer:
        resizer.request(2 * GIB, "the forecast is 2 GiB; src s3://key:hunter2@bucket/x")
        running.until(O.DEFERRED)
        resizer.withdraw(64 * MIB)
        running.until(O.WITHDRAWN)
        resizer.request(128 * MIB, "")
        running.until(O.ACTUATED)
        eventually("the last is there", lambda: _events(running)[-1:] and _events(running)[-1][1].endswith("Actuated"))
    told = _events(running)
    assert [(kind, reason.removeprefix("MemoryResize")) for kind, reason, _ in told] == [
        ("Normal", "Requested"), ("Warning", "Deferred"), ("Normal", "Withdrawn"), ("Normal", "Requested"), ("Normal", "Actuated"),
    ]  # fmt: skip
    assert told[0][2].startswith("container etl, 64 MiB to 2 GiB: the forecast is 2 GiB; src s3://")
    assert "hunter2" not in str(told)


def test_without_the_right_it_is_asked_for_once_and_a_server_that_is_silent_holds_nothing_up(running: Running) -> None:
    asked: list[Kind] = []
    create = running.client.create_event

    def counted(body: dict[str, Any]) -> Any:
        answer = create(body)
        asked.append(answer.kind)
        return answer

    running.client.create_event = counted  # type: ignore[method-assign]
    with running.resizer() as resizer:
        resizer.request(96 * MIB, "")
        running.until(O.ACTUATED)
        eventually("it was told no", lambda: asked == [Kind.RBAC])
        resizer.request(112 * MIB, "")
        running.until(O.ACTUATED)
    assert asked == [Kind.RBAC] and _events(running) == []
    running.node.rules.granted.add(("create", "events"))
    running.node.faults.never(method="POST", times=9)
    with running.resizer() as resizer:
        resizer.request(128 * MIB, "")
        running.until(O.ACTUATED)
        resizer.request(144 * MIB, "")
        running.until(O.ACTUATED)
    assert asked == [Kind.RBAC], "the first has still no answer"


def test_more_than_the_node_has(running: Running) -> None:
    with running.resizer() as resizer:
        resizer.request(64 * GIB, "")
        report = running.until(O.INFEASIBLE)
    assert "node can never hold" in report.message


def test_infeasible_as_up_to_1_35(tmp_path: Path) -> None:
    with Node(4 * GIB, timings=QUICK, minor=35) as node:
        running = Running(node, tmp_path)
        with running.resizer() as resizer:
            resizer.request(64 * GIB, "")
            running.until(O.INFEASIBLE)
            pod = node.get_pod(running.name)
            assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Mi", "taken back"


def test_a_status_that_lags_and_flips_back(running: Running) -> None:
    running.node.faults.flip_back = True
    running.node.faults.status_lag_s = 0.3
    with running.resizer() as resizer:
        resizer.request(128 * MIB, "")
        seen = running.until_final()
    assert seen[-1] is O.ACTUATED and seen.count(O.ACTUATED) == 1


FAULTS: list[tuple[str, Callable[[Any], None], ResizeOutcome]] = [
    ("409 twice", lambda faults: faults.answer(409, times=2), O.ACTUATED),
    ("500 twice", lambda faults: faults.answer(500, times=2), O.ACTUATED),
    ("429 once", lambda faults: faults.answer(429, times=1), O.ACTUATED),
    ("401 once: the token had just run out", lambda faults: faults.answer(401, times=1), O.ACTUATED),
    ("401 again and again", lambda faults: faults.answer(401, times=4), O.REFUSED),
    ("403", lambda faults: faults.answer(403, times=1), O.REFUSED),
    ("dropped before it was taken", lambda faults: faults.drop(times=1), O.ACTUATED),
    ("dropped after it was taken", lambda faults: faults.drop(times=1, after=True), O.ACTUATED),
    ("GET dropped", lambda faults: faults.drop(method="GET", times=1), O.ACTUATED),
    ("late", lambda faults: faults.late(0.3, times=1), O.ACTUATED),
]


def test_faults(running: Running) -> None:
    with running.resizer(deadlines=Deadlines(settle_s=0.05)) as resizer:
        assert resizer.facts(WAIT_S) is not None
        for number, (name, fault, outcome) in enumerate(FAULTS, start=1):
            fault(running.node.faults)
            resizer.request((64 + 16 * number) * MIB, "")
            assert running.until_final()[-1] is outcome, name


def test_the_token_rotates(running: Running) -> None:
    assert running.client.get_pod().ok
    running.node.rotate_token(running.name)
    assert running.client.get_pod().ok
    running.client.access.token_file.unlink()
    running.client.access.token_file.write_text("made-up")
    assert running.client.get_pod().kind is Kind.UNAUTHORIZED


def test_somebody_else_resizes_meanwhile(running: Running) -> None:
    assert running.node.add_pod("blocker", quantity_bytes(3 * GIB))
    with running.resizer() as resizer:
        resizer.request(2 * GIB, "")
        running.until(O.DEFERRED)
        running.node.resize(running.name, running.identity.container, memory="96Mi")
        assert "somebody else" in running.until(O.WITHDRAWN).message


def test_a_shrink_below_use(running: Running) -> None:
    """A shell's own pages are above 64 KiB, so a limit of one page can't be had (F5)."""
    with running.resizer(deadlines=Deadlines(stuck_s=0.5)) as resizer:
        resizer.request(64 * 1024, "")
        running.until(O.ERROR)
        resizer.withdraw(64 * MIB)
        assert running.until_final() == [O.WITHDRAWN]


def verb(module: Any, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def test_the_operator_s_verb(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import kubernetes

    location = str(running.node.kubeconfig())
    monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", location)
    container = running.identity.container
    words = (running.name, "--container", container, "--memory", "96Mi", "--wait")
    assert resize.run(verb(resize, *words)) == 0
    assert "in force after" in capsys.readouterr().out
    assert running.node.add_pod("blocker", quantity_bytes(3 * GIB))
    words = (running.name, "--container", container, "--memory", "2Gi", "--wait", "--timeout", "500ms")
    assert resize.run(verb(resize, *words)) == 75
    assert "deferred: the node has no room now" in capsys.readouterr().out
    words = (running.name, "--container", container, "--memory", "64Gi", "--wait")
    assert resize.run(verb(resize, *words)) == 77
    assert "node can never hold" in capsys.readouterr().err


def test_doctor_beside_the_job(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    access = running.client.access
    environ = {
        "KUBERNETES_SERVICE_HOST": access.host,
        "KUBERNETES_SERVICE_PORT": str(access.port),
        "ETLKIT_SERVICE_ACCOUNT": str(access.token_file.parent),
        "ETLKIT_POD_NAME": running.identity.pod,
        "ETLKIT_POD_NAMESPACE": running.identity.namespace,
        "ETLKIT_CONTAINER_NAME": running.identity.container,
        "ETLKIT_BACKOFF_LIMIT": "6",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "in_pod", lambda *_: False)
    before = running.node.get_pod(running.name)["metadata"]["generation"]
    doctor.run(verb(doctor, "--json", "--state", str(tmp_path), "--max-memory", "1Gi"))
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    failed = {name: check for name, check in checks.items() if check["level"] == "fail"}
    assert failed == {}
    assert checks["may be resized to max_memory (1 GiB)"]["level"] == "ok"
    assert running.node.get_pod(running.name)["metadata"]["generation"] == before, "a dry run changes nothing"
    running.node.faults.answer(403, times=1)
    assert doctor.run(verb(doctor, "--json", "--state", str(tmp_path), "--max-memory", "1Gi")) == 78
    assert "pods/resize" in json.loads(capsys.readouterr().out)["request_for_admin"]
