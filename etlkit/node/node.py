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
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from . import admission, certificates, enforce, environment, job, spec, status
from .admission import Rules, User
from .answers import Json
from .api import ApiServer
from .controller import JobController, JobHandle, JobRun, MakeSurroundings, PodResult
from .enforce import Enforcer
from .faults import Faults
from .job import JobSpec
from .kubelet import PodRuntime
from .kubelet_parts import Surroundings
from .operator_api import PodLog
from .store import Store
from .timings import Timings

_ADDRESS = "127.0.0.1"


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
        patch = 2 if minor == 36 else 0
        self.version: Json = {
            "major": "1",
            "minor": str(minor),
            "gitVersion": f"v1.{minor}.{patch}",
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": spec.now_text(),
            "goVersion": "",
            "compiler": "",
            "platform": "linux/amd64",
        }
        self.enforcer: Enforcer = enforcer or enforce.choose(enforcement)
        self.folder = Path(tempfile.mkdtemp(prefix="etlkit-node-"))
        self._runtimes: dict[str, PodRuntime] = {}
        self._logs: dict[str, PodLog] = {}
        self._ballast: dict[str, int] = {}
        self._jobs = JobController(self)
        self._tokens: dict[str, User] = {}
        self.admin_token = secrets.token_urlsafe(32)
        self._tokens[self.admin_token] = User("kubernetes-admin")
        self.closed = False
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
        if self.closed:
            return
        self.closed = True
        with self.store.lock:
            runtimes = list(self._runtimes.values())
            self._jobs.stop()
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
        completions: int | None = None,
    ) -> JobHandle:
        """Creates a Job. ``command`` and ``env`` are given to the first container; output goes line by line to the
        sinks (container, line), or to where the node's own goes. With ``completions`` it is an Indexed Job: sinks are told
        ``container[index]``, and events carry ``index``."""
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
                max_memory=max_memory,
                backoff_limit=backoff_limit,
            )
            if entry["name"] not in known
        ]
        policy = template["spec"].get("restartPolicy", "Always")
        name = str(template["metadata"]["name"])
        template["metadata"].setdefault("namespace", self.namespace)

        def around(index: int | None) -> MakeSurroundings:
            def make(folder: Path, api: Mapping[str, str]) -> Surroundings:
                out, err = _of_index(stdout, index), _of_index(stderr, index)
                tell = _told_index(on_event, index)
                return Surroundings(environment_base or {}, api, folder, working_folder, out, err, tell)

            return make

        replacement = job.replacement_policy(replacement_policy, bool(failure_rules))
        job_spec = JobSpec(policy, backoff_limit, tuple(failure_rules), replacement, completions, completions or 1)
        return self._jobs.start(JobRun(name, job_spec, template, around, created_s=time.monotonic()))

    def apply_job(self, manifest: Json) -> JobHandle:
        """A Job as ``kubectl apply`` sends it."""
        body, template = manifest.get("spec") or {}, copy.deepcopy((manifest.get("spec") or {}).get("template") or {})
        meta = manifest["metadata"]
        template["metadata"] = (template.get("metadata") or {}) | {"name": meta["name"], "namespace": meta["namespace"]}
        limit = body.get("backoffLimit")
        indexed = body.get("completionMode") == "Indexed"
        log, logs = PodLog(), defaultdict[int, PodLog](PodLog)
        per_index = indexed and body.get("backoffLimitPerIndex") is not None
        job_spec = JobSpec(
            str((template.get("spec") or {}).get("restartPolicy", "Always")),
            int(limit) if limit is not None else None if per_index else 6,
            tuple((body.get("podFailurePolicy") or {}).get("rules") or ()),
            job.replacement_policy(body.get("podReplacementPolicy"), bool(body.get("podFailurePolicy"))),
            int(body.get("completions") or 1) if indexed else None,
            int(body.get("parallelism", 1)),
            body.get("backoffLimitPerIndex"),
            bool(body.get("suspend")),
        )

        def around(index: int | None) -> MakeSurroundings:
            return self._logged(log if index is None else logs[index])

        run = JobRun(meta["name"], job_spec, template, around, created_s=time.monotonic())
        return self._jobs.start(run)

    def apply_pod(self, manifest: Json) -> PodRuntime:
        """A bare pod as ``kubectl apply`` sends it."""
        with self.store.lock:
            return self.place(manifest, self._logged(PodLog()))

    def _logged(self, log: PodLog) -> MakeSurroundings:
        def around(folder: Path, api: Mapping[str, str]) -> Surroundings:
            self._logs[folder.name] = log
            return Surroundings({}, api, folder, stdout=log.write, stderr=log.write, on_event=log.event)

        return around

    def job_handle(self, namespace: str, name: str) -> JobHandle:
        return self._jobs.handle(namespace, name)

    def log_of(self, uid: str) -> PodLog:
        return self._logs.get(uid) or PodLog()

    def pod_runtime(self, namespace: str, name: str) -> PodRuntime:
        with self.store.lock:
            return self._runtimes[self.store.pod(namespace, name)["metadata"]["uid"]]

    def start_pod(self, manifest: Json, *, stdout: Callable[[str, bytes], None] | None = None) -> PodRuntime:
        """A bare pod, without a Job (F29)."""
        given = copy.deepcopy(manifest)
        given["metadata"].setdefault("namespace", self.namespace)
        with self.store.lock:
            return self.place(given, lambda folder, api: Surroundings({}, api, folder, stdout=stdout))

    def place(self, manifest: Json, around: MakeSurroundings) -> PodRuntime:
        """Creates the pod and starts it when there is room. Holds the lock."""
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
        self._tokens[token] = User(name, meta["uid"], meta["name"], meta["namespace"])
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
        return self.pod_runtime(self.namespace, pod_name)

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
        about: Json = {"kind": "Pod", "metadata": {"name": name, "namespace": self.namespace}}
        with self.store.lock:
            if not self.has_room(name, wanted):
                self.store.event(about, "Warning", "FailedScheduling", status.NO_ROOM, "")
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

    # ── what the pods' kubelet asks ──────────────────────────────────────────────────────────────────────

    def used_by_others(self, uid: str) -> int:
        """What the kubelet counts: what is allocated."""
        return sum(self._ballast.values()) + sum(
            spec.pod_request_bytes(other.allocated()) for other in self._placed(uid)
        )

    def has_room(self, uid: str, request_bytes: int) -> bool:
        """What the scheduler counts: of each pod the larger of what it wants and what it has (F6)."""
        held = sum(self._ballast.values())
        for other in self._placed(uid):
            wanted = spec.pod_request_bytes(spec.resources_of(other.pod["spec"]))
            held += max(wanted, spec.pod_request_bytes(other.allocated()))
        return held + request_bytes <= self.capacity_bytes

    def _placed(self, uid: str) -> list[PodRuntime]:
        return [pod for key, pod in self._runtimes.items() if key != uid and pod.scheduled and not pod.gone]

    def infeasible(self, pod: Json, wanted: Mapping[str, Json], allocated: Mapping[str, Json]) -> str | None:
        return self.rules.infeasible(pod, wanted, allocated)

    def room_changed(self, leaving: str) -> None:
        for uid, runtime in self._runtimes.items():
            if uid != leaving:
                runtime.room()

    def pod_changed(self, uid: str) -> None:
        runtime = self._runtimes.get(uid)
        if runtime is None or self.closed:
            return
        if runtime.gone and "deletionTimestamp" in runtime.pod["metadata"]:
            meta = runtime.pod["metadata"]
            self.store.pods.pop((meta["namespace"], meta["name"]), None)
        self._jobs.pod_changed(runtime)

    def failed(self, error: Exception) -> None:
        self.failure = error
        self.store.notify()

    # ── what the API server asks ─────────────────────────────────────────────────────────────────────────

    def user(self, token: str) -> User | None:
        return self._tokens.get(token)

    def resized(self, pod: Json) -> None:
        runtime = self._runtimes[pod["metadata"]["uid"]]
        same = spec.resources_of(pod["spec"]) == runtime.allocated()
        runtime.resizing.patched(withdraws=same and runtime.waiting_for_room())

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


def _of_index(sink: Callable[[str, bytes], None] | None, index: int | None) -> Callable[[str, bytes], None] | None:
    if sink is None or index is None:
        return sink
    return lambda container, line: sink(f"{container}[{index}]", line)


def _told_index(tell: Callable[[Json], None] | None, index: int | None) -> Callable[[Json], None] | None:
    if tell is None or index is None:
        return tell
    return lambda event: tell({**event, "index": index})
