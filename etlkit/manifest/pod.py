"""The pod of a job: containers, resources, identity, volumes, as plain data with notes.

Covers what all shapes and kinds have in common, and where the shapes differ. What stands around the pod is ``objects.py``'s.
"""

from __future__ import annotations

from .. import exits
from ..memory.allocation import NO_SMALL_PIECES
from ..units import quantity_bytes
from .order import CONTAINER, DATA, Kind, Order, Shape
from .yaml import Data, note

USER = 10001
CONFIG = "/etc/etlkit"
ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3600
MESSAGES = "/dev/termination-log"
ANNOTATION_CONTAINER, ANNOTATION_MEMORY = "etlkit.dev/container", "etlkit.dev/memory-max"
HOPELESS = tuple(int(code) for code in exits.HOPELESS)
"""Exit codes with which every other start would end in the same way."""
AGAIN = 75


def labels(order: Order) -> dict[str, Data]:
    return {
        "app.kubernetes.io/name": order.name,
        "app.kubernetes.io/component": "etl",
        "app.kubernetes.io/managed-by": "etlkit",
    }


def pod_metadata(order: Order) -> dict[str, Data]:
    return {
        "labels": labels(order),
        "annotations": {
            ANNOTATION_CONTAINER: note(
                "The platform's admission policy lets the pod resize this container only …", CONTAINER
            ),
            ANNOTATION_MEMORY: note("… and up to this.", quantity_bytes(order.max_memory_bytes)),
        },
    }


def pod_spec(order: Order, round_: int = 0) -> dict[str, Data]:
    return {
        "restartPolicy": note(_restart_note(order), order.restart_policy),
        "serviceAccountName": order.account,
        "automountServiceAccountToken": note(
            "The token is mounted below, into one container, for an hour at a time.", False
        ),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": note(
            "From SIGTERM to SIGKILL: three quarters for running splits, the rest for the last checkpoint"
            + (f" ({order.why['grace']})." if "grace" in order.why else "."),
            order.grace_s,
        ),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": note(
                "Always would walk over every file of the volume at each start.", "OnRootMismatch"
            ),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(order, round_)],
        "volumes": _volumes(order),
    }


def _restart_note(order: Order) -> str:
    if order.shape is Shape.RESTART:
        return (
            "The container is started again after a resize, a crash and exit 75, and goes on from the checkpoint. A failure "
            "for good is written into the state, so that each later start ends at once with the same message (F25)."
        )
    if order.shape is Shape.RULES:
        return "Only exit 75 (checkpointed, work left) starts the container again, by the rule below (F10)."
    if order.kind is Kind.POD:
        return "Nothing is started again here. Exit 75 (checkpointed, work left) is a retry for whoever made this pod."
    return "Nothing is started again in place. The Job makes a new pod after exit 75 (checkpointed, work left)."


def _container(order: Order, round_: int) -> dict[str, Data]:
    memory = quantity_bytes(order.memory_bytes)
    rules: dict[str, Data] = {}
    if order.shape is Shape.RULES:
        rules = {
            "restartPolicy": note("The rules need it said here, too.", "Never"),
            "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [AGAIN]}},
            ],
        }
    return {
        "name": CONTAINER,
        "image": order.image,
        "imagePullPolicy": "IfNotPresent",
        "command": note(
            "Not through a shell: SIGTERM must reach etlkit, and its exit code the kubelet (F12).",
            ["etlkit", "run", order.target, *_options(order, round_), "--progress=json"],
        ),
        "resources": note(
            "Request and limit of memory are one number, so that what is granted is there. By its CPU the pod is Burstable: "
            "where the kubelet pins CPUs, a Guaranteed one can't be resized (F16, F26)."
            + (f"\n{order.why['memory']}" if "memory" in order.why else ""),
            {
                "requests": {"cpu": cpu(order.cpu_millis // 2), "memory": memory},
                "limits": {"cpu": cpu(order.cpu_millis), "memory": memory},
            },
        ),
        "resizePolicy": note(
            _resize_note(order),
            [
                {
                    "resourceName": "memory",
                    "restartPolicy": "RestartContainer" if order.resize_restarts else "NotRequired",
                },
                {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            ],
        ),
        **rules,
        "env": _environment(order),
        "terminationMessagePath": note(
            "How the attempt ended; `kubectl describe pod` and `etlkit status` show it.", MESSAGES
        ),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": DATA},
            {"name": "tmp", "mountPath": "/tmp"},
            note(
                "A folder: a file mounted by subPath would never change, and thresholds may, while the job runs.",
                {"name": "config", "mountPath": CONFIG, "readOnly": True},
            ),
            {"name": "api-access", "mountPath": ACCOUNT_FOLDER, "readOnly": True},
        ],
    }


def _options(order: Order, round_: int) -> list[str]:
    found = [f"--set={one}" for one in order.parameters]
    if order.shards is not None:
        found.append(f"--shards={order.shards}")
    return [*found, f"--round={round_}"] if order.rounds > 1 else found


def _resize_note(order: Order) -> str:
    if order.resize_restarts:
        return "A change of memory is SIGTERM, a last checkpoint, exit 75, and a new process with the new limit. CPU changes live."
    return "Memory and CPU change in the running container. A restart for a resize is refused with Never (F9)."


def _environment(order: Order) -> list[Data]:
    def by_field(name: str, path: str) -> dict[str, Data]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    def literal(name: str, value: str) -> dict[str, Data]:
        return {"name": name, "value": value}

    asked = f" {order.why['max_memory']}" if "max_memory" in order.why else ""
    found: list[Data] = [
        by_field("ETLKIT_POD_NAME", "metadata.name"),
        by_field("ETLKIT_POD_NAMESPACE", "metadata.namespace"),
        note(
            "The container's own name, which the downward API does not have (F28).",
            literal("ETLKIT_CONTAINER_NAME", CONTAINER),
        ),
        note(
            f"It never asks for more; the same number as in the annotation.{asked}",
            literal("ETLKIT_MAX_MEMORY", quantity_bytes(order.max_memory_bytes)),
        ),
    ]
    if order.kind is not Kind.POD:
        found.append(
            note(
                "The Job's, which a pod can't read"
                + (
                    ": its share, since the restarts of all pods are added up (F8)."
                    if order.shards_or_one > 1 and order.resize_restarts
                    else "."
                ),
                literal("ETLKIT_BACKOFF_LIMIT", str(order.backoff_limit_told)),
            )
        )
    return [
        *found,
        literal("ETLKIT_STATE", order.state),
        literal("ETLKIT_CONFIG", f"{CONFIG}/etlkit.toml"),
        note(
            "glibc reads it at the start only. At a small limit the heap stays in one piece with it (ADR 6).",
            literal(*NO_SMALL_PIECES),
        ),
    ]


def _volumes(order: Order) -> list[Data]:
    return [
        {"name": "data", "persistentVolumeClaim": {"claimName": order.claim_name}},
        note(
            "On disk. In memory (medium: Memory) it would count against the limit.",
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ),
        {"name": "config", "configMap": {"name": order.config_name}},
        {
            "name": "api-access",
            "projected": {
                "defaultMode": note("0440", 288),
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {
                        "downwardAPI": {
                            "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
                        }
                    },
                ],
            },
        },
    ]


def cpu(millis: int) -> str:
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"
