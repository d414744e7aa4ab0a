"""A writer that sleeps through a takeover, with a real job through the real command line.

It is stopped (SIGSTOP) at each crash point; another process with the same command takes over and finishes; then it is woken. It must
end with 73, and nothing that it does may change what was published or committed. Its lock goes with its node: the lock file is
removed, as a lock server forgets a node that is gone, so only the commit stands between the two.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from etlkit.observe.state import observe
from etlkit.testing import crashpoints

from .campaign import difference, finish, make_source, names_of, points, rows_of, start

JOB = "outputs"

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see a stopped process")


def test_every_point_woken_after_a_takeover_changes_nothing(tmp_path: Path) -> None:
    source = make_source(tmp_path, "0.002", 600)
    assert finish(JOB, source, tmp_path / "whole") == 0
    whole = rows_of(tmp_path / "whole" / "out")

    def one(point: str) -> list[str]:
        return [f"{point}: {wrong}" for wrong in replaced(point, source, tmp_path / point, whole)]

    with ThreadPoolExecutor(2) as pool:
        wrong = [text for found in pool.map(one, points()) for text in found]
    assert not wrong, "\n".join(wrong)


def test_woken_in_the_middle_of_its_start_it_leaves_its_successors_staging_alone(tmp_path: Path) -> None:
    """Both are alive: the one that took over has staged parts when the other one goes on with preparing its sinks."""
    source = make_source(tmp_path, "0.002", 600)
    assert finish(JOB, source, tmp_path / "whole") == 0
    whole = rows_of(tmp_path / "whole" / "out")
    place = tmp_path / "case"
    sleeper = start(JOB, source, place, {crashpoints.VARIABLE: "sink.prepared:stop"})
    successor = None
    try:
        assert is_stopped(sleeper)
        (place / "state" / "writer.lock").unlink()
        successor = start(JOB, source, place, {crashpoints.VARIABLE: "early.shown:stop"})
        assert is_stopped(successor)
        before = fingerprint(place / "out")
        os.kill(sleeper.pid, signal.SIGCONT)
        assert sleeper.wait(60) == 73, said(place)
        assert fingerprint(place / "out") == before
        os.kill(successor.pid, signal.SIGCONT)
        assert successor.wait(60) == 0, said(place)
    finally:
        for process in filter(None, (sleeper, successor)):
            if process.poll() is None:
                process.kill()
                process.wait()
    assert set(compared(place, whole).values()) == {(0, 0)}


def replaced(point: str, source: Path, place: Path, whole: dict) -> list[str]:
    """What was wrong; empty if all was well."""
    sleeper = start(JOB, source, place, {crashpoints.VARIABLE: f"{point}:stop"})
    try:
        if not is_stopped(sleeper):
            return [f"never stopped, exit {sleeper.poll()}"]
        (place / "state" / "writer.lock").unlink()
        if (code := finish(JOB, source, place)) != 0:
            return [f"the second run ended with {code}: {said(place)}"]
        wrong = [
            f"{name}: {less} lost, {more} doubled after the takeover"
            for name, (less, more) in compared(place, whole).items()
            if less or more
        ]
        before, committed = fingerprint(place / "out"), newest(place)
        os.kill(sleeper.pid, signal.SIGCONT)
        code = sleeper.wait(60)
    finally:
        if sleeper.poll() is None:
            sleeper.kill()
            sleeper.wait()
    if code != 73:
        wrong.append(f"the sleeper ended with {code}, not 73: {said(place)}")
    after = fingerprint(place / "out")
    if after != before:
        wrong.append(f"the output changed: {sorted(before.keys() ^ after.keys()) or 'other bytes'}")
    if newest(place) != committed:
        wrong.append("the sleeper committed something")
    if (status := observe(place / "state").story["status"]) != "done":
        wrong.append(f"show says {status}")
    return wrong


def compared(place: Path, whole: dict) -> dict[str, tuple[int, int]]:
    found = rows_of(place / "out")
    return {name: difference(whole.get(name), found.get(name)) for name in whole.keys() | found.keys()}


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.005)
    return False


def fingerprint(out: Path) -> dict[str, tuple[bytes, int, int]]:
    """Names, bytes, inodes and times of all files below the output, hidden ones too."""
    return {
        name: ((out / name).read_bytes(), (out / name).stat().st_ino, (out / name).stat().st_mtime_ns)
        for name in names_of(out)
    }


def newest(place: Path) -> str:
    return max(path.name for path in (place / "state" / "manifests").glob("0*.json"))


def said(place: Path) -> str:
    return (place / "said").read_text()[-400:].strip()
