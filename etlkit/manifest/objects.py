"""The whole set for one job: what stands around its pod, in the order in which it is applied.

Covers ServiceAccount, RoleBindings, NetworkPolicy, claim, ConfigMap, Job, CronJob and Pod. What only an administrator may apply is
``platform.py``'s.
"""

from __future__ import annotations

import json

from ..units import quantity_bytes
from .order import Kind, Order, Shape, address_and_port
from .platform import CLUSTER_ROLE, EVENTS_ROLE
from .pod import AGAIN, HOPELESS, labels, pod_metadata, pod_spec
from .yaml import Data, note, plain

JOB_KEPT_S = 7 * 24 * 3600


def render(order: Order) -> list[Data]:
    """The documents, with their notes."""
    head = note(_head(order), _service_account(order))
    claim = [] if order.claim is not None else [_claim(order)]
    events = [_events_binding(order)] if order.events else []
    policy = [_network_policy(order)] if order.egress else []
    return [head, _role_binding(order), *events, *policy, *claim, _config(order), *workloads(order)]


def workloads(order: Order) -> list[Data]:
    """One; of a fan-out a Job for each round."""
    if order.kind is Kind.POD:
        return [_pod(order)]
    return [_cron_job(order)] if order.kind is Kind.CRONJOB else [_job(order, one) for one in range(order.rounds)]


def _head(order: Order) -> str:
    shape = {
        Shape.RESTART: "a resize of memory restarts the container, which goes on from its checkpoint",
        Shape.LIVE: "a resize of memory changes the limit of the running container; nothing is restarted in place",
        Shape.RULES: "a resize of memory changes the limit of the running container; exit 75 starts it again in place",
    }[order.shape]
    made = f"  {order.command} > THIS_FILE\n" if order.command else ""
    fan_out = ""
    if order.shards is not None:
        fan_out = f" {order.shards} pods share the work, each resizes itself (docs/adr/0018-fan-out.md)."
        if order.rounds > 1:
            fan_out += (
                f" {order.rounds} Jobs, one after the other, since rows must meet between them: each but the first is suspended "
                "until the one before is Complete: `etlkit submit` resumes it, or `kubectl patch job NAME --type=merge -p "
                '\'{"spec":{"suspend":false}}\'`.'
            )
    return (
        f"{order.kind.capitalize()} {order.name}, shape {order.shape}: {shape}.{fan_out}\n"
        f"\n{made}"
        "  kubectl apply -f THIS_FILE\n"
        "\n"
        "Before the first one, an administrator applies `etlkit manifest --platform` once, and labels the namespace. "
        "Numbers such as F8 refer to docs/kubernetes.md."
    )


def _metadata(order: Order, name: str | None = None) -> dict[str, Data]:
    return {"name": name or order.name, "namespace": order.namespace, "labels": labels(order)}


def _service_account(order: Order) -> dict[str, Data]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(order, order.account),
        "automountServiceAccountToken": False,
    }


def _role_binding(order: Order) -> Data:
    return note(
        "Read pods and resize them, in this namespace. RBAC can't say \"only itself\"; the platform's admission policy does (F23).",
        _binding(order, order.name, CLUSTER_ROLE),
    )


def _events_binding(order: Order) -> Data:
    return note(
        "Each turn of a resize becomes an Event on the pod: `kubectl describe pod`, `etlkit status`. "
        "Without this the job says it in its log only.",
        _binding(order, f"{order.name}-events", EVENTS_ROLE),
    )


def _network_policy(order: Order) -> Data:
    to: list[Data] = []
    for one in order.egress:
        found = address_and_port(one)
        assert found is not None, "check() has seen it"
        address, port = found
        rule: dict[str, Data] = {"to": [{"ipBlock": {"cidr": address}}]}
        to.append(rule if port is None else rule | {"ports": [{"protocol": "TCP", "port": port}]})
    dns: dict[str, Data] = {
        "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }
    return note(
        "Nothing in; out to DNS and to the addresses that were given. The API server must be one of them, or nobody can be asked for "
        "memory: `kubectl get endpointslices kubernetes` has its address and port as a policy sees them.",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _metadata(order),
            "spec": {
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": order.name}},
                "policyTypes": ["Ingress", "Egress"],
                "egress": [dns, *to],
            },
        },
    )


def _binding(order: Order, name: str, role: str) -> dict[str, Data]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(order, name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": order.account, "namespace": order.namespace}],
    }


def _claim(order: Order) -> Data:
    modes: Data = note(
        "One pod at a time. With ReadWriteOnce two pods on one node could both write (F24).", ["ReadWriteOncePod"]
    )
    if order.shards is not None:
        modes = note(
            "The pods are on several nodes. Each index is fenced by its own state directory.", ["ReadWriteMany"]
        )
    spec: dict[str, Data] = {
        "accessModes": modes,
        "resources": {"requests": {"storage": quantity_bytes(order.storage_bytes)}},
    }
    if order.storage_class is not None:
        spec["storageClassName"] = order.storage_class
    return note(
        "State, and whatever the job reads and writes below /data. Nothing owns it: deleting the Job must not delete the state.",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": _metadata(order, order.claim_name),
            "spec": spec,
        },
    )


def _config(order: Order) -> Data:
    return note(
        "Settings. [policy], checkpoint_every and a lower max_memory take effect while the job runs, about a minute after a change.",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(order, order.config_name),
            "data": {"etlkit.toml": toml(order)},
        },
    )


def toml(order: Order) -> str:
    lock_wait = f"{order.grace_s + 30}s"
    lines = [
        "# Bound on the work that a crash repeats.",
        f"checkpoint_every = {json.dumps(order.settings.get('checkpoint_every', '1s'))}",
        "# How long to wait for a pod that is still ending: its grace period, and 30 s.",
        f"lock_wait = {json.dumps(order.settings.get('lock_wait', lock_wait))}",
    ]
    lines += [
        f"{key} = {json.dumps(value)}"
        for key, value in order.settings.items()
        if key not in ("checkpoint_every", "lock_wait")
    ]
    return "\n".join(lines) + "\n"


def _job_spec(order: Order, round_: int = 0) -> dict[str, Data]:
    pods = order.shards_or_one
    spec: dict[str, Data] = {"completions": pods, "parallelism": pods}
    if order.shards is not None:
        spec["completionMode"] = note("Each pod is told its index, and takes its share of the splits.", "Indexed")
    if round_ > 0:
        spec["suspend"] = note("Until the Job of the round before is Complete.", True)
    if order.resize_restarts:
        spec["backoffLimit"] = note(
            f"The Job is failed when restarts reach it, and every resize is one: room for {order.resizes} resizes and "
            f"{order.crashes} crashes{' of each pod, since those of all are added up' if pods > 1 else ''} (F8).",
            order.backoff_limit,
        )
    elif order.shards is not None:
        spec["backoffLimitPerIndex"] = note(
            "Each index has its own count: pods that fail, except those that the policy below ignores.",
            order.backoff_limit,
        )
        spec["podFailurePolicy"] = _failure_policy()
    else:
        spec["backoffLimit"] = note(
            "Pods that fail, except those that the policy below ignores. A live resize restarts nothing and counts nowhere (F8).",
            order.backoff_limit,
        )
        spec["podFailurePolicy"] = _failure_policy()
    spec["podReplacementPolicy"] = note(
        "The replacement of a drained pod starts when the pod is gone, not while it still writes (F24).", "Failed"
    )
    spec["ttlSecondsAfterFinished"] = JOB_KEPT_S
    spec["template"] = {"metadata": pod_metadata(order), "spec": pod_spec(order, round_)}
    return spec


def _failure_policy() -> dict[str, Data]:
    return {
        "rules": [
            note(
                "Usage, bad input, refused by the cluster, a plan that can't work: every other start would end the same way.",
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "etl", "operator": "In", "values": list(HOPELESS)},
                },
            ),
            note(
                "Checkpointed, work left: start again, and count nothing.",
                {
                    "action": "Ignore",
                    "onExitCodes": {"containerName": "etl", "operator": "In", "values": [AGAIN]},
                },
            ),
            note(
                "A drain, an eviction, a lost node.",
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ),
        ]
    }


def _job(order: Order, round_: int) -> Data:
    metadata = _metadata(order, order.round_name.format(round_))
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": _job_spec(order, round_)}


def _cron_job(order: Order) -> Data:
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(order),
        "spec": {
            "schedule": order.schedule,
            "concurrencyPolicy": note(
                "A run that is not done yet is not joined by another on the same state (F24).", "Forbid"
            ),
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"metadata": {"labels": labels(order)}, "spec": _job_spec(order)},
        },
    }


def _pod(order: Order) -> Data:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(order) | {"annotations": pod_metadata(order)["annotations"]},
        "spec": pod_spec(order),
    }


def as_data(order: Order) -> list[dict[str, Data]]:
    """The documents without their notes, for an API server."""
    return [plain(one) for one in render(order)]
