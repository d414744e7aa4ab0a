"""Which files of a state directory are needed, and which may go.

A **generation** is a base (with its twin) and the deltas on it. The newest N generations of a run are kept, with everything that
any manifest in them names. Covers the choice; ``StateDir.collect`` acts on it.

A writer that was paused and replaced may wake up inside a collection, so it never removes what a later writer can have made:
only files whose name carries its own epoch or an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import CorruptStateError
from .document import unwrap
from .manifest import Manifest
from .store import Store

FLOOR = "manifests/floor.json"
"""Numbers below the one in here are used up, though their manifests are gone: see the format's "Used numbers"."""
_EPOCH = re.compile(r"\.e(\d+)[.-]")


@dataclass(slots=True)
class Generation:
    base: int
    begun: int
    names: set[str] = field(default_factory=set)
    """What its manifests name, lists included."""

    def add(self, manifest: Manifest) -> None:
        for stage in manifest.stages.values():
            self.names.update(run.name for run in stage.runs)
        self.names.update(ref.name for ref in manifest.part_lists)
        self.names.update(ref.name for ref in manifest.large_facts.values())


def generations(manifests: Iterable[Manifest]) -> list[Generation]:
    """Oldest first. Deltas without their base (a collection was interrupted) belong to none."""
    found: list[Generation] = []
    by_base: dict[int, Generation] = {}
    for manifest in sorted(manifests, key=lambda each: each.id):
        if manifest.is_base:
            if not (manifest.twin and found):
                found.append(Generation(manifest.id, manifest.begun))
            by_base[manifest.id] = found[-1]
        generation = by_base.get(manifest.base)
        if generation is not None:
            generation.add(manifest)
    return found


def kept(found: Sequence[Generation], keep: int) -> Sequence[Generation]:
    """The newest ``keep`` of the newest run. What an earlier run left is not needed once a later one has begun."""
    newest_run = [generation for generation in found if generation.begun == found[-1].begun]
    return newest_run[-keep:]


def epoch_of(name: str) -> int | None:
    """The epoch in a file's name; None for a file that is not ours to remove."""
    match = _EPOCH.search(name)
    return int(match.group(1)) if match else None


def floor_of(store: Store) -> int:
    """Numbers below it are used up. 0 if nothing was collected yet, or if the file is damaged: then the listing has to do."""
    document = store.read(FLOOR)
    if document is None:
        return 0
    try:
        return int(unwrap(document, FLOOR)["below"])
    except (CorruptStateError, KeyError, TypeError, ValueError):
        return 0
