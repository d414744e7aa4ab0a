"""CPU in the running job: how throttled it is, how many workers its quota is good for, and asking for more.

``Cores.look`` reads the group at each tick; ``decide.cores`` decides. A PATCH goes out on a thread of its own, started before
the wall goes up. What is in force is what the quota file says: an answer of the API server moves nothing here.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..decide import cores as machine
from ..decide.cores import CpuPolicy, CpuSeen, CpuState, RequestCpu
from ..decide.events import ResizeMode, ResizeOutcome
from ..errors import EtlkitError
from ..kube.answer import OUTCOMES
from ..kube.identity import PodIdentity
from ..kube.pod import PodView, read_pod
from ..lazyclass import dataclass
from ..memory import CpuReader

if TYPE_CHECKING:
    from ..kube.client import PodClient

LEAST_ELAPSED_S = 0.2
"""Throttling comes in periods of 100 ms: shorter looks would see all or nothing."""
_FOREVER = (ResizeOutcome.REFUSED, ResizeOutcome.INFEASIBLE)


@dataclass(frozen=True, slots=True)
class CpuReported:
    """What became of a PATCH of cpu. ``refused``: asking again would be refused again."""

    to_cores: float
    accepted: bool
    refused: bool
    message: str


class CpuAsker:
    """PATCHes cpu, one request after the other. ``post`` is called on its thread."""

    def __init__(self, client: PodClient, identity: PodIdentity, post: Callable[[CpuReported], None]) -> None:
        self._client, self._identity, self._post = client, identity, post
        self._queue: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="etlkit-cpu", daemon=True)
        self._thread.start()

    def request(self, to_cores: float) -> None:
        self._queue.put(to_cores)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(0.2)

    def _run(self) -> None:
        while (to_cores := self._queue.get()) is not None:
            try:
                self._post(self._ask(to_cores))
            except Exception as error:  # the wall may stop this thread too; the job goes on at its speed
                self._post(CpuReported(to_cores, False, False, f"{type(error).__name__}: {error}"))

    def _ask(self, to_cores: float) -> CpuReported:
        answer = self._client.get_pod()
        if answer.ok:
            try:
                view = read_pod(answer.body, self._identity.container)
            except EtlkitError as error:
                return CpuReported(to_cores, False, True, str(error))
            answer = self._client.resize_cpu(round(to_cores * 1000), view)
        if answer.ok:
            return CpuReported(to_cores, True, False, "")
        return CpuReported(to_cores, False, OUTCOMES[answer.kind] in _FOREVER, answer.explain())


class Cores:
    """Used by the loop's thread."""

    def __init__(self, reader: CpuReader, policy: CpuPolicy, asker: CpuAsker | None, fixed_workers: int | None) -> None:
        """``fixed_workers``: what the author asked for; the quota then changes nothing."""
        self._reader, self._policy, self._asker = reader, policy, asker
        self._fixed = fixed_workers
        self._before = reader.read()
        self._before_s: float | None = None
        self._state = CpuState()
        self.quota_cores = self._before.quota_cores
        self.throttled = 0.0
        self.used_cores = 0.0
        self.throttled_s = 0.0
        """In all, over the attempt."""

    @property
    def workers(self) -> int:
        """As many as the quota has cores now."""
        return self._fixed or workers_for(self.quota_cores)

    @property
    def most_workers(self) -> int:
        """As many as could ever be used: their threads are started before the wall goes up."""
        most = self._policy.max_cores if self._policy.live else None
        return max(self.workers, self._fixed or (workers_for(most) if most is not None else 1))

    def look(self, at_s: float, remaining_s: float | None, splits_left: int | None) -> RequestCpu | None:
        """Read the group; what was asked for just now, if anything was."""
        if self._before_s is not None and at_s - self._before_s < LEAST_ELAPSED_S:
            return None
        now = self._reader.read()
        self.quota_cores = now.quota_cores
        if self._before_s is None:
            self._before_s, self._before = at_s, now
            return None
        elapsed_s = at_s - self._before_s
        stood_s = max(0.0, now.throttled_s - self._before.throttled_s)
        self.throttled_s += stood_s
        self.throttled = min(1.0, stood_s / elapsed_s)
        self.used_cores = max(0.0, now.usage_s - self._before.usage_s) / elapsed_s
        self._before_s, self._before = at_s, now
        seen = CpuSeen(at_s, now.quota_cores, self.throttled, self.used_cores, remaining_s, splits_left)
        self._state, wanted = machine.look(self._state, seen, self._policy)
        if wanted is not None and self._asker is not None:
            self._asker.request(wanted.to_cores)
        return wanted

    def reported(self, report: CpuReported) -> None:
        if report.refused:
            self._state = machine.refused(self._state)

    def close(self) -> None:
        self._reader.close()
        if self._asker is not None:
            self._asker.close()


def cpu_policy(max_cores: float | None, pod: PodView | None) -> CpuPolicy:
    live = pod is not None and not pod.static and pod.cpu_policy is ResizeMode.LIVE
    return CpuPolicy(max_cores, live)


def workers_for(quota_cores: float | None) -> int:
    """As many as the quota has cores, at least one; without a quota, as the machine has."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(here, round(quota_cores))) if quota_cores else here
