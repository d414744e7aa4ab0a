"""The main job in a pod's world on this machine: real cgroups, real kills, real HTTP, as `etlkit local` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from etlkit.testing.cgroups import make_group, unavailable

from ..conftest import REPOSITORY, environment
from .expected import assert_same, part_revenue, read_output

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"no memory cgroup here: {unavailable()}")

LIMIT = "112Mi"  # at 128 it may find that spilling costs less than a restart

PLAIN = """
import sys, decimal, pyarrow as pa, pyarrow.dataset as ds, pyarrow.compute as pc
exactly = lambda text: pa.scalar(decimal.Decimal(text), pa.decimal128(15, 2))
table = ds.dataset(sys.argv[1]).to_table(
    columns=["l_partkey", "l_extendedprice", "l_discount"], filter=pc.field("l_quantity") < exactly("40.00"))
table = table.append_column("revenue", pc.multiply(table["l_extendedprice"], pc.subtract(exactly("1.00"), table["l_discount"])))
print(table.group_by("l_partkey").aggregate([("revenue", "sum"), ([], "count_all"), ("l_extendedprice", "max")]).num_rows)
"""


@pytest.fixture(scope="module")
def src(six_million: Path) -> Path:
    return six_million


def local(src: Path, folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """`etlkit local jobs/part_revenue.py …` and what `etlkit show --json` says after it."""
    call = [
        sys.executable, "-m", "etlkit", "local", str(REPOSITORY / "jobs/part_revenue.py"), "--memory", LIMIT,
        "--set", f"src={src}", "--set", f"out={folder}/out", "--state", f"{folder}/state", "--progress", "plain", *options,
    ]  # fmt: skip
    done = subprocess.run(
        call, env=environment(), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    shown = subprocess.run(
        [sys.executable, "-m", "etlkit", "show", f"{folder}/state", "--json"], env=environment(), capture_output=True
    )
    return done, json.loads(shown.stdout)


def test_plain_pyarrow_is_killed_at_this_limit(src):
    with make_group(112 << 20) as group:
        done = group.run([sys.executable, "-c", PLAIN, str(src)], timeout_s=300)
    assert done.oom_killed and done.returncode == -9, done.stderr


@pytest.mark.parametrize("policy", ["RestartContainer", "NotRequired"])
def test_it_sees_it_coming_asks_and_finishes(policy, src, tmp_path):
    done, story = local(src, tmp_path, "--max-memory", "1Gi", "--resize-policy", policy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert story["status"] == "done" and story["oom_kills"] == 0
    assert len(story["resizes"]) >= 1 and story["resizes"][0]["outcome"] == "actuated"
    assert story["resizes"][0]["to_bytes"] > story["resizes"][0]["from_bytes"] == 112 << 20
    if policy == "RestartContainer":
        assert [attempt["exit_code"] for attempt in story["attempts"]] == [75, 0]
        assert story["attempts"][1]["resumed_from"] is not None
        assert story["attempts"][1]["limit_bytes"] == story["resizes"][0]["to_bytes"]
    else:
        assert [attempt["exit_code"] for attempt in story["attempts"]] == [0]
    assert story["rows_in"] == 6_001_215
    assert_same(read_output(tmp_path / "out"), part_revenue(src), ["l_partkey"])


def test_with_resizing_refused_it_goes_on_slower_and_is_not_killed(src, tmp_path):
    """More than the node has: the API server answers 403, and the job makes do."""
    done, story = local(src, tmp_path, "--max-memory", "1Gi", "--node-memory", LIMIT)
    assert done.returncode in (0, 75, 78), done.stdout + done.stderr
    assert story["oom_kills"] == 0
    assert any(resize["outcome"] in ("infeasible", "refused") for resize in story["resizes"])
    if done.returncode == 0:
        assert_same(read_output(tmp_path / "out"), part_revenue(src), ["l_partkey"])
    else:
        assert story["status"] == "interrupted"


def test_without_leave_to_grow_it_asks_nobody(src, tmp_path):
    done, story = local(src, tmp_path, "--max-memory", LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert story["resizes"] == [] and story["oom_kills"] == 0
    assert_same(read_output(tmp_path / "out"), part_revenue(src), ["l_partkey"])


def test_restart_discards_once_and_not_at_each_start_of_the_container(src, tmp_path):
    done, story = local(src, tmp_path, "--max-memory", "1Gi", "--restart")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [attempt["exit_code"] for attempt in story["attempts"]] == [75, 0]
    assert story["attempts"][1]["resumed_from"] is not None
