"""``etlkit local TARGET --shards N``: a fan-out's pods side by side on this machine, an Indexed Job a round.

Each pod has the memory that ``--memory`` says, and resizes itself. It is the same command in the pods as in a cluster, the same Job
arithmetic, and one folder for all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..node.controller import PodResult
    from ..node.node import Node
    from ..observe.progress import Renderer
    from ..settings import Settings

RETRIES_AN_INDEX = 6


@dataclass(frozen=True, slots=True)
class Pods:
    """What is the same in every round: ``manifest(command)`` is the pod, ``command(round)`` what it runs."""

    name: str
    shards: int
    manifest: Callable[[list[str]], dict[str, Any]]
    command: Callable[[int], list[str]]
    max_memory: str
    backoff_limit: int | None
    hopeless: frozenset[int]


def root_of(args: argparse.Namespace, settings: Settings) -> str:
    from ..runtime.first_ask import job_name

    return settings.state or f".etlkit/{job_name(args.target)}"


def rounds_of(args: argparse.Namespace, settings: Settings) -> int:
    """The job must be loaded for that; with ``--restart`` what is unfinished is discarded, once, before any pod begins."""
    from ..plan.job import load as load_job
    from ..plan.rounds import rounds
    from ..runtime.api import make_request
    from ..runtime.fanout import discard
    from .run import parameters_of

    request = make_request(
        load_job(args.target), parameters_of(args.set), settings, target=args.target, run_id=args.run_id, restart=False
    )
    if args.restart:
        discard(root_of(args, settings))
    return rounds(request.pipelines)


def run_rounds(node: Node, pods: Pods, rounds: int, settings: Settings, follow: Callable[..., Any]) -> int:
    """One Job after the other, as ``etlkit submit`` lets them run. ``follow(handle, log)`` waits, and takes signals."""
    from ..exits import Exit
    from ..observe.progress import make_renderer

    as_json = settings.progress == "json"
    log = IndexedLog(
        make_renderer("json" if as_json else settings.progress, sys.stdout if as_json else sys.stderr),
        pods.hopeless,
        as_json,
    )
    try:
        for number in range(rounds):
            if rounds > 1:
                log.say(f"round {number} of {rounds}")
            log.begin()
            handle = node.start_job(
                pods.manifest(pods.command(number)),
                backoff_limit=RETRIES_AN_INDEX * pods.shards if pods.backoff_limit is None else pods.backoff_limit,
                max_memory=pods.max_memory,
                environment_base={k: v for k, v in os.environ.items() if k != "ETLKIT_CGROUP"},
                stdout=log.stdout,
                stderr=log.stderr,
                on_event=log.container,
                completions=pods.shards,
            )
            result, interrupted = follow(handle, log)
            if result.job_condition != "Complete":
                return _failed(result, interrupted, log)
    finally:
        log.close()
    return int(Exit.DONE)


def tell_end(root: str, settings: Settings) -> None:
    from ..layout import is_fanout
    from ..observe.fanout import lines, observe_fanout

    if is_fanout(Path(root)) and settings.progress != "none":
        text = "\n".join([*lines(observe_fanout(root)), "", f"  state    {root}", f"  next     etlkit show {root}"])
        print(text, file=sys.stderr if settings.progress == "json" else sys.stdout, flush=True)


def _failed(result: PodResult, interrupted: bool, log: IndexedLog) -> int:
    from ..exits import Exit

    if interrupted:
        print("interrupted: the state holds what was done; the same command goes on", file=sys.stderr)
        return int(Exit.AGAIN)
    if log.fatal is not None:
        index, code = log.fatal
        print(f"stopped: index {index} ended with {code}, and so would every other start", file=sys.stderr)
        return code
    print(
        f"the Job failed: {result.job_reason or 'stopped'}. The state holds what was done, and the same command goes on; "
        "allow more restarts with --backoff-limit",
        file=sys.stderr,
    )
    return log.last if log.last in (Exit.FAILED, Exit.STATE_BUSY, Exit.STATE_IO) else int(Exit.AGAIN)


@dataclass(slots=True)
class IndexedLog:
    """What the pods write: a line each for what is worth one, with the index before it. Fed by several threads."""

    renderer: Renderer
    never_again: frozenset[int]
    as_json: bool
    fatal: tuple[int, int] | None = None
    """Index and exit code with which no other start would help."""
    last: int = 0
    _failures: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        self._failures.clear()

    def hopeless(self) -> bool:
        with self._lock:
            return self.fatal is not None

    def stdout(self, container: str, line: bytes) -> None:
        from ..observe.sentences import Teller

        index, text = _index(container), line.decode(errors="replace").rstrip("\n")
        try:
            event = json.loads(text)
        except ValueError:
            event = None
        with self._lock:
            if not isinstance(event, dict) or "event" not in event:
                self.renderer.say(f"[{index}] {text}")
                return
            if event["event"] == "checkpoint":
                self._failures.pop(index, None)
            if self.as_json:
                self.renderer.feed({**event, "index": index})
            elif (told := Teller().tell(event)) is not None:
                self.renderer.say(f"[{index}] {told.text}")

    def stderr(self, container: str, line: bytes) -> None:
        text = f"[{_index(container)}] {line.decode(errors='replace').rstrip()}"
        with self._lock:
            if self.as_json:
                print(text, file=sys.stderr, flush=True)
            else:
                self.renderer.say(text)

    def container(self, event: dict[str, Any]) -> None:
        from datetime import UTC, datetime

        from ..observe.sentences import Teller

        index = int(event["index"])
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with self._lock:
            if event["event"] == "container_exited":
                self._ended(index, event)
            stamped = {"event": event["event"], "at": stamp} | event
            if self.as_json:
                self.renderer.feed(stamped)
            elif (told := Teller().tell(stamped)) is not None:
                self.renderer.say(f"[{index}] {told.text}")

    def _ended(self, index: int, event: dict[str, Any]) -> None:
        code = int(event["exit_code"])
        self.last = code or self.last
        if code == 1:
            self._failures[index] = self._failures.get(index, 0) + 1
        if not event["oom_killed"] and (code in self.never_again or self._failures.get(index, 0) >= 2):
            self.fatal = index, code

    def say(self, text: str) -> None:
        with self._lock:
            self.renderer.say(text)

    def close(self) -> None:
        with self._lock:
            self.renderer.close()


def _index(container: str) -> int:
    return int(container.rpartition("[")[2].rstrip("]"))
