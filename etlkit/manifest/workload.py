"""What a rule looks at: one workload of a file, with the pod and the container that run etlkit. Reading only, and lenient.

Covers finding the workloads among a file's documents and the etlkit container in each. A value of a wrong type is treated as missing:
that is for the schemas to tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeAlias

from ..errors import UsageError
from ..units import parse_bytes, parse_cpu

Json: TypeAlias = Mapping[str, Any]
_LOOKS = ("doctor", "show", "verify", "report", "checkpoints", "plan", "status", "logs")
FOR_EVER = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController")


class Level(StrEnum):
    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule says about one place: what is, why it matters, what to do."""

    rule: str
    level: Level
    place: str
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.place}: {self.what}\n      {self.why}\n      → {self.remedy}  [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Workload:
    kind: str
    name: str
    namespace: str
    spec: Json
    """The Job's spec; for a CronJob that of its jobs; for others their own."""
    cron: Json | None
    pod: Json
    """The pod's spec."""
    metadata: Json
    """The pod's."""
    container: Json
    """The one that runs etlkit."""
    documents: Sequence[Json]
    """The whole file."""

    @property
    def place(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def is_job(self) -> bool:
        return self.kind in ("Job", "CronJob")

    @property
    def restart_policy(self) -> str:
        return str(self.pod.get("restartPolicy") or "Always")

    @property
    def backoff_limit(self) -> int:
        given = self.spec.get("backoffLimit")
        return given if isinstance(given, int) else 6

    @property
    def annotations(self) -> Json:
        return mapping(self.metadata, "annotations")

    @property
    def indexed(self) -> bool:
        return self.spec.get("completionMode") == "Indexed"

    @property
    def pods_at_once(self) -> int:
        """Those whose restarts are added up (F8)."""
        given = self.spec.get("parallelism", 1) if self.indexed else 1
        return max(1, given) if isinstance(given, int) else 1

    @property
    def shards(self) -> int | None:
        """What ``--shards`` says, where it is a number."""
        words = " ".join(self.command).replace("--shards=", "--shards ").split()
        given = words[words.index("--shards") + 1 :][:1] if "--shards" in words else []
        return int(given[0]) if given and given[0].isdigit() else None

    def env(self, name: str) -> str | None:
        return next(
            (str(e["value"]) for e in items(self.container, "env") if e.get("name") == name and "value" in e), None
        )

    def env_from(self, name: str) -> str | None:
        """The field of the downward API that the variable comes from."""
        for entry in items(self.container, "env"):
            if entry.get("name") == name:
                path = mapping(mapping(entry, "valueFrom"), "fieldRef").get("fieldPath")
                return None if path is None else str(path)
        return None

    def resize_policy(self, resource: str) -> str | None:
        for one in items(self.container, "resizePolicy"):
            if one.get("resourceName") == resource:
                return str(one.get("restartPolicy"))
        return None

    @property
    def restarts_for_memory(self) -> bool:
        return self.resize_policy("memory") == "RestartContainer"

    def size(self, side: str, resource: str) -> int | None:
        """Bytes, or thousandths of a core. None where nothing is said, or nothing that is a quantity."""
        value = mapping(mapping(self.container, "resources"), side).get(resource)
        return None if value is None else quantity(str(value), resource)

    @property
    def command(self) -> list[str]:
        return [str(word) for word in (*sequence(self.container, "command"), *sequence(self.container, "args"))]

    def mount_of(self, path: str) -> Json | None:
        """The volume that holds that path."""
        best: tuple[int, str] = (-1, "")
        for mount in items(self.container, "volumeMounts"):
            at = str(mount.get("mountPath", "")).rstrip("/")
            if (path == at or path.startswith(f"{at}/")) and len(at) > best[0]:
                best = len(at), str(mount.get("name"))
        return next((v for v in items(self.pod, "volumes") if v.get("name") == best[1]), None)

    @property
    def state(self) -> str | None:
        """Where the state goes, as the command or the environment says."""
        words = self.command
        for at, word in enumerate(words):
            if word.startswith("--state="):
                return word.removeprefix("--state=")
            if word == "--state" and at + 1 < len(words):
                return words[at + 1]
        return self.env("ETLKIT_STATE")

    def exit_codes(self) -> list[int]:
        """Those with which the container's own rules start it again."""
        found: list[int] = []
        for rule in items(self.container, "restartPolicyRules"):
            if rule.get("action") == "Restart":
                found += exit_codes_in(mapping(rule, "exitCodes"))
        return found


def workloads(documents: Sequence[Json]) -> Iterator[Workload]:
    """Those that run etlkit."""
    for document in documents:
        kind, spec = str(document.get("kind", "")), mapping(document, "spec")
        if kind == "List":
            yield from workloads([d for d in sequence(document, "items") if isinstance(d, Mapping)])
            continue
        cron = spec if kind == "CronJob" else None
        if cron is not None:
            spec = mapping(mapping(cron, "jobTemplate"), "spec")
        if kind == "Pod":
            pod, metadata = spec, mapping(document, "metadata")
        elif kind in ("Job", "CronJob", *FOR_EVER):
            template = mapping(spec, "template")
            pod, metadata = mapping(template, "spec"), mapping(template, "metadata")
        else:
            continue
        container = etl_container(pod)
        if container is not None:
            meta = mapping(document, "metadata")
            name = str(meta.get("name") or meta.get("generateName") or "?")
            namespace = str(meta.get("namespace") or "")
            yield Workload(kind, name, namespace, spec, cron, pod, metadata, container, documents)


def etl_container(pod: Json) -> Json | None:
    """The container that runs etlkit: by its command, by its arguments behind an image's entry point, or by its environment."""
    for container in items(pod, "containers"):
        words = [str(word) for word in (*sequence(container, "command"), *sequence(container, "args"))]
        named = any(e.get("name") == "ETLKIT_CONTAINER_NAME" for e in items(container, "env"))
        if named or (any("etlkit" in word for word in words) and not _only_looks(words)):
            return container
    return None


def _only_looks(words: list[str]) -> bool:
    """``etlkit doctor`` and the like: no job, with nothing to lose."""
    after = [verb for word, verb in pairwise(words) if word.rpartition("/")[2] == "etlkit"]
    return bool(after) and after[0] in _LOOKS


def exit_codes_in(rule: Json) -> list[int]:
    """The codes that a rule names with operator In."""
    named = rule.get("operator", "In") == "In"
    return [code for code in sequence(rule, "values") if named and isinstance(code, int)]


def quantity(text: str, resource: str) -> int | None:
    try:
        return parse_bytes(text) if resource == "memory" else round(parse_cpu(text) * 1000)
    except UsageError:
        return None


def mapping(parent: Json, key: str) -> Json:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def sequence(parent: Json, key: str) -> Sequence[Any]:
    value = parent.get(key)
    return value if isinstance(value, list) else []


def items(parent: Json, key: str) -> list[Json]:
    return [one for one in sequence(parent, key) if isinstance(one, Mapping)]
