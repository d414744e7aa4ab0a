"""What must be true before pyarrow is imported: memory enough to import it, and the allocator's variables, which glibc and
Arrow read only at the start.

Standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence

from ..memory import find_reader
from ..memory.allocation import allocator_environment, needs_restart
from ..settings import Settings
from .first_ask import make_room

MARK = "ETLKIT_STARTED_AGAIN"


def prepare(
    arguments: Sequence[str], settings: Settings, target: str, environ: MutableMapping[str, str] = os.environ
) -> int | None:
    """Ask for memory if there is too little to start; then replace this process by itself with the allocator's variables set,
    once. None: go on. An exit code: leave with it. Errors: ConfigError, RefusedError."""
    reader = find_reader()
    try:
        if not environ.get(MARK):
            code = make_room(settings, target, reader.limit_bytes(), reader.limit_bytes)
            if code is not None:
                return code
        limit_bytes = reader.limit_bytes()
    finally:
        reader.close()
    if environ.get(MARK) or not needs_restart(environ):
        return None
    for name, value in allocator_environment(limit_bytes).items():
        environ.setdefault(name, value)
    environ[MARK] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "etlkit", *arguments])
