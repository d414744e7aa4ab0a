"""A join with all of its right side in memory: the left streams past it, and is not exchanged.

The right side is exchanged like any other and its runs are what a restart rebuilds the table from. When its stage has ended, its size
is known: if it is small beside the room that the ledger has, and its keys are quickly asked, that it is held is written down and
the stage of the left is skipped. What was decided can be taken back at any time, by a smaller limit or a split that
finds no room beside it: then splits of the left that were not streamed past yet are exchanged as if nothing had been (``splits.py``).
Not covered: which rows meet (``join.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..checkpoint import Delta, Phase, Snapshot, StateDir
from ..memory.allocation import is_allocation_failure, release_pools
from ..memory.ledger import Ledger
from .extent import Extent
from .join import Block
from .splits import HELD, Probe, Splits, is_held
from .stages import Stage

MOST_BYTES = 512 << 20
"""Of one right side, however much room there is."""
SHARE = 0.4
"""Of the ledger's room, at the most: splits and what they leave come before it."""
_LEAST_INDEX = 2
"""Times four bytes a row: a table of numbers has one at least, hash tables more."""


class NoRoomToHold(Exception):
    """The right side of a join does not fit beside the rest."""


class Holder:
    """Holds the right sides of joins. One an executor; called between two stages, while no split runs."""

    def __init__(self, splits: Splits, extent: Extent, state_dir: StateDir, ledger: Ledger) -> None:
        self._splits = splits
        self._extent = extent
        self._state_dir = state_dir
        self._ledger = ledger
        self.blocks: dict[int, Block] = {}
        """By the stage of the left."""

    @property
    def bytes(self) -> int:
        return sum(block.nbytes for block in list(self.blocks.values()))  # others look while it is changed

    def decide(self, stage: Stage, snapshot: Snapshot) -> Snapshot:
        """Before a left side's stage begins: whether it is needed. Written down before it is acted on (law 10)."""
        probe = self._splits.probes.get(stage.index)
        if probe is None or is_held(snapshot, stage.index) is not None:
            return snapshot
        try:
            block = self._hold(probe, snapshot)
            what = f"join holds its right side: {block.rows.num_rows:,} rows, {block.nbytes >> 20} MiB"
        except NoRoomToHold as why:
            self.let_go([stage.index])
            what = f"join exchanges both sides: {why}"
        facts = decided(snapshot, {stage.index: stage.index in self.blocks})
        self._state_dir.commit(Delta(what, {}, facts, Phase.RUNNING))
        now = self._state_dir.snapshot
        assert now is not None
        return now

    def keep(self, wanted: Mapping[int, Probe], stage: Stage, snapshot: Snapshot) -> None:
        """Hold these for a stage that begins, and none that no later stage wants. Errors: NoRoomToHold."""
        past = [left for left in self.blocks if self._splits.probes[left].stage.index <= stage.index]
        self.let_go([left for left in past if left not in wanted])
        for probe in wanted.values():
            if probe.left.index not in self.blocks:
                self._hold(probe, snapshot)

    def let_go(self, lefts: Collection[int]) -> None:
        for left in lefts:
            self.blocks.pop(left, None)
            if _name(left) in self._ledger.held():
                self._ledger.release(_name(left))
        release_pools()

    def _hold(self, probe: Probe, snapshot: Snapshot) -> Block:
        left = probe.left.index
        runs = self._extent.runs(probe.right.index, snapshot)
        rows, stored = sum(run.rows for run in runs), sum(run.bytes for run in runs)
        room = self._ledger.room_bytes
        most = MOST_BYTES if room is None else min(MOST_BYTES, int(SHARE * room))
        # Read and brought together it is there twice for a moment.
        needed = 2 * stored + 4 * _LEAST_INDEX * rows
        if stored + 4 * rows > most or not self._ledger.try_reserve(_name(left), needed):
            raise NoRoomToHold(f"{stored >> 20} MiB, and {max(0, most) >> 20} MiB may be held")
        try:
            readers = [self._extent.open_run(run) for run in runs]
            try:
                batches = [
                    batch
                    for partition in range(probe.input.partitions)
                    for reader in readers
                    for batch in reader.batches(partition)
                ]
            finally:
                for reader in readers:
                    reader.close()
            block = probe.reducer.hold(batches)
            del batches
        except BaseException as error:
            self.let_go([left])
            if not is_allocation_failure(error):
                raise
            raise NoRoomToHold(f"{stored >> 20} MiB could not be allocated") from None
        if block.nbytes > most or not block.matches.quick:
            self.let_go([left])
            why = f"{block.nbytes >> 20} MiB with its keys, and {most >> 20} MiB may be held"
            raise NoRoomToHold(
                why if block.matches.quick else "its keys are not whole numbers close together, and many"
            )
        self._ledger.adjust(_name(left), block.nbytes)
        self.blocks[left] = block
        return block


def decided(snapshot: Snapshot, held: Mapping[int, bool]) -> dict[str, Any]:
    """The fact, with these decisions in it."""
    return {HELD: {**(snapshot.facts.get(HELD) or {}), **{str(left): said for left, said in held.items()}}}


def _name(left: int) -> str:
    return f"held side of stage {left}"
