"""A polite sign on the door: an advisory lock on a file, with who holds it written inside.

It makes a second run on the same machine (or NFS server) stop quickly with a good message. It is **not** what keeps two
writers apart: that is the commit itself (``StateDir.claim``), because a lock does not survive a lost node. Where the filesystem
has no locks there is none, and the commit still fences.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path

import orjson

from ..errors import StateBusyError
from .store import io_error

_POLL_S = 0.05
_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL))


def _holder(handle: int) -> str:
    try:
        said = orjson.loads(os.pread(handle, 4096, 0))
        return f"process {said['pid']} on {said['host']}, since {said['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that has not said who it is"


class FileLock:
    """Held from a successful ``acquire`` until ``release``, or until the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self, wait_s: float) -> bool:
        """False where there are no locks. ``StateBusyError`` if another process holds it after ``wait_s`` seconds."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise io_error("open the lock file", str(self._path), error) from error
        deadline = time.monotonic() + wait_s
        try:
            while not self._try(handle):
                if time.monotonic() >= deadline:
                    raise StateBusyError(
                        f"{self._path.parent}: another live run holds this state directory ({_holder(handle)}), "
                        f"still after waiting {wait_s:g} s",
                        "wait for it to end, stop it, raise --lock-wait, or choose another folder with --state",
                    )
                time.sleep(min(_POLL_S, max(0.001, deadline - time.monotonic())))
        except OSError as error:
            os.close(handle)
            if error.errno in _NO_LOCKS:
                return False
            raise io_error("lock", str(self._path), error) from error
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        self._sign(handle)
        return True

    def release(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @staticmethod
    def _try(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EACCES:
                return False
            raise
        return True

    @staticmethod
    def _sign(handle: int) -> None:
        said = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        # Who holds it is a courtesy: a full disk must not keep a run from resuming.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, orjson.dumps(said) + b"\n", 0)
