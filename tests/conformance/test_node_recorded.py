"""The local node beside what a real API server was recorded to answer: shapes of objects, and how the status moves.

Compared are keys, their order, words and the sequence of states; never times, identifiers or sizes.
"""

from __future__ import annotations

from typing import Any

import pytest

from etlkit.node.answers import Json
from etlkit.node.spec import sidecar_manifest

from .conftest import recorded
from .driver import (
    LIMIT,
    WAITS,
    Ask,
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

NOT_OURS = {
    # What a process on this machine has no use for, or the recorded pod had and ours has not.
    "spec": {"automountServiceAccountToken", "tolerations", "volumes"},
    "containers": {"env"},
    "metadata": {"ownerReferences"},
}


def keys(value: Any) -> Any:
    """Key names in their order, to the bottom; of a list the first item."""
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [keys(item) for item in value[:1]]
    return ""


def trimmed(pod: Json) -> Json:
    """The pod without what is known to differ."""
    spec = {key: value for key, value in pod["spec"].items() if key not in NOT_OURS["spec"]}
    for where in ("containers", "initContainers"):
        if where in spec:
            spec[where] = [{k: v for k, v in c.items() if k not in NOT_OURS["containers"]} for c in spec[where]]
            for container in spec[where]:
                if where == "initContainers":
                    container.pop("resizePolicy", None)
    meta = {key: value for key, value in pod["metadata"].items() if key not in NOT_OURS["metadata"]}
    meta["labels"] = {}
    status = dict(pod["status"])
    return pod | {"metadata": meta, "spec": spec, "status": status}


def same_shape(ours: Json, name: str) -> None:
    theirs = recorded(name)["body"]
    assert keys(trimmed(ours)) == keys(trimmed(theirs))
    # The status is what clients read: there the order of keys is kept too.
    assert str(keys(ours["status"])) == str(keys(theirs["status"]))


def test_answers_have_the_shape_of_the_recorded_ones(local: NodeDriver) -> None:
    name = local.start(Ask(policy="RestartContainer"))
    eventually("the container is up", lambda: settled(local.pod(name)) and starts(local.log(name)))
    same_shape(local.pod(name), "get-running")
    leave = local.fill(leaving="100Mi")
    _, answer = patch(local, name, resize_body(resources("512Mi")))
    same_shape(answer, "patch-accepted")
    eventually("it is deferred", lambda: conditions(local.pod(name)))
    same_shape(local.pod(name), "get-deferred")
    leave()
    eventually("it is granted", lambda: settled(local.pod(name)))
    same_shape(local.pod(name), "get-after-grant")


def test_an_oom_killed_container_and_a_sidecar_have_the_recorded_shape(local: NodeDriver) -> None:
    script = (
        LIMIT + "[ -e again ] || { touch again; x=$(head -c 80000000 /dev/zero | tr '\\0' x); }; while :; do nap; done"
    )
    name = local.start(Ask(script, memory="48Mi"))
    eventually("it is up again", lambda: container_status(local.pod(name))["restartCount"] == 1)
    same_shape(local.pod(name), "get-oom-killed")
    collector = sidecar_manifest("log-collector", ["/bin/sh", "-c", "while :; do sleep 0.05; done"], memory="32Mi")
    other = local.start(Ask(cpu=None, sidecars=(collector,)))
    eventually("both run", lambda: settled(local.pod(other)))
    theirs = recorded("get-with-sidecar")["body"]
    assert list(local.pod(other)["status"]) == list(theirs["status"])


def test_events_have_the_recorded_words(local: NodeDriver) -> None:
    name = local.start(Ask())
    resize(local, name, "128Mi")
    eventually("the resize is done", lambda: settled(local.pod(name)))
    same_shape(local.pod(name), "get-after-live-resize")
    events: Any = recorded("events")
    known = {event["reason"]: event for event in events}
    seen = [event["reason"] for event in local.events(name)]
    assert seen == ["Scheduled", "Created", "Started", "ResizeStarted", "ResizeCompleted"]
    for event in local.events(name):
        assert event["type"] == known[event["reason"]]["type"]
        words = event["message"].split("{")[0].split(" etl/")[0]
        assert known[event["reason"]]["message"].startswith(words)


# ── how the status moves ─────────────────────────────────────────────────────────────────────────────────────


def state(pod: Json, wanted: Json, first: Json) -> Json:
    """One state of a pod, sizes as words: ``new`` where it is what is wanted, else ``old``."""
    status = container_status(pod)
    generation = pod["metadata"]["generation"]

    def word(values: Json, kind: str) -> str:
        there = values.get(kind) if kind else values
        want = wanted[kind] if kind else wanted["requests"]
        return "new" if there == want else "old"

    last = status["lastState"].get("terminated", {})
    return {
        "seen": pod["status"]["observedGeneration"] >= generation,
        "conditions": sorted((c["type"], c.get("reason", "")) for c in conditions(pod).values()),
        "allocated": word(status["allocatedResources"], ""),
        "resources": word(status["resources"], "limits"),
        "restarts": status["restartCount"] - first["restarts"],
        "state": next(iter(status["state"])),
        "last": (last.get("exitCode"), last.get("reason")) if status["restartCount"] > first["restarts"] else None,
    }


def recorded_states(name: str) -> list[Json]:
    """The recorded timeline up to its first note, in the same words."""
    timeline = recorded(f"timeline-{name}")["transitions"]
    moved = [entry for entry in timeline if "note" not in entry]
    wanted_limits = moved[0]["spec_limits"]
    found = []
    for entry in moved:
        if entry["spec_limits"] != wanted_limits:
            break
        last = entry["lastState"]
        restarted = entry["restartCount"] > moved[0]["restartCount"]
        found.append(
            {
                "seen": entry["observedGeneration"] >= entry["generation"],
                "conditions": sorted((c["type"], c.get("reason", "")) for c in entry["conditions"]),
                "allocated": "new" if entry["allocatedResources"] == wanted_limits else "old",
                "resources": "new" if entry["resources"]["limits"] == wanted_limits else "old",
                "restarts": entry["restartCount"] - moved[0]["restartCount"],
                "state": entry["state"],
                "last": (last.get("exitCode"), last.get("reason")) if restarted else None,
            }
        )
    return found


def ours(local: NodeDriver, name: str, since: int, wanted: Json) -> list[Json]:
    """Every state that a watch saw since, repetitions left out."""
    versions = local.versions(name)[since:]
    first = {"restarts": container_status(versions[0])["restartCount"]}
    found: list[Json] = []
    for version in versions:
        now = state(version, wanted, first)
        if not found or now != found[-1]:
            found.append(now)
    return found


@pytest.mark.parametrize(
    ("timeline", "policy", "wanted"),
    [
        ("live-grow", "NotRequired", resources("128Mi", "500m")),
        ("live-shrink", "NotRequired", resources("48Mi", "500m")),
        ("cpu-live", "NotRequired", resources("64Mi", "600m")),
        ("restart-grow", "RestartContainer", resources("128Mi", "500m")),
        ("restart-slow-checkpoint", "RestartContainer", resources("128Mi", "500m")),
    ],
)
def test_a_granted_resize_moves_as_recorded(local: NodeDriver, timeline: str, policy: str, wanted: Json) -> None:
    script = WAITS.replace("echo term", "sleep 1; echo term") if timeline == "restart-slow-checkpoint" else WAITS
    name = local.start(Ask(script, policy=policy))
    eventually("the container is up", lambda: settled(local.pod(name)) and starts(local.log(name)))
    since = len(local.versions(name))
    assert patch(local, name, resize_body(wanted))[0] == 200
    eventually("the resize is done", lambda: settled(local.pod(name)))
    assert ours(local, name, since, wanted) == recorded_states(timeline)


def test_a_shrink_by_restart_moves_as_recorded(local: NodeDriver) -> None:
    wanted = resources("48Mi", "500m")
    name = local.start(Ask(policy="RestartContainer"))
    eventually("the container is up", lambda: settled(local.pod(name)) and starts(local.log(name)))
    since = len(local.versions(name))
    assert patch(local, name, resize_body(wanted))[0] == 200
    eventually("the resize is done", lambda: settled(local.pod(name)))
    # The recorder missed the first 30 ms there.
    assert ours(local, name, since, wanted)[1:] == recorded_states("restart-shrink")


def test_a_deferred_resize_moves_as_recorded(local: NodeDriver) -> None:
    wanted = resources("512Mi", "500m")
    name = local.start(Ask(policy="RestartContainer"))
    eventually("the container is up", lambda: settled(local.pod(name)) and starts(local.log(name)))
    leave = local.fill(leaving="100Mi")
    since = len(local.versions(name))
    assert patch(local, name, resize_body(wanted))[0] == 200
    eventually("it is deferred", lambda: conditions(local.pod(name)))
    leave()
    eventually("it is granted", lambda: settled(local.pod(name)))
    assert ours(local, name, since, wanted) == recorded_states("deferred-then-granted")


def test_a_withdrawn_resize_moves_as_recorded(local: NodeDriver) -> None:
    name = local.start(Ask(policy="RestartContainer"))
    eventually("the container is up", lambda: settled(local.pod(name)) and starts(local.log(name)))
    leave = local.fill(leaving="100Mi")
    since = len(local.versions(name))
    resize(local, name, "512Mi")
    eventually("it is deferred", lambda: conditions(local.pod(name)))
    moved = ours(local, name, since, resources("512Mi", "500m"))
    assert moved == recorded_states("deferred-then-withdrawn")
    since = len(local.versions(name))
    resize(local, name, "64Mi")
    eventually("it is gone", lambda: settled(local.pod(name)))
    leave()
    last = local.versions(name)[-1]
    assert container_status(last)["restartCount"] == 0
    # Between the PATCH and its end no condition comes back, and nothing is in progress.
    assert all(list(conditions(v)) in ([], ["PodResizePending"]) for v in local.versions(name)[since:])


@pytest.mark.cgroup
def test_a_shrink_below_use_moves_as_recorded(local: NodeDriver) -> None:
    wanted = resources("16Mi", "500m")
    script = LIMIT + "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo start $(limit); while :; do nap; done"
    name = local.start(Ask(script, memory="256Mi"))
    eventually("memory is held", lambda: starts(local.log(name)))
    since = len(local.versions(name))
    assert patch(local, name, resize_body(wanted))[0] == 200
    eventually("it fails", lambda: [e for e in local.events(name) if e["reason"] == "ResizeError"])
    assert ours(local, name, since, wanted) == recorded_states("shrink-below-use")
    assert ours(local, name, since, wanted) == recorded_states("shrink-below-page-cache")


def test_an_oom_kill_moves_as_recorded(local: NodeDriver) -> None:
    wanted = resources("48Mi", "500m")
    script = LIMIT + (
        "[ -e again ] && while :; do nap; done; touch again; while [ ! -e go ]; do nap; done; "
        "x=$(head -c 80000000 /dev/zero | tr '\\0' x)"
    )
    name = local.start(Ask(script, memory="48Mi"))
    eventually("the container is up", lambda: settled(local.pod(name)))
    since = len(local.versions(name)) - 1
    (local.folder / "go").touch()
    eventually("it is up again", lambda: container_status(local.pod(name))["restartCount"] == 1)
    assert ours(local, name, since, wanted) == recorded_states("oom-kill")


def test_a_sidecars_resize_moves_the_pods_own_resources(local: NodeDriver) -> None:
    collector = sidecar_manifest("log-collector", ["/bin/sh", "-c", "while :; do sleep 0.05; done"], memory="64Mi")
    name = local.start(Ask(memory="128Mi", cpu=None, sidecars=(collector,)))
    eventually("both run", lambda: settled(local.pod(name)))
    since = len(local.versions(name))
    body = resize_body(resources("96Mi"), "log-collector", "initContainers")
    assert patch(local, name, body)[0] == 200
    eventually("it is done", lambda: local.pod(name)["status"]["resources"]["limits"]["memory"] == "224Mi")
    seen = [
        (v["status"]["resources"]["limits"], v["status"]["resources"]["requests"]) for v in local.versions(name)[since:]
    ]
    timeline = recorded("timeline-sidecar")["transitions"]
    there = [entry["pod_resources"]["limits"]["memory"] for entry in timeline]
    assert [limits["memory"] for limits, _ in seen] == there
    # The pod's memory request stays what it was at the start, as recorded.
    assert {requests["memory"] for _, requests in seen} == {timeline[-1]["pod_resources"]["requests"]["memory"]}
