"""Where the wall stands, which errors it causes, and the numbers a sample is judged by. The real wall: conformance."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etlkit.memory import (
    MemorySample,
    Wall,
    interval_s,
    is_allocation_failure,
    release_pools,
    thrash,
)
from etlkit.memory.allocation import allocator_settings
from etlkit.memory.reserve import Reserve
from etlkit.memory.wall import MARGIN_FLOOR_BYTES, compute_placement

MIB = 1024**2
PLAIN = MemorySample(
    limit_bytes=256 * MIB,
    used_bytes=60 * MIB,
    current_bytes=90 * MIB,
    anon_bytes=40 * MIB,
    file_bytes=48 * MIB,
    inactive_file_bytes=30 * MIB,
    dirty_bytes=0,
    kernel_bytes=2 * MIB,
    oom_kills=0,
    refaults=0,
    major_faults=0,
    psi_some_avg10=None,
    source="cgroup1",
    active_file_bytes=18 * MIB,
    mapped_bytes=20 * MIB,
)


def test_the_wall_leaves_room_for_all_that_cannot_be_taken_back() -> None:
    busy = replace(PLAIN, anon_bytes=70 * MIB, dirty_bytes=5 * MIB, writeback_bytes=MIB, shmem_bytes=3 * MIB)
    placement = compute_placement(256 * MIB, busy, mapped_data_bytes=100 * MIB, own_anon_bytes=40 * MIB, stack_bytes=0)
    # 30 MiB of other processes, 2 of kernel, 5 + 1 + 3 of cache that is pinned, 20 of code.
    assert placement.others_bytes == 61 * MIB
    assert placement.data_bytes == 256 * MIB - 61 * MIB - placement.margin_bytes
    assert placement.room_bytes == placement.data_bytes - 100 * MIB


def test_stacks_count_as_data_but_are_not_touched() -> None:
    bare = compute_placement(256 * MIB, PLAIN, 100 * MIB, 40 * MIB, 0)
    threads = compute_placement(256 * MIB, PLAIN, 100 * MIB, 40 * MIB, 48 * MIB)
    assert threads.data_bytes - bare.data_bytes == 48 * MIB
    # No more than what is mapped and untouched in all.
    most = compute_placement(256 * MIB, PLAIN, 50 * MIB, 40 * MIB, 48 * MIB)
    assert most.untouched_stack_bytes == 10 * MIB


@given(
    limit=st.integers(64 * MIB, 4096 * MIB),
    anon=st.integers(0, 2048 * MIB),
    own=st.integers(0, 2048 * MIB),
    gap=st.integers(0, 512 * MIB),
    stacks=st.integers(0, 256 * MIB),
    mapped=st.integers(0, 64 * MIB),
    dirty=st.integers(0, 64 * MIB),
)
def test_what_the_wall_allows_never_exceeds_the_limit(
    limit: int, anon: int, own: int, gap: int, stacks: int, mapped: int, dirty: int
) -> None:
    sample = replace(PLAIN, anon_bytes=anon, mapped_bytes=mapped, dirty_bytes=dirty)
    placement = compute_placement(limit, sample, own + gap, own, stacks)
    worst = placement.data_bytes - placement.untouched_stack_bytes + placement.others_bytes
    assert worst <= limit - placement.margin_bytes // 2
    assert placement.margin_bytes >= MARGIN_FLOOR_BYTES


def test_the_wall_moves_with_the_limit_and_goes_when_there_is_none() -> None:
    wall = Wall(pool="system")
    assert wall.unavailable is None
    small, large = wall.place(256 * MIB, PLAIN), wall.place(512 * MIB, PLAIN)
    assert small is not None and large is not None and large.data_bytes - small.data_bytes > 230 * MIB
    assert wall.place(None, PLAIN) is None


@pytest.mark.parametrize("pool", ["mimalloc", "jemalloc", "unknown"])
def test_no_wall_with_another_pool_and_it_says_why(pool: str) -> None:
    wall = Wall(pool=pool)
    assert wall.unavailable is not None and pool in wall.unavailable and "system" in wall.unavailable
    assert wall.raise_to(256 * MIB, PLAIN) is None
    wall.give_way()
    with wall.room(10**15, "anything"):
        pass
    wall.lift()


def test_up_moved_opened_asked_and_down_again() -> None:
    """In a process of its own: the limit is the whole process's."""
    script = """
import resource
from dataclasses import replace
from etlkit.memory import Wall, ProcessReader as Reader
wall, sample = Wall(pool="system"), Reader().read()
before = resource.getrlimit(resource.RLIMIT_DATA)
placed = wall.raise_to(400 << 20, sample)
assert resource.getrlimit(resource.RLIMIT_DATA)[0] == placed.data_bytes
try:
    bytearray(500 << 20)
except MemoryError:
    print("refused")
half_open = placed.data_bytes + placed.margin_bytes // 2
with wall.room(64 << 20, "a part"):
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == half_open
    with wall.room(1 << 20, "another"):
        pass
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == half_open, "as long as somebody is inside"
    placed = wall.raise_to(400 << 20, sample)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == placed.data_bytes + placed.margin_bytes // 2
assert resource.getrlimit(resource.RLIMIT_DATA)[0] == placed.data_bytes
try:
    with wall.room(500 << 20, "a part"):
        print("not here")
except MemoryError as error:
    print(error)
wall.give_way()
assert resource.getrlimit(resource.RLIMIT_DATA)[0] == placed.data_bytes + placed.margin_bytes // 2
wall.give_way()
assert resource.getrlimit(resource.RLIMIT_DATA)[0] == placed.data_bytes + placed.margin_bytes // 2, "once only"
wall.raise_to(900 << 20, sample)
bytearray(500 << 20)
wall.raise_to(None, sample)
assert resource.getrlimit(resource.RLIMIT_DATA) == before and wall.placement is None
"""
    script = script.replace("from etlkit.memory import Wall, ProcessReader as Reader", "from etlkit.memory import Wall")
    script = script.replace(
        "import resource\n", "import resource\nfrom etlkit.memory.process import ProcessReader as Reader\n", 1
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused\na part needs 524288000 bytes")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no wall elsewhere")
def test_what_is_kept_under_the_wall_counts_as_data_is_charged_to_nobody_and_can_be_let_go() -> None:
    def sizes() -> tuple[int, int]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmData"].split()[0]) * 1024, int(lines["RssAnon"].split()[0]) * 1024

    reserve = Reserve()
    data, touched = sizes()
    assert reserve.hold(16 * MIB) and reserve.hold(64 * MIB) and reserve.hold(8 * MIB)
    held = sizes()
    assert reserve.held_bytes == 64 * MIB, "it grows to what is asked for, and does not shrink"
    assert 60 * MIB < held[0] - data < 70 * MIB and held[1] - touched < 8 * MIB
    reserve.let_go()
    reserve.let_go()
    assert not reserve.held_bytes and sizes()[0] - data < 8 * MIB


def test_no_room_to_keep_is_no_error() -> None:
    """Under a wall that is too low for it: false, and tried again later."""
    script = (
        "import resource\n"
        "from etlkit.memory.reserve import Reserve\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, resource.RLIM_INFINITY))\n"
        "reserve = Reserve()\n"
        "print(reserve.hold(8 << 20), reserve.hold(128 << 20), reserve.held_bytes >> 20)\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "print(reserve.hold(128 << 20), reserve.held_bytes >> 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "8", "True", "128"]


def test_importing_memory_needs_the_standard_library_alone() -> None:
    script = (
        "import sys; import etlkit.memory; print([n for n in sys.modules if n.split('.')[0] in ('pyarrow', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def raised_from(cause: BaseException) -> BaseException:
    try:
        raise ValueError("my function failed") from cause
    except ValueError as error:
        return error


def raised_while_handling(other: BaseException) -> BaseException:
    try:
        try:
            raise other
        except MemoryError:
            {}["key"]
    except KeyError as error:
        return error
    raise AssertionError


FAILURES = [
    MemoryError(),
    pa.ArrowMemoryError("malloc of size 16777216 failed"),
    pa.ArrowException("Failed to launch worker thread: Resource temporarily unavailable"),
    pa.ArrowInvalid("malloc of size 64 failed"),
    OSError("Could not open Parquet input source '<Buffer>': malloc of size 65536 failed"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    ImportError("/x/_ctypes.so: failed to map segment from shared object"),
    raised_from(pa.ArrowMemoryError("malloc of size 1 failed")),
    raised_from(raised_from(MemoryError())),
]
OTHERS = [
    ValueError("malloc of size 10 failed"),
    KeyError("std::bad_alloc"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError("Could not open Parquet input source '<Buffer>': Parquet magic bytes not found"),
    pa.ArrowInvalid("Could not convert 'x' with type str: tried to convert to int64"),
    ImportError("No module named 'numpy'"),
    raised_from(KeyError("x")),
    raised_while_handling(MemoryError()),
]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_no_memory_under_every_name(error: BaseException) -> None:
    assert is_allocation_failure(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_a_bug_is_not_excused(error: BaseException) -> None:
    assert not is_allocation_failure(error)


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert not is_allocation_failure(first)


def test_releasing_gives_memory_back() -> None:
    buffers = [pa.allocate_buffer(1 * MIB, resizable=True) for _ in range(8)]
    del buffers
    assert release_pools() >= 0


def test_small_limits_keep_little() -> None:
    small, large = allocator_settings(96 * MIB), allocator_settings(None)
    assert small["MALLOC_TRIM_THRESHOLD_"][1] < large["MALLOC_TRIM_THRESHOLD_"][1]
    assert small.keys() == large.keys()


MAPPED = """
import ctypes, os, sys
from etlkit.memory import tune_allocator
tune_allocator(int(sys.argv.pop(1)) or None)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
from etlkit.memory.heap import _FIELDS
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]
libc.mallinfo2.restype = Info
before = libc.mallinfo2().hblks
held = [libc.malloc(int(size)) for size in sys.argv[1:]]
print(libc.mallinfo2().hblks - before, os.environ["ARROW_DEFAULT_MEMORY_POOL"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_allocator_is_tuned_in_the_running_process() -> None:
    def mapped(limit: int = 96 * MIB, **extra: str) -> str:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "ARROW_"))}
        sizes = [str(5 * MIB), str(7 * MIB)]
        run = [sys.executable, "-c", MAPPED, str(limit), *sizes]
        return subprocess.run(run, env=environ | extra, capture_output=True, text=True, check=True).stdout.strip()

    assert mapped() == "1 system", "6 MiB is the threshold of a limit of 96 MiB"
    assert mapped(MALLOC_MMAP_THRESHOLD_=str(MIB), ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "2 mimalloc"
    assert mapped(0) == "0 jemalloc", "without a limit there is no wall, and jemalloc keeps less"


def test_looking_more_often_near_the_limit() -> None:
    waits = [interval_s(replace(PLAIN, used_bytes=used * MIB)) for used in (10, 128, 160, 200, 240, 256, 300)]
    assert waits == sorted(waits, reverse=True) and waits[0] == 0.5 and waits[-1] == 0.1
    assert interval_s(replace(PLAIN, limit_bytes=None)) == 0.5
    assert interval_s(replace(PLAIN, used_bytes=100 * MIB, high_bytes=105 * MIB)) == 0.1


def test_what_cannot_be_reclaimed_is_told_from_what_can() -> None:
    sample = replace(PLAIN, dirty_bytes=4 * MIB, shmem_bytes=MIB, slab_reclaimable_bytes=MIB)
    assert sample.hot_mapped_bytes == 18 * MIB
    assert sample.unreclaimable_bytes == (40 + 1 + 1 + 4 + 18) * MIB
    assert sample.reclaimable_bytes == 90 * MIB - sample.unreclaimable_bytes


def test_thrash_as_measured_in_a_real_group() -> None:
    def after(refaults: int, major_faults: int) -> float:
        return thrash(PLAIN, replace(PLAIN, refaults=refaults, major_faults=major_faults), 1.0)

    # (refaults, major faults) a second, from ADR 6: idle, start-up, input read twice, group-by at 192 and at 96 MiB.
    assert after(0, 0) == 0.0
    assert after(900, 94) < 0.05
    assert after(55_000, 6) < 0.05
    assert after(65_000, 180) > 0.3
    assert after(230_000, 200) > 0.6
    assert after(0, 17_000) == 1.0
    assert thrash(PLAIN, PLAIN, 0.0) == 0.0


def test_thrash_is_pressure_stall_where_the_kernel_counts_it() -> None:
    before, after = replace(PLAIN, psi_some_us=1_000_000), replace(PLAIN, psi_some_us=1_250_000, major_faults=10**6)
    assert thrash(before, after, 0.5) == 0.5


def test_a_table_of_keys_that_does_not_fit_is_an_error_and_not_the_end_of_the_process() -> None:
    """pyarrow 26 makes the table without looking at whether it got its memory: SIGSEGV."""
    script = """
import resource, sys
import pyarrow as pa
import pyarrow.compute as pc
from etlkit.engine.physical import count_up, index_in
values, few = count_up(1 << 20), count_up(3)
mapped = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (mapped + (24 << 20), resource.RLIM_INFINITY))
assert index_in(few, few).to_pylist() == [0, 1, 2]
try:
    index_in(few, values)
except MemoryError as error:
    print(error, flush=True)
pc.index_in(few, value_set=values)
"""
    environ = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environ)
    assert done.stdout.startswith("matching keys needs 100663296 bytes"), done.stderr
    assert done.returncode == -signal.SIGSEGV, "pyarrow looks now: index_in of engine/physical.py can go"
