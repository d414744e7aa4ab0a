"""A start that asks for memory before it imports anything large."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kube_server import ApiServer, Call, Cluster, Reply, certificates, ok, server

from etlkit.decide.events import ResizeOutcome, ResizeReported
from etlkit.kube.client import Patience, PodClient
from etlkit.kube.first import FirstAsk, make_room
from etlkit.kube.identity import Access, PodIdentity
from etlkit.units import GIB, MIB

__all__ = ["certificates", "server"]

O = ResizeOutcome  # noqa: E741
QUICK = Patience(connect_s=1, get_s=1, patch_s=1, tries=2, first_wait_s=0.01, longest_wait_s=0.02, budget_s=3)


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    return Cluster(server)


def ask(cluster: Cluster, **options: Any) -> FirstAsk:
    api = cluster.api
    access = Access("127.0.0.1", api.port, api.token_file, api.ca_file)
    identity = PodIdentity("etl", "running", "etl")
    client = PodClient(access, identity, QUICK)
    return make_room(GIB, client, identity, lambda: cluster.limit_file, **options)


def test_live(cluster: Cluster) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    said: list[ResizeOutcome] = []
    ended = ask(cluster, say=lambda report: said.append(report.outcome))
    assert (ended.outcome, ended.limit_bytes, ended.terminated) == (O.ACTUATED, GIB, False)
    assert said == [O.REQUESTED, O.ACTUATED]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_restart_comes_as_sigterm(cluster: Cluster) -> None:
    cluster.policy("RestartContainer")

    def restart(limit_bytes: int) -> None:
        cluster.conditions({"type": "PodResizeInProgress", "status": "True"})

    def say(report: ResizeReported) -> None:
        if report.outcome is O.IN_PROGRESS:
            threading.Timer(1.3, os.kill, (os.getpid(), signal.SIGTERM)).start()

    cluster.kubelet = restart
    ended = ask(cluster, deadline_s=1.0, say=say)
    assert ended.terminated and ended.outcome is O.IN_PROGRESS, "it stays alive until SIGTERM, whatever the deadline"
    assert cluster.wanted == "1Gi"


def test_a_job_that_a_restart_would_fail_is_not_asked_for(cluster: Cluster, server: ApiServer) -> None:
    cluster.policy("RestartContainer")
    cluster.pod["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "nightly"}]
    ended = ask(cluster, backoff_limit=1)
    assert ended.outcome is None and "backoffLimit" in ended.message and ended.limit_bytes == 128 * MIB
    assert server.patches() == []
    cluster.policy("NotRequired")
    assert ask(cluster, backoff_limit=1).outcome is O.ACTUATED


def test_deferred_for_too_long_is_taken_back(cluster: Cluster) -> None:
    cluster.kubelet = cluster.defer
    ended = ask(cluster, deadline_s=0.3)
    assert (ended.outcome, ended.limit_bytes) == (O.WITHDRAWN, 128 * MIB)
    assert cluster.wanted == "128Mi"


def test_refused(cluster: Cluster, server: ApiServer) -> None:
    def refuse(call: Call) -> Reply:
        return cluster.answer(call) if call.method == "GET" else ok({"message": "exceeded quota: q"}, 403)

    server.fallback = refuse
    ended = ask(cluster)
    assert ended.outcome is O.INFEASIBLE and "exceeded quota" in ended.message


def test_nobody_to_ask(cluster: Cluster, server: ApiServer) -> None:
    server.fallback = "reset"
    ended = ask(cluster)
    assert ended.outcome is None and "broke" in ended.message and not ended.terminated


CODE = """
import sys, time
from etlkit.kube.first import make_room
from etlkit.kube.client import PodClient
from etlkit.kube.identity import find_access, find_identity
from etlkit.memory import find_reader
client = PodClient(find_access(), find_identity())
ended = make_room(1 << 30, client, client.identity, find_reader().limit_bytes)
foreign = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"etlkit", "__main__"}
print(ended.outcome, ended.limit_bytes, sorted(name for name in foreign if not name.startswith("_")))
"""
ASK_LIMIT_BYTES = 24 * MIB
"""12 MiB were enough when it was measured (ADR 0007), with the libraries' pages in the cache of another cgroup."""


def own_group() -> Path | None:
    root = Path("/sys/fs/cgroup/memory")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = [line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "memory"]
    return root / paths[0].lstrip("/") if paths and (root / paths[0].lstrip("/")).is_dir() else None


@pytest.mark.cgroup
def test_in_a_cgroup_that_is_far_too_small_for_pyarrow(cluster: Cluster, server: ApiServer) -> None:
    parent = own_group()
    if parent is None or not os.access(parent, os.W_OK):
        pytest.skip("needs a cgroup v1 memory hierarchy that this user may write to")
    group = parent / f"etlkit-first-{os.getpid()}"
    group.mkdir()
    limit = group / "memory.limit_in_bytes"
    try:
        limit.write_text(str(ASK_LIMIT_BYTES))
        cluster.limit_file = ASK_LIMIT_BYTES
        cluster.pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "24Mi"
        cluster.pod["status"]["containerStatuses"][0]["resources"]["limits"]["memory"] = "24Mi"

        def kubelet(limit_bytes: int) -> None:
            cluster.grant(limit_bytes)
            limit.write_text(str(limit_bytes))

        cluster.kubelet = kubelet
        (server.token_file.parent / "ca.crt").write_bytes(server.ca_file.read_bytes())
        environ = {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "ETLKIT_SERVICE_ACCOUNT": str(server.token_file.parent),
            "ETLKIT_POD_NAME": "running",
            "ETLKIT_POD_NAMESPACE": "etl",
            "ETLKIT_CONTAINER_NAME": "etl",
        }
        enter = f'echo $$ > {group}/cgroup.procs && exec "$0" -c "$1"'
        run = subprocess.run(
            ["/bin/sh", "-c", enter, sys.executable, CODE], env=environ, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == f"actuated {GIB} []"
    finally:
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)
