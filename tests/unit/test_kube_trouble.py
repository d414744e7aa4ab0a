"""What keeps a job from running, told in clear words, from what API servers say."""

from __future__ import annotations

from typing import Any

import pytest

from etlkit.kube.trouble import troubles

JOB: dict[str, Any] = {"metadata": {"name": "j"}, "status": {}}


def pod(phase: str = "Pending", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "j-1"}, "status": {"phase": phase, **status}}


def waiting(reason: str, message: str = "m") -> dict[str, Any]:
    return pod(
        containerStatuses=[
            {"name": "etl", "image": "jobs:1", "state": {"waiting": {"reason": reason, "message": message}}}
        ]
    )


def unscheduled(message: str) -> dict[str, Any]:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])


def event(reason: str, message: str, about: str = "j", kind: str = "Warning") -> dict[str, Any]:
    return {"type": kind, "reason": reason, "message": message, "involvedObject": {"name": about}}


def failed(reason: str, message: str = "") -> dict[str, Any]:
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": message}
    return {"metadata": {"name": "j"}, "status": {"conditions": [condition]}}


@pytest.mark.parametrize(
    ("job", "pods", "events", "said", "remedy"),
    [
        (JOB, [waiting("ImagePullBackOff")], [], "image jobs:1 can't be pulled", "imagePullSecrets"),
        (JOB, [waiting("ErrImagePull", "not found")], [], "not found", "tag"),
        (JOB, [waiting("CreateContainerConfigError", 'configmap "c" not found')], [], "can't be made", "ConfigMap"),
        (JOB, [waiting("CrashLoopBackOff", "back-off 20s")], [], "waits before the next start", "logs"),
        (JOB, [unscheduled("0/3 nodes are available: 3 Insufficient memory.")], [], "no node has room", "--memory"),
        (JOB, [unscheduled('persistentvolumeclaim "d" not found')], [], "volume is not there", "--claim"),
        (JOB, [unscheduled("pod has unbound immediate PersistentVolumeClaims")], [], "not ready", "storage class"),
        (JOB, [unscheduled("1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use")],
         [], "in use by another pod", "wait"),
        (JOB, [unscheduled("1 node(s) had untolerated taint {gpu: }")], [], "not placed", "taints"),
        (JOB, [pod()], [event("FailedMount", "MountVolume.SetUp failed", "j-1")], "can't be mounted", "pvc"),
        (JOB, [], [event("FailedCreate", "pods j-1 is forbidden: exceeded quota: q")], "quota has no room", "ResourceQuota"),
        (JOB, [], [event("FailedCreate", 'serviceaccount "j" not found')], "service account", "manifest"),
        (JOB, [], [event("FailedCreate", 'violates PodSecurity "restricted:latest"')], "Pod Security", "lint"),
        (JOB, [], [event("FailedCreate", "maximum memory usage per Container is 1Gi")], "LimitRange", "--memory"),
        (JOB, [], [event("FailedCreate", "admission webhook")], "can't be created", "administrator"),
        (failed("BackoffLimitExceeded"), [], [], "backoffLimit", "goes on from its state"),
        (failed("PodFailurePolicy", "Container etl failed with exit code 65"), [], [], "exit code 65", "mend"),
        (failed("DeadlineExceeded"), [], [], "activeDeadlineSeconds", "state"),
        (failed("Novel", "words"), [], [], "Novel words", "state"),
        (JOB, [pod("Failed", reason="Evicted", message="low on memory")], [], "evicted: low on memory", "replacement"),
        (JOB, [pod("Running", containerStatuses=[{"name": "etl", "lastState": {"terminated": {"reason": "OOMKilled"}}}])],
         [], "killed for memory", "checkpoint"),
    ],
)  # fmt: skip
def test_each_is_told_with_what_to_do(job, pods, events, said, remedy):
    (found,) = troubles(job, pods, events)
    assert said in found.what and remedy in found.remedy


def test_old_events_of_pods_that_run_and_of_others_are_not_told():
    running = pod("Running")
    events = [
        event("FailedMount", "old", "j-1"),
        event("FailedMount", "other", "x-9"),
        event("Pulled", "p", "j", "Normal"),
    ]
    assert troubles(JOB, [running], events) == []


def test_each_is_told_once():
    assert len(troubles(JOB, [pod()], [event("FailedMount", "same", "j-1")] * 5)) == 1
