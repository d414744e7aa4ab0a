"""Packed rows mean what they meant, whatever widths meet; and one number a row sorts as the rows do."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from etlkit.engine import ordering
from etlkit.engine.packing import packed, together, unpacked_batch

SCHEMA = pa.schema(
    {
        "i": pa.int64(),
        "small": pa.int8(),
        "u": pa.uint64(),
        "d": pa.date32(),
        "t": pa.timestamp("us", "Europe/Berlin"),
        "n": pa.decimal128(15, 2),
        "wide": pa.decimal128(30, 2),
        "f": pa.float64(),
        "s": pa.string(),
        "c": pa.dictionary(pa.int32(), pa.string()),
    }
)


def batch(size: int, words: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([size, -size - 1, None], pa.int64()),
            pa.array([127, -128, None], pa.int8()),
            pa.array([size, None, 0], pa.uint64()),
            pa.array([dt.date(1970, 1, 1) + dt.timedelta(min(size, 100_000)), None, dt.date(1969, 1, 1)], pa.date32()),
            pa.array([size, -size, None], pa.int64()).view(SCHEMA.field("t").type),
            pa.array([Decimal(min(size, 10**15 - 1)).scaleb(-2), None, Decimal("-1.28")], pa.decimal128(15, 2)),
            pa.array([Decimal(size) * 10**8, None, Decimal(1)], pa.decimal128(30, 2)),
            pa.array([1.5, None, float(size)]),
            pa.array(["a", None, "bcd"]),
            pa.array([words[0], None, words[-1]]).dictionary_encode(),
        ],
        schema=SCHEMA,
    )


SIZES = (0, 127, 128, 32767, 32768, 2**31 - 1, 2**31, 2**62)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_packed_is_what_was_there(size: int) -> None:
    before = batch(size, ["x", "y"])
    after = packed(before)
    assert unpacked_batch(after, SCHEMA).equals(before)
    assert unpacked_batch(packed(before.slice(1)), SCHEMA).equals(before.slice(1))
    if size < 128:
        assert after.schema.field("i").type == after.schema.field("n").type == pa.int8()
        assert after.schema.field("c").type.index_type == pa.int8()


@pytest.mark.parametrize("size", SIZES)
def test_batches_of_any_widths_come_together(size: int) -> None:
    several = [batch(0, ["x"]), batch(size, ["y", "x"]), batch(2**62, [str(one) for one in range(300)])]
    mixed = together([packed(several[0]), several[1], packed(several[2])], SCHEMA)
    found = unpacked_batch(mixed, SCHEMA)
    plain = SCHEMA.set(9, pa.field("c", pa.string()))
    assert (
        pa.Table.from_batches([found]).cast(plain).equals(pa.Table.from_batches(several).cast(plain).combine_chunks())
    )
    assert together([], SCHEMA).schema.equals(SCHEMA)


def test_dictionaries_of_other_files_do_not_overflow_a_narrow_index() -> None:
    several = [
        pa.record_batch({"c": pa.array([f"{part}-{one}" for one in range(100)]).dictionary_encode()})
        for part in range(4)
    ]
    schema = several[0].schema
    whole = together([packed(one) for one in several], schema)
    assert unpacked_batch(whole, schema).to_pylist() == [row for one in several for row in one.to_pylist()]


@pytest.mark.parametrize("rows", [3, 5000])
def test_one_number_a_row_sorts_as_the_rows_do(rows: int) -> None:
    random_ = random.Random(7)
    columns = [
        pa.array([random_.choice([None, -5, 0, 3]) for _ in range(rows)], pa.int64()),
        pa.array([random_.choice([None, Decimal("-1.50"), Decimal("2.25")]) for _ in range(rows)], pa.decimal128(9, 2)),
        pa.array([dt.date(2020, 1, 1) + dt.timedelta(random_.randrange(3000)) for _ in range(rows)]),
        pa.array(random_.sample(range(10**9), rows), pa.int64()),
    ]
    for descending in ((False,) * 4, (True, False, True, False), (True,) * 4):
        number = ordering._as_one_number(columns, descending)
        assert number is not None
        ways = ["descending" if down else "ascending" for down in descending]
        expected = pc.sort_indices(
            pa.table(columns, names=list("abcd")),
            sort_keys=[(name, way, "at_end") for name, way in zip("abcd", ways, strict=True)],
        )
        assert ordering.order_of(columns, descending).to_pylist() == expected.to_pylist()


def test_keys_too_wide_for_one_number_are_compared() -> None:
    columns = [pa.array([2**62, -(2**62), None, 0] * 500), pa.array(range(2000))]
    assert ordering._as_one_number(columns, (False, False)) is None
    order = ordering.order_of(columns, (True, False))
    assert order.to_pylist()[:1] == [0] and order.to_pylist()[-1] == 1998
