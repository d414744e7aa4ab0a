"""The file object of one staged part: counts, sums up and syncs as it is written.

Covers length, crc32, and keeping dirty pages few: every few MiB the file is synced and its pages are let go, because
dirty pages count as memory of the job's cgroup and a burst of them at the end stalls everything. It knows no format.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from ..errors import StateError
from .paths import state_error

SYNC_EVERY_BYTES = 8 * 1024 * 1024


class PartFile:
    """Write-only, from the start. ``close`` leaves it durable; the folder is the caller's to sync.

    Errors: ``StateError`` with the remedy, for a full disk as for a file of this name that is there already.
    """

    __slots__ = ("_fd", "_synced", "crc32", "length", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self.crc32 = 0
        self._synced = 0
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise state_error("the part cannot be created", path, error) from error

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.length

    def flush(self) -> None:
        """Nothing is held back here; ``close`` makes it durable."""

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        if self._fd < 0:
            return len(view)  # discarded: a format's writer may still want to end its file
        try:
            done = 0
            while done < len(view):
                done += os.write(self._fd, view[done:])
            self.crc32 = zlib.crc32(view, self.crc32)
            self.length += done
            if self.length - self._synced >= SYNC_EVERY_BYTES:
                self._sync()
        except OSError as error:
            raise state_error("the part cannot be written", self.path, error) from error
        return done

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            os.fsync(self._fd)
            self._let_go()
        except OSError as error:
            raise state_error("the part cannot be synced", self.path, error) from error
        finally:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Close and remove; what is written after this goes nowhere. Never raises."""
        try:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self.path.unlink(missing_ok=True)
        except OSError:
            pass  # an orphan: recover() removes it

    def _sync(self) -> None:
        getattr(os, "fdatasync", os.fsync)(self._fd)  # macOS has no fdatasync
        self._let_go()
        self._synced = self.length

    def _let_go(self) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, self.length, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise state_error("the folder cannot be synced", folder, error) from error


def sync_above(folder: Path) -> None:
    """Make the folder's own name durable, and the names of the folders above it: whoever made them may have died before that. Ends
    where the filesystem does, and at the first that this user may not open: it was made by another."""
    for above in folder.parents:
        try:
            sync_folder(above)
        except StateError as error:
            if isinstance(error.__cause__, PermissionError):
                return
            raise
        if above.is_mount():
            return


def write_durably(path: Path, data: bytes, *, by_way_of: Path) -> None:
    """The whole file or none: written and synced as ``by_way_of``, renamed to ``path``, folder synced."""
    try:
        by_way_of.unlink(missing_ok=True)
        part = PartFile(by_way_of)
        part.write(data)
        part.close()
        by_way_of.rename(path)
    except OSError as error:
        raise state_error("cannot be written", path, error) from error
    sync_folder(path.parent)
