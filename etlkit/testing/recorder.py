"""Records what this process does to the files below a folder, for jobs as they are: real sinks, real threads, a real disk.

    with recording(folder) as log:
        ek.run(…)
    for state in crash_states(log): …

It stands in for the functions of ``os`` that change files, and logs each call in the order in which they took effect, as
``SimDisk`` does for what goes through a ``Disk``. It also numbers the calls, and can end one of them with an error, or the process: an
exception that no ``except Exception`` catches, raised again by every later call, leaves what SIGKILL leaves. Several threads may
work; calls are taken one at a time. Only ``os.open`` is known: a file that is opened for writing by ``open()`` is refused.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .crash_states import Tree
from .simdisk import Mark, Mkdir, Name, Op, Rename, Rmdir, Sync, SyncFolder, Unlink, Write

BESIDE = ("events.jsonl", "writer.lock", ".asked.json", ".learned.json")
"""Files of a state directory that no result depends on."""
NEEDS_ROOM = ("open", "write", "fsync", "fdatasync", "rename", "link", "mkdir")
"""The calls that fail on a full volume; removing goes on working."""

Before = Callable[[int, str], BaseException | None]
"""Asked before each call, with its number and name (``NEEDS_ROOM``, ``unlink``, ``rmdir``): what it shall end with."""


class Recorder:
    """``log`` is what happened; ``calls`` are the names of the calls that changed something, in order."""

    def __init__(self, root: Path, skip: tuple[str, ...], before: Before | None) -> None:
        self.log: list[Op] = []
        self.calls: list[str] = []
        self.before = before
        self._root = os.path.realpath(root)
        self._skip = skip
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._inodes: dict[str, int] = {}
        self._handles: dict[int, int | str] = {}
        """Open files by what they are: an inode, or a folder's path."""
        self._real: dict[str, Any] = {}
        self.seeded = 0
        """So many calls of the log made what lay there before."""

    def mark(self, note: object) -> None:
        """The workload says what it has been told."""
        with self._lock:
            self.log.append(Mark(note))

    # ---- the calls

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        where = self._where(path, dir_fd)
        if where is None:
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        with self._lock:
            new = bool(flags & os.O_CREAT) and where not in self._inodes
            if flags & os.O_CREAT:
                self._ask("open")
            handle = int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
            if flags & os.O_TRUNC and not new:
                raise AssertionError(f"{where}: the recorder does not know files that are cut")
            if new:
                self._inodes[where] = next(self._numbers)
                self.log.append(Name(where, self._inodes[where]))
            self._handles[handle] = self._inodes.get(where, where)
            return handle

    def write(self, handle: int, data: Any) -> int:
        with self._lock:
            inode = self._handles.get(handle)
            if not isinstance(inode, int):
                return int(self._real["write"](handle, data))
            try:
                self._ask("write")
            except OSError:
                half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
                self.log.append(Write(inode, bytes(half)))
                self._real["write"](handle, half)
                raise
            done = int(self._real["write"](handle, data))
            self.log.append(Write(inode, bytes(memoryview(data).cast("B")[:done])))
            return done

    def fsync(self, handle: int) -> None:
        self._synced("fsync", handle)

    def fdatasync(self, handle: int) -> None:
        self._synced("fdatasync", handle)

    def _synced(self, call: str, handle: int) -> None:
        with self._lock:
            what = self._handles.get(handle)
            if what is not None:
                self._ask(call)
            self._real[call](handle)
            if isinstance(what, int):
                self.log.append(Sync(what))
            elif what is not None:
                self.log.append(SyncFolder(what))

    def close(self, handle: int) -> None:
        with self._lock:
            self._handles.pop(handle, None)
            self._real["close"](handle)

    def rename(self, source: Any, target: Any) -> None:
        self._renamed("rename", source, target)

    def replace(self, source: Any, target: Any) -> None:
        self._renamed("replace", source, target)

    def _renamed(self, call: str, source: Any, target: Any) -> None:
        before, after = self._where(source), self._where(target)
        if before is None or after is None:
            self._real[call](source, target)
            return
        with self._lock:
            self._ask("rename")
            self._real[call](source, target)
            if self._inodes.get(before) == self._inodes.get(after):
                return  # two names of one file: rename(2) leaves both
            self._inodes[after] = self._inodes.pop(before)
            self.log.append(Rename(before, after, self._inodes[after]))

    def link(self, source: Any, target: Any) -> None:
        before, after = self._where(source), self._where(target)
        if before is None or after is None:
            self._real["link"](source, target)
            return
        with self._lock:
            self._ask("link")
            self._real["link"](source, target)
            self._inodes[after] = self._inodes[before]
            self.log.append(Name(after, self._inodes[after]))

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        where = self._where(path, dir_fd)
        with self._lock:
            if where is not None:
                self._ask("unlink")
            self._real["unlink"](path, dir_fd=dir_fd)
            if where is not None and self._inodes.pop(where, None) is not None:
                self.log.append(Unlink(where))

    remove = unlink

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        where = self._where(path, dir_fd)
        with self._lock:
            if where is not None:
                self._ask("mkdir")
            self._real["mkdir"](path, mode, dir_fd=dir_fd)
            if where is not None:
                self.log.append(Mkdir(where))

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        where = self._where(path, dir_fd)
        with self._lock:
            if where is not None:
                self._ask("rmdir")
            self._real["rmdir"](path, dir_fd=dir_fd)
            if where is not None:
                self.log.append(Rmdir(where))

    # ---- inside

    def plain_open(self, file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if set(mode) & set("wax+") and self._where(file) is not None:
            raise AssertionError(f"{file}: written by way of open(), which is not recorded")
        return self._real["io.open"](file, mode, *rest, **more)

    def _ask(self, call: str) -> None:
        self.calls.append(call)
        if self.before is not None and (error := self.before(len(self.calls), call)) is not None:
            raise error

    def _where(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path below the root, as the log says it; None for what is not ours."""
        if isinstance(path, int):
            return None
        text = os.fspath(path)
        if dir_fd is not None:
            text = f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/{text}"
        folder, _, name = os.path.abspath(text).rpartition("/")  # noqa: PTH100
        real = f"{os.path.realpath(folder)}/{name}"
        if real == self._root:
            return "/"
        if not real.startswith(f"{self._root}/") or name.startswith(self._skip):
            return None
        return real[len(self._root) :]

    def go_on(self, log: Sequence[Op]) -> None:
        """What lies there was made by these calls of a process that was killed; no more of it is durable than they made so."""
        self.log += log
        for op in log:
            match op:
                case Name(path, inode):
                    self._inodes[path] = inode
                case Rename(source, target, inode):
                    self._inodes.pop(source, None)
                    self._inodes[target] = inode
                case Unlink(path):
                    self._inodes.pop(path, None)
        self._numbers = itertools.count(max((op.inode for op in log if isinstance(op, Name)), default=0) + 1)
        self.seeded = len(self.log)

    def seed(self) -> None:
        """What lies there when recording begins, durable."""
        for folder, folders, files in os.walk(self._root):
            at = folder[len(self._root) :] or "/"
            for name in folders:
                self.log.append(Mkdir(f"{at.rstrip('/')}/{name}"))
            for name in files:
                where = f"{at.rstrip('/')}/{name}"
                if self._where(f"{folder}/{name}") is None:
                    continue
                inode = self._inodes[where] = next(self._numbers)
                content = Path(folder, name).read_bytes()
                self.log += [Name(where, inode), Write(inode, content), Sync(inode)]
        self.log += [SyncFolder(op.path) for op in self.log if isinstance(op, Mkdir)]
        self.log.append(SyncFolder("/"))
        self.seeded = len(self.log)


_CALLS = (
    "open",
    "write",
    "fsync",
    "fdatasync",
    "close",
    "rename",
    "replace",
    "link",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
)


@contextlib.contextmanager
def recording(
    root: Path, *, skip: tuple[str, ...] = BESIDE, before: Before | None = None, after: Sequence[Op] = ()
) -> Iterator[Recorder]:
    """Log the changes below ``root``, but for files whose names begin with one of ``skip``. What lies there is durable, unless
    ``after`` says by which calls it came."""
    recorder = Recorder(root, skip, before)
    if after:
        recorder.go_on(after)
    else:
        recorder.seed()
    real = {name: getattr(os, name) for name in _CALLS if hasattr(os, name)}
    recorder._real = {**real, "io.open": io.open}
    for name in real:
        setattr(os, name, getattr(recorder, name))
    io.open = recorder.plain_open  # what Path.open calls
    try:
        yield recorder
    finally:
        io.open = recorder._real["io.open"]
        for name, function in real.items():
            setattr(os, name, function)


def lay_out(tree: Tree, place: Path) -> None:
    """Make a folder that looks like this."""
    for folder in sorted(tree):
        below = place / folder.strip("/")
        below.mkdir(parents=True, exist_ok=True)
        for name, content in tree[folder].items():
            (below / name).write_bytes(content)
