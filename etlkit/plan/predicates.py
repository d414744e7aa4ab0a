"""What a filter says about single columns: the bounds by which a reader may skip row groups.

Covers the conjunction of simple comparisons. It says nothing about any other predicate, which is always right: whoever
reads still filters.
"""

from __future__ import annotations

from typing import Any

from .canonical import is_arrow
from .expr import Call, Column, Expr, Literal, ValueSet

_MIRRORED = {
    "equal": "equal",
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}


def predicate_bounds(expr: Expr) -> list[tuple[str, str, Any]]:
    """``(column, op, value)`` for each part of ``expr`` that every kept row fulfils.

    ``op`` is ``equal``, ``less``, ``less_equal``, ``greater``, ``greater_equal`` (with a Python value), ``is_in`` (a
    tuple of Python values, without None), ``is_null`` or ``is_not_null`` (None). Null fulfils no comparison.

    NaN is greater than every number, and Parquet statistics leave it out: for a floating column ``greater`` and
    ``greater_equal`` say nothing about a row group's maximum.
    """
    found: list[tuple[str, str, Any]] = []
    pending = [expr]
    while pending:
        part = pending.pop()
        if not isinstance(part, Call):
            continue
        if part.name == "and":
            pending.extend(reversed(part.arguments))
        elif part.name == "between":
            value, low, high = part.arguments
            pending.extend((Call("less_equal", (value, high)), Call("greater_equal", (value, low))))
        elif part.name in _MIRRORED:
            left, right = part.arguments
            if isinstance(left, Column) and _usable(right):
                found.append((left.name, part.name, _value(right)))
            elif isinstance(right, Column) and _usable(left):
                found.append((right.name, _MIRRORED[part.name], _value(left)))
        elif part.name in ("is_null", "is_not_null") and isinstance(part.arguments[0], Column):
            found.append((part.arguments[0].name, part.name, None))
        elif part.name == "is_in" and isinstance(part.arguments[0], Column):
            values = dict(part.options)["values"]
            assert isinstance(values, ValueSet)
            plain = tuple(value.as_py() if is_arrow(value) else value for value in values.values)
            if all(value is not None and value == value for value in plain):
                found.append((part.arguments[0].name, "is_in", plain))
    return found


def _usable(side: Expr) -> bool:
    if not isinstance(side, Literal) or side.type is not None:
        return False
    value = _value(side)
    return value is not None and value == value and not isinstance(value, (list, tuple, dict))


def _value(side: Expr) -> Any:
    assert isinstance(side, Literal)
    return side.value.as_py() if is_arrow(side.value) else side.value
