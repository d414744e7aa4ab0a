"""A drain that meets the wall: the split that had begun is tried again in smaller slices, within the time there is."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.checkpoint import StateDir, open_store
from etlkit.decide.events import AllocationFailed, Observed, Started, Terminating
from etlkit.decide.instructions import SetSliceRows, SetWorkers
from etlkit.decide.machine import initial, step, validate
from etlkit.decide.policy import Policy
from etlkit.engine import reports
from etlkit.engine.executor import Executor
from etlkit.engine.planner import lower
from etlkit.engine.stages import Stage
from etlkit.memory import Ledger
from etlkit.units import MIB

ROWS = 700_000
slices: list[int] = []
entered = threading.Event()
proceed = threading.Event()


def stops_large_slices(batch: pa.RecordBatch) -> pa.RecordBatch:
    slices.append(batch.num_rows)
    entered.set()
    assert proceed.wait(30)
    if len(slices) == 1:
        raise MemoryError("the wall")
    return batch


@pytest.fixture(autouse=True)
def batches_that_follow_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An author's function never gets other batches; here it only stands for any step that runs out of memory."""
    monkeypatch.setattr(Stage, "has_author_functions", property(lambda stage: False))


@pytest.fixture
def running(tmp_path: Path):
    """An executor in the middle of its first split of several, about to run out of memory."""
    slices.clear()
    entered.clear()
    proceed.clear()
    # Random numbers do not compress: five MiB a file, so each is a split of its own.
    keys = pa.Array.from_buffers(pa.int64(), ROWS, [None, pa.py_buffer(os.urandom(8 * ROWS))])
    table = pa.table({"k": keys})
    (tmp_path / "in").mkdir()
    for number in range(3):
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet", row_group_size=ROWS)
    read = ek.read_parquet(str(tmp_path / "in"))
    counted = read.map_batches(stops_large_slices, version="1").group_by("k").agg(rows=ek.count())
    plan = lower((counted.write_parquet(str(tmp_path / "out")),))
    assert len(plan.stages[0].inputs[0].splits) == 3
    for sink in plan.sinks:
        sink.prepare("r", resuming=False)
    state_dir = StateDir.open(open_store(str(tmp_path / "state")))
    snapshot = state_dir.begin("r", {}, {"ended": {}})
    said: queue.SimpleQueue[Any] = queue.SimpleQueue()
    executor = Executor(plan, state_dir, snapshot, Ledger(None), said.put, workers=1, slice_rows=ROWS)
    executor.start()
    assert executor.begin(snapshot)
    assert entered.wait(30)
    yield executor, said
    executor.close()
    state_dir.close()


def test_it_is_tried_again_and_no_other_split_begins(running):
    executor, said = running
    executor.drain()
    proceed.set()
    assert isinstance(said.get(timeout=30), reports.SplitShort)
    assert said.empty(), "it is not idle yet: that split goes on"
    executor.go_on()
    assert isinstance(said.get(timeout=30), reports.Idle)
    assert executor.figures().splits_done == 1 and len(slices) >= 2


def test_past_the_deadline_it_is_given_up(running):
    executor, said = running
    executor.drain()
    proceed.set()
    assert isinstance(said.get(timeout=30), reports.SplitShort)
    executor.give_up()
    assert isinstance(said.get(timeout=30), reports.Idle)
    assert executor.figures().splits_done == 0


def test_the_machine_goes_down_to_one_worker_and_half_the_slice():
    policy = Policy(max_memory_bytes=1 << 30)
    state = initial(policy)
    for event in (
        Started(0.0, 256 * MIB, 4, 3),
        Observed(0.1, 256 * MIB, 90 * MIB, 0, 0, 90 * MIB, 90 * MIB, 0.0, None, 0.0, 1.0, 0.0),
        Terminating(0.2, "SIGTERM", 30.0),
    ):
        state, _ = step(state, event, policy)
    state, told = step(state, AllocationFailed(0.3, "0.1", 1, policy.slice_rows, MIB), policy)
    validate(state)
    assert next(one for one in told if isinstance(one, SetWorkers)).workers == policy.min_workers
    assert next(one for one in told if isinstance(one, SetSliceRows)).rows == policy.slice_rows // 2
    state, told = step(state, AllocationFailed(0.4, "0.1", 2, policy.slice_rows // 2, MIB), policy)
    assert next(one for one in told if isinstance(one, SetSliceRows)).rows == policy.slice_rows // 4
