"""Asks for a resize and follows it, on a thread of its own.

The runtime hands in what to ask for and gets a ``ResizeReported`` for each change of outcome, once. There is one wanted
size in the API, so there is one resize in flight: a newer request replaces the older. The thread looks at the limit
file often (it costs microseconds) and at the API server seldom. It decides nothing: when to ask, how long to wait and
when to withdraw is the machine's; only a size that the kubelet calls infeasible is taken back here at once, so that
nothing that nobody counts on any more stays wanted. It never ends the process (F15).
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable

from ..decide.events import ResizeOutcome, ResizeReported
from ..errors import EtlkitError
from ..lazyclass import dataclass
from .answer import OUTCOMES, Answer, Kind
from .client import PodClient
from .identity import PodIdentity
from .outcome import PAGE_SLACK_BYTES, Deadlines, ResizeTracker, Standing
from .pod import PodView, Resources, read_pod
from .recorder import EventRecorder
from .shortfall import most_bytes

_NO_ANSWER = frozenset({Kind.TIMEOUT, Kind.RESET, Kind.UNREACHED, Kind.TLS})


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look, in seconds."""

    limit_file_s: float = 0.05
    first_poll_s: float = 0.1
    growth: float = 1.5
    longest_poll_s: float = 5.0
    unsure_s: float = 5.0
    """How long to go on finding out whether a request without an answer was taken."""
    facts_retry_s: float = 10.0


@dataclass(frozen=True, slots=True)
class _Request:
    to_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Withdraw:
    to_bytes: int


class _Closed(Exception):
    """The runtime is done with us; whatever is going on ends here."""


class Resizer:
    """Starts its thread at once; all methods may be called from any thread and none waits for the network
    except ``facts(wait_s)``. ``post`` is called on the resizer's thread and should only hand the event on."""

    def __init__(
        self,
        client: PodClient,
        identity: PodIdentity,
        post: Callable[[ResizeReported], None],
        read_limit: Callable[[], int | None],
        *,
        keep_request: bool = False,
        pace: Pace | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        """``keep_request``: a Burstable pod raises its limit alone (the author's choice, F16)."""
        self._client = client
        self._identity = identity
        self._post = post
        self._read_limit = read_limit
        self._keep_request = keep_request
        self._pace = pace or Pace()
        self._deadlines = deadlines or Deadlines()
        self._commands: queue.SimpleQueue[_Request | _Withdraw | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._asked = threading.Event()
        self._facts: PodView | None = None
        self._trouble: Answer | None = None
        self._tracker: ResizeTracker | None = None
        self._to_bytes = 0
        self._why = ""
        self._in_force = Resources()
        self._owed_bytes: int | None = None
        self._unknown = True
        self._reported: Standing | None = None
        self._recorder = EventRecorder(client.create_event)
        self._thread = threading.Thread(target=self._run, name="etlkit-resizer", daemon=True)
        self._thread.start()

    def request(self, to_bytes: int, reason: str) -> None:
        self._commands.put(_Request(to_bytes, reason))

    def withdraw(self, to_bytes: int) -> None:
        """Make ``to_bytes``, the size in force, the wanted one again."""
        self._commands.put(_Withdraw(to_bytes))

    def close(self, wait_s: float = 0.2) -> None:
        """Stop looking, and report nothing more. What was asked for stays asked for."""
        self._closing.set()
        self._commands.put(None)
        self._recorder.close()
        self._thread.join(wait_s)

    def facts(self, wait_s: float = 0.0) -> PodView | None:
        """The newest view of the pod, or None while there is none; waits for the first attempt at most ``wait_s``."""
        self._asked.wait(wait_s)
        return self._facts

    def trouble(self) -> Answer | None:
        """Why the newest GET failed, or None."""
        return self._trouble

    def _run(self) -> None:
        next_facts_s = 0.0
        while not self._closing.is_set():
            try:
                if self._unknown and time.monotonic() >= next_facts_s:
                    next_facts_s = time.monotonic() + self._pace.facts_retry_s
                    self._find_out()
                command = self._next_command(next_facts_s if self._unknown else None)
                if isinstance(command, _Withdraw):
                    self._withdraw(command.to_bytes)
                elif command is not None:
                    self._ask(command)
            except _Closed:
                return
            except Exception as error:
                # The wall stops allocations in this thread too, just when memory is asked for. Whatever it was: a
                # thread that ended silently would leave the job with nobody to ask.
                self._asked.set()
                self._report(Standing(ResizeOutcome.UNREACHABLE, f"could not ask: {type(error).__name__} {error}"))
                self._tracker = None

    def _next_command(self, until_s: float | None) -> _Request | _Withdraw | None:
        if self._tracker is not None:
            return self._follow()
        try:
            timeout_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            command = self._commands.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if command is None:
            raise _Closed
        return command

    def _look(self) -> PodView | None:
        """GET the pod; the answer becomes the newest facts."""
        answer = self._client.get_pod()
        view = None
        if answer.ok:
            try:
                view = read_pod(answer.body, self._identity.container)
            except EtlkitError as error:
                answer = Answer(Kind.INVALID, answer.status, message=str(error))
        self._trouble = None if view is not None else answer
        self._facts = view or self._facts
        self._asked.set()
        return view

    def _find_out(self) -> None:
        """Where the pod stands, when that is unknown: at the start, and after a request that nobody answered. A resize
        that is pending, of the life before this one perhaps (F14), is followed like one of ours."""
        view, limit_bytes = self._look(), self._read_limit()
        if view is None:
            return
        self._unknown = False
        if view.spec.limit_bytes is None or view.spec.limit_bytes == view.limit_bytes:
            return
        if limit_bytes is not None and abs(limit_bytes - view.spec.limit_bytes) < PAGE_SLACK_BYTES:
            return  # granted already; the status is late
        self._in_force = view.actual
        self._begin(view.spec.limit_bytes, view)

    def _ask(self, asked: _Request) -> None:
        to_bytes = asked.to_bytes
        if self._tracker is not None:
            self._report(Standing(ResizeOutcome.WITHDRAWN, "replaced by a newer request"))
        self._tracker, self._owed_bytes = None, None
        self._to_bytes, self._why, self._reported = to_bytes, asked.reason, None
        view = self._look()
        if view is None and self._trouble is not None and (self._facts is None or self._trouble.kind in _NO_ANSWER):
            self._report_failure(self._trouble)
            return
        view = view or self._facts
        assert view is not None
        self._in_force = view.actual
        request_bytes = None
        if self._keep_request and view.qos != "Guaranteed" and view.spec.request_bytes is not None:
            request_bytes = min(view.spec.request_bytes, to_bytes)
        answer, taken = self._patch(to_bytes, request_bytes, view)
        if taken is None:
            self._unknown = answer.may_be_applied
            self._report_failure(answer)
        else:
            self._begin(to_bytes, taken)

    def _withdraw(self, to_bytes: int) -> None:
        followed = self._tracker is not None
        answer = self._ask_back(to_bytes)
        if followed and answer is not None and self._tracker is not None:
            self._owed_bytes = to_bytes
            words = f"could not be withdrawn yet: {answer.explain()}"
            self._report(Standing(self._tracker.standing.outcome, words))
        elif not followed and answer is None:
            self._report(Standing(ResizeOutcome.WITHDRAWN, "the old size is the wanted one"))

    def _ask_back(self, to_bytes: int) -> Answer | None:
        """PATCH to exactly what was in force before, request included, where we know it. What refused it, or None."""
        view = self._facts or self._look()
        if view is None:
            return self._trouble
        exact, request_bytes = self._in_force.limit_bytes, None
        if exact is not None and abs(exact - to_bytes) < PAGE_SLACK_BYTES:
            # The limit file is rounded down to pages; the spec was not.
            to_bytes, request_bytes = exact, self._in_force.request_bytes
        answer, taken = self._patch(to_bytes, request_bytes, view)
        if taken is None:
            return answer
        self._owed_bytes = None
        if self._tracker is not None:
            self._tracker.withdraw(Resources(limit_bytes=to_bytes), time.monotonic(), taken.generation)
        return None

    def _patch(self, to_bytes: int, request_bytes: int | None, view: PodView) -> tuple[Answer, PodView | None]:
        """PATCH until it is known whether it was taken, for a while. Without an answer only the pod itself can tell."""
        give_up_s = time.monotonic() + self._pace.unsure_s
        while True:
            answer = self._client.resize_memory(to_bytes, view, request_bytes=request_bytes)
            if answer.ok:
                return answer, self._view_of(answer) or view
            if not answer.may_be_applied and answer.kind not in _NO_ANSWER:
                return answer, None
            found = self._look()
            if found is not None and found.spec.limit_bytes == to_bytes:
                return answer, found
            if time.monotonic() >= give_up_s:
                return answer, None
            if self._closing.wait(self._pace.first_poll_s * 5):
                raise _Closed

    def _view_of(self, answer: Answer) -> PodView | None:
        try:
            self._facts = read_pod(answer.body, self._identity.container)
        except EtlkitError:
            return None
        return self._facts

    def _begin(self, to_bytes: int, view: PodView) -> None:
        self._to_bytes = to_bytes
        self._tracker = ResizeTracker(
            Resources(limit_bytes=to_bytes), view, time.monotonic(),
            generation=view.generation, deadlines=self._deadlines,
        )  # fmt: skip
        self._report(self._tracker.standing)

    def _follow(self) -> _Request | _Withdraw | None:
        """Until the resize in flight has ended or a command arrives."""
        wait_s = self._pace.first_poll_s
        next_poll_s = time.monotonic() + wait_s
        while self._tracker is not None:
            try:
                command = self._commands.get(timeout=self._pace.limit_file_s)
            except queue.Empty:
                pass
            else:
                if command is None:
                    raise _Closed
                return command
            view = None
            if time.monotonic() >= next_poll_s:
                if self._owed_bytes is not None:
                    self._withdraw(self._owed_bytes)
                view = self._look()
                wait_s = min(wait_s * self._pace.growth, self._pace.longest_poll_s)
                next_poll_s = time.monotonic() + wait_s * (0.75 + random.random() / 2)
            before = self._tracker.standing
            standing = self._tracker.observe(view, self._read_limit(), time.monotonic())
            if standing.outcome is before.outcome:
                continue
            wait_s = self._pace.first_poll_s
            if standing.final:
                self._tracker = None
                self._owed_bytes = None
                self._unknown = standing.outcome is ResizeOutcome.UNREACHABLE
            if standing.outcome is ResizeOutcome.INFEASIBLE and self._in_force.limit_bytes is not None:
                self._ask_back(self._in_force.limit_bytes)
            self._report(standing)
        return None

    def _report(self, standing: Standing) -> None:
        if standing == self._reported or self._closing.is_set():
            return
        self._reported = standing
        most = most_bytes(self._to_bytes, standing.message) if standing.outcome is ResizeOutcome.INFEASIBLE else None
        self._post(ResizeReported(time.monotonic(), standing.outcome, self._to_bytes, standing.message, most))
        self._recorder.record(self._facts, self._in_force.limit_bytes, self._to_bytes, standing, self._why)

    def _report_failure(self, answer: Answer) -> None:
        self._tracker = None
        self._report(Standing(OUTCOMES[answer.kind], answer.explain()))
