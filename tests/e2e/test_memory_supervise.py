"""`etlkit supervise` around a process that knows nothing of etlkit, in a pod of the local node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
from etlkit.runtime.supervise import Slope, surroundings, with_limits
from etlkit.testing.cgroups import unavailable
from etlkit.units import GIB, MIB

from ..conftest import environment

SUPERVISE = [sys.executable, "-m", "etlkit", "supervise"]
GROWS = """
import time
held = []
for _ in range(30):
    held.append(bytearray(b"x") * (8 << 20))
    time.sleep(0.12)
"""
needs_cgroup = pytest.mark.skipif(unavailable() is not None, reason=f"no memory cgroup here: {unavailable()}")


def in_a_pod(policy: str, command: list[str], max_memory: str):
    said: list[str] = []
    restart = "Never" if policy == "NotRequired" else "OnFailure"  # F9
    manifest = pod_manifest("any", command, memory="128Mi", resize_policy=policy, restart_policy=restart)
    with Node(2 * GIB) as node:
        result = node.start_job(
            manifest,
            max_memory=max_memory,
            backoff_limit=0,
            environment_base=environment(),
            stderr=lambda container, line: said.append(line.decode()),
        ).wait(90)
    return result, "".join(said)


@needs_cgroup
def test_a_process_that_grows_past_its_limit_gets_more_and_ends_well():
    result, said = in_a_pod("NotRequired", [*SUPERVISE, "--", sys.executable, "-c", GROWS], "1Gi")
    assert (result.exit_code, result.oom_kills, result.restarts) == (0, 0, 0), said
    assert "asking for 128 MiB" in said and "granted" in said
    assert result.history[-1].limits[-1][1] > 128 * MIB


@needs_cgroup
def test_without_it_the_same_process_is_killed():
    result, _ = in_a_pod("NotRequired", [sys.executable, "-c", GROWS], "1Gi")
    assert result.oom_kills == 1


@needs_cgroup
def test_restart_container_is_refused():
    result, said = in_a_pod("RestartContainer", [*SUPERVISE, "--", sys.executable, "-c", "raise SystemExit(5)"], "1Gi")
    assert result.history[0].exit_code == 78 and "NotRequired" in said


@pytest.mark.parametrize(("code", "wanted"), [("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_is_the_commands(code, wanted):
    done = subprocess.run([*SUPERVISE, "--", sys.executable, "-c", code], env=environment(), capture_output=True)
    assert done.returncode == wanted, done.stderr


def test_signals_are_passed_on():
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(42)); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [*SUPERVISE, "--", sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 42


@pytest.mark.parametrize("words", [[], ["--"], ["--", "no-such-program-here"]])
def test_no_command_is_a_usage_error(words):
    assert subprocess.run([*SUPERVISE, *words], env=environment(), capture_output=True).returncode == 2


def test_what_runtimes_are_told():
    told = surroundings(1024 * MIB, 2, {"PATH": "/bin"})
    assert told["JAVA_TOOL_OPTIONS"] == "-Xmx716m -XX:ActiveProcessorCount=2"
    assert told["GOMEMLIMIT"] == "870MiB" and told["POLARS_MAX_THREADS"] == "2" and told["PATH"] == "/bin"
    theirs = {"JAVA_TOOL_OPTIONS": "-Xmx64m", "GOMEMLIMIT": "1GiB", "POLARS_MAX_THREADS": "7"}
    assert surroundings(1024 * MIB, 2, theirs).items() >= theirs.items(), "what the author has set stays"
    assert "GOMEMLIMIT" not in surroundings(None, 2, {})
    assert with_limits(["/usr/bin/duckdb", "a.db"], 1024 * MIB)[1:3] == ["-cmd", "SET memory_limit='870MiB'"]
    assert with_limits(["java", "-jar", "a"], 1024 * MIB) == ["java", "-jar", "a"]


def test_the_slope_looks_ahead_and_forgets():
    slope = Slope()
    assert slope.add(0.0, 100) == 100
    assert slope.add(1.0, 200) == 200 + 8 * 100
    for second in range(2, 9):
        flat = slope.add(float(second), 200)
    assert flat == 200
