"""What the API server says it has, so that kubectl finds its way: groups, versions, resources. Data only.

Covers what ``api`` and ``operator_api`` serve. There is no OpenAPI document: kubectl validates nothing here.
"""

from __future__ import annotations

from .answers import Json

_NAMESPACED = {
    "api/v1": (
        ("pods", "Pod", ("get", "list", "create", "delete"), ("po",)),
        ("pods/resize", "Pod", ("get", "patch"), ()),
        ("pods/log", "Pod", ("get",), ()),
        ("pods/eviction", "Eviction", ("create",), ()),
        ("events", "Event", ("list", "create"), ("ev",)),
    ),
    "apis/batch/v1": (("jobs", "Job", ("get", "create", "patch", "delete"), ()),),
}


def answer(parts: list[str]) -> Json | None:
    """For the parts of a path; None if it asks for something else."""
    match parts:
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            version: Json = {"groupVersion": "batch/v1", "version": "v1"}
            group: Json = {"name": "batch", "versions": [version], "preferredVersion": version}
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
        case ["api", "v1"] | ["apis", "batch", "v1"]:
            place = "/".join(parts)
            resources = [
                {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": list(verbs)}
                | ({"shortNames": list(short)} if short else {})
                for name, kind, verbs, short in _NAMESPACED[place]
            ]
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": place.partition("/")[2],
                "resources": resources,
            }
    return None
