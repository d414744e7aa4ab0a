"""A power loss at every call, for the sinks as they are: Parquet in partitions over an old output, CSV that is shown at each
checkpoint, JSON that is appended. A ledger of splits and checkpoints stands in for engine and checkpointer, so that thousands of
recoveries take seconds; ``test_job_crash_states.py`` has whole jobs.

The real files of a real folder are recorded (``etlkit.testing.recorder``), the states that a power loss may leave are laid out
again, and the run goes on from each. With any one sync taken away the checker must find a state that comes out wrong.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etlkit.checkpoint import Delta, Intervals, Phase, Snapshot, StageDelta, StateDir
from etlkit.errors import StateError
from etlkit.exits import Exit
from etlkit.io import folder_sink
from etlkit.io.folder_sink import SUCCESS
from etlkit.io.formats import open_sink
from etlkit.testing.crash_states import everything
from etlkit.testing.recorder import NEEDS_ROOM, Recorder, recording

from .recorded import RUN_ID, Checker, Site, by_content, place_in_memory, tree_of, visible

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
                sink.prepare(RUN_ID, resuming=found is not None)
            if found is None:
                state.begin(RUN_ID, {"job": "ledger"}, {})
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


@pytest.fixture(autouse=True)
def same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_sink, "_identity", by_content)


@pytest.fixture
def place() -> Iterator[Path]:
    yield from place_in_memory()


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


def checker_of(place: Path, recorder: Recorder) -> Checker:
    def recover(root: Path) -> None:
        Ledger(root).run()

    return Checker(recorder.log, recorder.seeded, OUTPUTS, place / "again", recover)


def test_the_recorder_sees_everything(place: Path) -> None:
    log = recorded(place / "whole").log
    found = tree_of(place / "whole")
    said = {folder: dict(files) for folder, files in everything(log).items() if files}
    del found["/state"]  # the lock
    assert said == found


@pytest.mark.parametrize(("a_point", "number"), [(4, 400), pytest.param(16, 1_000, marks=pytest.mark.long)])
def test_every_state_of_the_sinks_recovers(place: Path, a_point: int, number: int) -> None:
    checker = checker_of(place, recorded(place / "whole"))
    assert len(checker.explore(checker.states(a_point))) >= number


@pytest.mark.parametrize("every_call", [61, pytest.param(1, marks=pytest.mark.long)])
def test_a_power_loss_after_a_kill_recovers(place: Path, every_call: int) -> None:
    """What the killed process did and did not sync, the next one must not take for durable."""
    calls = len(recorded(place / "whole").calls)
    seen: set[bytes] = set()
    for kill_at in range(every_call, calls, every_call):
        root = place / "killed"
        checker = checker_of(place, recorded(root, kill_at))
        seen |= checker.explore(checker.states(a_point=2))
        shutil.rmtree(root)
    assert len(seen) >= 150


SITES: dict[str, Site] = {
    "staged part": lambda kind, path: kind == "file" and "/part-" in path,
    "_SUCCESS": lambda kind, path: kind == "file" and SUCCESS in path,
    "what it found at its start": lambda kind, path: kind == "file" and "start.json" in path,
    "staging folder": lambda kind, path: kind == "folder" and path.endswith("/.etlkit-today"),
    "folder of a partition": lambda kind, path: kind == "folder" and "/k=" in path,
    "output folder": lambda kind, path: kind == "folder" and path.lstrip("/") in OUTPUTS,
    "the output's parent": lambda kind, path: kind == "folder" and path == "/",
}


@pytest.mark.parametrize("site", SITES)
def test_every_sync_of_a_sink_is_needed(place: Path, site: str) -> None:
    """Take one away and a state that comes out wrong must be found."""
    checker = checker_of(place, recorded(place / "whole"))
    assert checker.needs(SITES[site], a_point=24), f"without the sync of {site} nothing went wrong"


ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("each", [False, pytest.param(True, marks=pytest.mark.long)])
def test_any_call_of_a_sink_may_fail_and_the_next_start_goes_on(place: Path, lasting: bool, each: bool) -> None:
    """One error for each call in turn, once or from then on; in the long form every error at every call."""
    checker = checker_of(place, recorded(place / "whole"))
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
