"""The state between two stages, at the moments when two threads meet: no row may be lost between two lists."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from etlkit.engine.exchange import PIECE_ROWS, ExchangeState, Piece, SplitState, drain_cell, drain_in_pieces
from etlkit.engine.routing import ToOne
from etlkit.engine.stages import ExchangeOutput

SCHEMA = pa.schema({"k": pa.int64()})


def nothing() -> None:
    """Between two steps of a fold, nothing happens."""


@dataclass
class Keeps:
    """A combiner that keeps every row, and does something else in the middle of a fold or a merge."""

    raw_schema: pa.Schema = SCHEMA
    partial_schema: pa.Schema = SCHEMA
    foldable: bool = True
    in_fold: Callable[[], None] = field(default=nothing)
    in_merge: Callable[[], None] = field(default=nothing)

    def prepare(self, batch: pa.RecordBatch, position: int) -> pa.RecordBatch:
        return batch

    def fold(self, raw: pa.Table) -> pa.Table:
        self.in_fold()
        return raw

    def merge(self, partials: pa.Table) -> pa.Table:
        self.in_merge()
        return partials


def state(combiner: Keeps) -> ExchangeState:
    return ExchangeState(ExchangeOutput(combiner, ToOne(), 1), threading.Lock())


def split(*values: int, partial: bool = False) -> SplitState:
    batch = pa.record_batch({"k": list(values)}, schema=SCHEMA)
    pieces = [Piece(0, batch, batch.nbytes)]
    return SplitState(partials=pieces) if partial else SplitState(raw=pieces)


def rows(combiner: Keeps, taken: object) -> list[int]:
    found = drain_cell(combiner, taken.cells[0])  # type: ignore[attr-defined]
    return [] if found is None else sorted(found["k"].to_pylist())


def test_a_checkpoint_in_the_middle_of_a_fold_does_not_take_the_cell_for_empty() -> None:
    combiner = Keeps()
    exchange = state(combiner)
    exchange.add(split(1, 2))
    seen = []
    combiner.in_fold = lambda: seen.append(exchange.take())
    exchange.sweep()
    assert seen[0], "its rows were in the hands of the fold"
    assert rows(combiner, seen[0]) == [1, 2]


def test_a_generation_stays_what_it_was_while_another_thread_folds_it() -> None:
    combiner = Keeps()
    exchange = state(combiner)
    exchange.add(split(1, 2))
    taken = exchange.take()
    seen = []
    combiner.in_fold = lambda: seen.append(bool(taken))
    exchange.sweep()
    assert seen == [True]
    assert rows(combiner, taken) == [1, 2]


def test_what_a_split_adds_during_a_merge_is_kept() -> None:
    combiner = Keeps()
    exchange = state(combiner)
    exchange.add(split(1, partial=True))
    exchange.add(split(2))
    combiner.in_merge = lambda: exchange.add(split(3, partial=True))
    exchange.sweep()
    assert rows(combiner, exchange.take()) == [1, 2, 3]


@pytest.mark.parametrize("step", ["in_fold", "in_merge"])
def test_a_fold_that_finds_no_memory_loses_nothing(step: str) -> None:
    combiner = Keeps()
    exchange = state(combiner)
    exchange.add(split(1, partial=True))
    exchange.add(split(2))

    def fail() -> None:
        raise MemoryError

    setattr(combiner, step, fail)
    with pytest.raises(MemoryError):
        exchange.sweep()
    setattr(combiner, step, nothing)
    before = exchange.bytes
    assert before == 16
    assert rows(combiner, exchange.take()) == [1, 2]


def test_a_checkpoint_that_fails_gives_its_rows_back() -> None:
    combiner = Keeps()
    exchange = state(combiner)
    exchange.add(split(1))
    taken = exchange.take()
    exchange.add(split(2))
    exchange.give_back(taken)
    assert exchange.bytes == 16
    assert rows(combiner, exchange.take()) == [1, 2]


def test_one_cell_is_folded_early_so_that_the_forecast_knows_how_often_keys_repeat() -> None:
    combiner = Keeps()
    exchange = ExchangeState(ExchangeOutput(combiner, ToOne(), 3), threading.Lock())
    few, some, many = (pa.record_batch({"k": list(range(rows))}, schema=SCHEMA) for rows in (1, 5, 90))
    pieces = [Piece(number, batch, batch.nbytes) for number, batch in enumerate((many, few, some))]
    exchange.add(SplitState(raw=pieces))
    exchange.look_at_keys()
    assert (exchange.folds, exchange.folded_rows) == (1, 5), "neither the cell of a frequent key nor an empty one"
    exchange.look_at_keys()
    assert exchange.folds == 1, "once will do"
    whole = ExchangeState(ExchangeOutput(Keeps(foldable=False), ToOne(), 3), threading.Lock())
    whole.add(SplitState(raw=pieces))
    whole.look_at_keys()
    assert not whole.folds, "rows of a join are not folded"


@pytest.mark.parametrize("foldable", [True, False])
def test_where_memory_is_short_a_cell_is_drained_in_pieces_of_bounded_size(foldable: bool) -> None:
    combiner = Keeps(foldable=foldable)
    exchange = state(combiner)
    exchange.add(split(7, 8, partial=True)) if foldable else None
    for start in range(0, 3 * PIECE_ROWS, 1000):
        exchange.add(split(*range(start, start + 1000)))
    exchange.add(split(*range(PIECE_ROWS + 1)))
    taken = exchange.take()
    pieces = list(drain_in_pieces(combiner, taken.cells[0]))
    assert max(piece.num_rows for piece in pieces) < 2 * PIECE_ROWS
    found = sorted(value for piece in pieces for value in piece["k"].to_pylist())
    assert found == rows(combiner, taken), "the cell still has them all: the commit may fail"
    exchange.sweep()
    assert sorted(value for p in drain_in_pieces(combiner, taken.cells[0]) for value in p["k"].to_pylist()) == found
