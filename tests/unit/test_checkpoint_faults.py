"""A disk that fails at every call in turn, with every errno that a volume gives; hosts and folders that can't do all."""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from etlkit.checkpoint import Delta, Intervals, LocalStore, Phase, StageDelta, StateDir, lists, state_dir
from etlkit.checkpoint.disk import Disk
from etlkit.errors import ConfigError, FencedError, StateError
from etlkit.exits import Exit
from etlkit.testing.faulty_store import CHANGING, FaultyDisk
from etlkit.testing.simdisk import SimDisk
from tests.crash.payroll import Payroll, expected_output

SPLITS = 4


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_dir, "DELTAS_A_BASE", 3)
    monkeypatch.setattr(lists, "PARTS_A_LIST", 2)
    monkeypatch.setattr(lists, "LARGE_FACT_BYTES", 50)


class NoLinksSim(SimDisk):
    def link(self, source: str, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", target)


def volume(make: type[SimDisk] = SimDisk) -> SimDisk:
    return make({"/": {}, "/pvc": {}})


KINDS = pytest.mark.parametrize("make", [SimDisk, NoLinksSim], ids=["links", "no-links"])


def calls_of_a_run(make: type[SimDisk]) -> list[str]:
    disk = FaultyDisk(errno.EIO, disk=volume(make))
    Payroll(disk, "/pvc", splits=SPLITS).run()
    return disk.seen


FAILURES = [
    pytest.param(
        make, error, lasting, id=f"{make.__name__}-{errno.errorcode[error]}-{'lasting' if lasting else 'once'}"
    )
    for make, error, lasting in (
        *itertools.product([SimDisk], [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT], [False, True]),
        (NoLinksSim, errno.EIO, False),
        (NoLinksSim, errno.ENOSPC, True),
    )
]


@pytest.mark.parametrize(("make", "error", "lasting"), FAILURES)
def test_any_call_may_fail_and_the_next_start_resumes(make: type[SimDisk], error: int, lasting: bool) -> None:
    calls = calls_of_a_run(make)
    for at in range(1, len(calls) + 1):
        base = volume(make)
        disk = FaultyDisk(error, at, lasting=lasting, disk=base)
        told: list[tuple[int, str, int]] = []
        job = Payroll(disk, "/pvc", splits=SPLITS, told=told.append)
        try:
            job.run()
        except StateError as failure:
            assert failure.exit_code is Exit.STATE_IO
            assert errno.errorcode[error] in failure.message and "/pvc" in failure.message and failure.remedy
        except OSError as failure:
            assert failure.errno == error  # the model sink's own calls
        again = Payroll(base, "/pvc", splits=SPLITS)
        again.run()
        assert again.output() == expected_output(SPLITS)
        assert not again.warnings
        if told:
            assert again.found is not None and again.found.id >= told[-1][0]


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.PUBLISHING])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@KINDS
def test_a_failed_commit_may_be_tried_again_in_the_same_process(make: type[SimDisk], error: int, phase: Phase) -> None:
    """Whatever call of a commit fails: nothing counts twice, and nothing is lost, when the same delta comes again."""

    def commit_both(fail_at: int) -> tuple[int, StateDir]:
        disk = FaultyDisk(error, disk=volume(make))
        state = StateDir.open(LocalStore("/pvc/state", disk))
        state.begin("run", {}, {})
        state.commit(Delta("one", {0: StageDelta(Intervals([(0, 1)]), rows_in=10)}))
        disk.seen.clear()
        disk.fail_at = fail_at
        two = Delta("two", {0: StageDelta(Intervals([(1, 2)]), rows_in=5)}, {"x": fail_at}, phase)
        failed = False
        try:
            state.commit(two)
        except StateError:
            failed = True
        calls = len(disk.seen)
        disk.mend()
        if failed:
            assert state.snapshot is not None and state.snapshot.stages[0].rows_in == 10
            more = {0: StageDelta(Intervals([(1, 3)]), rows_in=12)}
            state.commit(Delta("three", more, {"x": fail_at}, phase))
        else:
            state.commit(Delta("three", {0: StageDelta(Intervals([(2, 3)]), rows_in=7)}, phase=phase))
        return calls, state

    calls, _ = commit_both(0)
    assert calls >= (5 if phase is Phase.RUNNING else 9)
    for at in range(1, calls + 1):
        _, state = commit_both(at)
        snapshot = StateDir.open(state._store, read_only=True).snapshot
        assert snapshot is not None
        assert snapshot == state.snapshot and snapshot.phase is phase
        assert snapshot.stages[0].rows_in == 22
        state.fence()
        assert list(snapshot.stages[0].finished) == [0, 1, 2]
        assert snapshot.facts["x"] == at
        assert not [name for name in state._store.names("manifests") if name.endswith(".tmp")]


def test_a_failed_run_file_leaves_nothing_behind(tmp_path: Path) -> None:
    import pyarrow as pa

    disk = FaultyDisk(errno.ENOSPC)
    with StateDir.open(LocalStore(tmp_path, disk)) as state:
        state.begin("run", {}, {})
        for call in ("create", "write", "fsync", "fsync_folder"):
            disk.seen.clear()
            object.__setattr__(disk, "_calls", (call,))
            disk.fail_at = 1
            with pytest.raises(StateError, match="ENOSPC"), state.run_writer(0) as writer:
                writer.add(0, pa.table({"x": [1]}))
                writer.close()
            disk.mend()
            assert not list((tmp_path / "runs").iterdir()), call
        object.__setattr__(disk, "_calls", CHANGING)
        with state.run_writer(0) as writer:
            writer.add(0, pa.table({"x": [1]}))
            ref = writer.close()
        state.commit(Delta("ok", {0: StageDelta(runs=(ref,))}))
    assert not StateDir.open(tmp_path, read_only=True).verify()


class NoLinks(Disk):
    def link(self, source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", target)


class NoExclusion(NoLinks):
    """Neither hard links nor exclusive creation: nothing to fence with."""

    def create(self, path: str) -> int:
        import os

        return os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)


def test_a_store_that_cannot_fence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="neither hard links nor exclusive creation") as refused:
        StateDir.open(LocalStore(tmp_path, NoExclusion()))
    assert "NFS" in refused.value.remedy


def test_without_hard_links_two_writers_are_kept_apart(tmp_path: Path) -> None:
    state = StateDir.open(LocalStore(tmp_path, NoLinks()))
    state.begin("run", {}, {})
    state.close()
    first = StateDir.open(LocalStore(tmp_path, NoLinks()))
    first.claim({})
    first._lock.release()  # type: ignore[union-attr]  # as if its node were lost
    fresh = StateDir.open(LocalStore(tmp_path, NoLinks()))
    fresh.claim({})
    with pytest.raises(FencedError):
        first.commit(Delta("late"))
    with pytest.raises(FencedError):
        first.fence()
    fresh.commit(Delta("fine", phase=Phase.PUBLISHING))
    fresh.fence()


def test_nfs_says_it_failed_and_it_did_not(tmp_path: Path) -> None:
    """The reply to a link is lost, the client repeats the call and gets EEXIST: the inode tells that it is ours."""

    class LostReply(Disk):
        def link(self, source: str, target: str) -> None:
            super().link(source, target)
            super().link(source, target)

    with StateDir.open(LocalStore(tmp_path, LostReply())) as state:
        # The probe finds a second name taken, which it is; only a link that does not exist is a store without links.
        state.begin("run", {}, {})
        committed = state.commit(Delta("one"))
    found = StateDir.open(tmp_path, read_only=True).snapshot
    assert found is not None and found.id == committed.id


def test_rename_and_link_across_folders_are_never_used(tmp_path: Path) -> None:
    class OneFolder(Disk):
        def link(self, source: str, target: str) -> None:
            assert Path(source).parent == Path(target).parent
            super().link(source, target)

        def rename(self, source: str, target: str) -> None:
            assert Path(source).parent == Path(target).parent
            super().rename(source, target)

    with StateDir.open(LocalStore(tmp_path, OneFolder())) as state:
        state.begin("run", {}, {"big": "x" * 100})
        for split in range(8):
            state.commit(Delta("one", {0: StageDelta(Intervals.of([split]))}))


def test_the_state_may_lie_on_another_filesystem() -> None:
    import tempfile

    shm = Path("/dev/shm")
    if not shm.is_dir():
        pytest.skip("no second filesystem here")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        job = Payroll(Disk(), folder)
        job.run()
        assert job.output() == expected_output()


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not a state directory: it holds thesis\.docx"):
        StateDir.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]
    assert StateDir.open(tmp_path, read_only=True).snapshot is None


def test_a_volume_of_its_own_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with StateDir.open(tmp_path) as state:
        state.begin("run", {}, {})
    (tmp_path / "notes.txt").write_text("left here later")
    with StateDir.open(tmp_path) as state:
        assert state.snapshot is not None


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    with pytest.raises(StateError, match="ENOTDIR"):
        StateDir.open(tmp_path / "state" / "deeper")


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="credentials"):
        StateDir.open("s3://key:secret@bucket/state")
    with pytest.raises(ConfigError, match="no conditional put"):
        StateDir.open("sftp://host/state")


class Pausing(NoLinks):
    """Runs ``meanwhile`` once, between the claim of a number and the rename to it."""

    def __init__(self) -> None:
        self.meanwhile: list[Callable[[], None]] = []

    def rename(self, source: str, target: str) -> None:
        if self.meanwhile and "/0" in target:
            self.meanwhile.pop()()
        super().rename(source, target)


def one_and_another(tmp_path: Path) -> tuple[StateDir, Pausing]:
    disk = Pausing()
    state = StateDir.open(LocalStore(tmp_path, disk))
    state.begin("run", {}, {})
    state._lock.release()  # type: ignore[union-attr]  # as if its node were lost
    return state, disk


ONE_SPLIT = Delta("one", {0: StageDelta(Intervals([(0, 1)]), rows_in=1)})


def test_without_hard_links_what_was_told_is_seen_by_a_writer_that_looked_too_early(tmp_path: Path) -> None:
    first, disk = one_and_another(tmp_path)
    later: list[StateDir] = []
    disk.meanwhile.append(lambda: later.append(StateDir.open(LocalStore(tmp_path, NoLinks()))))
    assert first.commit(ONE_SPLIT).id == 3
    assert later[0].snapshot is not None and later[0].snapshot.id == 2
    snapshot = later[0].claim({})
    assert snapshot.stages[0].rows_in == 1, "a commit that was told to be durable is lost"
    with pytest.raises(FencedError):
        first.fence()


def test_without_hard_links_a_claim_above_fences_the_rename_below(tmp_path: Path) -> None:
    first, disk = one_and_another(tmp_path)
    later: list[StateDir] = []

    def take_over() -> None:
        later.append(StateDir.open(LocalStore(tmp_path, NoLinks())))
        later[0].claim({})

    disk.meanwhile.append(take_over)
    with pytest.raises(FencedError):
        first.commit(ONE_SPLIT)
    later[0].commit(ONE_SPLIT)
    later[0].collect()
    found = StateDir.open(tmp_path, read_only=True)
    assert found.snapshot is not None and found.snapshot.stages[0].rows_in == 1 and not found.warnings
    assert found.verify() == []


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("where", ["add", "add_facts", "snapshot"])
def test_no_memory_left_right_after_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, base: bool
) -> None:
    """What memory says of it may be half; it must never get to the disk."""
    from etlkit.checkpoint.folding import Folding

    if base:
        monkeypatch.setattr(state_dir, "DELTAS_A_BASE", 0)
    with StateDir.open(tmp_path) as state:
        state.begin("run", {}, {"kept": 1})
        state.commit(ONE_SPLIT)

        def fail(folding: Folding, *_: object) -> None:
            if where == "add":
                folding._stages[0].finished |= Intervals([(1, 2)])  # half of it
            raise MemoryError

        with monkeypatch.context() as patch, contextlib.suppress(MemoryError):
            patch.setattr(Folding, where, fail)
            state.commit(Delta("two", {0: StageDelta(Intervals([(1, 2)]), rows_in=1)}))
            assert state.snapshot is not None
        with contextlib.suppress(ValueError):
            state.commit(Delta("facts", facts={"after": 1}))
            state.commit(Delta("end", phase=Phase.PUBLISHING))
    found = StateDir.open(tmp_path, read_only=True).snapshot
    assert found is not None and found.facts["kept"] == 1
    assert found.stages[0].rows_in == len(found.stages[0].finished) >= 1
