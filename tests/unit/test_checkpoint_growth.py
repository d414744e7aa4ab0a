"""A run of 100,000 splits: neither manifests nor files become more with time, and each part is rewritten only a few times."""

from __future__ import annotations

import random

from etlkit.checkpoint import Delta, Intervals, LocalStore, RunRef, StageDelta, StateDir, choose_compaction
from etlkit.io.sink import Part
from etlkit.testing.simdisk import SimDisk

SPLITS = 100_000
A_COMMIT = 20


class Quiet(SimDisk):
    """Keeps sizes instead of a log, and forgets what is unlinked: this run writes much."""

    def __init__(self) -> None:
        super().__init__({"/": {}})
        self.bytes_written = 0

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
        self.bytes_written += len(data)
        done = super().write(handle, data)
        self.log.clear()
        return done

    def unlink(self, path: str) -> None:
        inode = self._find(path)
        super().unlink(path)
        if not self._links[inode]:
            del self._inodes[inode]


def test_nothing_grows_with_time() -> None:
    disk = Quiet()
    state = StateDir.open(LocalStore("/state", disk))
    state.begin("run", {"job": "x"}, {"plan": [[0, split, split + 1] for split in range(SPLITS)], "attempts": [1]})
    dice = random.Random(1)
    waiting: list[int] = []
    sizes: list[int] = []
    files: list[int] = []
    upcoming, serial = 0, 0
    while upcoming < SPLITS or waiting:
        # Workers finish out of order, a few splits apart.
        waiting += range(upcoming, min(SPLITS, upcoming + A_COMMIT))
        upcoming = min(SPLITS, upcoming + A_COMMIT)
        late = set(dice.sample(waiting, min(3, len(waiting)))) if upcoming < SPLITS else set[int]()
        done = [split for split in waiting if split not in late]
        waiting = sorted(late)
        serial += 1
        runs = [RunRef(f"runs/s00-{serial:08d}.e1.run", 0, 0, 10**6, 1000, 10**6, serial)]
        stage = state.snapshot.stages.get(0) if serial % 8 == 0 and state.snapshot else None
        dropped: tuple[str, ...] = ()
        if stage is not None and (chosen := choose_compaction(stage.runs)):
            runs.append(RunRef(f"runs/s00-{serial:08d}.e1-m.run", 0, chosen[0].level + 1, 10**6, 1000, 10**6, serial))
            dropped = tuple(run.name for run in chosen)
        parts = tuple((0, Part(n, f"part-{n:05d}.e1.parquet", f"part-{n:05d}.parquet", 9, 99, n)) for n in done)
        state.commit(Delta("interval", {0: StageDelta(Intervals.of(done), tuple(runs), dropped, parts, 9, 9)}))
        manifests = disk._folders["/state/manifests"]
        assert state._standing.last is not None
        sizes.append(state._standing.last.length)
        files.append(len(manifests) + len(disk._folders["/state/lists"]))
    # Runs and lists of parts come in size classes, a handful of each, one class more for eight times as many.
    tenth, half = len(sizes) // 10, len(sizes) // 2
    assert max(sizes[half:]) <= 1.2 * max(sizes[:half]) and max(sizes) <= 1.5 * max(sizes[:tenth])
    assert max(sizes) < 8 * 1024
    assert max(files) <= max(files[:tenth]) + 16 and max(files) < 100
    snapshot = StateDir.open(LocalStore("/state", disk), read_only=True).snapshot
    assert snapshot is not None and snapshot.stages[0].finished == Intervals([(0, SPLITS)])
    assert len(snapshot.stages[0].parts) == SPLITS and len(snapshot.stages[0].runs) < 8 * 5
    assert disk.bytes_written / SPLITS < 1500, "bytes written a split"
