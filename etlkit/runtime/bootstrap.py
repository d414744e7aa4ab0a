"""What must be true before pyarrow is imported: memory enough to import it, and the allocator chosen.

Standard library only. At a small limit the process replaces itself once by the same command with glibc's setting, which is read
only at the start; our manifests set it, so a pod does not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..memory import find_reader, tune_allocator
from ..memory.allocation import small_pieces_setting
from ..settings import Settings
from .first_ask import make_room


def prepare(settings: Settings, target: str) -> int | None:
    """Ask for memory if there is too little to start. None: go on. An exit code: leave with it. Errors: ConfigError,
    RefusedError."""
    reader = find_reader()
    try:
        code = make_room(settings, target, reader.limit_bytes(), reader.limit_bytes)
        limit_bytes = reader.limit_bytes()
    finally:
        reader.close()
    if code is None:
        if sys.platform.startswith("linux") and (setting := small_pieces_setting(limit_bytes)):
            _start_again(setting)
        tune_allocator(limit_bytes)
    return code


def _start_again(setting: dict[str, str]) -> None:
    command = Path(sys.argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    started_as = [str(command)] if command.is_file() and command.name != "__main__.py" else ["-m", "etlkit"]
    os.execve(sys.executable, [sys.executable, *started_as, *sys.argv[1:]], {**os.environ, **setting})
