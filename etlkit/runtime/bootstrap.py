"""What must be true before pyarrow is imported: memory enough to import it, and the allocator chosen.

Standard library only.
"""

from __future__ import annotations

from ..memory import find_reader, tune_allocator
from ..settings import Settings
from .first_ask import make_room


def prepare(settings: Settings, target: str) -> int | None:
    """Ask for memory if there is too little to start. None: go on. An exit code: leave with it. Errors: ConfigError,
    RefusedError."""
    reader = find_reader()
    try:
        code = make_room(settings, target, reader.limit_bytes(), reader.limit_bytes)
        if code is None:
            tune_allocator(reader.limit_bytes())
        return code
    finally:
        reader.close()
