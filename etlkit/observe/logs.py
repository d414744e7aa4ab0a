"""Logs of this process: to stderr, a line each, as text on a terminal and as JSON anywhere else.

Covers what etlkit's and other libraries' loggers and Python's warnings say. Progress and results are not logs. Standard library
only, so that it is there before anything heavy is.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO


def configure(stream: TextIO | None = None) -> None:
    """Once a process, at the command line's start; a program that imports etlkit keeps its own logging."""
    out = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(out)
    text = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(text if out.isatty() else JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.captureWarnings(True)


class JsonFormatter(logging.Formatter):
    """``at``, ``level``, ``logger``, ``message``, and ``error`` with the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
