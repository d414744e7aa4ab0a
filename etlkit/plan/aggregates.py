"""Aggregates as the author writes them: ``sum("x")``, ``count()``, ``quantile("x", 0.5)``.

Covers what is asked for and its identity. How it is computed, in parts that can be merged, is in
``engine/aggregate.py``; the result types are the table of ADR 0002. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import PlanError
from .canonical import tagged, value_bytes
from .expr import Expr, as_column

KINDS = (
    "sum", "mean", "min", "max", "count", "count_distinct", "first", "last", "any", "all",
    "stddev", "variance", "quantile",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """One aggregate. ``input`` is None only for ``count()``, the number of rows. ``options`` are sorted by name."""

    kind: str
    input: Expr | None
    options: tuple[tuple[str, Any], ...] = ()

    def canonical(self) -> bytes:
        """Bytes that are equal exactly for equal aggregates."""
        options = [value_bytes(key) + value_bytes(value) for key, value in self.options]
        return tagged(b"G", self.kind.encode(), b"" if self.input is None else self.input.canonical(), *options)

    def columns(self) -> frozenset[str]:
        return frozenset() if self.input is None else self.input.columns()

    def substitute(self, columns: Mapping[str, Expr]) -> Aggregate:
        """The same aggregate with the named columns replaced by expressions."""
        return self if self.input is None else Aggregate(self.kind, self.input.substitute(columns), self.options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Aggregate) and self.canonical() == other.canonical()

    def __hash__(self) -> int:
        return hash(self.canonical())

    def __str__(self) -> str:
        shown = ["" if self.input is None else str(self.input), *(f"{key}={value!r}" for key, value in self.options)]
        return f"{self.kind}({', '.join(part for part in shown if part)})"


PARTED = ("count", "sum", "min", "max", "any", "all")
"""Aggregates whose parts fold to the exact whole."""


def counted_apart(aggregates: Mapping[str, Aggregate]) -> bool:
    """Whether the group-by is done as two: by keys and value, then by keys. One counted expression, beside what is ``PARTED``."""
    counted = {
        one.input.canonical() for one in aggregates.values() if one.kind == "count_distinct" and one.input is not None
    }
    return len(counted) == 1 and {one.kind for one in aggregates.values()} <= {"count_distinct", *PARTED}


def sum(x: Expr | str) -> Aggregate:
    """The sum of the values that are not null; null if there is none.

    Of signed integers and booleans int64, of unsigned ones uint64, of decimals ``decimal(38, s)``: exact, and an ``InputError`` beyond
    it. Of floats float64; the last digits may differ from run to run.
    """
    return Aggregate("sum", as_column(x))


def mean(x: Expr | str) -> Aggregate:
    """The mean of the values that are not null, as float64; null if there is none.

    Of integers and decimals: the exact sum, divided once.
    """
    return Aggregate("mean", as_column(x))


def min(x: Expr | str) -> Aggregate:
    """The smallest value that is not null, in its own type; null if there is none. NaN is greater than every number."""
    return Aggregate("min", as_column(x))


def max(x: Expr | str) -> Aggregate:
    """The greatest value that is not null, in its own type; null if there is none. NaN is greater than every number."""
    return Aggregate("max", as_column(x))


def count(x: Expr | str | None = None) -> Aggregate:
    """``count()``: the number of rows. ``count("x")``: the number of values that are not null. int64, never null."""
    return Aggregate("count", None if x is None else as_column(x))


def count_distinct(x: Expr | str) -> Aggregate:
    """The exact number of different values that are not null, as int64. NaN is one value.

    It is an exchange on key and value, so memory does not grow with them. Beside a ``count_distinct`` of something else, or a
    ``mean``, ``first``, ``last``, ``stddev``, ``variance`` or ``quantile``, the different values of a group are kept in memory.
    """
    return Aggregate("count_distinct", as_column(x))


def first(x: Expr | str) -> Aggregate:
    """The value of the first row by input position, null if it is null there."""
    return Aggregate("first", as_column(x))


def last(x: Expr | str) -> Aggregate:
    """The value of the last row by input position, null if it is null there."""
    return Aggregate("last", as_column(x))


def any(x: Expr | str) -> Aggregate:
    """Whether one of the values is true. Nulls are skipped; null if there is no value.

    Errors: ``PlanError`` for other than booleans.
    """
    return Aggregate("any", as_column(x))


def all(x: Expr | str) -> Aggregate:
    """Whether every value is true. Nulls are skipped; null if there is no value. Errors: as ``any``."""
    return Aggregate("all", as_column(x))


def stddev(x: Expr | str, ddof: int = 1) -> Aggregate:
    """The standard deviation, as float64; of a sample by default (``ddof=1``), of a population with ``ddof=0``.

    Null for fewer than ``ddof + 1`` values. Errors: ``PlanError`` for a ``ddof`` that is no whole number from 0.
    """
    return Aggregate("stddev", as_column(x), (("ddof", _ddof(ddof)),))


def variance(x: Expr | str, ddof: int = 1) -> Aggregate:
    """The variance, as float64; of a sample by default (``ddof=1``), of a population with ``ddof=0``. Else as ``stddev``."""
    return Aggregate("variance", as_column(x), (("ddof", _ddof(ddof)),))


def quantile(x: Expr | str, q: float = 0.5) -> Aggregate:
    """The exact quantile, as float64, with linear interpolation; ``q`` from 0 to 1, 0.5 is the median.

    It keeps every value of a group: memory grows with the rows. Errors: ``PlanError`` for another ``q``.
    """
    if isinstance(q, bool) or not isinstance(q, (int, float)) or not 0 <= q <= 1:
        raise PlanError(f"quantile needs q between 0 and 1, not {q!r}", "0.5 is the median")
    return Aggregate("quantile", as_column(x), (("q", float(q)),))


def _ddof(ddof: int) -> int:
    if isinstance(ddof, bool) or not isinstance(ddof, int) or ddof < 0:
        raise PlanError(f"ddof must be a whole number from 0, not {ddof!r}", "1 for a sample, 0 for a population")
    return ddof
