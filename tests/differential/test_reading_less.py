"""What a plan need not read: rows after a limit, columns that nobody wants, row groups that a filter excludes."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.engine.ordering import find_boundaries
from etlkit.engine.planner import lower
from etlkit.engine.routing import ByRange, from_text, route, to_text
from etlkit.engine.stages import ScanInput

col = ek.col


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """40 files of 100 rows; ``k`` ascends over all of them."""
    for number in range(40):
        k = pa.array(range(number * 100, number * 100 + 100))
        at = pa.array([dt.datetime(2024, 1, 1) + dt.timedelta(days=number)] * 100)
        wide = pa.array([f"{'x' * 50}{number}"] * 100)
        pq.write_table(pa.table({"k": k, "at": at, "wide": wide, "v": k}), tmp_path / f"{number:02}.parquet")
    return tmp_path


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    from etlkit.engine import planner

    monkeypatch.setattr(planner, "EXCHANGE_SPLIT_BYTES", 1)
    monkeypatch.setattr(planner, "SINK_SPLIT_BYTES", 1)


def rows(out: Path) -> list[Any]:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("*.parquet"))).to_pylist()


def test_a_limit_stops_reading_once_the_first_splits_have_enough(table: Path, tmp_path: Path) -> None:
    made = ek.read_parquet(str(table)).select("k").limit(150).write_parquet(tmp_path / "out")
    done = ek.run(made, state=tmp_path / "state", workers=2)
    assert [row["k"] for row in rows(tmp_path / "out")] == list(range(150))
    assert done.rows_in < 1000, "of 4000"


def scans(pipeline: ek.Pipeline) -> list[ScanInput]:
    plan = lower([pipeline.write_parquet("nowhere")])
    return [one for stage in plan.stages for one in stage.inputs if isinstance(one, ScanInput)]


def columns(pipeline: ek.Pipeline) -> list[set[str]]:
    return [set(one.columns or one.source.schema.names) for one in scans(pipeline)]


def test_a_join_carries_only_its_keys_and_what_is_wanted_later(table: Path) -> None:
    """Which side is read first is another matter: one that may be held comes before the one that streams past it."""
    left, right = ek.read_parquet(str(table)), ek.read_parquet(str(table))
    joined = left.join(right, on="k")
    for pipeline, one, other in (
        (joined.select("v", "at_right"), {"k", "v"}, {"k", "at"}),
        (joined.filter(col("wide") > "a").agg(n=ek.count()), {"k", "wide"}, {"k"}),
        (left.join(right, on="k", how="semi"), {"k", "at", "wide", "v"}, {"k"}),
    ):
        found = columns(pipeline)
        assert len(found) == 2 and one in found and other in found


def test_a_sort_and_a_limit_carry_only_what_is_wanted_later(table: Path) -> None:
    everything = ek.read_parquet(str(table))
    assert columns(everything.sort("at").select("v")) == [{"at", "v"}]
    assert columns(everything.limit(9).select("v")) == [{"v"}]
    assert columns(everything.sort("at").limit(9).agg(n=ek.count())) == [{"at"}]


def test_an_aggregate_that_nobody_wants_is_not_computed(table: Path) -> None:
    grouped = ek.read_parquet(str(table)).group_by("k").agg(most=ek.max("wide"), n=ek.count(), sum=ek.sum("v"))
    assert columns(grouped.select("k", "sum")) == [{"k", "v"}]
    assert columns(ek.read_parquet(str(table)).distinct("k").select("at")) == [{"k", "at"}]


@pytest.mark.parametrize(
    "steps",
    [
        lambda p: p.filter(col("k") < 250),
        lambda p: p.with_columns(v=col("v") * 2, more=col("k") + 1).filter(col("k") < 250),
        lambda p: p.rename(k="key").select("key", twice=col("v") * 2).filter(col("key") < 250),
        lambda p: p.filter(col("v") % 2 == 0).drop("wide").filter(col("k") < 250),
        lambda p: p.select(k=col("v"), old=col("k")).filter((col("old") < 250) & (col("k") >= 0)),
    ],
)
def test_a_filter_on_a_column_that_was_only_passed_on_skips_row_groups(table: Path, steps: Any) -> None:
    (scan,) = scans(steps(ek.read_parquet(str(table))))
    assert len(scan.splits) == 3


@pytest.mark.parametrize(
    "steps",
    [
        lambda p: p.with_columns(k=col("k") - 3900).filter(col("k") < 50),
        lambda p: p.map_batches(lambda batch: batch).filter(col("k") < 250),
    ],
)
def test_a_filter_on_a_column_that_was_changed_skips_nothing(table: Path, steps: Any) -> None:
    (scan,) = scans(steps(ek.read_parquet(str(table))))
    assert len(scan.splits) == 40


@pytest.mark.parametrize("ways", [(False, False), (True, True)])
def test_ranges_of_a_sort_by_few_values_are_cut_by_the_next_key_and_the_position(ways: tuple[bool, bool]) -> None:
    batch = pa.record_batch({
        "few": pa.array([None, 1.5, math.nan, 1.5] * 1000), "none": pa.nulls(4000, pa.string()), "position": pa.array(range(4000)),
    })  # fmt: skip
    router = ByRange(ways)
    boundaries = from_text(to_text(find_boundaries(router.columns(batch), router.ways, 16)))
    pieces = route(batch, router.ids(batch, 16, boundaries), 16)
    assert [at for at, _ in pieces] == list(range(16))
    assert max(piece.num_rows for _, piece in pieces) < 400
    order = [row for _, piece in pieces for row in sorted(piece.to_pylist(), key=in_order)]
    assert [row["position"] for row in order] == [row["position"] for row in sorted(batch.to_pylist(), key=in_order)]


def in_order(row: dict[str, Any]) -> tuple[int, int]:
    few = row["few"]
    return (2 if few is None else 1 if math.isnan(few) else 0), row["position"]
