"""State in a POSIX folder: a PVC, a local disk, NFS.

The commit, in order, each step a crash point:

1. ``manifest.written``         the temporary file, in the same folder, is written
2. ``manifest.synced``          and fsynced
3. ``manifest.linked``          ``link(2)`` to its number: this is the commit, and fails if the number is taken
4. ``manifest.folder_synced``   the folder is fsynced: now it survives a power loss
5. ``manifest.temp_removed``    the temporary name is removed

Where there are no hard links, 3 is: ``manifest.claimed`` (an exclusive claim file, synced), then ``manifest.linked`` (a rename).
Runs and lists have unique names that nobody looks for before a manifest names them, so they are written in place
(``run.written``, ``run.synced``, ``run.folder_synced``; ``list.…``).

What is relied upon: fsync of files and folders, link(2) or O_EXCL being atomic, rename within one folder, close-to-open
consistency. Not relied upon: rename or link across folders, listing that is up to date, locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from ..errors import StateError
from ..testing.crashpoints import declare, reach
from .disk import Disk
from .lock import FileLock
from .store import Bytes, Taken, io_error

FOLDERS = ("manifests", "runs", "lists")
_KINDS = {"runs": "run", "lists": "list"}
# What other rooms put beside ours, what filesystems do, and what people leave there.
_COMPANIONS = frozenset(("lost+found", "writer.lock", "events.jsonl", "events", "logs", "report.html", "metrics.prom"))
_NO_LINKS = frozenset((errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV))

declare("run.written", "run.synced", "run.folder_synced", "list.written", "list.synced", "list.folder_synced")
declare("manifest.written", "manifest.synced", "manifest.claimed", "manifest.linked")
declare("manifest.folder_synced", "manifest.temp_removed", "floor.written", "floor.renamed")


class LocalStore:
    def __init__(self, root: str | os.PathLike[str], disk: Disk | None = None) -> None:
        self._root = Path(root)
        self._disk = disk or Disk()
        self._reserves = False
        self._reserved: set[str] = set()

    @property
    def location(self) -> str:
        return str(self._root)

    @property
    def reserves(self) -> bool:
        return self._reserves

    def prepare(self) -> None:
        """Make the folders and see whether this filesystem has hard links."""
        try:
            made: list[Path] = []
            for folder in FOLDERS:
                self._make_folder(self._root / folder, made)
            self._settle(made)
            self._reserves = not self._has_links()
        except OSError as error:
            raise io_error("prepare the state directory", self.location, error) from error

    def strangers(self) -> list[str]:
        try:
            found = self._disk.list(self.location)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise io_error("list", self.location, error) from error
        ours = _COMPANIONS.union(FOLDERS)
        return sorted(name for name in found if name not in ours and not name.startswith("."))

    def names(self, folder: str) -> list[str]:
        place = self._path(folder)
        try:
            found = [f"{folder}/{name}" for name in self._disk.list(place)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise io_error("list", place, error) from error
        # A claim that we hold ourselves, for a commit that failed half-way, is no sign of another writer.
        ours = {_claim_of(name) for name in self._reserved}
        return [name for name in found if name not in ours]

    def sizes(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in self.names(folder):
            path = self._path(name)
            try:
                found[name] = self._disk.stat(path).length
            except FileNotFoundError:
                continue  # collected by a live run while we look
            except OSError as error:
                raise io_error("look at", path, error) from error
        return found

    def read(self, name: str) -> bytes | None:
        readable = self.open(name)
        if readable is None:
            return None
        try:
            content = bytearray(readable.length)
            got = readable.read_into(0, memoryview(content))
            return bytes(content[:got])
        finally:
            readable.close()

    def exists(self, name: str) -> bool:
        path = self._path(name)
        try:
            self._disk.revalidate(os.path.dirname(path))  # noqa: PTH120
            self._disk.stat(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise io_error("look for", path, error) from error
        return True

    def taken(self, name: str) -> bool:
        try:
            claimed = name not in self._reserved and self._claimed_elsewhere(self._path(name))
            return claimed or self.exists(name)
        except OSError as error:
            raise io_error("look for", self._path(name), error) from error

    def reserve(self, name: str) -> None:
        if self._reserves and name not in self._reserved:
            if self.exists(name):
                raise Taken(name)
            self._claim(name)
            self._reserved.add(name)

    def put_new(self, name: str, content: bytes, tag: str) -> None:
        path = self._path(name)
        folder, _, plain = path.rpartition("/")
        temporary = f"{folder}/.{plain}.{tag}-{secrets.token_hex(4)}.tmp"
        try:
            self._write_synced(temporary, content)
            if self._reserves:
                self.reserve(name)
                if self.exists(name):
                    self._reserved.discard(name)
                    self._discard(_claim_of(path))
                    raise Taken(name)
                self._disk.rename(temporary, path)
            else:
                self._link(temporary, path)
            reach("manifest.linked")
            self._disk.fsync_folder(folder)
            reach("manifest.folder_synced")
        except OSError as error:
            self._discard(temporary)
            raise io_error("commit", path, error) from error
        except BaseException:
            self._discard(temporary)
            raise
        self._discard(temporary)
        if self._reserves:
            # The claim goes only once its manifest is durable; the manifest now holds the number.
            self._reserved.discard(name)
            self._discard(_claim_of(path))
        reach("manifest.temp_removed")

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        folder, _, plain = path.rpartition("/")
        temporary = f"{folder}/.{plain}.{secrets.token_hex(4)}.tmp"
        try:
            handle = self._disk.create(temporary)
            try:
                _write_all(self._disk, handle, content)
            finally:
                self._disk.close(handle)
            reach("floor.written")
            self._disk.rename(temporary, path)
            reach("floor.renamed")
        except OSError as error:
            self._discard(temporary)
            raise io_error("write", path, error) from error

    def create(self, name: str) -> _LocalTarget:
        path = self._path(name)
        try:
            handle = self._disk.create(path)
        except OSError as error:
            raise io_error("create", path, error) from error
        return _LocalTarget(self._disk, path, handle, _KINDS[name.partition("/")[0]])

    def open(self, name: str) -> _LocalReadable | None:
        path = self._path(name)
        try:
            handle = self._disk.open(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise io_error("open", path, error) from error
        try:
            return _LocalReadable(self._disk, path, handle)
        except OSError as error:
            self._disk.close(handle)
            raise io_error("read", path, error) from error

    def remove(self, name: str) -> bool:
        path = self._path(name)
        try:
            self._disk.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise io_error("remove", path, error) from error
        return True

    def lock(self, wait_s: float) -> FileLock | None:
        return self._disk.lock(f"{self._root}/writer.lock", wait_s)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder(self, path: Path, made: list[Path]) -> None:
        """With its parents. ``made`` says which were not there."""
        try:
            is_folder = self._disk.stat(str(path)).is_folder
        except FileNotFoundError:
            self._make_folder(path.parent, made)
            with contextlib.suppress(FileExistsError):
                self._disk.mkdir(str(path))
            made.append(path)
        else:
            if not is_folder:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))

    def _settle(self, made: list[Path]) -> None:
        """Make the folders' names durable. Also of those that were found: they may have been made by a start that died before it did
        so. Ends where the filesystem does, and at a folder that this user may not open: what is in it was made by another."""
        needed = {folder.parent for folder in made}
        for folder in (self._root, *self._root.parents):
            try:
                self._disk.fsync_folder(str(folder))
            except PermissionError:
                if folder in needed:
                    raise
                return
            if folder.is_mount() and folder not in needed:
                return

    def _has_links(self) -> bool:
        """Whether link(2) works here. Without it, whether an exclusive create does; else the store is refused."""
        stem = f"{self._root}/manifests/.probe-{secrets.token_hex(4)}"
        first, second = f"{stem}.tmp", f"{stem}-2.tmp"
        self._disk.close(self._disk.create(first))
        try:
            try:
                self._link(first, second)
                return True
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            # `first` is there: an exclusive create that succeeds on it would be no fence at all.
            self._disk.close(self._disk.create(first))
        except FileExistsError:
            return False
        finally:
            self._discard(second)
            self._discard(first)
        raise StateError(
            f"{self.location}: this filesystem has neither hard links nor exclusive creation, so two runs could not be kept apart",
            "put the state on a local disk, a block-device PVC, NFS or an object store (--state s3://…)",
        )

    def _write_synced(self, path: str, content: bytes) -> None:
        handle = self._disk.create(path)
        try:
            _write_all(self._disk, handle, content)
            reach("manifest.written")
            self._disk.fsync(handle)
            reach("manifest.synced")
        finally:
            self._disk.close(handle)

    def _link(self, temporary: str, path: str) -> None:
        """The commit. On NFS a reply may be lost and the call repeated by the client, so an error does not say whether the
        link was made: the inode and its link count do."""
        if self._claimed_elsewhere(path):
            raise Taken(path)
        try:
            self._disk.link(temporary, path)
        except OSError as error:
            mine = self._disk.stat(temporary)
            try:
                there = self._disk.stat(path)
            except FileNotFoundError:
                raise error from None
            if mine.inode == there.inode and mine.links >= 2:
                return
            raise Taken(path) from error

    def _claimed_elsewhere(self, path: str) -> bool:
        """A writer that sees this folder without hard links (another mount of it) has claimed the number."""
        try:
            self._disk.stat(_claim_of(path))
        except FileNotFoundError:
            return False
        return True

    def _claim(self, name: str) -> None:
        path = self._path(name)
        try:
            handle = self._disk.create(_claim_of(path))
        except FileExistsError:
            raise Taken(name) from None
        except OSError as error:
            raise io_error("claim", path, error) from error
        try:
            self._disk.close(handle)
            self._disk.fsync_folder(os.path.dirname(path))  # noqa: PTH120
        except OSError as error:
            self._discard(_claim_of(path))
            raise io_error("claim", path, error) from error
        reach("manifest.claimed")

    def _discard(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self._disk.unlink(path)


def _claim_of(path: str) -> str:
    return path.removesuffix(".json") + ".claim"


def _write_all(disk: Disk, handle: int, data: Bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(handle, rest) :]


class _LocalTarget:
    def __init__(self, disk: Disk, path: str, handle: int, kind: str) -> None:
        self._disk = disk
        self._path = path
        self._handle: int | None = handle
        self._kind = kind

    def write(self, data: Bytes) -> None:
        assert self._handle is not None
        try:
            _write_all(self._disk, self._handle, data)
        except OSError as error:
            raise io_error("write", self._path, error) from error

    def flush_behind(self) -> None:
        assert self._handle is not None
        try:
            self._disk.flush_behind(self._handle)
        except OSError as error:
            raise io_error("write", self._path, error) from error

    def finish(self) -> None:
        assert self._handle is not None
        handle, kind = self._handle, self._kind
        try:
            reach(f"{kind}.written")
            self._disk.fsync(handle)
            reach(f"{kind}.synced")
            self._disk.forget(handle, 0, 0)
            self._handle = None
            self._disk.close(handle)
            self._disk.fsync_folder(os.path.dirname(self._path))  # noqa: PTH120
            reach(f"{kind}.folder_synced")
        except OSError as error:
            raise io_error("sync", self._path, error) from error

    def abort(self) -> None:
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):
            if handle is not None:
                self._disk.close(handle)
        with contextlib.suppress(OSError):
            self._disk.unlink(self._path)


class _LocalReadable:
    def __init__(self, disk: Disk, path: str, handle: int) -> None:
        self._disk = disk
        self._path = path
        self._handle: int | None = handle
        self.length = disk.length(handle)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        assert self._handle is not None
        got = 0
        try:
            while got < len(buffer):
                more = self._disk.read_into(self._handle, offset + got, buffer[got:])
                if more == 0:
                    break
                got += more
            if got >= _DROP_BEHIND:
                self._disk.forget(self._handle, offset, got)
        except OSError as error:
            raise io_error("read", self._path, error) from error
        return got

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._disk.close(handle)


_DROP_BEHIND = 256 * 1024
