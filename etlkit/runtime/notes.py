"""Two small notes beside the checkpoint, for a start that can import nothing but the standard library.

``.asked.json`` holds the intents of a start that asked for memory before it could open the state: durable before the PATCH
(law 4), and folded into the fact ``resizes`` by the next start that opens it. ``.learned.json`` is a copy of the fact
``learned``, so that such a start, or a replacement pod (F22), knows how much to ask for. The checkpoint is the truth: a note that
is missing or torn is as if there were none. Standard library only. A state behind a URL has no notes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ASKED, LEARNED = ".asked.json", ".learned.json"


def folder_of(state: str) -> Path | None:
    """The state's folder on this machine; None behind a URL."""
    return None if "://" in state else Path(state)


def read(state: str, name: str) -> Any:
    """The note, or None where there is none that can be read."""
    folder = folder_of(state)
    if folder is None:
        return None
    try:
        return json.loads((folder / name).read_bytes())
    except (OSError, ValueError):
        return None


def write(state: str, name: str, note: Mapping[str, Any] | Sequence[Any]) -> bool:
    """Replace the note: whole or not at all, file and folder synced. False behind a URL. Raises OSError."""
    folder = folder_of(state)
    if folder is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{name}.{os.getpid()}.tmp"
    try:
        with fresh.open("wb") as out:
            out.write(json.dumps(note).encode())
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(folder / name)
    finally:
        fresh.unlink(missing_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


def remove(state: str, name: str) -> None:
    """Once it is in a checkpoint. One that can't be removed is folded in again, and found to be there."""
    folder = folder_of(state)
    if folder is not None:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
