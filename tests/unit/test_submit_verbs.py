"""``submit``, ``status`` and ``logs`` with the official client, on the local node: real processes, restarts and resizes.

The container's command is replaced by a small script, since a manifest's command runs as it is on this machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster_double import Double, double

from etlkit.cli import logs, status, submit
from etlkit.errors import ConfigError, EtlkitError, RefusedError
from etlkit.kube.apply import apply_all
from etlkit.kube.cluster import Cluster
from etlkit.kube.watch import JobWatch
from etlkit.manifest.objects import as_data
from etlkit.manifest.order import Order, Shape
from tests.conformance.driver import eventually
from tests.conftest import REPOSITORY

JOB = str(REPOSITORY / "jobs" / "part_revenue.py")
EVENTS = r"""
import json, sys, time, pathlib
at = lambda n: f"2026-01-01T00:00:{n:02}.000Z"
print("a line that is no event", flush=True)
print(json.dumps({"event": "attempt_started", "at": at(1), "attempt": 1, "job": "part_revenue", "limit_bytes": 1 << 28,
                  "resumed_from": None, "workers": 2, "max_memory_bytes": 1 << 30, "mode": "RestartContainer"}), flush=True)
once = pathlib.Path(sys.argv[1])
if not once.exists():
    once.touch()
    sys.exit(75)
print(json.dumps({"event": "attempt_ended", "at": at(3), "attempt": 1, "exit_code": 0, "seconds": 1}), flush=True)
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with double(monkeypatch) as made:
        monkeypatch.setattr(status, "POLL_S", 0.05)
        yield made


def parsed(verb: object, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)  # type: ignore[attr-defined]
    return parser.parse_args([str(word) for word in words])


def patch_file(folder: Path, command: list[str]) -> str:
    """A command of this machine; the container still says that it is etlkit's by its environment."""
    path = folder / "patch.yaml"
    path.write_text(yaml.safe_dump({"spec": {"containers": [{"name": "etl", "command": command}], "volumes": None}}))
    return str(path)


def order(**options: object) -> list[dict]:
    documents = as_data(Order("part-revenue", "jobs:1", JOB))
    documents[-1]["spec"]["template"]["spec"]["containers"][0] |= options
    documents[-1]["spec"]["template"]["spec"]["volumes"] = []
    return documents


def shell(script: str) -> list[dict]:
    return order(command=["sh", "-c", script])


def test_applying_twice_does_nothing_the_second_time(cluster):
    documents = shell("sleep 60")
    first = [one.what for one in apply_all(Cluster("etl"), documents)]
    assert first == ["applied", "applied", "applied", "applied", "created"]
    kept = json.dumps({"/".join(key): value for key, value in cluster.objects.items()}, sort_keys=True)
    cluster.calls.clear()
    assert [one.what for one in apply_all(Cluster("etl"), documents)] == [
        "applied",
        "applied",
        "there already",
        "applied",
        "there already",
    ]
    assert not [call for call in cluster.calls if call[0] in ("POST", "DELETE")]
    assert json.dumps({"/".join(key): value for key, value in cluster.objects.items()}, sort_keys=True) == kept


def test_a_running_job_is_not_changed_a_failed_one_is_replaced_and_a_done_one_left_alone(cluster):
    api = Cluster("etl")
    apply_all(api, shell("exec sleep 60"))
    with pytest.raises(ConfigError, match="runs already, with another manifest"):
        apply_all(api, shell("exec sleep 61"))
    assert api.delete("Job", "part-revenue").ok
    failing = shell("exit 1")
    failing[-1]["spec"]["backoffLimit"] = 0
    apply_all(api, failing)
    eventually("the Job has failed", lambda: JobWatch(api, "part-revenue").look().condition == "Failed")
    assert apply_all(api, shell("exit 0"))[-1].what == "replaced"
    eventually("the Job is done", lambda: JobWatch(api, "part-revenue").look().condition == "Complete")
    assert apply_all(api, shell("exit 0"))[-1].what == "done already"


def test_submit_follows_the_job_through_a_restart_to_its_end(cluster, tmp_path, capsys):
    command = [sys.executable, "-c", EVENTS, str(tmp_path / "once")]
    words = (JOB, "--image", "jobs:1", "--set", "out=/data/out", "--memory", "256Mi", "--max-memory", "1Gi")
    # Without its volumes the pod runs here; the rules would say that the state is nowhere.
    documents = order(command=command)
    api = Cluster("etl")
    apply_all(api, documents)
    assert status.follow(api, "part-revenue", "plain", 0.05) == 0
    said = capsys.readouterr().err
    assert "part_revenue begins" in said and said.count("a line that is no event") == 2
    assert "the container ended with 75 (checkpointed, work left)" in said
    assert said.rstrip().endswith("Job part-revenue is done")
    # The verb itself: the same documents are made of its own options, and are there already in part.
    assert submit.run(parsed(submit, *words, "--detach", "--name", "second")) == 0
    said = capsys.readouterr().err
    assert "Job second: created" in said and "etlkit status second --namespace etl --follow" in said


def test_a_rounds_job_starts_when_the_one_before_is_complete_and_not_before(cluster, tmp_path, capsys):
    documents = as_data(Order("part-revenue", "jobs:1", JOB, shape=Shape.RULES, shards=2, rounds=2))
    log = tmp_path / "log"
    for number, one in enumerate(documents[-2:]):
        pod = one["spec"]["template"]["spec"]
        pod["volumes"] = []
        script = f"sleep 0.{5 - 4 * number}; echo {number} $JOB_COMPLETION_INDEX >> {log}"
        pod["containers"][0] |= {"command": ["sh", "-c", script]}
    api = Cluster("etl")
    apply_all(api, documents)
    assert submit._follow_all(api, ["part-revenue-r0", "part-revenue-r1"], "plain") == 0
    lines = log.read_text().split("\n")[:-1]
    assert sorted(lines[:2]) == ["0 0", "0 1"] and sorted(lines[2:]) == ["1 0", "1 1"]
    assert capsys.readouterr().err.count("is done") == 2
    # Once more: both are done already, and nothing runs again.
    assert [one.what for one in apply_all(api, documents)][-2:] == ["done already", "done already"]


def test_each_line_of_a_log_is_seen_once_across_restarts(cluster, tmp_path):
    script = f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n+1)) > {tmp_path}/n; echo start $n; " + (
        "for i in 1 2 3 4 5 6 7 8; do echo line $n $i; sleep 0.05; done; [ $n = 2 ] && exit 0; exit 75"
    )
    api = Cluster("etl")
    apply_all(api, shell(script))
    watch, lines = JobWatch(api, "part-revenue"), []

    def done() -> bool:
        look = watch.look()
        lines.extend(line for pod in look.pods for line in pod.lines)
        return look.condition == "Complete"

    eventually("the Job is done", done)
    lines.extend(line for pod in watch.look().pods for line in pod.lines)
    assert lines == [text for n in range(3) for text in (f"start {n}", *(f"line {n} {i}" for i in range(1, 9)))]


def test_status_shows_size_restarts_and_an_open_resize(cluster, tmp_path, capsys):
    api = Cluster("etl")
    documents = shell("trap 'exit 75' TERM; while :; do sleep 0.05; done")
    apply_all(api, documents)
    node = cluster.node
    pod = eventually(
        "the pod runs",
        lambda: next((p.name for p in JobWatch(api, "part-revenue").look().pods if p.view.state == "running"), None),
    )
    about = {"kind": "Pod", "namespace": "etl", "name": pod, "uid": node.get_pod(pod)["metadata"]["uid"]}
    for number, reason in enumerate(("MemoryResizeRequested", "MemoryResizeDeferred")):
        event = {"involvedObject": about, "source": {"component": "etlkit"}, "type": "Normal", "reason": reason}
        node.store.add_event(
            "etl", event | {"message": "container etl", "lastTimestamp": f"2026-01-01T00:00:0{number}Z"}
        )
    assert node.add_pod("blocker", "3Gi")
    node.resize(pod, "etl", memory="2Gi")

    def deferred() -> bool:
        return bool(JobWatch(api, "part-revenue", logs=False).look().pods[0].view.conditions)

    eventually("the resize is deferred", deferred)
    assert status.run(parsed(status, "part-revenue", "-n", "etl")) == 0
    shown = capsys.readouterr().out
    assert "memory limit 512 MiB, 2 GiB asked for, 0 restarts" in shown and "running" in shown
    assert "2026-01-01T00:00:01Z MemoryResizeDeferred: container etl" in shown and "Requested" in shown
    if shutil.which("kubectl") is not None:
        words = ["kubectl", f"--kubeconfig={node.kubeconfig()}", f"--cache-dir={tmp_path}", "describe", "pod", pod]
        assert "MemoryResizeDeferred" in subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
    assert status.run(parsed(status, "part-revenue", "-n", "etl", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pods"][0]["wanted_bytes"] == 2 << 30 and told["pods"][0]["resize"][0]["reason"] == "Deferred"
    assert [one["reason"] for one in told["events"]] == ["MemoryResizeRequested", "MemoryResizeDeferred"]
    node.remove_pod("blocker")
    eventually(
        "it is granted", lambda: JobWatch(api, "part-revenue", logs=False).look().pods[0].view.limit_bytes == 2 << 30
    )


def test_a_failed_job_ends_the_following_with_its_own_code(cluster, capsys):
    api = Cluster("etl")
    documents = shell("exit 65")
    documents[-1]["spec"]["backoffLimit"] = 1
    apply_all(api, documents)
    assert status.follow(api, "part-revenue", "plain", 0.05) == 65
    assert capsys.readouterr().err.count("its restarts reached backoffLimit") == 1


def test_logs_prints_the_run_before_and_this_one(cluster, tmp_path, capsys):
    api = Cluster("etl")
    apply_all(api, shell(f"[ -e {tmp_path}/x ] && {{ echo second; exit 0; }}; touch {tmp_path}/x; echo first; exit 75"))
    eventually("the Job is done", lambda: JobWatch(api, "part-revenue").look().condition == "Complete")
    assert logs.run(parsed(logs, "part-revenue", "-n", "etl", "--follow")) == 0
    assert capsys.readouterr().out == "first\nsecond\n"


@pytest.mark.parametrize(
    ("resource", "refusal", "error", "remedy"),
    [
        ("jobs", (403, "Forbidden", 'jobs.batch is forbidden: User "u" cannot create resource "jobs"'), RefusedError, "right"),
        ("rolebindings", (403, "Forbidden", 'user "u" is attempting to grant RBAC permissions not currently held: x'),
         RefusedError, "--platform"),
        ("serviceaccounts", (404, "NotFound", 'namespaces "etl" not found'), ConfigError, "create namespace"),
        ("persistentvolumeclaims", (403, "Forbidden", "exceeded quota: q, requested: 20Gi"), RefusedError, "state-size"),
        ("jobs", (422, "Invalid", "Job is invalid: spec.backoffLimit"), ConfigError, "lint"),
        ("configmaps", (503, "ServiceUnavailable", "try later"), EtlkitError, "same command"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_with_object_words_and_remedy(cluster, resource, refusal, error, remedy):
    cluster.refusals[resource] = refusal
    with pytest.raises(error) as raised:
        apply_all(Cluster("etl"), shell("exit 0"))
    assert refusal[2].split(":")[0] in raised.value.message
    assert remedy in raised.value.remedy


def test_a_job_that_is_not_there(cluster):
    with pytest.raises(ConfigError, match="Job etl/nothing"):
        status.run(parsed(status, "nothing", "-n", "etl"))


def test_no_kubeconfig_and_no_server_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="kubeconfig"):
        Cluster("etl")


def test_no_token_is_in_what_is_said(cluster, capsys):
    api = Cluster("etl")
    apply_all(api, shell("exit 0"), lambda one: print(one))
    status.follow(api, "part-revenue", "plain", 0.05)
    said = capsys.readouterr()
    assert cluster.node.admin_token not in said.out + said.err
