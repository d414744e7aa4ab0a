"""Processes that start warm: one process imports everything once, and forks for each command line.

Half of a short job's time is Python's and pyarrow's start. A test that starts a thousand of them pays it once a worker here. What
runs is a process like any other, with its own memory, files, signals and exit code; ``Warm`` is a ``subprocess.Popen`` of it.

Not covered: the start itself. Tests about imports, a start in little memory, and containers of a node execute Python anew.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
_STATUS = struct.Struct("i")
_LENGTH = struct.Struct("I")


class Warm(subprocess.Popen):
    """``Warm(arguments, …)`` is ``Popen([sys.executable, "-m", "etlkit", *arguments], …)``, started by a fork."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        (
            _executable,
            _preexec,
            _close,
            _pass,
            cwd,
            env,
            *_,
            p2cread,
            p2cwrite,
            c2pread,
            c2pwrite,
            errread,
            errwrite,
        ) = rest[:15]
        status, theirs = os.pipe()
        order = {
            "arguments": [os.fspath(one) for one in args],
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        given = [0 if p2cread == -1 else p2cread, 1 if c2pwrite == -1 else c2pwrite, 2 if errwrite == -1 else errwrite]
        self.pid = _zygote().start(order, [*given, theirs])
        self._status = status
        self._child_created = True
        for one, other in ((p2cread, p2cwrite), (c2pwrite, c2pread), (errwrite, errread)):
            # The caller's own file or a pipe of ours: only the latter has another end.
            if one != -1 and other != -1:
                os.close(one)
        if (null := getattr(self, "_devnull", None)) is not None:
            os.close(null)
        os.close(theirs)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        found = os.read(self._status, _STATUS.size)
        os.close(self._status)
        return self.pid, _STATUS.unpack(found)[0] if found else signal.SIGKILL

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid == self.pid:
                        self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def start(arguments: Iterable[object], **options: Any) -> subprocess.Popen[Any]:
    """``etlkit ARGUMENTS…`` with Popen's options: by a fork where there are pidfds, else by a start of Python."""
    words = [str(one) for one in arguments]
    if hasattr(os, "pidfd_open"):
        return Warm(words, **options)
    return subprocess.Popen([sys.executable, "-m", "etlkit", *words], **options)


def run(
    arguments: Iterable[object], *, cwd: Path, env: dict[str, str], timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Start it, wait for it, and give what it said. It is killed after so many seconds."""
    process = start(
        arguments, cwd=cwd, env=env, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class _Zygote:
    """The process that forks, and the way to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # Arrow's jemalloc starts a thread, and a fork copies one thread only. Jobs use the system's pool.
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JE_ARROW_MALLOC_CONF": "background_thread:false"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._way = ours
        self._one_at_a_time = threading.Lock()

    def start(self, order: dict[str, Any], files: list[int]) -> int:
        text = json.dumps(order).encode()
        with self._one_at_a_time:
            socket.send_fds(self._way, [_LENGTH.pack(len(text))], files)
            self._way.sendall(text)
            answer = self._way.recv(_STATUS.size, socket.MSG_WAITALL)
        if not answer:
            raise RuntimeError("the process that forks has ended")
        return _STATUS.unpack(answer)[0]

    def end(self) -> None:
        self._way.close()
        self._process.wait()


_running: _Zygote | None = None
_starting = threading.Lock()


def _zygote() -> _Zygote:
    global _running
    with _starting:
        if _running is None:
            _running = _Zygote()
            atexit.register(_running.end)
        return _running


def _load() -> None:
    """What a job and the verbs that look at it import."""
    from importlib import import_module

    for name in (
        "pyarrow.compute", "pyarrow.csv", "pyarrow.json", "pyarrow.parquet", "etlkit.runtime.api", "etlkit.observe.summary",
        *(f"etlkit.cli.{verb}" for verb in ("checkpoints", "plan", "run", "show", "verify")),
    ):  # fmt: skip
        import_module(name)


def _serve(way: socket.socket) -> list[str]:
    """Fork for each order. Returns in the child alone, which is what was ordered by then; the arguments."""
    import gc

    gc.freeze()
    running: dict[int, tuple[int, int]] = {}
    while True:
        ready, _, _ = select.select([way, *running], [], [])
        for pidfd in set(ready) & running.keys():
            pid, status = running.pop(pidfd)
            with suppress(BrokenPipeError):
                os.write(status, _STATUS.pack(os.waitpid(pid, 0)[1]))
            os.close(status)
            os.close(pidfd)
        if way not in ready:
            continue
        head, files, _, _ = socket.recv_fds(way, _LENGTH.size, 4)
        if not head:
            # Whoever started these is gone: they end with it.
            for pid, _ in running.values():
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        (length,) = _LENGTH.unpack(head)
        order = json.loads(way.recv(length, socket.MSG_WAITALL))
        if any("s3://" in word for word in order["arguments"]):
            import s3fs  # noqa: F401  a second more: not for everybody
        assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork copies one thread only"
        pid = os.fork()
        if pid == 0:
            for pidfd, (_, status) in running.items():
                os.close(pidfd)
                os.close(status)
            way.close()
            os.close(files[3])
            return _become(order, files[:3])
        running[os.pidfd_open(pid)] = pid, files[3]
        for file in files[:3]:
            os.close(file)
        way.sendall(_STATUS.pack(pid))


def _become(order: dict[str, Any], files: list[int]) -> list[str]:
    from etlkit.testing import crashpoints

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.path[0] = order["cwd"]
    crashpoints.arm(os.environ.get(crashpoints.VARIABLE, ""))
    return order["arguments"]


if __name__ == "__main__":
    _load()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = ["etlkit", *arguments]
    from etlkit.__main__ import main

    sys.exit(main())
