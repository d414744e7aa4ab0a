"""One pod on the node: containers started, restarted, resized, stopped, and the status moved in the recorded order.

Covers F3, F10 to F14 and F20. It does not decide about the Job; the pod's size is ``resizing``'s.
Every method runs on the pod's own worker, holding the store's lock, unless it says otherwise.
"""

from __future__ import annotations

import copy
import json
import random
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from . import environment, job, spec, status
from .answers import Json
from .container import ContainerRun, LineSink, RunningContainer, small_environment
from .enforce import PodGroup
from .job import Backoff
from .kubelet_parts import ContainerState, Host, Surroundings
from .resizing import Resizing
from .worker import Worker


class PodRuntime:
    """The kubelet's view of one pod. ``start`` it, then tell it of patches (``resizing``), room and deletion."""

    def __init__(self, host: Host, pod: Json, group: PodGroup, around: Surroundings) -> None:
        self.host = host
        self.pod = pod
        self.group = group
        self.around = around
        self.containers: list[ContainerState] = []
        self.history: list[ContainerRun] = []
        self.phase = "Pending"
        self.deleting = False
        self.scheduled = False
        self.gone = False
        """All its processes have ended and it takes no room any more."""
        self.random = random.Random()
        self.resizing = Resizing(self)
        self.lost = False
        """The API server hears nothing of it any more; its processes go on."""
        self._first_requests: Json = {}
        self._disrupted = ""
        self._grace_ends_s: float | None = None
        self._worker: Worker | None = None

    # ── told from outside, by any thread ─────────────────────────────────────────────────────────────────

    def start(self) -> None:
        name = f"etlkit-pod-{self.pod['metadata']['name']}"
        self._worker = Worker(name, self.host.store.lock, self._broke)
        self._worker.post(self._begin)

    def room(self) -> None:
        """Another pod has left, or has shrunk."""
        if self.scheduled:
            self.resizing.room()
        else:
            self.post(self._begin, self.host.timings.room_s)

    def delete(self, grace_s: float | None = None, reason: str = "") -> None:
        """SIGTERM, grace, SIGKILL. ``reason`` is that of a DisruptionTarget condition, for a drain or an eviction."""
        self.post(lambda: self._delete(grace_s, reason))

    def lose(self) -> None:
        """Its node no longer answers: it is marked for deletion, and nobody tells its processes (F24)."""
        self.post(self._lose)

    def forget(self) -> None:
        """Deleted by force, or its lost node is tainted out-of-service: for the API server it is gone."""
        self.post(self._forget)

    def kill(self, container: str, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal from nowhere to a container, as a test of a crash sends it."""
        found = self._named(container)
        if found.process is not None:
            found.process.signal(number)

    def process_id(self, container: str) -> int | None:
        found = self._named(container)
        return None if found.process is None else found.process.pid

    def waiting_for_room(self) -> bool:
        return self.resizing.view.pending is not None

    def allocated(self) -> dict[str, Json]:
        return {item.name: item.view.allocated for item in self.containers} or spec.resources_of(self.pod["spec"])

    def stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker.join(2.0)

    def destroy(self) -> None:
        """At the end of the node: every process is killed, every group removed."""
        self.stop_worker()
        for item in self.containers:
            if item.process is not None:
                item.process.group.kill_all()
        self.group.remove()

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        if self.scheduled or self.deleting:
            return
        if not self.host.has_room(self.pod["metadata"]["uid"], spec.pod_request_bytes(self.allocated())):
            self._unschedulable()
            return
        self.scheduled = True
        for where, _, manifest in spec.containers(self.pod["spec"]):
            resources = manifest["resources"]
            view = status.ContainerView(
                manifest["name"], where == spec.SIDECARS, manifest["image"], dict(resources), dict(resources)
            )
            self.containers.append(ContainerState(manifest, view, Backoff(self.host.timings)))
        self._first_requests = spec.summed(self.allocated(), "requests")
        self.resizing.set_pod_group()
        self.host.store.event(
            self.pod,
            "Normal",
            "Scheduled",
            f"Successfully assigned {self.pod['metadata']['namespace']}/{self.pod['metadata']['name']} to node1",
            "",
        )
        for item in self.containers:
            self._launch(item)
        self.phase = "Running"
        self.publish()

    def _unschedulable(self) -> None:
        """The pod stays Pending until somebody leaves."""
        if not self.pod["status"]["conditions"]:
            self.host.store.event(self.pod, "Warning", "FailedScheduling", status.NO_ROOM, "")
            self.pod["status"]["conditions"] = [status.unschedulable()]
            self.host.store.touch(self.pod)

    def _launch(self, item: ContainerState) -> None:
        """Starts a run at the allocated size; what was resized meanwhile has taken effect with it (F2, F14)."""
        item.starting = False
        if self.deleting or item.ended:
            return
        if self.host.faults.start_fails():
            self._start_failed(item)
            return
        self.resizing.starting()
        view = item.view
        view.actual = copy.deepcopy(view.allocated)
        limit = spec.limit_bytes(view.actual)
        group = self.group.container(f"{item.name}-{item.starts}")
        item.starts += 1
        group.set_memory(limit)
        group.set_cpu(spec.limit_cores(view.actual))
        now = time.monotonic()
        run = ContainerRun(item.name, view.restart_count, limit, now, [(now, limit)])
        # Told first, so that it stands before whatever the process writes.
        self._tell(
            {
                "event": "container_started",
                "container": item.name,
                "restart_count": view.restart_count,
                "limit_bytes": limit,
            }
        )
        item.process = RunningContainer(
            [str(part) for part in [*item.manifest.get("command", ()), *item.manifest.get("args", ())]],
            environment=self._environment(item, group.environment),
            group=group,
            on_exit=lambda code: self.post(lambda: self._exited(item, run, code)),
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
        self.resizing.settle()

    def _start_failed(self, item: ContainerState) -> None:
        """F12: the container is found exited; with code 0 that means that it is done."""
        self.host.store.event(self.pod, "Warning", "Failed", "Error: failed to start the container")
        last = item.run
        code = 128 if last is None or last.exit_code is None else last.exit_code
        item.view.state = status.terminated(item.view, code, last.reason if last and last.reason else "StartError")
        if code == 0:
            item.ended = True
            self._after_end()
        else:
            self.start_later(item, self.random.uniform(*self.host.timings.restart_s))
        self.publish()

    def _environment(self, item: ContainerState, from_group: Mapping[str, str]) -> dict[str, str]:
        base = dict(self.around.environment) or small_environment()
        sized = item.manifest | {"resources": item.view.allocated}
        values = environment.resolve(self.pod, sized)
        told = {"ETLKIT_TERMINATION_LOG": str(self._message_file(item))}
        return base | dict(self.around.api_environment) | told | values | dict(from_group)

    def _message_file(self, item: ContainerState) -> Path:
        """In place of /dev/termination-log, which is the machine's here."""
        return self.around.folder / f"termination-{item.name}"

    # ── a container has ended ────────────────────────────────────────────────────────────────────────────

    def _exited(self, item: ContainerState, run: ContainerRun, code: int) -> None:
        if item.run is not run or item.process is None:
            return
        group = item.process.group
        run.ended_s, run.exit_code = time.monotonic(), code
        run.oom_kills, run.peak_bytes = group.oom_kills(), group.peak_bytes()
        run.reason = "Completed" if code == 0 else "OOMKilled" if run.oom_kills else "Error"
        run.asked_to_stop = item.stopping
        item.process = None
        group.remove()
        if self.lost:
            item.ended = True
            return
        message = environment.said_at_the_end(self._message_file(item))
        terminated = status.terminated(item.view, code, run.reason, message)
        timings = self.host.timings
        if item.stopping in ("delete", "finish") or self.deleting:
            item.ended = True
            item.view.state = terminated
            delay_s = None
        elif item.stopping == "resize":
            # The status goes on saying "running": the restart is one step of the kubelet (recorded).
            item.view.last_state = terminated
            delay_s = self.random.uniform(*timings.restart_s)
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
            self.start_later(item, delay_s)
        else:
            self._after_end()
        if item.stopping != "resize":
            self.publish()

    def _after_own_exit(self, item: ContainerState, run: ContainerRun, code: int, terminated: Json) -> float | None:
        """Seconds to the next start, or None when there is none."""
        item.view.state = terminated
        sidecar = item.view.sidecar
        decision = job.restart("Always" if sidecar else self.pod["spec"]["restartPolicy"], item.manifest, code)
        if not decision.again:
            item.ended = True
            return None
        self.resizing.exits_by_itself(item)
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
        return timings.rule_restart_s if decision.by_rule else self.random.uniform(*timings.restart_s)

    def start_later(self, item: ContainerState, delay_s: float) -> None:
        item.starting = True
        ticket = item.starts

        def again() -> None:
            # A new size gives a fresh back-off: then the container was started before this moment came.
            if item.starting and item.starts == ticket:
                if "terminated" in item.view.state:
                    item.view.last_state = item.view.state
                item.view.restart_count += 1
                self._launch(item)
                self.publish()

        self.post(again, delay_s)

    def _after_end(self) -> None:
        """The pod's phase, once no main container runs any more; then the sidecars end too."""
        mains = [item for item in self.containers if not item.view.sidecar]
        if not all(item.ended for item in mains):
            return
        sidecars = [item for item in self.containers if item.view.sidecar and not item.ended]
        for item in sidecars:
            if item.process is None:
                item.ended = True
            elif not item.stopping:
                self.terminate(item, "finish", self._grace_left_s())
        if any(not item.ended for item in sidecars):
            return
        codes = [self._last_code(item) for item in mains]
        self.phase = "Succeeded" if all(code == 0 for code in codes) else "Failed"
        self.gone = True
        self.publish()
        self.group.remove()
        self.host.room_changed(self.pod["metadata"]["uid"])

    def _grace_left_s(self) -> float:
        """For sidecars, which end after the others: what a deletion has left of its grace, two seconds at least."""
        if self._grace_ends_s is None:
            return float(self.pod["spec"]["terminationGracePeriodSeconds"])
        return max(2.0, self._grace_ends_s - time.monotonic())

    def _last_code(self, item: ContainerState) -> int:
        for run in reversed(self.history):
            if run.container == item.name and run.exit_code is not None:
                return run.exit_code
        return 137

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────

    def terminate(self, item: ContainerState, why: str, grace_s: float) -> None:
        """SIGTERM to the first process; SIGKILL to all after the grace period (F3)."""
        process, run = item.process, item.run
        if process is None or run is None:
            return
        item.stopping = why
        if why != "resize":
            self.host.store.event(self.pod, "Normal", "Killing", f"Stopping container {item.name}")
        process.signal(signal.SIGTERM)
        self._kill_later(item, grace_s)

    def _kill_later(self, item: ContainerState, grace_s: float) -> None:
        process, run = item.process, item.run

        def too_late() -> None:
            if run is not None and process is not None and item.run is run and item.process is process:
                run.outlived_grace = True
                process.signal(signal.SIGKILL)

        self.post(too_late, grace_s)

    def _delete(self, grace_s: float | None, reason: str) -> None:
        if self.gone:
            return
        period = float(self.pod["spec"]["terminationGracePeriodSeconds"])
        grace = period if grace_s is None else min(grace_s, period)
        if self.deleting:
            # Once more, with less time: that can only shorten it.
            for item in self.containers:
                if item.process is not None:
                    self._kill_later(item, grace)
            return
        self.deleting = True
        self._disrupted = reason
        self._grace_ends_s = time.monotonic() + grace
        self.pod["metadata"]["deletionTimestamp"] = spec.now_text()
        self.pod["metadata"]["deletionGracePeriodSeconds"] = int(grace)
        for item in self.containers:
            if item.process is None:
                item.ended = True
            elif not item.view.sidecar:
                self.terminate(item, "delete", grace)
        if self.scheduled:
            self.publish()
            self._after_end()
        else:
            self.phase, self.gone = "Failed", True
            self.pod["status"]["phase"] = self.phase
            self.group.remove()
            self.host.pod_changed(self.pod["metadata"]["uid"])

    def _lose(self) -> None:
        if self.gone or self.deleting:
            return
        self.deleting = self.lost = True
        self._disrupted = "DeletionByTaintManager"
        self.pod["metadata"]["deletionTimestamp"] = spec.now_text()
        self.publish()

    def _forget(self) -> None:
        if self.lost and not self.gone:
            self.phase, self.gone = "Failed", True
            self.publish()
            self.host.room_changed(self.pod["metadata"]["uid"])

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────

    def publish(self) -> None:
        extra = [status.condition("DisruptionTarget", spec.now_text(), reason=self._disrupted)]
        status.write(
            self.pod,
            [item.view for item in self.containers],
            self.resizing.view,
            phase=self.phase,
            observed_generation=self.resizing.observed,
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

    def post(self, action: Callable[[], None], delay_s: float = 0.0) -> None:
        assert self._worker is not None
        self._worker.post(action, delay_s)

    def _named(self, container: str) -> ContainerState:
        for item in self.containers:
            if item.name == container:
                return item
        raise KeyError(container)

    def _broke(self, error: Exception) -> None:
        self.host.failed(error)


def _named_sink(sink: Callable[[str, bytes], None] | None, name: str) -> LineSink | None:
    return None if sink is None else lambda line: sink(name, line)
