"""What a running job finds out and reacts to: throttling, a leak, a changed policy, a stage that needs little, learned sizes.

Real cgroups and a real API server of the local node, as `etlkit local` runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etlkit.node.enforce import choose
from etlkit.testing.cgroups import unavailable

from ..conftest import REPOSITORY, environment
from .expected import assert_same, part_revenue, read_output

pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.skipif(unavailable() is not None, reason=f"no memory cgroup here: {unavailable()}"),
]

JOBS = """
import time
import etlkit as ek

KEPT = []

def spins(batch):
    until = time.thread_time() + 0.25
    while time.thread_time() < until:
        pass
    return batch

def keeps(batch):
    time.sleep(0.05)
    KEPT.append(bytearray(1 << 20))
    return batch

def sleeps(batch):
    time.sleep(60)
    return batch

def _grouped(src, out, function):
    read = ek.read_parquet(src).select("l_partkey", "l_extendedprice").map_batches(function, version="1")
    return read.group_by("l_partkey").agg(dearest=ek.max("l_extendedprice")).write_parquet(out)

@ek.job
def spinning(src: str, out: str) -> ek.Pipeline:
    return _grouped(src, out, spins)

@ek.job
def leaking(src: str, out: str) -> ek.Pipeline:
    return _grouped(src, out, keeps)

@ek.job
def sound(src: str, out: str) -> ek.Pipeline:
    def waits(batch):
        time.sleep(0.03)
        return batch
    return _grouped(src, out, waits)

@ek.job
def two_stages(src: str, out: str) -> ek.Pipeline:
    grouped = ek.read_parquet(src).group_by("l_partkey").agg(dearest=ek.max("l_extendedprice"), lines=ek.count())
    return grouped.map_batches(sleeps, version="1").write_parquet(out)
"""


@pytest.fixture(scope="module")
def src(six_million: Path) -> Path:
    return six_million


@contextlib.contextmanager
def started(job: str, src: Path, folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Run]:
    (folder / "jobs.py").write_text(JOBS)
    target = f"{folder}/jobs.py:{job}" if not job.endswith(".py") else str(REPOSITORY / "jobs" / job)
    call = [
        sys.executable, "-m", "etlkit", "local", target, "--set", f"src={src}", "--set", f"out={folder}/out",
        "--state", f"{folder}/state", "--progress", "json", *options,
    ]  # fmt: skip
    process = subprocess.Popen(
        call, env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )
    run = Run(process)
    try:
        yield run
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=20)
            process.kill()


class Run:
    """The events of a run, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict] = []
        self.said: list[str] = []

    def until(self, found: Callable[[dict], bool]) -> dict:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            self.events.append(event)
            if found(event):
                return event
        raise AssertionError("it ended without that:\n" + "".join(self.said[-40:]))

    def rest(self) -> int:
        with contextlib.suppress(AssertionError):
            self.until(lambda event: False)
        return self.process.wait(60)

    def named(self, name: str) -> list[dict]:
        return [event for event in self.events if event["event"] == name]


def test_a_throttled_job_asks_for_cpu_and_gets_it_without_a_restart(src, tmp_path):
    with contextlib.closing(choose(None)) as enforcer:
        if "cpu" not in enforcer.describe():
            pytest.skip("no cpu cgroup here")
    options = ("--memory", "384Mi", "--cpu", "200m", "--max-cpu", "400m", "--resize-policy", "NotRequired")
    with started("spinning", src, tmp_path, *options) as run:
        asked = run.until(lambda event: event.get("instruction") == "RequestCpu")
        assert asked["to_cores"] == 0.4 and "throttled" in asked["reason"]
        changed = run.until(lambda event: event["event"] == "cpu_changed")
        assert (changed["from_cores"], changed["to_cores"]) == (0.2, 0.4)
        run.until(lambda event: event["event"] == "progress")
        assert max(event["throttled"] for event in run.named("progress")) >= 0.1
        assert not run.named("container_exited"), "nothing was restarted"


def test_how_long_the_quota_held_it_back_is_told_by_show_and_report(lineitem, tmp_path, etlkit_command):
    with contextlib.closing(choose(None)) as enforcer:
        if "cpu" not in enforcer.describe():
            pytest.skip("no cpu cgroup here")
    with started("part_revenue.py", lineitem, tmp_path, "--memory", "512Mi", "--cpu", "300m") as run:
        assert run.rest() == 0, "".join(run.said)
    state, page = str(tmp_path / "state"), str(tmp_path / "page.html")
    (attempt,) = json.loads(etlkit_command("show", state, "--json", cwd=tmp_path).stdout)["attempts"]
    assert attempt["throttled_s"] > 0.1
    assert "The CPU quota held it back" in etlkit_command("show", state, cwd=tmp_path).stdout
    assert etlkit_command("report", state, "-o", page, cwd=tmp_path).returncode == 0
    assert "held back by the CPU quota" in Path(page).read_text()


@pytest.mark.long  # under load a leak is now and then told too late for this job, which is short
def test_growth_that_no_split_explains_is_told_as_a_leak(src, tmp_path):
    options = ("--memory", "512Mi", "--resize-policy", "NotRequired", "--workers", "1")
    with started("leaking", src, tmp_path, *options) as run:
        leak = run.until(lambda event: event["event"] == "leak")
    assert leak["grown_bytes"] >= 8 << 20 and 0.5 * (1 << 20) < leak["bytes_per_split"] < 8 * (1 << 20)


def test_a_job_whose_state_grows_has_no_leak(src, tmp_path):
    with started("sound", src, tmp_path, "--memory", "512Mi", "--resize-policy", "NotRequired") as run:
        assert run.rest() == 0, "".join(run.said)
    assert run.named("leak") == []
    ended = run.named("attempt_ended")[-1]
    assert [one["done"] for one in ended["forecasts"]] == [0.1, 0.5]
    assert all(one["projected_bytes"] > 20 << 20 for one in ended["forecasts"]) and ended["peak_bytes"] > 0


def test_a_policy_that_changes_while_it_runs_is_taken_and_a_wrong_one_is_refused(src, tmp_path):
    (tmp_path / "etlkit.toml").write_text('max_memory = "1Gi"\n[policy]\ntight = 0.8\n')
    with started("sound", src, tmp_path, "--memory", "256Mi") as run:
        run.until(lambda event: event["event"] == "progress" and event["rows_in"] > 0)
        (tmp_path / "etlkit.toml").write_text('max_memory = "1Gi"\n[policy]\ntight = 0.7\n')
        taken = run.until(lambda event: event["event"] == "policy")
        assert taken["accepted"] and "tight 0.8 → 0.7" in taken["message"]
        (tmp_path / "etlkit.toml").write_text("[policy]\ntigt = 0.7\n")
        refused = run.until(lambda event: event["event"] == "policy")
        assert not refused["accepted"] and "tigt" in refused["message"]


@pytest.mark.parametrize("policy", ["NotRequired", pytest.param("RestartContainer", marks=pytest.mark.long)])
def test_a_second_stage_that_needs_little_gives_memory_back(policy, src, tmp_path):
    """Live it pays from a minute on, with a restart from ten."""
    options = ("--memory", "96Mi", "--max-memory", "1Gi", "--resize-policy", policy, "--workers", "1", "--grace", "4s")
    known = {"two_stages": {"limit_bytes": 512 << 20, "target": f"{tmp_path}/jobs.py:two_stages"}}
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".learned.json").write_text(json.dumps(known))
    with started("two_stages", src, tmp_path, *options) as run:
        larger = run.until(
            lambda event: (
                event["event"] == ("limit_changed" if policy == "NotRequired" else "container_started")
                and (event.get("to_bytes") or event["limit_bytes"]) == 512 << 20
            )
        )
        larger["to_bytes"] = 512 << 20
        smaller = run.until(lambda event: event["event"] == "resize" and event["to_bytes"] < event["from_bytes"])
        assert smaller["from_bytes"] == larger["to_bytes"] and smaller["to_bytes"] <= larger["to_bytes"] / 2
        if policy == "NotRequired":
            changed = run.until(lambda event: event["event"] == "limit_changed")
            assert changed["to_bytes"] == smaller["to_bytes"] and changed["asked"]
        else:
            again = run.until(lambda event: event["event"] == "attempt_started")
            assert again["limit_bytes"] == smaller["to_bytes"], "and it is not asked for again"
            run.until(lambda event: event["event"] == "progress")
        assert not any(event.get("oom_killed") for event in run.events)


def test_the_next_run_and_a_replaced_pod_ask_for_the_learned_size_at_once(src, tmp_path):
    options = ("--memory", "112Mi", "--max-memory", "1Gi", "--resize-policy", "NotRequired")
    with started("part_revenue.py", src, tmp_path, *options) as first:
        assert first.rest() == 0, "".join(first.said)
    asked = [event for event in first.named("resize") if event["outcome"] == "requested"]
    assert "forecast" in asked[0]["reason"] or "allocations" in asked[0]["reason"]
    note = json.loads((tmp_path / "state" / ".learned.json").read_text())["part_revenue"]
    assert note["limit_bytes"] > 112 << 20 and note["resume_bytes"] is None and note["split_factor"] > 0

    # The same run again: done, and nothing is asked for.
    with started("part_revenue.py", src, tmp_path, *options) as again:
        assert again.rest() == 0, "".join(again.said)
    assert again.named("resize") == []

    # Another run of the same job: the size is asked for before the work begins.
    (tmp_path / "out").rename(tmp_path / "before")
    with started("part_revenue.py", src, tmp_path, *options, "--set", "max_qty=30") as second:
        asked = [second.until(lambda event: event["event"] == "resize")]
        assert asked[0]["to_bytes"] == note["limit_bytes"] and "came to need" in asked[0]["reason"]
        second.until(lambda event: event["event"] == "limit_changed")
        # This pod is lost without a word; its replacement starts at the template's size (F22).
        pid = second.named("attempt_started")[-1]["pid"]
        second.process.kill()
        second.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with started("part_revenue.py", src, tmp_path, *options, "--set", "max_qty=30") as replaced:
        assert replaced.rest() == 0, "".join(replaced.said)
    events = [event for event in replaced.events if event["event"] in ("resize", "attempt_started")]
    assert events[0]["event"] == "resize" and "unfinished run stood" in events[0]["reason"]
    begun = next(event for event in events if event["event"] == "attempt_started")
    assert begun["limit_bytes"] == note["limit_bytes"], events
    assert_same(read_output(tmp_path / "out"), part_revenue(src, 30), ["l_partkey"])
