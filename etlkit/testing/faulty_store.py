"""Stores that fail on purpose.

``FaultyDisk`` counts the calls that a local store makes and fails one of them, once or from then on, with an errno of choice; a
write that fails may have written half. ``LaggingStore`` lists what was there a while ago, as an object store or an NFS client may.
Both stand over the real thing. Crash states are ``crash_states.py``'s.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from ..checkpoint.disk import Disk
from ..checkpoint.local import LocalStore

CHANGING = ("create", "write", "fsync", "link", "rename", "mkdir", "fsync_folder")
"""The calls that need room or a writable volume. Removing, reading and closing go on working on a full disk."""


class FaultyDisk(Disk):
    """Fails the ``fail_at``-th of the ``calls`` (from 1), and the ones after it too if ``lasting``. 0: never.

    ``seen`` says which calls were made, so that a test can fail each in turn.
    """

    def __init__(
        self,
        error: int,
        fail_at: int = 0,
        *,
        lasting: bool = False,
        calls: tuple[str, ...] = CHANGING,
        disk: Disk | None = None,
    ) -> None:
        self._disk = disk or Disk()
        self._error, self.fail_at, self._lasting, self._calls = error, fail_at, lasting, calls
        self.seen: list[str] = []

    def mend(self) -> None:
        """There is room again."""
        self.fail_at = 0

    def _due(self, call: str) -> bool:
        if call not in self._calls:
            return False
        self.seen.append(call)
        return 0 < self.fail_at <= len(self.seen) if self._lasting else self.fail_at == len(self.seen)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("seen", "fail_at", "mend"):
            return object.__getattribute__(self, name)
        real: Callable[..., Any] = getattr(self._disk, name)

        def call(*arguments: Any) -> Any:
            if self._due(name):
                if name == "write":
                    handle, data = arguments
                    self._disk.write(handle, memoryview(data)[: len(data) // 2])
                raise OSError(self._error, os.strerror(self._error))
            return real(*arguments)

        return call


class LaggingStore(LocalStore):
    """A folder whose listing shows what was there ``lag`` listings ago. Looking by name is always right."""

    def __init__(self, root: str | os.PathLike[str], lag: int) -> None:
        super().__init__(root)
        self._seen: dict[str, deque[list[str]]] = {}
        self._lag = lag

    def names(self, folder: str) -> list[str]:
        history = self._seen.setdefault(folder, deque(maxlen=self._lag + 1))
        history.append(super().names(folder))
        return history[0]
