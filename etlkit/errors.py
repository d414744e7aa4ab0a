"""Every error that etlkit raises on purpose.

    EtlkitError                1   what happened, where, and the remedy
    ├── UsageError             2   the call itself is wrong
    ├── InputError            65   input data, named by file, row group or line, and column
    ├── StateBusyError        73   another live run holds the state
    ├── FencedError           73   another run has taken over; this one may not commit any more
    ├── StateError            74   checkpoint or state I/O; the last good checkpoint is untouched
    │   └── CorruptStateError 74   what is on disk is not what was written
    ├── RefusedError          77   the cluster said no
    └── ConfigError           78   configuration or plan that cannot work
        └── PlanError         78   the pipeline itself is wrong (unknown column, type mismatch)

It does not cover what pyarrow or the operating system raise: those are caught where they
arise and turned into one of these, with the original as ``__cause__``.
"""

from __future__ import annotations

from .exits import Exit


class EtlkitError(Exception):
    """An error with a place and a remedy.

    ``message`` says what happened and where, ``remedy`` what to do about it. ``exit_code``
    is what a command ends with when nobody catches it.
    """

    exit_code: Exit = Exit.FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(EtlkitError):
    """The call itself is wrong: an unknown parameter, a value that is no quantity. Exit 2."""

    exit_code = Exit.USAGE


class InputError(EtlkitError):
    """Bad input data. ``place`` is the file and, where known, its row group, line and column. Exit 65."""

    exit_code = Exit.BAD_INPUT

    def __init__(self, message: str, remedy: str = "", *, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message, remedy)
        self.place = place


class StateBusyError(EtlkitError):
    """Another live run holds the state, still after the wait. Exit 73."""

    exit_code = Exit.STATE_BUSY


class FencedError(EtlkitError):
    """Another run has taken over the state; this one may not commit any more. Exit 73."""

    exit_code = Exit.STATE_BUSY


class StateError(EtlkitError):
    """A checkpoint or the state could not be written or read; the last good checkpoint is untouched. Exit 74."""

    exit_code = Exit.STATE_IO


class CorruptStateError(StateError):
    """What is on disk is not what was written. ``name`` is the file in the state directory. Exit 74."""

    def __init__(self, message: str, remedy: str = "", *, name: str = "") -> None:
        super().__init__(message, remedy)
        self.name = name


class RefusedError(EtlkitError):
    """The cluster said no: RBAC, admission, quota. Exit 77."""

    exit_code = Exit.REFUSED


class ConfigError(EtlkitError):
    """A configuration or plan that cannot work; the remedy says what to change. Exit 78."""

    exit_code = Exit.CONFIG


class PlanError(ConfigError):
    """The pipeline itself is wrong: an unknown column, types that do not go together. Exit 78."""


def error_for(exit_code: int, message: str, remedy: str = "") -> EtlkitError:
    """An error that ends a command with ``exit_code``: for one that was written down and is said again."""
    error = EtlkitError(message, remedy)
    error.exit_code = Exit(exit_code)
    return error
