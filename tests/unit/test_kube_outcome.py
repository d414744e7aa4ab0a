"""What a pod object says, and where a resize stands: every recorded pod and every recorded timeline."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from kube_server import RECORDED, pod_body

from etlkit.decide.events import ResizeMode, ResizeOutcome
from etlkit.errors import UsageError
from etlkit.kube.outcome import Deadlines, ResizeTracker, Standing, explain_pending
from etlkit.kube.pod import Condition, LastState, PodView, Resources, read_pod
from etlkit.units import GIB, MIB

O = ResizeOutcome  # noqa: E741


def test_a_running_pod() -> None:
    view = read_pod(pod_body(), "etl")
    same = Resources(128 * MIB, 128 * MIB, 100, 100)
    assert (view.spec, view.actual, view.allocated_bytes) == (same, same, 128 * MIB)
    assert (view.limit_bytes, view.request_bytes) == (128 * MIB, 128 * MIB)
    assert (view.name, view.namespace, view.container, view.qos) == ("running", "etl", "etl", "Guaranteed")
    assert (view.memory_policy, view.cpu_policy) == (ResizeMode.LIVE, ResizeMode.LIVE)
    assert (view.generation, view.observed_generation, view.conditions) == (1, 1, ())
    assert view.settled and view.observed and not view.sidecar and not view.static and not view.deleting
    assert (view.restart_count, view.restart_counts, view.last_state, view.state) == (0, (0,), None, "running")
    assert (view.restart_policy, view.grace_s, view.job, view.phase) == ("OnFailure", 10.0, None, "Running")
    assert view.container_id.startswith("containerd://") and len(view.uid) == 36


def test_a_pod_that_was_killed() -> None:
    view = read_pod(pod_body("get-oom-killed"), "etl")
    assert (view.restart_count, view.last_state, view.oom_killed) == (1, LastState(137, "OOMKilled"), True)


def test_a_deferred_pod() -> None:
    view = read_pod(pod_body("get-deferred"), "etl")
    assert (view.spec.limit_bytes, view.limit_bytes, view.allocated_bytes) == (8 * GIB, 128 * MIB, 128 * MIB)
    assert view.memory_policy is ResizeMode.RESTART
    (condition,) = view.conditions
    assert (condition.type, condition.reason, condition.observed_generation) == ("PodResizePending", "Deferred", 4)
    assert view.observed and not view.settled
    assert not view.oom_killed


@pytest.mark.parametrize("name", ["get-after-grant", "get-after-live-resize"])
def test_a_pod_after_its_resize(name: str) -> None:
    view = read_pod(pod_body(name), "etl")
    assert view.settled and view.spec == view.actual
    assert view.restart_count == (1 if name == "get-after-grant" else 0)


def test_the_answer_to_a_patch_is_not_done() -> None:
    view = read_pod(json.loads((RECORDED / "patch-accepted.json").read_text())["body"], "etl")
    assert (view.generation, view.observed_generation, view.settled) == (2, 1, False)


def test_a_sidecar() -> None:
    body = pod_body("get-with-sidecar")
    body["status"]["initContainerStatuses"][0]["restartCount"] = 3
    sidecar, main = read_pod(body, "log-collector"), read_pod(body, "etl")
    assert (sidecar.sidecar, main.sidecar) == (True, False)
    assert (sidecar.limit_bytes, main.limit_bytes) == (64 * MIB, 128 * MIB)
    assert (sidecar.restart_count, main.restart_count) == (3, 0)
    assert main.restart_counts == (0, 3), "a Job adds up all of them"


def test_an_ordinary_init_container_can_not_be_resized() -> None:
    body = pod_body("get-with-sidecar")
    del body["spec"]["initContainers"][0]["restartPolicy"]
    with pytest.raises(UsageError, match="'log-collector'") as caught:
        read_pod(body, "log-collector")
    assert "it has: etl" in str(caught.value)


def test_owners_and_defaults() -> None:
    body = pod_body()
    body["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "nightly-1"}]
    body["metadata"]["deletionTimestamp"] = "2026-11-24T00:00:00Z"
    del body["spec"]["containers"][0]["resizePolicy"]
    del body["spec"]["terminationGracePeriodSeconds"]
    del body["status"]["observedGeneration"]
    view = read_pod(body, "etl")
    assert (view.job, view.deleting, view.memory_policy, view.grace_s) == ("nightly-1", True, ResizeMode.LIVE, 30.0)
    assert view.observed, "1.33 says nothing there"
    body["metadata"]["ownerReferences"] = [{"kind": "Node", "name": "node1"}]
    assert read_pod(body, "etl").static


def test_a_pod_that_has_hardly_begun() -> None:
    view = read_pod({"spec": {"containers": [{"name": "etl"}]}, "status": None}, "etl")
    assert (view.limit_bytes, view.spec, view.state, view.restart_counts) == (None, Resources(), "", ())


def view_at(transition: dict[str, Any], mode: ResizeMode) -> PodView:
    """A pod object with what a recorded transition says of it."""
    body = copy.deepcopy(pod_body())
    body["metadata"]["generation"] = transition["generation"]
    limits = transition["spec_limits"]
    container = body["spec"]["containers"][0]
    container["resources"] = {"limits": limits, "requests": limits}
    container["resizePolicy"] = [{"resourceName": "memory", "restartPolicy": mode.value}]
    status = body["status"]
    status.update(observedGeneration=transition["observedGeneration"], conditions=transition["conditions"])
    now = status["containerStatuses"][0]
    now.update(resources=transition["resources"], allocatedResources=transition["allocatedResources"])
    now["restartCount"] = transition["restartCount"]
    return read_pod(body, "etl")


def timeline(name: str) -> list[dict[str, Any]]:
    found = json.loads((RECORDED / f"timeline-{name}.json").read_text())
    transitions: list[dict[str, Any]] = found["transitions"]
    return transitions


def observed(
    transitions: Sequence[dict[str, Any]], mode: ResizeMode, *, step_ms: int = 10, more_ms: int = 1000
) -> Iterator[tuple[float, PodView]]:
    """Polled every 10 ms, each level held until the next one came."""
    levels = [t for t in transitions if "note" not in t]
    ends = [t["ms"] for t in levels[1:]] + [levels[-1]["ms"] + more_ms]
    for level, end_ms in zip(levels, ends, strict=True):
        view = view_at(level, mode)
        for ms in range(level["ms"], end_ms, step_ms):
            yield ms / 1000, view


def followed(
    name: str, mode: ResizeMode, target: Resources, *, limit_file: bool = False, step_ms: int = 10, more_ms: int = 1000
) -> list[tuple[float, Standing]]:
    """Each change of outcome, with the moment at which it was seen. The limit file changes with ``resources``."""
    transitions = timeline(name)
    before = view_at(transitions[0], mode)
    tracker = ResizeTracker(target, before, 0.0, generation=transitions[0]["generation"])
    changes = [(0.0, tracker.standing)]
    for at_s, view in observed(transitions, mode, step_ms=step_ms, more_ms=more_ms):
        standing = tracker.observe(view, view.limit_bytes if limit_file else None, at_s)
        if standing.outcome is not changes[-1][1].outcome:
            changes.append((at_s, standing))
    return changes


def outcomes(changes: list[tuple[float, Standing]]) -> list[ResizeOutcome]:
    return [standing.outcome for _, standing in changes]


@pytest.mark.parametrize("limit_file", [True, False])
@pytest.mark.parametrize(
    ("name", "mode", "target", "expected"),
    [
        ("live-grow", ResizeMode.LIVE, Resources(320 * MIB), [O.REQUESTED, O.IN_PROGRESS, O.ACTUATED]),
        ("live-shrink", ResizeMode.LIVE, Resources(128 * MIB), [O.REQUESTED, O.IN_PROGRESS, O.ACTUATED]),
        ("restart-grow", ResizeMode.RESTART, Resources(256 * MIB), [O.REQUESTED, O.IN_PROGRESS, O.ACTUATED]),
        ("restart-shrink", ResizeMode.RESTART, Resources(96 * MIB), [O.REQUESTED, O.IN_PROGRESS, O.ACTUATED]),
        ("restart-slow-checkpoint", ResizeMode.RESTART, Resources(256 * MIB), [O.REQUESTED, O.IN_PROGRESS, O.ACTUATED]),
        (
            "deferred-then-granted",
            ResizeMode.RESTART,
            Resources(8 * GIB),
            [O.REQUESTED, O.DEFERRED, O.IN_PROGRESS, O.ACTUATED],
        ),
    ],
)
def test_recorded_timelines(
    name: str, mode: ResizeMode, target: Resources, expected: list[ResizeOutcome], limit_file: bool
) -> None:
    changes = followed(name, mode, target, limit_file=limit_file)
    assert outcomes(changes) == expected
    last = [t for t in timeline(name) if "note" not in t][-1]["ms"] / 1000
    late_s = changes[-1][0] - last
    assert late_s == 0 if limit_file else 0.5 <= late_s < 0.6, (
        "the limit file is believed at once, the status when it stays"
    )


def test_live_cpu() -> None:
    changes = followed("cpu-live", ResizeMode.LIVE, Resources(limit_millis=200))
    assert outcomes(changes) == [O.REQUESTED, O.IN_PROGRESS, O.ACTUATED]
    # The memory limit file says nothing about CPU.
    assert outcomes(followed("cpu-live", ResizeMode.LIVE, Resources(limit_millis=200), limit_file=True)) == outcomes(
        changes
    )


@pytest.mark.parametrize("step_ms", [40, 333, 700])
def test_what_a_slow_poll_misses_changes_nothing_at_the_end(step_ms: int) -> None:
    changes = followed("live-grow", ResizeMode.LIVE, Resources(320 * MIB), step_ms=step_ms, more_ms=3000)
    assert outcomes(changes)[-1] is O.ACTUATED


def test_a_restart_that_never_shows_progress_is_seen_by_its_level() -> None:
    """Poll only the last level: no edge was seen at all."""
    transitions = timeline("restart-grow")
    tracker = ResizeTracker(Resources(256 * MIB), view_at(transitions[0], ResizeMode.RESTART), 0.0, generation=2)
    done = view_at(transitions[-1], ResizeMode.RESTART)
    assert tracker.observe(done, None, 1.0).outcome is O.REQUESTED
    assert tracker.observe(done, None, 1.6).outcome is O.ACTUATED


@pytest.mark.parametrize("name", ["shrink-below-use", "shrink-below-page-cache"])
def test_a_shrink_below_use_is_an_error_after_a_while(name: str) -> None:
    """The kubelet gives no reason in the condition; only time tells (F5)."""
    changes = followed(name, ResizeMode.LIVE, Resources(64 * MIB), limit_file=True, more_ms=7000)
    assert outcomes(changes)[:3] == [O.REQUESTED, O.IN_PROGRESS, O.ERROR]
    assert 5.0 <= changes[2][0] < 5.2
    assert "page cache" in changes[2][1].message


def test_a_shrink_below_use_that_is_patched_back() -> None:
    transitions = timeline("shrink-below-use")
    note = next(i for i, t in enumerate(transitions) if "note" in t)
    first = transitions[0]
    tracker = ResizeTracker(Resources(64 * MIB), view_at(first, ResizeMode.LIVE), 0.0, generation=2)
    for at_s, view in observed(transitions[:note], ResizeMode.LIVE, more_ms=6900):
        tracker.observe(view, 300 * MIB, at_s)
    assert tracker.standing.outcome is O.ERROR
    tracker.withdraw(Resources(300 * MIB), transitions[note]["ms"] / 1000, generation=3)
    seen = [
        (at_s, tracker.observe(view, 300 * MIB, at_s).outcome)
        for at_s, view in observed(transitions[note + 1 :], ResizeMode.LIVE)
    ]
    assert seen[0][1] is O.ERROR, "the kubelet has not seen it yet"
    withdrawn_s = next(at_s for at_s, outcome in seen if outcome is O.WITHDRAWN)
    assert withdrawn_s == pytest.approx(7.078), "as soon as the level says so"


def test_deferred_then_withdrawn() -> None:
    transitions = timeline("deferred-then-withdrawn")
    tracker = ResizeTracker(Resources(8 * GIB), view_at(transitions[0], ResizeMode.RESTART), 0.0, generation=2)
    for at_s, view in observed(transitions[:2], ResizeMode.RESTART):
        tracker.observe(view, 128 * MIB, at_s)
    assert tracker.standing.outcome is O.DEFERRED
    tracker.withdraw(Resources(128 * MIB), 4.052, generation=3)
    old = view_at(transitions[1], ResizeMode.RESTART)
    assert tracker.observe(old, 128 * MIB, 4.055).outcome is O.DEFERRED, "an answer older than our PATCH"
    back = view_at(transitions[-1], ResizeMode.RESTART)
    assert tracker.observe(back, 128 * MIB, 4.062).outcome is O.WITHDRAWN


def test_a_sidecar_s_resize_leaves_the_main_container_alone() -> None:
    """Recorded from the main container's side: only the pod's generation and conditions move."""
    for _, view in observed(timeline("sidecar"), ResizeMode.LIVE):
        assert view.spec == view.actual and view.limit_bytes == 128 * MIB


def test_an_oom_kill_is_no_resize() -> None:
    views = [view for _, view in observed(timeline("oom-kill"), ResizeMode.LIVE, step_ms=1000)]
    assert [count for count, _ in itertools.groupby(view.restart_count for view in views)] == [0, 1]
    assert all(view.settled for view in views)


def live(generation: int = 2, *, actual: int = 128, spec: int = 256, seen: int = 2, conditions: Any = ()) -> PodView:
    sizes = {"cpu": "100m", "memory": f"{actual}Mi"}
    return view_at(
        {
            "generation": generation,
            "observedGeneration": seen,
            "conditions": list(conditions),
            "spec_limits": {"cpu": "100m", "memory": f"{spec}Mi"},
            "resources": {"limits": sizes, "requests": sizes},
            "allocatedResources": sizes,
            "restartCount": 0,
        },
        ResizeMode.LIVE,
    )


def condition(kind: str, reason: str = "", message: str = "", generation: int = 2) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": generation}


def tracker_for(target: int = 256) -> ResizeTracker:
    return ResizeTracker(Resources(target * MIB), live(spec=target), 0.0, generation=2)


def test_a_status_that_flips_back_is_not_believed() -> None:
    """Done, in progress again, done: without a limit file it must stay done (kubernetes issue 128993)."""
    tracker = tracker_for()
    done = live(actual=256)
    moving = live(conditions=[condition("PodResizeInProgress")])
    assert tracker.observe(done, None, 0.10).outcome is O.REQUESTED
    assert tracker.observe(moving, None, 0.20).outcome is O.IN_PROGRESS
    assert tracker.observe(done, None, 0.30).outcome is O.IN_PROGRESS
    assert tracker.observe(done, None, 0.79).outcome is O.IN_PROGRESS
    assert tracker.observe(done, None, 0.81).outcome is O.ACTUATED
    assert tracker.observe(moving, None, 0.90).outcome is O.ACTUATED, "final is final"


def test_a_status_that_says_done_where_the_cgroup_does_not() -> None:
    tracker = tracker_for()
    done = live(actual=256)
    assert tracker.observe(done, 128 * MIB, 0.1).outcome is O.REQUESTED
    assert tracker.observe(done, 128 * MIB, 3.0).outcome is O.REQUESTED
    standing = tracker.observe(done, 128 * MIB, 5.2)
    assert standing.outcome is O.ERROR and "128 MiB" in standing.message
    assert tracker.observe(None, 256 * MIB, 5.3).outcome is O.ACTUATED


def test_the_limit_file_is_rounded_down_to_pages() -> None:
    tracker = ResizeTracker(Resources(100_000_000), live(), 0.0)
    assert tracker.observe(None, 99_999_744, 0.1).outcome is O.ACTUATED
    other = ResizeTracker(Resources(100_000_000), live(), 0.0)
    assert other.observe(None, 100_000_001, 0.1).outcome is O.REQUESTED
    assert other.observe(None, 99_000_000, 0.1).outcome is O.REQUESTED


def test_infeasible_as_up_to_1_35() -> None:
    message = "Node didn't have enough capacity: memory, requested: 966367641600, capacity: 25171656704"
    view = live(conditions=[condition("PodResizePending", "Infeasible", message)])
    standing = tracker_for().observe(view, None, 0.1)
    assert standing.outcome is O.INFEASIBLE and standing.final and message in standing.message


def test_an_error_with_its_reason() -> None:
    view = live(conditions=[condition("PodResizeInProgress", "Error", "cannot decrease memory limits")])
    standing = tracker_for().observe(view, 128 * MIB, 0.1)
    assert standing.outcome is O.ERROR and "cannot decrease" in standing.message and not standing.final


def test_conditions_about_an_older_wish_do_not_count() -> None:
    stale = condition("PodResizePending", "Infeasible", generation=1)
    assert tracker_for().observe(live(conditions=[stale]), None, 0.1).outcome is O.REQUESTED
    unseen = live(seen=1, conditions=[condition("PodResizePending", "Deferred", generation=1)])
    assert tracker_for().observe(unseen, None, 0.1).outcome is O.REQUESTED


def test_conditions_that_are_not_true_do_not_count() -> None:
    false = condition("PodResizePending", "Deferred") | {"status": "False"}
    assert live(conditions=[false]).conditions == ()


def test_somebody_else_changed_the_size() -> None:
    standing = tracker_for().observe(live(3, spec=512, seen=3), None, 0.1)
    assert standing.outcome is O.WITHDRAWN and "512 MiB" in standing.message


def test_a_silence_ends() -> None:
    tracker = tracker_for()
    tracker.observe(live(), None, 1.0)
    assert tracker.observe(None, 128 * MIB, 30.9).outcome is O.REQUESTED
    standing = tracker.observe(None, 128 * MIB, 31.1)
    assert standing.outcome is O.UNREACHABLE and "may still be granted" in standing.message


def test_a_withdrawal_that_nobody_confirms_ends() -> None:
    tracker = ResizeTracker(Resources(256 * MIB), live(), 0.0, generation=2, deadlines=Deadlines(withdraw_s=3))
    tracker.withdraw(Resources(128 * MIB), 10.0, generation=3)
    assert not tracker.observe(None, None, 12.9).final
    assert tracker.observe(None, None, 13.1).outcome is O.WITHDRAWN


def test_a_restart_may_take_its_grace_period() -> None:
    moving = timeline("restart-slow-checkpoint")[1]
    tracker = ResizeTracker(Resources(256 * MIB), view_at(moving, ResizeMode.RESTART), 0.0, generation=2)
    assert tracker.observe(view_at(moving, ResizeMode.RESTART), 128 * MIB, 0.1).outcome is O.IN_PROGRESS
    assert tracker.observe(view_at(moving, ResizeMode.RESTART), 128 * MIB, 60.0).outcome is O.IN_PROGRESS


def test_deferred_in_words() -> None:
    (found,) = read_pod(pod_body("get-deferred"), "etl").conditions
    words = explain_pending(found)
    assert "wants 8 GiB of memory where 20 GiB of 23.4 GiB are promised" in words and found.message in words
    cpu = Condition(
        "PodResizePending",
        "Deferred",
        "Node didn't have enough resource: cpu, requested: 1500, used: 900, capacity: 2000",
        1,
    )
    assert "wants 1.5 cores of cpu where 0.9 cores of 2 cores" in explain_pending(cpu)
    assert explain_pending(Condition("PodResizePending", "Infeasible", "static CPU manager", 1)) == (
        "this node can never grant it (static CPU manager)"
    )
