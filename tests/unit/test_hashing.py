"""The partition hash: recorded numbers, equal values, even spread, and cutting a batch."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal as D
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from etlkit.engine.hashing import partition_batch, partition_ids, row_hashes
from etlkit.errors import PlanError

NAN = float("nan")
INTEGERS = [0x0000000000000000, 0x17FB89EE9DCAB42A, 0x1F9B169DEF102DCA, 0xD9967F6419967F64, 0x200481DBAD2351AB]
STRINGS = [
    0x0000000000000000,
    0x9241B3094B0F69A1,
    0x259D5319974B0022,
    0x3C145AC2675CA0E0,
    0x31BEF0C556148169,
    0x200481DBAD2351AB,
]
DECIMALS = [0xEFC84B928F05B604, 0x8FD49BE548F360CC, 0x3C4A8CAFF5FA34B2]
FLOATS = [0x0000000000000000, 0x0000000000000000, 0xB4E69408036E9408, 0x8E7D136DF9F5136D]
OTHERS = [0x0C35C0DA33662F43, 0x17FB89EE9DCAB42A, 0x0000000000000000, 0x17C317A6749205FA, 0x84577A9D23A82098]
LEVEL_1 = [227, 166, 166, 13]


def hashes(values: list[Any], kind: pa.DataType) -> list[int]:
    return row_hashes([pa.array(values, kind)]).to_pylist()


def test_the_numbers_that_are_written_into_checkpoints() -> None:
    """These may only change together with the version of the state's format (ADR 0003)."""
    golden = {
        "int": (hashes([0, 1, -1, 2**62, None], pa.int64()), INTEGERS),
        "string": (hashes(["", "a", "12345678", "123456789", "é" * 70, None], pa.string()), STRINGS),
        "decimal": (hashes([D("1.25"), D("-1.25"), D(10**30)], pa.decimal128(38, 2)), DECIMALS),
        "float": (hashes([0.0, -0.0, 1.5, NAN], pa.float64()), FLOATS),
        "other": (
            hashes([dt.date(2024, 1, 31)], pa.date32())
            + hashes([True, False], pa.bool_())
            + hashes([b"ab"], pa.binary(2))
            + hashes([{"a": 1, "b": "x"}], pa.struct([("a", pa.int8()), ("b", pa.string())])),
            OTHERS,
        ),
    }
    for name, (found, expected) in golden.items():
        assert found == expected, f"{name}: {found}"
    two = [pa.array([1, 2, 3, None]), pa.array(["a", "bc", None, "x"])]
    assert partition_ids(two, 256).to_pylist() == [116, 39, 144, 76]
    assert partition_ids(two, 256, level=1).to_pylist() == LEVEL_1


def test_equal_values_hash_alike_whatever_their_type() -> None:
    numbers = [0, -1, 5, None, 127]
    kinds = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
    assert len({tuple(hashes(numbers, kind)) for kind in kinds}) == 1
    assert hashes([0, 5, None], pa.uint64()) == hashes([0, 5, None], pa.int8())
    money = [D("1.25"), D("-99999.99"), None, D(0)]
    kinds = [pa.decimal32(7, 2), pa.decimal64(15, 2), pa.decimal128(15, 2), pa.decimal128(38, 2), pa.decimal256(60, 2)]
    assert len({tuple(hashes(money, kind)) for kind in kinds}) == 1
    assert hashes([0.0, NAN, 1.5], pa.float64()) == hashes([-0.0, -NAN, 1.5], pa.float32())
    words = ["", "a", None, "längere Worte, mehr als acht Bytes", "x" * 500]
    array = pa.array(words)
    expected = row_hashes([array]).to_pylist()
    for other in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        assert row_hashes([array.cast(other)]).to_pylist() == expected
    assert row_hashes([array.dictionary_encode()]).to_pylist() == expected
    null_in_dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    assert row_hashes([null_in_dictionary]).to_pylist() == hashes(["a", None, None], pa.string())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.text(max_size=40) | st.text("ab", min_size=120, max_size=140), max_size=30), st.data())
def test_a_string_hashes_alike_wherever_it_lies(values: list[str | None], data: st.DataObject) -> None:
    array = pa.array(values, pa.string())
    whole = row_hashes([array]).to_pylist()
    start = data.draw(st.integers(0, len(values)))
    assert row_hashes([array.slice(start)]).to_pylist() == whole[start:]
    many = pa.concat_arrays([array] * 70)  # more than are hashed one by one
    assert row_hashes([many.slice(start)]).to_pylist()[: len(values)] == (whole[start:] + whole)[: len(values)]
    assert [hashes([value], pa.string())[0] for value in values] == whole
    assert len(set(whole)) == len(set(values))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.decimals(-(10**30), 10**30, places=4, allow_nan=False), max_size=20))
def test_wide_decimals_of_any_width(values: list[D | None]) -> None:
    narrow, wide = hashes(values, pa.decimal128(38, 4)), hashes(values, pa.decimal256(60, 4))
    assert narrow == wide
    # One number of 64 bits is null's own word: it shares a partition with null, and nothing else (ADR 3).
    assume(all(v is None or v != D(0x13198A2E03707344).scaleb(-4) for v in values))
    assert len(set(narrow)) == len({None if v is None else v + 0 for v in values})


def test_what_lies_under_a_null_does_not_matter() -> None:
    kept = pa.array([1, 2, 3])
    hidden = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\x05"), kept.buffers()[1]])
    assert row_hashes([hidden]).to_pylist() == hashes([1, None, 3], pa.int64())


@pytest.mark.parametrize(
    "column",
    [
        pa.array(range(100_000)),
        pa.array([n * 64 for n in range(100_000)]),
        pa.array([n << 32 for n in range(100_000)]),
        pa.array([f"customer-{n:09d}" for n in range(100_000)]),
        pa.array([n / 100 for n in range(100_000)]),
        pa.array([D(n * 100) for n in range(100_000)], pa.decimal128(15, 2)),
    ],
    ids=["sequence", "multiples", "high bits", "strings", "floats", "decimals"],
)
def test_regular_keys_spread_evenly_at_every_level(column: pa.Array) -> None:
    for level in (0, 1, 2):
        counts = pc.value_counts(partition_ids([column], 64, level)).field("counts").to_pylist()
        assert len(counts) == 64
        assert max(counts) < 1.2 * len(column) / 64
    one = column.filter(pc.equal(partition_ids([column], 16), 3))
    again = pc.value_counts(partition_ids([one], 16, 1)).field("counts").to_pylist()
    assert len(again) == 16
    assert max(again) < 1.3 * len(one) / 16


def test_the_order_of_columns_matters_and_nulls_in_either_are_told_apart() -> None:
    a, b = pa.array([1, None, 2]), pa.array([2, 1, None])
    assert row_hashes([a, b]).to_pylist() != row_hashes([b, a]).to_pylist()
    assert len(set(row_hashes([a, b]).to_pylist())) == 3


@pytest.mark.parametrize("partitions", [1, 2, 256, 512, 65536])
def test_ids_are_below_the_number_of_partitions(partitions: int) -> None:
    ids = partition_ids([pa.array(range(5000))], partitions)
    assert ids.type == (pa.uint8() if partitions <= 256 else pa.uint16())
    assert pc.max(ids).as_py() < partitions


def test_wrong_arguments() -> None:
    for partitions in (0, 3, 131072, -4):
        with pytest.raises(ValueError, match="power of two"):
            partition_ids([pa.array([1])], partitions)
    with pytest.raises(PlanError, match="key"):
        partition_ids([pa.array([[1]])], 4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.integers(-50, 50), max_size=200), st.sampled_from([1, 4, 256]))
def test_a_batch_is_cut_into_its_partitions_in_order(values: list[int | None], partitions: int) -> None:
    batch = pa.record_batch({"k": pa.array(values, pa.int64()), "row": pa.array(range(len(values)), pa.int64())})
    ids = partition_ids([batch["k"]], partitions)
    cut = partition_batch(batch, ids, partitions)
    assert [partition for partition, _ in cut] == sorted(set(ids.to_pylist()))
    expected: dict[int, list[int]] = {}
    for row, partition in enumerate(ids.to_pylist()):
        expected.setdefault(partition, []).append(row)
    assert {partition: piece["row"].to_pylist() for partition, piece in cut} == expected


def test_rows_of_nested_columns_travel_too() -> None:
    batch = pa.record_batch(
        {"k": pa.array([1, 2, 1]), "l": pa.array([[1], None, [2, 3]]), "s": pa.array(["a", "b", None])}
    )
    cut = partition_batch(batch, partition_ids([batch["k"]], 64), 64)
    assert sorted(str(row) for _, piece in cut for row in piece.to_pylist()) == sorted(
        str(r) for r in batch.to_pylist()
    )
