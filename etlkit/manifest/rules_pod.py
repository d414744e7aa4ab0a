"""Rules about the container that resizes itself: sizes, identity, allocator, settings: F16, F23, F26, F28.

Each rule takes a workload and yields findings; it is pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..units import format_bytes
from .pod import ANNOTATION_CONTAINER, ANNOTATION_MEMORY
from .workload import Finding, Level, Workload, items, mapping, quantity


def memory_limit(w: Workload) -> Iterator[Finding]:
    """A limit there must be, and something above it to ask for."""
    limit = w.size("limits", "memory")
    if limit is None:
        why = "without a limit there is nothing to foresee, and a resize can't add one (F16, F17)"
        yield Finding("memory-limit", Level.FAIL, w.place, "no memory limit", why, "set resources.limits.memory")
        return
    given = w.env("ETLKIT_MAX_MEMORY")
    if given is None:
        if not any(word.startswith("--max-memory") for word in w.command):
            why = "without a cap the job never asks for memory"
            yield Finding("memory-limit", Level.WARN, w.place, "max_memory is not set", why, "set ETLKIT_MAX_MEMORY")
        return
    most = quantity(given, "memory")
    if most is None:
        why = "the job ends with 78 at its start"
        yield Finding("memory-limit", Level.FAIL, w.place, f"ETLKIT_MAX_MEMORY is '{given}'", why, "write it as 4Gi")
    elif most <= limit:
        what = f"the limit is {format_bytes(limit)}, and max_memory {format_bytes(most)}"
        yield Finding("memory-limit", Level.WARN, w.place, what, "there is nothing to ask for", "raise max_memory")


def request_is_limit(w: Workload) -> Iterator[Finding]:
    """F16."""
    request, limit = w.size("requests", "memory"), w.size("limits", "memory")
    if limit is None:
        return
    if request is not None and request > limit:
        why = "the API server refuses it (422, F17)"
        yield Finding(
            "request-is-limit", Level.FAIL, w.place, "the memory request is above the limit", why, "make them equal"
        )
    elif request is not None and request < limit:
        why = "what is granted above the request is not reserved: the node may run out first, and evict (F13, F16)"
        yield Finding(
            "request-is-limit", Level.WARN, w.place, "the memory request is below the limit", why, "make them equal"
        )


def pinned_cpus(w: Workload) -> Iterator[Finding]:
    """F26: the static CPU manager."""
    sides = [(w.size("requests", r), w.size("limits", r)) for r in ("cpu", "memory")]
    guaranteed = all(limit is not None and request in (None, limit) for request, limit in sides)
    cores = w.size("limits", "cpu")
    if guaranteed and cores is not None and cores % 1000 == 0:
        why = "where the kubelet pins CPUs (static policy), such a pod can't be resized: Infeasible (F26)"
        remedy = "request less CPU than the limit, and the pod is Burstable"
        yield Finding("pinned-cpus", Level.WARN, w.place, "a Guaranteed pod with whole CPUs", why, remedy)


def resize_policy_is_said(w: Workload) -> Iterator[Finding]:
    if w.resize_policy("memory") is None:
        why = "the default is NotRequired: the limit changes live. Say it, so that a reader knows which shape this is"
        yield Finding(
            "resize-policy", Level.WARN, w.place, "no resizePolicy for memory", why, "add it to the container"
        )
    if w.resize_policy("cpu") == "RestartContainer":
        why = "CPU can be changed live; a restart costs a checkpoint and a start (F19)"
        yield Finding("resize-policy", Level.WARN, w.place, "CPU with RestartContainer", why, "use NotRequired")


def identity(w: Workload) -> Iterator[Finding]:
    """F28."""
    name = str(w.container.get("name"))
    told = w.env("ETLKIT_CONTAINER_NAME")
    if told != name:
        why = "the downward API does not have it, and the job never guesses: it asks for that container's memory (F28)"
        what = "ETLKIT_CONTAINER_NAME is missing" if told is None else f"ETLKIT_CONTAINER_NAME is '{told}'"
        yield Finding("identity", Level.FAIL, w.place, what, why, f"set it to the literal '{name}'")
    for variable, path in (("ETLKIT_POD_NAME", "metadata.name"), ("ETLKIT_POD_NAMESPACE", "metadata.namespace")):
        if w.env_from(variable) != path:
            why = "without it the job can't ask for memory"
            remedy = f"take it from fieldRef {path}"
            level = Level.FAIL if variable == "ETLKIT_POD_NAME" or w.env(variable) is not None else Level.WARN
            yield Finding("identity", level, w.place, f"{variable} does not come from {path}", why, remedy)


def annotated(w: Workload) -> Iterator[Finding]:
    """F23: what the platform's policy reads."""
    name = str(w.container.get("name"))
    if w.annotations.get(ANNOTATION_CONTAINER) != name:
        why = "where the platform's admission policy is in force, the pod's resizes are refused (F23)"
        remedy = f"annotate the pod with {ANNOTATION_CONTAINER}: {name}"
        what = f"annotation {ANNOTATION_CONTAINER} is not '{name}'"
        yield Finding("annotations", Level.WARN, w.place, what, why, remedy)
    most, asked = w.annotations.get(ANNOTATION_MEMORY), w.env("ETLKIT_MAX_MEMORY")
    if most is None:
        why = "where the platform's admission policy is in force, the pod's resizes are refused (F23)"
        yield Finding(
            "annotations", Level.WARN, w.place, f"no annotation {ANNOTATION_MEMORY}", why, "set it to max_memory"
        )
    elif asked is not None:
        allowed, wanted = quantity(str(most), "memory"), quantity(asked, "memory")
        if allowed is None or (wanted is not None and wanted > allowed):
            why = "the admission policy refuses what is above the annotation (F23)"
            what = f"{ANNOTATION_MEMORY} is {most}, ETLKIT_MAX_MEMORY {asked}"
            yield Finding("annotations", Level.FAIL, w.place, what, why, "make them equal")


def allocator(w: Workload) -> Iterator[Finding]:
    pool = w.env("ARROW_DEFAULT_MEMORY_POOL")
    if pool is not None and pool != "system":
        why = "with another pool an allocation that does not fit is an OOM kill, not an error to recover from"
        yield Finding("allocator", Level.FAIL, w.place, f"ARROW_DEFAULT_MEMORY_POOL is {pool}", why, "remove it")


def settings_can_change(w: Workload) -> Iterator[Finding]:
    configs = {str(v.get("name")) for v in items(w.pod, "volumes") if "configMap" in v}
    for mount in items(w.container, "volumeMounts"):
        if mount.get("subPath") and str(mount.get("name")) in configs:
            why = "a file mounted by subPath never changes, so that thresholds can't be moved while the job runs"
            remedy = "mount the ConfigMap as a folder, and name the file in ETLKIT_CONFIG"
            yield Finding("config-folder", Level.WARN, w.place, "a ConfigMap mounted by subPath", why, remedy)


def image(w: Workload) -> Iterator[Finding]:
    name = str(w.container.get("image") or "")
    tag = name.rpartition("/")[2].partition(":")[2]
    if "@" not in name and tag in ("", "latest"):
        why = "a restart on another node may run other code on the same state; changed code is refused (78)"
        yield Finding("image", Level.WARN, w.place, f"image '{name}'", why, "pin a tag, or better a digest")
    if w.container.get("imagePullPolicy") == "Always":
        why = "each restart, also that of a resize, then waits for the registry"
        yield Finding(
            "image", Level.WARN, w.place, "imagePullPolicy Always", why, "use IfNotPresent with a pinned image"
        )


def shared_processes(w: Workload) -> Iterator[Finding]:
    if w.pod.get("shareProcessNamespace") is True:
        why = "etlkit is not process 1 then, and other containers of the pod can signal and read it"
        yield Finding("own-processes", Level.WARN, w.place, "shareProcessNamespace", why, "leave it out")


def probes(w: Workload) -> Iterator[Finding]:
    found = [name for name in ("livenessProbe", "startupProbe") if mapping(w.container, name)]
    if found:
        why = "a job at work is killed when a probe fails; each such restart counts against backoffLimit"
        yield Finding("probes", Level.WARN, w.place, " and ".join(found), why, "leave probes to servers")


RULES = (
    memory_limit,
    request_is_limit,
    pinned_cpus,
    resize_policy_is_said,
    identity,
    annotated,
    allocator,
    settings_can_change,
    image,
    shared_processes,
    probes,
)
