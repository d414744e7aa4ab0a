"""The node's API server as the in-pod client meets it: TLS, tokens, and every fault on demand."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from etlkit.kube.answer import Answer, Kind
from etlkit.kube.client import Patience, PodClient
from etlkit.kube.identity import Access, PodIdentity
from etlkit.kube.pod import PodView, read_pod
from etlkit.node.controller import JobHandle
from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
from etlkit.units import GIB, MIB

ONCE = Patience(connect_s=2, get_s=2, patch_s=2, tries=1, budget_s=5)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(4 * GIB, enforcement="sampling") as made:
        yield made


@pytest.fixture(scope="module")
def job(node: Node) -> Iterator[JobHandle]:
    handle = node.start_job(pod_manifest("etl", ["sleep", "600"], memory="64Mi", resize_policy="NotRequired"))
    assert node.store.wait_until(lambda: node.get_pod("etl")["status"]["phase"] == "Running", 20)
    yield handle


@pytest.fixture
def client(node: Node, job: JobHandle) -> Iterator[PodClient]:
    host, port = node.address
    account = node.service_account("etl")
    yield PodClient(Access(host, port, account / "token", account / "ca.crt"), PodIdentity("etl", "etl", "etl"), ONCE)
    node.faults.clear()
    node.rules.denied = set()


def view(client: PodClient) -> PodView:
    answer = client.get_pod()
    assert answer.kind is Kind.OK, answer
    return read_pod(answer.body, "etl")


def ask(client: PodClient) -> Answer:
    return client.resize_memory(128 * MIB, view(client), dry_run=True)


def test_the_client_of_a_pod_gets_on_with_it(client: PodClient) -> None:
    pod = view(client)
    assert (pod.limit_bytes, pod.qos, pod.job, pod.restart_policy) == (64 * MIB, "Burstable", "etl", "OnFailure")
    assert ask(client).kind is Kind.OK
    assert client.get_version().kind is Kind.OK


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, Kind.UNAUTHORIZED),
        (403, Kind.RBAC),
        (404, Kind.NOT_FOUND),
        (409, Kind.CONFLICT),
        (429, Kind.THROTTLED),
        (500, Kind.SERVER),
        (503, Kind.SERVER),
        (504, Kind.SERVER),
    ],
)
def test_a_call_can_be_answered_with_an_error_once(node: Node, client: PodClient, code: int, kind: Kind) -> None:
    node.faults.answer(code, retry_after_s=7)
    answer = ask(client)
    assert answer.kind is kind, answer
    assert answer.retry_after_s == (7 if code == 429 else None)
    assert ask(client).kind is Kind.OK


def test_a_call_can_be_left_without_an_answer(node: Node, client: PodClient) -> None:
    pod = view(client)
    node.faults.never()
    quick = PodClient(client.access, client.identity, Patience(patch_s=0.3, tries=1, budget_s=1))
    assert quick.resize_memory(128 * MIB, pod, dry_run=True).kind is Kind.TIMEOUT
    assert ask(client).kind is Kind.OK


def test_a_connection_can_break_before_and_after_the_call_took_effect(node: Node, client: PodClient) -> None:
    pod = view(client)
    node.faults.drop()
    assert client.resize_memory(96 * MIB, pod).kind is Kind.RESET
    assert view(client).spec.limit_bytes == 64 * MIB
    node.faults.drop(after=True)
    assert client.resize_memory(96 * MIB, pod).kind is Kind.RESET
    assert view(client).spec.limit_bytes == 96 * MIB
    assert client.resize_memory(64 * MIB, view(client)).kind is Kind.OK


def test_an_answer_can_be_late(node: Node, client: PodClient) -> None:
    node.faults.late(0.2, method="GET")
    assert client.get_pod().kind is Kind.OK


def test_faults_are_for_the_calls_that_they_name(node: Node, client: PodClient) -> None:
    node.faults.answer(500, method="GET", path="/version")
    assert client.get_pod().kind is Kind.OK
    assert client.get_version().kind is Kind.SERVER


def test_a_missing_permission(node: Node, client: PodClient) -> None:
    node.rules.denied = {("patch", "pods/resize")}
    assert ask(client).kind is Kind.RBAC
    node.rules.denied = {("get", "pods")}
    assert client.get_pod().kind is Kind.RBAC


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        (
            "GET",
            "/api/v1/namespaces/etl/pods",
            'pods is forbidden: User "{me}" cannot list resource "pods" in API group ""',
        ),
        ("GET", "/api/v1/namespaces/other/pods/etl", 'pods "etl" is forbidden: User "{me}" cannot get resource "pods"'),
        (
            "GET",
            "/api/v1/namespaces/etl/pods/etl/log",
            'pods "etl" is forbidden: User "{me}" cannot get resource "pods/log"',
        ),
        (
            "DELETE",
            "/api/v1/namespaces/etl/pods/etl",
            'pods "etl" is forbidden: User "{me}" cannot delete resource "pods"',
        ),
        (
            "POST",
            "/apis/batch/v1/namespaces/etl/jobs",
            'jobs.batch is forbidden: User "{me}" cannot create resource "jobs"',
        ),
    ],
)
def test_a_pod_may_do_what_its_role_says_and_no_more(
    node: Node, job: JobHandle, method: str, path: str, words: str
) -> None:
    host, port = node.address
    request = urllib.request.Request(
        f"https://{host}:{port}{path}",
        method=method,
        headers={"Authorization": f"Bearer {(node.service_account('etl') / 'token').read_text()}"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(node.ca_file)))
    assert refused.value.code == 403
    message = json.load(refused.value)["message"]
    assert message.startswith(words.format(me="system:serviceaccount:etl:etlkit"))


def test_a_token_that_rotates_is_read_anew(node: Node, client: PodClient, tmp_path: Path) -> None:
    token = node.service_account("etl") / "token"
    before = token.read_text()
    old = tmp_path / "token"
    old.write_text(before)
    node.rotate_token("etl")
    assert token.read_text() != before
    assert client.get_pod().kind is Kind.OK
    stale = PodClient(Access(client.access.host, client.access.port, old, node.ca_file), client.identity, ONCE)
    assert stale.get_pod().kind is Kind.UNAUTHORIZED


def test_another_authority_is_not_believed(node: Node, client: PodClient) -> None:
    with Node(1 * GIB, enforcement="sampling") as other:
        access = Access(client.access.host, client.access.port, client.access.token_file, other.ca_file)
        assert PodClient(access, client.identity, ONCE).get_pod().kind is Kind.TLS


def test_an_operator_uses_the_official_client(node: Node, job: JobHandle) -> None:
    kubernetes = pytest.importorskip("kubernetes")
    api = kubernetes.config.new_client_from_config(str(node.kubeconfig()))
    core = kubernetes.client.CoreV1Api(api)
    assert core.read_namespaced_pod("etl", "etl").status.phase == "Running"
    assert [pod.metadata.name for pod in core.list_namespaced_pod("etl").items] == ["etl"]
    assert "Started" in [event.reason for event in core.list_namespaced_event("etl").items]
    found = kubernetes.client.BatchV1Api(api).read_namespaced_job("etl", "etl")
    assert (found.spec.backoff_limit, found.status.active) == (6, 1)
    assert kubernetes.client.VersionApi(api).get_code().minor == "36"


def test_what_there_is_not(node: Node, client: PodClient) -> None:
    stranger = PodClient(client.access, PodIdentity("etl", "nobody", "etl"), ONCE)
    assert stranger.get_pod().kind is Kind.NOT_FOUND
