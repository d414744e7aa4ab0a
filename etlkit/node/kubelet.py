"""One pod on the node: containers started, restarted, resized, stopped, and the status moved in the recorded order.

    PATCH ─ 30–60 ms ─ observedGeneration + condition + allocatedResources ─ limit file or SIGTERM … start ─ resources

Covers F2 to F6, F10 to F15, F19 to F21 and F26. It does not decide about the Job, nor whether a PATCH is accepted.
Every method runs on the pod's own worker, holding the store's lock, unless it says otherwise.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from . import environment, job, spec, status
from .answers import Json
from .container import ContainerRun, LineSink, RunningContainer, small_environment
from .enforce import PodGroup
from .faults import Faults
from .job import Backoff
from .store import Store
from .timings import Timings
from .worker import Worker


class Host(Protocol):
    """What the pod needs of its node."""

    store: Store
    faults: Faults
    timings: Timings
    capacity_bytes: int

    def used_by_others(self, uid: str) -> int: ...

    def static_policy(self) -> bool: ...

    def room_changed(self, leaving: str) -> None: ...

    def pod_changed(self, uid: str) -> None: ...

    def failed(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the pod's processes run and where their output goes."""

    environment: Mapping[str, str]
    api_environment: Mapping[str, str]
    folder: Path
    working_folder: Path | None = None
    stdout: Callable[[str, bytes], None] | None = None
    stderr: Callable[[str, bytes], None] | None = None
    on_event: Callable[[Json], None] | None = None


@dataclass(slots=True)
class _Container:
    """One container of the pod, with what the status does not say."""

    manifest: Json
    view: status.ContainerView
    backoff: Backoff
    process: RunningContainer | None = None
    run: ContainerRun | None = None
    stopping: str = ""
    """``resize``, ``delete`` or ``finish``: SIGTERM was sent for that."""
    starting: bool = False
    ended: bool = False
    """It will not be started again."""
    starts: int = 0

    @property
    def name(self) -> str:
        return self.view.name


@dataclass(slots=True)
class _Pending:
    """A resize that waits for room."""

    retries: int = 0
    ticket: int = 0


@dataclass(slots=True)
class PodRuntime:
    """The kubelet's view of one pod. ``start`` it, then tell it of patches, room and deletion."""

    host: Host
    pod: Json
    group: PodGroup
    around: Surroundings
    history: list[ContainerRun] = field(default_factory=list)
    phase: str = "Pending"
    gone: bool = False
    """All its processes have ended and it takes no room any more."""
    _containers: list[_Container] = field(default_factory=list)
    _resize: status.ResizeView = field(default_factory=status.ResizeView)
    _observed: int = 1
    _pending: _Pending = field(default_factory=_Pending)
    _patched_s: float = 0.0
    _first_requests: Json = field(default_factory=dict)
    _deleting: bool = False
    _disrupted: str = ""
    _worker: Worker | None = None
    _random: random.Random = field(default_factory=random.Random)
    _stale_limit_bytes: int | None = None

    # ── told from outside, by any thread ─────────────────────────────────────────────────────────────────

    def start(self) -> None:
        name = f"etlkit-pod-{self.pod['metadata']['name']}"
        self._worker = Worker(name, self.host.store.lock, self._broke)
        self._worker.post(self._begin)

    def patched(self, *, withdraws: bool) -> None:
        """The spec has a new size."""
        self._patched_s = time.monotonic()
        span = self.host.timings.withdraw_s if withdraws else self.host.timings.observe_s
        self._post(self._observe, self._random.uniform(*span) + self.host.faults.status_lag_s)

    def room(self) -> None:
        """Another pod has left."""
        if self._resize.pending is not None:
            self._post(self._retry, self.host.timings.room_s)

    def delete(self, grace_s: float | None = None, reason: str = "") -> None:
        """SIGTERM, grace, SIGKILL. ``reason`` is that of a DisruptionTarget condition, for a drain or an eviction."""
        self._post(lambda: self._delete(grace_s, reason))

    def kill(self, container: str, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal from nowhere to a container, as a test of a crash sends it."""
        found = self._named(container)
        if found.process is not None:
            found.process.signal(number)

    def process_id(self, container: str) -> int | None:
        found = self._named(container)
        return None if found.process is None else found.process.pid

    def waiting_for_room(self) -> bool:
        return self._resize.pending is not None

    def allocated(self) -> dict[str, Json]:
        return {item.name: item.view.allocated for item in self._containers} or spec.resources_of(self.pod["spec"])

    def stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker.join(2.0)

    def destroy(self) -> None:
        """At the end of the node: every process is killed, every group removed."""
        self.stop_worker()
        for item in self._containers:
            if item.process is not None:
                item.process.group.kill_all()
        self.group.remove()

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        for where, _, manifest in spec.containers(self.pod["spec"]):
            resources = manifest["resources"]
            view = status.ContainerView(
                manifest["name"], where == spec.SIDECARS, manifest["image"], dict(resources), dict(resources)
            )
            self._containers.append(_Container(manifest, view, Backoff(self.host.timings)))
        self._first_requests = spec.summed(self.allocated(), "requests")
        self._set_pod_group()
        self.host.store.event(
            self.pod,
            "Normal",
            "Scheduled",
            f"Successfully assigned {self.pod['metadata']['namespace']}/{self.pod['metadata']['name']} to node1",
            "",
        )
        for item in self._containers:
            self._launch(item)
        self.phase = "Running"
        self._publish()

    def _launch(self, item: _Container) -> None:
        """Starts a run at the allocated size; what was resized meanwhile has taken effect with it (F2, F14)."""
        item.starting = False
        if self._deleting or item.ended:
            return
        if self.host.faults.start_fails():
            self._start_failed(item)
            return
        if self._stale_limit_bytes is None:
            self._set_pod_group()
        view = item.view
        view.actual = json.loads(json.dumps(view.allocated))
        limit = spec.limit_bytes(view.actual)
        group = self.group.container(f"{item.name}-{item.starts}")
        item.starts += 1
        group.set_memory(limit)
        group.set_cpu(spec.limit_cores(view.actual))
        now = time.monotonic()
        run = ContainerRun(item.name, view.restart_count, limit, now, [(now, limit)])
        item.process = RunningContainer(
            [str(part) for part in [*item.manifest.get("command", ()), *item.manifest.get("args", ())]],
            environment=self._environment(item, group.environment),
            group=group,
            on_exit=lambda code: self._post(lambda: self._exited(item, run, code)),
            folder=self.around.working_folder,
            stdout=_named_sink(self.around.stdout, item.name),
            stderr=_named_sink(self.around.stderr, item.name),
        )
        item.run, item.stopping = run, ""
        self.history.append(run)
        view.state = {"running": {"startedAt": spec.now_text()}}
        view.container_id = f"process://{uuid.uuid4().hex}{uuid.uuid4().hex}"
        if item.starts == 1:
            self.host.store.event(self.pod, "Normal", "Created", "Container created")
        self.host.store.event(self.pod, "Normal", "Started", "Container started")
        self._tell(
            {
                "event": "container_started",
                "container": item.name,
                "restart_count": view.restart_count,
                "limit_bytes": limit,
            }
        )
        self._settle()

    def _start_failed(self, item: _Container) -> None:
        """F12: the container is found exited; with code 0 that means that it is done."""
        self.host.store.event(self.pod, "Warning", "Failed", "Error: failed to start the container")
        last = item.run
        code = 128 if last is None or last.exit_code is None else last.exit_code
        item.view.state = self._terminated(item, code, last.reason if last and last.reason else "StartError")
        if code == 0:
            item.ended = True
            self._after_end()
        else:
            self._start_later(item, self._random.uniform(*self.host.timings.restart_s))
        self._publish()

    def _environment(self, item: _Container, from_group: Mapping[str, str]) -> dict[str, str]:
        base = dict(self.around.environment) or small_environment()
        sized = json.loads(json.dumps(item.manifest)) | {"resources": item.view.allocated}
        values = environment.resolve(self.pod, sized)
        return base | dict(self.around.api_environment) | values | dict(from_group)

    # ── a container has ended ────────────────────────────────────────────────────────────────────────────

    def _exited(self, item: _Container, run: ContainerRun, code: int) -> None:
        if item.run is not run or item.process is None:
            return
        group = item.process.group
        run.ended_s, run.exit_code = time.monotonic(), code
        run.oom_kills, run.peak_bytes = group.oom_kills(), group.peak_bytes()
        run.reason = "Completed" if code == 0 else "OOMKilled" if run.oom_kills else "Error"
        run.asked_to_stop = item.stopping
        item.process = None
        group.remove()
        terminated = self._terminated(item, code, run.reason)
        timings = self.host.timings
        if item.stopping in ("delete", "finish") or self._deleting:
            item.ended = True
            item.view.state = terminated
            delay_s = None
        elif item.stopping == "resize":
            # The status goes on saying "running": the restart is one step of the kubelet (recorded).
            item.view.last_state = terminated
            delay_s = self._random.uniform(*timings.restart_s)
        else:
            delay_s = self._after_own_exit(item, run, code, terminated)
        self._tell(
            {
                "event": "container_exited",
                "container": item.name,
                "exit_code": code,
                "reason": run.reason,
                "oom_killed": run.oom_kills > 0,
                "restart_in_s": delay_s,
            }
        )
        if delay_s is not None:
            self._start_later(item, delay_s)
        else:
            self._after_end()
        if item.stopping != "resize":
            self._publish()

    def _after_own_exit(self, item: _Container, run: ContainerRun, code: int, terminated: Json) -> float | None:
        """Seconds to the next start, or None when there is none."""
        item.view.state = terminated
        sidecar = item.view.sidecar
        decision = job.restart("Always" if sidecar else self.pod["spec"]["restartPolicy"], item.manifest, code)
        if not decision.again:
            item.ended = True
            return None
        if self.host.faults.stale_pod_limit and item.view.allocated != item.view.actual:
            self._stale_limit_bytes = spec.pod_limit_bytes(self._actual())
        timings = self.host.timings
        key = json.dumps(item.view.allocated, sort_keys=True)
        assert run.ended_s is not None
        wait_s = item.backoff.next_delay_s(key, run.ended_s)
        if wait_s:
            name, uid = self.pod["metadata"]["name"], self.pod["metadata"]["uid"]
            item.view.last_state = terminated
            item.view.state = {
                "waiting": {
                    "reason": "CrashLoopBackOff",
                    "message": f"back-off {wait_s:g}s restarting failed container={item.name} "
                    f"pod={name}_{self.pod['metadata']['namespace']}({uid})",
                }
            }
            text = f"Back-off restarting failed container {item.name} in pod {name}_"
            self.host.store.event(self.pod, "Warning", "BackOff", f"{text}{self.pod['metadata']['namespace']}({uid})")
            return wait_s
        return timings.rule_restart_s if decision.by_rule else self._random.uniform(*timings.restart_s)

    def _start_later(self, item: _Container, delay_s: float) -> None:
        item.starting = True
        ticket = item.starts

        def again() -> None:
            # A new size gives a fresh back-off: then the container was started before this moment came.
            if item.starting and item.starts == ticket:
                if "terminated" in item.view.state:
                    item.view.last_state = item.view.state
                item.view.restart_count += 1
                self._launch(item)
                self._publish()

        self._post(again, delay_s)

    def _after_end(self) -> None:
        """The pod's phase, once no main container runs any more; then the sidecars end too."""
        mains = [item for item in self._containers if not item.view.sidecar]
        if not all(item.ended for item in mains):
            return
        sidecars = [item for item in self._containers if item.view.sidecar and not item.ended]
        for item in sidecars:
            if item.process is None:
                item.ended = True
            elif not item.stopping:
                self._terminate(item, "finish", float(self.pod["spec"]["terminationGracePeriodSeconds"]))
        if any(not item.ended for item in sidecars):
            return
        codes = [self._last_code(item) for item in mains]
        self.phase = "Succeeded" if all(code == 0 for code in codes) else "Failed"
        self.gone = True
        self._publish()
        self.group.remove()
        self.host.room_changed(self.pod["metadata"]["uid"])

    def _last_code(self, item: _Container) -> int:
        for run in reversed(self.history):
            if run.container == item.name and run.exit_code is not None:
                return run.exit_code
        return 137

    def _terminated(self, item: _Container, code: int, reason: str) -> Json:
        since = item.view.state.get("running", {}).get("startedAt", spec.now_text())
        return {
            "terminated": {
                "exitCode": code,
                "reason": reason,
                "startedAt": since,
                "finishedAt": spec.now_text(),
                "containerID": item.view.container_id,
            }
        }

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────

    def _terminate(self, item: _Container, why: str, grace_s: float) -> None:
        """SIGTERM to the first process; SIGKILL to all after the grace period (F3)."""
        process, run = item.process, item.run
        if process is None or run is None:
            return
        item.stopping = why
        if why != "resize":
            self.host.store.event(self.pod, "Normal", "Killing", f"Stopping container {item.name}")
        process.signal(signal.SIGTERM)

        def too_late() -> None:
            if item.run is run and item.process is process:
                run.outlived_grace = True
                process.signal(signal.SIGKILL)

        self._post(too_late, grace_s)

    def _delete(self, grace_s: float | None, reason: str) -> None:
        if self.gone or self._deleting:
            return
        self._deleting = True
        self._disrupted = reason
        period = float(self.pod["spec"]["terminationGracePeriodSeconds"])
        grace = period if grace_s is None else min(grace_s, period)
        self.pod["metadata"]["deletionTimestamp"] = spec.now_text()
        self.pod["metadata"]["deletionGracePeriodSeconds"] = int(grace)
        for item in self._containers:
            if item.process is not None:
                self._terminate(item, "delete", grace)
            else:
                item.ended = True
        self._publish()
        self._after_end()

    # ── resizing ─────────────────────────────────────────────────────────────────────────────────────────

    def _observe(self) -> None:
        """The kubelet has seen the new spec."""
        if self.gone or self._deleting:
            return
        generation = self.pod["metadata"]["generation"]
        if generation == self._observed:
            return
        self._observed = generation
        self._pending = _Pending(ticket=self._pending.ticket + 1)
        self._decide()
        self._publish()

    def _retry(self) -> None:
        if self._resize.pending is not None and not self.gone and not self._deleting:
            self._decide()
            self._publish()

    def _decide(self) -> None:
        """Grants, defers or rejects the size in the spec."""
        wanted = spec.resources_of(self.pod["spec"])
        request = spec.pod_request_bytes(wanted)
        before = spec.pod_request_bytes(self.allocated())
        capacity, used = self.host.capacity_bytes, self.host.used_by_others(self.pod["metadata"]["uid"])
        now = spec.now_text()
        if self.host.static_policy() and self.pod["status"]["qosClass"] == "Guaranteed" and wanted != self.allocated():
            text = "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy"
            self._wait_with(status.condition("PodResizePending", now, reason="Infeasible", message=text))
        elif request > before and request > capacity:
            text = f"Node didn't have enough capacity: memory, requested: {request}, capacity: {capacity}"
            self._wait_with(status.condition("PodResizePending", now, reason="Infeasible", message=text))
        elif request > before and request + used > capacity:
            text = f"Node didn't have enough resource: memory, requested: {request}, used: {used}, capacity: {capacity}"
            self._wait_with(status.condition("PodResizePending", now, reason="Deferred", message=text))
            self._retry_later()
        else:
            self._resize.pending = None
            self._allocate(wanted)

    def _wait_with(self, condition: Json) -> None:
        old = self._resize.pending
        if old is None or old["message"] != condition["message"]:
            reason = str(condition["reason"])
            word = "OutOfmemory" if reason == "Deferred" else reason
            text = f"Pod resize {word}: {self._event_body(condition['message'])}"
            self.host.store.event(self.pod, "Warning", f"Resize{reason}", text)
            self._resize.pending = condition

    def _retry_later(self) -> None:
        first, later = self.host.timings.deferred_retry_s
        ticket = self._pending.ticket
        delay_s = first if self._pending.retries == 0 else later
        self._pending.retries += 1
        self._post(lambda: self._retry() if self._pending.ticket == ticket else None, delay_s)

    def _allocate(self, wanted: Mapping[str, Json]) -> None:
        changed = False
        for item in self._containers:
            changed = changed or item.view.allocated != wanted[item.name]
            item.view.allocated = dict(wanted[item.name])
        self.host.room_changed(self.pod["metadata"]["uid"])
        open_items = [item for item in self._containers if item.view.allocated != item.view.actual]
        if not open_items:
            self._resize.in_progress = None
            return
        if changed:
            self._resize.in_progress = status.condition("PodResizeInProgress", spec.now_text())
            self.host.store.event(self.pod, "Normal", "ResizeStarted", f"Pod resize started: {self._event_body()}")
        generation = self._observed
        for item in open_items:
            if self._must_restart(item):
                delay_s = max(0.0, self._patched_s + self.host.timings.sigterm_s - time.monotonic())
                self._post(lambda item=item: self._restart_for(item, generation), delay_s)  # type: ignore[misc]
            elif item.process is not None:
                self._post(lambda item=item: self._apply_live(item, generation), self.host.timings.live_apply_s)  # type: ignore[misc]
            elif item.starting:
                # In back-off: a new size starts at once.
                self._start_later(item, self._random.uniform(*self.host.timings.restart_s))

    def _must_restart(self, item: _Container) -> bool:
        if item.process is None:
            return False
        for resource in spec.RESOURCES:
            for kind in ("limits", "requests"):
                was = (item.view.actual.get(kind) or {}).get(resource)
                now = (item.view.allocated.get(kind) or {}).get(resource)
                if was != now and spec.resize_policy(item.manifest, resource) == "RestartContainer":
                    return True
        return False

    def _restart_for(self, item: _Container, generation: int) -> None:
        if generation == self._observed and item.process is not None and not item.stopping and not self._deleting:
            self._terminate(item, "resize", float(self.pod["spec"]["terminationGracePeriodSeconds"]))

    def _apply_live(self, item: _Container, generation: int) -> None:
        """Writes the limit file. A shrink below use, page cache counted, is not tried by the kubelet (F5)."""
        process, run = item.process, item.run
        if generation != self._observed or process is None or run is None or self._deleting:
            return
        before, after = spec.limit_bytes(item.view.actual), spec.limit_bytes(item.view.allocated)
        shrinks = after is not None and (before is None or after < before)
        if shrinks and after is not None and process.group.usage_bytes() > after:
            self._shrink_failed(item, after, process.group.usage_bytes())
            self._post(lambda: self._apply_live(item, generation), self.host.timings.resize_error_retry_s)
            return
        if not shrinks:
            self._set_pod_group()
        process.group.set_memory(after)
        process.group.set_cpu(spec.limit_cores(item.view.allocated))
        if before != after:
            run.limits.append((time.monotonic(), after))

        def shown() -> None:
            if item.run is run and generation == self._observed:
                old = json.loads(json.dumps(self.pod["status"]))
                item.view.actual = json.loads(json.dumps(item.view.allocated))
                if shrinks:
                    self._set_pod_group()
                self._settle()
                self._publish()
                if self.host.faults.flip_back:
                    self._flip_back(old)

        self._post(shown, self.host.timings.live_status_s + self.host.faults.status_lag_s)

    def _shrink_failed(self, item: _Container, limit_bytes: int, usage_bytes: int) -> None:
        error = (
            f'cannot decrease memory limits: attempting to set container "{item.name}" memory limit '
            f"({limit_bytes}) below current usage ({usage_bytes})"
        )
        self.host.store.event(self.pod, "Warning", "ResizeError", f"Pod resize error: {self._event_body(error)}")
        if self.host.faults.error_in_condition and self._resize.in_progress is not None:
            self._resize.in_progress |= {"reason": "Error", "message": error}
        self._publish()

    def _settle(self) -> None:
        """A resize is done when every container has what is allocated to it."""
        if self._resize.in_progress is None or any(i.view.allocated != i.view.actual for i in self._containers):
            return
        self._resize.in_progress = None
        self._stale_limit_bytes = None
        self.host.store.event(self.pod, "Normal", "ResizeCompleted", f"Pod resize completed: {self._event_body()}")

    def _flip_back(self, old: Json) -> None:
        """F21: the status from before comes back for a moment."""

        def back() -> None:
            self.pod["status"] = old
            self.host.store.touch(self.pod)

        self._post(back, self.host.timings.live_status_s)
        self._post(self._publish, self.host.timings.live_status_s + self.host.timings.flip_back_s)

    def _set_pod_group(self) -> None:
        self.group.set_memory(spec.pod_limit_bytes(self.allocated()))

    def _actual(self) -> dict[str, Json]:
        return {item.name: item.view.actual for item in self._containers}

    def _event_body(self, error: str = "") -> str:
        resources = spec.resources_of(self.pod["spec"])
        shown: Json = {
            "containers": [{"name": name, "resources": values} for name, values in resources.items()],
            "generation": self.pod["metadata"]["generation"],
        }
        return json.dumps(shown | ({"error": error} if error else {}), separators=(",", ":"))

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────

    def _publish(self) -> None:
        extra = [status.condition("DisruptionTarget", spec.now_text(), reason=self._disrupted)]
        status.write(
            self.pod,
            [item.view for item in self._containers],
            self._resize,
            phase=self.phase,
            observed_generation=self._observed,
            first_requests=self._first_requests,
            extra_conditions=extra if self._disrupted else (),
        )
        self._write_downward()
        self.host.store.touch(self.pod)
        self.host.pod_changed(self.pod["metadata"]["uid"])

    def _write_downward(self) -> None:
        for volume in self.pod["spec"].get("volumes") or ():
            if "downwardAPI" in volume:
                environment.write_downward(self.around.folder / "volumes" / volume["name"], self.pod, volume)

    def _tell(self, event: Json) -> None:
        if self.around.on_event is not None:
            self.around.on_event(event)

    def _post(self, action: Callable[[], None], delay_s: float = 0.0) -> None:
        assert self._worker is not None
        self._worker.post(action, delay_s)

    def _named(self, container: str) -> _Container:
        for item in self._containers:
            if item.name == container:
                return item
        raise KeyError(container)

    def _broke(self, error: Exception) -> None:
        self.host.failed(error)


def _named_sink(sink: Callable[[str, bytes], None] | None, name: str) -> LineSink | None:
    return None if sink is None else lambda line: sink(name, line)


def downward_folder(pod_folder: Path, volume: str) -> Path:
    """Where a ``downwardAPI`` volume of the pod lies on this machine."""
    return Path(os.fspath(pod_folder)) / "volumes" / volume
