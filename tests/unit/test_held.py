"""A join that holds its right side, and lets it go in the middle: no row twice, none missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.checkpoint import StateDir, open_store
from etlkit.engine import held, planner, splits
from etlkit.engine.join import JoinReducer
from etlkit.engine.planner import lower
from etlkit.runtime.api import run

ROWS, EACH = 4000, 500


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, name in ((planner, "EXCHANGE_SPLIT_BYTES"), (planner, "SINK_SPLIT_BYTES"), (splits, "PROBE_SPLIT_BYTES")):
        monkeypatch.setattr(room, name, 3000)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    lines = pa.table({"k": [row * 7 % 900 for row in range(ROWS)], "n": list(range(ROWS))})
    pq.write_table(lines, tmp_path / "lines.parquet", row_group_size=EACH)
    pq.write_table(pa.table({"k": [k // 2 for k in range(1200)], "a": list(range(1200))}), tmp_path / "twice.parquet")
    pq.write_table(pa.table({"n": list(range(0, ROWS, 3)), "b": list(range(0, ROWS, 3))}), tmp_path / "thirds.parquet")
    return tmp_path


def stops_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> list[int]:
    """Memory runs out when so many batches were streamed past a held side."""
    asked: list[int] = []
    past = JoinReducer.past

    def stopping(*arguments: Any) -> Iterator[pa.RecordBatch]:
        asked.append(1)
        if len(asked) > batches:
            raise pa.ArrowMemoryError("no room")
        return past(*arguments)

    monkeypatch.setattr(JoinReducer, "past", stopping)
    return asked


def result(pipeline: ek.Pipeline, root: Path) -> tuple[list[tuple[Any, ...]], dict[str, bool], list[int]]:
    """Rows, which joins hold their side at the end, and finished splits of each stage."""
    done = run([pipeline.write_parquet(str(root / "out"))], state=str(root / "state"), workers=1)
    assert done.exit_code == 0
    found = pa.concat_tables(pq.read_table(part) for part in sorted((root / "out").glob("*.parquet")))
    snapshot = StateDir.open(open_store(str(root / "state")), read_only=True).snapshot
    assert snapshot is not None
    finished = [len(stage.finished) for _, stage in sorted(snapshot.stages.items())]
    return sorted(map(repr, found.to_pylist())), snapshot.facts.get("held") or {}, finished  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
def test_let_go_in_the_middle_the_rest_is_exchanged(how: str, tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined() -> ek.Pipeline:
        return ek.read_parquet(str(tables / "lines.parquet")).join(
            ek.read_parquet(str(tables / "twice.parquet")), on="k", how=how
        )

    expected, said, _ = result(joined(), tables / "whole")
    assert list(said.values()) == [True]
    asked = stops_after(monkeypatch, 3)
    rows, said, finished = result(joined(), tables / "short")
    assert len(asked) == 4 and list(said.values()) == [False]
    assert finished[1] == ROWS // EACH - 3, "what was streamed past is not exchanged"
    assert rows == expected
    monkeypatch.setattr(held, "MOST_BYTES", 0)
    assert result(joined(), tables / "never")[0] == expected


@pytest.mark.parametrize("batches", [0, 2, 5, 9, 11])
def test_one_join_past_another(batches: int, tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined() -> ek.Pipeline:
        lines, twice, thirds = (
            ek.read_parquet(str(tables / f"{name}.parquet")) for name in ("lines", "twice", "thirds")
        )
        two = lines.join(twice, on="k").join(thirds, on="n", how="left")
        return two.union(lines.join(twice, on="k", how="left").with_columns(b=ek.col("n"))).filter(ek.col("n") >= 0)

    expected, said, _ = result(joined(), tables / "whole")
    assert all(said.values()) and len(said) == 3
    stops_after(monkeypatch, batches)
    rows, said, _ = result(joined(), tables / "short")
    assert not all(said.values())
    assert rows == expected


def test_the_smaller_side_is_held_where_the_join_may_be_turned_round(tables: Path) -> None:
    lines, few = (ek.read_parquet(str(tables / f"{name}.parquet")) for name in ("lines", "twice"))
    for how, first in (("inner", "left"), ("right", "left"), ("left", "right"), ("outer", "right")):
        plan = lower((few.join(lines, on="k", how=how).write_parquet(str(tables / "out")),))  # type: ignore[arg-type]
        assert plan.stages[0].kind.endswith(first), how


def test_many_keys_that_are_far_apart_are_not_held(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etlkit.engine.matching.BUILT_EACH_TIME_ROWS", 100)
    lines, twice = (ek.read_parquet(str(tables / f"{name}.parquet")) for name in ("lines", "twice"))
    apart = [one.with_columns(k=ek.col("k") * 1_000_000_007) for one in (lines, twice)]
    assert list(result(apart[0].join(apart[1], on="k"), tables / "apart")[1].values()) == [False]
