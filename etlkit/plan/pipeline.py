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
    """A description of work. Nothing is read until it runs. Every method returns a new pipeline.

    What can be seen without data is refused at once (``PlanError``, ``UsageError``); columns and types are checked when the
    pipeline is planned (``PlanError``, exit 78, with the nearest name); values when they are read (``InputError``, exit 65).
    """

    node: nodes.Node | nodes.End

    def _open(self) -> nodes.Node:
        if isinstance(self.node, nodes.Write | nodes.WriteSink):
            raise PlanError("this pipeline already ends in a sink", "take the steps before the write_… call")
        return self.node

    def filter(self, *predicates: Expr) -> Pipeline:
        """Keep the rows for which every predicate is true; null is not true.

        A predicate is a boolean expression. Those on columns that come straight from a file also skip row groups that their
        statistics exclude. Errors: ``PlanError`` for what is no expression, or no boolean.
        """
        node = self._open()
        for predicate in predicates:
            if not isinstance(predicate, Expr):
                raise PlanError(f"filter takes expressions, not {type(predicate).__name__}", 'write ek.col("x") > 1')
            node = nodes.Filter(node, predicate)
        return Pipeline(node)

    def select(self, *columns: str | Expr, **named: object) -> Pipeline:
        """Exactly these columns, in this order: names, and expressions by keyword.

        ``select("id", ek.col("qty"), net=ek.col("price") * 2)``. A value that is no expression becomes a constant. Errors:
        ``PlanError`` for no column, a column named twice, or an expression of several columns without a name.
        """
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
        if not pairs:
            raise PlanError("select() names no column", 'name them: select("id", net=ek.col("price") * 2)')
        if len({name for name, _ in pairs}) != len(pairs):
            raise PlanError("select names a column twice", "give the second one another name by keyword")
        return Pipeline(nodes.Select(self._open(), tuple(pairs)))

    def with_columns(self, **named: object) -> Pipeline:
        """All columns, and these added at the end or replaced where they stand. Each expression sees the columns before the step.

        A value that is no expression becomes a constant.
        """
        return Pipeline(nodes.WithColumns(self._open(), tuple((name, _expr(value)) for name, value in named.items())))

    def rename(self, names: Mapping[str, str] | None = None, **named: str) -> Pipeline:
        """``rename({"old": "new"})`` or ``rename(old="new")``. Errors: ``PlanError`` for two columns of one name."""
        pairs = {**(names or {}), **named}
        return Pipeline(nodes.Rename(self._open(), tuple(pairs.items())))

    def drop(self, *columns: str) -> Pipeline:
        """All columns but these. Errors: ``PlanError`` for one that is not there, or if none is left."""
        return Pipeline(nodes.Drop(self._open(), columns))

    def cast(self, types: Mapping[str, Any] | None = None, **named: Any) -> Pipeline:
        """``cast(l_quantity=pa.int64())`` or ``cast({"l_quantity": "int64"})``: a pyarrow type, its name, or a Python type.

        Errors: ``InputError`` naming file, column and value for one that does not fit; it never becomes another value.
        """
        return Pipeline(nodes.Cast(self._open(), tuple({**(types or {}), **named}.items())))

    def map_batches(
        self, fn: Callable[[Any], Any], schema: Any | None = None, *, version: str | None = None
    ) -> Pipeline:
        """Apply ``fn`` to each ``pyarrow.RecordBatch``. It returns a record batch or table with ``schema`` (default: the input's).

        It may return fewer or more rows than it got. It may run more than once for the same rows; what is committed is committed
        once. The batches depend on the plan only, never on memory or a restart. ``version`` names the function's version; without
        one its source is the version, and a change of it changes the job.

        Errors: what ``fn`` raises ends the job with exit 1, and the rows are named; another schema than it said is a ``PlanError``.
        """
        return Pipeline(nodes.MapBatches(self._open(), fn, schema, version))

    def explode(self, column: str) -> Pipeline:
        """One row for each element of a list column; a null or empty list gives one row with null.

        The column becomes its element type; the others are repeated. Errors: ``PlanError`` for a column that holds no lists.
        """
        return Pipeline(nodes.Explode(self._open(), column))

    def limit(self, rows: int) -> Pipeline:
        """The first ``rows`` rows, in the order of the input or of the ``sort`` before it. Errors: ``PlanError`` below 0."""
        if rows < 0:
            raise PlanError(f"limit({rows}) is below 0", "give 0 or more")
        return Pipeline(nodes.Limit(self._open(), rows))

    def union(self, *others: Pipeline) -> Pipeline:
        """The rows of all, this one's first. Columns go by name and must be the same; each gets the type that holds all of its own.

        Errors: ``PlanError`` for a column that one of them lacks, or types without a common one.
        """
        return Pipeline(nodes.Union((self._open(), *(other._open() for other in others))))

    def group_by(self, *keys: str) -> Grouping:
        """Rows with the same keys, for ``.agg(…)``. Null is a group, and NaN is one group.

        Memory grows with the number of groups; what does not fit is spilled with a checkpoint. Errors: ``PlanError`` for keys that
        are lists or structs.
        """
        return Grouping(self._open(), keys)

    def agg(self, **aggregates: Aggregate) -> Pipeline:
        """One row over everything, also if there is nothing: sums are null then, counts 0."""
        return Grouping(self._open(), ()).agg(**aggregates)

    def distinct(self, *keys: str) -> Pipeline:
        """One row for each value of the keys (all columns if none are named): the first in input order, with all its columns."""
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
        """Join by equal keys; null never equals null. A right column whose name is taken gets ``suffix``.

        Either ``on``, or ``left_on`` and ``right_on`` with as many names. ``how``: ``inner``, ``left``, ``right``, ``outer``
        (rows without a partner get nulls), ``semi`` and ``anti`` (the left's rows that have, or lack, a partner; no right columns).
        Columns: the left's, then the right's without its keys. The right side of a partition is held in memory, so put the smaller
        table there. Errors: ``PlanError`` for keys whose types cannot be compared.
        """
        if how not in nodes.JOIN_HOWS:
            raise PlanError(f"join how={how!r} is not known", f"one of {', '.join(nodes.JOIN_HOWS)}")
        if (on is None) == (left_on is None or right_on is None):
            raise PlanError("join needs keys", "give on=…, or left_on=… and right_on=…")
        left, right = _names(on if on is not None else left_on), _names(on if on is not None else right_on)
        if len(left) != len(right) or not left:
            raise PlanError(f"join has {len(left)} keys on the left and {len(right)} on the right", "give as many")
        return Pipeline(nodes.Join(self._open(), other._open(), left, right, how, suffix))

    def sort(self, *keys: str, descending: bool | Sequence[bool] = False) -> Pipeline:
        """Order rows over all parts; nulls last, whatever the direction. The sort is stable, and part names are in order.

        ``descending`` is one for all keys or one for each. Errors: ``PlanError`` without a key, or for a key that has no order.
        """
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
        """End in Parquet files ``part-00000.parquet`` … in the folder ``path``, a path of a filesystem; ``_SUCCESS`` is written last.

        ``partition_by`` puts rows into folders ``name=value`` by columns, which then are not in the files. ``if_exists``, for a folder
        that is not empty: ``error``, ``replace`` (when the run is done, in one go) or ``append``. ``visible``: ``end``, or
        ``checkpoint`` to show parts as soon as they are committed. ``target_file_bytes``: a split that is larger goes on in a further
        file. ``compression``, ``row_group_rows``: of Parquet.

        Errors: ``ConfigError`` for a folder that is not empty, ``StateError`` for a disk that is full.
        """
        return self._write("parquet", path, if_exists, {"partition_by": _names(partition_by), **options})

    def write_csv(self, path: str | Path, *, if_exists: nodes.IfExists = "error", **options: object) -> Pipeline:
        """End in CSV files with a header, null as an empty field; ``delimiter``. Else as ``write_parquet``.

        Errors: ``ConfigError`` for a column that CSV cannot hold (lists, structs).
        """
        return self._write("csv", path, if_exists, options)

    def write_json(self, path: str | Path, *, if_exists: nodes.IfExists = "error", **options: object) -> Pipeline:
        """End in files of JSON lines, one object a row. Else as ``write_parquet``."""
        return self._write("json", path, if_exists, options)

    def write_ipc(self, path: str | Path, *, if_exists: nodes.IfExists = "error", **options: object) -> Pipeline:
        """End in Arrow IPC files (Feather version 2). ``compression``. Else as ``write_parquet``."""
        return self._write("ipc", path, if_exists, options)

    def write(self, sink: Any) -> Pipeline:
        """End in an author's own ``ek.Sink``: an object with the protocol's methods, new and not yet prepared."""
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
        """One row a group: the keys, then the aggregates by the names given. ``agg(total=ek.sum("price"), rows=ek.count())``.

        Without an aggregate the keys alone, each once. Groups come in no promised order. Errors: ``PlanError`` for what is no
        aggregate, a name that is a key, or neither key nor aggregate.
        """
        if not aggregates and not self.keys:
            raise PlanError("agg() names no aggregate", 'name them: agg(total=ek.sum("price"), rows=ek.count())')
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
    """Rows of Parquet files: a path, a folder, a glob, a list of them, or any fsspec URL.

    A split is one row group or several, so small row groups need little memory. Folders ``name=value`` on the way to a file become
    columns. ``schema``: ``strict`` (every file has the first one's columns and types), ``union`` (all columns of all, null where a
    file lacks one) or ``first`` (the first one's columns, others are left out).

    Errors, when it is planned or read: ``ConfigError`` for a path that is not there or a URL with a password, ``InputError`` for a
    file that is damaged or of another schema, with the row group where known.
    """
    return _read("parquet", path, options)


def read_csv(path: Paths, **options: object) -> Pipeline:
    """Rows of CSV files in UTF-8, plain or compressed as their names say.

    ``schema={"x": type}`` gives types to some columns; the others are guessed from the first file's first rows. ``delimiter`` (one
    character), ``header=False`` where the first line is a row (name the columns by ``schema``, in order). An empty field is null.
    ``bad_rows``, for a row that does not parse: ``error`` (``InputError`` with file, line and column), ``skip``, or ``quarantine``
    with ``quarantine="a/folder"``, where it is kept with the reason.
    """
    return _read("csv", path, options)


def read_json(path: Paths, **options: object) -> Pipeline:
    """Rows of JSON files, one object a line. ``schema={"x": type}`` and ``bad_rows`` as ``read_csv``'s; an absent field is null."""
    return _read("json", path, options)


def read_ipc(path: Paths, **options: object) -> Pipeline:
    """Rows of Arrow IPC files (Feather version 2). ``schema`` and errors as ``read_parquet``'s; a split is record batches."""
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
    empty at first. Durations are ``"30s"`` or seconds. Decision record 14 has the rest.

    Errors: ``UsageError`` for ``until`` with a path in it, ``ConfigError`` for a folder that is not there, ``InputError`` for a file
    that is still torn when the watching ends.
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
    """Rows of an author's own ``ek.Source``: an object with the protocol's methods."""
    return Pipeline(nodes.ReadSource(source))
