"""Whether the statistics of a row group exclude a predicate.

Covers columns whose statistics pyarrow gives in the type's own order: signed integers, decimals, doubles, strings, binary, dates,
booleans, timestamps down to microseconds. It errs towards reading: an unknown type, an odd value or a comparison between kinds
that cannot be made exactly keeps the row group. Whoever reads still filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..plan.predicates import predicate_bounds

if TYPE_CHECKING:
    from ..plan.expr import Expr

_SLACK = 1e-6
"""Between a float and an exact number: literals become exact types elsewhere, so nearly equal is not told apart here."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One part of a predicate, on one leaf of a file."""

    leaf: int
    floating: bool
    op: str
    value: Any


def bounds_of(
    predicate: Expr | None, schema: pa.Schema, leaves: Mapping[str, Sequence[tuple[int, pa.DataType]]]
) -> tuple[Bound, ...]:
    """What of ``predicate`` the statistics of this file can speak about. ``schema`` is the file's own."""
    if predicate is None:
        return ()
    found = []
    for column, op, value in predicate_bounds(predicate):
        if column in leaves and _ordered(kind := schema.field(column).type):
            found.append(Bound(leaves[column][0][0], pa.types.is_floating(kind), op, value))
    return tuple(found)


def excluded(metadata: Any, index: int, bounds: Sequence[Bound]) -> bool:
    """True if no row of the row group can fulfil all of ``bounds``."""
    if not bounds:
        return False
    group = metadata.row_group(index)
    return any(_excludes(group.column(bound.leaf).statistics, group.num_rows, bound) for bound in bounds)


@dataclass(frozen=True, slots=True)
class _One:
    """Statistics of a column that has one value in the whole file."""

    min: Any
    has_null_count: bool = True
    has_min_max: bool = True

    @property
    def max(self) -> Any:
        return self.min

    @property
    def null_count(self) -> int:
        return int(self.min is None)


def excluded_by_folder(predicate: Expr | None, constants: Mapping[str, pa.Scalar]) -> bool:
    """True if the values that a file's folders give it exclude ``predicate``."""
    if predicate is None or not constants:
        return False
    return any(
        _excludes(_One(constants[column].as_py()), 1, Bound(0, False, op, value))
        for column, op, value in predicate_bounds(predicate)
        if column in constants
    )


def _ordered(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_signed_integer(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_date(kind)
        or pa.types.is_boolean(kind)
        or (pa.types.is_timestamp(kind) and kind.unit != "ns")
    )


def _excludes(statistics: Any, rows: int, bound: Bound) -> bool:
    if statistics is None:
        return False
    nulls = statistics.null_count if statistics.has_null_count else None
    if bound.op == "is_null":
        return nulls == 0
    if nulls == rows:
        return True
    if bound.op == "is_not_null" or not statistics.has_min_max:
        return False
    try:
        low, high = statistics.min, statistics.max
        match bound.op:
            case "less":
                return not _below(low, bound.value, or_equal=False)
            case "less_equal":
                return not _below(low, bound.value, or_equal=True)
            case "greater":
                return not bound.floating and not _below(bound.value, high, or_equal=False)
            case "greater_equal":
                return not bound.floating and not _below(bound.value, high, or_equal=True)
            case "equal":
                return not _within(low, bound.value, high)
            case "is_in":
                return not any(_within(low, value, high) for value in bound.value)
    except (TypeError, ValueError, ArithmeticError):  # kinds without a common order, statistics cut inside a character
        pass
    return False


def _within(low: Any, value: Any, high: Any) -> bool:
    return _below(low, value, or_equal=True) and _below(value, high, or_equal=True)


def _below(left: Any, right: Any, *, or_equal: bool) -> bool:
    """Whether left < right (or equal) may be. Raises TypeError where the two are of different kinds."""
    if isinstance(left, bool) != isinstance(right, bool):
        raise TypeError
    numbers = (int, float, Decimal)
    if isinstance(left, numbers) and isinstance(right, numbers) and isinstance(left, float) != isinstance(right, float):
        first, second = float(left), float(right)
        return not first > second + _SLACK * max(abs(first), abs(second))
    return bool(left <= right if or_equal else left < right) or left != left or right != right
