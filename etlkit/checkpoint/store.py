"""What a place for state must be able to do, and how its failures are told.

A store keeps named, immutable files in a few folders. Names look like ``runs/s01-00000042.e3.run``. There are two ways to
write: ``create`` for files that nobody looks for until a manifest names them, and ``put_new`` for manifests, the one atomic step
that **fails if the name is taken**. Both are durable when they return. Covers the protocol, its errors and ``open_store``;
implementations are ``local.py`` (POSIX folders) and ``fsspec_store.py`` (object stores).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeAlias

from ..errors import ConfigError, StateError

Bytes: TypeAlias = bytes | bytearray | memoryview


class Taken(Exception):
    """The name is there already, and it is not ours."""


class Target(Protocol):
    """A file while it is written. One thread owns it."""

    def write(self, data: Bytes) -> None: ...

    def flush_behind(self) -> None:
        """Let what was written reach the disk and leave the page cache. Promises nothing."""
        ...

    def finish(self) -> None:
        """Durable under its name when this returns."""
        ...

    def abort(self) -> None:
        """Remove what was written, as far as possible. Never raises."""
        ...


class Readable(Protocol):
    """A file open for reading; several threads may read at once."""

    @property
    def length(self) -> int: ...

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``; fewer bytes only at the end of the file."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    @property
    def location(self) -> str:
        """For messages: the folder or URL."""
        ...

    @property
    def reserves(self) -> bool:
        """True where ``put_new`` takes two steps (an exclusive claim, then a rename), so that a claim may lie below a later
        manifest. See ``docs/checkpoint-format.md``, "Without hard links"."""
        ...

    def prepare(self) -> None:
        """Make the folders, durably, and find out what this place can do. ``StateError`` if it cannot commit safely."""
        ...

    def strangers(self) -> list[str]:
        """Top-level names in the state directory that etlkit does not put there."""
        ...

    def names(self, folder: str) -> Sequence[str]:
        """Full names of the files in ``folder``, temporary ones included. On some stores this lags."""
        ...

    def sizes(self, folder: str) -> Mapping[str, int]:
        """``names`` with the length of each."""
        ...

    def read(self, name: str) -> bytes | None:
        """All of it; None if it is not there."""
        ...

    def exists(self, name: str) -> bool: ...

    def taken(self, name: str) -> bool:
        """``exists``, or where ``reserves``, claimed."""
        ...

    def reserve(self, name: str) -> None:
        """Where ``reserves``: take the name for ``put_new`` to come. ``Taken`` if it is taken. Elsewhere nothing."""
        ...

    def put_new(self, name: str, content: bytes, tag: str) -> None:
        """Make ``content`` durable under ``name``, or raise ``Taken`` and change nothing. After any other error the name may
        or may not be there. ``tag`` goes into the name of the temporary file."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Put ``content`` under ``name``, whatever was there; a reader sees the old or the new, whole. Need not survive a power
        loss."""
        ...

    def create(self, name: str) -> Target:
        """A new file; ``StateError`` if the name is taken."""
        ...

    def open(self, name: str) -> Readable | None: ...

    def remove(self, name: str) -> bool:
        """True if it was there. Not necessarily durable: orphans are found again."""
        ...

    def lock(self, wait_s: float) -> AbstractContextManager[object] | None:
        """A polite sign to other live runs, where there is one: ``StateBusyError`` if it is held elsewhere after ``wait_s``."""
        ...


_REMEDIES = {
    errno.ENOSPC: "free space on that volume or enlarge it, then start the same command again; it resumes",
    errno.EDQUOT: "the quota on that volume is used up: raise it or remove files, then start the same command again; it resumes",
    errno.EROFS: "the volume is mounted read-only: mount it read-write, then start the same command again; it resumes",
    errno.EIO: "the device or server reported an I/O error: look at the kernel's log (dmesg) and the volume's health",
    errno.EACCES: "give this user write permission there, or choose another folder with --state",
    errno.EPERM: "give this user write permission there, or choose another folder with --state",
    errno.ESTALE: "the server has replaced that folder: mount it again, then start the same command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another folder with --state",
}
_PERMANENT = frozenset((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR))


def io_error(act: str, place: str, error: OSError) -> StateError:
    """``StateError`` with what was tried, where, the system's words and the remedy."""
    number = error.errno or 0
    code = errno.errorcode.get(number, type(error).__name__)
    text = os.strerror(number) if number else str(error)
    remedy = _REMEDIES.get(number, "start the same command again; it resumes from the last good checkpoint")
    return StateError(f"{place}: cannot {act}: {text} ({code}); the last good checkpoint is untouched", remedy)


def open_store(location: str | os.PathLike[str]) -> Store:
    """The store for a folder or an fsspec URL (``s3://bucket/prefix``). A URL with a password in it is refused."""
    text = os.fspath(location)
    scheme, separator, rest = text.partition("://")
    if not separator:
        from .local import LocalStore

        return LocalStore(Path(text))
    if scheme in ("file", "local"):
        from .local import LocalStore

        return LocalStore(Path(rest))
    if "@" in rest.split("/", 1)[0]:
        raise ConfigError(
            f"the state URL {scheme}://… carries credentials",
            "leave them out of the URL; they come from the environment, mounted files or workload identity",
        )
    from .fsspec_store import FsspecStore

    return FsspecStore.from_url(text)
