"""Whether a PATCH of ``pods/resize`` is taken: merge, validation, then admission, in the API server's order. Pure.

Covers F1, F7, F16, F17, F18 and F23: the strategic merge of the patch into the pod, the findings of validation
(422), LimitRange, node capacity, admission policies and quota (403, or 422 by a policy). It does not cover what
only the kubelet knows (room on the node now, use of memory now): that is ``kubelet``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from . import quantity, spec
from .answers import ApiError, Cause, Json, bad_value, conflict, failure, forbidden, forbidden_value, invalid
from .quantity import QuantityError


@dataclass(frozen=True, slots=True)
class User:
    """Who calls: the token says it."""

    name: str
    pod_uid: str | None = None
    pod_name: str | None = None
    namespace: str = ""
    """Of the pod: its role holds there and nowhere else."""


POD_MAY = frozenset({("get", "pods"), ("patch", "pods/resize")})
"""Verbs and resources of the role in ``manifests/``: all that a pod may do (F23), unless ``Rules.granted`` adds to it."""


def may(user: User, verb: str, resource: str, namespace: str, rules: Rules) -> bool:
    """RBAC. An operator may do everything, a pod what its role says."""
    if user.pod_uid is None:
        return True
    return (verb, resource) in (POD_MAY | rules.granted) - rules.denied and namespace == user.namespace


@dataclass(frozen=True, slots=True)
class LimitRange:
    """Bounds for each container, as quantities by resource."""

    maximum: dict[str, str] = field(default_factory=dict)
    minimum: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quota:
    """A ResourceQuota: hard bounds by ``limits.memory``, ``requests.memory``, ``limits.cpu``, ``requests.cpu``."""

    name: str
    hard: dict[str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """A ValidatingAdmissionPolicy for ``pods/resize``. ``refuses`` returns the message, or None to let it pass."""

    name: str
    refuses: Callable[[User, Json, Json], str | None]
    reason: str = "Invalid"


@dataclass(slots=True)
class Rules:
    """What the cluster forbids. Tests and ``etlkit local`` set it; the API server reads it at each call."""

    limit_range: LimitRange | None = None
    quotas: list[Quota] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    denied: set[tuple[str, str]] = field(default_factory=set)
    """RBAC: pairs of verb and resource taken away from what pods may do, such as ``("patch", "pods/resize")``."""
    granted: set[tuple[str, str]] = field(default_factory=set)
    """RBAC: what an opt-in role adds, such as ``("create", "events")``."""
    capacity_at_admission: bool = True
    """F7: from 1.36 on more than the node has is refused at the PATCH; before, the kubelet said Infeasible."""
    static_policy: bool = False
    """F26: the static CPU or memory manager, with which a Guaranteed pod cannot be resized."""
    swap: bool = False
    """F26: containers of this node may swap, and then a changed memory request can't be carried out live."""

    def infeasible(self, pod: Json, wanted: Mapping[str, Json], allocated: Mapping[str, Json]) -> str | None:
        """Why the kubelet can never carry this resize out, whatever room there is. None: it can."""
        if wanted == allocated:
            return None
        if self.static_policy and pod["status"]["qosClass"] == "Guaranteed":
            return "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy"
        for _, _, container in spec.containers(pod["spec"]):
            name = container["name"]
            changed = spec.request_bytes(allocated.get(name) or {}) != spec.request_bytes(wanted[name])
            if self.swap and changed and spec.resize_policy(container, "memory") == "NotRequired":
                return "In-place resize of containers with swap is not supported"
        return None


def only_itself(maximum: str | None = None, reason: str = "Invalid") -> Policy:
    """F23: a pod may resize itself only, and to ``maximum`` at most."""

    def refuses(user: User, old: Json, new: Json) -> str | None:
        if user.pod_uid is not None and user.pod_uid != old["metadata"]["uid"]:
            return "a pod may resize only itself"
        if maximum is not None:
            cap = quantity.whole(maximum)
            for resources in spec.resources_of(new["spec"]).values():
                if (spec.limit_bytes(resources) or 0) > cap:
                    return f"memory limit over the cap of {maximum}"
        return None

    return Policy("etlkit-resize", refuses, reason)


def resize(
    pod: Json,
    patch: Json,
    *,
    rules: Rules,
    user: User,
    allocatable_bytes: int,
    neighbours: Sequence[Json] = (),
) -> Json:
    """The pod with its new size, or ApiError. ``neighbours``: all pods of the namespace, for the quota."""
    wanted_version = (patch.get("metadata") or {}).get("resourceVersion")
    name = pod["metadata"]["name"]
    if wanted_version is not None and wanted_version != pod["metadata"]["resourceVersion"]:
        raise conflict(name)
    new, added = _merged(pod, patch)
    _validate(pod, new, added)
    _limit_range(new, rules.limit_range)
    if rules.capacity_at_admission:
        _node_capacity(pod, new, allocatable_bytes)
    for policy in rules.policies:
        message = policy.refuses(user, pod, new)
        if message is not None:
            raise _denied(name, policy, message)
    for quota in rules.quotas:
        _quota(pod, new, quota, neighbours)
    return new


def _merged(pod: Json, patch: Json) -> tuple[Json, bool]:
    """Strategic merge by container name; of each container the resources alone are kept, as this endpoint does."""
    new = copy.deepcopy(pod)
    added = False
    for where in (spec.SIDECARS, spec.MAIN):
        entries = (patch.get("spec") or {}).get(where) or []
        known = {container["name"]: container for container in new["spec"].get(where) or ()}
        strangers = []
        for entry in entries:
            change = entry.get("resources")
            target = known.get(entry.get("name"))
            if target is None:
                strangers.append({"name": entry.get("name"), "resources": change or {}})
                continue
            merged = copy.deepcopy(target.get("resources") or {})
            if isinstance(change, dict):
                _merge(merged, change)
            try:
                target["resources"] = spec.canonicalise(merged)
            except QuantityError as error:
                raise _bad_quantity(patch) from error
        if strangers:
            added = True
            new["spec"][where] = strangers + new["spec"].get(where, [])
    if (patch.get("metadata") or {}).get("labels") or (patch.get("metadata") or {}).get("annotations"):
        # The subresource keeps metadata as it is; only the size changes.
        new["metadata"] = copy.deepcopy(pod["metadata"])
    return new, added


def _merge(into: Json, change: Json) -> None:
    for key, value in change.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _validate(old: Json, new: Json, added: bool) -> None:
    found: list[Cause] = spec.resource_findings(new["spec"])
    before = old["status"]["qosClass"]
    if spec.qos_class(new["spec"]) != before:
        found.append(bad_value("spec", before, "Pod QOS Class may not change as a result of resizing"))
    if added:
        found.append(forbidden_value("spec.containers", "containers may not be added or removed on resize"))
    else:
        found += _change_findings(old["spec"], new["spec"])
    if found:
        raise invalid("Pod", old["metadata"]["name"], found)


def _change_findings(old: Json, new: Json) -> list[Cause]:
    found = []
    immutable = False
    for (where, index, before), (_, _, after) in zip(spec.containers(old), spec.containers(new), strict=True):
        was, now = before.get("resources") or {}, after.get("resources") or {}
        for kind in ("limits", "requests"):
            had, has = was.get(kind) or {}, now.get(kind) or {}
            if any(resource in had and resource not in has for resource in spec.RESOURCES):
                place = f"spec.{where}[{index}].resources.{kind}"
                found.append(forbidden_value(place, f"resource {kind} cannot be removed"))
            others = {key for key in had.keys() | has.keys() if key not in spec.RESOURCES}
            immutable = immutable or any(had.get(key) != has.get(key) for key in others)
    if immutable:
        found.append(forbidden_value("spec", "only cpu and memory resources are mutable"))
    return found


def _limit_range(new: Json, bounds: LimitRange | None) -> None:
    if bounds is None:
        return
    found = []
    for _, _, container in spec.containers(new["spec"]):
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for resource, least in bounds.minimum.items():
            value = requests.get(resource)
            if value is not None and quantity.parse(value)[0] < quantity.parse(least)[0]:
                found.append(f"minimum {resource} usage per Container is {least}, but request is {value}")
        for resource, most in bounds.maximum.items():
            value, kind = (limits[resource], "limit") if resource in limits else (requests.get(resource), "request")
            if value is not None and quantity.parse(value)[0] > quantity.parse(most)[0]:
                found.append(f"maximum {resource} usage per Container is {most}, but {kind} is {value}")
    if found:
        detail = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
        raise forbidden(new["metadata"]["name"], detail)


def _node_capacity(old: Json, new: Json, allocatable_bytes: int) -> None:
    requested = spec.pod_request_bytes(spec.resources_of(new["spec"]))
    before = spec.pod_request_bytes(spec.resources_of(old["spec"]))
    if requested > allocatable_bytes and requested > before:
        detail = (
            "node didn't have enough allocatable resources: memory, "
            f"requested: {requested}, allocatable: {allocatable_bytes}"
        )
        raise forbidden(new["metadata"]["name"], detail, [{"reason": "NodeCapacity"}])


def _denied(name: str, policy: Policy, message: str) -> ApiError:
    said = f"ValidatingAdmissionPolicy '{policy.name}' with binding '{policy.name}' denied request: {message}"
    details: Json = {"name": name, "kind": "pods", "causes": [{"message": said}]}
    code = 403 if policy.reason == "Forbidden" else 422
    return ApiError(code, failure(code, policy.reason, f'pods "{name}" is forbidden: {said}', details))


def _quota(old: Json, new: Json, quota: Quota, neighbours: Sequence[Json]) -> None:
    for bound, hard in quota.hard.items():
        kind, _, resource = bound.partition(".")
        before, after = _used(old, kind, resource), _used(new, kind, resource)
        used = [_used(pod, kind, resource) for pod in neighbours]
        total = sum((quantity.parse(value)[0] for value in used), start=quantity.parse(0)[0])
        extra = quantity.parse(after)[0] - quantity.parse(before)[0]
        if extra > 0 and total + extra > quantity.parse(hard)[0]:
            binary = resource == "memory"
            detail = (
                f"exceeded quota: {quota.name}, requested: {bound}={quantity.show(extra, binary)}, "
                f"used: {bound}={quantity.show(total, binary)}, limited: {bound}={hard}"
            )
            raise forbidden(new["metadata"]["name"], detail)


def _used(pod: Json, kind: str, resource: str) -> str:
    values = [(r.get(kind) or {}).get(resource, "0") for r in spec.resources_of(pod["spec"]).values()]
    return quantity.total(sorted(values, key=lambda value: value == "0"))


def _bad_quantity(patch: Json) -> ApiError:
    detail = f"quantities must match the regular expression '{quantity.PATTERN}'"
    return invalid("", "", [bad_value("patch", go_print(patch), detail)])


def go_print(value: object) -> str:
    """A decoded JSON value as Go's ``%v`` prints it, which the server puts into this one message."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{go_print(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, list):
        return f"[{' '.join(go_print(item) for item in value)}]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)
