"""News of a folder, by inotify or what this machine has instead (watchdog).

Covers waking up whoever looks at the folder, and names that files were renamed to. Where watchdog can't start (no inotify
watch left, a filesystem it does not know) there is no news, and looking now and then must do.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)


class Bell:
    """``counts`` tells whether a name is input. With no ``folder`` it never rings by itself."""

    def __init__(self, folder: str | None, counts: Callable[[str], bool]) -> None:
        self._folder = folder
        self._counts = counts
        self._rung = threading.Event()
        self._lock = threading.Lock()
        self._renamed: set[str] = set()
        self._observer: Any = None

    def start(self) -> None:
        """The observer's threads start here."""
        if self._folder is None or self._observer is not None:
            return
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        heard = self._heard

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                # Reading a file is an event too: ringing for it would never end.
                if event.event_type not in ("opened", "closed_no_write"):
                    heard(event.event_type, os.fsdecode(event.src_path), os.fsdecode(event.dest_path))

        observer = Observer()
        try:
            observer.schedule(Handler(), self._folder)
            observer.start()
        except OSError as error:
            _log.warning("%s: no inotify (%s): it is listed now and then instead", self._folder, error)
            return
        self._observer = observer

    def _heard(self, kind: str, source: str, target: str) -> None:
        # A name that did not count became one that does: whoever wrote the file says that it is whole.
        before, after = os.path.basename(source), os.path.basename(target)  # noqa: PTH119 - strings, many of them
        if kind == "moved" and self._counts(after) and not self._counts(before):
            with self._lock:
                self._renamed.add(after)
        self._rung.set()

    def wait(self, timeout_s: float) -> bool:
        """True if there was news."""
        rung = self._rung.wait(timeout_s)
        self._rung.clear()
        return rung

    def renamed(self) -> set[str]:
        """Names that files were renamed to since the last call."""
        with self._lock:
            found, self._renamed = self._renamed, set()
        return found

    def stop(self) -> None:
        self._rung.set()
        if self._observer is not None:
            self._observer.stop()
            self._observer = None
