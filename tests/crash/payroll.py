"""A small job over the real StateDir, for tests that crash it: splits with parts, runs, compaction, a reduce, two sinks.

Everything goes through one ``Disk``, so that it runs on a simulated, a failing or a real one. It resumes whatever it finds and
checks on the way what must hold at any time.
"""

from __future__ import annotations

import errno
import posixpath
import sys
import zlib
from collections.abc import Callable, Sequence

import pyarrow as pa

from etlkit.checkpoint import (
    Delta,
    Intervals,
    LocalStore,
    Phase,
    Snapshot,
    StageDelta,
    StateDir,
    choose_compaction,
    compact,
    lists,
    state_dir,
)
from etlkit.checkpoint.disk import Disk
from etlkit.errors import CorruptStateError, EtlkitError
from etlkit.io.sink import Part

SPLITS = 6
ROWS = 3


def split_text(split: int) -> bytes:
    return "".join(f"{split * ROWS + row}\n" for row in range(ROWS)).encode()


def expected_output(splits: int = SPLITS) -> dict[str, bytes]:
    parts = {f"part-{split:05d}": split_text(split) for split in range(splits)}
    return {**parts, "total": f"{sum(range(splits * ROWS))}\n".encode(), "_SUCCESS": b"ok\n"}


class NoLinks(Disk):
    """As SMB and some FUSE filesystems are."""

    def link(self, source: str, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", target)


class FolderOfParts:
    """The sinks' protocol in small: staged parts, renamed into place, ``_SUCCESS`` last."""

    def __init__(self, disk: Disk, out: str) -> None:
        self.disk, self.out, self.staging = disk, out, f"{out}/.staging"

    def prepare(self) -> None:
        for folder in (self.out, self.staging):
            try:
                self.disk.mkdir(folder)
            except FileExistsError:
                pass
            self.disk.fsync_folder(posixpath.dirname(folder))

    def stage(self, split: int, name: str, final: str, content: bytes) -> Part:
        self.write(f"{self.staging}/{name}", content)
        self.disk.fsync_folder(self.staging)
        return Part(split, name, final, content.count(b"\n"), len(content), zlib.crc32(content))

    def write(self, path: str, content: bytes) -> None:
        handle = self.disk.create(path)
        half = len(content) // 2
        for piece in (content[:half], content[half:]):
            self.disk.write(handle, piece)
        self.disk.fsync(handle)
        self.disk.close(handle)

    def recover(self, parts: Sequence[Part]) -> None:
        named = {part.name for part in parts}
        for name in self.disk.list(self.staging):
            if name not in named:
                self.disk.unlink(f"{self.staging}/{name}")
        for part in parts:
            if not self.is_there(f"{self.staging}/{part.name}", part) and not self.is_there(
                f"{self.out}/{part.final}", part
            ):
                raise CorruptStateError(f"{part.name} is gone", name=part.name)

    def is_there(self, path: str, part: Part) -> bool:
        try:
            return self.disk.stat(path).length == part.length
        except FileNotFoundError:
            return False

    def commit(self, parts: Sequence[Part], fence: Callable[[], None]) -> None:
        there = self.disk.list(self.out)
        if "_SUCCESS" not in there:
            staged = set(self.disk.list(self.staging))
            for part in parts:
                if part.name in staged:
                    fence()
                    self.disk.rename(f"{self.staging}/{part.name}", f"{self.out}/{part.final}")
            self.disk.fsync_folder(self.out)
            fence()
            mark = f"{self.staging}/_SUCCESS.new"
            if "_SUCCESS.new" in staged:
                self.disk.unlink(mark)
            self.write(mark, b"ok\n")
            self.disk.rename(mark, f"{self.out}/_SUCCESS")
            self.disk.fsync_folder(self.out)
        for name in self.disk.list(self.staging):
            self.disk.unlink(f"{self.staging}/{name}")


class Payroll:
    """``told`` is called with (checkpoint id, phase, splits finished) after every commit."""

    def __init__(
        self,
        disk: Disk,
        root: str,
        *,
        splits: int = SPLITS,
        told: Callable[[tuple[int, str, int]], None] = lambda note: None,
    ) -> None:
        self.disk, self.splits, self.told = disk, splits, told
        self.store = LocalStore(f"{root}/state", disk)
        self.sink = FolderOfParts(disk, f"{root}/out")
        self.found: Snapshot | None = None
        self.warnings: list[str] = []

    def run(self) -> Snapshot:
        with StateDir.open(self.store) as state:
            self.found, self.warnings = state.snapshot, state.warnings
            self.sink.prepare()
            if state.snapshot is None:
                # Larger than the limit that the tests set, so that it lies in a list.
                state.begin("payroll", {"job": "payroll"}, {"plan": ["x" * 40] * 3})
            elif state.snapshot.phase is Phase.DONE:
                return state.snapshot
            else:
                state.claim({"attempts": [state.snapshot.id]})
            self.say(state)
            state.collect()
            self.work(state)
            return self.now(state)

    def work(self, state: StateDir) -> None:
        snapshot = self.now(state)
        self.sink.recover([part for stage in snapshot.stages.values() for _, part in stage.parts])
        if snapshot.phase is Phase.RUNNING:
            for split in range(self.splits):
                if 0 not in snapshot.stages or split not in snapshot.stages[0].finished:
                    self.do_split(state, split)
            self.reduce(state)
        parts = [part for stage in self.now(state).stages.values() for _, part in stage.parts]
        self.sink.commit(parts, state.fence)
        state.commit(Delta("published", phase=Phase.DONE))
        self.say(state)

    def do_split(self, state: StateDir, split: int) -> None:
        epoch = self.now(state).epoch
        part = self.sink.stage(split, f"part-{split:05d}.e{epoch}", f"part-{split:05d}", split_text(split))
        with state.run_writer(0) as writer:
            writer.add(split % 2, pa.table({"x": range(split * ROWS, (split + 1) * ROWS)}))
            runs = [writer.close()]
        dropped: tuple[str, ...] = ()
        stage = self.now(state).stages.get(0)
        if stage is not None and (chosen := choose_compaction(stage.runs, 3)):
            runs.append(
                compact(
                    state,
                    chosen,
                    lambda _, batches: pa.table({"x": [sum(pa.Table.from_batches(batches)["x"].to_pylist())]}),
                )
            )
            dropped = tuple(run.name for run in chosen)
        delta = StageDelta(Intervals().add(split), tuple(runs), dropped, ((0, part),), ROWS, ROWS)
        state.commit(Delta("interval", {0: delta}, {"at_split": split}))
        self.say(state)

    def reduce(self, state: StateDir) -> None:
        snapshot = self.now(state)
        total = 0
        for run in snapshot.stages[0].runs:
            with state.open_run(run) as reader:
                for partition in reader.partitions():
                    total += sum(sum(batch["x"].to_pylist()) for batch in reader.batches(partition))
        part = self.sink.stage(0, f"total.e{snapshot.epoch}", "total", f"{total}\n".encode())
        delta = StageDelta(Intervals().add(0), parts=((1, part),), rows_in=len(snapshot.stages[0].runs), rows_out=1)
        state.commit(Delta("all splits done", {1: delta}, phase=Phase.PUBLISHING))
        self.say(state)

    def say(self, state: StateDir) -> None:
        snapshot = self.now(state)
        finished = len(snapshot.stages[0].finished) if 0 in snapshot.stages else 0
        self.told((snapshot.id, snapshot.phase.value, finished))

    def output(self) -> dict[str, bytes]:
        found = {}
        for name in self.disk.list(self.sink.out):
            path = f"{self.sink.out}/{name}"
            if not name.startswith("."):
                handle = self.disk.open(path)
                content = bytearray(self.disk.length(handle))
                self.disk.read_into(handle, 0, memoryview(content))
                self.disk.close(handle)
                found[name] = bytes(content)
        return found

    @staticmethod
    def now(state: StateDir) -> Snapshot:
        assert state.snapshot is not None
        return state.snapshot


def main() -> int:
    """``python -m tests.crash.payroll FOLDER [no-links]``: the job in a process of its own, with small limits."""
    lists.LARGE_FACT_BYTES, lists.PARTS_A_LIST, state_dir.DELTAS_A_BASE = 50, 2, 3
    job = Payroll(NoLinks() if "no-links" in sys.argv else Disk(), sys.argv[1])
    try:
        job.run()
    except EtlkitError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
