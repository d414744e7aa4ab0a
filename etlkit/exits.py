"""The exit codes of the contract, and nothing else.

The numbers follow sysexits.h where it has one (65, 73 to 75, 77, 78).
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a process of etlkit ends. 0 is never used with work left."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BAD_INPUT = 65
    STATE_BUSY = 73
    STATE_IO = 74
    AGAIN = 75
    REFUSED = 77
    CONFIG = 78
