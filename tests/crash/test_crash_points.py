"""Real processes, killed or stopped at each named point of the commit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etlkit.checkpoint.disk import Disk
from etlkit.testing import crashpoints

from .payroll import NoLinks, Payroll, expected_output

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = tuple(name for name in crashpoints.names() if name.split(".")[0] in ("run", "list", "manifest", "floor"))
LINKED = [name for name in OURS if name != "manifest.claimed"]


def start(folder: Path, crash_at: str = "", *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, crashpoints.VARIABLE: crash_at, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.crash.payroll", str(folder), *words]
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stderr=subprocess.PIPE)


def finish(folder: Path, disk: Disk | None = None) -> Payroll:
    job = Payroll(disk or Disk(), str(folder))
    job.run()
    assert job.output() == expected_output()
    assert not job.warnings
    assert not list((folder / "state").rglob("*.tmp"))
    return job


def test_every_point_is_declared_and_reached() -> None:
    assert len(OURS) == 14
    text = "".join(path.read_text() for path in (REPOSITORY / "etlkit" / "checkpoint").glob("*.py"))
    for name in OURS:
        _, _, step = name.partition(".")
        assert f'reach("{name}")' in text or f'reach(f"{{kind}}.{step}")' in text, name


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("name", LINKED)
def test_killed_at_a_point_and_started_again(tmp_path: Path, name: str, times: int) -> None:
    killed = start(tmp_path, f"{name}:{times}")
    _, said = killed.communicate(timeout=60)
    if killed.returncode == 0:
        assert times > 1 and name.split(".")[0] in ("list", "floor"), "the point was not reached"
    else:
        assert killed.returncode == -signal.SIGKILL, said
    finish(tmp_path)


def test_killed_between_claim_and_rename_without_hard_links(tmp_path: Path) -> None:
    killed = start(tmp_path, "manifest.claimed:4", "no-links")
    assert killed.wait(60) == -signal.SIGKILL
    assert list((tmp_path / "state/manifests").glob("*.claim"))
    finish(tmp_path, NoLinks())
    assert not list((tmp_path / "state/manifests").glob("*.claim"))


def wait_until_stopped(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(f"/proc/{process.pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "T":
                return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    raise AssertionError("it never stopped")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see a stopped process")
@pytest.mark.parametrize("name", [*LINKED, "manifest.claimed"])
def test_stopped_at_a_point_replaced_and_woken(tmp_path: Path, name: str) -> None:
    """The second writer finishes while the first one sleeps; awake, the first can commit and publish nothing."""
    without_links = name == "manifest.claimed"
    words = ("no-links",) if without_links else ()
    times = 1 if name.split(".")[0] in ("list", "floor") else 4
    sleeper = start(tmp_path, f"{name}:{times}:stop", *words)
    try:
        wait_until_stopped(sleeper)
        # Its lock is a courtesy that a lost node takes with it: the file with it goes.
        (tmp_path / "state" / "writer.lock").unlink()
        done = finish(tmp_path, NoLinks() if without_links else None)
        before = done.output()
        manifests = sorted((tmp_path / "state" / "manifests").glob("0*.json"))[-1].name
        os.kill(sleeper.pid, signal.SIGCONT)
        _, said = sleeper.communicate(timeout=60)
    finally:
        if sleeper.poll() is None:
            sleeper.kill()
            sleeper.wait()
    assert sleeper.returncode == 73, said
    assert b"FencedError" in said
    assert done.output() == before == expected_output()
    assert sorted((tmp_path / "state" / "manifests").glob("0*.json"))[-1].name == manifests
    again = Payroll(Disk(), str(tmp_path))
    again.run()
    assert again.found is not None and again.found.phase.value == "done" and not again.warnings
