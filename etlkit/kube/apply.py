"""Applying a job's documents, so that doing it twice does nothing the second time.

What can change is applied by the server. A claim that is there stays as it is: its volume holds the state. A Job
can't be changed, so one that is there is compared by a hash of its spec: the same is left alone, a failed one is
replaced and goes on from its state, and another one that runs is not touched. Errors are ``refused``'s.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .answer import Kind
from .cluster import Cluster, refused

HASH = "etlkit.dev/spec-hash"
GONE_S = 30.0
_LASTING = ("Job", "Pod")


@dataclass(frozen=True, slots=True)
class Applied:
    kind: str
    name: str
    what: str
    """``applied``, ``created``, ``there already``, ``replaced``, ``done already``."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}"


def apply_all(
    cluster: Cluster, documents: Sequence[Mapping[str, Any]], say: Callable[[Applied], None] = lambda one: None
) -> list[Applied]:
    """In order. Raises at the first refusal: what came before it is there, and the same call goes on."""
    done = []
    for document in documents:
        one = _apply(cluster, document)
        say(one)
        done.append(one)
    return done


def _apply(cluster: Cluster, document: Mapping[str, Any]) -> Applied:
    kind, name = str(document["kind"]), str(document["metadata"]["name"])
    if kind in _LASTING:
        return _lasting(cluster, kind, name, document)
    if kind == "PersistentVolumeClaim":
        found = cluster.get(kind, name)
        if found.ok:
            return Applied(kind, name, "there already")
    answer = cluster.apply(document)
    if not answer.ok:
        raise refused(answer, f"{kind} {name}")
    return Applied(kind, name, "applied")


def _lasting(cluster: Cluster, kind: str, name: str, document: Mapping[str, Any]) -> Applied:
    body = marked(document)
    found = cluster.get(kind, name)
    if not found.ok and found.kind is not Kind.NOT_FOUND:
        raise refused(found, f"{kind} {name}")
    what = "created"
    if found.ok:
        same = _hash_of(found.body) == _hash_of(body)
        ended = condition(kind, found.body)
        if ended == "Complete" and same:
            return Applied(kind, name, "done already")
        if not ended and same:
            return Applied(kind, name, "there already")
        if not ended:
            raise ConfigError(
                f"{kind} {name} runs already, with another manifest",
                f"wait for it (`etlkit status {name} --follow`), or stop it with `kubectl delete {kind.lower()} {name}`: "
                "its state is kept",
            )
        deleted = cluster.delete(kind, name)
        if not deleted.ok and deleted.kind is not Kind.NOT_FOUND:
            raise refused(deleted, f"{kind} {name}")
        _wait_until_gone(cluster, kind, name)
        what = "replaced"
    answer = cluster.create(body)
    if not answer.ok:
        raise refused(answer, f"{kind} {name}")
    return Applied(kind, name, what)


def _wait_until_gone(cluster: Cluster, kind: str, name: str) -> None:
    """The name is free when the server has finished deleting. Past the patience, creating says that it is not."""
    until_s = time.monotonic() + GONE_S
    while cluster.get(kind, name).ok and time.monotonic() < until_s:
        time.sleep(0.2)


def marked(document: Mapping[str, Any]) -> dict[str, Any]:
    """With the hash of its spec in an annotation."""
    digest = hashlib.sha256(json.dumps(document["spec"], sort_keys=True).encode()).hexdigest()[:16]
    metadata = dict(document["metadata"])
    metadata["annotations"] = {**(metadata.get("annotations") or {}), HASH: digest}
    return {**document, "metadata": metadata}


def _hash_of(body: Mapping[str, Any]) -> str | None:
    found = ((body.get("metadata") or {}).get("annotations") or {}).get(HASH)
    return None if found is None else str(found)


def condition(kind: str, body: Mapping[str, Any]) -> str:
    """``Complete``, ``Failed``, or nothing while it runs."""
    status = body.get("status") or {}
    if kind == "Pod":
        return {"Succeeded": "Complete", "Failed": "Failed"}.get(str(status.get("phase")), "")
    for one in status.get("conditions") or ():
        if one.get("type") in ("Complete", "Failed") and one.get("status") == "True":
            return str(one["type"])
    return ""
