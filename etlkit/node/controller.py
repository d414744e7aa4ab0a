"""The Job controller: makes a Job's pods, watches them, and says when the Job is over.

Covers F8, F22, F24 and F25, by the arithmetic of ``job`` and ``indexed``, and suspended Jobs. It looks at the status of pods, as
everybody does, and holds the store's lock whenever it does anything.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from . import indexed, job, spec
from .answers import Json, not_found
from .container import ContainerRun
from .job import JobSpec, JobVerdict, PodFacts
from .kubelet import PodRuntime
from .kubelet_parts import Surroundings
from .store import Store
from .timings import Timings

INDEX = "batch.kubernetes.io/job-completion-index"
MakeSurroundings = Callable[[Path, Mapping[str, str]], Surroundings]
MakeIndexed = Callable[[int | None], MakeSurroundings]


class Host(Protocol):
    """What Jobs need of their node."""

    store: Store
    timings: Timings
    failure: Exception | None
    closed: bool

    def place(self, manifest: Json, around: MakeSurroundings) -> PodRuntime: ...


@dataclass(frozen=True, slots=True)
class PodResult:
    """How a Job's pod, or pods, ended."""

    exit_code: int
    """Of the last run of the main container."""
    restarts: int
    oom_kills: int
    phase: str
    job_condition: str
    """``Complete``, ``Failed``, or empty when the Job was stopped from outside."""
    job_reason: str
    history: tuple[ContainerRun, ...]
    seconds: float

    def reserved_byte_seconds(self) -> float:
        """Memory limit × time, over all runs."""
        return sum(run.reserved_byte_seconds() for run in self.history)


@dataclass(slots=True)
class JobRun:
    """A Job and the pods that it made."""

    name: str
    spec: JobSpec
    template: Json
    around: MakeIndexed
    pods: list[PodRuntime] = field(default_factory=list)
    verdict: JobVerdict = field(default_factory=JobVerdict)
    stopped: bool = False
    created_s: float = 0.0
    replacement_due: set[int | None] = field(default_factory=set)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))


class JobHandle:
    """A Job that runs: wait for it, stop it, look at its pods."""

    def __init__(self, host: Host, run: JobRun, resume: Callable[[JobRun], None]) -> None:
        self._host = host
        self._run = run
        self._resume = resume

    @property
    def pod(self) -> PodRuntime:
        """The newest pod."""
        return self._run.pods[-1]

    @property
    def pod_name(self) -> str:
        return str(self.pod.pod["metadata"]["name"])

    @property
    def pods(self) -> tuple[PodRuntime, ...]:
        return tuple(self._run.pods)

    def pods_of(self, index: int) -> tuple[PodRuntime, ...]:
        """Of one index, oldest first."""
        return tuple(pod for pod in self._run.pods if index_of(pod.pod) == index)

    def resume(self) -> None:
        """``suspend: false``."""
        self._resume(self._run)

    def stop(self, grace_s: float | None = None) -> None:
        """As deleting the Job does: SIGTERM, grace, SIGKILL; no replacement."""
        with self._host.store.lock:
            self._run.stopped = True
            for pod in self._run.pods:
                pod.delete(grace_s)
        self._host.store.notify()

    def wait(self, timeout_s: float | None = None) -> PodResult:
        """The result, once the Job is over and its last process has ended. TimeoutError otherwise."""

        def over() -> bool:
            if self._host.failure is not None:
                return True
            ended = all(pod.gone for pod in self._run.pods)
            return ended and (self._run.stopped or bool(self._run.verdict.condition))

        if not self._host.store.wait_until(over, timeout_s):
            raise TimeoutError(f"the Job {self._run.name} was not over after {timeout_s} s")
        if self._host.failure is not None:
            cause = self._host.failure
            raise RuntimeError(f"the local node itself failed: {type(cause).__name__}: {cause}") from cause
        return self._result()

    def _result(self) -> PodResult:
        history = tuple(run for pod in self._run.pods for run in pod.history)
        main = self._run.template["spec"]["containers"][0]["name"]
        mains = [run for run in history if run.container == main and run.exit_code is not None]
        condition = self._run.verdict.condition
        return PodResult(
            exit_code=mains[-1].exit_code or 0 if mains else 137,
            restarts=sum(status["restartCount"] for pod in self._run.pods for status in _statuses(pod.pod)),
            oom_kills=sum(run.oom_kills for run in history),
            phase=self.pod.phase if self._run.pods else "",
            job_condition=condition,
            job_reason=self._run.verdict.reason,
            history=history,
            seconds=time.monotonic() - self._run.created_s,
        )


class JobController:
    """All Jobs of a node."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._runs: list[JobRun] = []

    def start(self, run: JobRun) -> JobHandle:
        job.check(run.spec, run.name)
        with self._host.store.lock:
            self._runs.append(run)
            self._write_job(run)
            if run.spec.completions is not None:
                self.sync(run)
            elif not run.spec.suspended:
                self.create(run)
        return JobHandle(self._host, run, self.resume)

    def resume(self, run: JobRun) -> None:
        with self._host.store.lock:
            if run.spec.suspended:
                run.spec = replace(run.spec, suspended=False)
                self.sync(run)

    def handle(self, namespace: str, name: str) -> JobHandle:
        """The newest Job of that name. ApiError 404 if there is none."""
        for run in reversed(self._runs):
            if (run.template["metadata"]["namespace"], run.name) == (namespace, name):
                return JobHandle(self._host, run, self.resume)
        raise not_found(name, "jobs.batch")

    def stop(self) -> None:
        """No pod is made any more."""
        for run in self._runs:
            run.stopped = True

    def pod_changed(self, pod: PodRuntime) -> None:
        for run in self._runs:
            if pod in run.pods:
                self.sync(run)

    def create(self, run: JobRun, index: int | None = None) -> None:
        """The next pod of the Job, or of one index: from the template, so at the template's size (F22)."""
        manifest = copy.deepcopy(run.template)
        number = sum(index_of(pod.pod) == index for pod in run.pods)
        meta = manifest["metadata"]
        stem = run.name if index is None else f"{run.name}-{index}"
        meta["name"] = stem if number == 0 else f"{stem}-r{number}" if index is not None else f"{stem}-{number}"
        if index is not None:
            meta["annotations"] = (meta.get("annotations") or {}) | {INDEX: str(index)}
            for container in manifest["spec"]["containers"]:
                told = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
                container["env"] = [*(container.get("env") or ()), told]
        meta["labels"] = (meta.get("labels") or {}) | {"batch.kubernetes.io/job-name": run.name}
        meta["ownerReferences"] = [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": run.name,
                "uid": run.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
        run.pods.append(self._host.place(manifest, run.around(index)))

    def sync(self, run: JobRun) -> None:
        """Looks at the pods of the Job and does what follows. Holds the lock."""
        if run.stopped or run.verdict.condition or run.spec.suspended:
            self._write_job(run)
            return
        facts = [_facts(pod) for pod in run.pods]
        evaluate = job.evaluate if run.spec.completions is None else indexed.evaluate_indexed
        verdict = evaluate(run.spec, facts)
        if verdict.condition:
            run.verdict = verdict
            for pod in run.pods:
                if not pod.gone:
                    pod.delete()
        else:
            run.verdict = replace(verdict, create_pod=False, create=())
            for index in verdict.create if run.spec.completions is not None else (None,) * verdict.create_pod:
                self._create_soon(run, index)
        self._write_job(run)

    def _create_soon(self, run: JobRun, index: int | None) -> None:
        """The first pod of an index at once; later ones after the back-off of those that failed."""
        if index in run.replacement_due:
            return
        before = [pod for pod in run.pods if index_of(pod.pod) == index]
        if not before:
            self.create(run, index)
            return
        run.replacement_due.add(index)
        failed = run.verdict.failed_pods if index is None else sum(pod.phase == "Failed" for pod in before)
        delay_s = job.replacement_delay_s(self._host.timings, failed)
        timer = threading.Timer(delay_s, self._replace, (run, index))
        timer.daemon = True
        timer.start()

    def _replace(self, run: JobRun, index: int | None) -> None:
        with self._host.store.lock:
            run.replacement_due.discard(index)
            if not (self._host.closed or run.stopped or run.verdict.condition):
                self.create(run, index)

    def _write_job(self, run: JobRun) -> None:
        key = (str(run.template["metadata"]["namespace"]), run.name)
        first = key not in self._host.store.jobs
        body = self._host.store.jobs.setdefault(
            key,
            {
                "kind": "Job",
                "apiVersion": "batch/v1",
                "metadata": {
                    "name": run.name,
                    "namespace": key[0],
                    "uid": run.uid,
                    "creationTimestamp": spec.now_text(),
                },
                "spec": {
                    **_indexed_fields(run.spec),
                    "backoffLimit": run.spec.backoff_limit,
                    "podReplacementPolicy": run.spec.replacement_policy,
                    "template": {"spec": run.template["spec"]},
                },
                "status": {},
            },
        )
        live = sum(not pod.gone for pod in run.pods)
        status: Json = {"startTime": body["metadata"]["creationTimestamp"], "active": live}
        status["failed"] = run.verdict.failed_pods
        body["spec"]["suspend"] = run.spec.suspended
        if run.spec.completions is not None:
            done = sorted({int(index_of(pod.pod) or 0) for pod in run.pods if pod.phase == "Succeeded"})
            status["completedIndexes"] = ",".join(map(str, done))
        verdict = run.verdict
        if verdict.condition:
            status["conditions"] = [
                {
                    "type": verdict.condition,
                    "status": "True",
                    "reason": verdict.reason,
                    "message": verdict.message,
                    "lastTransitionTime": spec.now_text(),
                }
            ]
            status["succeeded"] = (run.spec.completions or 1) if verdict.condition == "Complete" else 0
        if first or body["status"] != status:
            body["status"] = status
            self._host.store.touch(body)


def _indexed_fields(of: JobSpec) -> Json:
    if of.completions is None:
        return {}
    found: Json = {"completionMode": "Indexed", "completions": of.completions, "parallelism": of.parallelism}
    if of.backoff_limit_per_index is not None:
        found["backoffLimitPerIndex"] = of.backoff_limit_per_index
    return found


def index_of(pod: Json) -> int | None:
    given = (pod["metadata"].get("annotations") or {}).get(INDEX)
    return None if given is None else int(given)


def _statuses(pod: Json) -> list[Json]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _facts(runtime: PodRuntime) -> PodFacts:
    """What the Job controller may know: it reads the status, as everybody does."""
    pod = runtime.pod
    status = pod["status"]
    ended = [
        (found["name"], int(found["state"]["terminated"]["exitCode"]))
        for found in status.get("containerStatuses", ())
        if "terminated" in found["state"]
    ]
    return PodFacts(
        name=f"{pod['metadata']['namespace']}/{pod['metadata']['name']}",
        phase=status["phase"],
        terminating="deletionTimestamp" in pod["metadata"],
        restarts=sum(found["restartCount"] for found in _statuses(pod)),
        exit_codes=tuple(ended),
        conditions=tuple(found["type"] for found in status["conditions"] if found["status"] == "True"),
        index=index_of(pod),
    )
