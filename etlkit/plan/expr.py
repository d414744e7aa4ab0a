"""Expressions: what an author writes with ``col``, ``lit``, ``fn`` and ``when``, as an immutable tree.

Covers building, printing and identity (``canonical``). It does not know any schema: ``binding.py`` lowers a tree to
pyarrow once the schema is known, and reports unknown columns, unknown functions and wrong types there. Nothing heavy is
imported here. ``==`` builds an expression as every other operator does; ask ``same`` whether two trees are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any

from ..errors import PlanError
from ..lazyclass import dataclass
from .canonical import TypeLike, is_arrow, plain, set_bytes, tagged, type_bytes, value_bytes

_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "floor_divide": "//", "modulo": "%", "power": "**",
    "and": "&", "or": "|", "xor": "^",
    "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
}  # fmt: skip
_LONGEST_PRINTED_LIST = 8


class Expr:
    """One expression. Made by ``col``, ``lit``, ``fn``, ``when`` and operators; never changed."""

    __slots__ = ()

    # Identity

    def canonical(self) -> bytes:
        """Bytes that are equal exactly for equal trees, in every process and on every machine."""
        raise NotImplementedError

    def columns(self) -> frozenset[str]:
        """The names of all columns that it reads."""
        raise NotImplementedError

    def substitute(self, columns: Mapping[str, Expr]) -> Expr:
        """The same tree with the named columns replaced by expressions, all at once."""
        raise NotImplementedError

    def same(self, other: object) -> bool:
        """Whether ``other`` is the same tree. (``==`` builds a comparison.)"""
        return self is other or (isinstance(other, Expr) and self.canonical() == other.canonical())

    def __hash__(self) -> int:
        return hash(self.canonical())

    def __bool__(self) -> bool:
        raise PlanError(
            f"an expression has no truth value: {self}",
            "use & | ~ with parentheses instead of and, or, not; .between(a, b) instead of a < x < b",
        )

    def __repr__(self) -> str:
        return f"<Expr {self}>"

    def __iter__(self) -> Any:
        raise PlanError(f"an expression cannot be iterated or searched: {self}", "use .isin([...]) for membership")

    # Arithmetic

    def __add__(self, other: Any) -> Expr:
        return _call("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return _call("add", other, self)

    def __sub__(self, other: Any) -> Expr:
        return _call("subtract", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return _call("subtract", other, self)

    def __mul__(self, other: Any) -> Expr:
        return _call("multiply", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return _call("multiply", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return _call("divide", self, other)

    def __rtruediv__(self, other: Any) -> Expr:
        return _call("divide", other, self)

    def __floordiv__(self, other: Any) -> Expr:
        return _call("floor_divide", self, other)

    def __rfloordiv__(self, other: Any) -> Expr:
        return _call("floor_divide", other, self)

    def __mod__(self, other: Any) -> Expr:
        return _call("modulo", self, other)

    def __rmod__(self, other: Any) -> Expr:
        return _call("modulo", other, self)

    def __pow__(self, other: Any) -> Expr:
        return _call("power", self, other)

    def __rpow__(self, other: Any) -> Expr:
        return _call("power", other, self)

    def __neg__(self) -> Expr:
        return _call("negate", self)

    def __pos__(self) -> Expr:
        return self

    def __abs__(self) -> Expr:
        return _call("abs", self)

    def abs(self) -> Expr:
        """Its absolute value; of the smallest integer of a type an error, since it does not fit."""
        return _call("abs", self)

    # Logic: of booleans with three values (null is "unknown"), of integers bit by bit

    def __and__(self, other: Any) -> Expr:
        return _call("and", self, other)

    def __rand__(self, other: Any) -> Expr:
        return _call("and", other, self)

    def __or__(self, other: Any) -> Expr:
        return _call("or", self, other)

    def __ror__(self, other: Any) -> Expr:
        return _call("or", other, self)

    def __xor__(self, other: Any) -> Expr:
        return _call("xor", self, other)

    def __rxor__(self, other: Any) -> Expr:
        return _call("xor", other, self)

    def __invert__(self) -> Expr:
        return _call("invert", self)

    # Comparison

    def __eq__(self, other: Any) -> Expr:  # type: ignore[override]
        return _call("equal", self, other)

    def __ne__(self, other: Any) -> Expr:  # type: ignore[override]
        return _call("not_equal", self, other)

    def __lt__(self, other: Any) -> Expr:
        return _call("less", self, other)

    def __le__(self, other: Any) -> Expr:
        return _call("less_equal", self, other)

    def __gt__(self, other: Any) -> Expr:
        return _call("greater", self, other)

    def __ge__(self, other: Any) -> Expr:
        return _call("greater_equal", self, other)

    def between(self, low: Any, high: Any) -> Expr:
        """``low <= x <= high``, both ends included."""
        return _call("between", self, low, high)

    def isin(self, values: Any) -> Expr:
        """Whether the value is one of ``values``. Null is null, as with ``==``, unless ``None`` is among them."""
        if isinstance(values, (str, bytes, Expr)) or not (isinstance(values, Iterable) or is_arrow(values)):
            raise PlanError(f"isin needs a list of values, not {values!r}", "write .isin([a, b, c])")
        return Call("is_in", (self,), (("values", ValueSet(tuple(plain(value) for value in values))),))

    is_in = isin

    # Nulls, NaN, types

    def is_null(self) -> Expr:
        """Whether it is null. NaN is not null."""
        return _call("is_null", self)

    def is_not_null(self) -> Expr:
        """Whether it is not null. Also called ``is_valid``."""
        return _call("is_not_null", self)

    is_valid = is_not_null

    def is_nan(self) -> Expr:
        """Whether it is NaN; null stays null."""
        return _call("is_nan", self)

    def fill_null(self, value: Any) -> Expr:
        """The value, or ``value`` where it is null."""
        return _call("fill_null", self, value)

    def cast(self, type: TypeLike, *, safe: bool = True) -> Expr:
        """Converted to ``type``. With ``safe``, a value that does not fit is an error, never another value."""
        return Call("cast", (self,), (("safe", safe), ("type", TypeName(type))))


@dataclass(frozen=True, slots=True)
class ValueSet:
    """The values of an ``isin``. Their order and repetition do not matter."""

    values: tuple[Any, ...]

    def canonical(self) -> bytes:
        return set_bytes(self.values)

    def __str__(self) -> str:
        return _print_list(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class TypeName:
    """A type as the author gave it, resolved when it is needed."""

    given: Any

    def canonical(self) -> bytes:
        return type_bytes(self.given)

    def __str__(self) -> str:
        return self.given.__name__ if isinstance(self.given, type) else str(self.given)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Column(Expr):
    """A column of the input, by name."""

    name: str

    __hash__ = Expr.__hash__

    def canonical(self) -> bytes:
        return tagged(b"C", self.name.encode())

    def columns(self) -> frozenset[str]:
        return frozenset((self.name,))

    def substitute(self, columns: Mapping[str, Expr]) -> Expr:
        return columns.get(self.name, self)

    def __str__(self) -> str:
        return self.name if self.name.isidentifier() else f"col({self.name!r})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Literal(Expr):
    """A constant: a Python value or a pyarrow scalar. ``type`` is None where the context decides."""

    value: Any
    type: TypeName | None = None

    __hash__ = Expr.__hash__

    def canonical(self) -> bytes:
        return tagged(b"L", value_bytes(self.value), b"" if self.type is None else self.type.canonical())

    def columns(self) -> frozenset[str]:
        return frozenset()

    def substitute(self, columns: Mapping[str, Expr]) -> Expr:
        return self

    def __str__(self) -> str:
        shown = _print_value(self.value)
        return shown if self.type is None else f"lit({shown}, {self.type})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call(Expr):
    """An operation. ``name`` is one of ours (``add``, ``is_in``) or ``fn.NAME`` for a function of pyarrow.compute.

    ``options`` are sorted by name.
    """

    name: str
    arguments: tuple[Expr, ...]
    options: tuple[tuple[str, Any], ...] = ()
    _cache: list[Any] = field(default_factory=list, init=False)
    """Canonical bytes and columns, once asked for: a tree with shared branches is walked once."""

    __hash__ = Expr.__hash__

    def _known(self) -> list[Any]:
        if not self._cache:
            parts = [argument.canonical() for argument in self.arguments]
            options = [value_bytes(key) + _option_bytes(value) for key, value in self.options]
            canonical = tagged(b"K", self.name.encode(), tagged(b"(", *parts), tagged(b"m", *options))
            # Both or none, in one step, so that a second thread never sees half.
            self._cache.extend((canonical, frozenset().union(*(a.columns() for a in self.arguments))))
        return self._cache

    def canonical(self) -> bytes:
        known: bytes = self._known()[0]
        return known

    def columns(self) -> frozenset[str]:
        known: frozenset[str] = self._known()[1]
        return known

    def substitute(self, columns: Mapping[str, Expr]) -> Expr:
        if self.columns().isdisjoint(columns):
            return self
        return Call(self.name, tuple(argument.substitute(columns) for argument in self.arguments), self.options)

    def __str__(self) -> str:
        shown = [_print_inner(argument) for argument in self.arguments]
        if self.name in _INFIX:
            return f"{shown[0]} {_INFIX[self.name]} {shown[1]}"
        if self.name == "negate":
            return f"-{shown[0]}"
        if self.name == "invert":
            return f"~{shown[0]}"
        if self.name == "is_in":
            return f"{shown[0]}.isin({dict(self.options)['values']})"
        if self.name == "cast":
            options = dict(self.options)
            return f"{shown[0]}.cast({options['type']}{'' if options['safe'] else ', safe=False'})"
        if self.name in ("is_null", "is_not_null", "is_nan", "fill_null", "between", "abs"):
            return f"{shown[0]}.{self.name}({', '.join(shown[1:])})"
        plain_arguments = [str(argument) for argument in self.arguments]
        named = [f"{key}={_print_value(value)}" for key, value in self.options]
        return f"{self.name}({', '.join(plain_arguments + named)})"


class When:
    """``when(condition)``, waiting for ``then``."""

    __slots__ = ("_branches", "_condition")

    def __init__(self, branches: tuple[tuple[Expr, Expr], ...], condition: Any) -> None:
        self._branches = branches
        self._condition = as_expr(condition)

    def then(self, value: Any) -> Then:
        return Then((*self._branches, (self._condition, as_expr(value))))


class Then:
    """``when(condition).then(value)``, waiting for another ``when`` or for ``otherwise``."""

    __slots__ = ("_branches",)

    def __init__(self, branches: tuple[tuple[Expr, Expr], ...]) -> None:
        self._branches = branches

    def when(self, condition: Any) -> When:
        return When(self._branches, condition)

    def otherwise(self, value: Any) -> Expr:
        """The value where no condition is true. A condition that is null is not true."""
        pairs = tuple(part for branch in self._branches for part in branch)
        return Call("case_when", (*pairs, as_expr(value)))


class Functions:
    """``fn.NAME(arguments, option=value)``: every row-wise function of ``pyarrow.compute``.

    Strings among the arguments are values, not columns. Unknown names are reported when the schema is known.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Callable[..., Expr]:
        if name.startswith("_"):
            raise AttributeError(name)

        def build(*arguments: Any, **options: Any) -> Expr:
            named = tuple(sorted((key, plain(value)) for key, value in options.items()))
            return Call(f"fn.{name}", tuple(as_expr(argument) for argument in arguments), named)

        build.__name__ = build.__qualname__ = name
        return build


fn = Functions()


def col(name: str) -> Expr:
    """The column called ``name``. Whether there is one is seen when the pipeline is planned.

    Errors: ``PlanError`` for other than a string.
    """
    if not isinstance(name, str):
        raise PlanError(f"a column is named by a string, not by {name!r}", 'write col("name")')
    return Column(name)


def lit(value: Any, type: TypeLike | None = None) -> Expr:
    """A constant: a Python value, a ``decimal.Decimal``, a date or time, or a pyarrow scalar.

    Without ``type`` it takes the narrowest exact type that suits what it meets: ``0.05`` beside a decimal is the decimal 0.05. Plain
    values in expressions become constants by themselves; this is for where there is none beside it, and for ``lit(None, "int64")``.
    """
    if isinstance(value, Expr):
        return value if type is None else value.cast(type)
    value = plain(value)
    value_bytes(value)  # refuses what has no canonical form, here, where the author can see it
    return Literal(value, None if type is None else TypeName(type))


def when(condition: Any) -> When:
    """``when(c).then(x).when(d).then(y).otherwise(z)``: the first true condition decides; null is not true.

    The branches get a type that holds them all. ``otherwise(None)`` gives null. An error in a branch counts only in rows that take it.
    """
    return When((), condition)


def as_expr(value: Any) -> Expr:
    """An expression as it is, any other value as a literal."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, (When, Then)):
        raise PlanError(
            "a when(...) without an end", "finish it with .then(...).otherwise(...); .otherwise(None) gives null"
        )
    return lit(value)


def as_column(value: Expr | str) -> Expr:
    """A string as the column of that name, an expression as it is."""
    return col(value) if isinstance(value, str) else as_expr(value)


def _call(name: str, *arguments: Any) -> Expr:
    return Call(name, tuple(as_expr(argument) for argument in arguments))


def _option_bytes(value: Any) -> bytes:
    return value.canonical() if isinstance(value, (ValueSet, TypeName)) else value_bytes(value)


def _print_inner(expr: Expr) -> str:
    infix = isinstance(expr, Call) and (expr.name in _INFIX or expr.name in ("negate", "invert"))
    return f"({expr})" if infix else str(expr)


def _print_value(value: Any) -> str:
    if is_arrow(value):
        return f"{value}"
    return _print_list(value) if isinstance(value, (list, tuple, set, frozenset)) else repr(value)


def _print_list(values: Iterable[Any]) -> str:
    items = list(values)
    shown = [_print_value(item) for item in items[:_LONGEST_PRINTED_LIST]]
    more = len(items) - len(shown)
    return f"[{', '.join(shown)}{f', … {more} more' if more else ''}]"
