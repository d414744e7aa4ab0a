"""What keeps a job from running, in clear words: quota, permissions, image, volume, room on the nodes. Pure.

Job, pods and events in, ``Trouble``s out. Each says what is, and what to do. It knows the words of Kubernetes 1.33 to
1.36; what it does not know it shows as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")


@dataclass(frozen=True, slots=True)
class Trouble:
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}\n  → {self.remedy}"


def troubles(job: Json, pods: Sequence[Json], events: Iterable[Json]) -> list[Trouble]:
    """Each once, the newest state of things: pods that run have none of their old ones."""
    found = list(_job(job))
    for pod in pods:
        found += _pod(pod)
    waiting = {str(p["metadata"]["name"]) for p in pods if (p.get("status") or {}).get("phase") == "Pending"}
    name = str((job.get("metadata") or {}).get("name", ""))
    for event in events:
        about = (event.get("involvedObject") or {}).get("name")
        if event.get("type") == "Warning" and (about in waiting or (about == name and not pods)):
            found += _event(str(event.get("reason", "")), str(event.get("message", "")))
    return list(dict.fromkeys(found))


def _job(job: Json) -> Iterator[Trouble]:
    for one in (job.get("status") or {}).get("conditions") or ():
        if one.get("type") != "Failed" or one.get("status") != "True":
            continue
        reason, message = str(one.get("reason", "")), str(one.get("message", ""))
        if reason == "BackoffLimitExceeded":
            yield Trouble(
                "the Job has failed: its restarts reached backoffLimit, and every resize with RestartContainer is one",
                "submit it again: it goes on from its state. Allow more with --resizes and --crashes, or use --shape live",
            )
        elif reason == "PodFailurePolicy":
            yield Trouble(
                f"the Job has failed for good: {message}", "mend what the last attempt says, then submit it again"
            )
        elif reason == "DeadlineExceeded":
            yield Trouble(
                "the Job has failed: activeDeadlineSeconds is over", "submit it again: it goes on from its state"
            )
        else:
            yield Trouble(
                f"the Job has failed: {reason} {message}".rstrip(), "submit it again: it goes on from its state"
            )


def _pod(pod: Json) -> Iterator[Trouble]:
    name, status = str((pod.get("metadata") or {}).get("name", "?")), pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield _unscheduled(name, str(condition.get("message", "")))
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
        where = f"{name}, container {container.get('name')}"
        if reason in _IMAGE:
            image = container.get("image")
            remedy = (
                "check the name and the tag, and that the nodes may pull it (imagePullSecrets of the service account)"
            )
            yield Trouble(f"{where}: the image {image} can't be pulled ({message or reason})", remedy)
        elif reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            remedy = "check that what it names is there: ConfigMap, Secret, command"
            yield Trouble(f"{where}: it can't be made ({message or reason})", remedy)
        elif reason == "CrashLoopBackOff":
            yield Trouble(f"{where}: waits before the next start ({message})", "`etlkit logs` shows how it ended")
        ended = (
            (container.get("lastState") or {}).get("terminated")
            or (container.get("state") or {}).get("terminated")
            or {}
        )
        if ended.get("reason") == "OOMKilled":
            remedy = "it goes on from its checkpoint; give a larger --memory, or let it ask earlier ([policy] tight)"
            yield Trouble(f"{where}: an attempt was killed for memory", remedy)
    if status.get("reason") == "Evicted":
        yield Trouble(f"{name} was evicted: {status.get('message', '')}", "its replacement goes on from the state")


def _unscheduled(name: str, message: str) -> Trouble:
    text = message.lower()
    if "persistentvolumeclaim" in text and "not found" in text:
        return Trouble(
            f"{name}: its volume is not there ({message})", "submit makes the claim; or name one with --claim"
        )
    if "unbound immediate persistentvolumeclaims" in text or "volume node affinity" in text:
        remedy = "check the storage class (`kubectl get pvc`, `kubectl describe pvc`): does it exist, does it take ReadWriteOncePod?"
        return Trouble(f"{name}: its volume is not ready ({message})", remedy)
    if "readwriteoncepod" in text:
        remedy = "another pod still has it: wait for that pod to end"
        return Trouble(f"{name}: its volume is in use by another pod ({message})", remedy)
    if "insufficient" in text:
        return Trouble(f"{name}: no node has room ({message})", "wait, give a smaller --memory or --cpu, or add a node")
    return Trouble(f"{name}: it is not placed on a node ({message})", "look at taints, selectors and affinity")


def _event(reason: str, message: str) -> Iterator[Trouble]:
    text = message.lower()
    if reason == "FailedCreate":
        if "exceeded quota" in text or "failed quota" in text:
            remedy = "give a smaller --memory or --cpu, or ask for a larger ResourceQuota"
            yield Trouble(f"the namespace's quota has no room for the pod ({message})", remedy)
        elif "serviceaccount" in text and "not found" in text:
            yield Trouble(f"the service account is not there ({message})", "submit makes it; apply the whole manifest")
        elif "violates podsecurity" in text:
            remedy = "the namespace allows restricted pods only: `etlkit lint` says what is missing"
            yield Trouble(f"Pod Security refuses the pod ({message})", remedy)
        elif "usage per" in text:
            yield Trouble(
                f"a LimitRange refuses the pod ({message})", "give a smaller --memory, or ask for a larger maximum"
            )
        else:
            yield Trouble(f"the pod can't be created ({message})", "show this to an administrator")
    elif reason in ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "ProvisioningFailed"):
        remedy = "check the claim and the storage class: `kubectl describe pvc`"
        yield Trouble(f"a volume can't be mounted ({message})", remedy)
