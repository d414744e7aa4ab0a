"""Reading small kernel files again and again, cheaply.

Covers one file kept open and read with ``preadv`` into a buffer that is never allocated again, and picking single
numbers out of it. Folders that an ordinary program writes (``ETLKIT_CGROUP``) may replace their files by a
rename, so those are opened anew each time. It does not know what any file means.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import EtlkitError

_SIZE = 16 * 1024


class PseudoFile:
    """One file under /proc or /sys/fs/cgroup. ``read`` returns the buffer; it is valid until the next ``read``."""

    __slots__ = ("_buffer", "_fd", "_keep_open", "_views", "path")

    def __init__(self, path: Path | str, *, keep_open: bool = True, size_bytes: int = _SIZE) -> None:
        self.path = str(path)
        self._keep_open = keep_open
        # The first byte stays a newline, so that every key is found as "\nkey ".
        self._buffer = bytearray(b"\n") + bytearray(size_bytes)
        self._views = [memoryview(self._buffer)[1:-1]]
        self._fd = -1

    def read(self) -> bytearray:
        """The content after one leading newline, ended by a zero byte."""
        buffer = self._buffer
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            length = os.preadv(self._fd, self._views, 0)
        except OSError as error:
            self.close()
            raise EtlkitError(
                f"{self.path} cannot be read: {error.strerror}",
                "check that the cgroup still exists and may be read, or point ETLKIT_CGROUP at a folder that can",
            ) from error
        buffer[length + 1] = 0
        if not self._keep_open:
            self.close()
        return buffer

    def number(self) -> int:
        """The single number in the file."""
        return int(_word(self.read(), 1))

    def limit(self) -> int | None:
        """The single number in the file; None for ``max`` and for the number v1 writes where there is no limit."""
        return as_limit(_word(self.read(), 1))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_if_there(path: Path | str, *, keep_open: bool = True) -> PseudoFile | None:
    """The file, or None where this kernel or this folder has none that can be read."""
    file = PseudoFile(path, keep_open=keep_open)
    try:
        file.read()
    except EtlkitError:
        return None
    return file


def as_limit(word: bytes | bytearray) -> int | None:
    """A limit as the kernel writes it. v1 has no word for "none": it writes the largest page-aligned number."""
    if not word or word == b"max":
        return None
    value = int(word)
    return None if value < 0 or value >= 1 << 62 else value


def field(buffer: bytearray, key: bytes, missing: int = 0) -> int:
    """The number after ``key``, given as ``b"\\nname "``."""
    start = buffer.find(key)
    return missing if start < 0 else int(_word(buffer, start + len(key)))


def _word(buffer: bytearray, start: int) -> bytes:
    # /proc/self/status aligns its numbers with tabs and spaces.
    while buffer[start] in (9, 32):
        start += 1
    end = start
    while buffer[end] > 32:
        end += 1
    return bytes(buffer[start:end])
