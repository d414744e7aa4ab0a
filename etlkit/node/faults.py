"""Faults on demand: what an API server and a kubelet do on a bad day.

Covers answers with an error status, answers that come late or never, connections that are dropped, starts that fail, a
status that lags or flips back, a pod's group that keeps its old limit (F15). It does not cover what rules
forbid (``admission.Rules``) or what other pods take (``Node.add_pod``): those are no faults.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal["answer", "late", "never", "drop"]


@dataclass(frozen=True, slots=True)
class CallFault:
    """What happens to a call. ``seconds`` is the delay of ``late``, or the Retry-After of 429."""

    kind: Kind
    code: int = 0
    seconds: float = 0.0
    after: bool = False
    """Drop the connection after the call took effect: the caller cannot know."""


class Faults:
    """Switches, thread-safe. Calls are matched by method (and a part of the path), each fault for some times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[tuple[str, str, CallFault, int]] = []
        self.status_lag_s = 0.0
        """Added to every movement of the status. The limit file does not wait for it."""
        self.flip_back = False
        """F21: after a resize the status shows the old size once more, for a moment."""
        self.stale_pod_limit = False
        """F15: a container that exits between PATCH and actuation starts in a pod whose own limit is the old one."""
        self.error_in_condition = False
        """F5: also say reason Error and the message in the condition, as the enhancement proposal has it; the
        recorded server says it by an event alone."""
        self.failing_starts = 0
        """F12: so many next starts of a container fail."""

    def answer(
        self, code: int, *, method: str = "PATCH", times: int = 1, retry_after_s: int = 1, path: str = ""
    ) -> None:
        """The next calls fail with this status: 401, 403 (RBAC), 404, 409, 429 or 5xx."""
        self._add(method, path, CallFault("answer", code, float(retry_after_s)), times)

    def late(self, seconds: float, *, method: str = "PATCH", times: int = 1, path: str = "") -> None:
        """The next calls are answered after so many seconds."""
        self._add(method, path, CallFault("late", seconds=seconds), times)

    def never(self, *, method: str = "PATCH", times: int = 1, path: str = "") -> None:
        """The next calls get no answer; the connection stays open until the node ends."""
        self._add(method, path, CallFault("never"), times)

    def drop(self, *, method: str = "PATCH", times: int = 1, after: bool = False, path: str = "") -> None:
        """The connection of the next calls is closed without an answer, before or after they take effect."""
        self._add(method, path, CallFault("drop", after=after), times)

    def clear(self) -> None:
        """All is well again, for calls."""
        with self._lock:
            self._queue.clear()

    def take(self, method: str, path: str) -> CallFault | None:
        """The fault that this call meets, used up by once."""
        with self._lock:
            for index, (on_method, on_path, fault, times) in enumerate(self._queue):
                if on_method in (method, "*") and on_path in path:
                    if times > 1:
                        self._queue[index] = (on_method, on_path, fault, times - 1)
                    else:
                        del self._queue[index]
                    return fault
        return None

    def start_fails(self) -> bool:
        """Whether this start of a container fails."""
        with self._lock:
            if self.failing_starts > 0:
                self.failing_starts -= 1
                return True
            return False

    def _add(self, method: str, path: str, fault: CallFault, times: int) -> None:
        with self._lock:
            self._queue.append((method, path, fault, times))
