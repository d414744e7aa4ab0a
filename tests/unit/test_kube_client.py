"""The thin client against a real TLS server on loopback: what it sends, and every fault that a network has."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kube_server import ApiServer, Call, Reply, certificates, make_certificates, ok, pod_body, recorded, server

from etlkit.kube.answer import Kind
from etlkit.kube.client import PATCH_TYPE, Patience, PodClient, moved_request
from etlkit.kube.identity import Access, PodIdentity
from etlkit.kube.pod import PodView, read_pod
from etlkit.units import MIB

__all__ = ["certificates", "server"]

IDENTITY = PodIdentity("etl", "running", "etl")
QUICK = Patience(connect_s=2, get_s=2, patch_s=2, tries=3, first_wait_s=0.01, longest_wait_s=0.02, budget_s=5)


def client_of(server: ApiServer, patience: Patience = QUICK, **changes: object) -> PodClient:
    access = Access("127.0.0.1", server.port, server.token_file, server.ca_file)
    return PodClient(access, IDENTITY, patience, **changes)  # type: ignore[arg-type]


@pytest.fixture
def client(server: ApiServer) -> PodClient:
    return client_of(server)


@pytest.fixture
def pod() -> PodView:
    return read_pod(pod_body(), "etl")


def test_get(server: ApiServer, client: PodClient) -> None:
    answer = client.get_pod()
    assert answer.ok and answer.body["metadata"]["name"] == "running"
    (call,) = server.calls
    assert (call.method, call.path, call.body) == ("GET", "/api/v1/namespaces/etl/pods/running", b"")
    assert call.headers["authorization"] == "Bearer first-token"
    assert call.headers["host"] == f"127.0.0.1:{server.port}"


def test_patch_of_memory_and_cpu(server: ApiServer, client: PodClient, pod: PodView) -> None:
    server.fallback = recorded("patch-accepted")
    answer = client.resize_memory(256 * MIB, pod)
    assert answer.ok and answer.body["metadata"]["generation"] == 2
    client.resize_cpu(1500, pod, dry_run=True)
    memory, cpu = server.calls
    assert (memory.method, memory.path) == ("PATCH", "/api/v1/namespaces/etl/pods/running/resize")
    assert memory.headers["content-type"] == PATCH_TYPE == "application/strategic-merge-patch+json"
    both = {"requests": {"memory": "256Mi"}, "limits": {"memory": "256Mi"}}
    assert memory.json == {"spec": {"containers": [{"name": "etl", "resources": both}]}}
    assert cpu.path.endswith("/resize?dryRun=All")
    assert cpu.json["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1500m"}


def test_a_sidecar_is_patched_among_the_init_containers(server: ApiServer, client: PodClient) -> None:
    client.resize_memory(96 * MIB, read_pod(pod_body("get-with-sidecar"), "log-collector"))
    body = server.calls[0].json
    assert list(body["spec"]) == ["initContainers"] and body["spec"]["initContainers"][0]["name"] == "log-collector"


def burstable(request: str, limit: str) -> PodView:
    body = pod_body()
    body["status"]["qosClass"] = "Burstable"
    body["spec"]["containers"][0]["resources"]["requests"]["memory"] = request
    body["spec"]["containers"][0]["resources"]["limits"]["memory"] = limit
    return read_pod(body, "etl")


@pytest.mark.parametrize(
    ("request_mib", "limit_mib", "new_mib", "moved_mib"),
    [(128, 256, 512, 384), (256, 256, 512, 512), (128, 256, 192, 96), (128, 256, 64, 32), (384, 512, 256, 192)],
)
def test_the_request_of_a_burstable_pod(request_mib: int, limit_mib: int, new_mib: int, moved_mib: int) -> None:
    view = burstable(f"{request_mib}Mi", f"{limit_mib}Mi")
    moved = moved_request(view, view.spec.request_bytes, view.spec.limit_bytes, new_mib * MIB)
    assert moved == moved_mib * MIB
    assert (moved == new_mib * MIB) == (request_mib == limit_mib), "equal stays equal, less stays less: the QoS class"


def test_the_request_may_be_kept(server: ApiServer, client: PodClient) -> None:
    client.resize_memory(512 * MIB, burstable("128Mi", "256Mi"), request_bytes=128 * MIB)
    resources = server.calls[0].json["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"memory": "128Mi"}, "limits": {"memory": "512Mi"}}


def status(code: int, message: str = "no", **headers: str) -> Reply:
    return ok({"kind": "Status", "status": "Failure", "message": message, "code": code}, code, **headers)


def test_the_token_is_read_anew_for_each_call(server: ApiServer, client: PodClient) -> None:
    client.get_pod()
    server.token_file.write_text("second-token")
    client.get_pod()
    assert [call.headers["authorization"] for call in server.calls] == ["Bearer first-token", "Bearer second-token"]


@pytest.mark.parametrize("code", [403, 404, 422])
def test_a_refusal_is_not_asked_again(server: ApiServer, client: PodClient, pod: PodView, code: int) -> None:
    server.fallback = status(code)
    assert client.get_pod().status == code
    assert client.resize_memory(MIB, pod).status == code
    assert len(server.calls) == 2


@pytest.mark.parametrize("code", [401, 409, 429, 500, 503])
def test_what_may_pass_is_asked_again(server: ApiServer, client: PodClient, pod: PodView, code: int) -> None:
    server.script = [status(code), status(code)]
    assert client.resize_memory(256 * MIB, pod).ok
    assert len(server.calls) == 3
    server.fallback = status(code)
    assert client.resize_memory(256 * MIB, pod).status == code
    assert len(server.calls) == 6, "three tries, then the answer as it is"


def test_retry_after_is_waited_for(server: ApiServer) -> None:
    waits: list[float] = []
    client = client_of(server, sleep=waits.append)
    server.script = [status(429, Retry_After="2"), status(429)]
    assert client.get_pod().ok
    assert waits[0] == 2
    assert 0.005 <= waits[1] <= 0.02, "without a header our own back-off, half of it at random"


def test_a_retry_after_beyond_the_budget_ends_the_call(server: ApiServer) -> None:
    waits: list[float] = []
    client = client_of(server, sleep=waits.append)
    server.fallback = status(429, Retry_After="3600")
    answer = client.get_pod()
    assert (answer.kind, answer.retry_after_s, waits) == (Kind.THROTTLED, 3600, [])


def test_a_reset_patch_is_not_repeated_but_a_get_is(server: ApiServer, client: PodClient, pod: PodView) -> None:
    server.script = ["reset"]
    answer = client.resize_memory(256 * MIB, pod)
    assert (answer.kind, answer.may_be_applied) == (Kind.RESET, True)
    assert len(server.calls) == 1
    server.script = ["reset", "reset"]
    assert client.get_pod().ok


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_server_that_never_answers(server: ApiServer, pod: PodView, fault: str) -> None:
    client = client_of(server, Patience(connect_s=1, get_s=0.3, patch_s=0.3, tries=1))
    server.fallback = fault
    began_s = time.monotonic()
    answers = client.get_pod(), client.resize_memory(256 * MIB, pod)
    assert [answer.kind for answer in answers] == [Kind.TIMEOUT, Kind.TIMEOUT]
    assert answers[1].may_be_applied
    assert time.monotonic() - began_s < 5, "a byte now and then does not keep a call alive"


def test_a_network_that_never_answers(tmp_path: Path, server: ApiServer) -> None:
    """A listener whose queue is full: packets go nowhere, as where a policy drops them."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
            fillers.append(filler)
        access = Access("127.0.0.1", deaf.getsockname()[1], server.token_file, server.ca_file)
        answer = PodClient(access, IDENTITY, Patience(connect_s=0.2, tries=1)).get_pod()
        assert (answer.kind, answer.may_be_applied) == (Kind.TIMEOUT, False)
        for filler in fillers:
            filler.close()


def test_nobody_listens(server: ApiServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    access = Access("127.0.0.1", port, server.token_file, server.ca_file)
    answer = PodClient(access, IDENTITY, QUICK).get_pod()
    assert (answer.kind, answer.may_be_applied) == (Kind.UNREACHED, False)


def test_what_is_no_api_server(server: ApiServer, client: PodClient, pod: PodView) -> None:
    server.fallback = "garbage"
    answer = client.resize_memory(MIB, pod)
    assert answer.kind is Kind.MALFORMED and answer.may_be_applied


@pytest.mark.parametrize("fault", ["half", "half-chunk"])
def test_an_answer_that_breaks_off(server: ApiServer, client: PodClient, pod: PodView, fault: str) -> None:
    server.script = [fault]
    answer = client.resize_memory(MIB, pod)
    assert answer.kind is Kind.RESET and answer.may_be_applied
    server.script = [fault, fault]
    assert client.get_pod().ok


def test_a_chunked_answer(server: ApiServer, client: PodClient) -> None:
    server.script = ["chunked"]
    assert client.get_pod().body == {"kind": "Pod"}


def test_an_endless_body_is_cut(server: ApiServer, client: PodClient) -> None:
    server.fallback = ok(b"x" * (9 * MIB))
    assert client.get_pod().kind is Kind.MALFORMED


def test_another_authority_is_not_trusted(server: ApiServer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    access = Access("127.0.0.1", server.port, server.token_file, make_certificates(other)[2])
    answer = PodClient(access, IDENTITY, QUICK).get_pod()
    assert answer.kind is Kind.TLS
    assert server.calls == [], "and the token was not sent"


def test_another_name_is_not_trusted(server: ApiServer) -> None:
    access = Access("localhost", server.port, server.token_file, server.ca_file)
    assert PodClient(access, IDENTITY, QUICK).get_pod().kind is Kind.TLS
    assert server.calls == []


@pytest.mark.parametrize("missing", ["token_file", "ca_file"])
def test_missing_files_are_named(server: ApiServer, missing: str, tmp_path: Path) -> None:
    setattr(server, missing, tmp_path / "gone")
    answer = client_of(server).get_pod()
    assert answer.kind is Kind.NO_TOKEN
    assert missing == "ca_file" or "gone" in answer.explain()


def test_the_token_is_in_no_message(server: ApiServer) -> None:
    for content in ("se\ncret-abc\n", "secret-abc\x00", "s\u00e9cret-abc", ""):
        server.token_file.write_text(content)
        for fault in ("garbage", "reset", status(401), ok([])):
            server.fallback = fault
            answer = client_of(server, Patience(tries=1)).get_pod()
            assert not answer.ok
            assert "cret" not in answer.explain() + repr(answer)


def test_a_failed_start_can_ask_with_the_standard_library_alone(server: ApiServer) -> None:
    code = """
import sys
from etlkit.kube.identity import find_access, find_identity
from etlkit.kube.client import PodClient
from etlkit.kube.pod import read_pod
from etlkit.kube.resizer import Resizer
client = PodClient(find_access(), find_identity())
pod = read_pod(client.get_pod().body, "etl")
assert client.resize_memory(pod.limit_bytes * 2, pod).ok
foreign = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"etlkit", "__main__"}
print(sorted(name for name in foreign if not name.startswith("_")))
"""
    environ = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "ETLKIT_SERVICE_ACCOUNT": str(server.token_file.parent),
        "ETLKIT_POD_NAME": "running",
        "ETLKIT_POD_NAMESPACE": "etl",
        "ETLKIT_CONTAINER_NAME": "etl",
    }
    (server.token_file.parent / "ca.crt").write_bytes(server.ca_file.read_bytes())
    run = subprocess.run([sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
    assert [call.method for call in server.calls] == ["GET", "PATCH"]


def test_calls_from_several_threads(server: ApiServer, client: PodClient) -> None:
    kinds: list[Kind] = []
    threads = [threading.Thread(target=lambda: kinds.append(client.get_pod().kind)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds == [Kind.OK] * 8


def test_a_name_can_not_leave_its_place_in_the_path(server: ApiServer) -> None:
    access = Access("127.0.0.1", server.port, server.token_file, server.ca_file)
    PodClient(access, PodIdentity("etl", "a/../b?x", "etl"), QUICK).get_pod()
    (call,) = server.calls
    assert call.path == "/api/v1/namespaces/etl/pods/a%2F..%2Fb%3Fx"


def test_scripted_server_is_asked_in_order(server: ApiServer, client: PodClient) -> None:
    def late(call: Call) -> Reply:
        return ok({"seen": call.method})

    server.script = [late]
    assert client.get_version().body == {"seen": "GET"}
