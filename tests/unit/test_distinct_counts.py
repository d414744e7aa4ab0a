"""count_distinct as two groupings: the same rows and types as when the values are a group's state, and which plan is made."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.engine.extent import rounds as rounds_of_stages
from etlkit.engine.planner import lower
from etlkit.plan.rounds import rounds

NAN = float("nan")
ROWS = pa.table({
    "k": ["a", "b", None, "a", "a", "b", "a"],
    "x": [0.0, NAN, None, NAN, NAN, None, -0.0],
    "_q": [-(2**62), 2**62, -(2**62), 2**62, 2**62, None, 1],  # the values of one x go beyond int64, no group does
    "m": [True, None, False, True, None, None, True],
    "s": pa.array(["u", "v", "u", None, "u", "w", "w"]).dictionary_encode(),
    "d": [Decimal("1.10"), Decimal(2), None, None, Decimal(5), Decimal(6), Decimal(7)],
})  # fmt: skip
AGGREGATES = {
    "n": ek.count_distinct("x"), "again": ek.count_distinct("x"), "c": ek.count(), "cs": ek.count("s"), "q": ek.sum("_q"),
    "lo": ek.min("s"), "hi": ek.max("x"), "a": ek.all("m"), "o": ek.any("m"), "b": ek.sum("m"), "d": ek.sum("d"), "f": ek.sum("x"),
}  # fmt: skip


def groupings(pipeline: ek.Pipeline, out: Path) -> int:
    return sum(stage.kind.endswith("group") for stage in lower([pipeline.write_parquet(out)]).stages)


@pytest.mark.parametrize("keys", [("k",), (), ("k", "s")], ids=repr)
@pytest.mark.parametrize("rows", [ROWS, ROWS.slice(0, 0)], ids=["rows", "none"])
def test_both_ways_are_one(keys: tuple[str, ...], rows: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows, tmp_path / "in.parquet", row_group_size=2)
    grouped = ek.read_parquet(tmp_path / "in.parquet").group_by(*keys)
    ways = {"exchange": grouped.agg(**AGGREGATES), "state": grouped.agg(**AGGREGATES, z=ek.first("s")).drop("z")}
    found = {}
    for at, (name, pipeline) in enumerate(ways.items()):
        assert groupings(pipeline, tmp_path / "none") == 2 - at
        ek.run(pipeline.write_parquet(tmp_path / name), state=tmp_path / f"{name}-state")
        table = pq.read_table(tmp_path / name)
        found[name] = (table.schema, sorted(map(repr, table.to_pylist())))
    assert found["exchange"] == found["state"]
    assert len(found["state"][1]) == (rows.num_rows and {0: 1, 1: 3, 2: 6}[len(keys)]) or not keys


def test_a_whole_sum_beyond_its_type_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3], "v": [2**62, 2**62, 2**62]}), tmp_path / "in.parquet")
    pipeline = ek.read_parquet(tmp_path / "in.parquet").agg(n=ek.count_distinct("x"), total=ek.sum("v"))
    with pytest.raises(ek.InputError, match="total"):
        ek.run(pipeline.write_parquet(tmp_path / "out"), state=tmp_path / "state")


@pytest.mark.parametrize("other", [ek.count_distinct("s"), ek.mean("_q"), ek.quantile("x")], ids=str)
def test_what_does_not_fold_keeps_the_values_as_a_state(other: ek.Aggregate, tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "in.parquet")
    pipeline = ek.read_parquet(tmp_path / "in.parquet").group_by("k").agg(n=ek.count_distinct("x"), other=other)
    assert groupings(pipeline, tmp_path / "out") == 1


@pytest.mark.parametrize("more", [{"n": ek.sum("v")}, {"n": ek.mean("v")}], ids=["cut in two", "one grouping"])
def test_a_fan_out_has_the_rounds_that_the_stages_have(more: dict[str, ek.Aggregate], tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": [1, 2], "v": [3, 4]}), tmp_path / "in.parquet")
    grouped = ek.read_parquet(tmp_path / "in.parquet").group_by("k").agg(d=ek.count_distinct("v"), **more)
    pipelines = [grouped.write_parquet(tmp_path / "out")]
    assert (
        rounds(pipelines) == 1 + max(rounds_of_stages(lower(pipelines).stages)) == (3 if "sum" in str(more["n"]) else 2)
    )
