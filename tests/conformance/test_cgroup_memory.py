"""The readers, thrash and the wall against the kernel's own memory controller: a real group, a real limit.

Skipped, with the reason, where this user may not make one. The same reader runs on v2 in tests/uml.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.memory import MemorySample
from etlkit.memory.allocation import allocator_settings
from etlkit.testing.cgroups import GroupRun, RealGroup, make_group, unavailable

MIB = 1024**2
REASON = unavailable()
pytestmark = [pytest.mark.cgroup, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


def run_python(
    group: RealGroup, script: str, *arguments: object, wall: bool = False, timeout_s: float = 60
) -> GroupRun:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("ETLKIT_CGROUP", None)
    if wall:
        settings = allocator_settings(group.limit_bytes).items()
        env |= {"ARROW_DEFAULT_MEMORY_POOL": "system", **{name: str(value) for name, (_, value) in settings}}
    return group.run([sys.executable, "-c", script, *map(str, arguments)], env=env, timeout_s=timeout_s)


READ = """
import dataclasses, json, sys
from etlkit.memory import find_reader
reader = find_reader()
before = reader.read()
held = bytearray(int(sys.argv[1]) << 20)
for place in range(0, len(held), 4096):
    held[place] = 1
print(json.dumps([dataclasses.asdict(before), dataclasses.asdict(reader.read()), reader.describe()]))
"""


def test_limit_and_use_are_the_kernels() -> None:
    with make_group(96 * MIB) as group:
        run = run_python(group, READ, 40)
        assert run.returncode == 0, run.stderr
        before, after, described = json.loads(run.stdout)
        assert str(group.folder) in described
        assert after["limit_bytes"] == 96 * MIB
        assert 39 * MIB < after["anon_bytes"] - before["anon_bytes"] < 43 * MIB
        assert after["used_bytes"] <= after["current_bytes"] <= (run.peak_bytes or 0)
        assert after["used_bytes"] - before["used_bytes"] > 38 * MIB
        assert after["oom_kills"] == 0 and not run.oom_killed


def test_a_kill_is_counted() -> None:
    with make_group(48 * MIB) as group:
        assert run_python(group, "bytearray(200 << 20)").oom_killed
        run = run_python(group, READ, 1)
        assert json.loads(run.stdout)[1]["oom_kills"] == 1


def test_a_resize_is_seen_by_the_running_process() -> None:
    script = """
import sys
from etlkit.memory import find_reader
reader = find_reader()
print(reader.limit_bytes())
open(sys.argv[1], "w").write(sys.argv[2])
print(reader.limit_bytes(), reader.read().limit_bytes)
"""
    with make_group(64 * MIB) as group:
        file = group.folder / ("memory.limit_in_bytes" if group.version == 1 else "memory.max")
        if group.version == 1:
            group.set_limit(128 * MIB)
            group._write("memory.limit_in_bytes", str(64 * MIB))
        run = run_python(group, script, file, 128 * MIB)
        assert run.stdout.split() == [str(64 * MIB), str(128 * MIB), str(128 * MIB)], run.stderr


def test_a_nested_limit_binds_and_the_use_is_that_levels() -> None:
    with make_group(80 * MIB) as outer:
        if outer.version == 2:
            pytest.skip("a v2 group that hands controllers down holds no process itself")
        inner = RealGroup(outer.folder / "inner", outer.version)
        inner.folder.mkdir()
        try:
            inner.set_limit(160 * MIB)
            run = run_python(inner, READ, 20)
            sample = json.loads(run.stdout)[1]
            assert sample["limit_bytes"] == 80 * MIB
        finally:
            inner.remove()


def test_page_cache_is_not_use_but_dirty_pages_cannot_be_reclaimed(tmp_path: Path) -> None:
    script = """
import dataclasses, json, os, sys
from etlkit.memory import find_reader
reader = find_reader()
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(fd, bytes(24 << 20))
dirty = reader.read()
os.fsync(fd)
clean = reader.read()
print(json.dumps([dataclasses.asdict(s) | {"pinned": s.unreclaimable_bytes} for s in (dirty, clean)]))
"""
    with make_group(128 * MIB) as group:
        run = run_python(group, script, tmp_path / "file")
        assert run.returncode == 0, run.stderr
        dirty, clean = json.loads(run.stdout)
        assert dirty["file_bytes"] >= 24 * MIB and clean["file_bytes"] >= 24 * MIB
        assert dirty["used_bytes"] < 24 * MIB, "freshly written cache is inactive"
        assert clean["dirty_bytes"] + clean["writeback_bytes"] < 4 * MIB
        if dirty["dirty_bytes"]:  # a tmpfs below the test's folder knows no dirty pages
            assert dirty["pinned"] - clean["pinned"] > 15 * MIB


THRASH = """
import glob, json, mmap, os, random, sys, time
from etlkit.memory import find_reader, thrash
reader = find_reader()
held = bytearray(int(sys.argv[2]) << 20)
for place in range(0, len(held), 4096):
    held[place] = 1
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
view = mmap.mmap(fd, size, prot=mmap.PROT_READ)
view.madvise(mmap.MADV_RANDOM)
draw = random.Random(1).randrange
def touch(seconds):
    end, total = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        total += view[draw(size)]
while os.read(fd, 1 << 20):
    pass
touch(0.2)
before, started = reader.read(), time.monotonic()
touch(0.5)
print(thrash(before, reader.read(), time.monotonic() - started))
"""


def test_thrashing_is_told_from_a_full_cache(tmp_path: Path) -> None:
    """The same program, the same limit: pages that fit beside what is held, and pages that don't."""
    file = tmp_path / "pages"
    with file.open("wb") as out:
        for _ in range(48):
            out.write(os.urandom(MIB))
        out.flush()
        os.fsync(out.fileno())
    shares = {}
    for held in (8, 88):
        with make_group(112 * MIB) as group, file.open("rb") as pages:
            os.posix_fadvise(pages.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            run = run_python(group, THRASH, file, held)
            assert run.returncode == 0, run.stderr
            shares[held] = float(run.stdout)
    if shares[88] < 0.05:
        pytest.skip("the file lies on a filesystem whose pages are never dropped")
    assert shares[8] < 0.05
    assert shares[88] > 0.15


WALL = """
import collections, json, sys, threading
from concurrent.futures import ThreadPoolExecutor
import pyarrow as pa, pyarrow.compute, pyarrow.parquet as pq
from etlkit.memory import Wall, find_reader, is_allocation_failure, release_pools
path, calls, walled = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "wall"
pa.set_cpu_count(2)
pa.set_io_thread_count(2)
pool = ThreadPoolExecutor(2)
def group(groups):
    table = pq.ParquetFile(path).read_row_groups(groups)
    return table.group_by("key").aggregate([("value", "sum"), ("text", "count")]).num_rows
list(pool.map(lambda _: group([0]), range(2)))
release_pools()
reader, wall, stop = find_reader(), Wall(), threading.Event()
assert wall.unavailable is None, wall.unavailable
def watch():
    while not stop.wait(0.05):
        wall.raise_to(reader.limit_bytes(), reader.read())
if walled:
    wall.raise_to(reader.limit_bytes(), reader.read())
    threading.Thread(target=watch, daemon=True).start()
outcomes = collections.Counter()
def attempt(number):
    try:
        group(list(range(pq.read_metadata(path).num_row_groups)))
        outcomes["done"] += 1
    except Exception as error:
        wall.give_way()
        outcomes["refused" if is_allocation_failure(error) else repr(error)] += 1
list(pool.map(attempt, range(calls)))
released = release_pools()
rows = sum(pool.map(lambda number: group([number]), range(4)))
stop.set()
print(json.dumps({"outcomes": outcomes, "rows": rows, "kills": reader.read().oom_kills}))
"""


@pytest.fixture(scope="module")
def wide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 200 MiB once decoded, in sixteen row groups; small on disk."""
    path = tmp_path_factory.mktemp("wide") / "wide.parquet"
    rows = 80_000
    text = pa.array(["a text of some forty characters, no less"] * rows)
    with pq.ParquetWriter(
        path, pa.schema([("key", pa.int64()), ("value", pa.float64()), ("text", pa.string())])
    ) as out:
        for number in range(24):
            key = pa.array(range(number * rows, (number + 1) * rows), pa.int64())
            table = pa.table({"key": key, "value": key.cast(pa.float64()), "text": text})
            out.write_table(table, row_group_size=rows)
    return path


def test_without_the_wall_it_is_killed(wide_file: Path) -> None:
    with make_group(192 * MIB) as group:
        run = run_python(group, WALL, wide_file, 4, "none", wall=True)
        assert run.oom_killed and run.returncode == -9, (run.stdout, run.stderr)


@pytest.mark.parametrize("limit_mib", [128, 192, 256])
def test_with_the_wall_it_is_refused_and_goes_on(wide_file: Path, limit_mib: int) -> None:
    with make_group(limit_mib * MIB) as group:
        run = run_python(group, WALL, wide_file, 8, "wall", wall=True)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert not run.oom_killed and result["kills"] == 0
        assert set(result["outcomes"]) <= {"refused", "done"} and result["outcomes"].get("refused", 0) >= 4
        assert result["rows"] == 4 * 80_000, "the next, smaller calls succeed"


def test_a_job_that_fits_never_meets_the_wall(wide_file: Path) -> None:
    # Its peak is 690 MiB. Arrow doubles its buffers, and mapped but untouched halves count at the wall: ADR 6.
    with make_group(1024 * MIB) as group:
        run = run_python(group, WALL, wide_file, 2, "wall", wall=True)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["outcomes"] == {"done": 2}


def test_a_sample_is_a_memory_sample() -> None:
    """What the scripts above print is this type's fields, and no more."""
    with make_group(64 * MIB) as group:
        fields = json.loads(run_python(group, READ, 1).stdout)[0]
    assert set(fields) == set(MemorySample.__dataclass_fields__)
