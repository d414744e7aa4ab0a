"""Which rows meet: three ways, one answer. Compared with two loops."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from etlkit.engine.matching import Matches


def looped(held: list[list[Any]], asked: list[list[Any]], keep_all: bool) -> list[tuple[int, int | None]]:
    pairs: list[tuple[int, int | None]] = []
    rows = list(zip(*held, strict=True))
    for mine, key in enumerate(zip(*asked, strict=True)):
        met = [at for at, row in enumerate(rows) if None not in key and row == key]
        pairs += [(mine, at) for at in met] or ([(mine, None)] if keep_all else [])
    return pairs


def day(number: int) -> dt.date:
    return dt.date(2020, 1, 1) + dt.timedelta(number)


CASES = {
    "a table": (pa.int64(), [[5, 3, None, 4, 9]], [[4, 4, 2, None, 10, -7, 9, 5]]),
    "a table of decimals": (pa.decimal128(9, 2), [[Decimal("1.50"), Decimal("1.25")]], [[Decimal("1.25"), None]]),
    "a table of days": (pa.date32(), [[day(3), day(1)]], [[day(1), day(2), day(3)]]),
    "far apart": (pa.int64(), [[2**62, -(2**62), None, 0]], [[0, 2**62, 1, None, -(2**62)]]),
    "beyond int64": (pa.uint64(), [[2**64 - 1, 0]], [[0, 2**63, 2**64 - 1]]),
    "texts": (pa.string(), [["b", None, "a", ""]], [["", "a", "c", None]]),
    "several times": (pa.int64(), [[1, 2, 1, None]], [[1, 3, 2, None, 1]]),
    "several times, with holes": (pa.int32(), [[7, 2, 7, 7, None, 2, 5]], [[2, 6, 7, None, 100, -1, 5, 7]]),
    "far apart, several times": (pa.int64(), [[2**62, 5, None, 2**62]], [[5, 2**62, 1, None, 2**62]]),
    "texts, several times": (pa.large_string(), [["b", None, "a", "b"]], [["b", "a", "c", None]]),
    "floats": (pa.float64(), [[1.5, None, 2.5, 1.5]], [[2.5, 1.5, 0.0, None]]),
    "decimals of 76 digits": (
        pa.decimal256(76, 2),
        [[Decimal("1.50"), Decimal("1.25")] * 2],
        [[Decimal("1.25"), None]],
    ),
    "two keys, with nulls": (pa.int64(), [[1, 1, None, 1], [7, None, 7, 7]], [[1, None, 1], [7, 7, None]]),
    "two keys": (pa.int64(), [[1, 1, 2], [7, 8, 7]], [[1, 2, 2], [8, 7, 8]]),
    "nothing held": (pa.int64(), [[]], [[1, None]]),
    "only nulls held": (pa.int64(), [[None, None]], [[1, None]]),
    "nothing asked": (pa.int64(), [[1]], [[]]),
}


@pytest.mark.parametrize("at_once", [1, 2, 1000])
@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_pairs_are_those_of_two_loops(case: str, keep_all: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etlkit.engine.matching.PAIRS_ROWS", at_once)
    kind, held, asked = CASES[case]
    met = Matches([pa.array(one, kind) for one in held]).meet([pa.array(one, kind) for one in asked])
    found: list[tuple[int, int | None]] = []
    for mine, theirs in met.pairs(keep_all=keep_all):
        numbers = list(range(len(asked[0]))) if mine is None else mine.to_pylist()
        found += zip(numbers, theirs.to_pylist(), strict=True)
    expected = looped(held, asked, keep_all)
    assert found == expected
    assert met.somebody.to_pylist() == [
        row in {mine for mine, at in expected if at is not None} for row in range(len(asked[0]))
    ]


def test_no_more_pairs_at_once_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etlkit.engine.matching.PAIRS_ROWS", 100)
    met = Matches([pa.array([7] * 40, pa.int64())]).meet([pa.array([7] * 40 + [1], pa.int64())])
    sizes = [len(theirs) for _, theirs in met.pairs(keep_all=True)]
    assert sum(sizes) == 40 * 40 + 1 and max(sizes) <= 100


def test_a_table_is_made_only_where_its_range_is_worth_it() -> None:
    assert Matches([pa.array(range(10_000), pa.int64())]).nbytes > 0
    assert Matches([pa.array(range(0, 10_000_000, 1000), pa.int64())]).nbytes == 0
    assert Matches([pa.array([0, 1] * 5000, pa.int64())]).quick
    assert not Matches([pa.array(range(0, 100_000_000, 1000), pa.int64())]).quick
