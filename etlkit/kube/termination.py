"""The termination message: how an attempt ended, where `kubectl describe pod` and `etlkit status` show it.

Covers the text and its file. The kubelet makes the file, reads 4096 bytes of it when the container ends, and keeps
them in the pod's status. Where there is no such file, nothing is written. Standard library only; nothing here raises:
an end must not fail for its message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

PATH = "/dev/termination-log"
VARIABLE = "ETLKIT_TERMINATION_LOG"
LIMIT_BYTES = 4096
_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_MEANING = {
    0: "done: the output is committed",
    1: "unexpected failure",
    2: "usage",
    65: "bad input data",
    73: "another live run holds the state",
    74: "checkpoint or state I/O failed; the last good checkpoint is untouched",
    75: "checkpointed, work left: start again",
    77: "refused by the cluster",
    78: "configuration or plan that cannot work",
}


def ending(
    exit_code: int,
    reason: str,
    *,
    attempt: int | None = None,
    limit_bytes: int | None = None,
    peak_bytes: int | None = None,
    remedy: str = "",
) -> str:
    """A few lines for a person: what the code means, why it ended, and what it used."""
    lines = [f"exit {exit_code}: {_MEANING.get(exit_code, 'ended')}"]
    if reason:
        lines.append(reason)
    if remedy:
        lines.append(f"→ {remedy}")
    figures = []
    if attempt is not None:
        figures.append(f"attempt {attempt}")
    if peak_bytes is not None:
        of = f" of {limit_bytes / 2**20:.0f} MiB" if limit_bytes is not None else ""
        figures.append(f"{peak_bytes / 2**20:.0f} MiB{of} at most")
    return "\n".join([*lines, *([", ".join(figures)] if figures else [])])


def without_passwords(text: str) -> str:
    return _PASSWORD.sub(r"\1…@", text)


def write(text: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether it was written. The file that ETLKIT_TERMINATION_LOG names is made; the usual one must be there."""
    path = environ.get(VARIABLE) or PATH
    flags = os.O_WRONLY | os.O_TRUNC | (os.O_CREAT if environ.get(VARIABLE) else 0)
    content = without_passwords(text).encode("utf-8", "replace")[:LIMIT_BYTES]
    # Cut between characters, not within one.
    content = content.decode("utf-8", "ignore").encode()
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError:
        return False
    try:
        os.write(handle, content)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
