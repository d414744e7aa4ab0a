"""The machine's thresholds from ``etlkit.toml``, also while the job runs.

``policy_from`` makes a ``Policy`` of settings. ``PolicyWatcher`` watches the file with watchdog, the way a ConfigMap
changes included: Kubernetes swaps the symlink ``..data`` beside the file, so the folder is watched and the content is
compared. A changed file may move thresholds and lower the memory cap; it may not raise the cap, and a file that is
wrong, or gone, leaves the policy in force as it is. A ConfigMap mounted with ``subPath`` never changes: Kubernetes does
not update those. Only ``[policy]``, ``max_memory`` and ``checkpoint_every`` are live; other keys are read at the start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from ..decide.policy import Policy
from ..errors import ConfigError, EtlkitError, UsageError
from ..lazyclass import dataclass
from ..settings import Settings, load, nearest
from ..units import format_bytes, parse_bytes, parse_seconds

_SETTLE_S = 0.2
"""A swap or a save is several events: look once, a moment after the last."""


def _share(value: object) -> float:
    number = _number(value)
    if not 0 < number < 1:
        raise ValueError("a share above 0 and below 1")
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    return float(value)


def _margin(value: object) -> float:
    number = _number(value)
    if not 0 <= number <= 10:
        raise ValueError("a share from 0, such as 0.15")
    return number


def _duration(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a duration such as 10s")
    seconds = parse_seconds(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError("a duration from 0s")
    return seconds


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a quantity such as 16Mi")
    number = parse_bytes(value)
    if number < 4096:
        raise ValueError("a quantity of at least 4Ki")
    return number


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number from 1")
    return value


@dataclass(frozen=True, slots=True)
class Taken:
    """A changed file's policy, and what changed in words. What the loop gets from a watcher."""

    policy: Policy
    what: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a changed file was refused; the policy in force is kept."""

    why: str


_THRESHOLDS: Mapping[str, tuple[str, Callable[[object], float | int]]] = {
    "overhead": ("overhead", _share),
    "tight": ("tight", _share),
    "critical": ("critical", _share),
    "margin": ("margin", _margin),
    "quantum": ("quantum_bytes", _size),
    "cooldown": ("cooldown_s", _duration),
    "deferred_deadline": ("deferred_deadline_s", _duration),
    "request_deadline": ("request_deadline_s", _duration),
    "refused_retry": ("refused_retry_s", _duration),
    "min_workers": ("min_workers", _count),
    "min_slice_rows": ("min_slice_rows", _count),
    "slice_rows": ("slice_rows", _count),
    "max_tries": ("max_tries", _count),
}
"""Key of the ``[policy]`` table, field of ``Policy``, and how it is read."""


def given_options(settings: Settings) -> dict[str, object]:
    """The options of the command line among these settings: they go on beating a file that changes."""
    rows = {key: value for key, value, origin in settings.rows() if origin.startswith("option")}
    return {key: value for key, value in rows.items() if not key.startswith("policy.")}


def policy_from(settings: Settings, base: Policy | None = None) -> Policy:
    """``base`` holds what no setting says: the mode. Raises ``ConfigError`` naming file, key and nearest key."""
    values: dict[str, Any] = {
        "max_memory_bytes": settings.max_memory_bytes,
        "checkpoint_every_s": settings.checkpoint_every_s,
        "every_is_bound": settings.asked("checkpoint_every"),
    }
    place = f"{settings.file}: [policy]"
    for key, value in settings.policy.items():
        if key not in _THRESHOLDS:
            raise ConfigError(f"{place}: unknown key '{key}'", nearest(key, tuple(_THRESHOLDS)))
        name, parse = _THRESHOLDS[key]
        try:
            values[name] = parse(value)
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"{place}: '{key}' is {value!r}", f"give {error}") from error
        except UsageError as error:
            raise ConfigError(f"{place}: '{key}': {error.message}", error.remedy) from error
    policy = replace(base or Policy(), **values)
    if not policy.tight < policy.critical:
        raise ConfigError(f"{place}: tight {policy.tight} is not below critical {policy.critical}", "lower 'tight'")
    if policy.min_slice_rows > policy.slice_rows:
        raise ConfigError(f"{place}: min_slice_rows is above slice_rows", "lower 'min_slice_rows'")
    return policy


def changed_policy(current: Policy, wanted: Policy) -> tuple[Policy, str]:
    """What a running job takes of a new policy, and what it does not, in words."""
    cap_bytes, allowed, refusal = current.max_memory_bytes, wanted.max_memory_bytes, ""
    if cap_bytes is None:
        # No cap means that this run never asks; a file can't give it leave to.
        allowed = None
    elif allowed is None or allowed > cap_bytes:
        allowed = cap_bytes
    if allowed != wanted.max_memory_bytes and wanted.max_memory_bytes is not None:
        cap = "none" if cap_bytes is None else format_bytes(cap_bytes)
        refusal = (
            f"max_memory {format_bytes(wanted.max_memory_bytes)} is above the cap in force ({cap}):"
            " in a running job it may only be lowered"
        )
    return replace(wanted, mode=current.mode, max_memory_bytes=allowed), refusal


class PolicyWatcher:
    """Calls ``take(policy, what_changed)`` for each accepted change and ``refuse(why)`` for each refused file; both on
    the watcher's thread. Nothing is watched while there is no file. Use it as a context manager."""

    def __init__(
        self,
        settings: Settings,
        current: Policy,
        take: Callable[[Policy, str], None],
        refuse: Callable[[str], None],
        *,
        options: Mapping[str, object] | None = None,
        environ: Mapping[str, str] = os.environ,
        cwd: str | os.PathLike[str] = ".",
    ) -> None:
        """``options``, ``environ`` and ``cwd`` as given to ``settings.load``: an option goes on beating the file."""
        self._path = settings.file
        self._current = current
        self._take = take
        self._refuse = refuse
        self._options, self._environ, self._cwd = options, environ, cwd
        self._content = self._read()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._observer: Any = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PolicyWatcher:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to watch. The threads start here: call it before the memory wall goes up."""
        if self._path is None or self._thread is not None:
            return
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer
        from watchdog.observers.polling import PollingObserver

        wake = self._wake

        class Bell(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                # Reading the file is an event too: ringing for it would never end.
                if event.event_type not in ("opened", "closed_no_write"):
                    wake.set()

        folder = str(self._path.parent)
        self._observer = Observer()
        self._observer.schedule(Bell(), folder)
        try:
            self._observer.start()
        except OSError:  # no inotify watch left on this node: polling does as well
            self._observer = PollingObserver(timeout=5)
            self._observer.schedule(Bell(), folder)
            self._observer.start()
        self._thread = threading.Thread(target=self._run, name="etlkit-policy", daemon=True)
        self._thread.start()
        self._wake.set()  # a change between reading the settings and watching the folder

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._observer is not None:
            self._observer.stop()
        if self._thread is not None:
            self._thread.join(1)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            while self._wake.is_set() and not self._closing.is_set():
                self._wake.clear()
                self._closing.wait(_SETTLE_S)
            if not self._closing.is_set():
                self.check()

    def check(self) -> None:
        """Look at the file now. Tells ``take`` or ``refuse`` if its content changed."""
        content = self._read()
        if content == self._content:
            return
        self._content = content
        if content is None:
            self._refuse(f"{self._path} is gone; the policy in force is kept")
            return
        try:
            wanted = policy_from(load(self._options, self._environ, self._cwd))
        except EtlkitError as error:
            self._refuse(f"{error.message}; the policy in force is kept")
            return
        policy, refusal = changed_policy(self._current, wanted)
        if refusal:
            self._refuse(refusal)
        if policy != self._current:
            what = _difference(self._current, policy)
            self._current = policy
            self._take(policy, what)

    def _read(self) -> bytes | None:
        try:
            return None if self._path is None else self._path.read_bytes()
        except OSError:
            return None


def _difference(old: Policy, new: Policy) -> str:
    names = [name for name in Policy.__dataclass_fields__ if getattr(old, name) != getattr(new, name)]
    return ", ".join(f"{name} {getattr(old, name)} → {getattr(new, name)}" for name in names)
