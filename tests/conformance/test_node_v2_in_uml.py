"""The local node on a real cgroup v2, in a kernel of its own: at the root, and in a group that was handed to it.

Short, since pages fault some fifty times slower there. One boot for all of it.
"""

from __future__ import annotations

import json
import os
import sys

import pytest

from etlkit.testing.uml import run_in_uml, unavailable

MIB = 1024**2
REASON = unavailable()
pytestmark = [pytest.mark.uml, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

HOG = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo survived"
WATCH = (
    'f=/sys/fs/cgroup$(sed -n "s/^0:://p" /proc/self/cgroup); echo group $(cat $f/memory.oom.group) $(cat $f/cpu.max); '
    'while :; do n=$(cat $f/memory.max); [ "$n" = "$o" ] || echo $n; o=$n; [ "$n" = 67108864 ] && exit 0; sleep 0.1; done'
)

NODE = """
import glob, json, sys
from pathlib import Path
from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
MIB = 1024**2
hog, watch = sys.argv[1:]
own = lambda: Path("/proc/self/cgroup").read_text().strip()
before, lines = own(), []
keep = lambda container, line: lines.append(line.decode().strip())
shell = lambda text: ["/bin/sh", "-c", text]
with Node(256 * MIB) as node:
    hungry = pod_manifest("hog", shell(hog), memory="10Mi")
    killed = node.run_pod(hungry, backoff_limit=1, timeout_s=50, stdout=keep)
    small = pod_manifest("live", shell(watch), memory="32Mi", cpu="500m", resize_policy="NotRequired")
    live = node.start_job(small, stdout=keep)
    node.store.wait_until(lambda: len(lines) == 2, 40)
    node.resize("live", "etl", memory="64Mi")
    done = live.wait(40)
    kind = [node.enforcer.name, node.enforcer.real]
first = killed.history[0]
left = glob.glob("/sys/fs/cgroup/**/etlkit-*", recursive=True)
death = [first.exit_code, first.reason, killed.oom_kills]
print(json.dumps([*kind, *death, lines, done.exit_code, done.restarts, left, own() == before]))
"""


def test_kills_and_live_resizes_on_v2(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("uml-node")
    for name, text in (("node.py", NODE), ("hog.sh", HOG), ("watch.sh", WATCH)):
        (folder / name).write_text(text)
    call = f'{sys.executable} {folder}/node.py "$(cat {folder}/hog.sh)" "$(cat {folder}/watch.sh)"'
    script = f"""
set -e
ip link set lo up 2>/dev/null || ifconfig lo up
{call}
mkdir /sys/fs/cgroup/handed
sh -c 'echo $$ > /sys/fs/cgroup/handed/cgroup.procs; exec "$@"' sh {call}
"""
    environ = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    printed = run_in_uml(script, timeout_s=110, environ=environ)
    at_root, handed = [json.loads(line) for line in printed.splitlines() if line.startswith("[")]
    expected_lines = ["group 1 50000 100000", str(32 * MIB), str(64 * MIB)]
    for name, real, code, reason, kills, lines, exit_code, restarts, left, back in (at_root, handed):
        assert (name, real) == ("v2", True)
        assert (code, reason) == (137, "OOMKilled")
        # With memory.oom.group every process of the container is killed, and each is counted.
        assert kills >= 1
        assert lines == expected_lines
        assert (exit_code, restarts) == (0, 0)
        assert left == [] and back
