"""What a drain, a resize, a crash and a hopeless end do to each shape: the rendered Jobs, run by the local node.

The container is a script that saves on SIGTERM; everything else is the manifest as it is printed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etlkit.manifest.objects import as_data
from etlkit.manifest.order import Order, Shape
from etlkit.node.node import Node
from etlkit.node.timings import Timings
from etlkit.units import GIB, MIB
from tests.conformance.driver import eventually

Json = dict[str, Any]
QUICK = Timings(backoff_first_s=0.2, job_backoff_first_s=0.1, resize_error_retry_s=0.1, rule_restart_s=0.1)
ORDER = Order("shaped", "jobs:1", "jobs/x.py", memory_bytes=128 * MIB, max_memory_bytes=GIB, resizes=2, crashes=1)
SAVES = "trap 'echo saved; exit 75' TERM; echo start; while [ ! -e {folder}/finish ]; do sleep 0.05; done; echo done"
each_shape = pytest.mark.parametrize("shape", list(Shape))


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(4 * GIB, timings=QUICK) as made:
        yield made
        assert made.failure is None, made.failure


class Shaped:
    def __init__(self, node: Node, shape: Shape, folder: Path, script: str = SAVES) -> None:
        document = as_data(replace(ORDER, shape=shape))[-1]
        container = document["spec"]["template"]["spec"]["containers"][0]
        container["command"] = ["sh", "-c", script.format(folder=folder)]
        self.node, self.folder = node, folder
        self.handle = node.apply_job(document)
        eventually("it has started", lambda: self.lines("start"))

    def lines(self, word: str) -> int:
        text = [
            self.node.log_of(pod.pod["metadata"]["uid"]).read("etl", previous=previous)
            for pod in self.handle.pods
            for previous in (False, True)
        ]
        return sum(line == word for one in text for line in one.splitlines())

    def finish(self) -> str:
        (self.folder / "finish").touch()
        return self.handle.wait(20).job_condition


@each_shape
def test_a_drain_is_survived_by_a_new_pod_that_starts_when_the_old_is_gone(node, tmp_path, shape):
    """F22, F24: more drains than backoffLimit with Never, where they are ignored. The second leaves no time: as a hard eviction."""
    job = Shaped(node, shape, tmp_path)
    for number in range(3 if shape is not Shape.RESTART else 2):
        old = job.handle.pod
        old.delete(0.0 if number == 1 else None, "EvictionByEvictionAPI")
        eventually("it has a new pod", lambda old=old: job.handle.pod is not old)
        assert old.gone, "the replacement came before the old one had ended"
        eventually(
            "it has started",
            lambda number=number: len(job.handle.pods) == number + 2 and job.handle.pod.phase == "Running",
        )
        eventually("it runs", lambda: job.handle.pod.history or job.lines("start"))
    assert job.finish() == "Complete"


@each_shape
def test_a_lost_node_is_survived_once_its_pod_is_gone_and_not_before(node, tmp_path, shape):
    """F24: the pod hangs in Terminating, and nothing starts beside it. Then its replacement runs while the old self still does."""
    job = Shaped(node, shape, tmp_path)
    old = job.handle.pod
    process = old.process_id("etl")
    old.lose()
    eventually(
        "it is Terminating", lambda: "deletionTimestamp" in node.get_pod(old.pod["metadata"]["name"])["metadata"]
    )
    time.sleep(0.5)  # five times what a replacement takes
    assert len(job.handle.pods) == 1 and not old.gone
    old.forget()
    eventually("its replacement runs", lambda: len(job.handle.pods) == 2 and job.handle.pods[1].process_id("etl"))
    assert Path(f"/proc/{process}").exists(), "the old self does not know"
    assert job.finish() == "Complete"


@each_shape
def test_a_resize_restarts_the_container_or_does_not(node, tmp_path, shape):
    job = Shaped(node, shape, tmp_path)
    name = job.handle.pod_name
    node.resize(name, "etl", memory="256Mi")

    def in_force() -> bool:
        status = node.get_pod(name)["status"]["containerStatuses"][0]
        limit = (status.get("resources") or {}).get("limits", {}).get("memory")
        return limit == "256Mi" and "running" in status["state"]

    eventually("it is in force", in_force)
    restarts = node.get_pod(name)["status"]["containerStatuses"][0]["restartCount"]
    assert restarts == (1 if shape is Shape.RESTART else 0)
    assert job.finish() == "Complete"
    assert len(job.handle.pods) == 1


ONCE_75 = (
    "n=$(cat {folder}/n 2>/dev/null || echo 0); echo $((n+1)) > {folder}/n; echo start; [ $n -lt 4 ] && exit 75; exit 0"
)


@each_shape
def test_exit_75_is_started_again_and_does_not_fail_the_job(node, tmp_path, shape):
    """Four times, where backoffLimit is 1 with Never: in place, or as a new pod that counts nothing."""
    script = ONCE_75 if shape is not Shape.RESTART else ONCE_75.replace("-lt 4", "-lt 2")
    job = Shaped(node, shape, tmp_path, script)
    assert job.handle.wait(25).job_condition == "Complete"
    assert len(job.handle.pods) == (5 if shape is Shape.LIVE else 1)


@each_shape
def test_a_hopeless_end_fails_the_job(node, tmp_path, shape):
    job = Shaped(node, shape, tmp_path, "echo start; exit 65")
    result = job.handle.wait(25)
    assert result.job_condition == "Failed"
    if shape is Shape.RESTART:
        assert result.job_reason == "BackoffLimitExceeded"
    else:
        assert result.job_reason == "PodFailurePolicy" and len(job.handle.pods) == 1


@each_shape
def test_one_kill_is_survived_and_counted(node, tmp_path, shape):
    """SIGKILL, as by a hard eviction or the kernel: crashes=1 allows one, and not two with Never."""
    script = ONCE_75.replace("-lt 4 ] && exit 75", "-lt KILLS ] && kill -9 $$")
    job = Shaped(node, shape, tmp_path, script.replace("KILLS", "1"))
    assert job.handle.wait(25).job_condition == "Complete"
    (tmp_path / "again").mkdir()
    if shape is not Shape.RESTART:
        job = Shaped(node, shape, tmp_path / "again", script.replace("KILLS", "2"))
        assert job.handle.wait(25).job_condition == "Failed"
