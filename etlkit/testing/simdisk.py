"""A disk in memory that keeps a log, so that every state a power loss may leave can be built from it.

``SimDisk`` stands in for ``etlkit.checkpoint.disk.Disk``. It covers what a local store calls, with the same errors; that it behaves
like a real folder is held by running the store's tests on both. What the log means is ``crash_states.py``'s.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..checkpoint.disk import Disk, Stat
from ..checkpoint.store import Bytes


@dataclass(frozen=True, slots=True)
class Mkdir:
    path: str


@dataclass(frozen=True, slots=True)
class Name:
    """``path`` now names ``inode`` (a create, or a link)."""

    path: str
    inode: int


@dataclass(frozen=True, slots=True)
class Rename:
    source: str
    target: str
    inode: int


@dataclass(frozen=True, slots=True)
class Unlink:
    path: str


@dataclass(frozen=True, slots=True)
class Rmdir:
    path: str


@dataclass(frozen=True, slots=True)
class Write:
    inode: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Sync:
    inode: int


@dataclass(frozen=True, slots=True)
class SyncFolder:
    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Not a call: the workload says what it has been told so far."""

    note: object


Op = Mkdir | Name | Rename | Unlink | Rmdir | Write | Sync | SyncFolder | Mark


class SimDisk(Disk):
    """``folders`` with their files are what lies there, durable."""

    def __init__(self, folders: Mapping[str, Mapping[str, bytes]] | None = None) -> None:
        self.log: list[Op] = []
        self._inodes: dict[int, bytearray] = {}
        self._folders: dict[str, dict[str, int]] = {"/": {}}
        self._handles: dict[int, int] = {}
        self._numbers = itertools.count(3)
        self._links: dict[int, int] = {}
        for folder, files in (folders or {}).items():
            self._folders[folder] = {}
            for name, content in files.items():
                inode = next(self._numbers)
                self._inodes[inode] = bytearray(content)
                self._links[inode] = 1
                self._folders[folder][name] = inode

    def mark(self, note: object) -> None:
        self.log.append(Mark(note))

    def tree(self) -> dict[str, dict[str, bytes]]:
        """Folders, and their files with content."""
        return {
            folder: {name: bytes(self._inodes[inode]) for name, inode in names.items()}
            for folder, names in self._folders.items()
        }

    def create(self, path: str) -> int:
        folder, name = self._split(path)
        if name in folder or path in self._folders:
            raise _error(errno.EEXIST, path)
        inode = next(self._numbers)
        self._inodes[inode] = bytearray()
        folder[name] = inode
        self._links[inode] = 1
        self.log.append(Name(path, inode))
        return self._handle(inode)

    def write(self, handle: int, data: Bytes) -> int:
        inode = self._handles[handle]
        self._inodes[inode] += data
        self.log.append(Write(inode, bytes(data)))
        return len(data)

    def fsync(self, handle: int) -> None:
        self.log.append(Sync(self._handles[handle]))

    def flush_behind(self, handle: int) -> None:
        pass

    def close(self, handle: int) -> None:
        del self._handles[handle]

    def open(self, path: str) -> int:
        return self._handle(self._find(path))

    def length(self, handle: int) -> int:
        return len(self._inodes[self._handles[handle]])

    def read_into(self, handle: int, offset: int, buffer: memoryview) -> int:
        piece = self._inodes[self._handles[handle]][offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def forget(self, handle: int, offset: int, length: int) -> None:
        pass

    def stat(self, path: str) -> Stat:
        if path in self._folders:
            return Stat((0, 0), 2, 0, True)
        inode = self._find(path)
        return Stat((0, inode), self._links[inode], len(self._inodes[inode]), False)

    def link(self, source: str, target: str) -> None:
        inode = self._find(source)
        folder, name = self._split(target)
        if name in folder:
            raise _error(errno.EEXIST, target)
        folder[name] = inode
        self._links[inode] += 1
        self.log.append(Name(target, inode))

    def rename(self, source: str, target: str) -> None:
        inode = self._find(source)
        target_folder, target_name = self._split(target)
        source_folder, source_name = self._split(source)
        if target_name in target_folder:
            self._links[target_folder[target_name]] -= 1
        target_folder[target_name] = inode
        del source_folder[source_name]
        self.log.append(Rename(source, target, inode))

    def unlink(self, path: str) -> None:
        self._links[self._find(path)] -= 1
        folder, name = self._split(path)
        del folder[name]
        self.log.append(Unlink(path))

    def mkdir(self, path: str) -> None:
        self._split(path)
        if path in self._folders:
            raise _error(errno.EEXIST, path)
        self._folders[path] = {}
        self.log.append(Mkdir(path))

    def list(self, path: str) -> list[str]:
        if path not in self._folders:
            raise _error(errno.ENOENT, path)
        prefix = path.rstrip("/") + "/"
        below = [folder[len(prefix) :] for folder in self._folders if folder.startswith(prefix) and folder != prefix]
        return [*self._folders[path], *(name for name in below if name and "/" not in name)]

    def fsync_folder(self, path: str) -> None:
        if path not in self._folders:
            raise _error(errno.ENOENT, path)
        self.log.append(SyncFolder(path))

    def revalidate(self, path: str) -> None:
        if path not in self._folders:
            raise _error(errno.ENOENT, path)

    def lock(self, path: str, wait_s: float) -> None:
        return None

    def _handle(self, inode: int) -> int:
        handle = next(self._numbers)
        self._handles[handle] = inode
        return handle

    def _split(self, path: str) -> tuple[dict[str, int], str]:
        folder, _, name = path.rpartition("/")
        found = self._folders.get(folder or "/")
        if found is None:
            raise _error(errno.ENOENT, path)
        return found, name

    def _find(self, path: str) -> int:
        folder, name = self._split(path)
        if name not in folder:
            raise _error(errno.ENOENT, path)
        return folder[name]


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
