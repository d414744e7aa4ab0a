"""A partition that there is no room for is reduced in pieces: as small as the slices are, with every group in one of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.engine import work
from etlkit.engine.planner import lower

ROWS = 40_000


@pytest.fixture
def src(tmp_path: Path) -> str:
    keys = pa.array(range(ROWS))
    pq.write_table(pa.table({"k": keys, "v": keys}), tmp_path / "in.parquet")
    return str(tmp_path / "in.parquet")


def test_smaller_slices_make_smaller_pieces_and_the_same_groups(src: str) -> None:
    grouped = ek.read_parquet(src).group_by("k").agg(v=ek.sum("v")).write_parquet(f"{src}.out")
    scan, stage = lower([grouped]).stages
    assert work.piece_bytes(stage, 65_536) == work.CUT_AGAIN_BYTES > work.piece_bytes(stage, 16_384)
    assert work.piece_bytes(stage, 1) == work.LEAST_PIECE_BYTES

    combiner, reducer = scan.output.combiner, stage.inputs[0].reducer  # type: ignore[union-attr]
    raw = combiner.prepare(pq.read_table(src).combine_chunks().to_batches()[0], 0)
    partials = combiner.fold(pa.Table.from_batches([raw])).to_batches()
    sides = [(ROWS, lambda: iter(partials))]
    cuts = [
        [batch for batch in reducer.reduce(cut) if batch.num_rows] for cut in work._cut_again(reducer, sides, 1 << 18)
    ]
    sizes = [sum(batch.num_rows for batch in cut) for cut in cuts]
    assert len(sizes) > 1 and max(sizes) < ROWS / 2
    keys = [key for cut in cuts for batch in cut for key in batch.column("k").to_pylist()]
    assert sorted(keys) == list(range(ROWS))


def test_an_authors_function_gets_the_same_batches_whatever_room_there_is(src: str) -> None:
    grouped = ek.read_parquet(src).group_by("k").agg(v=ek.sum("v")).map_batches(lambda batch: batch, version="1")
    stage = lower([grouped.write_parquet(f"{src}.out")]).stages[1]
    assert work.piece_bytes(stage, 1) == work.CUT_AGAIN_BYTES


def test_which_groups_a_limit_takes_does_not_depend_on_memory(src: str) -> None:
    grouped = ek.read_parquet(src).group_by("k").agg(v=ek.sum("v")).limit(5)
    stage = lower([grouped.write_parquet(f"{src}.out")]).stages[1]
    assert work.piece_bytes(stage, 1) == work.CUT_AGAIN_BYTES
