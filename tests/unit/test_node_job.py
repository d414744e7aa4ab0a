"""The arithmetic of Jobs, restarts and back-off, without any process."""

from __future__ import annotations

import pytest

from etlkit.node.answers import Json
from etlkit.node.job import (
    Backoff,
    JobSpec,
    PodFacts,
    evaluate,
    failure_action,
    replacement_delay_s,
    resizes_left,
    restart,
)
from etlkit.node.timings import Timings

RULES: tuple[Json, ...] = (
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}},
    {"action": "FailJob", "onExitCodes": {"containerName": "etl", "operator": "In", "values": [65, 78]}},
)


@pytest.mark.parametrize(
    ("limit", "restarts", "over"),
    [(0, 0, False), (0, 1, True), (1, 1, True), (2, 1, False), (2, 2, True), (6, 5, False)],
)
def test_restarts_of_live_pods_against_the_limit(limit: int, restarts: int, over: bool) -> None:
    verdict = evaluate(JobSpec(backoff_limit=limit), [PodFacts("p", "Running", restarts=restarts)])
    assert (verdict.condition == "Failed") is over


@pytest.mark.parametrize("limit", range(8))
def test_resizes_left_is_what_the_controller_lets_pass(limit: int) -> None:
    for restarts in range(limit + 1):
        left = resizes_left(limit, restarts)
        survives = [
            more
            for more in range(1, 10)
            if evaluate(JobSpec(backoff_limit=limit), [PodFacts("p", "Running", restarts=restarts + more)]).condition
            == ""
        ]
        assert left == len(survives)


def test_restarts_count_with_on_failure_only() -> None:
    pods = [PodFacts("p", "Running", restarts=50)]
    assert evaluate(JobSpec("Never", backoff_limit=0), pods).condition == ""
    assert evaluate(JobSpec("OnFailure", backoff_limit=6), pods).reason == "BackoffLimitExceeded"


def test_a_replacement_clears_the_restarts_and_adds_a_failed_pod() -> None:
    spec = JobSpec(backoff_limit=2)
    pods = [PodFacts("a", "Failed", restarts=5), PodFacts("b", "Running", restarts=1)]
    assert evaluate(spec, pods).condition == ""
    failed = [PodFacts(name, "Failed") for name in "abc"]
    assert evaluate(spec, failed).reason == "BackoffLimitExceeded"
    assert evaluate(spec, failed[:2]).create_pod


def test_one_success_completes() -> None:
    verdict = evaluate(JobSpec(), [PodFacts("a", "Failed"), PodFacts("b", "Succeeded")])
    assert verdict.condition == "Complete"


def test_a_terminating_pod_is_waited_for_or_not() -> None:
    leaving = [PodFacts("a", "Running", terminating=True)]
    assert not evaluate(JobSpec(replacement_policy="Failed"), leaving).create_pod
    assert evaluate(JobSpec(replacement_policy="TerminatingOrFailed"), leaving).create_pod


@pytest.mark.parametrize(
    ("codes", "conditions", "action"),
    [
        ((("etl", 75),), (), "Ignore"),
        ((("etl", 78),), (), "FailJob"),
        ((("sidecar", 78),), (), "Count"),
        ((("etl", 1),), (), "Count"),
        ((("etl", 78),), ("DisruptionTarget",), "Ignore"),
        ((("etl", 0),), (), "Count"),
    ],
)
def test_the_first_matching_rule_decides(
    codes: tuple[tuple[str, int], ...], conditions: tuple[str, ...], action: str
) -> None:
    pod = PodFacts("etl/p", "Failed", exit_codes=codes, conditions=conditions)
    assert failure_action(RULES, pod)[0] == action


def test_a_fatal_exit_code_says_which_rule_it_was() -> None:
    spec = JobSpec("Never", failure_rules=RULES)
    verdict = evaluate(spec, [PodFacts("etl/p", "Failed", exit_codes=(("etl", 78),))])
    assert verdict.reason == "PodFailurePolicy"
    assert verdict.message == "Container etl for pod etl/p failed with exit code 78 matching FailJob rule at index 2"


@pytest.mark.parametrize(
    ("pod", "container", "code", "again"),
    [
        ("OnFailure", {}, 1, True),
        ("OnFailure", {}, 0, False),
        ("Always", {}, 0, True),
        ("Never", {}, 1, False),
        ("OnFailure", {"restartPolicy": "Never"}, 1, False),
        ("Never", {"restartPolicy": "OnFailure"}, 1, True),
    ],
)
def test_who_is_started_again(pod: str, container: Json, code: int, again: bool) -> None:
    assert restart(pod, container, code).again is again


def test_a_rule_comes_before_the_policies() -> None:
    container: Json = {
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [78]}}],
    }
    assert restart("Never", container, 75).by_rule
    assert not restart("Never", container, 78).again


def test_back_off_doubles_is_capped_and_forgets() -> None:
    backoff = Backoff(Timings())
    now, waits = 0.0, []
    for _ in range(8):
        waits.append(backoff.next_delay_s("64Mi", now))
        now += 1.0
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.next_delay_s("128Mi", now) == 0
    assert backoff.next_delay_s("64Mi", now + 601) == 0


def test_pods_are_replaced_later_and_later() -> None:
    assert [replacement_delay_s(Timings(), failed) for failed in (0, 1, 2, 3, 20)] == [0, 10, 20, 40, 600]
