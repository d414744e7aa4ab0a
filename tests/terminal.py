"""A program on a terminal of its own, 80 columns wide: what it draws, and keys that are typed, Ctrl-C among them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

from .conftest import environment

CTRL_C = b"\x03"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """``etlkit ARGUMENTS`` on it. The terminal is the process's controlling one, so a key does what it does for a user."""

    def __init__(self, arguments: list[str], cwd: Path, env: dict[str, str] | None = None, columns: int = 80) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "etlkit", *arguments], cwd=cwd, env=environment({"TERM": "xterm-256color", **(env or {})}),
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self._seen += data
        except OSError:
            pass  # nobody has the other end any more

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    @property
    def text(self) -> str:
        """All that was written, without colours and without moving about."""
        return _CONTROL.sub("", self._seen.decode(errors="replace"))

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while text not in self.text:
            assert time.monotonic() < until and self.process.poll() is None, self.text
            time.sleep(0.02)

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code."""
        try:
            code = self.process.wait(timeout_s)
        finally:
            self.process.kill()
            self._reader.join(5)
            os.close(self._ours)
        return code
