"""Which files of a state directory are needed, and which may go.

A **generation** is a base (with its twin) and the deltas on it. The newest N generations of a run are kept, with everything that
any manifest in them names. Covers the choice and the act; when is ``StateDir``'s.

A writer that was paused and replaced may wake up inside a collection, so it never removes what a later writer can have made:
only files whose name carries its own epoch or an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import field

from ..errors import CorruptStateError, StateError
from ..lazyclass import dataclass
from .document import unwrap, wrap
from .manifest import Manifest, number_of
from .store import Store

FLOOR = "manifests/floor.json"
_FLOOR_TEMPORARY = "manifests/.floor.json."
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


def collect(store: Store, epoch: int, newest: int, keeping: Sequence[Generation], in_use: set[str]) -> int:
    """Remove what neither ``keeping`` nor ``in_use`` needs, for the writer of ``epoch``. Bytes removed."""
    floor = keeping[0].base
    needed = in_use.union(*(generation.names for generation in keeping))
    doomed: dict[str, int] = {}
    for name, length in store.sizes("manifests").items():
        number, writer = number_of(name), epoch_of(name)
        old = number is not None and (number < floor or (name.endswith(".claim") and number <= newest))
        stale = number is None and writer is not None and writer <= epoch
        # A floor under its temporary name: whoever wrote it has died, or finds out that it must write it again.
        if old or stale or name.startswith(_FLOOR_TEMPORARY) or "/.probe-" in name:
            doomed[name] = length
    if any(name.endswith(".json") for name in doomed) and floor_of(store) < floor:
        try:
            store.replace(FLOOR, wrap({"format": 1, "below": floor}))
        except StateError:
            # On a full disk the large files can go all the same; manifests wait until the floor can be written.
            doomed = {name: length for name, length in doomed.items() if number_of(name) is None}
    for folder in ("runs", "lists"):
        for name, length in store.sizes(folder).items():
            writer = epoch_of(name)
            if name not in needed and writer is not None and writer <= epoch:
                doomed[name] = length
    return sum(length for name, length in doomed.items() if store.remove(name))
