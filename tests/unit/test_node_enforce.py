"""Memory enforcement with real processes: cgroup v1 where it may be written, and sampling everywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etlkit.errors import ConfigError
from etlkit.memory import find_reader
from etlkit.node import enforce
from etlkit.node.container import RunningContainer, small_environment
from etlkit.node.enforce import ContainerGroup, Enforcer, PodGroup
from etlkit.node.sampling import SamplingEnforcer
from etlkit.units import MIB

HOLD = "import time; x = bytearray({size}); print('held', flush=True); time.sleep(60)"


@pytest.fixture(params=["v2", "v1", "sampling"])
def enforcer(request: pytest.FixtureRequest) -> Iterator[Enforcer]:
    try:
        made = enforce.choose(request.param)
    except ConfigError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture
def pod(enforcer: Enforcer) -> PodGroup:
    return enforcer.pod("uid")


class Run:
    """A python process in a group."""

    def __init__(self, group: ContainerGroup, script: str) -> None:
        self.codes: list[int] = []
        self.lines: list[str] = []
        self.process = RunningContainer(
            [sys.executable, "-S", "-c", script],
            environment=small_environment() | group.environment,
            group=group,
            on_exit=self.codes.append,
            stdout=lambda line: self.lines.append(line.decode().strip()),
        )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_over_the_limit_is_killed_and_counted(pod: PodGroup) -> None:
    group = pod.container("c")
    group.set_memory(64 * MIB)
    run = Run(group, HOLD.format(size=200 * MIB))
    until(lambda: run.codes)
    assert run.codes == [137]
    assert group.oom_kills() >= 1


def test_below_the_limit_lives_and_is_measured(pod: PodGroup) -> None:
    group = pod.container("c")
    group.set_memory(200 * MIB)
    run = Run(group, HOLD.format(size=64 * MIB))
    until(lambda: group.usage_bytes() > 64 * MIB)
    assert (run.codes, group.oom_kills()) == ([], 0)
    group.kill_all()
    until(lambda: run.codes)
    # A kill that is not for memory is not counted as one.
    assert (run.codes, group.oom_kills()) == ([137], 0)
    assert 64 * MIB < group.peak_bytes() < 200 * MIB


def test_the_job_reads_its_limit_as_in_a_pod(pod: PodGroup) -> None:
    group = pod.container("c")
    group.set_memory(96 * MIB)
    script = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from etlkit.memory import find_reader
reader = find_reader()
seen = None
while seen != {160 * MIB}:
    if reader.limit_bytes() != seen:
        seen = reader.limit_bytes()
        print(seen, flush=True)
    time.sleep(0.01)
sample = reader.read()
print(sample.limit_bytes, sample.current_bytes > 0, sample.oom_kills, flush=True)
"""
    run = Run(group, script)
    until(lambda: run.lines)
    group.set_memory(160 * MIB)
    until(lambda: run.codes)
    assert run.lines == [str(96 * MIB), str(160 * MIB), f"{160 * MIB} True 0"]
    assert find_reader  # the reader is the house's own


def test_children_die_with_the_first_process(pod: PodGroup) -> None:
    group = pod.container("c")
    group.set_memory(None)
    script = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True)"
    run = Run(group, script)
    until(lambda: run.codes)
    child = int(run.lines[0])
    until(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_command_that_is_not_there_ends_with_127(pod: PodGroup, enforcer: Enforcer) -> None:
    if not enforcer.real:
        pytest.skip("without a group to join there is no shell in between")
    codes: list[int] = []
    RunningContainer(["/no/such/command"], environment={}, group=pod.container("c"), on_exit=codes.append)
    until(lambda: codes)
    assert codes == [127]


@pytest.mark.parametrize("name", ["v1", "sampling"])
def test_what_a_killed_node_left_is_removed_by_the_next(name: str) -> None:
    script = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from etlkit.node import enforce
from etlkit.node.container import RunningContainer
node = enforce.choose({name!r})
group = node.pod("uid").container("c")
run = RunningContainer(["sleep", "60"], environment={{}}, group=group, on_exit=print)
print(run.pid, flush=True)
print(getattr(node, "_root").memory if {name!r} == "v1" else node._root, flush=True)
time.sleep(60)
"""
    try:
        enforce.choose(name).close()
    except ConfigError as error:
        pytest.skip(str(error))
    left = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert left.stdout is not None
    pid, folder = int(left.stdout.readline()), Path(left.stdout.readline().strip())
    left.kill()
    left.wait()
    assert folder.exists()
    enforce.choose(name).close()
    assert not folder.exists()
    if name == "v1":
        until(lambda: not _alive(pid))
    else:
        os.kill(pid, signal.SIGKILL)


def test_an_enforcer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of v2, v1, sampling"):
        enforce.choose("wishes")


def test_sampling_says_what_it_is_not() -> None:
    made = SamplingEnforcer()
    assert not made.real
    assert "mean nothing here" in made.describe()
    made.close()


def test_the_sampled_folder_has_the_shape_of_v2(tmp_path: Path) -> None:
    made = SamplingEnforcer()
    group = made.pod("uid").container("c")
    group.set_memory(64 * MIB)
    folder = Path(group.environment["ETLKIT_CGROUP"])
    assert int((folder / "memory.max").read_text()) == 64 * MIB
    group.set_memory(1 * MIB)
    assert int((folder / "memory.max").read_text()) == 1 * MIB
    group.set_memory(None)
    assert (folder / "memory.max").read_text().strip() == "max"
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    assert {"anon", "file", "inactive_file", "file_dirty", "pgmajfault"} <= stat.keys()
    events = dict(line.split() for line in (folder / "memory.events").read_text().splitlines())
    assert events["oom_kill"] == "0"
    made.close()
    assert not folder.exists()
