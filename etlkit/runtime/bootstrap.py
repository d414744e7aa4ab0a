"""What must be true before pyarrow is imported: the allocator's variables, which glibc and Arrow read only at the start.

Standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence

from ..memory import find_reader
from ..memory.allocation import allocator_environment, needs_restart

MARK = "ETLKIT_STARTED_AGAIN"


def start_again_if_needed(arguments: Sequence[str], environ: MutableMapping[str, str] = os.environ) -> None:
    """Replace this process by itself with the allocator's variables set, once. Returns if they are set already."""
    if environ.get(MARK) or not needs_restart(environ):
        return
    reader = find_reader()
    limit_bytes = reader.limit_bytes()
    reader.close()
    for name, value in allocator_environment(limit_bytes).items():
        environ.setdefault(name, value)
    environ[MARK] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "etlkit", *arguments])
