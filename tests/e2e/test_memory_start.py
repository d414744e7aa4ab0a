"""A container that is too small to import pyarrow: real cgroups, real kills, as `etlkit local` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from etlkit.testing.cgroups import make_group, unavailable

from ..conftest import REPOSITORY, environment
from .expected import assert_same, part_revenue, read_output

pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.skipif(unavailable() is not None, reason=f"no memory cgroup here: {unavailable()}"),
]


def local(src: Path, folder: Path, out: str, *options: str) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    """The run, and every event that it said, the node's among them."""
    call = [
        sys.executable, "-m", "etlkit", "local", str(REPOSITORY / "jobs/part_revenue.py"),
        "--set", f"src={src}", "--set", f"out={folder}/{out}", "--state", f"{folder}/state", "--progress", "json", *options,
    ]  # fmt: skip
    done = subprocess.run(
        call, env=environment(), capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    return done, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def show(folder: Path) -> dict:
    command = [sys.executable, "-m", "etlkit", "show", f"{folder}/state", "--json"]
    return json.loads(subprocess.run(command, env=environment(), capture_output=True, check=True).stdout)


@pytest.mark.parametrize("policy", ["RestartContainer", "NotRequired"])
def test_in_24_mib_it_asks_before_it_imports_and_finishes(policy, lineitem, tmp_path):
    options = ("--memory", "24Mi", "--max-memory", "512Mi", "--resize-policy", policy)
    done, events = local(lineitem, tmp_path, "out", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    exits = [event for event in events if event["event"] == "container_exited"]
    assert not any(event["oom_killed"] for event in exits)
    assert [event["exit_code"] for event in exits] == ([75, 0] if policy == "RestartContainer" else [0])
    story = show(tmp_path)
    first = story["resizes"][0]
    assert (first["from_bytes"], first["to_bytes"], first["outcome"]) == (24 << 20, 192 << 20, "actuated")
    assert first["requested_to_actuated_s"] > 0
    assert not (tmp_path / "state" / ".asked.json").exists(), "the note is in the checkpoint now"
    assert_same(read_output(tmp_path / "out"), part_revenue(lineitem), ["l_partkey"])


def test_where_no_more_may_be_asked_for_it_says_what_is_needed_and_is_not_killed(lineitem, tmp_path):
    done, events = local(lineitem, tmp_path, "out", "--memory", "24Mi", "--max-memory", "32Mi")
    assert done.returncode == 78, done.stdout + done.stderr
    assert "64Mi" in done.stderr and "max_memory is 32 MiB" in done.stderr
    assert not any(event.get("oom_killed") for event in events)


def test_a_node_without_room_is_a_refusal_by_the_cluster(lineitem, tmp_path):
    options = ("--memory", "24Mi", "--max-memory", "512Mi", "--node-memory", "32Mi")
    done, events = local(lineitem, tmp_path, "out", *options)
    assert done.returncode == 77, done.stdout + done.stderr
    assert not any(event.get("oom_killed") for event in events)


def test_below_a_small_limit_a_bare_run_starts_itself_again_with_glibcs_setting_once(lineitem, tmp_path):
    job = tmp_path / "job.py"
    job.write_text(
        "import os\nimport etlkit as ek\n\n\n@ek.job\ndef small() -> ek.Pipeline:\n"
        f"    open({str(tmp_path / 'seen')!r}, 'a').write(f\"{{os.getpid()}} {{os.environ.get('GLIBC_TUNABLES')}}\\n\")\n"
        f"    return ek.read_parquet({str(lineitem)!r}).limit(3).write_parquet({str(tmp_path / 'out')!r})\n"
    )
    call = [sys.executable, "-m", "etlkit", "run", str(job), "--state", str(tmp_path / "state"), "--progress", "none"]
    environ = {name: value for name, value in environment().items() if name != "GLIBC_TUNABLES"}
    with make_group(128 << 20) as group:
        process = subprocess.Popen(group.command(call), env=environ, stderr=subprocess.PIPE)
        assert process.wait(60) == 0, process.stderr.read()
    pids = {line.split()[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert pids == {str(process.pid)}, "the same process, as its parent knows it"
    assert (tmp_path / "seen").read_text().split()[1::2] == ["glibc.malloc.tcache_count=0"] * len(pids)
