"""Rules about state, storage, permissions and secrets: F23, F24.

Each rule takes a workload and yields findings; it is pure. It knows only the file that it is given: a claim or a role that is
elsewhere is not looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .workload import Finding, Json, Level, Workload, items, mapping, sequence

_SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)(?:$|_(?!FILE|PATH|NAME|DIR|ID))"
)
"""A name of a file, or of a Secret, is no secret."""
_URL_SECRET = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s@]+@")
_NOT_SECRET = ("ETLKIT_",)


def state_outlives_the_pod(w: Workload) -> Iterator[Finding]:
    state = w.state
    if state is None:
        why = "it goes below the working folder then, and is gone with the container"
        yield Finding(
            "state", Level.FAIL, w.place, "no state directory is named", why, "set ETLKIT_STATE to a folder on a volume"
        )
        return
    if "://" in state:
        return
    volume = w.mount_of(state)
    if volume is None or not (
        {"persistentVolumeClaim", "nfs", "csi", "hostPath", "ephemeral", "emptyDir"} & set(volume)
    ):
        why = "a restart of the container begins with an empty state"
        yield Finding(
            "state", Level.FAIL, w.place, f"{state} is on no volume", why, "mount a PersistentVolumeClaim there"
        )
    elif "emptyDir" in volume or "ephemeral" in volume:
        kind = "an emptyDir" if "emptyDir" in volume else "an ephemeral volume"
        why = "it goes with the pod: after a drain or a lost node the job begins anew"
        yield Finding("state", Level.FAIL, w.place, f"{state} is on {kind}", why, "mount a PersistentVolumeClaim there")
    elif "hostPath" in volume:
        why = "a replacement pod on another node finds nothing there"
        yield Finding(
            "state", Level.WARN, w.place, f"{state} is on a hostPath", why, "mount a PersistentVolumeClaim there"
        )


def claims(w: Workload) -> Iterator[Finding]:
    """F24, and what deleting a Job must not delete."""
    state = w.state or ""
    volume = w.mount_of(state) if "://" not in state else None
    name = mapping(volume or {}, "persistentVolumeClaim").get("claimName")
    for document in w.documents:
        meta = mapping(document, "metadata")
        if document.get("kind") != "PersistentVolumeClaim" or meta.get("name") != name:
            continue
        place, modes = (
            f"PersistentVolumeClaim {name}",
            [str(m) for m in sequence(mapping(document, "spec"), "accessModes")],
        )
        if items(meta, "ownerReferences"):
            why = "deleting the Job would delete the state"
            yield Finding("claim", Level.FAIL, place, "it is owned", why, "leave ownerReferences out")
        if modes != ["ReadWriteOncePod"] and not w.indexed:
            why = "two pods can mount it at once: an old pod that still ends, and its replacement (F24)"
            yield Finding("claim", Level.WARN, place, f"accessModes {modes}", why, "use ReadWriteOncePod")
        if w.indexed and "ReadWriteMany" not in modes and w.spec.get("parallelism", 1) != 1:
            why = "the indexes run on several nodes, and all of them mount it"
            yield Finding(
                "claim", Level.FAIL, place, f"accessModes {modes} for an Indexed Job", why, "use ReadWriteMany"
            )


def files_are_not_memory(w: Workload) -> Iterator[Finding]:
    for volume in items(w.pod, "volumes"):
        empty = mapping(volume, "emptyDir")
        if empty.get("medium") == "Memory":
            why = "its files count against the memory limit, and can't be spilled"
            yield Finding(
                "files", Level.FAIL, w.place, f"volume {volume.get('name')} is memory", why, "leave medium out"
            )
        elif "emptyDir" in volume and "sizeLimit" not in empty:
            why = "without a size it can fill the node's disk, and the node then evicts pods"
            yield Finding(
                "files", Level.WARN, w.place, f"volume {volume.get('name')} has no sizeLimit", why, "set sizeLimit"
            )
    around = mapping(w.pod, "securityContext")
    if around.get("fsGroup") is not None and around.get("fsGroupChangePolicy") != "OnRootMismatch":
        why = "at each start the kubelet changes the group of every file on the volume first"
        yield Finding("files", Level.WARN, w.place, "fsGroupChangePolicy is Always", why, "set it to OnRootMismatch")


def account(w: Workload) -> Iterator[Finding]:
    """F23."""
    name = w.pod.get("serviceAccountName")
    if name in (None, "default"):
        why = "a right to resize given to the default account is given to every pod of the namespace"
        yield Finding("account", Level.WARN, w.place, "the default service account", why, "give the job one of its own")
    mounted = {str(m.get("name")) for m in items(w.container, "volumeMounts")}
    tokens = {
        str(v.get("name"))
        for v in items(w.pod, "volumes")
        if any("serviceAccountToken" in s for s in items(mapping(v, "projected"), "sources"))
    }
    if w.pod.get("automountServiceAccountToken") is False and not tokens & mounted:
        why = "without a token the job can't ask for memory"
        remedy = "mount a projected serviceAccountToken, or leave automountServiceAccountToken out"
        yield Finding("account", Level.FAIL, w.place, "no token is mounted", why, remedy)
    elif w.pod.get("automountServiceAccountToken") is not False:
        why = "every container of the pod, sidecars too, gets a token that may resize"
        remedy = "set automountServiceAccountToken: false and project one into the job's container"
        yield Finding("account", Level.WARN, w.place, "the token is mounted automatically", why, remedy)


def roles(w: Workload) -> Iterator[Finding]:
    """F23: the least, and no more."""
    for document in w.documents:
        if document.get("kind") not in ("Role", "ClusterRole"):
            continue
        for rule in items(document, "rules"):
            resources = {str(r) for r in sequence(rule, "resources")}
            verbs = {str(v) for v in sequence(rule, "verbs")}
            if not resources & {"pods", "pods/resize", "*"}:
                continue
            too_much = {"pods": verbs - {"get"}, "pods/resize": verbs - {"patch", "get"}, "*": verbs}
            found = sorted(
                f"{verb} {resource}" for resource in resources & set(too_much) for verb in too_much[resource]
            )
            if found:
                why = "a job reads its own pod and resizes it: get pods, patch pods/resize (F23)"
                place = f"{document['kind']} {mapping(document, 'metadata').get('name')}"
                yield Finding("role", Level.WARN, place, f"it allows {', '.join(found)}", why, "leave these out")


def restricted(w: Workload) -> Iterator[Finding]:
    """What a namespace that enforces the restricted Pod Security Standard refuses."""
    around, inside = mapping(w.pod, "securityContext"), mapping(w.container, "securityContext")
    seccomp = mapping(inside, "seccompProfile") or mapping(around, "seccompProfile")
    lacks = [
        text
        for text, fine in (
            ("runAsNonRoot: true", (inside.get("runAsNonRoot", around.get("runAsNonRoot"))) is True),
            ("seccompProfile RuntimeDefault", seccomp.get("type") in ("RuntimeDefault", "Localhost")),
            ("allowPrivilegeEscalation: false", inside.get("allowPrivilegeEscalation") is False),
            ("capabilities drop ALL", "ALL" in sequence(mapping(inside, "capabilities"), "drop")),
        )
        if not fine
    ]
    if lacks:
        why = "a namespace that enforces the restricted Pod Security Standard refuses the pod"
        yield Finding(
            "restricted", Level.WARN, w.place, f"without {', '.join(lacks)}", why, "add it to securityContext"
        )
    if inside.get("readOnlyRootFilesystem") is not True:
        why = "whatever a malicious input file can do, it could write into the job's own code"
        yield Finding(
            "restricted",
            Level.WARN,
            w.place,
            "the root file system can be written",
            why,
            "set readOnlyRootFilesystem: true",
        )
    if inside.get("privileged") is True or w.pod.get("hostPID") is True or w.pod.get("hostNetwork") is True:
        why = "nothing here needs it"
        yield Finding("restricted", Level.FAIL, w.place, "privileged, hostPID or hostNetwork", why, "leave it out")


def secrets(w: Workload) -> Iterator[Finding]:
    """The finding names the place, never the value."""
    for container in (*items(w.pod, "containers"), *items(w.pod, "initContainers")):
        yield from _secrets_of(w, container)


def _secrets_of(w: Workload, container: Json) -> Iterator[Finding]:
    why = "whoever may read pods reads it, and so does every process that sees /proc"
    for entry in items(container, "env"):
        name, value = str(entry.get("name", "")), entry.get("value")
        if not isinstance(value, str) or not value or name.startswith(_NOT_SECRET):
            continue
        if _SECRET_NAME.search(name) or _URL_SECRET.search(value):
            what = f"container {container.get('name')}: the value of {name} is written out"
            yield Finding(
                "secret", Level.FAIL, w.place, what, why, "take it from secretKeyRef, or use workload identity"
            )
    for at, word in enumerate((*sequence(container, "command"), *sequence(container, "args"))):
        if _URL_SECRET.search(str(word)):
            what = f"container {container.get('name')}: word {at + 1} of the command is a URL with a password"
            remedy = "give the URL without it; credentials come from the environment or mounted files"
            yield Finding("secret", Level.FAIL, w.place, what, why, remedy)


RULES = (
    state_outlives_the_pod,
    claims,
    files_are_not_memory,
    account,
    roles,
    restricted,
    secrets,
)
