"""Writes a state directory of the present format, for the golden tests of all versions to come.

``python -m tests.golden.make FOLDER``. Run it once a format and keep the result: a golden file that is made anew proves nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from etlkit.checkpoint import Delta, Intervals, Phase, StageDelta, StateDir, lists, state_dir
from etlkit.io.sink import Part


def make(folder: Path) -> None:
    """A run with every feature: a large fact, lists of parts, deltas, a claim, compaction, publication."""
    lists.LARGE_FACT_BYTES, lists.PARTS_A_LIST, state_dir.DELTAS_A_BASE = 200, 4, 6
    with StateDir.open(folder) as state:
        state.begin("golden-run", {"job": "a1", "input": "b2"}, {"job": "golden", "plan": list(range(100)), "gone": 1})
        for split in range(9):
            with state.run_writer(0) as writer:
                for partition in range(3):
                    writer.add(partition, pa.table({"k": [split, partition], "name": ["ä", None], "v": [0.5, -1.0]}))
                run = writer.close()
            part = Part(
                split, f"part-{split:05d}.e1.parquet", f"year=2026/part-{split:05d}.parquet", 2, 1000 + split, split
            )
            stage = StageDelta(Intervals.of([split]), (run,), (), ((0, part),), 6, 6)
            facts = {"learned": {"peak_bytes": 1 << 33, "ratio": 0.25}, "gone": None}
            state.commit(Delta("interval", {0: stage}, facts))
    with StateDir.open(folder) as state:
        state.claim({"attempts": [{"number": 1, "exit_code": None}, {"number": 2}]})
        runs = state.snapshot.stages[0].runs  # type: ignore[union-attr]
        with state.run_writer(0, 1) as writer:
            writer.add(0, pa.table({"k": pa.array([], pa.int64())}))
            writer.add(2, pa.table({"k": [1, 2, 3]}))
            merged = writer.close()
        dropped = tuple(run.name for run in runs[:8])
        state.commit(Delta("compaction", {0: StageDelta(runs=(merged,), dropped=dropped)}))
        state.commit(
            Delta(
                "all splits done", {1: StageDelta(Intervals([(0, 1)]), rows_in=9, rows_out=1)}, phase=Phase.PUBLISHING
            )
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
