"""``run``: one attempt of one job in this process, from opening the state to the exit code.

Covers putting the parts together and taking them down. `etlkit run` and ``ek.run`` both come here; what happens in between is the
loop's.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..decide.events import ResizeMode, Terminating
from ..decide.policy import Policy
from ..engine.executor import Executor
from ..engine.stages import row_groups_skipped
from ..errors import EtlkitError, error_for
from ..exits import Exit
from ..kube.budget import UNLIMITED, restarts_left
from ..kube.identity import find_access, find_identity
from ..kube.pod import PodView
from ..memory import Ledger, MemoryReader, SplitForecast, find_cpu_reader, find_reader
from ..memory.wall import Wall
from ..observe.events import EventLog
from ..observe.progress import Renderer, make_renderer
from ..observe.stored_events import StoredEventLog, open_log
from ..plan.job import Job, as_pipelines
from ..plan.pipeline import Pipeline
from ..settings import DEFAULT_GRACE_S, Settings, load
from .checkpointer import Checkpointer
from .cores import Cores, CpuAsker, cpu_policy, workers_for
from .fanout import open_share
from .gauge import Gauge, now_s
from .learned import Learned
from .loop import Ended, Loop, Tell, wait_idle
from .opening import AlreadyDone, Opened, Request, open_run
from .policy_file import PolicyWatcher, Refused, Taken, given_options, policy_from
from .shard import Shard

if TYPE_CHECKING:
    from ..kube.resizer import Resizer

FACTS_WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How an attempt ended."""

    exit_code: int
    """0 or 75; every other end is raised."""
    reason: str
    """Why, in words."""
    run_id: str
    state: str
    """The state directory, or its URL."""
    rows_in: int
    """Rows read, each counted once over all attempts."""
    rows_out: int
    attempts: int
    """Of this run so far; 0 if it was done before and nothing was touched."""
    resumed_from: int | None
    """The checkpoint that this attempt went on from; None if it began anew."""

    @property
    def done(self) -> bool:
        """The output is committed and visible."""
        return self.exit_code == Exit.DONE


def run(
    job: Job | Pipeline | Sequence[Pipeline],
    *,
    state: str | os.PathLike[str] | None = None,
    checkpoint_every: str | float | None = None,
    workers: int | None = None,
    run_id: str | None = None,
    restart: bool = False,
    progress: str = "none",
    **parameters: object,
) -> RunResult:
    """Run a job or a pipeline in this process, for notebooks and tests; resume if ``state`` holds it unfinished.

    ``state`` is a folder or URL (default: ``.etlkit/NAME``), ``checkpoint_every`` a duration (``"5s"`` or seconds) or ``"none"``,
    ``workers`` the splits at once, ``run_id`` the run's identity (default: a hash of job, parameters and input). ``restart=True``
    discards an unfinished run. ``progress`` is ``none``, ``plain``, ``json`` or ``auto``. Other keywords are the job's parameters.
    What is not given comes from environment and ``etlkit.toml``.

    Raises the error that ended it (``EtlkitError`` and below). An interrupted run (SIGINT, SIGTERM) returns with exit
    code 75: call again to go on.
    """
    settings = load(
        {
            "state": None if state is None else os.fspath(state),
            "checkpoint_every": checkpoint_every,
            "workers": workers,
            "progress": progress,
        }
    )
    request = make_request(job, parameters, settings, target="", run_id=run_id, restart=restart)
    return execute(request, settings, make_renderer(progress, None))


def make_request(
    job: Job | Pipeline | Sequence[Pipeline],
    given: Mapping[str, object],
    settings: Settings,
    *,
    target: str,
    run_id: str | None,
    restart: bool,
    shard: Shard | None = None,
) -> Request:
    """The job with its parameters bound and its pipelines made. Errors: UsageError, PlanError, or the author's own."""
    if isinstance(job, Job):
        name, parameters = job.name, job.bind(given)
        pipelines = job.pipelines(parameters)
    else:
        name, parameters = "pipeline", dict(given)
        pipelines = as_pipelines(job, "ek.run")
    return Request(
        job=name,
        target=target,
        parameters=parameters,
        pipelines=pipelines,
        state=shard.state if shard is not None else settings.state or str(Path(".etlkit") / name),
        run_id=run_id,
        restart=restart,
        lock_wait_s=settings.lock_wait_s,
        keep=settings.keep,
        shard=shard,
    )


def execute(request: Request, settings: Settings, renderer: Renderer) -> RunResult:
    """One attempt. Returns for exit 0 and 75; raises EtlkitError for everything else."""
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    reader = find_reader()
    resizer = _resizer(settings, inbox, reader)
    try:
        pod = resizer.facts(FACTS_WAIT_S) if resizer is not None else None
        if pod is not None and pod.restart_count:
            # The container was restarted with the same command: what --restart discarded is gone, this is the new run.
            request = replace(request, restart=False)
        open_it = open_run if request.shard is None else open_share
        opened = open_it(request, reader.limit_bytes(), _ended_before(pod))
        if isinstance(opened, AlreadyDone):
            return RunResult(
                0, "done before: nothing was touched", opened.run_id, request.state, 0, opened.rows_out, 0, None
            )
        return _attempt(request, settings, renderer, inbox, reader, resizer, pod, opened)
    finally:
        if resizer is not None:
            resizer.close()
        renderer.close()
        reader.close()


def _attempt(
    request: Request,
    settings: Settings,
    renderer: Renderer,
    inbox: queue.SimpleQueue[Any],
    reader: MemoryReader,
    resizer: Resizer | None,
    pod: PodView | None,
    opened: Opened,
) -> RunResult:
    policy = policy_for(settings, pod)
    cores = _cores(settings, pod, inbox)
    log = open_log(request.state)
    emit = _emitter(log, renderer)
    ledger = Ledger(None)
    wall = Wall()
    executor = Executor(
        opened.plan,
        opened.state_dir,
        opened.snapshot,
        ledger,
        inbox.put,
        workers=cores.most_workers,
        slice_rows=policy.slice_rows,
        wall=wall,
        extent=opened.extent,
    )
    checkpointer = Checkpointer(executor, opened.state_dir, inbox.put, opened.hand_over)
    known = opened.learned
    gauge = Gauge(
        reader, executor, ledger, wall, cores.workers, known.resize_cost_s, known.spill_s, _split_forecast(known)
    )
    loop = Loop(opened, executor, checkpointer, gauge, policy, inbox, Tell(emit), resizer, cores, request)
    watcher = PolicyWatcher(
        settings,
        policy,
        lambda changed, what: inbox.put(Taken(changed, what)),
        lambda why: inbox.put(Refused(why)),
        options=given_options(settings),
    )
    emit(
        "attempt_started",
        attempt=opened.attempt,
        job=request.job,
        run_id=opened.snapshot.run_id,
        pid=os.getpid(),
        limit_bytes=reader.limit_bytes(),
        resumed_from=opened.resumed_from,
        workers=cores.workers,
        max_memory_bytes=policy.max_memory_bytes,
        mode=str(policy.mode),
        memory_source=reader.describe(),
        wall=wall.unavailable or "RLIMIT_DATA",
    )
    for damage in opened.state_dir.warnings:
        emit("went_back", attempt=opened.attempt, message=damage)
    began_s = now_s()
    ended: Ended | None = None
    signals = _Signals(inbox, pod.grace_s if pod is not None else DEFAULT_GRACE_S)
    try:
        with opened.state_dir.or_fenced():
            # Every thread that may ever be needed: once the wall is up, a new one's stack may not fit.
            executor.start()
            executor.set_workers(cores.workers)
            checkpointer.start()
            watcher.start()
            ledger.resize(gauge.first_capacity_bytes())
            if not executor.begin(opened.snapshot):
                checkpointer.publish_now()
            _emit_planned(emit, executor)
            ended = loop.run(_restarts_left(settings, pod))
            return _finish(request, opened, loop, ended, executor, checkpointer, emit, signals, began_s)
    finally:
        signals.restore()
        wall.lift()
        watcher.close()
        cores.close()
        executor.close()
        checkpointer.close(1.0)
        opened.state_dir.close()
        log.close()


def _finish(
    request: Request,
    opened: Opened,
    loop: Loop,
    ended: Ended,
    executor: Executor,
    checkpointer: Checkpointer,
    emit: Callable[..., None],
    signals: _Signals,
    began_s: float,
) -> RunResult:
    """Write down how the attempt ended, tell, and turn a failure into its error."""
    ended_by = signals.seen or ("done" if ended.exit_code == Exit.DONE else "error")
    figures = executor.figures()
    executor.close()
    if ended.exit_code != Exit.STATE_BUSY:
        wait_idle(checkpointer, 5.0)
        try:
            loop.record_end(ended, ended_by)
        except EtlkitError as error:
            emit("record_failed", error=str(error))
    emit(
        "attempt_ended",
        attempt=opened.attempt,
        exit_code=ended.exit_code,
        ended_by=ended_by,
        reason=ended.reason,
        peak_bytes=loop.gauge.peak_bytes,
        forecasts=loop.lessons.forecasts(),
        throttled_s=round(loop.cores.throttled_s, 3),
        seconds=round(now_s() - began_s, 3),
        rows_in=figures.rows_in,
    )
    if ended.exit_code in (Exit.DONE, Exit.AGAIN):
        return RunResult(
            exit_code=ended.exit_code,
            reason=ended.reason,
            run_id=opened.snapshot.run_id,
            state=request.state,
            rows_in=figures.rows_in,
            rows_out=figures.rows_out,
            attempts=opened.attempt,
            resumed_from=opened.resumed_from,
        )
    failure = loop.failure()
    if failure is not None and int(failure.exit_code) == ended.exit_code:
        raise failure
    raise error_for(ended.exit_code, ended.reason)


def policy_for(settings: Settings, pod: PodView | None) -> Policy:
    """The machine's thresholds, with the mode that the pod's own resizePolicy says."""
    mode = ResizeMode.NONE
    if pod is not None and not pod.static and settings.max_memory_bytes is not None:
        mode = pod.memory_policy
    return replace(policy_from(settings), mode=mode)


def worker_count() -> int:
    """As many as the cgroup's CPU quota has cores, at least one; without a quota, as the machine has."""
    cpu = find_cpu_reader()
    try:
        return workers_for(cpu.read().quota_cores)
    finally:
        cpu.close()


def _cores(settings: Settings, pod: PodView | None, inbox: queue.SimpleQueue[Any]) -> Cores:
    """What watches the CPU, with somebody to ask for more where there is a cap to stay under."""
    policy = cpu_policy(settings.max_cores, pod)
    access, identity = find_access(), find_identity()
    asker = None
    if policy.live and policy.max_cores is not None and access is not None and identity is not None:
        from ..kube.client import PodClient

        asker = CpuAsker(PodClient(access, identity), identity, inbox.put)
    return Cores(find_cpu_reader(), policy, asker, settings.workers)


def _split_forecast(known: Learned) -> SplitForecast:
    if known.split_factor is None:
        return SplitForecast()
    return SplitForecast.from_json({"factor": known.split_factor, "spread": known.split_spread or 0.5})


def _resizer(settings: Settings, inbox: queue.SimpleQueue[Any], reader: MemoryReader) -> Resizer | None:
    """Somebody to ask for memory, where this is a pod that says its names."""
    access, identity = find_access(), find_identity()
    if access is None or identity is None:
        return None
    # Only in a pod: HTTP and TLS are a tenth of what a start imports.
    from ..kube.client import PodClient
    from ..kube.resizer import Resizer

    return Resizer(
        PodClient(access, identity),
        identity,
        inbox.put,
        reader.limit_bytes,
        keep_request=settings.resize_request == "keep",
    )


def _restarts_left(settings: Settings, pod: PodView | None) -> int:
    if pod is None:
        return UNLIMITED
    return restarts_left(
        settings.backoff_limit, pod.restart_counts, restart_policy=pod.restart_policy, in_job=pod.job is not None
    )


def _ended_before(pod: PodView | None) -> dict[str, object] | None:
    """How the cluster says that the attempt before this one ended."""
    last = pod.last_state if pod is not None else None
    if last is None:
        return None
    return {"exit_code": last.exit_code, "ended_by": last.reason if last.reason != "Error" else "killed"}


def _emitter(log: EventLog | StoredEventLog, renderer: Renderer) -> Callable[..., None]:
    def emit(event: str, **fields: object) -> None:
        renderer.feed(log.append(event, **fields))

    return emit


def _emit_planned(emit: Callable[..., None], executor: Executor) -> None:
    figures = executor.figures()
    skipped, groups = row_groups_skipped(executor.plan.stages)
    emit(
        "planned",
        stages=[{"stage": stage.index, "kind": stage.kind} for stage in executor.plan.stages],
        splits_total=figures.splits_total,
        splits_done=figures.splits_done,
        rows_total=figures.rows_total,
        row_groups_total=groups,
        row_groups_skipped=skipped,
    )


class _Signals:
    """SIGTERM and SIGINT as events; a second one ends at once. Only in the main thread; elsewhere nothing changes."""

    def __init__(self, inbox: queue.SimpleQueue[Any], grace_s: float) -> None:
        self._inbox = inbox
        self._grace_s = grace_s
        self._before: dict[int, Any] = {}
        self.seen: str | None = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = signal.Signals(number).name
        self._inbox.put(Terminating(now_s(), self.seen, self._grace_s))

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
