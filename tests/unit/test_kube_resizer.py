"""The resizer's thread against a loopback API server that behaves like a small cluster."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kube_server import ApiServer, Call, Cluster, Reply, certificates, ok, server

from etlkit.decide.events import ResizeOutcome, ResizeReported
from etlkit.kube.answer import Kind
from etlkit.kube.client import Patience, PodClient
from etlkit.kube.identity import Access, PodIdentity
from etlkit.kube.outcome import Deadlines
from etlkit.kube.resizer import Pace, Resizer
from etlkit.units import GIB, MIB

__all__ = ["certificates", "server"]

O = ResizeOutcome  # noqa: E741
PATIENCE = Patience(connect_s=1, get_s=1, patch_s=0.5, tries=2, first_wait_s=0.01, longest_wait_s=0.02, budget_s=3)
PACE = Pace(limit_file_s=0.005, first_poll_s=0.02, growth=1.2, longest_poll_s=0.05, unsure_s=0.5, facts_retry_s=0.05)
WAIT_S = 10


class Job:
    """The runtime's side: what was reported, in order."""

    def __init__(self, api: ApiServer, cluster: Cluster | None = None, **options: Any) -> None:
        self.news: queue.SimpleQueue[ResizeReported] = queue.SimpleQueue()
        access = Access("127.0.0.1", api.port, api.token_file, api.ca_file)
        identity = PodIdentity("etl", "running", "etl")
        read_limit = (lambda: cluster.limit_file) if cluster is not None else (lambda: 128 * MIB)
        options = {
            "pace": PACE,
            "deadlines": Deadlines(stuck_s=0.3, settle_s=0.05, silent_s=0.5, withdraw_s=2),
        } | options
        self.resizer = Resizer(PodClient(access, identity, PATIENCE), identity, self.news.put, read_limit, **options)

    def next(self) -> ResizeReported:
        return self.news.get(timeout=WAIT_S)

    def until_final(self) -> list[ResizeOutcome]:
        seen = [self.next().outcome]
        while seen[-1] not in (O.ACTUATED, O.INFEASIBLE, O.REFUSED, O.UNREACHABLE, O.WITHDRAWN):
            seen.append(self.next().outcome)
        return seen


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    return Cluster(server)


@pytest.fixture
def job(server: ApiServer, cluster: Cluster) -> Iterator[Job]:
    job = Job(server, cluster)
    yield job
    job.resizer.close(WAIT_S)


def test_facts_come_in_the_background(job: Job) -> None:
    view = job.resizer.facts(WAIT_S)
    assert view is not None and (view.name, view.limit_bytes, view.grace_s) == ("running", 128 * MIB, 10.0)
    assert job.resizer.trouble() is None


def test_facts_are_asked_for_until_they_come(server: ApiServer) -> None:
    server.script = ["reset", "reset", "reset", "reset"]
    job = Job(server)
    assert job.resizer.facts(WAIT_S) is None
    trouble = job.resizer.trouble()
    assert trouble is not None and trouble.kind is Kind.RESET
    for _ in range(200):
        if job.resizer.facts() is not None:
            break
        threading.Event().wait(0.02)
    assert job.resizer.facts() is not None
    job.resizer.close(WAIT_S)


def test_granted(job: Job, cluster: Cluster, server: ApiServer) -> None:
    job.resizer.request(256 * MIB, "the forecast")
    assert job.until_final() == [O.REQUESTED, O.ACTUATED]
    assert cluster.wanted == "256Mi"
    assert len(server.patches()) == 1
    assert job.news.empty()


def test_actuated_only_when_the_limit_file_says_so(job: Job, cluster: Cluster) -> None:
    def status_first(limit_bytes: int) -> None:
        cluster.grant(limit_bytes)
        cluster.limit_file = 128 * MIB

    cluster.kubelet = status_first
    job.resizer.request(256 * MIB, "")
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.ERROR]
    cluster.limit_file = 256 * MIB
    assert job.next().outcome is O.ACTUATED


def test_without_a_limit_file_the_status_decides(job: Job, cluster: Cluster) -> None:
    def unseen(limit_bytes: int) -> None:
        cluster.grant(limit_bytes)
        cluster.limit_file = None

    cluster.kubelet = unseen
    cluster.limit_file = None
    job.resizer.request(256 * MIB, "")
    assert job.until_final() == [O.REQUESTED, O.ACTUATED]


def test_deferred_then_granted(job: Job, cluster: Cluster) -> None:
    cluster.kubelet = cluster.defer
    job.resizer.request(GIB, "")
    assert job.next().outcome is O.REQUESTED
    deferred = job.next()
    assert (deferred.outcome, deferred.to_bytes) == (O.DEFERRED, GIB) and "full" in deferred.message
    with cluster.lock:
        cluster.grant(GIB)
    assert job.next().outcome is O.ACTUATED


def test_deferred_then_withdrawn_restores_the_request_too(job: Job, cluster: Cluster, server: ApiServer) -> None:
    cluster.pod["status"]["qosClass"] = "Burstable"
    cluster.pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = "100Mi"
    cluster.pod["status"]["containerStatuses"][0]["resources"]["requests"]["memory"] = "100Mi"
    cluster.kubelet = cluster.defer
    job.resizer.request(GIB, "")
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.DEFERRED]
    job.resizer.withdraw(128 * MIB - 4096)  # as a limit file that is rounded to pages says it
    assert job.until_final() == [O.WITHDRAWN]
    asked, back = (call.json["spec"]["containers"][0]["resources"] for call in server.patches())
    assert asked == {"requests": {"memory": "996Mi"}, "limits": {"memory": "1Gi"}}
    assert back == {"requests": {"memory": "100Mi"}, "limits": {"memory": "128Mi"}}


def test_the_author_may_keep_the_request(server: ApiServer, cluster: Cluster) -> None:
    cluster.pod["status"]["qosClass"] = "Burstable"
    cluster.pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = "100Mi"
    job = Job(server, cluster, keep_request=True)
    job.resizer.request(GIB, "")
    assert job.until_final() == [O.REQUESTED, O.ACTUATED]
    resources = server.patches()[0].json["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"memory": "100Mi"}, "limits": {"memory": "1Gi"}}
    job.resizer.close(WAIT_S)


def test_infeasible_is_taken_back_at_once(job: Job, cluster: Cluster) -> None:
    cluster.kubelet = cluster.infeasible
    job.resizer.request(GIB, "")
    assert job.until_final() == [O.REQUESTED, O.INFEASIBLE]
    assert cluster.wanted == "128Mi"
    assert job.news.empty()


def test_a_refusal_ends_it(job: Job, cluster: Cluster, server: ApiServer) -> None:
    job.resizer.facts(WAIT_S)

    def refuse(call: Call) -> Reply:
        return cluster.answer(call) if call.method == "GET" else ok({"message": "exceeded quota: q"}, 403)

    server.fallback = refuse
    job.resizer.request(GIB, "")
    news = job.next()
    assert (news.outcome, news.to_bytes) == (O.INFEASIBLE, GIB) and "exceeded quota" in news.message
    server.fallback = cluster.answer
    job.resizer.request(256 * MIB, "")
    assert job.until_final() == [O.REQUESTED, O.ACTUATED]


def test_a_patch_whose_answer_was_lost_is_found_in_the_pod(job: Job, cluster: Cluster, server: ApiServer) -> None:
    job.resizer.facts(WAIT_S)

    def lossy(call: Call) -> Reply | str:
        reply = cluster.answer(call)
        return "reset" if call.method == "PATCH" else reply

    cluster.kubelet = cluster.defer
    server.fallback = lossy
    job.resizer.request(GIB, "")
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.DEFERRED]
    assert len(server.patches()) == 1, "it was taken; it is not sent again"


def test_a_patch_that_never_arrived_is_sent_again(job: Job, cluster: Cluster, server: ApiServer) -> None:
    job.resizer.facts(WAIT_S)
    faults = iter(["reset", "reset"])

    def lossy(call: Call) -> Reply | str:
        if call.method == "PATCH":
            fault = next(faults, None)
            if fault is not None:
                return fault
        return cluster.answer(call)

    server.fallback = lossy
    job.resizer.request(GIB, "")
    assert job.until_final() == [O.REQUESTED, O.ACTUATED]
    assert len(server.patches()) == 3


def test_a_server_that_never_answers_ends_in_unreachable(job: Job, server: ApiServer) -> None:
    job.resizer.facts(WAIT_S)
    server.fallback = "silent"
    job.resizer.request(GIB, "")
    news = job.next()
    assert (news.outcome, news.to_bytes) == (O.UNREACHABLE, GIB)


def test_a_request_that_nobody_answered_is_followed_once_it_is_seen(
    job: Job, cluster: Cluster, server: ApiServer
) -> None:
    """The PATCH is taken, every answer is lost for a while, then the network is back."""
    job.resizer.facts(WAIT_S)
    cluster.kubelet = cluster.defer
    back = threading.Event()
    first = threading.Event()

    def lost(call: Call) -> Reply | str:
        if call.method == "GET" and not first.is_set():
            first.set()
            return cluster.answer(call)
        reply = cluster.answer(call)
        return reply if back.is_set() else "reset"

    server.fallback = lost
    job.resizer.request(GIB, "")
    assert job.next().outcome is O.UNREACHABLE
    back.set()
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.DEFERRED]


def test_a_silence_while_in_flight(job: Job, cluster: Cluster, server: ApiServer) -> None:
    cluster.kubelet = cluster.defer
    job.resizer.request(GIB, "")
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.DEFERRED]
    server.fallback = "reset"
    assert job.next().outcome is O.UNREACHABLE


def test_a_pending_resize_of_an_earlier_life_is_followed(server: ApiServer, cluster: Cluster) -> None:
    cluster.kubelet = cluster.defer
    cluster.answer(
        Call("PATCH", "", {}, b'{"spec":{"containers":[{"resources":{"limits":{"memory":"8Gi"},"requests":{}}}]}}')
    )
    job = Job(server, cluster)
    first, second = job.next(), job.next()
    assert [(n.outcome, n.to_bytes) for n in (first, second)] == [(O.REQUESTED, 8 * GIB), (O.DEFERRED, 8 * GIB)]
    job.resizer.withdraw(128 * MIB)
    assert job.next().outcome is O.WITHDRAWN
    job.resizer.close(WAIT_S)


def test_a_late_status_after_a_restart_is_no_pending_resize(server: ApiServer, cluster: Cluster) -> None:
    cluster.pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "256Mi"
    cluster.limit_file = 256 * MIB
    job = Job(server, cluster)
    assert job.resizer.facts(WAIT_S) is not None
    job.resizer.request(512 * MIB, "")
    assert job.until_final() == [O.REQUESTED, O.ACTUATED]
    job.resizer.close(WAIT_S)


def test_a_newer_request_replaces_the_older(job: Job, cluster: Cluster) -> None:
    cluster.kubelet = cluster.defer
    job.resizer.request(8 * GIB, "")
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.DEFERRED]
    cluster.kubelet = cluster.grant
    job.resizer.request(GIB, "")
    replaced = job.next()
    assert (replaced.outcome, replaced.to_bytes) == (O.WITHDRAWN, 8 * GIB)
    assert job.until_final() == [O.REQUESTED, O.ACTUATED]


def test_a_withdrawal_that_fails_is_tried_again(job: Job, cluster: Cluster, server: ApiServer) -> None:
    cluster.kubelet = cluster.defer
    job.resizer.request(GIB, "")
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.DEFERRED]
    refusals = iter([1, 2, 3])

    def grumpy(call: Call) -> Reply:
        if call.method == "PATCH" and next(refusals, None):
            return ok({"message": "later"}, 403)
        return cluster.answer(call)

    server.fallback = grumpy
    job.resizer.withdraw(128 * MIB)
    news = job.next()
    assert news.outcome is O.DEFERRED and "could not be withdrawn yet" in news.message
    assert job.next().outcome is O.WITHDRAWN
    assert cluster.wanted == "128Mi"


def test_withdrawing_what_is_not_in_flight(job: Job, cluster: Cluster) -> None:
    job.resizer.withdraw(128 * MIB)
    assert job.next().outcome is O.WITHDRAWN
    assert cluster.wanted == "128Mi"


def test_another_container_s_name(server: ApiServer, cluster: Cluster) -> None:
    cluster.pod["spec"]["containers"][0]["name"] = "injected"
    job = Job(server, cluster)
    job.resizer.request(GIB, "")
    news = job.next()
    assert news.outcome is O.REFUSED and "no container or sidecar 'etl'" in news.message
    assert server.patches() == []
    job.resizer.close(WAIT_S)


def test_nothing_is_reported_after_closing(job: Job, cluster: Cluster) -> None:
    cluster.kubelet = cluster.defer
    job.resizer.request(GIB, "")
    assert [job.next().outcome, job.next().outcome] == [O.REQUESTED, O.DEFERRED]
    job.resizer.close(WAIT_S)
    assert not job.resizer._thread.is_alive()
    cluster.grant(GIB)
    assert job.news.empty()


def test_a_thread_without_memory_says_so_and_goes_on(server: ApiServer, cluster: Cluster) -> None:
    class Starved(PodClient):
        hungry = True

        def resize_memory(self, *args: Any, **options: Any) -> Any:
            if self.hungry:
                self.hungry = False
                raise MemoryError
            return super().resize_memory(*args, **options)

    news: queue.SimpleQueue[ResizeReported] = queue.SimpleQueue()
    identity = PodIdentity("etl", "running", "etl")
    access = Access("127.0.0.1", server.port, server.token_file, server.ca_file)
    resizer = Resizer(Starved(access, identity, PATIENCE), identity, news.put, lambda: cluster.limit_file, pace=PACE)
    resizer.request(GIB, "")
    report = news.get(timeout=WAIT_S)
    assert report.outcome is O.UNREACHABLE and "MemoryError" in report.message
    resizer.request(GIB, "")
    assert news.get(timeout=WAIT_S).outcome is O.REQUESTED
    resizer.close(WAIT_S)
