"""A power loss at every call of a run, in every state that it may legally leave: the output must come out right from each.

And the checker is checked: with any one fsync taken away, it must find a state that does not.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from etlkit.checkpoint import LocalStore, StateDir, lists, state_dir
from etlkit.checkpoint.disk import Disk
from etlkit.errors import EtlkitError
from etlkit.testing.crash_states import CrashState, crash_states
from etlkit.testing.simdisk import Mark, Mkdir, Op, SimDisk, Sync, SyncFolder

from .payroll import Payroll, expected_output
from .recorded import Site, new_states, without

ROOT = "/pvc"


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run shall have bases, lists and merged lists too."""
    monkeypatch.setattr(state_dir, "DELTAS_A_BASE", 3)
    monkeypatch.setattr(lists, "PARTS_A_LIST", 2)
    monkeypatch.setattr(lists, "LARGE_FACT_BYTES", 50)


class NoLinks(SimDisk):
    """As SMB and some FUSE filesystems are."""

    def link(self, source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted", target)


def volume(make: type[SimDisk]) -> SimDisk:
    """Older than the run, and durable."""
    disk = make({"/": {}, ROOT: {}})
    disk.log[:] = [Mkdir(ROOT), SyncFolder("/")]
    return disk


def fresh(make: type[SimDisk] = SimDisk, splits: int = 6) -> list[Op]:
    disk = volume(make)
    Payroll(disk, ROOT, splits=splits, told=disk.mark).run()
    return disk.log


def resumed(make: type[SimDisk] = SimDisk) -> list[Op]:
    """A run that finds a half-done one, with orphans of every kind, and goes on."""
    disk = volume(make)
    job = Payroll(disk, ROOT)

    def stop(note: tuple[int, str, int]) -> None:
        disk.mark(note)
        if note[2] == 3:
            with StateDir.open(job.store) as state:
                state.claim({})
                writer = state.run_writer(0)
                writer.add(0, pa.table({"x": [1]}))
                writer.close()
            disk.close(disk.create(f"{ROOT}/state/manifests/.00000099.json.e1-dead.tmp"))
            job.sink.stage(5, "part-00005.e77", "part-00005", b"never\n")
            raise KeyboardInterrupt

    job.told = stop
    with pytest.raises(KeyboardInterrupt):
        job.run()
    Payroll(disk, ROOT, told=disk.mark).run()
    return disk.log


def problem_of(state: CrashState, make: type[SimDisk] = SimDisk, splits: int = 6) -> str:
    """What is wrong with recovering from this state; empty if nothing is."""
    expected = expected_output(splits)
    visible = state.tree.get(f"{ROOT}/out", {})
    for name, content in visible.items():
        if content != expected.get(name):
            return f"a reader sees a wrong {name}: {content!r}"
    if "_SUCCESS" in visible and len(visible) != len(expected):
        return f"_SUCCESS is there and only {sorted(visible)} with it"
    disk = make(state.tree)
    job = Payroll(disk, ROOT, splits=splits)
    try:
        snapshot = job.run()
    except EtlkitError as error:
        return f"{type(error).__name__}: {error}"
    if job.warnings:
        return f"damage is said to have been found: {job.warnings}"
    if state.notes:
        number, phase, finished = state.notes[-1]  # type: ignore[misc]
        found = job.found
        if found is None or found.id < number:
            return f"checkpoint {number} was told to be durable, and {found and found.id} was found"
        if len(found.stages[0].finished if 0 in found.stages else ()) < finished or (
            phase in ("publishing", "done") and found.phase.value not in ("publishing", "done")
        ):
            return f"checkpoint {number} said {finished} splits, {phase}; found {found}"
    if job.output() != expected:
        return f"output {job.output()}"
    if snapshot.stages[0].rows_in != splits * 3 or snapshot.stages[0].rows_out != splits * 3:
        return f"rows counted {snapshot.stages[0].rows_in}"
    return ""


def explore(states: Iterator[CrashState], make: type[SimDisk] = SimDisk, splits: int = 6) -> int:
    """Recover from each; how many different ones there were."""
    seen = set()
    for state in states:
        seen.add(state.key)
        assert problem_of(state, make, splits) == "", f"after call {state.after}"
    return len(seen)


# More than ten thousand together: most of a short run, for a recovery does what is left of it; a sample of longer ones.


def test_every_state_of_a_short_run_recovers() -> None:
    assert explore(crash_states(fresh(splits=3), a_point=2_000), splits=3) >= 7_000


def test_every_state_of_a_fresh_run_recovers() -> None:
    assert explore(crash_states(fresh(), a_point=50)) >= 1_600


def test_every_state_of_a_resumed_run_recovers() -> None:
    assert explore(crash_states(resumed(), a_point=16)) >= 1_200


def test_every_state_without_hard_links_recovers() -> None:
    assert explore(crash_states(fresh(make=NoLinks), a_point=16), NoLinks) >= 700


SITES: dict[str, Site] = {
    "the state folder's parent": lambda kind, path: kind == "folder" and path == ROOT,
    "the state folder": lambda kind, path: kind == "folder" and path == f"{ROOT}/state",
    "manifest": lambda kind, path: kind == "file" and "/manifests/" in path,
    "manifests folder": lambda kind, path: kind == "folder" and path.endswith("/manifests"),
    "run": lambda kind, path: kind == "file" and "/runs/" in path,
    "runs folder": lambda kind, path: kind == "folder" and path.endswith("/runs"),
    "list": lambda kind, path: kind == "file" and "/lists/" in path,
    "lists folder": lambda kind, path: kind == "folder" and path.endswith("/lists"),
    "staged part": lambda kind, path: kind == "file" and "/.staging/" in path and "SUCCESS" not in path,
    "staging folder": lambda kind, path: kind == "folder" and path.endswith("/.staging"),
    "_SUCCESS": lambda kind, path: kind == "file" and "SUCCESS" in path,
    "output folder": lambda kind, path: kind == "folder" and path == f"{ROOT}/out",
}


def test_the_sites_are_all_there_are() -> None:
    log = fresh()
    paths = {op.path for op in log if isinstance(op, SyncFolder)}
    assert all(any(site("folder", path) for site in SITES.values()) for path in paths - {"/"})
    synced = [op.inode for op in log if isinstance(op, Sync)]
    assert len(set(synced)) == len(synced) >= 20


@pytest.mark.parametrize("site", SITES)
def test_every_fsync_is_needed(site: str) -> None:
    """Take one away and a state that does not recover must be found."""
    log = fresh(splits=3)
    states = new_states(log, without(log, 0, SITES[site]), a_point=40)
    assert any(problem_of(state, splits=3) for state in states), f"without the fsync of {site} nothing went wrong"


def test_every_single_fsync_is_needed() -> None:
    """Each call by itself, unless the same folder is synced again before anybody is told anything, or its parent is."""
    log = fresh(splits=3)
    missed = []
    for at, op in enumerate(log):
        if at < 2 or not isinstance(op, (Sync, SyncFolder)) or op == SyncFolder("/"):
            continue  # the volume's own name: it was there before, and a start cannot know that
        cut = log[:at] + log[at + 1 :]
        if not any(problem_of(state, splits=3) for state in new_states(log, cut, a_point=16)):
            missed.append(at)
    for at in missed:
        op = log[at]
        assert isinstance(op, SyncFolder), f"a file's fsync is not needed: {op}"
        until_told = list(itertools.takewhile(lambda later: not isinstance(later, Mark), log[at + 1 :]))
        assert op in until_told, f"{op} (call {at}) is not needed"
    assert len(missed) < 10


def test_a_real_folder_recovers_like_the_simulated_one(tmp_path: Path) -> None:
    states = list(crash_states(fresh(), a_point=30))
    for number, state in enumerate(random.Random(3).sample(states, 60)):
        place = tmp_path / str(number)
        for folder, files in sorted(state.tree.items()):
            (place / folder.strip("/")).mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (place / folder.strip("/") / name).write_bytes(content)
        job = Payroll(Disk(), f"{place}{ROOT}")
        job.run()
        assert job.output() == expected_output()
        assert LocalStore(place / "pvc/state").exists("writer.lock")
