"""Memory as a contract, operator by operator: what is promised holds, and a hard limit is kept at one, two and eight times the data.

Real processes, real cgroups, TPC-H-derived input at scale 0.1. The jobs are those that the benchmarks measure.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import measure
from etlkit.testing.cgroups import make_group, unavailable

MIB = 1 << 20
LIMIT_BYTES = 160 * MIB
SLACK_BYTES = 8 * MIB
"""What the writer of a checkpoint, readers of footers and small buffers take beside what is reserved."""
SCALE = 0.1
OPERATORS = ("filter_write", "group_many", "group_few", "join_write", "sort_write", "distinct")


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The input once, twice and eight times over: links to the same files under other names."""
    program = Path(sys.executable).with_name("tpchgen-cli")
    if not program.exists():
        pytest.skip("tpchgen-cli is not installed here")
    folder = tmp_path_factory.mktemp("tpch")
    fixed = ["--scale-factor", str(SCALE), "--parts", "2", "--output-dir", str(folder / "1")]
    subprocess.run([program, "parquet", "--tables", "lineitem,orders", *fixed], check=True, stdout=subprocess.DEVNULL)
    for times in (2, 8):
        shutil.copytree(folder / "1" / "orders", folder / str(times) / "orders")
        target = folder / str(times) / "lineitem"
        target.mkdir()
        for path in (folder / "1" / "lineitem").iterdir():
            for time in range(times):
                (target / f"{time}.{path.name}").symlink_to(path)
    return {times: folder / str(times) for times in (1, 2, 8)}


def rows_expected(job: str, src: Path, times: int) -> int:
    duckdb = pytest.importorskip("duckdb")
    from benchmarks.rivals import SQL

    connection = duckdb.connect()
    for table in ("lineitem", "orders"):
        connection.execute(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM read_parquet('{src}/{table}/*.parquet')")
    return int(connection.execute(f"SELECT count(*) FROM ({SQL[job]})").fetchall()[0][0])


@pytest.mark.cgroup
@pytest.mark.skipif(unavailable() is not None, reason=f"no memory group can be made: {unavailable()}")
@pytest.mark.parametrize("job", OPERATORS)
def test_the_limit_is_kept_however_large_the_input(job: str, scaled: dict[int, Path], tmp_path: Path) -> None:
    for times, src in scaled.items():
        out, state = tmp_path / f"out{times}", tmp_path / f"state{times}"
        argv = measure.etlkit_run(job, {"src": src, "out": out}, state)
        with make_group(LIMIT_BYTES) as group:
            run = group.run(argv, env=measure.environment(), timeout_s=120)
        assert run.returncode == 0, f"{times} times the data: {run.stderr[-2000:]}"
        assert not run.oom_killed
        written = sum(pq.ParquetFile(path).metadata.num_rows for path in out.glob("*.parquet"))
        assert written == rows_expected(job, src, times)
        shown = [sys.executable, "-m", "etlkit", "show", str(state), "--json"]
        story = json.loads(subprocess.run(shown, env=measure.environment(), capture_output=True, check=True).stdout)
        assert story["resizes"] == []
        assert max(attempt["peak_bytes"] for attempt in story["attempts"]) <= LIMIT_BYTES


@pytest.mark.parametrize("job", OPERATORS)
def test_arrow_takes_no_more_than_was_reserved(job: str, scaled: dict[int, Path], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.conformance.operator_peak", job, str(scaled[8]), str(tmp_path), "2"]
    done = subprocess.run(
        argv, env=measure.environment({"ARROW_DEFAULT_MEMORY_POOL": "system"}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["pool"] <= said["reserved"] + SLACK_BYTES
