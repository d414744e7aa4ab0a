"""A pod as a plain dict: making one, filling in what the API server fills in, and reading it.

Covers defaults, canonical quantities, QoS class (F16), the checks at creation that matter to a job (F9), and the
resources of each container and of the pod. It does not cover what no process on this machine can have: volumes
other than ``downwardAPI``, probes, affinity, ordinary init containers (those are refused, sidecars are not).
"""

from __future__ import annotations

import copy
import datetime
import uuid
from collections.abc import Iterator, Mapping, Sequence

from . import quantity
from .answers import ApiError, Cause, Json, bad_value, forbidden_value, invalid, required
from .quantity import QuantityError

RESOURCES = ("cpu", "memory")
POLICIES = ("NotRequired", "RestartContainer")
MAIN = "containers"
SIDECARS = "initContainers"


def now_text() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_manifest(
    name: str,
    command: Sequence[str],
    *,
    memory: str,
    cpu: str | None = None,
    request_memory: str | None = None,
    namespace: str = "etl",
    container: str = "etl",
    resize_policy: str = "RestartContainer",
    restart_policy: str = "OnFailure",
    grace_s: int = 30,
    env: Mapping[str, str] | None = None,
    sidecars: Sequence[Json] = (),
) -> Json:
    """A pod with one container as ``manifests/`` would write it. Without ``cpu`` it is Burstable."""
    limits = {"memory": memory} | ({"cpu": cpu} if cpu else {})
    requests = {"memory": request_memory or memory} | ({"cpu": cpu} if cpu else {})
    main: Json = {
        "name": container,
        "image": "etlkit",
        "command": list(command),
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "resources": {"limits": limits, "requests": requests},
        "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": resize_policy},
        ],
    }
    spec: Json = {"containers": [main], "restartPolicy": restart_policy, "terminationGracePeriodSeconds": grace_s}
    if sidecars:
        spec["initContainers"] = [copy.deepcopy(sidecar) for sidecar in sidecars]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/name": "etlkit"}},
        "spec": spec,
    }


def sidecar_manifest(name: str, command: Sequence[str], *, memory: str, resize_policy: str = "NotRequired") -> Json:
    """A sidecar: an init container that keeps running (F20)."""
    return {
        "name": name,
        "image": "etlkit",
        "command": list(command),
        "restartPolicy": "Always",
        "resources": {"limits": {"memory": memory}, "requests": {"memory": memory}},
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": resize_policy}],
    }


def containers(spec: Json) -> Iterator[tuple[str, int, Json]]:
    """Every container with the list it is in and its place there: sidecars first, as they start first."""
    for where in (SIDECARS, MAIN):
        for index, container in enumerate(spec.get(where) or ()):
            yield where, index, container


def container_named(spec: Json, name: str) -> Json:
    for _, _, container in containers(spec):
        if container["name"] == name:
            return container
    raise KeyError(name)


def resources_of(spec: Json) -> dict[str, Json]:
    """What each container is to have, by name."""
    return {container["name"]: copy.deepcopy(container.get("resources") or {}) for _, _, container in containers(spec)}


def resize_policy(container: Json, resource: str) -> str:
    for entry in container.get("resizePolicy") or ():
        if entry["resourceName"] == resource:
            return str(entry["restartPolicy"])
    return "NotRequired"


def restart_policy(spec: Json, container: Json) -> str:
    """The container's own policy, else the pod's (F11)."""
    return str(container.get("restartPolicy") or spec.get("restartPolicy") or "Always")


def limit_bytes(resources: Json) -> int | None:
    value = (resources.get("limits") or {}).get("memory")
    return None if value is None else quantity.whole(value)


def request_bytes(resources: Json) -> int:
    return quantity.whole((resources.get("requests") or {}).get("memory", 0))


def limit_cores(resources: Json) -> float | None:
    value = (resources.get("limits") or {}).get("cpu")
    return None if value is None else quantity.cores(value)


def pod_limit_bytes(by_container: Mapping[str, Json]) -> int | None:
    """The pod's own limit: the sum, if every container has one."""
    limits = [limit_bytes(resources) for resources in by_container.values()]
    return None if any(limit is None for limit in limits) else sum(limit for limit in limits if limit is not None)


def pod_request_bytes(by_container: Mapping[str, Json]) -> int:
    return sum(request_bytes(resources) for resources in by_container.values())


def summed(by_container: Mapping[str, Json], kind: str) -> dict[str, str]:
    """Requests, or limits, of the pod as ``status.resources`` shows them."""
    sums: dict[str, str] = {}
    for resource in RESOURCES:
        values = [(resources.get(kind) or {}).get(resource) for resources in by_container.values()]
        given = [value for value in values if value is not None]
        if given and (kind == "requests" or len(given) == len(values)):
            sums[resource] = quantity.total(given)
    return sums


def qos_class(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory of all containers."""
    any_set, guaranteed = False, True
    for _, _, container in containers(spec):
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        any_set = any_set or any(r in limits or r in requests for r in RESOURCES)
        for resource in RESOURCES:
            limit, request = limits.get(resource), requests.get(resource)
            if limit is None or request is None or quantity.parse(limit)[0] != quantity.parse(request)[0]:
                guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def canonicalise(resources: Json) -> Json:
    """The same resources with every quantity in canonical form. Raises QuantityError."""
    return {
        kind: {name: quantity.canonical(value) for name, value in sorted(values.items())}
        for kind, values in sorted(resources.items())
        if isinstance(values, dict) and values
    }


def resource_findings(spec: Json) -> list[Cause]:
    """What validation says of the pod as a whole, at creation and at every resize."""
    found = []
    for where, index, container in containers(spec):
        place = f"spec.{where}[{index}]"
        if not container.get("image"):
            found.append(required(f"{place}.image"))
        resources = container.get("resources") or {}
        for resource, limit in (resources.get("limits") or {}).items():
            request = (resources.get("requests") or {}).get(resource)
            if request is not None and quantity.parse(request)[0] > quantity.parse(limit)[0]:
                detail = f"must be less than or equal to {resource} limit of {limit}"
                found.append(bad_value(f"{place}.resources.requests", request, detail))
    return found


def create(manifest: Json, *, node_name: str, address: str) -> Json:
    """The pod as the API server stores it, or ApiError 422 with what is wrong."""
    given = copy.deepcopy(manifest)
    meta, spec = given.get("metadata") or {}, given.get("spec") or {}
    name = str(meta.get("name", ""))
    spec.setdefault("restartPolicy", "Always")
    for _, _, container in containers(spec):
        _default_container(container, name)
    found = _creation_findings(spec) + resource_findings(spec)
    if not name:
        found.insert(0, required("metadata.name", "name or generateName is required"))
    if found:
        raise invalid("Pod", name, found)
    created = now_text()
    service_account = spec.get("serviceAccountName", "etlkit")
    body_spec: Json = {
        **({"volumes": spec["volumes"]} if spec.get("volumes") else {}),
        **({SIDECARS: spec[SIDECARS]} if spec.get(SIDECARS) else {}),
        MAIN: spec.get(MAIN, []),
        "restartPolicy": spec["restartPolicy"],
        "terminationGracePeriodSeconds": int(spec.get("terminationGracePeriodSeconds", 30)),
        "dnsPolicy": "Default",
        "serviceAccountName": service_account,
        "serviceAccount": service_account,
        "nodeName": node_name,
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "priority": 0,
        "enableServiceLinks": False,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    metadata: Json = {
        "name": name,
        "namespace": meta.get("namespace", "default"),
        "uid": str(uuid.uuid4()),
        "resourceVersion": "0",
        "generation": 1,
        "creationTimestamp": created,
        "labels": dict(meta.get("labels") or {}),
    }
    for optional in ("annotations", "ownerReferences"):
        if meta.get(optional):
            metadata[optional] = meta[optional]
    status: Json = {
        "observedGeneration": 1,
        "phase": "Pending",
        "conditions": [],
        "hostIP": address,
        "hostIPs": [{"ip": address}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": created,
        "qosClass": qos_class(spec),
    }
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": body_spec, "status": status}


def _default_container(container: Json, pod_name: str) -> None:
    try:
        resources = canonicalise(container.get("resources") or {})
    except QuantityError as error:
        found = f"quantities must match the regular expression '{quantity.PATTERN}'"
        raise ApiError(
            400,
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": f'Pod in version "v1" cannot be handled as a Pod: {found}, found "{error}"',
                "reason": "BadRequest",
                "code": 400,
            },
        ) from error
    requests = dict((resources.get("limits") or {}) | (resources.get("requests") or {}))
    if requests:
        resources["requests"] = dict(sorted(requests.items()))
    container["resources"] = resources
    given = {entry["resourceName"]: entry["restartPolicy"] for entry in container.get("resizePolicy") or ()}
    container["resizePolicy"] = [
        {"resourceName": resource, "restartPolicy": given.get(resource, "NotRequired")} for resource in RESOURCES
    ]
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", "IfNotPresent")


def _creation_findings(spec: Json) -> list[Cause]:
    found = []
    if not spec.get(MAIN):
        found.append(required("spec.containers"))
    names: set[str] = set()
    for where, index, container in containers(spec):
        place = f"spec.{where}[{index}]"
        if container.get("name") in names:
            found.append(Cause(f"{place}.name", "FieldValueDuplicate", f'Duplicate value: "{container["name"]}"'))
        names.add(str(container.get("name", "")))
        if where == SIDECARS and container.get("restartPolicy") != "Always":
            found.append(forbidden_value(place, "this node runs sidecars only: restartPolicy must be Always"))
        if container.get("restartPolicyRules") and not container.get("restartPolicy"):
            found.append(required(f"{place}.restartPolicy", "must specify restartPolicy when restart rules are used"))
        for entry in container["resizePolicy"]:
            if entry["restartPolicy"] not in POLICIES:
                found.append(bad_value(f"{place}.resizePolicy", entry["restartPolicy"], "unsupported value"))
            # Facts F9 and F11: the pod's policy counts here, not the container's own.
            elif entry["restartPolicy"] == "RestartContainer" and spec["restartPolicy"] == "Never":
                detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'"
                found.append(bad_value(f"{place}.resizePolicy", entry["restartPolicy"], detail))
    return found
