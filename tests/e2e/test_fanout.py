"""One run in several pods: the same rows as DuckDB and as one process, whatever is killed, replaced, or wakes up late (ADR 18)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from etlkit.engine.extent import rounds as rounds_of_stages
from etlkit.engine.planner import lower
from etlkit.node.controller import JobHandle
from etlkit.node.node import Node
from etlkit.node.spec import pod_manifest
from etlkit.plan.job import load
from etlkit.plan.rounds import rounds
from etlkit.testing import crashpoints
from etlkit.testing.cgroups import unavailable

from .. import warm
from ..conftest import environment
from .fanout_jobs import HEAVY_KEY

JOBS = Path(__file__).with_name("fanout_jobs.py")
SHARDS = 4
ROWS, GROUPS, SMALL_GROUPS = 40_000, 16, 5
needs_cgroups = pytest.mark.skipif(unavailable() is not None, reason=f"no memory cgroup here: {unavailable()}")


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 row groups of more than 2 MiB, so that each is one split; every fourth, from the third on, has heavy keys."""
    return make(tmp_path_factory.mktemp("fanout") / "in", GROUPS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("fanout-small") / "in", SMALL_GROUPS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], dict[str, list[str]]]:
    """What one process gives for a job over an input, run once."""
    known: dict[tuple[str, Path], dict[str, list[str]]] = {}

    def run(job: str, src: Path) -> dict[str, list[str]]:
        if (job, src) not in known:
            place = tmp_path_factory.mktemp(f"alone-{job}")
            assert finish(command(job, src, place)).returncode == 0
            known[job, src] = read(place / "out")
        return known[job, src]

    return run


def make(folder: Path, groups: int) -> Path:
    folder.mkdir()
    writer = None
    for group in range(groups):
        raw = os.urandom(24 * ROWS).hex()
        first = group * ROWS
        heavy = group % SHARDS == 2
        table = pa.table(
            {
                "k": pa.array([HEAVY_KEY + first + row if heavy else (first + row) % 97 for row in range(ROWS)]),
                "v": pa.array(range(first, first + ROWS)),
                "name": pa.array([raw[row * 48 : row * 48 + 48] for row in range(ROWS)]),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "a.parquet", table.schema)
        writer.write_table(table, row_group_size=ROWS)
    assert writer is not None
    writer.close()
    return folder


def command(job: str, src: Path, place: Path, *options: str) -> list[str]:
    call = ["run", f"{JOBS}:{job}", f"--set=src={src}", f"--set=out={place}/out"]
    return [*call, f"--state={place}/state", "--progress=json", *options]


def share(job: str, src: Path, place: Path, index: int, round_: int = 0, of: int = 2, *more: str) -> list[str]:
    return command(job, src, place, f"--shards={of}", f"--index={index}", f"--round={round_}", *more)


def finish(call: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return warm.run(call, cwd=Path.cwd(), env=environment(env))


def run_all(job: str, src: Path, place: Path, of: int = 2) -> None:
    for round_ in range(rounds_of(job, src, place)):
        for index in range(of):
            done = finish(share(job, src, place, index, round_, of))
            assert done.returncode == 0, done.stderr + done.stdout


def rounds_of(job: str, src: Path, place: Path) -> int:
    loaded = load(f"{JOBS}:{job}")
    return rounds(loaded.pipelines(loaded.bind({"src": str(src), "out": f"{place}/out"})))


def read(out: Path) -> dict[str, list[str]]:
    """The rows of each output as sorted texts; of the sorted one and the limit as they come."""
    found: dict[str, list[str]] = {}
    for marked in sorted(out.rglob("_SUCCESS")):
        folder, name = marked.parent, str(marked.parent.relative_to(out))
        files = sorted(path for path in folder.glob("part-*"))
        tables = [pcsv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path) for path in files]
        rows = [str(row) for row in pa.concat_tables(tables).to_pylist()]
        found[name] = rows if name in ("joined", "limit") else sorted(rows)
    return found


def show(place: Path) -> dict:
    done = finish(["show", f"{place}/state", "--json"])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


GROUPED = "select k, sum(v)::bigint as total, count(*) as n from '{src}/*.parquet' group by k"


@needs_cgroups
@pytest.mark.parametrize("policy", ["RestartContainer", pytest.param("NotRequired", marks=pytest.mark.long)])
def test_local_with_shards_gives_what_duckdb_gives_and_only_the_heavy_index_resizes(policy, src, tmp_path):
    call = [
        "local", f"{JOBS}:uneven", "--memory", "192Mi", "--max-memory", "1Gi",
        "--shards", str(SHARDS), "--set", f"src={src}", "--set", f"out={tmp_path}/out", "--state", f"{tmp_path}/state",
        "--resize-policy", policy, "--progress", "plain",
    ]  # fmt: skip
    done = finish(call)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = duckdb.sql(GROUPED.format(src=src)).to_arrow_table().to_pylist()
    assert read(tmp_path / "out")["."] == sorted(map(str, expected))
    story = show(tmp_path)
    assert (story["status"], story["shards"], story["rounds"]) == ("done", SHARDS, 2)
    assert story["rows_in"] == ROWS * GROUPS and story["rows_out"] == len(expected)
    assert {(one["round"], one["index"]) for one in story["attempts"]} == {(r, i) for r in (0, 1) for i in range(4)}
    assert {(one["round"], one["index"]) for one in story["resizes"]} == {(0, 2)}
    assert story["resizes"][0]["outcome"] == "actuated" and story["oom_kills"] == 0
    assert "[2]" in done.stderr and "4 indexes, 2 rounds" in done.stdout
    again = finish(call)
    assert again.returncode == 0 and "nothing was touched" in again.stderr


@pytest.mark.parametrize("job", ["clean", "several"])
def test_the_same_rows_as_in_one_process(job, small, alone, tmp_path):
    run_all(job, small, tmp_path)
    assert read(tmp_path / "out") == alone(job, small)
    assert not list((tmp_path / "out").rglob(".etlkit-*"))


@needs_cgroups
def test_a_pod_that_is_killed_and_one_that_is_drained_lose_nothing(src, alone, tmp_path):
    """Every pod of the first round stops in the middle of its work; then index 1 is killed there, and the pod of index 3 drained."""
    with Node(4 << 30) as node:
        first = start_round(node, src, tmp_path, 0, {"ETLKIT_CRASH_AT": "manifest.folder_synced:4:stop"})
        assert eventually(lambda: all(asleep(first, index) for index in range(SHARDS)))
        pods = [first.pods_of(index)[0] for index in range(SHARDS)]
        pods[1].kill("etl")
        node.evict(pods[3].pod["metadata"]["name"], grace_s=0)
        for pod in (pods[0], pods[2]):
            pod.kill("etl", signal.SIGCONT)
        for index in (1, 3):
            assert eventually(lambda at=index: len(first.pods_of(at)) == 2 and over_or_asleep(first, at))
            if not first.pods_of(index)[1].gone:
                first.pods_of(index)[1].kill("etl", signal.SIGCONT)
        assert first.wait(120).job_condition == "Complete"
        assert start_round(node, src, tmp_path, 1, {}).wait(120).job_condition == "Complete"
    assert read(tmp_path / "out") == alone("grouped", src)
    story = show(tmp_path)
    twice = [one for one in story["attempts"] if one["index"] in (1, 3) and one["round"] == 0]
    assert [one["ended_by"] for one in twice] == ["killed", "done"] * 2
    assert story["rows_in"] == ROWS * GROUPS


def start_round(node: Node, src: Path, place: Path, round_: int, env: dict[str, str]) -> JobHandle:
    words = command("grouped", src, place, f"--shards={SHARDS}", f"--round={round_}", "--checkpoint-every=100ms")
    call = [sys.executable, "-m", "etlkit", *words]
    pod = pod_manifest("etl", call, memory="256Mi", resize_policy="NotRequired", restart_policy="Never")
    return node.start_job(
        pod, env=env, backoff_limit=10, completions=SHARDS, environment_base=environment(), stdout=lambda *_: None
    )


def asleep(job: JobHandle, index: int) -> bool:
    """The newest pod of the index is at work and stopped."""
    pods = job.pods_of(index)
    return bool(pods) and bool(pods[-1].containers) and stopped(pods[-1].process_id("etl"))


def over_or_asleep(job: JobHandle, index: int) -> bool:
    return job.pods_of(index)[-1].gone or asleep(job, index)


def sleeps(point: str, round_: int, index: int, *, long: bool = True) -> object:
    return pytest.param(point, round_, index, marks=[pytest.mark.long] if long else [], id=f"{point}-{round_}-{index}")


@pytest.mark.parametrize(
    ("point", "round_", "index"),
    [
        sleeps("sink.prepared:1", 0, 0),
        sleeps("manifest.synced:1", 0, 1),
        sleeps("run.synced:1", 0, 1, long=False),
        sleeps("manifest.linked:4", 0, 1),
        sleeps("manifest.synced:5", 0, 1, long=False),
        sleeps("sink.staged:1", 1, 0, long=False),
        sleeps("sink.commit:1", 1, 1),
        sleeps("sink.part:1", 1, 1, long=False),
        sleeps("sink.marked:1", 1, 1),
    ],
)
def test_an_old_self_that_wakes_up_after_its_replacement_changes_nothing(point, round_, index, small, alone, tmp_path):
    """It goes to sleep while it begins the whole, over its runs and parts, in its own commits and those to the whole, and in the
    publication (only who comes last does that)."""
    order = [(number, other) for number in range(2) for other in range(2)]
    at = order.index((round_, index))
    for number, other in order[:at]:
        assert finish(share("grouped", small, tmp_path, other, number)).returncode == 0
    call = share("grouped", small, tmp_path, index, round_)
    env = environment({crashpoints.VARIABLE: f"{point}:stop"})
    sleeper = warm.start(call, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert eventually(lambda: stopped(sleeper.pid) or sleeper.poll() is not None)
        assert sleeper.poll() is None, "it never came there"
        for lock in (tmp_path / "state").rglob("writer.lock"):
            lock.unlink()  # as a lock server forgets a node that is gone
        for number, other in order[at:]:
            done = finish(share("grouped", small, tmp_path, other, number))
            assert done.returncode == 0, done.stderr + done.stdout
        published = fingerprint(tmp_path / "out")
        os.kill(sleeper.pid, signal.SIGCONT)
        code = sleeper.wait(60)
    finally:
        if sleeper.poll() is None:
            sleeper.kill()
            sleeper.wait()
    # 0 where it had begun nothing yet, and so found the run done.
    assert code in (0, 73), sleeper.stderr and sleeper.stderr.read()
    assert code == 73 or point in ("sink.prepared:1", "manifest.synced:1")
    assert fingerprint(tmp_path / "out") == published
    assert read(tmp_path / "out") == alone("grouped", small)
    assert show(tmp_path)["rows_in"] == ROWS * SMALL_GROUPS


KILLS = {
    (0, 0): ("sink.prepared", "manifest.synced", "manifest.linked", "run.synced"),
    (0, 1): ("run.synced", "manifest.linked:3", "manifest.synced:2"),
    (1, 0): ("sink.staged",),
    (1, 1): ("sink.staged", "sink.commit", "sink.part", "sink.synced", "sink.marked"),
}


def test_every_index_is_killed_again_and_again(small, alone, tmp_path):
    """While it begins the whole, over its runs and parts, as it tells the whole that it has arrived, and in the publication."""
    killed = []
    for (round_, index), points in KILLS.items():
        for point in points:
            done = finish(share("grouped", small, tmp_path, index, round_), ETLKIT_CRASH_AT=point)
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
            killed += [point] if done.returncode else []
        assert finish(share("grouped", small, tmp_path, index, round_)).returncode == 0
    assert len(killed) >= 12, killed
    assert read(tmp_path / "out") == alone("grouped", small)


def test_indexes_that_arrive_together_publish_once(small, alone, tmp_path):
    """Whoever comes last must see that all are there, also if they come at the same moment."""
    for round_ in range(2):
        calls = [share("grouped", small, tmp_path, index, round_, 3) for index in range(3)]
        running = [warm.start(call, env=environment(), stdout=subprocess.DEVNULL) for call in calls]
        assert [one.wait(120) for one in running] == [0, 0, 0]
    assert read(tmp_path / "out") == alone("grouped", small)


def test_what_it_refuses_and_what_it_says(small, tmp_path):
    early = finish(share("grouped", small, tmp_path, 0, 1, 2, "--lock-wait=0s"))
    assert early.returncode == 75 and "has not begun" in early.stderr
    assert finish(share("grouped", small, tmp_path, 0)).returncode == 0
    early = finish(share("grouped", small, tmp_path, 0, 1, 2, "--lock-wait=0s"))
    assert early.returncode == 75 and "index 1 of 2 is missing" in early.stderr
    other = finish(share("grouped", small, tmp_path, 1, 0, 5))
    assert other.returncode == 78 and "another number of --shards" in other.stderr and "remove" in other.stderr
    beyond = finish(share("grouped", small, tmp_path, 1, 2))
    assert beyond.returncode == 78 and "rounds 0 to 1" in beyond.stderr
    nobody = finish(command("grouped", small, tmp_path, "--shards=2"))
    assert nobody.returncode == 2 and "JOB_COMPLETION_INDEX" in nobody.stderr
    discarding = finish(share("grouped", small, tmp_path, 1, 0, 2, "--restart"))
    assert discarding.returncode == 2


def test_another_run_after_a_finished_one_begins_anew(small, alone, tmp_path):
    run_all("clean", small, tmp_path)
    first = fingerprint(tmp_path / "out")
    assert finish(share("clean", small, tmp_path, 1)).returncode == 0
    assert fingerprint(tmp_path / "out") == first
    taken = finish(share("clean", small, tmp_path, 0, 0, 2, "--run-id=tomorrow"))
    assert taken.returncode == 78 and "not empty" in taken.stderr
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    for index in range(2):
        assert finish(share("clean", small, tmp_path, index, 0, 2, "--run-id=tomorrow")).returncode == 0
    assert read(tmp_path / "out") == alone("clean", small)


@pytest.mark.parametrize(("job", "wanted"), [("clean", 1), ("grouped", 2), ("uneven", 2), ("several", 4)])
def test_rounds_of_the_plan_are_those_of_its_stages(job, wanted, small, tmp_path):
    loaded = load(f"{JOBS}:{job}")
    pipelines = loaded.pipelines(loaded.bind({"src": str(small), "out": f"{tmp_path}/out"}))
    assert rounds(pipelines) == max(rounds_of_stages(lower(pipelines).stages)) + 1 == wanted


def fingerprint(out: Path) -> dict[str, tuple[bytes, int, int]]:
    """Names, bytes, inodes and times of all files below the output, hidden ones too."""
    return {
        str(path.relative_to(out)): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def stopped(pid: int | None) -> bool:
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False


def eventually(happened: Callable[[], bool], within_s: float = 60.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if happened():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    yield
