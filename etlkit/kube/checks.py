"""What ``doctor`` says about a pod and its cluster. Pure: answers and views in, findings out.

Each finding says what is, why it matters and what to do. It asks nobody; ``cli/doctor.py`` does.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ..decide.events import ResizeMode
from ..units import format_bytes, format_seconds
from .answer import Answer, Kind
from .budget import DEFAULT_BACKOFF_LIMIT, UNLIMITED, restarts_left
from .outcome import explain_pending
from .pod import PodView

SUPPORTED, POSSIBLE = (1, 35), (1, 33)
"""Tested from the first on; resizing exists from the second on, at one's own risk."""
SHORT_GRACE_S = 10.0


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    level: Level
    what: str
    why: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def ok(name: str, what: str) -> Check:
    return Check(name, Level.OK, what)


def check_version(answer: Answer) -> Check:
    name = "API server version"
    if answer.kind in (Kind.RBAC, Kind.FORBIDDEN):
        return Check(name, Level.WARN, answer.explain(), "whether it can resize pods is unknown", "ask an admin")
    if not answer.ok:
        why = "without the API server nobody can be asked for memory; the job goes on within its limit"
        return Check(name, Level.FAIL, answer.explain(), why, _remedy(answer))
    major, minor = (re.match(r"\d*", str(answer.body.get(key, ""))) for key in ("major", "minor"))
    text = str(answer.body.get("gitVersion", "unknown"))
    if major is None or minor is None or not major.group() or not minor.group():
        return Check(
            name, Level.WARN, f"it calls itself {text}", "whether it can resize pods is unknown", "ask an admin"
        )
    version = int(major.group()), int(minor.group())
    if version < POSSIBLE:
        why = "pods can't be resized in place before 1.33"
        return Check(
            name, Level.FAIL, text, why, "upgrade the cluster to 1.35 or newer, or give the job its peak from the start"
        )
    if version < SUPPORTED:
        why = "supported and tested is 1.35 and newer; here a size that no node can hold is accepted and then called Infeasible"
        return Check(name, Level.WARN, text, why, "upgrade the cluster, or try it at your own risk")
    return ok(name, text)


def check_get(answer: Answer) -> Check:
    name = "may read its own pod"
    if answer.ok:
        return ok(name, "GET pod is allowed")
    why = "mode, restarts and the standing of a resize are read from the pod"
    return Check(name, Level.FAIL, answer.explain(), why, _remedy(answer))


def check_patch(answer: Answer, size_bytes: int, *, cap: bool) -> Check:
    """Of a dry run: at the present size it shows the permission, at the cap what a resize could come to."""
    size = format_bytes(size_bytes)
    name = f"may be resized to max_memory ({size})" if cap else "may resize itself"
    if answer.ok:
        return ok(name, "a dry run of PATCH pods/resize is accepted")
    why = (
        "a request for that much would be refused"
        if cap
        else "the job can't ask for memory; it goes on within its limit"
    )
    return Check(name, Level.FAIL, answer.explain(), why, _remedy(answer))


def check_pod(view: PodView, backoff_limit: int | None, max_memory_bytes: int | None) -> list[Check]:
    """The manifest, as the cluster took it."""
    checks = [
        _limit(view, max_memory_bytes),
        _resize_policy(view),
        _restart_policy(view),
        _backoff(view, backoff_limit),
    ]
    checks.append(_grace(view))
    if view.static:
        why = "the API server can't resize what a file on the node describes"
        checks.append(Check("owner", Level.FAIL, "this is a static pod", why, "run it as a Job"))
    if view.conditions or not view.settled:
        words = "; ".join(
            explain_pending(c) if c.type == "PodResizePending" else c.message or c.type for c in view.conditions
        )
        wanted = "nothing" if view.spec.limit_bytes is None else format_bytes(view.spec.limit_bytes)
        what = f"{wanted} is wanted and not in force: {words or 'the kubelet has not answered yet'}"
        why = "it can be granted at any later moment"
        checks.append(Check("pending resize", Level.WARN, what, why, "wait, or take it back with `etlkit resize`"))
    if view.oom_killed:
        why = "an OOM kill loses the work since the last checkpoint"
        remedy = "start with more memory, or lower 'tight' and 'critical' under [policy] so that the job asks earlier"
        checks.append(Check("last end", Level.WARN, "the attempt before this one was killed for memory", why, remedy))
    return checks


def _limit(view: PodView, max_memory_bytes: int | None) -> Check:
    name = "memory limit"
    if view.limit_bytes is None or view.qos == "BestEffort":
        why = "a resize can't add a limit to a pod that has none (its QoS class may not change)"
        remedy = f"set resources.limits.memory of container {view.container}"
        return Check(name, Level.FAIL, f"the pod is {view.qos or 'BestEffort'} and has no limit", why, remedy)
    limit = f"{format_bytes(view.limit_bytes)}, {view.qos}"
    if max_memory_bytes is None:
        why = "without a cap the job never asks for memory"
        return Check(
            name,
            Level.WARN,
            f"{limit}; max_memory is not set",
            why,
            "set --max-memory or ETLKIT_MAX_MEMORY, such as 4Gi",
        )
    if max_memory_bytes <= view.limit_bytes:
        why = "there is nothing to ask for"
        what = f"{limit}; max_memory is {format_bytes(max_memory_bytes)}"
        return Check(name, Level.WARN, what, why, "raise max_memory above the limit, or start with a smaller limit")
    return ok(name, f"{limit}; it may grow to {format_bytes(max_memory_bytes)}")


def _resize_policy(view: PodView) -> Check:
    name = "resizePolicy"
    if view.memory_policy is ResizeMode.LIVE:
        return ok(name, "memory NotRequired: the limit changes in the running container")
    return ok(name, "memory RestartContainer: the container is restarted with the new size and resumes")


def _restart_policy(view: PodView) -> Check:
    name, policy = "restartPolicy", view.restart_policy
    if policy == "Always":
        why = "a finished job would be started again, for ever"
        return Check(name, Level.FAIL, "Always", why, "run it as a Job with restartPolicy OnFailure")
    if view.job is None:
        why = "nobody replaces a bare pod when its node is lost"
        return Check(name, Level.WARN, f"{policy}, without a Job", why, "run it as a Job")
    if policy == "Never":
        why = "exit 75 (interrupted, work left) fails the pod, and each replacement counts against backoffLimit"
        remedy = "use restartPolicy OnFailure, or restartPolicyRules for exit 75 with a podFailurePolicy"
        return Check(name, Level.WARN, f"Never, Job {view.job}", why, remedy)
    return ok(name, f"{policy}, Job {view.job}")


def _backoff(view: PodView, backoff_limit: int | None) -> Check:
    name, so_far = "backoffLimit", sum(view.restart_counts)
    left = restarts_left(
        backoff_limit, view.restart_counts, restart_policy=view.restart_policy, in_job=view.job is not None
    )
    if left == UNLIMITED:
        return ok(name, "no Job counts the restarts of this pod")
    known = backoff_limit is not None
    limit = backoff_limit if backoff_limit is not None else DEFAULT_BACKOFF_LIMIT
    what = f"{limit} − 1 − {so_far} restarts of all containers so far = {left} restarts left"
    why = "the Job is failed as soon as restarts reach backoffLimit, and each resize with RestartContainer is one"
    if left == 0 and view.memory_policy is ResizeMode.RESTART:
        remedy = f"set backoffLimit to {so_far + 4} or more, and ETLKIT_BACKOFF_LIMIT to the same number"
        return Check(name, Level.FAIL, what, why, remedy)
    if not known:
        remedy = "set ETLKIT_BACKOFF_LIMIT to the Job's backoffLimit: a pod can't read its Job"
        return Check(name, Level.WARN, f"{what}, if it is Kubernetes' default of {DEFAULT_BACKOFF_LIMIT}", why, remedy)
    return ok(name, what)


def _grace(view: PodView) -> Check:
    name, text = "grace period", format_seconds(view.grace_s)
    if view.grace_s < SHORT_GRACE_S:
        why = "the final checkpoint must be written within it; past it comes SIGKILL, and work since the last one is repeated"
        return Check(name, Level.WARN, text, why, "set terminationGracePeriodSeconds to 30 or more")
    return ok(name, text)


_RBAC_USER = re.compile(r"system:serviceaccount:([a-z0-9-]+):([a-z0-9.-]+)")


def service_account_of(pod: Answer, *refusals: Answer) -> str | None:
    """From the pod, or from the words of a refusal. The token itself is not looked into."""
    spec: Any = pod.body.get("spec") if pod.ok else None
    if isinstance(spec, dict) and spec.get("serviceAccountName"):
        return str(spec["serviceAccountName"])
    found = (_RBAC_USER.search(answer.message) for answer in (pod, *refusals))
    return next((match.group(2) for match in found if match is not None), None)


def request_for_admin(namespace: str, service_account: str) -> str:
    """What to send to somebody who may grant it: the least that is needed (F23)."""
    return f"""\
# Please apply this once. It lets the service account {service_account} read pods of the namespace {namespace}
# and resize them in place. The built-in roles admin and edit do not contain pods/resize, so only
# a cluster administrator may grant it.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: etlkit-resize
  namespace: {namespace}
rules:
  - apiGroups: [""]
    resources: ["pods"]
    verbs: ["get"]
  - apiGroups: [""]
    resources: ["pods/resize"]
    verbs: ["patch"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: etlkit-resize
  namespace: {namespace}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: etlkit-resize
subjects:
  - kind: ServiceAccount
    name: {service_account}
    namespace: {namespace}
"""


def _remedy(answer: Answer) -> str:
    remedies = {
        Kind.UNAUTHORIZED: "mount a fresh service account token (automountServiceAccountToken or a projected volume)",
        Kind.RBAC: "send the request below to a cluster administrator",
        Kind.NODE_CAPACITY: "lower max_memory, or run on a larger node",
        Kind.LIMIT_RANGE: "lower max_memory, or ask for a larger maximum in the LimitRange",
        Kind.QUOTA: "lower max_memory, or ask for a larger ResourceQuota",
        Kind.POLICY: "lower max_memory, or ask whoever keeps that policy",
        Kind.NOT_FOUND: "correct ETLKIT_POD_NAME and ETLKIT_POD_NAMESPACE (the downward API sets them)",
        Kind.NO_TOKEN: "mount the service account's token, CA and namespace, or set ETLKIT_SERVICE_ACCOUNT to where they are",
        Kind.TLS: "mount the cluster's own ca.crt beside the token",
        Kind.TIMEOUT: "allow egress to the API server in the NetworkPolicy",
        Kind.UNREACHED: "allow egress to the API server in the NetworkPolicy",
        Kind.RESET: "allow egress to the API server in the NetworkPolicy, or try again",
    }
    return remedies.get(answer.kind, "try again later; if it stays so, show this to an administrator")
