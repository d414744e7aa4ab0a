"""The author's bound on lost work holds where a checkpoint takes longer to write than the work takes to outgrow it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.checkpoint import Committed, Delta, StateDir
from etlkit.engine import planner
from etlkit.engine.executor import Executor

SPLITS = 1_500


def slowly(batch: pa.RecordBatch) -> pa.RecordBatch:
    time.sleep(0.002)
    return batch


def test_no_split_starts_while_a_late_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first checkpoint does not end before the work is held back; afterwards the work goes on."""
    monkeypatch.setattr(planner, "EXCHANGE_SPLIT_BYTES", 1)
    held = threading.Event()
    pause, commit = Executor.pause, StateDir.commit
    begun: list[int] = []

    def paused(self: Executor, wait_s: float) -> bool:
        found = pause(self, wait_s)
        held.set()
        return found

    def late(self: StateDir, delta: Delta) -> Committed:
        if delta.reason == "interval" and not begun:
            begun.append(1)
            assert held.wait(60), "work went on and on beside a checkpoint that did not end"
        return commit(self, delta)

    monkeypatch.setattr(Executor, "pause", paused)
    monkeypatch.setattr(StateDir, "commit", late)
    table = pa.table({"k": [row % 7 for row in range(SPLITS)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=1)
    rows = ek.read_parquet(str(tmp_path / "in.parquet")).map_batches(slowly, schema=table.schema, version="1")
    job = [rows.group_by("k").agg(n=ek.count()).write_parquet(str(tmp_path / "out"))]
    assert ek.run(job, state=tmp_path / "state", checkpoint_every="20ms", workers=1).done
    assert begun and sum(pq.read_table(tmp_path / "out")["n"].to_pylist()) == SPLITS
