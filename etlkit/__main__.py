"""``etlkit VERB`` and ``python -m etlkit VERB``. Standard library only until the verb is known."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading

from .cli import dispatch


def main() -> int:
    code = dispatch(sys.argv[1:])
    # Taking the interpreter and Arrow's memory down takes a run 0.1 to 0.2 s, and a resize with a restart waits for it.
    if sys.argv[1:2] == ["run"] or any(thread.daemon for thread in threading.enumerate()):
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End now, with the exit code that was decided. A worker may still be inside Arrow (a writer that was taken over does not wait
    for it): Python would end its thread where it stands, which C++ answers with SIGABRT."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
