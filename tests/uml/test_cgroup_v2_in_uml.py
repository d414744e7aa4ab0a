"""The same reader on a real cgroup v2, in a kernel of its own (User-Mode Linux): limit, use, events, high, and a kill."""

from __future__ import annotations

import json
import os
import sys

import pytest

from etlkit.errors import EtlkitError
from etlkit.testing.uml import run_in_uml, unavailable

MIB = 1024**2
REASON = unavailable()
pytestmark = [pytest.mark.uml, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

READ = """
import dataclasses, json
from etlkit.memory import find_cpu_reader, find_reader
reader, cpu = find_reader(), find_cpu_reader()
before = reader.read()
held = bytearray(12 << 20)
after = reader.read()
print(json.dumps({"before": dataclasses.asdict(before), "after": dataclasses.asdict(after),
                  "cpu": dataclasses.asdict(cpu.read()), "described": reader.describe()}))
"""


def environ() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}


def test_the_reader_and_a_kill_on_a_real_v2(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One boot for all of it: it is the boot that takes the time."""
    code = tmp_path_factory.mktemp("uml") / "read.py"
    code.write_text(READ)
    script = f"""
set -e
group=/sys/fs/cgroup/pod
mkdir $group
echo +memory +cpu > $group/cgroup.subtree_control
mkdir $group/main
echo 96M > $group/memory.max
echo 64M > $group/memory.high
echo 128M > $group/main/memory.max
echo "150000 100000" > $group/main/cpu.max
inside() {{ ( sh -c 'echo $PPID' > $group/main/cgroup.procs; exec "$@" ); }}
inside {sys.executable} {code}
echo 40M > $group/main/memory.max
echo max > $group/memory.high
inside {sys.executable} -c 'bytearray(80 << 20)' || echo "exit $?"
inside {sys.executable} {code}
"""
    lines = run_in_uml(script, timeout_s=55, environ=environ()).splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith("{")]
    first, second = parsed
    # The pod's limit is the smaller one, and memory.high is told apart from it.
    assert first["after"]["source"] == "cgroup2"
    assert first["after"]["limit_bytes"] == 96 * MIB and first["after"]["high_bytes"] == 64 * MIB
    assert 11 * MIB < first["after"]["anon_bytes"] - first["before"]["anon_bytes"] < 16 * MIB
    assert first["after"]["used_bytes"] <= first["after"]["current_bytes"] < 64 * MIB
    assert first["after"]["psi_some_avg10"] is None, "this kernel has no PSI"
    assert first["cpu"]["quota_cores"] == 1.5 and first["cpu"]["usage_s"] > 0
    assert first["after"]["oom_kills"] == 0
    # Killed at the container's own limit, and the next start sees it in memory.events.
    assert "exit 137" in lines
    assert second["after"]["limit_bytes"] == 40 * MIB and second["after"]["high_bytes"] is None
    assert second["after"]["oom_kills"] == 1
    assert second["described"] == f"cgroup v2 /sys/fs/cgroup/pod/main, limit {40 * MIB}"


def test_a_script_that_fails_is_an_error_with_what_it_printed() -> None:
    with pytest.raises(EtlkitError, match="ended with code 3; it printed:\nhello"):
        run_in_uml("echo hello; exit 3", mem="64M", timeout_s=30)
