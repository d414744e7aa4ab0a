"""The pipeline an author writes: an immutable chain of steps that ends in a sink.

Covers the methods and what can be refused without looking at data (a limit below 0, an unknown ``how``). Column
names and types are checked when the pipeline is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PlanError, UsageError
from ..units import parse_seconds
from . import nodes
from .aggregates import Aggregate
from .expr import Expr, col

Paths = str | Path | Sequence[str | Path]


def _expr(value: object) -> Expr:
    if isinstance(value, Expr):
        return value
    from .expr import lit

    return lit(value)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A description of work. Nothing is read until it runs. Every method returns a new pipeline."""

    node: nodes.Node | nodes.End

    def _open(self) -> nodes.Node:
        if isinstance(self.node, nodes.Write | nodes.WriteSink):
            raise PlanError("this pipeline already ends in a sink", "take the steps before the write_… call")
        return self.node

    def filter(self, *predicates: Expr) -> Pipeline:
        """Keep the rows for which every predicate is true; null is not true."""
        node = self._open()
        for predicate in predicates:
            if not isinstance(predicate, Expr):
                raise PlanError(f"filter takes expressions, not {type(predicate).__name__}", 'write ek.col("x") > 1')
            node = nodes.Filter(node, predicate)
        return Pipeline(node)

    def select(self, *columns: str | Expr, **named: object) -> Pipeline:
        """Exactly these columns, in this order: names, and expressions by keyword."""
        pairs: list[tuple[str, Expr]] = []
        for column in columns:
            if isinstance(column, str):
                pairs.append((column, col(column)))
                continue
            names = column.columns()
            if len(names) != 1:
                raise PlanError(f"select cannot name the column of {column}", "give it by keyword: select(name=…)")
            pairs.append((next(iter(names)), column))
        pairs += [(name, _expr(value)) for name, value in named.items()]
        if len({name for name, _ in pairs}) != len(pairs):
            raise PlanError("select names a column twice", "give the second one another name by keyword")
        return Pipeline(nodes.Select(self._open(), tuple(pairs)))

    def with_columns(self, **named: object) -> Pipeline:
        """All columns, and these added or replaced. Each expression sees the columns before the step."""
        return Pipeline(nodes.WithColumns(self._open(), tuple((name, _expr(value)) for name, value in named.items())))

    def rename(self, names: Mapping[str, str] | None = None, **named: str) -> Pipeline:
        """``rename({"old": "new"})`` or ``rename(old="new")``."""
        pairs = {**(names or {}), **named}
        return Pipeline(nodes.Rename(self._open(), tuple(pairs.items())))

    def drop(self, *columns: str) -> Pipeline:
        return Pipeline(nodes.Drop(self._open(), columns))

    def cast(self, types: Mapping[str, Any] | None = None, **named: Any) -> Pipeline:
        """``cast(l_quantity=pa.int64())`` or ``cast({"l_quantity": "int64"})``. A value that does not fit is bad input."""
        return Pipeline(nodes.Cast(self._open(), tuple({**(types or {}), **named}.items())))

    def map_batches(
        self, fn: Callable[[Any], Any], schema: Any | None = None, *, version: str | None = None
    ) -> Pipeline:
        """Apply ``fn`` to each record batch. It returns a record batch or table with ``schema`` (default: the input's).

        It may run more than once for the same rows; what is committed is committed once. The batches depend on
        the plan only, never on memory or a restart. ``version`` names the function's version; without one its
        source is the version, and a change of it changes the job.
        """
        return Pipeline(nodes.MapBatches(self._open(), fn, schema, version))

    def explode(self, column: str) -> Pipeline:
        """One row for each element of a list column; a null or empty list gives one row with null."""
        return Pipeline(nodes.Explode(self._open(), column))

    def limit(self, rows: int) -> Pipeline:
        """The first ``rows`` rows in split order."""
        if rows < 0:
            raise PlanError(f"limit({rows}) is below 0", "give 0 or more")
        return Pipeline(nodes.Limit(self._open(), rows))

    def union(self, *others: Pipeline) -> Pipeline:
        """The rows of all, this one's first. Columns go by name and must be the same."""
        return Pipeline(nodes.Union((self._open(), *(other._open() for other in others))))

    def group_by(self, *keys: str) -> Grouping:
        return Grouping(self._open(), keys)

    def agg(self, **aggregates: Aggregate) -> Pipeline:
        """One row over everything."""
        return Grouping(self._open(), ()).agg(**aggregates)

    def distinct(self, *keys: str) -> Pipeline:
        """One row for each value of the keys (all columns if none are named): the first in input order."""
        return Pipeline(nodes.Distinct(self._open(), keys))

    def join(
        self,
        other: Pipeline,
        on: str | Sequence[str] | None = None,
        *,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
        how: nodes.JoinHow = "inner",
        suffix: str = "_right",
    ) -> Pipeline:
        """Join by equal keys; null never equals null. A right column whose name is taken gets ``suffix``."""
        if how not in nodes.JOIN_HOWS:
            raise PlanError(f"join how={how!r} is not known", f"one of {', '.join(nodes.JOIN_HOWS)}")
        if (on is None) == (left_on is None or right_on is None):
            raise PlanError("join needs keys", "give on=…, or left_on=… and right_on=…")
        left, right = _names(on if on is not None else left_on), _names(on if on is not None else right_on)
        if len(left) != len(right) or not left:
            raise PlanError(f"join has {len(left)} keys on the left and {len(right)} on the right", "give as many")
        return Pipeline(nodes.Join(self._open(), other._open(), left, right, how, suffix))

    def sort(self, *keys: str, descending: bool | Sequence[bool] = False) -> Pipeline:
        """Order rows over all parts; nulls last. The sort is stable."""
        if not keys:
            raise PlanError("sort needs a key", 'sort("column")')
        ways = (descending,) * len(keys) if isinstance(descending, bool) else tuple(descending)
        if len(ways) != len(keys):
            raise PlanError(f"sort has {len(keys)} keys and {len(ways)} directions", "give one for each key")
        return Pipeline(nodes.Sort(self._open(), keys, ways))

    def write_parquet(
        self,
        path: str | Path,
        *,
        partition_by: str | Sequence[str] = (),
        if_exists: nodes.IfExists = "error",
        **options: object,
    ) -> Pipeline:
        """Parquet files in a folder. Every ``write_…`` takes ``visible="end"|"checkpoint"`` (when readers see parts) and
        ``target_file_bytes`` (a split that is larger goes on in a further file)."""
        return self._write("parquet", path, if_exists, {"partition_by": _names(partition_by), **options})

    def write_csv(self, path: str | Path, *, if_exists: nodes.IfExists = "error", **options: object) -> Pipeline:
        return self._write("csv", path, if_exists, options)

    def write_json(self, path: str | Path, *, if_exists: nodes.IfExists = "error", **options: object) -> Pipeline:
        return self._write("json", path, if_exists, options)

    def write_ipc(self, path: str | Path, *, if_exists: nodes.IfExists = "error", **options: object) -> Pipeline:
        return self._write("ipc", path, if_exists, options)

    def write(self, sink: Any) -> Pipeline:
        """End in an author's own ``ek.Sink``."""
        return Pipeline(nodes.WriteSink(self._open(), sink))

    def _write(self, format: str, path: str | Path, if_exists: str, options: Mapping[str, object]) -> Pipeline:
        if if_exists not in nodes.IF_EXISTS:
            raise UsageError(f"if_exists={if_exists!r} is not known", f"one of {', '.join(nodes.IF_EXISTS)}")
        pairs = tuple(sorted({"if_exists": if_exists, **options}.items()))
        return Pipeline(nodes.Write(self._open(), format, str(path), pairs))


@dataclass(frozen=True, slots=True)
class Grouping:
    """``group_by(…)``, waiting for its aggregates."""

    node: nodes.Node
    keys: tuple[str, ...]

    def agg(self, **aggregates: Aggregate) -> Pipeline:
        for name, aggregate in aggregates.items():
            if not isinstance(aggregate, Aggregate):
                raise PlanError(f"agg({name}=…) is not an aggregate", 'write ek.sum("x"), ek.count(), …')
            if name in self.keys:
                raise PlanError(f"'{name}' is a key and an aggregate", "give the aggregate another name")
        return Pipeline(nodes.GroupBy(self.node, self.keys, tuple(aggregates.items())))


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _read(format: str, path: Paths, options: Mapping[str, object]) -> Pipeline:
    paths = (str(path),) if isinstance(path, str | Path) else tuple(str(one) for one in path)
    return Pipeline(nodes.Read(format, paths, tuple(sorted(options.items()))))


def read_parquet(path: Paths, **options: object) -> Pipeline:
    """Rows of Parquet files: a path, a folder, a glob, a list of them, or any fsspec URL. ``schema="strict|union|first"``."""
    return _read("parquet", path, options)


def read_csv(path: Paths, **options: object) -> Pipeline:
    """Rows of CSV files. ``schema={"x": type}``, ``bad_rows="error|skip|quarantine"``, ``delimiter=``, ``header=``."""
    return _read("csv", path, options)


def read_json(path: Paths, **options: object) -> Pipeline:
    """Rows of JSON files, one object a line. ``schema={"x": type}``, ``bad_rows="error|skip|quarantine"``."""
    return _read("json", path, options)


def read_ipc(path: Paths, **options: object) -> Pipeline:
    """Rows of Arrow IPC files (Feather version 2)."""
    return _read("ipc", path, options)


def watch_dir(
    path: str | Path,
    format: str = "parquet",
    *,
    idle: str | float | None = None,
    until: str | None = None,
    settle: str | float = "1s",
    poll: str | float | None = None,
    **options: object,
) -> Pipeline:
    """Rows of files that arrive in a folder while the job runs, each file once, also over restarts.

    It ends when nothing has come for ``idle``, or once a file named ``until`` is there; with neither it never ends (SIGTERM
    checkpoints and exits 75). A file counts when it was renamed in, or has stayed the same for ``settle``. ``poll`` lists the
    folder that often and does without inotify. ``options`` are the format's; ``schema=pa.schema(...)`` where the folder may be
    empty at first. docs/adr/0014-watch-dir.md has the rest.
    """
    if until is not None and ("/" in until or not until):
        raise UsageError(f"watch_dir until={until!r} is not a file name", 'name a file in the folder: until="_DONE"')
    return Pipeline(
        nodes.Watch(
            format,
            str(path),
            tuple(sorted(options.items())),
            None if idle is None else parse_seconds(idle),
            until,
            parse_seconds(settle),
            None if poll is None else max(0.01, parse_seconds(poll)),
        )
    )


def read(source: Any) -> Pipeline:
    """Rows of an author's own ``ek.Source``."""
    return Pipeline(nodes.ReadSource(source))
