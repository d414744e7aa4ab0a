"""The arithmetic of an Indexed Job: which indexes are done, which have failed for good, which get a pod now. Pure.

Covers F8 for several pods (without ``backoffLimitPerIndex`` failures and restarts of all are added up), ``backoffLimitPerIndex``,
the policy's ``FailIndex`` and ``FailJob``, ``parallelism``, F24. Not covered: ``maxFailedIndexes``, success policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .job import JobSpec, JobVerdict, PodFacts, failure_action


@dataclass(slots=True)
class _Index:
    live: int = 0
    succeeded: bool = False
    failed: int = 0
    for_good: bool = False
    restarts: int = 0
    fatal: str = ""
    holding: bool = field(default=False)


def evaluate_indexed(spec: JobSpec, pods: Sequence[PodFacts]) -> JobVerdict:
    """Complete, failed, or the indexes to create pods for."""
    assert spec.completions is not None
    indexes = [_index(spec, [pod for pod in pods if pod.index == number]) for number in range(spec.completions)]
    failed, restarts = sum(one.failed for one in indexes), sum(one.restarts for one in indexes)
    fatal = next((one.fatal for one in indexes if one.fatal), "")
    if fatal:
        return JobVerdict("Failed", "PodFailurePolicy", fatal, failed_pods=failed)
    over = spec.backoff_limit is not None and failed > spec.backoff_limit
    if spec.restart_policy == "OnFailure" and spec.backoff_limit is not None:
        over = over or restarts >= max(1, spec.backoff_limit)
    if over:
        message = "Job has reached the specified backoff limit"
        return JobVerdict("Failed", "BackoffLimitExceeded", message, failed_pods=failed, active_restarts=restarts)
    if all(one.succeeded for one in indexes):
        return JobVerdict("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
    if all(one.succeeded or one.for_good for one in indexes):
        return JobVerdict("Failed", "FailedIndexes", "Job has failed indexes", failed_pods=failed)
    free = max(0, spec.parallelism - sum(one.live for one in indexes))
    wanting = [number for number, one in enumerate(indexes) if not (one.succeeded or one.for_good or one.holding)]
    return JobVerdict(create=tuple(wanting[:free]), failed_pods=failed, active_restarts=restarts)


def _index(spec: JobSpec, pods: Sequence[PodFacts]) -> _Index:
    found = _Index()
    for pod in pods:
        if pod.phase == "Succeeded":
            found.succeeded = True
        elif pod.phase == "Failed":
            action, message = failure_action(spec.failure_rules, pod)
            found.failed += action != "Ignore"
            found.for_good = found.for_good or action == "FailIndex"
            found.fatal = found.fatal or (message if action == "FailJob" else "")
        else:
            found.live += 1
            found.restarts += pod.restarts
            found.holding = found.holding or spec.replacement_policy == "Failed" or not pod.terminating
    if spec.backoff_limit_per_index is not None and found.failed > spec.backoff_limit_per_index:
        found.for_good = True
    return found
