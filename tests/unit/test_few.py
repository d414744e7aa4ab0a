"""Grouping by a few dictionary keys gives what pyarrow's hash table gives, nulls in keys and values included."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

import etlkit as ek
from etlkit.engine import aggregate
from etlkit.engine.aggregate import plan_aggregates
from etlkit.engine.few import MOST_GROUPS, group_few

ROWS = 3000


def batch() -> pa.RecordBatch:
    def some(values: list[object], step: int) -> list[object]:
        return [values[n * step % 7919 % len(values)] for n in range(ROWS)]

    return pa.record_batch(
        {
            "a": pa.array(some(["x", "y", None], 31)).dictionary_encode(),
            "b": pa.array(some(["p", "q", "r"], 17)).dictionary_encode(),
            "i": pa.array(some([None, *range(9)], 13), pa.int64()),
            "d": pa.array([Decimal(n * 977 % 10**6) / 100 for n in range(ROWS)], pa.decimal128(30, 2)),
            "f": pa.array([n * 0.5 for n in range(ROWS)]),
            "t": pa.array([n * 10**6 for n in range(ROWS)], pa.timestamp("us")),
            "o": pa.array(some([True, False, None], 11)),
        }
    )


AGGREGATES = {
    "s": ek.sum("i"), "m": ek.mean("d"), "c": ek.count("i"), "n": ek.count(), "lo": ek.min("t"), "hi": ek.max("f"),
    "an": ek.any("o"), "al": ek.all("o"), "sf": ek.sum("f"), "sd": ek.sum("d"), "st": ek.max("i"), "ss": ek.min("i"),
}  # fmt: skip


def test_groups_are_those_of_the_hash_table(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_aggregates(["a", "b"], AGGREGATES, batch().schema)
    raw = pa.Table.from_batches([plan.prepare(batch())])
    assert group_few([raw["k0"].chunk(0), raw["k1"].chunk(0)], []) is not None
    short = sorted(plan.fold(raw).to_pylist(), key=repr)
    monkeypatch.setattr(aggregate, "group_few", lambda *_: None)
    assert short == sorted(plan.fold(raw).to_pylist(), key=repr)
    assert len(short) == 9


def test_many_keys_and_other_aggregates_are_left_to_the_hash_table() -> None:
    many = pa.array([str(n % (MOST_GROUPS + 1)) for n in range(ROWS)]).dictionary_encode()
    assert group_few([many], []) is None
    assert group_few([pa.array(range(4))], []) is None
