"""A start that fits: ask for memory before anything large is imported.

At a limit that is too small for pyarrow itself, a container that imports first is killed at each start and never
asks. ``make_room`` needs the standard library alone; the caller decides how much is needed and what follows. It waits on
the main thread, since it takes SIGTERM while it waits: with RestartContainer that is how the answer comes (F2), and
after a request the process must stay alive until then (F15).
"""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..decide.events import FINAL_OUTCOMES, ResizeMode, ResizeOutcome, ResizeReported
from .budget import restarts_left
from .client import PodClient
from .identity import PodIdentity
from .pod import PodView
from .resizer import Resizer

_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class FirstAsk:
    """How it ended. ``limit_bytes`` is the limit in force now."""

    outcome: ResizeOutcome | None
    """None: nobody was asked, and ``message`` says why."""
    message: str
    limit_bytes: int | None
    terminated: bool = False
    """SIGTERM came: exit 75, and the next start has the new size."""


def make_room(
    to_bytes: int,
    client: PodClient,
    identity: PodIdentity,
    read_limit: Callable[[], int | None],
    *,
    backoff_limit: int | None = None,
    keep_request: bool = False,
    facts_s: float = 10.0,
    deadline_s: float = 60.0,
    say: Callable[[ResizeReported], None] = lambda report: None,
) -> FirstAsk:
    """Ask for ``to_bytes`` and wait until it is in force, refused, or SIGTERM comes. After ``deadline_s`` without the
    kubelet at work on it, it is withdrawn. Nothing is asked if the restart would fail the Job (F8)."""
    news: queue.SimpleQueue[ResizeReported] = queue.SimpleQueue()
    terminated: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    resizer = Resizer(client, identity, news.put, read_limit, keep_request=keep_request)
    try:
        view = resizer.facts(facts_s)
        obstacle = _obstacle(view, backoff_limit)
        if view is None:
            trouble = resizer.trouble()
            obstacle = trouble.explain() if trouble is not None else "the API server has not answered yet"
        if obstacle:
            return FirstAsk(None, obstacle, read_limit(), bool(terminated))
        resizer.request(to_bytes, "the limit is too small to start")
        ended = _wait(resizer, news, terminated, to_bytes, read_limit(), deadline_s, say)
        return replace(ended, limit_bytes=read_limit())
    finally:
        resizer.close()
        signal.signal(signal.SIGTERM, before)


def _obstacle(view: PodView | None, backoff_limit: int | None) -> str:
    if view is None or view.memory_policy is not ResizeMode.RESTART:
        return ""
    left = restarts_left(
        backoff_limit, view.restart_counts, restart_policy=view.restart_policy, in_job=view.job is not None
    )
    return "" if left > 0 else "a resize restarts the container, and the Job's backoffLimit allows no more restarts"


def _wait(
    resizer: Resizer,
    news: queue.SimpleQueue[ResizeReported],
    terminated: list[int],
    to_bytes: int,
    limit_bytes: int | None,
    deadline_s: float,
    say: Callable[[ResizeReported], None],
) -> FirstAsk:
    began_s, withdrawn = time.monotonic(), False
    outcome, message = ResizeOutcome.REQUESTED, "asked for"
    while not terminated:
        try:
            report = news.get(timeout=_TICK_S)
        except queue.Empty:
            # While the kubelet is restarting the container nothing is taken back: SIGTERM is on its way.
            late = time.monotonic() - began_s > deadline_s and outcome is not ResizeOutcome.IN_PROGRESS
            if late and not withdrawn and limit_bytes is not None:
                withdrawn = True
                resizer.withdraw(limit_bytes)
            continue
        say(report)
        if report.to_bytes != to_bytes:
            continue  # of the life before this one, replaced by our request
        outcome, message = report.outcome, report.message
        if outcome in FINAL_OUTCOMES:
            return FirstAsk(outcome, message, limit_bytes)
    return FirstAsk(outcome, message, limit_bytes, terminated=True)
