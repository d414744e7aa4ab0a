"""From a format's name to its source or sink: the one table.

Covers which options a format takes. The formats are imported when they are used.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from ..errors import PlanError
from .sink import Sink
from .source import Source

_SOURCES = {
    "parquet": (".parquet", "ParquetSource"),
    "csv": (".csv", "CsvSource"),
    "json": (".jsonl", "JsonLinesSource"),
    "ipc": (".ipc", "IpcSource"),
}
_SINKS = {
    "parquet": (".parquet_sink", "ParquetSink"),
    "csv": (".text_sinks", "CsvSink"),
    "json": (".text_sinks", "JsonLinesSink"),
    "ipc": (".ipc", "IpcSink"),
}


def open_source(format: str, paths: Sequence[str], options: Mapping[str, Any]) -> Source:
    """Errors: ``PlanError`` for a format or an option that is not known. Touches no file."""
    return _make(_SOURCES, "read", format, {"paths": tuple(paths), **options})  # type: ignore[no-any-return]


def open_sink(format: str, path: str, options: Mapping[str, Any]) -> Sink:
    """Errors: ``PlanError`` for a format or an option that is not known. Touches no file."""
    return _make(_SINKS, "write", format, {"path": path, **options})  # type: ignore[no-any-return]


def _make(table: Mapping[str, tuple[str, str]], verb: str, format: str, options: Mapping[str, Any]) -> Any:
    if format not in table:
        raise PlanError(f"{verb}_{format}: no such format", f"one of {', '.join(table)}")
    module, name = table[format]
    kind = getattr(import_module(module, __package__), name)
    known = [one for one in inspect.signature(kind).parameters if not one.startswith("_")]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise PlanError(f"{verb}_{format}: no option '{option}'", f"{hint}it takes {', '.join(known[1:])}")
    return kind(**options)
