"""Merging runs, so that a stage is left with a handful of them however many checkpoints there were.

Size-tiered by level: eight runs of a level become one of the next. So each byte is written once a level, and there are
log₈(checkpoints) levels: four after 4,096 checkpoints. Covers the choice (pure) and the act; when to do it is the runtime's,
and what merging means is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pyarrow as pa

from .model import RunRef
from .state_dir import StateDir


def choose_compaction(runs: Sequence[RunRef], fan_in: int = 8) -> Sequence[RunRef] | None:
    """The runs of the highest level that has ``fan_in`` or more, in their order; None if none has.

    ``runs`` are those of one stage. Asked after every checkpoint, n of them leave about ``fan_in · log(n, fan_in)`` runs. The
    highest level first, or a caller that asks seldom would find the lowest one full each time; and up to four times ``fan_in``
    runs at once, so that it catches up.
    """
    levels: dict[int, list[RunRef]] = {}
    for run in runs:
        levels.setdefault(run.level, []).append(run)
    full = [level for level, members in levels.items() if len(members) >= fan_in]
    return tuple(levels[max(full)][: 4 * fan_in]) if full else None


class GaveWay(Exception):
    """A merge was told to stop; nothing of it is left."""


def compact(
    state_dir: StateDir, runs: Sequence[RunRef], merge: Callable[[int, Sequence[pa.RecordBatch]], pa.Table]
) -> RunRef:
    """One durable run of the next level with what ``merge(partition, batches)`` makes of each partition's rows.

    Rows come in the order of ``runs``. Holds one partition of all of them in memory at a time. Commit it with the names of
    ``runs`` as ``dropped``; until then nothing has changed.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(state_dir.open_run(run)) for run in runs]
        writer = stack.enter_context(state_dir.run_writer(runs[0].stage, max(run.level for run in runs) + 1))
        for partition in sorted({partition for reader in readers for partition in reader.partitions()}):
            batches = [batch for reader in readers for batch in reader.batches(partition)]
            writer.add(partition, merge(partition, batches))
        return writer.close()
