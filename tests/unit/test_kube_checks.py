"""What doctor makes of a pod and its cluster: pure, from recorded pods."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kube_server import pod_body, recorded

from etlkit.kube.answer import Answer, Kind, read_answer
from etlkit.kube.checks import (
    Check,
    Level,
    check_patch,
    check_pod,
    check_version,
    request_for_admin,
    service_account_of,
)
from etlkit.kube.pod import PodView, read_pod
from etlkit.units import GIB, MIB


def pod(name: str = "get-after-grant", **spec: Any) -> PodView:
    body = pod_body(name)
    body["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "nightly"}]
    body["spec"].update(spec)
    return read_pod(body, "etl")


def found(view: PodView, name: str, backoff_limit: int | None = 6, cap: int | None = 64 * GIB) -> Check:
    return next(check for check in check_pod(view, backoff_limit, cap) if check.name == name)


def test_a_good_pod() -> None:
    view = pod(terminationGracePeriodSeconds=30)
    checks = check_pod(view, 6, 64 * GIB)
    assert [check.level for check in checks] == [Level.OK] * 5
    assert found(view, "backoffLimit").what.startswith("6 − 1 − 1 restarts of all containers so far = 4")


@pytest.mark.parametrize("backoff_limit", [0, 1, 2])
def test_no_restart_left_is_a_failure_only_where_a_resize_restarts(backoff_limit: int) -> None:
    check = found(pod(), "backoffLimit", backoff_limit)
    assert check.level is Level.FAIL and "set backoffLimit to 5 or more" in check.remedy
    assert found(pod("get-oom-killed"), "backoffLimit", backoff_limit).level is Level.OK


def test_a_backoff_limit_that_is_not_known() -> None:
    check = found(pod(), "backoffLimit", None)
    assert check.level is Level.WARN and "ETLKIT_BACKOFF_LIMIT" in check.remedy


@pytest.mark.parametrize(("policy", "level"), [("Always", Level.FAIL), ("Never", Level.WARN), ("OnFailure", Level.OK)])
def test_restart_policies(policy: str, level: Level) -> None:
    assert found(pod(restartPolicy=policy), "restartPolicy").level is level


def test_a_bare_pod() -> None:
    view = read_pod(pod_body(), "etl")
    assert found(view, "restartPolicy").level is Level.WARN
    assert found(view, "backoffLimit", 0).what == "no Job counts the restarts of this pod"


def test_limits() -> None:
    assert found(pod(), "memory limit", cap=None).level is Level.WARN
    assert "nothing to ask for" in found(pod(), "memory limit", cap=128 * MIB).why
    body = pod_body()
    body["status"]["qosClass"] = "BestEffort"
    assert found(read_pod(body, "etl"), "memory limit").level is Level.FAIL


def test_what_is_pending_and_how_it_ended_before() -> None:
    check = found(pod("get-deferred"), "pending resize")
    assert check.level is Level.WARN and "8 GiB is wanted" in check.what and "no room now" in check.what
    assert found(pod("get-oom-killed"), "last end").level is Level.WARN
    assert found(pod(terminationGracePeriodSeconds=5), "grace period").level is Level.WARN


def test_a_static_pod() -> None:
    body = pod_body()
    body["metadata"]["ownerReferences"] = [{"kind": "Node", "name": "node1"}]
    assert found(read_pod(body, "etl"), "owner").level is Level.FAIL


@pytest.mark.parametrize(
    ("major", "minor", "level"),
    [
        ("1", "36", Level.OK),
        ("1", "35+", Level.OK),
        ("1", "34", Level.WARN),
        ("1", "32", Level.FAIL),
        ("", "", Level.WARN),
    ],
)
def test_versions(major: str, minor: str, level: Level) -> None:
    answer = Answer(Kind.OK, 200, {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.1"})
    assert check_version(answer).level is level


def test_a_version_that_may_not_be_read_is_no_failure() -> None:
    assert check_version(Answer(Kind.RBAC, 403)).level is Level.WARN
    assert check_version(Answer(Kind.TIMEOUT)).level is Level.FAIL


@pytest.mark.parametrize("name", ["error-over-node", "error-limitrange", "error-quota"])
def test_a_refused_cap_names_who_refused(name: str) -> None:
    status, body, _ = recorded(name)
    check = check_patch(read_answer(status, json.dumps(body).encode()), 4 * GIB, cap=True)
    assert check.level is Level.FAIL and body["message"] in check.what
    assert "lower max_memory" in check.remedy


def test_whom_the_administrator_must_bind() -> None:
    assert service_account_of(Answer(Kind.OK, 200, {"spec": {"serviceAccountName": "etl-runner"}})) == "etl-runner"
    said = 'pods "p" is forbidden: User "system:serviceaccount:etl:runner.v2" cannot get resource "pods"'
    assert service_account_of(Answer(Kind.RBAC, 403, {}, said)) == "runner.v2"
    assert service_account_of(Answer(Kind.TIMEOUT)) is None
    text = request_for_admin("etl", "runner")
    for line in ("namespace: etl", "name: runner", 'resources: ["pods/resize"]', 'verbs: ["patch"]', 'verbs: ["get"]'):
        assert line in text
