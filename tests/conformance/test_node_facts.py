"""Each row of the shared facts about in-place resize, as a test: against the local node, and a real cluster if given.

A test's name has the row's number. Times are never asserted, only order, level and words; what is waited for has a generous
deadline. Rows that need a fault or a cluster administrator run on the local node alone.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from etlkit.errors import ConfigError
from etlkit.node.admission import LimitRange, Policy, Quota, only_itself
from etlkit.node.answers import Json
from etlkit.node.job import JobSpec, check
from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest, sidecar_manifest
from etlkit.units import MIB

from .conftest import QUICK, recorded
from .driver import (
    CAPACITY_BYTES,
    LIMIT,
    WAITS,
    Ask,
    Driver,
    NodeDriver,
    conditions,
    container_status,
    eventually,
    patch,
    resize,
    resize_body,
    resources,
    settled,
    starts,
)

RULES_75: Json = {
    "restartPolicy": "Never",
    "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [75, 143]}}],
}


def mib(value: int) -> str:
    return str(value * MIB)


def shape(value: object) -> object:
    """Keys and types, without values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


# ── F1 to F4: a resize that is granted ───────────────────────────────────────────────────────────────────────


def test_f01_patch_answers_with_the_new_spec_and_the_next_generation(driver: Driver) -> None:
    name = driver.start(Ask(policy="NotRequired"))
    before = driver.pod(name)
    after = resize(driver, name, "128Mi")
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    assert after["spec"]["containers"][0]["resources"] == resources("128Mi", "500m")
    assert container_status(after)["resources"] == resources("64Mi", "500m")
    assert after["status"]["observedGeneration"] == before["metadata"]["generation"]


def test_f01_a_patch_that_changes_nothing_is_no_new_generation(driver: Driver) -> None:
    name = driver.start(Ask())
    assert resize(driver, name, "64Mi")["metadata"]["generation"] == driver.pod(name)["metadata"]["generation"] == 1


def test_f01_dry_run_answers_and_changes_nothing(driver: Driver) -> None:
    name = driver.start(Ask())
    status, body = patch(driver, name, resize_body(resources("128Mi")), "?dryRun=All")
    assert status == 200
    assert body["spec"]["containers"][0]["resources"]["limits"]["memory"] == "128Mi"
    assert driver.pod(name)["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Mi"


def test_f02_restart_sees_the_old_limit_at_sigterm_and_the_new_one_after(driver: Driver) -> None:
    name = driver.start(Ask(policy="RestartContainer"))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    eventually("the resize is done", lambda: settled(driver.pod(name)) and len(starts(driver.log(name))) == 2)
    assert driver.log(name) == [f"start {mib(64)}", f"term {mib(64)}", f"start {mib(128)}"]
    status = container_status(driver.pod(name))
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 75
    assert status["lastState"]["terminated"]["reason"] == "Error"
    resize(driver, name, "96Mi")
    eventually("the shrink is done", lambda: starts(driver.log(name)) == [mib(64), mib(128), mib(96)])
    eventually("and shown", lambda: settled(driver.pod(name)))
    # No back-off: neither restart was ever a waiting one.
    assert not [e for e in driver.events(name) if e["reason"] == "BackOff"]


def test_f03_the_handler_gets_its_time_within_the_grace_period(driver: Driver) -> None:
    script = LIMIT + "trap 'sleep 1; echo saved; exit 75' TERM; echo start $(limit); while :; do nap; done"
    name = driver.start(Ask(script, policy="RestartContainer", grace_s=20))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    eventually("the resize is done", lambda: settled(driver.pod(name)) and len(starts(driver.log(name))) == 2)
    assert "saved" in driver.log(name)
    assert container_status(driver.pod(name))["lastState"]["terminated"]["exitCode"] == 75


def test_f03_past_the_grace_period_comes_sigkill(driver: Driver) -> None:
    script = LIMIT + "trap 'echo deaf' TERM; echo start $(limit); while :; do nap; done"
    name = driver.start(Ask(script, policy="RestartContainer", grace_s=1))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    eventually("the resize is done", lambda: settled(driver.pod(name)) and len(starts(driver.log(name))) == 2)
    last = container_status(driver.pod(name))["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "Error")


def test_f04_live_the_limit_file_changes_and_nothing_restarts(driver: Driver) -> None:
    script = LIMIT + 'echo start $(limit); while :; do n=$(limit); [ "$n" = "$o" ] || echo now $n $M; o=$n; nap; done'
    by_field: Json = {
        "env": [{"name": "M", "valueFrom": {"resourceFieldRef": {"containerName": "etl", "resource": "limits.memory"}}}]
    }
    name = driver.start(Ask(script, container=by_field))
    eventually("the container is up", lambda: f"now {mib(64)} {mib(64)}" in driver.log(name))
    resize(driver, name, "128Mi")
    # The environment of a running process stays as it was.
    eventually("the file has changed", lambda: f"now {mib(128)} {mib(64)}" in driver.log(name))
    eventually("and the status says so", lambda: settled(driver.pod(name)))
    assert container_status(driver.pod(name))["restartCount"] == 0
    resize(driver, name, "96Mi")
    eventually("shrinking too", lambda: f"now {mib(96)} {mib(64)}" in driver.log(name))


def test_f04_a_downward_volume_follows_the_wanted_size(local: NodeDriver) -> None:
    volume: Json = {
        "name": "podinfo",
        "downwardAPI": {
            "items": [
                {"path": "memory", "resourceFieldRef": {"containerName": "etl", "resource": "limits.memory"}},
                {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
            ]
        },
    }
    release = local.fill(leaving="300Mi")
    name = local.start(Ask(pod={"volumes": [volume]}))
    folder = local.node.volume(name, "podinfo")
    eventually("the file is there", lambda: (folder / "memory").exists())
    assert (folder / "memory").read_text() == mib(64)
    assert (folder / "name").read_text() == name
    # Deferred: not in force, and yet in the file. So the file is never the truth.
    resize(local, name, "1Gi")
    eventually("the file is ahead", lambda: (folder / "memory").read_text() == mib(1024))
    assert container_status(local.pod(name))["resources"]["limits"]["memory"] == "64Mi"
    release()


# ── F5 to F7: a resize that is not ───────────────────────────────────────────────────────────────────────────

HOLDS_ANON = LIMIT + "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo start $(limit); while :; do nap; done"
HOLDS_CACHE = LIMIT + (
    "head -c 50000000 /dev/zero > cache.bin; cat cache.bin > /dev/null; echo start $(limit); while :; do nap; done"
)


@pytest.mark.cgroup
@pytest.mark.parametrize("script", [HOLDS_ANON, HOLDS_CACHE], ids=["anonymous", "page-cache"])
def test_f05_a_shrink_below_use_hangs_and_can_be_taken_back(driver: Driver, script: str) -> None:
    name = driver.start(Ask(script, memory="256Mi"))
    if isinstance(driver, NodeDriver) and not driver.node.enforcer.real and script is HOLDS_CACHE:
        pytest.skip("page cache is only charged by a real cgroup")
    eventually("memory is held", lambda: starts(driver.log(name)))
    resize(driver, name, "16Mi")
    event = eventually("an error", lambda: [e for e in driver.events(name) if e["reason"] == "ResizeError"])[0]
    assert event["type"] == "Warning"
    said = json.loads(event["message"].removeprefix("Pod resize error: "))
    example = next(e for e in recorded_events() if e["reason"] == "ResizeError")["message"]
    assert shape(said) == shape(json.loads(example.removeprefix("Pod resize error: ")))
    expected = (
        r'cannot decrease memory limits: attempting to set container "etl" memory limit \(16777216\) below current '
    )
    assert re.fullmatch(expected + r"usage \(\d+\)", said["error"])
    pod = driver.pod(name)
    assert list(conditions(pod)) == ["PodResizeInProgress"]
    status = container_status(pod)
    assert status["allocatedResources"]["memory"] == "16Mi"
    assert status["resources"]["limits"]["memory"] == "256Mi"
    assert status["restartCount"] == 0
    resize(driver, name, "256Mi")
    eventually("it is taken back", lambda: settled(driver.pod(name)))
    assert container_status(driver.pod(name))["restartCount"] == 0


def recorded_events() -> list[Json]:
    found: list[Json] = recorded("events")  # type: ignore[assignment]
    return found


def test_f05_the_kubelet_keeps_trying_and_lands_in_a_later_dip(driver: Driver) -> None:
    script = LIMIT + (
        "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo start $(limit); "
        "while [ ! -e dip ] && [ $((i+=1)) -lt 25 ]; do nap; done; x=; echo dipped; exec sh -c 'while :; do sleep 0.05; done'"
    )
    name = driver.start(Ask(script, memory="256Mi"))
    eventually("memory is held", lambda: starts(driver.log(name)))
    resize(driver, name, "24Mi")
    eventually("an error", lambda: [e for e in driver.events(name) if e["reason"] == "ResizeError"])
    eventually("it lands", lambda: settled(driver.pod(name)), patience_s=60)
    assert container_status(driver.pod(name))["resources"]["limits"]["memory"] == "24Mi"


@pytest.mark.parametrize("policy", ["NotRequired", "RestartContainer"])
def test_f06_deferred_until_another_pod_leaves(driver: Driver, policy: str) -> None:
    name = driver.start(Ask(policy=policy))
    eventually("the container is up", lambda: starts(driver.log(name)))
    leave = driver.fill(leaving="200Mi")
    resize(driver, name, "512Mi")
    pending = eventually("it is deferred", lambda: conditions(driver.pod(name)).get("PodResizePending"))
    assert pending["reason"] == "Deferred"
    expected = r"Node didn't have enough resource: memory, requested: 536870912, used: \d+, capacity: \d+"
    assert re.fullmatch(expected, pending["message"])
    example = recorded("get-deferred")["body"]["status"]["conditions"][0]
    assert list(pending) == list(example) and pending["status"] == "True"
    status = container_status(driver.pod(name))
    assert status["allocatedResources"]["memory"] == status["resources"]["limits"]["memory"] == "64Mi"
    event = next(e for e in driver.events(name) if e["reason"] == "ResizeDeferred")
    assert event["message"].startswith("Pod resize OutOfmemory: {")
    leave()
    eventually("it is granted", lambda: settled(driver.pod(name)))
    restarts = 1 if policy == "RestartContainer" else 0
    assert container_status(driver.pod(name))["restartCount"] == restarts
    assert container_status(driver.pod(name))["resources"]["limits"]["memory"] == "512Mi"


def test_f06_patched_back_it_is_withdrawn(driver: Driver) -> None:
    name = driver.start(Ask(policy="RestartContainer"))
    leave = driver.fill(leaving="200Mi")
    resize(driver, name, "512Mi")
    eventually("it is deferred", lambda: "PodResizePending" in conditions(driver.pod(name)))
    resize(driver, name, "64Mi")
    eventually("it is gone", lambda: settled(driver.pod(name)))
    leave()
    assert container_status(driver.pod(name))["restartCount"] == 0


def test_f06_while_deferred_it_holds_its_room_against_new_pods(local: NodeDriver) -> None:
    name = local.start(Ask())
    leave = local.fill(leaving="200Mi")
    resize(local, name, "512Mi")
    eventually("it is deferred", lambda: "PodResizePending" in conditions(local.pod(name)))
    assert not local.node.add_pod("newcomer", "100Mi")
    assert local.events("newcomer")[0]["reason"] == "FailedScheduling"
    resize(local, name, "64Mi")
    eventually("it is gone", lambda: settled(local.pod(name)))
    assert local.node.add_pod("newcomer", "100Mi")
    leave()


def test_f06_it_is_tried_again_by_itself(tmp_path: Path) -> None:
    from dataclasses import replace

    with Node(CAPACITY_BYTES, timings=replace(QUICK, deferred_retry_s=(0.3, 0.3), room_s=3600.0)) as node:
        local = NodeDriver(node, tmp_path)
        name = local.start(Ask())
        leave = local.fill(leaving="200Mi")
        resize(local, name, "512Mi")
        eventually("it is deferred", lambda: "PodResizePending" in conditions(local.pod(name)))
        leave()
        eventually("it is granted by a retry", lambda: settled(local.pod(name)))


def test_f07_more_than_the_node_has_is_refused_at_the_patch(driver: Driver) -> None:
    if driver.minor < 36:
        pytest.skip("up to 1.35 the kubelet says Infeasible")
    name = driver.start(Ask())
    status, body = patch(driver, name, resize_body(resources("900Gi")))
    expected = recorded("error-over-node")
    assert status == expected["status"]
    assert same_words(body, expected["body"], name, numbers=True)


def test_f07_before_1_36_the_kubelet_says_infeasible(tmp_path: Path) -> None:
    with Node(CAPACITY_BYTES, timings=QUICK, minor=35) as node:
        local = NodeDriver(node, tmp_path)
        name = local.start(Ask())
        resize(local, name, "900Gi")
        pending = eventually("it is infeasible", lambda: conditions(local.pod(name)).get("PodResizePending"))
        assert pending["reason"] == "Infeasible"
        assert pending["message"].startswith("Node didn't have enough capacity: memory, requested: 966367641600")
        resize(local, name, "64Mi")
        eventually("it is taken back", lambda: settled(local.pod(name)))


# ── F8 to F12: restarts and the Job ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backoff_limit", [0, 1])
def test_f08_one_resize_restart_fails_a_job_without_room_for_it(driver: Driver, backoff_limit: int) -> None:
    name = driver.start(Ask(policy="RestartContainer", backoff_limit=backoff_limit))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    condition = eventually("the Job is over", lambda: job_end(driver, name))
    assert condition == ("Failed", "BackoffLimitExceeded")


def test_f08_a_job_survives_backoff_limit_minus_one_restarts(driver: Driver) -> None:
    name = driver.start(Ask(policy="RestartContainer", backoff_limit=2))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    eventually("the resize is done", lambda: settled(driver.pod(name)) and len(starts(driver.log(name))) == 2)
    assert job_end(driver, name) is None
    resize(driver, name, "96Mi")
    assert eventually("the Job is over", lambda: job_end(driver, name)) == ("Failed", "BackoffLimitExceeded")


def test_f08_restarts_of_sidecars_count_too(driver: Driver) -> None:
    dies = sidecar_manifest("collector", ["/bin/sh", "-c", "sleep 0.5; exit 1"], memory="32Mi")
    name = driver.start(Ask(cpu=None, sidecars=(dies,), backoff_limit=1))
    assert eventually("the Job is over", lambda: job_end(driver, name)) == ("Failed", "BackoffLimitExceeded")


def job_end(driver: Driver, name: str) -> tuple[str, str] | None:
    kind, reason = driver.job_condition(name)
    return (kind, reason) if kind else None


def test_f09_never_with_restart_container_is_refused_at_creation(driver: Driver) -> None:
    status, body = driver.refused(Ask(restart_policy="Never", policy="RestartContainer"))
    expected = recorded("error-never-restartcontainer")
    assert status == expected["status"]
    assert same_words(body, expected["body"], "never")


def test_f10_a_restart_by_rule_does_not_count_for_the_job(driver: Driver) -> None:
    script = LIMIT + "echo start $(limit); nap; [ -e again ] && while :; do nap; done; touch again; exit 75"
    if driver.kind == "cluster":
        # A container's own files are gone after a restart; an emptyDir's are not.
        script = script.replace("again", "/scratch/again")
    ask = Ask(script, restart_policy="Never", container=RULES_75, backoff_limit=0)
    if driver.kind == "cluster":
        mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
        ask = Ask(
            script,
            restart_policy="Never",
            container=RULES_75 | mount,
            pod={"volumes": [{"name": "scratch", "emptyDir": {}}]},
            backoff_limit=0,
        )
    name = driver.start(ask)
    eventually("it is started again", lambda: len(starts(driver.log(name))) == 2)
    eventually("and counted", lambda: container_status(driver.pod(name))["restartCount"] == 1)
    assert job_end(driver, name) is None


def test_f11_a_container_that_is_never_restarted_is_by_a_resize(driver: Driver) -> None:
    name = driver.start(Ask(policy="RestartContainer", container=RULES_75))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    eventually("the resize is done", lambda: starts(driver.log(name)) == [mib(64), mib(128)])


EXITS_0 = LIMIT + "trap 'exit 0' TERM; echo start $(limit); while :; do nap; done"


def test_f12_exit_0_on_the_resizes_sigterm_is_started_again(driver: Driver) -> None:
    name = driver.start(Ask(EXITS_0, policy="RestartContainer"))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    eventually("the resize is done", lambda: starts(driver.log(name)) == [mib(64), mib(128)])
    assert job_end(driver, name) is None


def test_f12_but_if_the_start_fails_exit_0_is_the_jobs_end(local: NodeDriver) -> None:
    name = local.start(Ask(EXITS_0, policy="RestartContainer"))
    eventually("the container is up", lambda: starts(local.log(name)))
    local.node.faults.failing_starts = 1
    resize(local, name, "128Mi")
    kind, _ = eventually("the Job is over", lambda: job_end(local, name))
    assert kind == "Complete"
    assert len(starts(local.log(name))) == 1


# ── F13 to F15: deaths ───────────────────────────────────────────────────────────────────────────────────────

HOG = LIMIT + "echo start $(limit); x=$(head -c 80000000 /dev/zero | tr '\\0' x); echo survived; while :; do nap; done"


def test_f13_an_oom_kill_is_137_and_backs_off_from_the_second_on(driver: Driver) -> None:
    name = driver.start(Ask(HOG, memory="48Mi", cpu=None))
    # The first restart comes at once, the second waits.
    eventually("it has died twice", lambda: container_status(driver.pod(name))["state"].get("waiting"), patience_s=60)
    status = container_status(driver.pod(name))
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    last = status["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "OOMKilled")
    assert status["restartCount"] == 1
    assert [e for e in driver.events(name) if e["reason"] == "BackOff"]


@pytest.mark.cgroup
def test_f13_on_v1_only_the_chosen_process_dies(local: NodeDriver) -> None:
    if local.node.enforcer.name != "v1":
        pytest.skip("on v2 the whole container is killed (tests/conformance/test_node_v2_in_uml.py)")
    script = LIMIT + (
        "sh -c \"x=\\$(head -c 80000000 /dev/zero | tr '\\\\0' x); echo survived\" || echo child $?; "
        "while [ ! -e go ]; do nap; done; exit 0"
    )
    name = local.start(Ask(script, memory="32Mi"))
    eventually("a child has died", lambda: "child 137" in local.log(name))
    assert container_status(local.pod(name))["restartCount"] == 0
    (local.folder / "go").touch()
    result = local.handle(name).wait(20)
    assert (result.exit_code, result.oom_kills, result.job_condition) == (0, 1, "Complete")


def test_f13_a_new_size_has_a_fresh_back_off(tmp_path: Path) -> None:
    from dataclasses import replace

    with Node(CAPACITY_BYTES, timings=replace(QUICK, backoff_first_s=3600.0)) as node:
        local = NodeDriver(node, tmp_path)
        name = local.start(Ask(HOG, memory="48Mi", cpu=None))
        eventually("it waits for an hour", lambda: "waiting" in container_status(local.pod(name))["state"])
        resize(local, name, "1Gi")
        eventually("it starts at the new size", lambda: "survived" in local.log(name))


def test_f14_a_restart_while_deferred_is_at_the_old_limit(local: NodeDriver) -> None:
    script = WAITS.replace("exit 75", "exit 1")
    name = local.start(Ask(script))
    eventually("the container is up", lambda: starts(local.log(name)))
    leave = local.fill(leaving="200Mi")
    resize(local, name, "512Mi")
    eventually("it is deferred", lambda: "PodResizePending" in conditions(local.pod(name)))
    local.handle(name).pod.kill("etl", signal.SIGTERM)
    eventually("it is up again", lambda: len(starts(local.log(name))) == 2)
    assert starts(local.log(name)) == [mib(64), mib(64)]
    assert "PodResizePending" in conditions(local.pod(name))
    leave()


@pytest.mark.cgroup
def test_f15_exiting_before_actuation_can_meet_the_old_limit_of_the_pod(tmp_path: Path) -> None:
    script = LIMIT + (
        "echo start $(limit); [ -e again ] || { touch again; while [ ! -e go ]; do nap; done; exit 75; }; "
        "x=$(head -c 80000000 /dev/zero | tr '\\0' x); echo survived; while :; do nap; done"
    )
    for stale, expected in ((True, False), (False, True)):
        folder = tmp_path / str(stale)
        folder.mkdir()
        with Node(CAPACITY_BYTES, timings=QUICK) as node:
            if not node.enforcer.real:
                pytest.skip("there is no pod's own group without a real cgroup")
            from dataclasses import replace

            node.timings = replace(QUICK, live_apply_s=3.0, sigterm_s=3.0)
            node.faults.stale_pod_limit = stale
            local = NodeDriver(node, folder)
            name = local.start(Ask(script, policy="RestartContainer"))
            eventually("the container is up", lambda local=local, name=name: starts(local.log(name)))
            resize(local, name, "1Gi")
            eventually("it is granted", lambda local=local, name=name: conditions(local.pod(name)))
            (folder / "go").touch()
            eventually("it is up again", lambda local=local, name=name: len(starts(local.log(name))) == 2)
            assert starts(local.log(name)) == [mib(64), mib(1024)]
            if expected:
                eventually("it lives", lambda local=local, name=name: "survived" in local.log(name))
            else:
                died = eventually(
                    "it dies at the old size",
                    lambda local=local: [run for run in local.handle("job1").pod.history if run.oom_kills],
                )
                assert died[0].limit_bytes == 1024 * MIB


# ── F16 to F18: what the API server refuses ──────────────────────────────────────────────────────────────────


def same_words(body: Json, expected: Json, name: str, *, numbers: bool = False, recorded_name: str = "running") -> bool:
    """The whole body, word for word, apart from the pod's name and, if wanted, sizes in bytes."""

    def normal(value: Json, own: str) -> str:
        text = json.dumps(value).replace(f'"{own}"', '"POD"').replace(f'\\"{own}\\"', '\\"POD\\"')
        return re.sub(r"\d{6,}", "N", text) if numbers else text

    here, there = normal(body, name), normal(expected, expected["details"].get("name", recorded_name))
    assert here == there
    return True


REFUSED: dict[str, Json] = {
    "error-qos": {"limits": {"memory": "256Mi"}},
    "error-request-above-limit": {"requests": {"memory": "512Mi"}},
    "error-remove-limits": {"limits": None},
    "error-gpu": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}},
    "error-bad-quantity": {"limits": {"memory": "abc"}, "requests": {"memory": "abc"}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_f16_f17_validation_in_the_recorded_words(driver: Driver, case: str) -> None:
    name = driver.start(Ask(memory="128Mi"))
    status, body = patch(driver, name, resize_body(REFUSED[case]))
    expected = recorded(case)
    assert status == expected["status"]
    assert same_words(body, expected["body"], name)
    assert driver.pod(name)["metadata"]["generation"] == 1


def test_f16_a_burstable_pod_may_raise_the_limit_alone_and_is_never_deferred(driver: Driver) -> None:
    name = driver.start(Ask(cpu=None))
    leave = driver.fill(leaving="100Mi")
    status, body = patch(driver, name, resize_body({"limits": {"memory": "512Mi"}}))
    assert status == 200, body
    done = eventually("it is granted", lambda: settled(driver.pod(name)) and driver.pod(name))
    leave()
    assert done["status"]["qosClass"] == "Burstable"
    assert container_status(done)["resources"] == {"limits": {"memory": "512Mi"}, "requests": {"memory": "64Mi"}}


def test_f17_an_unknown_container(driver: Driver) -> None:
    name = driver.start(Ask(memory="128Mi"))
    status, body = patch(driver, name, resize_body(resources("256Mi"), "nobody"))
    expected = recorded("error-unknown-container")
    assert status == expected["status"]
    assert same_words(body, expected["body"], name)


def test_f17_an_unknown_pod(driver: Driver) -> None:
    for status, body in (driver.call("GET", "pods/nobody"), patch(driver, "nobody", resize_body(resources("1Gi")))):
        assert status == 404
        assert body == recorded("error-not-found")["body"] == recorded("get-not-found")["body"]


def test_f17_a_stale_resource_version_is_a_conflict(driver: Driver) -> None:
    name = driver.start(Ask())
    status, body = patch(driver, name, {"metadata": {"resourceVersion": "1"}, **resize_body(resources("128Mi"))})
    assert (status, body["reason"]) == (409, "Conflict")
    assert body["message"].endswith("please apply your changes to the latest version and try again")


def test_f18_limit_range_in_the_recorded_words(local: NodeDriver) -> None:
    local.node.rules.limit_range = LimitRange(maximum={"memory": "1Gi"})
    name = local.start(Ask(memory="128Mi"))
    status, body = patch(local, name, resize_body(resources("2Gi")))
    assert status == 403
    assert same_words(body, recorded("error-limitrange")["body"], name)


def test_f18_quota_in_the_recorded_words(local: NodeDriver) -> None:
    local.node.rules.quotas.append(Quota("q", {"limits.memory": "1Gi"}))
    name = local.start(Ask(memory="128Mi"))
    status, body = patch(local, name, resize_body(resources("2Gi")))
    assert status == 403
    expected = recorded("error-quota")["body"]
    assert shape(body) == shape(expected)
    words = re.sub(r"\d+[MG]i", "N", body["message"].replace(name, "running"))
    assert words == re.sub(r"\d+[MG]i", "N", expected["message"])
    assert "requested: limits.memory=1920Mi, used: limits.memory=128Mi, limited: limits.memory=1Gi" in body["message"]


def test_f18_an_admission_policy_answers_422_with_its_message(local: NodeDriver) -> None:
    local.node.rules.policies.append(Policy("freeze", lambda user, old, new: "no resizes today"))
    name = local.start(Ask())
    status, body = patch(local, name, resize_body(resources("128Mi")))
    assert (status, body["reason"]) == (422, "Invalid")
    assert body["message"].endswith("no resizes today")


# ── F19 to F21: levels ───────────────────────────────────────────────────────────────────────────────────────


def test_f19_cpu_is_live(driver: Driver) -> None:
    name = driver.start(Ask())
    status, body = patch(driver, name, resize_body(resources(cpu="600m")))
    assert status == 200, body
    eventually("it is done", lambda: settled(driver.pod(name)))
    after = container_status(driver.pod(name))
    assert after["resources"]["limits"] == {"cpu": "600m", "memory": "64Mi"}
    assert after["restartCount"] == 0


def test_f20_a_sidecar_is_resized_and_the_others_stay(driver: Driver) -> None:
    collector = sidecar_manifest("log-collector", ["/bin/sh", "-c", "while :; do sleep 0.05; done"], memory="32Mi")
    name = driver.start(Ask(cpu=None, sidecars=(collector,)))
    status, body = patch(driver, name, resize_body(resources("64Mi"), "log-collector", "initContainers"))
    assert status == 200, body
    sidecar = eventually(
        "it is done",
        lambda: (
            not conditions(driver.pod(name))
            and (found := container_status(driver.pod(name), "log-collector"))["resources"] == resources("64Mi")
            and found
        ),
    )
    assert sidecar["restartCount"] == 0
    etl = container_status(driver.pod(name))
    assert (etl["restartCount"], etl["resources"]) == (0, resources("64Mi"))
    assert driver.pod(name)["status"]["resources"]["limits"]["memory"] == "128Mi"


def test_f21_the_status_can_flip_back_for_a_moment(local: NodeDriver) -> None:
    local.node.faults.flip_back = True
    name = local.start(Ask())
    resize(local, name, "128Mi")

    def shown() -> list[str]:
        return [container_status(v)["resources"]["limits"]["memory"] for v in local.versions(name) if settled_list(v)]

    def settled_list(version: Json) -> bool:
        return bool(version["status"].get("containerStatuses"))

    def turns() -> list[str]:
        found = shown()
        return [size for n, size in enumerate(found) if n == 0 or size != found[n - 1]]

    eventually("it is done, not done, done", lambda: turns() == ["64Mi", "128Mi", "64Mi", "128Mi"])


def test_f21_the_limit_file_comes_before_the_status(local: NodeDriver) -> None:
    local.node.faults.status_lag_s = 1.0
    script = LIMIT + 'while :; do n=$(limit); [ "$n" = "$o" ] || echo start $n; o=$n; nap; done'
    name = local.start(Ask(script))
    eventually("the container is up", lambda: starts(local.log(name)))
    resize(local, name, "128Mi")
    assert container_status(local.pod(name))["allocatedResources"]["memory"] == "64Mi"
    eventually("the file has changed", lambda: starts(local.log(name))[-1] == mib(128))
    status = container_status(local.pod(name))
    assert (status["allocatedResources"]["memory"], status["resources"]["limits"]["memory"]) == ("128Mi", "64Mi")
    eventually("the status follows", lambda: settled(local.pod(name)))


# ── F22 to F29: around the pod ───────────────────────────────────────────────────────────────────────────────


def test_f22_a_replacement_pod_has_the_templates_size(driver: Driver) -> None:
    name = driver.start(Ask(policy="NotRequired"))
    eventually("the container is up", lambda: starts(driver.log(name)))
    resize(driver, name, "128Mi")
    eventually("the resize is done", lambda: settled(driver.pod(name)))
    driver.evict(name)
    pods = eventually("it is replaced", lambda: len(found := driver.pods_of(name)) == 2 and found)
    eventually("the new one runs", lambda: driver.pod(pods[1])["status"]["phase"] == "Running")
    assert driver.pod(pods[1])["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Mi"
    assert container_status(driver.pod(pods[1]))["restartCount"] == 0


def test_f22_a_pod_without_room_waits_for_it(local: NodeDriver) -> None:
    leave = local.fill(leaving="100Mi")
    manifest = pod_manifest("late", ["/bin/sh", "-c", "echo ran"], memory="200Mi")
    job = local.node.start_job(manifest)
    eventually("it is not scheduled", lambda: [e for e in local.events("late") if e["reason"] == "FailedScheduling"])
    pod = local.pod("late")
    assert pod["status"]["phase"] == "Pending"
    (condition,) = pod["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "Unschedulable")
    leave()
    assert job.wait(20).job_condition == "Complete"


def test_f23_rbac_says_who_may_not_do_what(local: NodeDriver) -> None:
    name = local.start(Ask())
    local.node.rules.denied = {("patch", "pods/resize")}
    token = (local.node.service_account(name) / "token").read_text()
    status, body = local.call(
        "PATCH",
        f"pods/{name}/resize",
        resize_body(resources("128Mi")),
        content_type="application/strategic-merge-patch+json",
        token=token,
    )
    assert (status, body["reason"]) == (403, "Forbidden")
    assert body["message"] == (
        f'pods "{name}" is forbidden: User "system:serviceaccount:etl:etlkit" cannot patch resource "pods/resize" '
        'in API group "" in the namespace "etl"'
    )
    assert local.call("GET", f"pods/{name}", token=token)[0] == 200
    assert local.call("GET", f"pods/{name}", token="stranger")[0] == 401


@pytest.mark.parametrize(("reason", "code"), [("Invalid", 422), ("Forbidden", 403)])
def test_f23_a_policy_lets_a_pod_resize_only_itself_and_up_to_a_cap(local: NodeDriver, reason: str, code: int) -> None:
    local.node.rules.policies.append(only_itself("256Mi", reason))
    one, other = local.start(Ask()), local.start(Ask())
    token = (local.node.service_account(one) / "token").read_text()

    def ask(name: str, memory: str) -> tuple[int, Json]:
        kind = "application/strategic-merge-patch+json"
        body = resize_body(resources(memory))
        return local.call("PATCH", f"pods/{name}/resize", body, content_type=kind, token=token)

    assert ask(one, "128Mi")[0] == 200
    assert (ask(other, "128Mi")[0], ask(other, "128Mi")[1]["reason"]) == (code, reason)
    assert ask(one, "512Mi")[0] == code


@pytest.mark.parametrize("policy", ["Failed", "TerminatingOrFailed"])
def test_f24_when_the_replacement_starts(driver: Driver, policy: str) -> None:
    script = LIMIT + "trap 'sleep 2; exit 75' TERM; echo start $(limit); while :; do nap; done"
    name = driver.start(Ask(script, replacement_policy=policy))
    eventually("the container is up", lambda: starts(driver.log(name)))
    driver.evict(name)
    eventually("it is replaced", lambda: len(driver.pods_of(name)) == 2)
    first_is_there = driver.call("GET", f"pods/{name}")[0] == 200
    # By default two writers are on one volume for as long as the grace period.
    assert first_is_there is (policy == "TerminatingOrFailed")


def test_f25_a_failure_policy_ends_the_job_at_a_permanent_exit_code(driver: Driver) -> None:
    rules: tuple[Json, ...] = (
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 65, 77, 78]}},
    )
    name = driver.start(Ask("exit 78", restart_policy="Never", failure_rules=rules))
    assert eventually("the Job is over", lambda: job_end(driver, name)) == ("Failed", "PodFailurePolicy")
    assert len(driver.pods_of(name)) == 1


def test_f25_the_failure_policy_ignores_what_it_is_told_to(driver: Driver) -> None:
    rules: tuple[Json, ...] = ({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}},)
    name = driver.start(Ask("exit 75", restart_policy="Never", failure_rules=rules, backoff_limit=0))
    eventually("it is tried again", lambda: len(driver.pods_of(name)) >= 3)
    assert job_end(driver, name) is None


def test_f25_with_on_failure_there_is_no_failure_policy() -> None:
    with pytest.raises(ConfigError, match="podFailurePolicy needs restartPolicy Never"):
        check(JobSpec("OnFailure", failure_rules=({"action": "FailJob"},)), "job")


def test_f26_a_static_manager_makes_a_guaranteed_pod_infeasible(local: NodeDriver) -> None:
    local.node.rules.static_policy = True
    name = local.start(Ask())
    resize(local, name, "128Mi")
    pending = eventually("it is infeasible", lambda: conditions(local.pod(name)).get("PodResizePending"))
    assert pending["reason"] == "Infeasible"


@pytest.mark.parametrize(("policy", "outcome"), [("NotRequired", "Infeasible"), ("RestartContainer", None)])
def test_f26_with_swap_a_changed_request_is_infeasible_live(
    local: NodeDriver, policy: str, outcome: str | None
) -> None:
    local.node.rules.swap = True
    name = local.start(Ask(policy=policy))
    eventually("the container is up", lambda: starts(local.log(name)))
    resize(local, name, "128Mi")
    if outcome is None:
        eventually("the resize is done", lambda: starts(local.log(name)) == [mib(64), mib(128)])
    else:
        pending = eventually("it is infeasible", lambda: conditions(local.pod(name)).get("PodResizePending"))
        assert pending["reason"] == outcome and "swap" in pending["message"]


def test_f27_somebody_elses_resize_looks_like_ones_own(local: NodeDriver) -> None:
    script = LIMIT + 'while :; do n=$(limit); [ "$n" = "$o" ] || echo start $n; o=$n; nap; done'
    name = local.start(Ask(script))
    eventually("the container is up", lambda: starts(local.log(name)))
    local.node.resize(name, "etl", memory="96Mi")
    eventually("the file has changed", lambda: starts(local.log(name)) == [mib(64), mib(96)])


def test_f28_the_containers_name_is_a_literal_variable(local: NodeDriver) -> None:
    name = local.start(Ask("env; sleep 60"))
    lines = eventually("its environment", lambda: len(found := local.log(name)) > 5 and found)
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    assert values["ETLKIT_CONTAINER_NAME"] == "etl"
    assert (values["ETLKIT_POD_NAME"], values["ETLKIT_POD_NAMESPACE"]) == (name, "etl")
    assert values["ETLKIT_BACKOFF_LIMIT"] == "6"
    assert (values["KUBERNETES_SERVICE_HOST"], values["KUBERNETES_SERVICE_PORT"]) == (
        local.node.address[0],
        str(local.node.address[1]),
    )
    assert {p.name for p in Path(values["ETLKIT_SERVICE_ACCOUNT"]).iterdir()} >= {"token", "ca.crt", "namespace"}
    # Nothing tells the job that this is no cluster.
    assert not [key for key in values if "LOCAL" in key or "NODE" in key]


def test_f29_a_plain_pod_runs_the_finished_job_again(node: Node) -> None:
    lines: list[bytes] = []
    manifest = pod_manifest("plain", ["/bin/sh", "-c", "echo ran"], memory="64Mi", restart_policy="Always")
    node.start_pod(manifest, stdout=lambda container, line: lines.append(line))
    eventually("it runs again", lambda: len(lines) >= 2)
    with pytest.raises(ConfigError, match="again, for ever"):
        node.start_job(manifest)
