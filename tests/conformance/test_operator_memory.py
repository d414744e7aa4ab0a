"""Memory as a contract, operator by operator: what is promised holds, and a hard limit is kept at one, two and eight times the data.

Real processes, real cgroups, TPC-H-derived input whose keys grow with it. The contract's operators are in ``operator_jobs.py``.
Measured is what the group was charged with and can't give up: the attempts' own ``peak_bytes`` (anonymous, kernel and dirty pages),
read ten times a second near the limit and less often elsewhere. Projected is what ``etlkit plan`` says before the run, or the limit
where that is less. The long form has 0.6, 1.2 and 4.8 million lines; the short one 1 million.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import measure
from etlkit.testing.cgroups import make_group, unavailable

from ..conftest import REPOSITORY
from .operator_jobs import OPERATORS

MIB = 1 << 20
LIMIT_BYTES = 192 * MIB
SLACK_BYTES = 8 * MIB
"""What the writer of a checkpoint, readers of footers and small buffers take beside what is reserved."""
SHORT = 0.16
RESERVED = ("filter_write", "group_many", "group_few", "join_write", "sort_write", "distinct")
TARGET = f"{REPOSITORY / 'tests/conformance/operator_jobs.py'}:one"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """The folder of lineitem and orders at a scale, made once."""
    program = Path(sys.executable).with_name("tpchgen-cli")
    if not program.exists():
        pytest.skip("tpchgen-cli is not installed here")

    @cache
    def made(scale: float) -> Path:
        folder = tmp_path_factory.mktemp("tpch")
        fixed = ["--scale-factor", str(scale), "--parts", "2", "--output-dir", str(folder)]
        subprocess.run(
            [program, "parquet", "--tables", "lineitem,orders", *fixed], check=True, stdout=subprocess.DEVNULL
        )
        return folder

    return made


@pytest.mark.cgroup
@pytest.mark.skipif(unavailable() is not None, reason=f"no memory group can be made: {unavailable()}")
@pytest.mark.parametrize("scale", [SHORT, *(pytest.param(scale, marks=pytest.mark.long) for scale in (0.1, 0.2, 0.8))])
@pytest.mark.parametrize("operator", OPERATORS)
def test_no_more_than_projected_at_the_same_limit(
    operator: str, scale: float, tables: Callable[[float], Path], tmp_path: Path, etlkit_command
) -> None:
    src, out, state = tables(scale), tmp_path / "out", tmp_path / "state"
    sets = [f"--set=src={src}", f"--set=out={out}", f"--set=operator={operator}", "--workers=2"]
    planned = etlkit_command("plan", TARGET, *sets, "--json", cwd=tmp_path)
    argv = [sys.executable, "-m", "etlkit", "run", TARGET, *sets, f"--state={state}", "--progress=none"]
    with make_group(LIMIT_BYTES) as group:
        run = group.run(argv, env=measure.environment(), timeout_s=300)
    assert run.returncode == 0 and not run.oom_killed, run.stderr[-2000:]
    story = json.loads(etlkit_command("show", str(state), "--json", cwd=tmp_path).stdout)
    assert story["resizes"] == []
    projected = json.loads(planned.stdout)["projected_bytes"]
    assert 0 < max(one["peak_bytes"] for one in story["attempts"]) <= min(projected, LIMIT_BYTES)
    written = sum(pq.ParquetFile(path).metadata.num_rows for path in out.rglob("*.parquet"))
    assert written == rows_expected(operator, src)


def rows_expected(operator: str, src: Path) -> int:
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    for table in ("lineitem", "orders"):
        connection.execute(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM read_parquet('{src}/{table}/*.parquet')")
    return int(connection.execute(OPERATORS[operator].sql).fetchall()[0][0])


@pytest.mark.parametrize("job", RESERVED)
def test_arrow_takes_no_more_than_was_reserved(job: str, tables: Callable[[float], Path], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.conformance.operator_peak", job, str(tables(SHORT)), str(tmp_path), "2"]
    done = subprocess.run(
        argv, env=measure.environment({"ARROW_DEFAULT_MEMORY_POOL": "system"}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["pool"] <= said["reserved"] + SLACK_BYTES
