"""The local node: pods and Jobs as real processes, behind an API server that a pod's own client can talk to.

    with Node(capacity_bytes=4 * GIB) as node:
        result = node.run_pod(pod_manifest("etl", [], memory="192Mi"), [sys.executable, "-m", "job"])

Covers what a pod can see of a cluster: capacity shared with other pods, the scheduler's and the Job controller's
part, rules and faults. Nothing is shared with the processes of a pod but the network, files and the cgroup. It does not cover
images, volumes other than folders, networks of pods, several nodes.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from . import admission, certificates, enforce, environment, job, spec
from .admission import Rules, User
from .answers import Json
from .api import ApiServer
from .container import ContainerRun
from .enforce import Enforcer
from .faults import Faults
from .job import JobSpec, JobVerdict, PodFacts
from .kubelet import PodRuntime, Surroundings
from .store import Store
from .timings import Timings

_ADDRESS = "127.0.0.1"


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
class _JobRun:
    """A Job and the pods that it made."""

    name: str
    spec: JobSpec
    template: Json
    around: Callable[[Path, Mapping[str, str]], Surroundings]
    pods: list[PodRuntime] = field(default_factory=list)
    verdict: JobVerdict = field(default_factory=JobVerdict)
    stopped: bool = False
    created_s: float = 0.0
    replacement_due: bool = False
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))


class JobHandle:
    """A Job that runs: wait for it, stop it, look at its pods."""

    def __init__(self, node: Node, run: _JobRun) -> None:
        self._node = node
        self._run = run

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

    def stop(self, grace_s: float | None = None) -> None:
        """As deleting the Job does: SIGTERM, grace, SIGKILL; no replacement."""
        with self._node.store.lock:
            self._run.stopped = True
            for pod in self._run.pods:
                pod.delete(grace_s)
        self._node.store.notify()

    def wait(self, timeout_s: float | None = None) -> PodResult:
        """The result, once the Job is over and its last process has ended. TimeoutError otherwise."""

        def over() -> bool:
            if self._node.failure is not None:
                return True
            ended = all(pod.gone for pod in self._run.pods)
            return ended and (self._run.stopped or bool(self._run.verdict.condition))

        if not self._node.store.wait_until(over, timeout_s):
            raise TimeoutError(f"the Job {self._run.name} was not over after {timeout_s} s")
        if self._node.failure is not None:
            raise RuntimeError("the local node itself failed") from self._node.failure
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
            phase=self.pod.phase,
            job_condition=condition,
            job_reason=self._run.verdict.reason,
            history=history,
            seconds=time.monotonic() - self._run.created_s,
        )


class Node:
    """A one-node cluster. Use it as a context manager: at the end every process it started is gone."""

    def __init__(
        self,
        capacity_bytes: int,
        *,
        enforcement: str | None = None,
        enforcer: Enforcer | None = None,
        timings: Timings | None = None,
        namespace: str = "etl",
        minor: int = 36,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.namespace = namespace
        self.timings = timings or Timings()
        self.store = Store()
        self.faults = Faults()
        self.rules = Rules(capacity_at_admission=minor >= 36)
        self.failure: Exception | None = None
        self.version: Json = {
            "major": "1",
            "minor": str(minor),
            "gitVersion": f"v1.{minor}.{2 if minor == 36 else 0}",
            "platform": "linux/amd64",
        }
        self.enforcer: Enforcer = enforcer or enforce.choose(enforcement)
        self.folder = Path(tempfile.mkdtemp(prefix="etlkit-node-"))
        self._runtimes: dict[str, PodRuntime] = {}
        self._ballast: dict[str, int] = {}
        self._jobs: list[_JobRun] = []
        self._tokens: dict[str, User] = {}
        self.admin_token = secrets.token_urlsafe(32)
        self._tokens[self.admin_token] = User("kubernetes-admin")
        self._closed = False
        try:
            self._certificates = certificates.make(self.folder, _ADDRESS)
            self._server = ApiServer(self, _ADDRESS, self._certificates.server, self._certificates.key)
        except BaseException:
            self.enforcer.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._server.start()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        return _ADDRESS, self._server.port

    @property
    def ca_file(self) -> Path:
        return self._certificates.ca

    def close(self) -> None:
        """Kills what still runs, removes the groups and the private folder. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with self.store.lock:
            runtimes = list(self._runtimes.values())
            for run in self._jobs:
                run.stopped = True
        self._server.close()
        for runtime in runtimes:
            runtime.destroy()
        self.enforcer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ── Jobs and pods ────────────────────────────────────────────────────────────────────────────────────

    def run_pod(
        self,
        manifest: Json,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None = None,
        **options: object,
    ) -> PodResult:
        """Runs a Job of that pod to its end. Options are those of ``start_job``."""
        return self.start_job(manifest, command, env, **options).wait(timeout_s)  # type: ignore[arg-type]

    def start_job(
        self,
        manifest: Json,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        *,
        max_memory: str | None = None,
        backoff_limit: int = 6,
        failure_rules: Sequence[Json] = (),
        replacement_policy: str = "Failed",
        environment_base: Mapping[str, str] | None = None,
        working_folder: Path | None = None,
        stdout: Callable[[str, bytes], None] | None = None,
        stderr: Callable[[str, bytes], None] | None = None,
        on_event: Callable[[Json], None] | None = None,
    ) -> JobHandle:
        """Creates a Job. ``command`` and ``env`` are given to the first container; output goes line by line to the
        sinks (container, line), or to where the node's own goes."""
        template = copy.deepcopy(manifest)
        main = template["spec"]["containers"][0]
        if command is not None:
            main["command"] = list(command)
        main["env"] = [*(main.get("env") or []), *({"name": k, "value": v} for k, v in (env or {}).items())]
        known = {entry["name"] for entry in main["env"]}
        main["env"] += [
            entry
            for entry in environment.etl_environment(
                container=main["name"],
                limit_bytes=spec.limit_bytes(main.get("resources") or {}),
                max_memory=max_memory,
                backoff_limit=backoff_limit,
            )
            if entry["name"] not in known
        ]
        policy = template["spec"].get("restartPolicy", "Always")
        name = str(template["metadata"]["name"])
        template["metadata"].setdefault("namespace", self.namespace)

        def around(folder: Path, api: Mapping[str, str]) -> Surroundings:
            return Surroundings(environment_base or {}, api, folder, working_folder, stdout, stderr, on_event)

        kinds: dict[str, job.ReplacementPolicy] = {"Failed": "Failed", "TerminatingOrFailed": "TerminatingOrFailed"}
        run = _JobRun(
            name,
            JobSpec(policy, backoff_limit, tuple(failure_rules), kinds[replacement_policy]),
            template,
            around,
            created_s=time.monotonic(),
        )
        job.check(run.spec, name)
        with self.store.lock:
            self._jobs.append(run)
            self._write_job(run)
            self._create(run)
        return JobHandle(self, run)

    def start_pod(self, manifest: Json, *, stdout: Callable[[str, bytes], None] | None = None) -> PodRuntime:
        """A bare pod, without a Job (F29)."""
        given = copy.deepcopy(manifest)
        given["metadata"].setdefault("namespace", self.namespace)
        with self.store.lock:
            return self._place(given, lambda folder, api: Surroundings({}, api, folder, stdout=stdout))

    def _create(self, run: _JobRun) -> None:
        """The next pod of the Job: from the template, so at the template's size (F22)."""
        manifest = copy.deepcopy(run.template)
        number = len(run.pods)
        meta = manifest["metadata"]
        meta["name"] = run.name if number == 0 else f"{run.name}-{number}"
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
        run.pods.append(self._place(manifest, run.around))

    def _place(self, manifest: Json, around: Callable[[Path, Mapping[str, str]], Surroundings]) -> PodRuntime:
        pod = spec.create(manifest, node_name="node1", address=_ADDRESS)
        meta = pod["metadata"]
        folder = self.folder / "pods" / meta["uid"]
        account = folder / "serviceaccount"
        account.mkdir(parents=True, mode=0o700)
        self._issue(pod, account)
        api = environment.api_environment(_ADDRESS, self._server.port, account)
        runtime = PodRuntime(self, pod, self.enforcer.pod(meta["uid"]), around(folder, api))
        self._runtimes[meta["uid"]] = runtime
        self.store.pods[(meta["namespace"], meta["name"])] = pod
        self.store.touch(pod)
        runtime.start()
        return runtime

    def _issue(self, pod: Json, account: Path) -> None:
        meta = pod["metadata"]
        name = f"system:serviceaccount:{meta['namespace']}:{pod['spec']['serviceAccountName']}"
        token = secrets.token_urlsafe(48)
        self._tokens[token] = User(name, meta["uid"], meta["name"])
        environment.write_service_account(account, token=token, ca=self.ca_file, namespace=meta["namespace"])

    def rotate_token(self, pod_name: str) -> None:
        """A new token in the pod's folder; the old one is not valid any more."""
        with self.store.lock:
            runtime = self.runtime(pod_name)
            uid = runtime.pod["metadata"]["uid"]
            for token in [token for token, user in self._tokens.items() if user.pod_uid == uid]:
                del self._tokens[token]
            self._issue(runtime.pod, runtime.around.folder / "serviceaccount")

    def runtime(self, pod_name: str) -> PodRuntime:
        """The running pod of that name."""
        pod = self.store.pod(self.namespace, pod_name)
        return self._runtimes[pod["metadata"]["uid"]]

    def service_account(self, pod_name: str) -> Path:
        """The folder that the pod finds its token in."""
        return self.runtime(pod_name).around.folder / "serviceaccount"

    def volume(self, pod_name: str, volume: str) -> Path:
        """The folder of a ``downwardAPI`` volume."""
        return self.runtime(pod_name).around.folder / "volumes" / volume

    def evict(self, pod_name: str, grace_s: float | None = None) -> None:
        """A drain: the pod is deleted with the condition DisruptionTarget; its Job replaces it."""
        self.runtime(pod_name).delete(grace_s, "EvictionByEvictionAPI")

    def resize(self, pod_name: str, container: str, *, memory: str, request: str | None = None) -> Json:
        """A resize by somebody else: an operator, a VPA (F27)."""
        resources = {"requests": {"memory": request or memory}, "limits": {"memory": memory}}
        patch = {"spec": {"containers": [{"name": container, "resources": resources}]}}
        with self.store.lock:
            pod = self.store.pod(self.namespace, pod_name)
            new = admission.resize(
                pod,
                patch,
                rules=self.rules,
                user=User("kubernetes-admin"),
                allocatable_bytes=self.capacity_bytes,
                neighbours=list(self.store.pods.values()),
            )
            if new["spec"] != pod["spec"]:
                pod["spec"] = new["spec"]
                pod["metadata"]["generation"] += 1
                self.store.touch(pod)
                self.resized(pod)
            return copy.deepcopy(pod)

    def get_pod(self, pod_name: str) -> Json:
        return self.store.read_pod(self.namespace, pod_name)

    def events(self, pod_name: str) -> list[Json]:
        with self.store.lock:
            return [copy.deepcopy(e) for e in self.store.events if e["involvedObject"]["name"] == pod_name]

    # ── other pods ───────────────────────────────────────────────────────────────────────────────────────

    def add_pod(self, name: str, memory: str) -> bool:
        """A pod that only takes room. False when the scheduler finds none: resizes that wait hold theirs (F6)."""
        wanted = spec.request_bytes({"requests": {"memory": memory}})
        with self.store.lock:
            held = sum(self._held(runtime) for runtime in self._runtimes.values() if not runtime.gone)
            about: Json = {"kind": "Pod", "metadata": {"name": name, "namespace": self.namespace}}
            if held + sum(self._ballast.values()) + wanted > self.capacity_bytes:
                message = (
                    "0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, "
                    "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
                )
                self.store.event(about, "Warning", "FailedScheduling", message, "")
                return False
            self._ballast[name] = wanted
            text = f"Successfully assigned {self.namespace}/{name} to node1"
            self.store.event(about, "Normal", "Scheduled", text, "")
            return True

    def remove_pod(self, name: str) -> None:
        """That pod leaves; a deferred resize may be granted now."""
        with self.store.lock:
            del self._ballast[name]
            self.room_changed(name)

    def _held(self, runtime: PodRuntime) -> int:
        wanted = spec.pod_request_bytes(spec.resources_of(runtime.pod["spec"]))
        return max(wanted, spec.pod_request_bytes(runtime.allocated()))

    # ── what the pods' kubelet asks ──────────────────────────────────────────────────────────────────────

    def used_by_others(self, uid: str) -> int:
        others = [runtime for key, runtime in self._runtimes.items() if key != uid and not runtime.gone]
        return sum(self._ballast.values()) + sum(spec.pod_request_bytes(other.allocated()) for other in others)

    def static_policy(self) -> bool:
        return self.rules.static_policy

    def room_changed(self, leaving: str) -> None:
        for uid, runtime in self._runtimes.items():
            if uid != leaving:
                runtime.room()

    def pod_changed(self, uid: str) -> None:
        runtime = self._runtimes.get(uid)
        if runtime is None or self._closed:
            return
        if runtime.gone and "deletionTimestamp" in runtime.pod["metadata"]:
            meta = runtime.pod["metadata"]
            self.store.pods.pop((meta["namespace"], meta["name"]), None)
        for run in self._jobs:
            if runtime in run.pods:
                self._sync(run)

    def failed(self, error: Exception) -> None:
        self.failure = error
        self.store.notify()

    # ── what the API server asks ─────────────────────────────────────────────────────────────────────────

    def user(self, token: str) -> User | None:
        return self._tokens.get(token)

    def resized(self, pod: Json) -> None:
        runtime = self._runtimes[pod["metadata"]["uid"]]
        same = spec.resources_of(pod["spec"]) == runtime.allocated()
        runtime.patched(withdraws=same and runtime.waiting_for_room())

    def kubeconfig(self) -> Path:
        """A kubeconfig for an operator, as the official client and kubectl read it."""
        path = self.folder / "kubeconfig"
        cluster = {
            "server": f"https://{_ADDRESS}:{self._server.port}",
            "certificate-authority": os.fspath(self.ca_file),
        }
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "node",
            "clusters": [{"name": "node", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.admin_token}}],
            "contexts": [
                {"name": "node", "context": {"cluster": "node", "user": "admin", "namespace": self.namespace}}
            ],
        }
        # JSON is YAML.
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as out:
            json.dump(body, out)
        return path

    # ── the Job controller ───────────────────────────────────────────────────────────────────────────────

    def _sync(self, run: _JobRun) -> None:
        """Looks at the pods of the Job and does what follows. Holds the lock."""
        if run.stopped or run.verdict.condition:
            self._write_job(run)
            return
        verdict = job.evaluate(run.spec, [_facts(pod) for pod in run.pods])
        if verdict.condition:
            run.verdict = verdict
            for pod in run.pods:
                if not pod.gone:
                    pod.delete()
        elif verdict.create_pod and not run.replacement_due:
            run.replacement_due = True
            delay_s = job.replacement_delay_s(self.timings, verdict.failed_pods)
            timer = threading.Timer(delay_s, self._replace, (run,))
            timer.daemon = True
            timer.start()
        else:
            run.verdict = replace(verdict, create_pod=False)
        self._write_job(run)

    def _replace(self, run: _JobRun) -> None:
        with self.store.lock:
            run.replacement_due = False
            if not (self._closed or run.stopped or run.verdict.condition):
                self._create(run)

    def _write_job(self, run: _JobRun) -> None:
        key = (str(run.template["metadata"]["namespace"]), run.name)
        first = key not in self.store.jobs
        body = self.store.jobs.setdefault(
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
            status["succeeded"] = int(verdict.condition == "Complete")
        if first or body["status"] != status:
            body["status"] = status
            self.store.touch(body)


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
    )
