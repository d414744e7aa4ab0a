"""Every operator on every pair of types: it works, or it is a PlanError before a row is read. Nothing else."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal as D
from typing import Any

import pyarrow as pa
import pytest

from etlkit.errors import InputError, PlanError
from etlkit.plan.binding import bind
from etlkit.plan.expr import Expr, col, lit, when

BATCH = pa.record_batch(
    {
        "i8": pa.array([1, None], pa.int8()), "u64": pa.array([1, None], pa.uint64()), "f64": pa.array([1.0, None]),
        "f32": pa.array([1.0, None], pa.float32()), "f16": pa.array([1.0, None], pa.float32()).cast(pa.float16()),
        "d32": pa.array([D("1.5"), None], pa.decimal32(5, 2)), "d64": pa.array([D("1.5"), None], pa.decimal64(15, 2)),
        "d128": pa.array([D("1.5"), None], pa.decimal128(38, 10)), "d256": pa.array([D("1.5"), None], pa.decimal256(76, 38)),
        "b": pa.array([True, None]), "s": pa.array(["a", None]), "ls": pa.array(["a", None], pa.large_string()),
        "sv": pa.array(["a", None], pa.string_view()), "bv": pa.array([b"a", None], pa.binary_view()),
        "bin": pa.array([b"a", None]), "fsb": pa.array([b"a", None], pa.binary(1)), "date": pa.array([1, None], pa.date32()),
        "date64": pa.array([86400000, None], pa.date64()), "ts": pa.array([1, None], pa.timestamp("s")),
        "tz": pa.array([1, None], pa.timestamp("ns", "UTC")), "t32": pa.array([1, None], pa.time32("s")),
        "t64": pa.array([1, None], pa.time64("ns")), "dur": pa.array([1, None], pa.duration("s")), "null": pa.nulls(2),
        "list": pa.array([[1], None]), "struct": pa.array([{"a": 1}, None]),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
        "dict": pa.array(["a", None]).dictionary_encode(),
        "mdn": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    }
)  # fmt: skip
LITERALS: list[Any] = [
    1, -1, 10**30, 1.5, 1e300, math.nan, math.inf, D("1.5"), D(10) ** 50, D("NaN"), D("-Infinity"), True, None, "a",
    "2024-01-01", b"a", dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.timedelta(1), dt.time(1), [1], {"a": 1}, pa.scalar(1, pa.int8()),
]  # fmt: skip
BINARY: dict[str, Callable[[Any, Any], Expr]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "//": lambda a, b: a // b, "%": lambda a, b: a % b, "**": lambda a, b: a**b, "&": lambda a, b: a & b,
    "|": lambda a, b: a | b, "^": lambda a, b: a ^ b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b, ">=": lambda a, b: a >= b, "fill_null": lambda a, b: a.fill_null(b),
    "when": lambda a, b: when(col("b")).then(a).otherwise(b), "between": lambda a, b: a.between(b, b),
}  # fmt: skip
UNARY: list[Callable[[Expr], Expr]] = [lambda x: -x, abs, lambda x: ~x, Expr.is_null, Expr.is_not_null, Expr.is_nan]
TYPES = [
    "int8", "uint64", "float64", "decimal(10, 2)", "decimal256(50, 2)", "string", "bool", "date32", "timestamp[us]",
    "timestamp[us, tz=UTC]", "time64[us]", "duration[s]", "binary", "large_string",
]  # fmt: skip


def works(expr: Expr) -> bool:
    try:
        bound = bind(expr, BATCH.schema)
    except PlanError as error:
        assert error.remedy, error.message
        return False
    try:
        array = bound.evaluate(BATCH)
    except InputError as error:
        assert error.remedy, error.message
        return False
    assert array.type == bound.type
    assert len(array) == BATCH.num_rows
    array.validate(full=True)
    return True


@pytest.mark.parametrize("name", list(BINARY))
def test_every_pair_of_types(name: str) -> None:
    """Every second pair, a different half for each operator; all were tried once."""
    half = list(BINARY).index(name)
    names = BATCH.schema.names
    pairs = [(a, b) for at, a in enumerate(names) for to, b in enumerate(names) if (at + to + half) % 2 == 0 or a == b]
    assert sum(works(BINARY[name](col(a), col(b))) for a, b in pairs) > 0


@pytest.mark.parametrize("name", list(BINARY))
def test_every_type_with_every_literal(name: str) -> None:
    half = list(BINARY).index(name)
    pairs = [(a, v) for at, a in enumerate(BATCH.schema.names) for to, v in enumerate(LITERALS) if (at + to + half) % 2]
    assert sum(works(BINARY[name](col(a), v)) for a, v in pairs) > 0
    assert sum(works(BINARY[name](lit(v), col(a))) for a, v in pairs) > 0


def test_every_cast_every_unary_and_every_list() -> None:
    for name in BATCH.schema.names:
        for function in UNARY:
            works(function(col(name)))
        for kind in TYPES:
            works(col(name).cast(kind))
        for value in LITERALS:
            works(col(name).isin([value]))
        assert works(col(name).is_null())
    for value in LITERALS:
        for other in LITERALS[::3]:
            works(lit(value) + lit(other))
            works(lit(value) == lit(other))
