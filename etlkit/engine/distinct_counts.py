"""``count_distinct`` as two groupings: by keys and value, then a count of the values of each key.

Kept as one state a group, a group's different values must fit into memory at once; as rows of an exchange on key and value they are
cut into partitions and spilled like any other. It covers one counted expression, beside aggregates whose parts fold to the exact
whole. For others (first, stddev, quantile, the mean of integers, a second expression) it says None, and the values stay a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ..lazyclass import dataclass
from ..plan import aggregates as ek
from ..plan.aggregates import Aggregate
from ..plan.expr import Expr, col

Columns = tuple[tuple[str, Expr], ...]
_EXACT_SUM = pa.decimal128(38, 0)
"""Sums of integers in between: a part may be beyond int64 when the whole is not."""


@dataclass(frozen=True, slots=True)
class TwoGroupings:
    """What to project, group by, aggregate, group again and project, in this order."""

    below: Columns
    value: str
    parts: dict[str, Aggregate]
    wholes: dict[str, Aggregate]
    result: Columns


def two_groupings(
    keys: Sequence[str], aggregates: Mapping[str, Aggregate], inputs: Mapping[str, pa.DataType], schema: pa.Schema
) -> TwoGroupings | None:
    """``inputs``: the type of each aggregate's input; ``schema``: of the result. None: keep the values as a state."""
    if not ek.counted_apart(aggregates):
        return None
    prefix = _unused([*keys, *aggregates])
    value = f"{prefix}x"
    below: dict[str, Expr] = {key: col(key) for key in keys}
    parts: dict[str, Aggregate] = {}
    wholes: dict[str, Aggregate] = {}
    result: dict[str, Expr] = {key: col(key) for key in keys}
    for at, (name, one) in enumerate(aggregates.items()):
        part, given = f"{prefix}p{at}", f"{prefix}i{at}"
        whole: Expr = col(name)
        if one.kind == "count_distinct":
            assert one.input is not None
            below[value] = one.input
            wholes[name] = ek.count(value)
        elif one.kind == "count":
            if one.input is not None:
                below[given] = one.input
            parts[part] = ek.count(None if one.input is None else given)
            wholes[name] = ek.sum(part)
            whole = whole.fill_null(0)
        elif one.kind != "sum":
            assert one.input is not None
            below[given] = one.input
            parts[part], wholes[name] = Aggregate(one.kind, col(given)), Aggregate(one.kind, col(part))
        else:
            assert one.input is not None
            exact = pa.types.is_integer(inputs[name])
            below[given] = one.input.cast(_EXACT_SUM) if exact else one.input
            parts[part], wholes[name] = ek.sum(given), ek.sum(part)
            whole = whole.cast(schema.field(name).type) if exact else whole
        result[name] = whole
    return TwoGroupings(tuple(below.items()), value, parts, wholes, tuple(result.items()))


def _unused(names: Sequence[str]) -> str:
    """A beginning that no name has."""
    prefix = "_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix
