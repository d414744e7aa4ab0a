"""The first split of a stage with an author's function runs alone, and what it took is asked for the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.engine.author_need import AuthorNeed

JOB = """
import json, threading, time, etlkit as ek

lock, running, most = threading.Lock(), 0, []

def heavy(batch):
    global running
    with lock:
        running += 1
        most.append(running)
    hold = bytearray(80_000_000)
    hold[::4096] = b"x" * len(hold[::4096])
    time.sleep(0.05)
    with lock:
        running -= 1
    open("most.json", "w").write(json.dumps(most))
    return batch

@ek.job
def job(src: str, out: str) -> ek.Pipeline:
    return ek.read_parquet(src).map_batches(heavy, version="1").group_by("id").agg(n=ek.count()).write_parquet(out)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self")
def test_a_peak_is_measured_from_where_the_split_began() -> None:
    need = AuthorNeed(known=False)
    assert need.may_start(0) and not need.may_start(1)
    need.began()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    del held
    need.ended(16 << 20)
    assert need.known and need.may_start(3)
    assert 40 << 20 <= need.extra_bytes <= 64 << 20
    need.ended(0)
    assert need.extra_bytes > 0, "measured once"


def test_a_stage_without_functions_needs_nothing_more() -> None:
    need = AuthorNeed()
    need.began()
    need.ended(0)
    assert need.may_start(5) and need.extra_bytes == 0


def test_the_first_split_runs_alone_and_then_they_run_side_by_side(tmp_path: Path, etlkit_command) -> None:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "in").mkdir()
    for number in range(6):
        # Incompressible, and large enough to be a split of its own.
        ids = pa.array([hash((number, one)) for one in range(300_000)], pa.int64())
        pq.write_table(pa.table({"id": ids}), tmp_path / "in" / f"{number}.parquet", row_group_size=300_000)
    call = [
        "run",
        "job.py:job",
        "--set",
        "src=in",
        "--set",
        "out=out",
        "--state",
        "s",
        "--workers",
        "2",
        "--progress",
        "none",
    ]
    done = etlkit_command(*call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    most = json.loads((tmp_path / "most.json").read_text())
    first_split = 300_000 // 65_536
    assert max(most[:first_split]) == 1, "nobody beside the first split"
    assert max(most) == 2, "and then as many as there are workers"
