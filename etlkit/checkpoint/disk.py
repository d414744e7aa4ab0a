"""The few system calls that a local store is made of.

One method a call and nothing else, so that a test can put a recorder, a failing disk or a simulated one in their place
(``etlkit.testing.disks``). Raises plain ``OSError``. Nothing here decides anything.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from ..lazyclass import dataclass
from .lock import FileLock
from .store import Bytes


@dataclass(frozen=True, slots=True)
class Stat:
    inode: tuple[int, int]
    links: int
    length: int
    is_folder: bool


class Disk:
    def create(self, path: str) -> int:
        """A new file for writing; ``FileExistsError`` if there is one."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, handle: int, data: Bytes) -> int:
        return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)
        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # macOS: fsync alone leaves it in the drive's cache

    def flush_behind(self, handle: int) -> None:
        """Start of the file up to here: to the disk, then out of the page cache."""
        if hasattr(os, "posix_fadvise"):
            os.fdatasync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self, handle: int) -> None:
        os.close(handle)

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def length(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def read_into(self, handle: int, offset: int, buffer: memoryview) -> int:
        return os.preadv(handle, [buffer], offset) if hasattr(os, "preadv") else _pread_into(handle, offset, buffer)

    def forget(self, handle: int, offset: int, length: int) -> None:
        """That range will not be read again soon: it need not stay in the page cache."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, offset, length, os.POSIX_FADV_DONTNEED)

    def stat(self, path: str) -> Stat:
        found = os.stat(path)  # noqa: PTH116
        return Stat((found.st_dev, found.st_ino), found.st_nlink, found.st_size, stat.S_ISDIR(found.st_mode))

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)  # noqa: PTH104

    def unlink(self, path: str) -> None:
        os.unlink(path)  # noqa: PTH108

    def mkdir(self, path: str) -> None:
        os.mkdir(path)  # noqa: PTH102

    def list(self, path: str) -> list[str]:
        return os.listdir(path)  # noqa: PTH208

    def fsync_folder(self, path: str) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def lock(self, path: str, wait_s: float) -> FileLock | None:
        """``StateBusyError`` if another process holds it after ``wait_s``; None where there are no locks."""
        lock = FileLock(Path(path))
        return lock if lock.acquire(wait_s) else None

    def revalidate(self, path: str) -> None:
        """Opening a folder makes an NFS client ask the server whether its entries have changed."""
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _pread_into(handle: int, offset: int, buffer: memoryview) -> int:
    data = os.pread(handle, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)
