"""A power loss at every call, for the sinks as they are: Parquet in partitions over an old output, CSV that is shown at each
checkpoint, JSON that is appended.

The real files of a real folder are recorded (``etlkit.testing.recorder``), the states that a power loss may leave are laid out
again, and the run goes on from each. With any one sync taken away the checker must find a state that comes out wrong. Whole jobs,
with engine and checkpointer, are killed for real in ``campaign.py``; a power loss under them is not explored.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etlkit.checkpoint import Delta, Intervals, Phase, Snapshot, StageDelta, StateDir
from etlkit.errors import EtlkitError, StateError
from etlkit.exits import Exit
from etlkit.io import folder_sink
from etlkit.io.folder_sink import SUCCESS
from etlkit.io.formats import open_sink
from etlkit.testing.crash_states import CrashState, Tree, crash_states, everything
from etlkit.testing.recorder import NEEDS_ROOM, Recorder, lay_out, recording
from etlkit.testing.simdisk import Name, Op, Sync, SyncFolder

SPLITS = 3
SCHEMA = pa.schema([("id", pa.int64()), ("k", pa.int64())])
OUTPUTS = ("kinds", "early", "added")


def rows(split: int) -> pa.RecordBatch:
    return pa.record_batch([[split * 2, split * 2 + 1], [split % 2, 5]], schema=SCHEMA)


def sinks(root: Path) -> list[Any]:
    return [
        open_sink("parquet", str(root / "kinds"), {"if_exists": "replace", "partition_by": ("k",)}),
        open_sink("csv", str(root / "early"), {"visible": "checkpoint"}),
        open_sink("json", str(root / "added"), {"if_exists": "append"}),
    ]


def old_output(root: Path) -> None:
    """What earlier runs left: one to be replaced, with a folder that the new one does not have, and one to be added to."""
    for sink in (
        open_sink("parquet", str(root / "kinds"), {"partition_by": ("k",)}),
        open_sink("json", str(root / "added"), {}),
    ):
        sink.prepare("yesterday", resuming=False)
        staged = sink.stage(0, 1, SCHEMA)
        staged.write(pa.record_batch([[70, 71], [5, 9]], schema=SCHEMA))
        sink.commit(staged.close(), lambda: None)


class Ledger:
    """Splits into three sinks, a checkpoint after each, then publication; goes on from whatever it finds."""

    def __init__(self, root: Path, told: Callable[[tuple[int, str]], None] = lambda note: None) -> None:
        self.root, self.told, self.sinks = root, told, sinks(root)

    def run(self) -> None:
        with StateDir.open(self.root / "state") as state:
            found = state.snapshot
            if found is not None and found.phase is Phase.DONE:
                return
            for sink in self.sinks:
                sink.prepare("today", resuming=found is not None)
            if found is None:
                state.begin("today", {"job": "ledger"}, {})
            else:
                state.claim({})
            state.collect()
            for number, sink in enumerate(self.sinks):
                sink.recover(self.parts(state, number))
            self.sinks[1].publish(self.parts(state, 1), state.fence)
            self.work(state)

    def work(self, state: StateDir) -> None:
        for split in range(SPLITS):
            stage = self.now(state).stages.get(0)
            if self.now(state).phase is Phase.RUNNING and (stage is None or split not in stage.finished):
                self.do_split(state, split)
        if self.now(state).phase is Phase.RUNNING:
            state.commit(Delta("all", phase=Phase.PUBLISHING))
            self.say(state)
        for number, sink in enumerate(self.sinks):
            sink.commit(self.parts(state, number), state.fence)
        state.commit(Delta("published", phase=Phase.DONE))
        self.say(state)

    def do_split(self, state: StateDir, split: int) -> None:
        parts = []
        for number, sink in enumerate(self.sinks):
            staged = sink.stage(split, self.now(state).epoch, SCHEMA)
            staged.write(rows(split))
            parts += [(number, part) for part in staged.close()]
        state.commit(Delta("split", {0: StageDelta(Intervals.of([split]), parts=tuple(parts), rows_in=2)}))
        self.say(state)
        self.sinks[1].publish(self.parts(state, 1), state.fence)

    def parts(self, state: StateDir, number: int) -> list[Any]:
        stage = self.now(state).stages.get(0)
        return [part for at, part in (stage.parts if stage else ()) if at == number]

    def say(self, state: StateDir) -> None:
        self.told((self.now(state).id, self.now(state).phase.value))

    @staticmethod
    def now(state: StateDir) -> Snapshot:
        assert state.snapshot is not None
        return state.snapshot


def by_content(path: Path) -> list[int] | None:
    """Laid out again, a file has another inode and another time; its bytes are what it is here."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return [zlib.crc32(content), 0, len(content)]


@pytest.fixture(autouse=True)
def same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_sink, "_identity", by_content)


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where there is such a place: thousands of folders are made, and what a sync does is the model's to say."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


class Killed(BaseException):
    """The process is gone: no call that it makes after this does anything."""


def recorded(root: Path, kill_at: int = 0) -> Recorder:
    """A whole run over an old output. ``kill_at``: at that call the process is killed, and another one goes on: it sees what the page
    cache holds, and no disk yet. States from before the kill are left out then."""
    root.mkdir()
    old_output(root)
    with recording(root) as recorder:
        if kill_at:
            recorder.before = lambda number, call: Killed() if number >= kill_at else None
            with pytest.raises(Killed):
                Ledger(root, recorder.mark).run()
            recorder.before = None
            recorder.seeded = len(recorder.log)
        Ledger(root, recorder.mark).run()
    return recorder


def visible(tree: Tree, output: str) -> dict[str, bytes]:
    """What a reader of this output finds."""
    found = {}
    for folder, files in tree.items():
        inside = folder == f"/{output}" or folder.startswith(f"/{output}/")
        if inside and "/." not in folder:
            found |= {f"{folder}/{name}": content for name, content in files.items() if not name.startswith(".")}
    return found


def tree_of(root: Path) -> Tree:
    found: dict[str, dict[str, bytes]] = {}
    for path in root.rglob("*"):
        if path.is_file():
            found.setdefault(f"/{path.parent.relative_to(root)}", {})[path.name] = path.read_bytes()
    return found


class Checker:
    """``again`` is where states are laid out."""

    def __init__(self, place: Path, recorder: Recorder) -> None:
        self.place = place
        self.log, self.seeded = recorder.log, recorder.seeded
        whole, before = everything(self.log), everything(self.log[: self.seeded])
        self.expected = {output: visible(whole, output) for output in OUTPUTS}
        self.old = {output: visible(before, output) for output in OUTPUTS}

    def states(self, log: Sequence[Op], a_point: int, since: int = 0) -> Iterator[CrashState]:
        return crash_states(log, a_point=a_point, settled=max(self.seeded, since))

    def explore(self, a_point: int, since: int = 0) -> set[bytes]:
        """Recover from each; which ones there were."""
        seen = set()
        for state in self.states(self.log, a_point, since):
            seen.add(state.key)
            assert self.problem_of(state) == "", f"after call {state.after}: {self.log[state.after - 1]}"
        return seen

    def seen_at_once(self, tree: Tree) -> str:
        """What is wrong for a reader who looks before anything is recovered."""
        for output in OUTPUTS:
            expected, old, found = self.expected[output], self.old[output], visible(tree, output)
            for path, content in found.items():
                if content not in (expected.get(path), old.get(path)):
                    return f"a reader sees a wrong {path}: {content[:60]!r}"
            mark = found.get(f"/{output}/{SUCCESS}")
            if mark is not None:
                runs = json.loads(mark)["runs"]
                whole = expected if "today" in runs else old
                if "today" in runs and found != whole:
                    return f"{output} is marked as done, and is not: {sorted(found.keys() ^ whole.keys())}"
                if any(path not in found for path in whole):
                    return f"{output} is marked as yesterday's, and lacks {sorted(whole.keys() - found.keys())}"
        return ""

    def problem_of(self, state: CrashState) -> str:
        if wrong := self.seen_at_once(state.tree):
            return wrong
        root = self.place / "again"
        lay_out(state.tree, root)
        try:
            with StateDir.open(root / "state", read_only=True) as found:
                number = found.snapshot.id if found.snapshot else 0
                if state.notes and number < state.notes[-1][0]:  # type: ignore[index]
                    return f"checkpoint {state.notes[-1]} was told to be durable, and {number} was found"
            Ledger(root).run()
            after = tree_of(root)
            for output in OUTPUTS:
                if visible(after, output) != self.expected[output]:
                    there, wanted = visible(after, output), self.expected[output]
                    return f"{output} ends with {sorted(there.keys() ^ wanted.keys()) or 'other bytes'}"
            if left := [folder for folder in after if "/.etlkit-" in folder]:
                return f"left behind: {left}"
        except EtlkitError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(root)
        return ""


def test_the_recorder_sees_everything(place: Path) -> None:
    log = recorded(place / "whole").log
    found = tree_of(place / "whole")
    said = {folder: dict(files) for folder, files in everything(log).items() if files}
    del found["/state"]  # the lock
    assert said == found


def test_every_state_of_the_sinks_recovers(place: Path) -> None:
    assert len(Checker(place, recorded(place / "whole")).explore(a_point=16)) >= 1_000


@pytest.mark.parametrize("every_call", [31, pytest.param(1, marks=pytest.mark.long)])
def test_a_power_loss_after_a_kill_recovers(place: Path, every_call: int) -> None:
    """What the killed process did and did not sync, the next one must not take for durable."""
    calls = len(recorded(place / "whole").calls)
    seen: set[bytes] = set()
    for kill_at in range(every_call, calls, every_call):
        root = place / "killed"
        seen |= Checker(place, recorded(root, kill_at)).explore(a_point=2)
        shutil.rmtree(root)
    assert len(seen) >= 300


SITES: dict[str, Callable[[str, str], bool]] = {
    "staged part": lambda kind, path: kind == "file" and "/part-" in path,
    "_SUCCESS": lambda kind, path: kind == "file" and SUCCESS in path,
    "what it found at its start": lambda kind, path: kind == "file" and "start.json" in path,
    "staging folder": lambda kind, path: kind == "folder" and path.endswith("/.etlkit-today"),
    "folder of a partition": lambda kind, path: kind == "folder" and "/k=" in path,
    "output folder": lambda kind, path: kind == "folder" and path.lstrip("/") in OUTPUTS,
    "the output's parent": lambda kind, path: kind == "folder" and path == "/",
}


def without(log: Sequence[Op], since: int, site: Callable[[str, str], bool]) -> list[Op]:
    """The log of a run that never made these syncs."""
    paths = {op.inode: op.path for op in log if isinstance(op, Name)}

    def gone(op: Op) -> bool:
        match op:
            case Sync(inode):
                return site("file", paths[inode])
            case SyncFolder(path):
                return site("folder", path)
        return False

    return [op for at, op in enumerate(log) if at < since or not gone(op)]


@pytest.mark.parametrize("site", SITES)
def test_every_sync_of_a_sink_is_needed(place: Path, site: str) -> None:
    """Take one away and a state that comes out wrong must be found."""
    checker = Checker(place, recorded(place / "whole"))
    cut = without(checker.log, checker.seeded, SITES[site])
    assert len(cut) < len(checker.log)
    states = list(checker.states(cut, a_point=24))
    random.Random(7).shuffle(states)
    assert any(checker.problem_of(state) for state in states), f"without the sync of {site} nothing went wrong"


ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("each", [False, pytest.param(True, marks=pytest.mark.long)])
def test_any_call_of_a_sink_may_fail_and_the_next_start_goes_on(place: Path, lasting: bool, each: bool) -> None:
    """One error for each call in turn, once or from then on; in the long form every error at every call."""
    checker = Checker(place, recorded(place / "whole"))
    number = len(recorded(place / "count").calls)
    failed = 0
    for at in range(1, number + 1, 1 if each else 3):
        for error in ERRORS if each else (ERRORS[at % len(ERRORS)],):
            failed += fails_once(checker, place / "faulty", at, error, lasting)
    assert failed >= number // 6


def fails_once(checker: Checker, root: Path, at: int, error: int, lasting: bool) -> bool:
    """Whether the run ended with an error; it need not, where what failed was only to remove a leftover."""
    root.mkdir()
    old_output(root)

    def fail(number: int, call: str) -> OSError | None:
        due = number >= at if lasting else number == at
        return OSError(error, os.strerror(error)) if due and call in NEEDS_ROOM else None

    ended = False
    try:
        with recording(root, before=fail):
            Ledger(root).run()
    except StateError as failure:
        ended = True
        assert failure.exit_code is Exit.STATE_IO and failure.remedy
        assert errno.errorcode[error] in failure.message or os.strerror(error) in failure.message
        assert str(root) in failure.message
    assert checker.seen_at_once(tree_of(root)) == "", f"call {at}, {errno.errorcode[error]}"
    Ledger(root).run()
    after = tree_of(root)
    for output in OUTPUTS:
        assert visible(after, output) == checker.expected[output], f"call {at}, {errno.errorcode[error]}: {output}"
    shutil.rmtree(root)
    return ended
