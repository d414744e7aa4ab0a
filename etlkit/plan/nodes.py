"""The logical plan: one frozen node a step, as the author wrote it.

Covers the nodes and their canonical form (the identity of a plan: JSON data made of canonical bytes, never of
``repr``). It knows no schema: names are resolved when a plan is lowered against its sources (engine/planner.py).
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

from ..lazyclass import dataclass
from .aggregates import Aggregate
from .expr import Expr

JoinHow = Literal["inner", "left", "right", "outer", "semi", "anti"]
IfExists = Literal["error", "replace", "append"]
Visible = Literal["end", "checkpoint"]
JOIN_HOWS: tuple[str, ...] = get_args(JoinHow)
IF_EXISTS: tuple[str, ...] = get_args(IfExists)


@dataclass(frozen=True, slots=True)
class Read:
    """Files of one format. ``options`` are the reader's, sorted by name."""

    format: str
    paths: tuple[str, ...]
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class ReadSource:
    """An author's own ``ek.Source``."""

    source: Any


@dataclass(frozen=True, slots=True)
class Watch:
    """Files of one format that arrive in a folder while the job runs. How it ends and how often it looks is no part of the plan's
    identity: an unfinished run may be told to end."""

    format: str
    path: str
    options: tuple[tuple[str, object], ...]
    idle_s: float | None
    until: str | None
    settle_s: float
    poll_s: float | None


@dataclass(frozen=True, slots=True)
class Filter:
    input: Node
    predicate: Expr


@dataclass(frozen=True, slots=True)
class Select:
    """Exactly these columns, in this order."""

    input: Node
    columns: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class WithColumns:
    """All columns, these added or replaced; each sees the input, not its neighbours."""

    input: Node
    columns: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class Rename:
    input: Node
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Drop:
    input: Node
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cast:
    """``types`` are pyarrow data types, or their names."""

    input: Node
    types: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class MapBatches:
    """An author's function from record batch to record batch. ``schema`` is what it returns; None means what it gets."""

    input: Node
    fn: Callable[[Any], Any]
    schema: Any | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Explode:
    input: Node
    column: str


@dataclass(frozen=True, slots=True)
class Limit:
    input: Node
    rows: int


@dataclass(frozen=True, slots=True)
class Union:
    inputs: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class GroupBy:
    """``aggregates`` may be empty: that is distinct."""

    input: Node
    keys: tuple[str, ...]
    aggregates: tuple[tuple[str, Aggregate], ...]


@dataclass(frozen=True, slots=True)
class Distinct:
    """One row for each value of ``keys`` (all columns if empty): the first in input order."""

    input: Node
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Join:
    left: Node
    right: Node
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: JoinHow
    suffix: str


@dataclass(frozen=True, slots=True)
class Sort:
    """Nulls last, NaN before them, whichever way."""

    input: Node
    keys: tuple[str, ...]
    descending: tuple[bool, ...]


Node = (
    Read | ReadSource | Watch | Filter | Select | WithColumns | Rename | Drop | Cast | MapBatches | Explode | Limit | Union
    | GroupBy | Distinct | Join | Sort
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Write:
    """The end of a pipeline: files of one format."""

    input: Node
    format: str
    path: str
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class WriteSink:
    """The end of a pipeline: an author's own ``ek.Sink``."""

    input: Node
    sink: Any


End = Write | WriteSink


def inputs_of(node: Node | End) -> tuple[Node, ...]:
    match node:
        case Read() | ReadSource() | Watch():
            return ()
        case Union(inputs):
            return inputs
        case Join(left, right):
            return left, right
        case _:
            return (node.input,)


def walk(node: Node | End) -> Iterator[Node | End]:
    """The node and everything below it, inputs first."""
    for child in inputs_of(node):
        yield from walk(child)
    yield node


def function_version(fn: Callable[[Any], Any], version: str | None) -> str:
    """What stands for an author's function in a fingerprint: the version it names, else a digest of its source.

    A function without readable source (a C function, one typed at a prompt) is told by its compiled code.
    """
    if version is not None:
        return f"version:{version}"
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
    try:
        text = inspect.getsource(fn).encode()
    except (OSError, TypeError):
        code = getattr(fn, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
        text = code.co_code if code is not None else name.encode()
    return f"source:{name}:{hashlib.sha256(text).hexdigest()}"


def canonical(node: Node | End) -> dict[str, object]:
    """The node as JSON data that is equal exactly if the plans are. Paths of outputs and inputs are included."""
    kind = type(node).__name__
    below = [canonical(child) for child in inputs_of(node)]
    fields: dict[str, object] = {}
    match node:
        case Read(format, paths, options):
            fields = {"format": format, "paths": list(paths), "options": _options(options)}
        case ReadSource(source):
            fields = {"source": source.describe()}
        case Watch(format, path, options):
            fields = {"format": format, "path": path, "options": _options(options)}
        case Filter(_, predicate):
            fields = {"predicate": predicate.canonical().hex()}
        case Select(_, columns) | WithColumns(_, columns):
            fields = {"columns": [[name, expr.canonical().hex()] for name, expr in columns]}
        case Rename(_, names):
            fields = {"names": [list(pair) for pair in names]}
        case Drop(_, dropped):
            fields = {"columns": list(dropped)}
        case Cast(_, types):
            fields = {"types": [[name, str(kind)] for name, kind in types]}
        case MapBatches(_, fn, schema, version):
            fields = {"fn": function_version(fn, version), "schema": None if schema is None else str(schema)}
        case Explode(_, column):
            fields = {"column": column}
        case Limit(_, rows):
            fields = {"rows": rows}
        case GroupBy(_, keys, aggregates):
            fields = {"keys": list(keys), "aggregates": [[name, agg.canonical().hex()] for name, agg in aggregates]}
        case Distinct(_, keys):
            fields = {"keys": list(keys)}
        case Join(_, _, left_on, right_on, how, suffix):
            fields = {"left_on": list(left_on), "right_on": list(right_on), "how": how, "suffix": suffix}
        case Sort(_, keys, descending):
            fields = {"keys": list(keys), "descending": list(descending)}
        case Write(_, format, path, options):
            fields = {"format": format, "path": path, "options": _options(options)}
        case WriteSink(_, sink):
            fields = {"sink": sink.describe()}
        case Union():
            pass
    return {"node": kind, **fields, "inputs": below}


def _options(options: tuple[tuple[str, object], ...]) -> Mapping[str, object]:
    return {
        name: value if isinstance(value, str | int | float | bool | None) else str(value) for name, value in options
    }
