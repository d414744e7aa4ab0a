"""Where a resize stands. Pure, standard library only.

``ResizeTracker`` follows one wanted size through requested, in progress, deferred, error, to one of the final
outcomes, from levels and never from edges (F21): each observation is judged alone, whatever came before it was missed.
Times are handed in, from one monotonic clock of ours; the server's clock is never read. Nothing here asks the server
or reads a file.
"""

from __future__ import annotations

import re

from ..decide.events import FINAL_OUTCOMES, ResizeMode, ResizeOutcome
from ..lazyclass import dataclass
from ..units import format_bytes, format_seconds
from .pod import IN_PROGRESS, PENDING, Condition, PodView, Resources

PAGE_SLACK_BYTES = 64 * 1024
"""The kernel rounds a limit down to whole pages, which are at most this large."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a resize stands at one moment, in a word and in a sentence."""

    outcome: ResizeOutcome
    message: str

    @property
    def final(self) -> bool:
        return self.outcome in FINAL_OUTCOMES


@dataclass(frozen=True, slots=True)
class Deadlines:
    stuck_s: float = 5.0
    """A live resize takes some 0.1 s. One that the kubelet holds in progress this long is failing (F5), though its
    condition gives no reason."""
    settle_s: float = 0.5
    """Without a limit file, the status must say done for this long: it can flip back for a moment."""
    silent_s: float = 30.0
    """No pod could be read for this long: nobody knows where the resize stands."""
    withdraw_s: float = 10.0
    """A withdrawn size that the kubelet has not confirmed by then counts as withdrawn: nobody wants it any more."""


class ResizeTracker:
    """Follows one accepted resize of memory, cpu or both. Not thread-safe; it keeps times and the last standing.

    ``limit_file_bytes`` is the cgroup's own word on memory. Where there is one, it alone says that memory is actuated;
    the status may be early and late. A watcher outside (``etlkit resize --wait``) has none and goes by the status.
    """

    def __init__(
        self,
        target: Resources,
        before: PodView,
        at_s: float,
        *,
        generation: int = 0,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.target = target
        self._mode = before.memory_policy if target.limit_bytes is not None else before.cpu_policy
        self._shrinks = (target.limit_bytes or 0) < (before.limit_bytes or 0)
        self._generation = generation
        self._deadlines = deadlines or Deadlines()
        self._seen_at_s = at_s
        self._done_since_s: float | None = None
        self._progress_since_s: float | None = None
        self._withdrawn_at_s: float | None = None
        self.standing = Standing(ResizeOutcome.REQUESTED, "taken by the API server; the kubelet has not answered yet")

    @property
    def withdrawing(self) -> bool:
        return self._withdrawn_at_s is not None

    def withdraw(self, target: Resources, at_s: float, generation: int = 0) -> None:
        """The API server took the old size again: from now on wait for the kubelet to see that."""
        self.target = target
        self._generation = generation
        self._withdrawn_at_s = self._seen_at_s = at_s
        self._done_since_s = self._progress_since_s = None

    def observe(self, view: PodView | None, limit_file_bytes: int | None, at_s: float) -> Standing:
        """``view`` None: the pod could not be read this time (or was not asked)."""
        if not self.standing.final:
            self.standing = self._judge(view, limit_file_bytes, at_s)
        return self.standing

    def _judge(self, view: PodView | None, limit_file_bytes: int | None, at_s: float) -> Standing:
        if not self.withdrawing and self._limit_file_says_so(limit_file_bytes):
            return Standing(ResizeOutcome.ACTUATED, f"the limit is {format_bytes(limit_file_bytes or 0)} now")
        if view is not None:
            self._seen_at_s = at_s
            self._note_levels(view, at_s)
        if self.withdrawing:
            return self._judge_withdrawal(view, at_s)
        if view is None:
            return self._judge_silence(at_s)
        return self._judge_view(view, limit_file_bytes, at_s)

    def _judge_view(self, view: PodView, limit_file_bytes: int | None, at_s: float) -> Standing:
        if view.generation < self._generation:
            return self.standing  # an older answer than the one to our own PATCH
        if not _wanted(self.target, view.spec):
            size = format_bytes(view.spec.limit_bytes or 0)
            return Standing(ResizeOutcome.WITHDRAWN, f"somebody else changed the wanted size; it is {size} now")
        if not view.observed:
            return self._stuck(at_s) or self.standing
        pending = _condition(view, PENDING)
        if pending is not None and pending.reason == "Infeasible":
            return Standing(ResizeOutcome.INFEASIBLE, explain_pending(pending))
        if pending is not None:
            return Standing(ResizeOutcome.DEFERRED, explain_pending(pending))
        progress = _condition(view, IN_PROGRESS)
        if progress is not None and progress.reason == "Error":
            return Standing(ResizeOutcome.ERROR, f"the kubelet could not apply it and keeps trying: {progress.message}")
        if progress is not None:
            return self._stuck(at_s) or Standing(ResizeOutcome.IN_PROGRESS, self._progress_words())
        done_for_s = self._done_for_s(at_s)
        if limit_file_bytes is None or self.target.limit_bytes is None:
            if done_for_s >= self._deadlines.settle_s:
                return Standing(ResizeOutcome.ACTUATED, "the pod's status says that it is in force")
        elif done_for_s >= self._deadlines.stuck_s:
            seen = format_bytes(limit_file_bytes)
            return Standing(ResizeOutcome.ERROR, f"the pod's status says done, but the cgroup's limit is {seen}")
        return self._stuck(at_s) or self.standing

    def _note_levels(self, view: PodView, at_s: float) -> None:
        done = view.settled and view.generation >= self._generation and _wanted(self.target, view.actual)
        self._done_since_s = (self._done_since_s if self._done_since_s is not None else at_s) if done else None
        moving = view.observed and _condition(view, IN_PROGRESS) is not None
        self._progress_since_s = (
            (self._progress_since_s if self._progress_since_s is not None else at_s) if moving else None
        )

    def _judge_withdrawal(self, view: PodView | None, at_s: float) -> Standing:
        assert self._withdrawn_at_s is not None
        seen = view is not None and view.generation >= self._generation
        if seen and self._done_since_s is not None:
            return Standing(ResizeOutcome.WITHDRAWN, "the old size is the wanted one again")
        if at_s - self._withdrawn_at_s >= self._deadlines.withdraw_s:
            return Standing(
                ResizeOutcome.WITHDRAWN, "the old size is the wanted one again; the kubelet has not confirmed it yet"
            )
        return self.standing

    def _judge_silence(self, at_s: float) -> Standing:
        silent_s = at_s - self._seen_at_s
        if silent_s >= self._deadlines.silent_s:
            return Standing(
                ResizeOutcome.UNREACHABLE,
                f"accepted, but no answer from the API server for {format_seconds(silent_s)}; it may still be granted",
            )
        return self.standing

    def _stuck(self, at_s: float) -> Standing | None:
        """Held in progress by a kubelet that says no reason. Only live: a restart may take the whole grace period."""
        since_s = self._progress_since_s
        if self._mode is not ResizeMode.LIVE or since_s is None or at_s - since_s < self._deadlines.stuck_s:
            return None
        why = (
            "the new limit is most likely below what is in use, clean page cache included; it may land in a later dip"
            if self._shrinks
            else "the pod's events say why (kubectl describe pod)"
        )
        return Standing(ResizeOutcome.ERROR, f"in progress for {format_seconds(at_s - since_s)} and not applied: {why}")

    def _progress_words(self) -> str:
        if self._mode is ResizeMode.RESTART:
            return "the node has room; the container is being restarted with the new size"
        return "the node has room; the kubelet is applying it"

    def _limit_file_says_so(self, limit_file_bytes: int | None) -> bool:
        target = self.target.limit_bytes
        if limit_file_bytes is None or target is None or self.target.limit_millis is not None:
            return False
        return target - PAGE_SLACK_BYTES < limit_file_bytes <= target

    def _done_for_s(self, at_s: float) -> float:
        return -1.0 if self._done_since_s is None else at_s - self._done_since_s


_ROOM = re.compile(r"(memory|cpu), requested: (\d+), used: (\d+), capacity: (\d+)")


def explain_pending(condition: Condition) -> str:
    """Deferred and Infeasible in words, then the kubelet's own."""
    room = _ROOM.search(condition.message)
    words = ""
    if room is not None:
        what, numbers = room.group(1), [int(n) for n in room.groups()[1:]]
        wanted, used, capacity = (
            (format_bytes(n) for n in numbers) if what == "memory" else (f"{n / 1000:g} cores" for n in numbers)
        )
        words = f": it wants {wanted} of {what} where {used} of {capacity} are promised to others"
    if condition.reason == "Infeasible":
        return f"this node can never grant it{words} ({condition.message})"
    return (
        f"the node has no room now{words}. It is granted when others leave, at any later moment,"
        f" unless it is withdrawn ({condition.message})"
    )


def _wanted(target: Resources, found: Resources) -> bool:
    """Everything that the target names is what was found."""
    return (target.limit_bytes is None or target.limit_bytes == found.limit_bytes) and (
        target.limit_millis is None or target.limit_millis == found.limit_millis
    )


def _condition(view: PodView, kind: str) -> Condition | None:
    return next((c for c in view.conditions if c.type == kind), None)
