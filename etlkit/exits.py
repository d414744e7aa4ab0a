"""The exit codes of the contract, and which of them are for good.

The numbers follow sysexits.h where it has one (65, 73 to 75, 77, 78).
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a process of etlkit ends. 0 is never used with work left."""

    DONE = 0
    """The job is done and its output is committed."""
    FAILED = 1
    """Unexpected."""
    USAGE = 2
    """The call is wrong."""
    BAD_INPUT = 65
    """Bad input data."""
    STATE_BUSY = 73
    """Another live run holds the state."""
    STATE_IO = 74
    """The state could not be written or read."""
    AGAIN = 75
    """Checkpointed, work left: start me again."""
    REFUSED = 77
    """The cluster said no."""
    CONFIG = 78
    """Configuration or plan that cannot work."""


HOPELESS = (Exit.USAGE, Exit.BAD_INPUT, Exit.REFUSED, Exit.CONFIG)
"""Ends that every other start would come to, too (F25)."""
