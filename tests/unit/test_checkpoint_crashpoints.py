"""The switch itself: what ETLKIT_CRASH_AT says is what happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from etlkit.testing import crashpoints

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = (
    "from etlkit.testing.crashpoints import reach\nfor n in range(5):\n    print(n, flush=True)\n    reach('here')\n"
)


def run(crash_at: str) -> tuple[int, list[str]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), crashpoints.VARIABLE: crash_at}
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split()


def test_killed_the_first_or_the_third_time_or_never() -> None:
    assert run("here") == (-signal.SIGKILL, ["0"])
    assert run("here:3") == (-signal.SIGKILL, ["0", "1", "2"])
    assert run("there") == (0, ["0", "1", "2", "3", "4"])
    assert run("") == (0, ["0", "1", "2", "3", "4"])


def test_a_mistake_in_it_is_told() -> None:
    code, said = run("here:often")
    assert code == 1 and not said
    with pytest.raises(ValueError, match="NAME:TIMES"):
        crashpoints._parse("a:0")


def test_declared_once_and_in_order() -> None:
    crashpoints.declare("zz.test_one", "zz.test_two")
    crashpoints.declare("zz.test_one")
    assert [name for name in crashpoints.names() if name.startswith("zz.")] == ["zz.test_one", "zz.test_two"]
    for name in ("zz.test_one", "zz.test_two"):
        del crashpoints._declared[name]


def test_it_needs_the_standard_library_only() -> None:
    text = (REPOSITORY / "etlkit" / "testing" / "crashpoints.py").read_text()
    imported = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= {"__future__", "os", "signal", "threading", "dataclasses"}
