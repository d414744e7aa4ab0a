"""The resize of one pod, as the kubelet does it: seen, decided, allocated, applied, settled.

    PATCH ─ 30–60 ms ─ observedGeneration + condition + allocatedResources ─ limit file or SIGTERM … start ─ resources

Covers F2, F4 to F7, F14, F15, F19 to F21 and F26. Whether the PATCH is accepted at all is ``admission``'s. Every method
runs on the pod's own worker, holding the store's lock, unless it says otherwise.
"""

from __future__ import annotations

import copy
import errno
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from . import spec, status
from .answers import Json
from .container import ContainerRun
from .enforce import ContainerGroup
from .kubelet_parts import ContainerState

if TYPE_CHECKING:
    from .kubelet import PodRuntime


@dataclass(slots=True)
class _Waiting:
    """A resize that waits for room: how often it was tried again, and which one it is."""

    retries: int = 0
    ticket: int = 0


class Resizing:
    """Follows the size in the spec of ``owner``'s pod."""

    def __init__(self, owner: PodRuntime) -> None:
        self._owner = owner
        self.view = status.ResizeView()
        self.observed = 1
        self._waiting = _Waiting()
        self._patched_s = 0.0
        self._stale = False

    # ── told from outside, by any thread ─────────────────────────────────────────────────────────────────

    def patched(self, *, withdraws: bool) -> None:
        """The spec has a new size."""
        self._patched_s = time.monotonic()
        timings = self._owner.host.timings
        span = timings.withdraw_s if withdraws else timings.observe_s
        self._owner.post(self._observe, self._owner.random.uniform(*span) + self._owner.host.faults.status_lag_s)

    def room(self) -> None:
        """Another pod has left."""
        if self.view.pending is not None:
            self._owner.post(self._retry, self._owner.host.timings.room_s)

    # ── called by the pod ────────────────────────────────────────────────────────────────────────────────

    def exits_by_itself(self, item: ContainerState) -> None:
        """F15: a container that ends between PATCH and actuation may meet the pod's old limit at its next start."""
        if self._owner.host.faults.stale_pod_limit and item.view.allocated != item.view.actual:
            self._stale = True

    def starting(self) -> None:
        """A container is about to start at its allocated size."""
        if not self._stale:
            self.set_pod_group()

    # ── the steps ────────────────────────────────────────────────────────────────────────────────────────

    def _observe(self) -> None:
        """The kubelet has seen the new spec."""
        if self._owner.gone or self._owner.deleting:
            return
        generation = self._owner.pod["metadata"]["generation"]
        if generation == self.observed:
            return
        self.observed = generation
        self._waiting = _Waiting(ticket=self._waiting.ticket + 1)
        self._decide()
        self._owner.publish()

    def _retry(self) -> None:
        if self.view.pending is not None and not self._owner.gone and not self._owner.deleting:
            self._decide()
            self._owner.publish()

    def _decide(self) -> None:
        """Grants, defers or rejects the size in the spec."""
        owner = self._owner
        wanted, allocated = spec.resources_of(owner.pod["spec"]), owner.allocated()
        request = spec.pod_request_bytes(wanted)
        grows = request > spec.pod_request_bytes(allocated)
        capacity, used = owner.host.capacity_bytes, owner.host.used_by_others(owner.pod["metadata"]["uid"])
        if (why := owner.host.infeasible(owner.pod, wanted, allocated)) is not None:
            self._wait("Infeasible", why)
        elif grows and request > capacity:
            text = f"Node didn't have enough capacity: memory, requested: {request}, capacity: {capacity}"
            self._wait("Infeasible", text)
        elif grows and request + used > capacity:
            text = f"Node didn't have enough resource: memory, requested: {request}, used: {used}, capacity: {capacity}"
            self._wait("Deferred", text)
            self._retry_later()
        else:
            self.view.pending = None
            self._allocate(wanted)
        # Also what was granted before and not applied yet: a newer resize that waits does not hold it up.
        self._apply()

    def _wait(self, reason: str, message: str) -> None:
        old = self.view.pending
        if old is None or old["message"] != message:
            word = "OutOfmemory" if reason == "Deferred" else reason
            self._event("Warning", f"Resize{reason}", f"Pod resize {word}", message)
            self.view.pending = status.condition("PodResizePending", spec.now_text(), reason=reason, message=message)

    def _retry_later(self) -> None:
        first, later = self._owner.host.timings.deferred_retry_s
        ticket = self._waiting.ticket
        delay_s = first if self._waiting.retries == 0 else later
        self._waiting.retries += 1
        self._owner.post(lambda: self._retry() if self._waiting.ticket == ticket else None, delay_s)

    def _allocate(self, wanted: Mapping[str, Json]) -> None:
        before = self._owner.allocated()
        for item in self._owner.containers:
            item.view.allocated = copy.deepcopy(wanted[item.name])
        self._owner.host.room_changed(self._owner.pod["metadata"]["uid"])
        if not self._open():
            self.view.in_progress = None
        elif before != wanted:
            self.view.in_progress = status.condition("PodResizeInProgress", spec.now_text())
            self._event("Normal", "ResizeStarted", "Pod resize started")

    def _open(self) -> list[ContainerState]:
        """The containers that do not have yet what is allocated to them."""
        return [item for item in self._owner.containers if item.view.allocated != item.view.actual]

    def _apply(self) -> None:
        owner, timings = self._owner, self._owner.host.timings
        for item in self._open():
            if self._must_restart(item):
                delay_s = max(0.0, self._patched_s + timings.sigterm_s - time.monotonic())
                owner.post(partial(self._restart_for, item, self.observed), delay_s)
            elif item.process is not None:
                owner.post(partial(self._apply_live, item, self.observed), timings.live_apply_s)
            elif item.starting:
                # In back-off: a new size starts at once.
                owner.start_later(item, owner.random.uniform(*timings.restart_s))

    def _must_restart(self, item: ContainerState) -> bool:
        if item.process is None:
            return False
        for resource in spec.RESOURCES:
            for kind in ("limits", "requests"):
                was = (item.view.actual.get(kind) or {}).get(resource)
                now = (item.view.allocated.get(kind) or {}).get(resource)
                if was != now and spec.resize_policy(item.manifest, resource) == "RestartContainer":
                    return True
        return False

    def _restart_for(self, item: ContainerState, generation: int) -> None:
        due = generation == self.observed and item.process is not None and item in self._open()
        if due and not item.stopping and not self._owner.deleting:
            self._owner.terminate(item, "resize", float(self._owner.pod["spec"]["terminationGracePeriodSeconds"]))

    def _apply_live(self, item: ContainerState, generation: int) -> None:
        """Writes the limit file. A shrink below use, page cache counted, is not tried by the kubelet (F5)."""
        owner, process, run = self._owner, item.process, item.run
        if generation != self.observed or process is None or run is None or owner.deleting or item not in self._open():
            return
        before, after = spec.limit_bytes(item.view.actual), spec.limit_bytes(item.view.allocated)
        shrinks = after is not None and (before is None or after < before)
        if not shrinks:
            self.set_pod_group()
        if after is not None and shrinks and not self._shrink(process.group, after):
            error = (
                f'cannot decrease memory limits: attempting to set container "{item.name}" memory limit '
                f"({after}) below current usage ({process.group.usage_bytes()})"
            )
            self._event("Warning", "ResizeError", "Pod resize error", error)
            if owner.host.faults.error_in_condition and self.view.in_progress is not None:
                self.view.in_progress |= {"reason": "Error", "message": error}
            owner.publish()
            owner.post(partial(self._apply_live, item, generation), owner.host.timings.resize_error_retry_s)
            return
        if not shrinks:
            process.group.set_memory(after)
        process.group.set_cpu(spec.limit_cores(item.view.allocated))
        if before != after:
            run.limits.append((time.monotonic(), after))
        delay_s = owner.host.timings.live_status_s + owner.host.faults.status_lag_s
        owner.post(partial(self._show_live, item, run, generation), delay_s)

    def _shrink(self, group: ContainerGroup, limit_bytes: int) -> bool:
        if group.usage_bytes() > limit_bytes:
            return False
        try:
            group.set_memory(limit_bytes)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # Use has grown since it was looked at, and v1 refuses.
            return False
        return True

    def _show_live(self, item: ContainerState, run: ContainerRun, generation: int) -> None:
        """The status says so, after the file."""
        owner = self._owner
        if item.run is not run or generation != self.observed:
            return
        old = copy.deepcopy(owner.pod["status"])
        item.view.actual = copy.deepcopy(item.view.allocated)
        self.set_pod_group()
        self.settle()
        owner.publish()
        if owner.host.faults.flip_back:
            owner.post(partial(self._flip_back, old), owner.host.timings.live_status_s)
            owner.post(owner.publish, owner.host.timings.live_status_s + owner.host.timings.flip_back_s)

    def _flip_back(self, old: Json) -> None:
        """F21: the status from before comes back for a moment."""
        self._owner.pod["status"] = old
        self._owner.host.store.touch(self._owner.pod)

    def settle(self) -> None:
        """A resize is done when every container has what is allocated to it."""
        if self.view.in_progress is not None and not self._open():
            self.view.in_progress = None
            self._stale = False
            self._event("Normal", "ResizeCompleted", "Pod resize completed")

    def set_pod_group(self) -> None:
        """The pod's own limit: the sum. Left larger where the kernel can't shrink it now."""
        try:
            self._owner.group.set_memory(spec.pod_limit_bytes(self._owner.allocated()))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise

    def _event(self, kind: str, reason: str, words: str, error: str = "") -> None:
        pod = self._owner.pod
        shown: Json = {
            "containers": [{"name": n, "resources": values} for n, values in spec.resources_of(pod["spec"]).items()],
            "generation": pod["metadata"]["generation"],
        }
        body = json.dumps(shown | ({"error": error} if error else {}), separators=(",", ":"))
        self._owner.host.store.event(pod, kind, reason, f"{words}: {body}")
