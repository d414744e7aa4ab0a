"""The arithmetic of a Kubernetes Job, and when a container is started again. Pure.

Covers F8 (which restarts count), F10 and F11 (``restartPolicyRules``), F12, F13 (back-off), F24 and F25
(``podFailurePolicy``, ``podReplacementPolicy``). One pod at a time; several are ``indexed``'s. No deadlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..errors import ConfigError
from .answers import Json
from .timings import Timings

ReplacementPolicy: TypeAlias = Literal["TerminatingOrFailed", "Failed"]


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The part of a Job's spec that decides about starts and ends."""

    restart_policy: str = "OnFailure"
    backoff_limit: int | None = 6
    """None: no limit, where each index has its own."""
    failure_rules: tuple[Json, ...] = ()
    """``podFailurePolicy.rules``; only with restartPolicy Never (F25)."""
    replacement_policy: ReplacementPolicy = "Failed"
    completions: int | None = None
    """Of an Indexed Job; None for one with a single pod."""
    parallelism: int = 1
    backoff_limit_per_index: int | None = None
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of the Job, as its controller sees it."""

    name: str
    phase: str
    terminating: bool = False
    restarts: int = 0
    """Of all its containers, sidecars too."""
    exit_codes: tuple[tuple[str, int], ...] = ()
    """Container and exit code, of those that have ended for good."""
    conditions: tuple[str, ...] = ()
    index: int | None = None


@dataclass(frozen=True, slots=True)
class JobVerdict:
    """What the controller does now. ``condition`` is set when the Job is over."""

    condition: Literal["", "Complete", "Failed"] = ""
    reason: str = ""
    message: str = ""
    create_pod: bool = False
    create: tuple[int, ...] = ()
    """Indexes to create pods for."""
    failed_pods: int = 0
    active_restarts: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """How the failed pods of the Job are counted under its failure policy."""

    failed: int = 0
    fatal: str = ""


def check(spec: JobSpec, name: str) -> None:
    """What the API server refuses when a Job is created."""
    if spec.restart_policy not in ("OnFailure", "Never"):
        raise ConfigError(
            f"Job '{name}': restartPolicy {spec.restart_policy} runs a finished job again, for ever",
            "use OnFailure, or Never",
        )
    if spec.failure_rules and spec.restart_policy != "Never":
        raise ConfigError(
            f"Job '{name}': podFailurePolicy needs restartPolicy Never, not {spec.restart_policy}",
            "drop the policy, or use Never with restartPolicyRules",
        )
    if spec.backoff_limit_per_index is not None and (spec.restart_policy != "Never" or spec.completions is None):
        raise ConfigError(
            f"Job '{name}': backoffLimitPerIndex needs completionMode Indexed and restartPolicy Never",
            "use backoffLimit with OnFailure",
        )


def replacement_policy(given: str | None, failure_policy: bool) -> ReplacementPolicy:
    """``podReplacementPolicy``, or its default: Failed where there is a podFailurePolicy (F24)."""
    if given is None:
        return "Failed" if failure_policy else "TerminatingOrFailed"
    return "Failed" if given == "Failed" else "TerminatingOrFailed"


def replacement_delay_s(timings: Timings, failed_pods: int) -> float:
    """Before the next pod: nothing after a first deletion, then doubled with each failed pod."""
    if failed_pods == 0:
        return 0.0
    return min(timings.job_backoff_first_s * 2.0 ** (failed_pods - 1), timings.job_backoff_max_s)


def evaluate(spec: JobSpec, pods: Sequence[PodFacts]) -> JobVerdict:
    """Complete, failed, or a pod to create."""
    if any(pod.phase == "Succeeded" for pod in pods):
        return JobVerdict("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
    counted = _count(spec, pods)
    live = [pod for pod in pods if pod.phase in ("Pending", "Running")]
    restarts = sum(pod.restarts for pod in live)
    if counted.fatal:
        return JobVerdict("Failed", "PodFailurePolicy", counted.fatal, failed_pods=counted.failed)
    # F8, two separate tests: failed pods, and only with OnFailure the restarts of live ones.
    limit = 6 if spec.backoff_limit is None else spec.backoff_limit
    over_pods = counted.failed > limit
    over_restarts = spec.restart_policy == "OnFailure" and restarts >= max(1, limit)
    if over_pods or over_restarts:
        return JobVerdict(
            "Failed",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
            failed_pods=counted.failed,
            active_restarts=restarts,
        )
    holding = live if spec.replacement_policy == "Failed" else [pod for pod in live if not pod.terminating]
    return JobVerdict(create_pod=not holding, failed_pods=counted.failed, active_restarts=restarts)


def _count(spec: JobSpec, pods: Sequence[PodFacts]) -> Counted:
    failed = 0
    for pod in pods:
        if pod.phase != "Failed":
            continue
        action, message = failure_action(spec.failure_rules, pod)
        if action == "FailJob":
            return Counted(failed + 1, message)
        failed += action == "Count"
    return Counted(failed)


def failure_action(rules: Sequence[Json], pod: PodFacts) -> tuple[str, str]:
    """What the first matching rule says of a failed pod: Ignore, Count or FailJob, and the message."""
    for index, rule in enumerate(rules):
        codes = rule.get("onExitCodes")
        if codes:
            for container, code in pod.exit_codes:
                named = codes.get("containerName")
                if named in (None, container) and _matches(codes, code):
                    text = f"Container {container} for pod {pod.name} failed with exit code {code} matching "
                    return rule["action"], f"{text}{rule['action']} rule at index {index}"
        for condition in rule.get("onPodConditions") or ():
            if condition["type"] in pod.conditions and condition.get("status", "True") == "True":
                text = f"Pod {pod.name} has condition {condition['type']} matching {rule['action']} rule at index "
                return rule["action"], f"{text}{index}"
    return "Count", ""


def _matches(codes: Json, code: int) -> bool:
    """``operator`` and ``values`` against one exit code. 0 is a success and never matches."""
    inside = code in codes.get("values", ())
    return code != 0 and (inside if codes.get("operator", "In") == "In" else not inside)


@dataclass(frozen=True, slots=True)
class RestartDecision:
    """Whether a container that ended by itself is started again, and whether a rule asked for it."""

    again: bool
    by_rule: bool = False


def restart(pod_policy: str, container: Json, exit_code: int) -> RestartDecision:
    """The container's rules first, then its own policy, then the pod's."""
    for rule in container.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        inside = exit_code in codes.get("values", ())
        if rule.get("action") == "Restart" and (inside if codes.get("operator", "In") == "In" else not inside):
            return RestartDecision(True, by_rule=True)
    policy = container.get("restartPolicy") or pod_policy
    return RestartDecision(policy == "Always" or (policy == "OnFailure" and exit_code != 0))


def resizes_left(backoff_limit: int, restarts: int) -> int:
    """F8: how many restarts a Job with OnFailure still survives."""
    return max(0, backoff_limit - 1 - restarts)


@dataclass(slots=True)
class Backoff:
    """CrashLoopBackOff of one container. A new size is a new key, and so starts afresh (F13)."""

    timings: Timings
    _delays: dict[str, tuple[float, float]] = field(default_factory=dict)

    def next_delay_s(self, key: str, ended_s: float) -> float:
        """Seconds from this exit to the next start; 0 for the first exit at this size."""
        known = self._delays.get(key)
        if known is None or ended_s - known[1] > self.timings.backoff_forget_s:
            self._delays[key] = (self.timings.backoff_first_s, ended_s)
            return 0.0
        delay_s = known[0]
        self._delays[key] = (min(delay_s * 2, self.timings.backoff_max_s), ended_s)
        return delay_s
