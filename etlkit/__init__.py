"""etlkit: ETL jobs that see their OOM coming, checkpoint, resize their pod and resume.

    import etlkit as ek

The public names are listed here and imported when they are first used, so that ``import etlkit`` loads nothing but the
standard library: a start inside a small memory limit pays only for what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import (
        ConfigError,
        CorruptStateError,
        EtlkitError,
        FencedError,
        InputError,
        PlanError,
        RefusedError,
        StateBusyError,
        StateError,
        UsageError,
    )
    from .exits import Exit
    from .io.sink import Sink
    from .io.source import Source
    from .plan.aggregates import (
        Aggregate,
        all,
        any,
        count,
        count_distinct,
        first,
        last,
        max,
        mean,
        min,
        quantile,
        stddev,
        sum,
        variance,
    )
    from .plan.expr import Expr, col, fn, lit, when
    from .plan.job import Job, job
    from .plan.pipeline import Pipeline, read, read_csv, read_ipc, read_json, read_parquet, watch_dir
    from .runtime.api import RunResult, run

_HOME = {
    "Aggregate": "plan.aggregates",
    "ConfigError": "errors",
    "CorruptStateError": "errors",
    "EtlkitError": "errors",
    "Exit": "exits",
    "Expr": "plan.expr",
    "FencedError": "errors",
    "InputError": "errors",
    "Job": "plan.job",
    "Pipeline": "plan.pipeline",
    "PlanError": "errors",
    "RefusedError": "errors",
    "RunResult": "runtime.api",
    "Sink": "io.sink",
    "Source": "io.source",
    "StateBusyError": "errors",
    "StateError": "errors",
    "UsageError": "errors",
    "all": "plan.aggregates",
    "any": "plan.aggregates",
    "col": "plan.expr",
    "count": "plan.aggregates",
    "count_distinct": "plan.aggregates",
    "first": "plan.aggregates",
    "fn": "plan.expr",
    "job": "plan.job",
    "last": "plan.aggregates",
    "lit": "plan.expr",
    "max": "plan.aggregates",
    "mean": "plan.aggregates",
    "min": "plan.aggregates",
    "quantile": "plan.aggregates",
    "read": "plan.pipeline",
    "read_csv": "plan.pipeline",
    "read_ipc": "plan.pipeline",
    "read_json": "plan.pipeline",
    "read_parquet": "plan.pipeline",
    "run": "runtime.api",
    "stddev": "plan.aggregates",
    "sum": "plan.aggregates",
    "variance": "plan.aggregates",
    "watch_dir": "plan.pipeline",
    "when": "plan.expr",
}
"""Where each public name lives. A test holds this, ``__all__`` and the imports above together."""

__all__ = [
    "Aggregate",
    "ConfigError",
    "CorruptStateError",
    "EtlkitError",
    "Exit",
    "Expr",
    "FencedError",
    "InputError",
    "Job",
    "Pipeline",
    "PlanError",
    "RefusedError",
    "RunResult",
    "Sink",
    "Source",
    "StateBusyError",
    "StateError",
    "UsageError",
    "all",
    "any",
    "col",
    "count",
    "count_distinct",
    "first",
    "fn",
    "job",
    "last",
    "lit",
    "max",
    "mean",
    "min",
    "quantile",
    "read",
    "read_csv",
    "read_ipc",
    "read_json",
    "read_parquet",
    "run",
    "stddev",
    "sum",
    "variance",
    "watch_dir",
    "when",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'etlkit' has no attribute '{name}'")
    value = getattr(import_module(f"etlkit.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
