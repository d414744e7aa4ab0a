"""``etlkit local TARGET``: the job as a pod would be run, on this machine.

The job is started in a container of the local node (``etlkit.node``) as ``etlkit run TARGET``: a hard memory limit, an API
server to ask for more, SIGTERM and grace, restarts by a Job's arithmetic. This verb plays the operator beside it: it shows
what the container logs, hands Ctrl-C on, stops a Job that can't succeed, and tells how it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..exits import HOPELESS
from .run import add_job_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from ..node.controller import JobHandle, PodResult
    from ..node.enforce import Enforcer
    from ..settings import Settings
    from .local_shards import IndexedLog

NAME = "local"
HELP = "run a job as a pod, on this machine: a hard memory limit, resizes, restarts"

_CONTAINER = "etl"
_TRIES_WITHOUT_PROGRESS = 2
"""An unexpected failure that comes back, with no checkpoint in between, would come back for ever: a cluster starts it
again and again, with back-off, until the Job has failed. At a desk that is minutes of waiting for nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..node import rehearsal

    parser.add_argument("target", metavar="TARGET", help="jobs/x.py, package.module:name or jobs/many.py:name")
    pod = parser.add_argument_group("the pod and its node")
    pod.add_argument("--memory", metavar="SIZE", required=True, help="the container's memory limit, such as 256Mi")
    pod.add_argument("--node-memory", metavar="SIZE", default="4Gi", help="what the node has in all (default: 4Gi)")
    pod.add_argument("--cpu", metavar="N", help="the container's CPU limit, such as 2 or 500m (default: none)")
    pod.add_argument(
        "--resize-policy",
        choices=("RestartContainer", "NotRequired"),
        default="RestartContainer",
        help="what a change of memory does (default: RestartContainer)",
    )
    pod.add_argument("--backoff-limit", metavar="N", help="the Job's (default: 6); resize restarts count")
    pod.add_argument("--grace", metavar="T", default="30s", help="from SIGTERM to SIGKILL (default: 30s)")
    pod.add_argument(
        "--enforcement", choices=("v2", "v1", "sampling"), help="how memory is limited (default: the best there is)"
    )
    pod.add_argument(
        "--rehearse", metavar="WHAT", action="append", default=[], help="a bad day of the cluster, by name: see below"
    )
    pod.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="write the node's kubeconfig here while it runs, for `etlkit resize`, `etlkit doctor` and kubectl",
    )
    parser.epilog, parser.formatter_class = rehearsal.explain(), argparse.RawDescriptionHelpFormatter
    pod.add_argument("--shards", metavar="N", help="N pods share the work, each of that size (default: one pod)")
    add_job_arguments(parser)
    parser.add_argument("--run-id", help="the run's identity (default: a hash of job, parameters and input)")
    parser.add_argument("--restart", action="store_true", help="discard an unfinished run in this state and begin anew")
    parser.add_argument("--lock-wait", metavar="T", help="how long to wait for another run of this state")


def run(args: argparse.Namespace) -> int:
    from ..errors import ConfigError, UsageError
    from ..node import enforce, rehearsal, scope
    from ..node.node import Node
    from ..node.spec import pod_manifest
    from ..observe.terminal import wrapped
    from ..settings import load
    from ..units import format_bytes, parse_bytes, parse_cpu, parse_seconds, quantity_bytes

    settings = load(vars(args))
    memory, capacity = parse_bytes(args.memory), parse_bytes(args.node_memory)
    maximum = settings.max_memory_bytes or capacity
    backoff_limit = 6 if settings.backoff_limit is None else settings.backoff_limit
    if memory > capacity:
        raise ConfigError(
            f"--memory {args.memory} is more than the node has ({args.node_memory}): no pod of that size can start",
            "raise --node-memory or lower --memory",
        )
    if args.cpu is not None:
        parse_cpu(args.cpu)
    grace_s = parse_seconds(args.grace)
    rehearsed = rehearsal.read(args.rehearse)
    enforcer = enforce.choose(args.enforcement)
    if not enforcer.real and args.enforcement is None and scope.available():
        enforcer.close()
        scope.start_again(sys.argv[1:])
    call = [sys.executable, "-m", "etlkit", "run", args.target, *_run_arguments(args)]

    def manifest_of(command: list[str]) -> dict[str, Any]:
        return pod_manifest(
            _pod_name(args.target),
            command,
            memory=quantity_bytes(memory),
            cpu=args.cpu,
            container=_CONTAINER,
            resize_policy=args.resize_policy,
            grace_s=round(grace_s),
        )

    if args.shards is not None:
        if args.rehearse or args.kubeconfig:
            raise UsageError("--rehearse and --kubeconfig are for one pod", "leave them out, or leave out --shards")
        return _run_shards(args, settings, enforcer, capacity, quantity_bytes(maximum), manifest_of, call)
    manifest = manifest_of(call)
    log = _Log(settings)
    with Node(capacity, enforcer=enforcer) as node:
        said = (
            f"memory enforcement: {node.enforcer.describe()}\n"
            f"pod {manifest['metadata']['name']}: {format_bytes(memory)}, {args.resize_policy}, may ask for up to "
            f"{format_bytes(min(maximum, capacity))}; node {format_bytes(capacity)}; backoffLimit {backoff_limit}"
        )
        print(wrapped(said, sys.stderr), file=sys.stderr, flush=True)
        # What `etlkit manifest --events` asks for; `etlkit status` shows them.
        node.rules.granted.add(("create", "events"))
        rehearsal.set_on(node, rehearsed, memory)
        if args.kubeconfig:
            _hand_out(node.kubeconfig(), args.kubeconfig)
        environ = {k: v for k, v in os.environ.items() if k not in (scope.MARK, "ETLKIT_CGROUP")}
        handle = node.start_job(
            manifest,
            backoff_limit=backoff_limit,
            max_memory=quantity_bytes(maximum),
            environment_base=environ,
            stdout=log.stdout,
            stderr=log.stderr,
            on_event=log.container,
        )
        try:
            result, interrupted = _follow(handle, log)
        finally:
            if args.kubeconfig:
                _take_back(args.kubeconfig)
        log.close()
    return _end(result, interrupted, log, settings, backoff_limit)


def _run_shards(
    args: argparse.Namespace,
    settings: Settings,
    enforcer: Enforcer,
    capacity: int,
    maximum: str,
    manifest: Callable[[list[str]], dict[str, Any]],
    call: list[str],
) -> int:
    from ..node.node import Node
    from ..runtime.shard import shard_from
    from .local_shards import Pods, root_of, rounds_of, run_rounds, tell_end

    root = root_of(args, settings)
    shard = shard_from(root, args.shards, "0", None)
    assert shard is not None
    rounds = rounds_of(args, settings)
    pods = Pods(
        name=_pod_name(args.target),
        shards=shard.of,
        manifest=manifest,
        command=lambda number: [*call, f"--shards={shard.of}", f"--round={number}"],
        max_memory=maximum,
        backoff_limit=settings.backoff_limit,
        hopeless=frozenset(HOPELESS),
    )
    with Node(capacity, enforcer=enforcer) as node:
        print(f"memory enforcement: {node.enforcer.describe()}", file=sys.stderr)
        print(
            f"{shard.of} pods of {args.memory}, {args.resize_policy}, may ask for up to {maximum} each; {rounds} round"
            f"{'' if rounds == 1 else 's'}",
            file=sys.stderr,
            flush=True,
        )
        code = run_rounds(node, pods, rounds, settings, _follow)
    tell_end(root, settings)
    return code


def _run_arguments(args: argparse.Namespace) -> list[str]:
    """The options of ``run`` that were given, as the container's command line."""
    passed: list[str] = [f"--set={pair}" for pair in args.set]
    for name in ("state", "checkpoint_every", "workers", "max_cpu", "run_id", "lock_wait"):
        value = getattr(args, name)
        if value is not None:
            passed.append(f"--{name.replace('_', '-')}={value}")
    if args.restart and args.shards is None:
        passed.append("--restart")
    return [*passed, "--progress=json"]


def _pod_name(target: str) -> str:
    """A name that Kubernetes would take, from ``jobs/part_revenue.py`` or ``module:name``."""
    last = target.rpartition(":")[2] or target
    stem = re.sub(r"\.py$", "", last.rpartition("/")[2])
    return re.sub(r"[^a-z0-9]+", "-", stem.rpartition(".")[2].lower()).strip("-")[:50] or "job"


def _hand_out(kubeconfig: Path, to: str) -> None:
    """The node's own, where the operator wants it; readable by nobody else, since it is an administrator's."""
    from pathlib import Path

    from ..errors import ConfigError

    target = Path(to)
    try:
        target.unlink(missing_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        target.write_bytes(kubeconfig.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"--kubeconfig {to}: {error.strerror}", "name a file in a folder that can be written"
        ) from error
    print(f"operator: KUBECONFIG={target.resolve()} reaches this node while it runs", file=sys.stderr, flush=True)


def _take_back(path: str) -> None:
    from pathlib import Path

    Path(path).unlink(missing_ok=True)


class _Log:
    """What the container writes, and the node says of it, in one display. Fed by several threads."""

    def __init__(self, settings: Settings) -> None:
        from ..observe.progress import make_renderer

        self._lock = threading.Lock()
        self._json = settings.progress == "json"
        self._renderer = make_renderer(settings.progress, sys.stdout if self._json else sys.stderr)
        self.job: str | None = None
        self.ended: list[dict[str, Any]] = []
        """The exits of the container, oldest first."""
        self.last_reason = ""
        self._failures = 0

    def hopeless(self) -> bool:
        """The container has ended in a way that another start can't mend, and the Job would start it all the same."""
        with self._lock:
            last = self.ended[-1] if self.ended else None
            if last is None or last["restart_in_s"] is None or last["oom_killed"]:
                return False
            return last["exit_code"] in HOPELESS or self._failures >= _TRIES_WITHOUT_PROGRESS

    def stdout(self, container: str, line: bytes) -> None:
        """Events, one a line; anything else is shown as it came."""
        text = line.decode(errors="replace").rstrip("\n")
        try:
            event = json.loads(text)
        except ValueError:
            event = None
        with self._lock:
            if not isinstance(event, dict) or "event" not in event:
                self._show(lambda: self._renderer.say(text))
                return
            if event["event"] == "attempt_started":
                self.job = str(event.get("job") or "") or None
            elif event["event"] == "checkpoint":
                self._failures = 0
            elif event["event"] == "attempt_ended":
                self.last_reason = str(event.get("reason") or "")
            self._show(lambda: self._renderer.feed(event))

    def stderr(self, container: str, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\n")
        with self._lock:
            if self._json:
                print(text, file=sys.stderr, flush=True)
            else:
                self._show(lambda: self._renderer.say(text))

    def container(self, event: dict[str, Any]) -> None:
        """The node's own events, in the same log."""
        from datetime import UTC, datetime

        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with self._lock:
            if event["event"] == "container_exited":
                self.ended.append(event)
                self._failures += event["exit_code"] == 1
            self._show(lambda: self._renderer.feed({"event": event["event"], "at": stamp} | event))

    def say(self, text: str) -> None:
        """To the person who looks on; programs that read JSON have the events."""
        with self._lock:
            if not self._json:
                self._show(lambda: self._renderer.say(text))

    def close(self) -> None:
        with self._lock:
            self._show(self._renderer.close)

    def _show(self, draw: Callable[[], None]) -> None:
        """The reader of the display may have gone (``… | head``): the job goes on unseen."""
        try:
            draw()
        except BrokenPipeError:
            from ..observe.progress import make_renderer

            self._renderer = make_renderer("none", sys.stderr)


def _follow(handle: JobHandle, log: _Log | IndexedLog) -> tuple[PodResult, bool]:
    """Waits for the end. The first signal asks the container to stop, the second kills it."""
    asked = [0]

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked[0] += 1

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    stopped = 0
    try:
        while True:
            try:
                return handle.wait(0.1), stopped > 0
            except TimeoutError:
                pass
            if asked[0] > stopped:
                stopped += 1
                if stopped == 1:
                    log.say("asked to stop: the container saves what is done; Ctrl-C again kills it")
                handle.stop(None if stopped == 1 else 0.0)
            if log.hopeless():
                handle.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(result: PodResult, interrupted: bool, log: _Log, settings: Settings, backoff_limit: int) -> int:
    """Says how it ended; the exit code of the contract."""
    from ..exits import Exit
    from ..observe.sentences import EXITS
    from ..observe.terminal import go_on, wrapped

    own = [r for r in result.history if r.container == _CONTAINER and r.asked_to_stop != "delete"]
    last = next((run.exit_code for run in reversed(own) if run.exit_code is not None), int(Exit.AGAIN))
    summary = _summary(log, settings)
    if summary:
        out = sys.stderr if settings.progress == "json" else sys.stdout
        print(wrapped(summary, out), file=out, flush=True)
    if result.job_condition == "Complete":
        return Exit.DONE
    if interrupted:
        said = "interrupted: the state holds what was done; the same command goes on"
        print(wrapped(said, sys.stderr) + go_on(sys.stderr), file=sys.stderr)
        return Exit.AGAIN
    if last in HOPELESS:
        said = f": {log.last_reason}" if log.last_reason else ""
        text = f"stopped: the container ended with {last} ({EXITS[last]}), and so would every other start{said}"
        print(text, file=sys.stderr)
        return last
    if not result.job_condition:
        text = (
            f"stopped: the container ended with {last}, again, with no checkpoint in between: it would do so for ever"
        )
        print(text, file=sys.stderr)
        return last
    ooms = f", {result.oom_kills} of them by an OOM kill" if result.oom_kills else ""
    print(
        f"the Job failed: {result.job_reason or 'its pod failed'}. {result.restarts} restarts{ooms} reached backoffLimit "
        f"{backoff_limit}; the container's last own exit code was {last}.\n"
        "  Every resize with RestartContainer is a restart too. The state holds what was done, and the same command "
        f"goes on: allow more with --backoff-limit {max(2 * backoff_limit, 4)}, start larger with --memory, or resize "
        "without restarts (--resize-policy NotRequired).",
        file=sys.stderr,
    )
    return last if last in (Exit.FAILED, Exit.STATE_BUSY, Exit.STATE_IO) else Exit.AGAIN


def _summary(log: _Log, settings: Settings) -> str:
    """What happened, in plain English, if the job got far enough to have a state."""
    from pathlib import Path

    from ..observe.summary import summarise

    if log.job is None:
        return ""
    state = settings.state or str(Path(".etlkit") / log.job)
    return summarise(state) if Path(state).is_dir() else ""
