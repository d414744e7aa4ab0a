"""Old runs of state are merged behind the work: bounded in number and in bytes written again, and never in anybody's way."""

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
from etlkit.observe.state import observe
from etlkit.runtime import checkpointer, loop
from etlkit.runtime.checkpointer import Checkpointer, Wanted

SPLITS = 24


class Pace:
    """A split is worked on once the one before it is committed, however fast the machine is."""

    def __init__(self) -> None:
        self.begun = self.committed = self.most_runs = 0
        self.moved = threading.Condition()
        self.reasons: list[str] = []

    def saw(self, state_dir: StateDir) -> None:
        snapshot = state_dir.snapshot
        assert snapshot is not None
        with self.moved:
            if 0 in snapshot.stages:
                self.committed = len(snapshot.stages[0].finished)
                self.most_runs = max(self.most_runs, len(snapshot.stages[0].runs))
            self.moved.notify_all()

    def wait(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self.moved:
            assert self.moved.wait_for(lambda: self.committed >= self.begun, 60)
            self.begun += 1
        return batch


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    found = Pace()
    real = StateDir.commit

    def commit(self: StateDir, delta: Delta) -> Committed:
        done = real(self, delta)
        found.reasons.append(delta.reason)
        found.saw(self)
        return done

    monkeypatch.setattr(StateDir, "commit", commit)
    monkeypatch.setattr(checkpointer, "FAN_IN", 2)
    monkeypatch.setattr(planner, "EXCHANGE_SPLIT_BYTES", 1)
    return found


@pytest.fixture
def job(tmp_path: Path, pace: Pace) -> list[ek.Pipeline]:
    """Each split is one row group, and each has the same keys."""
    table = pa.table({"k": list(range(50)) * SPLITS, "v": list(range(50 * SPLITS))})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=50)
    rows = ek.read_parquet(str(tmp_path / "in.parquet")).map_batches(pace.wait, schema=table.schema, version="1")
    return [rows.group_by("k").agg(v=ek.sum("v"), n=ek.count()).write_parquet(str(tmp_path / "out"))]


def test_runs_stay_few_and_what_is_written_again_is_bounded_and_shown(
    job: list[ek.Pipeline], tmp_path: Path, pace: Pace
) -> None:
    assert ek.run(job, state=tmp_path / "state", checkpoint_every="1ms", workers=1).done
    found = pq.read_table(tmp_path / "out").sort_by("k")
    assert found["n"].to_pylist() == [SPLITS] * 50
    assert found["v"].to_pylist() == [sum(range(k, 50 * SPLITS, 50)) for k in range(50)]
    seen = observe(tmp_path / "state")
    cost = seen.story["checkpoint_cost"]
    merges = [event for event in seen.events if event["event"] == "merged"]
    assert len(merges) >= SPLITS // 4 and cost["merged_bytes"] == sum(event["bytes"] for event in merges)
    # Each row is written once a level, and of n runs merged two by two there are log2(n) levels.
    assert 1 < cost["write_amplification"] <= 1 + SPLITS.bit_length()
    assert pace.most_runs <= 2 * SPLITS.bit_length()


def test_a_merge_gives_way_to_what_is_urgent(
    job: list[ek.Pipeline], tmp_path: Path, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nothing behind, and comes again after the next checkpoint."""
    real = Checkpointer._hurried
    looks = before = 0

    def hurried(self: Checkpointer) -> bool:
        nonlocal looks, before
        looks += 1
        if looks == 3:
            before = len(pace.reasons)
            self.request(Wanted("memory is asked for", {"urgent": True}, urgent=True))
        return real(self)

    monkeypatch.setattr(Checkpointer, "_hurried", hurried)
    assert ek.run(job, state=tmp_path / "state", checkpoint_every="1ms", workers=1).done
    assert looks > 3
    after = ["merged" if "merged into one" in reason else reason for reason in pace.reasons[before:]]
    assert after.index("memory is asked for") < after.index("merged")
    assert StateDir.open(tmp_path / "state", read_only=True).verify() == []
    assert pq.read_table(tmp_path / "out")["n"].to_pylist() == [SPLITS] * 50


def test_a_merge_gives_way_to_the_end_of_a_stage(
    job: list[ek.Pipeline], tmp_path: Path, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reduces the runs merges them anyway, and on every core."""
    real = Checkpointer._hurried
    before = 0

    def hurried(self: Checkpointer) -> bool:
        nonlocal before
        if not before:
            before = len(pace.reasons)
            with pace.moved:
                pace.committed = SPLITS  # all others may go on, and nothing is committed while this one is merged
                pace.moved.notify_all()
            until = time.monotonic() + 60
            while not real(self) and time.monotonic() < until:
                time.sleep(0.005)
            assert real(self)
        return real(self)

    monkeypatch.setattr(Checkpointer, "_hurried", hurried)
    monkeypatch.setattr(loop, "HOLD_AT", 1e9)
    assert ek.run(job, state=tmp_path / "state", checkpoint_every="1ms", workers=1).done
    after = pace.reasons[before:]
    assert any(reason.startswith("stage 0") and reason.endswith("is finished") for reason in after)
    assert not any("merged into one" in reason for reason in after)
    assert pq.read_table(tmp_path / "out")["n"].to_pylist() == [SPLITS] * 50
