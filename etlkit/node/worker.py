"""An actor: a thread that does what it is told, one thing after another, at once or later.

Covers queueing, delays and the report of what went wrong. It knows nothing of pods.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

Action = Callable[[], None]


class Worker:
    """Runs actions in the order of their time, each while holding ``lock``."""

    def __init__(
        self, name: str, lock: AbstractContextManager[object], on_failure: Callable[[Exception], None]
    ) -> None:
        self._lock = lock
        self._on_failure = on_failure
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Action]] = []
        self._wake = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, action: Action, delay_s: float = 0.0) -> None:
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), action))
            self._wake.notify()

    def stop(self) -> None:
        """No further action is begun. Does not wait for the one that runs."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def join(self, timeout_s: float) -> None:
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _next(self) -> Action | None:
        with self._wake:
            while not self._stopped:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._wake.wait(left)
            return None

    def _run(self) -> None:
        while True:
            action = self._next()
            if action is None:
                return
            try:
                with self._lock:
                    action()
            except Exception as error:
                self._on_failure(error)
