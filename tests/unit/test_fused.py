"""A scan that ends in a group-by, as one program: the groups are those of going step by step, whatever is in the rows."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.engine.fused import Fused, Kept
from etlkit.engine.packing import together
from etlkit.engine.planner import lower
from etlkit.io import parquet_short

ROWS = 1000


@pytest.fixture(autouse=True, params=["short", "long"])
def _decimals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a file so small come in 16 bytes otherwise."""
    monkeypatch.setattr(parquet_short, "LEAST_ROWS", 0 if request.param == "short" else ROWS + 1)


def table(**more: pa.Array) -> pa.Table:
    price = [Decimal(n * 7 % 9999) / 100 if n % 13 else None for n in range(ROWS)]
    return pa.table(
        {
            "k": pa.array([n % 5 if n % 7 else None for n in range(ROWS)], pa.int64()),
            "g": pa.array(["ab"[n % 2] for n in range(ROWS)]),
            "price": pa.array(price, pa.decimal128(15, 2)),
            "off": pa.array([Decimal(n % 10) / 100 for n in range(ROWS)], pa.decimal128(15, 2)),
            "n": pa.array(range(-5, ROWS - 5), pa.int64()),
            **more,
        }
    )


def scan(tmp_path, rows: pa.Table, steps) -> tuple[Fused, pa.RecordBatch]:
    pq.write_table(rows, tmp_path / "in.parquet")
    plan = lower([steps(ek.read_parquet(str(tmp_path / "in.parquet"))).write_parquet(str(tmp_path / "out"))])
    one = plan.stages[0].inputs[0]
    assert one.fused is not None
    (batch,) = one.source.read(one.splits[0], one.columns, None, ROWS)
    return one.fused, batch


def groups(fused: Fused, kept: Kept) -> list[dict[str, object]]:
    batch = together([kept.batch], fused.plan.raw_schema)
    raw = pa.Table.from_batches([batch if kept.mask is None else batch.filter(kept.mask)])
    assert raw.num_rows == kept.rows
    partial = fused.plan.fold(raw)
    found = fused.plan.final(fused.plan.merge(pa.concat_tables([partial, partial]))).to_pylist()
    return sorted(found, key=repr)


def revenue(p: ek.Pipeline) -> ek.Pipeline:
    return p.with_columns(revenue=ek.col("price") * (1 - ek.col("off")))


AGGREGATES = {
    "total": ek.sum("revenue"),
    "most": ek.max("revenue"),
    "mean": ek.mean("price"),
    "lines": ek.count(),
    "priced": ek.count("price"),
    "kinds": ek.count_distinct("revenue"),
    "head": ek.first("n"),
}
STEPS = {
    "no filter": lambda p: revenue(p).group_by("k").agg(**AGGREGATES),
    "keeps most": lambda p: revenue(p.filter(ek.col("price") < 90)).group_by("k", "g").agg(**AGGREGATES),
    "keeps few": lambda p: revenue(p.filter(ek.col("price") < 9)).group_by("k").agg(**AGGREGATES),
    "filter of what is computed": lambda p: revenue(p).filter(ek.col("revenue") > 50).group_by("g").agg(**AGGREGATES),
    "names that change": lambda p: (
        revenue(p.rename({"k": "key", "n": "k"}).rename({"k": "n"}).filter(ek.col("n") > 9))
        .group_by("key")
        .agg(**AGGREGATES)
    ),
    "no key": lambda p: revenue(p).group_by().agg(**AGGREGATES),
    "sum alone": lambda p: revenue(p).group_by("k").agg(total=ek.sum("revenue"), least=ek.min("revenue")),
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_groups_are_those_of_going_step_by_step(tmp_path, steps) -> None:
    fused, batch = scan(tmp_path, table(), steps)
    at_once = fused._at_once(batch, 0, set())
    assert groups(fused, at_once) == groups(fused, fused._step_by_step(batch, 0))


def test_decimals_that_fit_travel_in_32_bits(tmp_path) -> None:
    fused, batch = scan(tmp_path, table(), STEPS["sum alone"])
    assert set(fused.apply(batch, 0, set()).batch.schema.types) == {pa.int32()}


def test_only_decimals_that_are_read_as_whole_numbers_come_short(tmp_path) -> None:
    fused, batch = scan(tmp_path, table(), lambda p: STEPS["sum alone"](p.filter(ek.col("price") < 9)))
    assert fused.short == {"price", "off"}
    short = parquet_short.LEAST_ROWS == 0
    assert batch.schema.field("off").type == (pa.decimal64(15, 2) if short else pa.decimal128(15, 2))
    for other in (
        ek.when(ek.col("price") > 1).then(ek.col("off")).otherwise(None),
        ek.col("off") / 3,
        ek.fn.abs(ek.col("off")),
    ):
        fused, batch = scan(
            tmp_path,
            table(),
            lambda p, other=other: p.filter(ek.col("price") > 9).with_columns(o=other).group_by("k").agg(o=ek.max("o")),
        )
        assert "off" not in fused.short
        assert batch.schema.field("off").type == pa.decimal128(15, 2)
        assert groups(fused, fused._at_once(batch, 0, set())) == groups(fused, fused._step_by_step(batch, 0))


def test_a_filter_guards_what_comes_after_it(tmp_path) -> None:
    fused, batch = scan(
        tmp_path,
        table(),
        lambda p: p.filter(ek.col("n") != 0).with_columns(q=1000 // ek.col("n")).group_by("k").agg(q=ek.sum("q")),
    )
    with pytest.raises(pa.ArrowInvalid):
        fused._at_once(batch, 0, set())
    assert fused.apply(batch, 0, set()).rows == ROWS - 1


def test_what_leaves_int64_is_summed_as_decimals(tmp_path) -> None:
    large = pa.array([Decimal(10**18 - 1 - n) for n in range(ROWS)], pa.decimal128(18, 0))
    fused, batch = scan(
        tmp_path,
        table(large=large),
        lambda p: (
            p.with_columns(x=ek.col("large") * 7, y=ek.col("large") * 100)
            .group_by("g")
            .agg(x=ek.sum("x"), y=ek.sum("y"))
        ),
    )
    found = groups(fused, fused.apply(batch, 0, set()))
    assert found == groups(fused, fused._step_by_step(batch, 0))
    assert sum(one["x"] for one in found) == 2 * 7 * sum(10**18 - 1 - n for n in range(ROWS))  # type: ignore[misc]


def test_batches_in_different_widths_meet(tmp_path) -> None:
    wide = pa.array([2**40 if n == 700 else n for n in range(ROWS)], pa.int64())
    fused, batch = scan(tmp_path, table(w=wide), lambda p: p.group_by("k").agg(w=ek.sum("w"), most=ek.max("w")))
    seen: set[int] = set()
    pieces = [fused.apply(batch.slice(at, 500), at, seen).batch for at in (0, 500)]
    assert [piece.schema.types[1] for piece in pieces] == [pa.int32(), pa.int64()]
    whole = fused._step_by_step(batch, 0)
    both = Kept(together(pieces, fused.plan.raw_schema), None, ROWS)
    assert groups(fused, both) == groups(fused, whole)


def test_an_author_function_is_not_fused(tmp_path) -> None:
    pq.write_table(table(), tmp_path / "in.parquet")
    p = (
        ek.read_parquet(str(tmp_path / "in.parquet"))
        .map_batches(lambda batch: batch, version="1")
        .group_by("k")
        .agg(n=ek.count())
    )
    assert lower([p.write_parquet(str(tmp_path / "out"))]).stages[0].inputs[0].fused is None
