"""What an administrator applies once: the right to resize, and the policy that narrows it to oneself.

RBAC can't say "only myself", so that the ClusterRole alone would let a job resize every pod of its namespace. The
ValidatingAdmissionPolicy says it, for every service account that resizes anything in a labelled namespace: not for a
list of accounts, since one that is not on the list would slip through. People and the node are not bound by it. Each of
its clauses is a ``Clause`` here; the tests evaluate them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from .yaml import Data, note

CLUSTER_ROLE = "etlkit-resize"
EVENTS_ROLE = "etlkit-events"
BINDER = "etlkit-resize-grant"
POLICY = "etlkit-resize-self"
CEILING = "etlkit-resize-ceiling"
SYSTEM_NAMESPACE = "etlkit-system"
LABEL = "etlkit.dev/resize"
POD_UID = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class Clause:
    """One validation. ``expression`` is CEL and true for what is allowed."""

    name: str
    expression: str
    message: str


VARIABLES: tuple[tuple[str, str], ...] = (
    (
        "container",
        "has(oldObject.metadata.annotations) && 'etlkit.dev/container' in oldObject.metadata.annotations"
        " ? oldObject.metadata.annotations['etlkit.dev/container'] : ''",
    ),
    (
        "memoryMax",
        "has(oldObject.metadata.annotations) && 'etlkit.dev/memory-max' in oldObject.metadata.annotations"
        " ? oldObject.metadata.annotations['etlkit.dev/memory-max'] : ''",
    ),
    ("after", "object.spec.containers.filter(c, c.name == variables.container)"),
    ("before", "oldObject.spec.containers.filter(c, c.name == variables.container)"),
)
"""Name and expression; a later one may use an earlier one."""


def _all_within(resource: str, cap: str) -> str:
    """Requests and limits of the container are at most ``cap``; one that is not set is within it."""
    parts = [
        f"(!has(c.resources) || !has(c.resources.{side}) || !('{resource}' in c.resources.{side})"
        f" || quantity(c.resources.{side}['{resource}']).compareTo(quantity({cap})) <= 0)"
        for side in ("requests", "limits")
    ]
    return f"variables.after.all(c, {' && '.join(parts)})"


def _same(path: str) -> str:
    """That optional field is what it was."""
    return f"has(object.{path}) == has(oldObject.{path}) && (!has(object.{path}) || object.{path} == oldObject.{path})"


CLAUSES: tuple[Clause, ...] = (
    Clause(
        "self",
        f"has(request.userInfo.extra) && '{POD_UID}' in request.userInfo.extra"
        f" && request.userInfo.extra['{POD_UID}'] == [oldObject.metadata.uid]",
        "a pod may resize itself only; the token must be bound to this pod",
    ),
    Clause(
        "annotated",
        "variables.container != '' && size(variables.before) == 1",
        "the pod's annotation etlkit.dev/container must name one of its containers",
    ),
    Clause(
        "other-containers",
        "object.spec.containers.filter(c, c.name != variables.container)"
        " == oldObject.spec.containers.filter(c, c.name != variables.container)"
        " && size(object.spec.containers) == size(oldObject.spec.containers)",
        "only the container named by the annotation etlkit.dev/container may be resized",
    ),
    Clause(
        "sidecars", _same("spec.initContainers"), "init containers and sidecars may not be resized by the pod itself"
    ),
    Clause(
        "pod-level", _same("spec.resources"), "resources of the pod as a whole may not be resized by the pod itself"
    ),
    Clause(
        "resize-policy",
        "variables.after.all(c, variables.before.all(b, has(c.resizePolicy) == has(b.resizePolicy)"
        " && (!has(c.resizePolicy) || c.resizePolicy == b.resizePolicy)))",
        "the resizePolicy may not be changed by the pod itself",
    ),
    Clause("annotations", _same("metadata.annotations"), "the pod's annotations may not be changed by a resize"),
    Clause(
        "capped",
        "isQuantity(variables.memoryMax)",
        "the pod's annotation etlkit.dev/memory-max must say how much it may ask for",
    ),
    Clause(
        "memory-max",
        f"isQuantity(variables.memoryMax) && {_all_within('memory', 'variables.memoryMax')}",
        "requests and limits of memory may not be over the pod's annotation etlkit.dev/memory-max",
    ),
    Clause(
        "memory-ceiling",
        _all_within("memory", "params.data.memory"),
        f"requests and limits of memory may not be over the platform's ceiling (ConfigMap {CEILING})",
    ),
    Clause(
        "cpu-ceiling",
        _all_within("cpu", "params.data.cpu"),
        f"requests and limits of CPU may not be over the platform's ceiling (ConfigMap {CEILING})",
    ),
)


def render_platform(memory: str, cpu: str) -> list[Data]:
    """The documents, with their notes; ``memory`` and ``cpu`` are the ceiling."""
    return [_namespace(), _cluster_role(), _events_role(), _binder(), _ceiling(memory, cpu), _policy(), _binding()]


def _labels() -> dict[str, Data]:
    return {
        "app.kubernetes.io/name": "etlkit",
        "app.kubernetes.io/component": "platform",
        "app.kubernetes.io/managed-by": "etlkit",
    }


def _meta(name: str, **more: Data) -> dict[str, Data]:
    return {"name": name, "labels": _labels(), **more}


def _namespace() -> Data:
    return note(
        "What a namespace's owner may not grant. A cluster administrator applies this once, and then labels each namespace whose "
        "jobs may resize themselves:\n"
        "\n"
        f"  kubectl label namespace NAME {LABEL}=self\n"
        "\n"
        "This namespace holds the ceiling, where only administrators can change it.",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": _meta(SYSTEM_NAMESPACE)},
    )


def _cluster_role() -> Data:
    return note(
        "The least that a resize needs. The built-in roles admin and edit do not contain pods/resize (F23).",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": _meta(CLUSTER_ROLE),
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
            ],
        },
    )


def _events_role() -> Data:
    return note(
        "For `etlkit manifest --events`: each turn of a resize as an Event on the pod. It can create, "
        "and neither read nor change one.",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": _meta(EVENTS_ROLE),
            "rules": [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}],
        },
    )


def _binder() -> Data:
    return note(
        "Whoever is admin of a namespace may bind those roles there, so that `kubectl apply` of a job's manifest works. Leave "
        "this out to create each RoleBinding yourself: in a namespace without the label, no policy narrows the first.",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {
                "name": BINDER,
                "labels": _labels() | {"rbac.authorization.k8s.io/aggregate-to-admin": "true"},
            },
            "rules": [
                {
                    "apiGroups": ["rbac.authorization.k8s.io"],
                    "resources": ["clusterroles"],
                    "resourceNames": [CLUSTER_ROLE, EVENTS_ROLE],
                    "verbs": ["bind"],
                }
            ],
        },
    )


def _ceiling(memory: str, cpu: str) -> Data:
    return note(
        "No pod gets more by itself than this, whatever its annotation says. LimitRange and ResourceQuota hold beside it.",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _meta(CEILING, namespace=SYSTEM_NAMESPACE),
            "data": {"memory": memory, "cpu": cpu},
        },
    )


def _policy() -> Data:
    variables = [{"name": name, "expression": expression} for name, expression in VARIABLES]
    validations = [
        note(clause.name, {"expression": clause.expression, "message": clause.message, "reason": "Forbidden"})
        for clause in CLAUSES
    ]
    return note(
        "A resize that a service account asks for, checked clause by clause. Other operators of pods (a VPA's updater) use service "
        "accounts too: they are refused in labelled namespaces.",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": _meta(POLICY),
            "spec": {
                "failurePolicy": note("What can't be judged is refused.", "Fail"),
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConstraints": {
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["UPDATE"],
                            "resources": ["pods/resize"],
                        }
                    ]
                },
                "matchConditions": [
                    note(
                        "Every service account. A list of names would let the next one through.",
                        {
                            "name": "service-accounts",
                            "expression": "request.userInfo.username.startsWith('system:serviceaccount:')",
                        },
                    )
                ],
                "variables": variables,
                "validations": validations,
            },
        },
    )


def _binding() -> Data:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": _meta(POLICY),
        "spec": {
            "policyName": POLICY,
            "validationActions": ["Deny", "Audit"],
            "paramRef": {
                "name": CEILING,
                "namespace": SYSTEM_NAMESPACE,
                "parameterNotFoundAction": note("A ceiling that was deleted is no ceiling that is open.", "Deny"),
            },
            "matchResources": {"namespaceSelector": {"matchLabels": {LABEL: "self"}}},
        },
    }
