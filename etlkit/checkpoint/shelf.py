"""What a run has beside its manifests: which parts are in lists, which facts are, and writing more of them.

A fact above 8 KiB (the plan of a hundred thousand splits) is written once and named from then on. Parts are gathered into lists
of at least 256; lists are merged eight at a time, so that a base names a handful of them and each part is rewritten a few
times, however many there are. A shelf is a value: nothing has changed until the manifest that names it is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace

from ..io.sink import Part
from ..lazyclass import dataclass
from . import lists
from .folding import Folding
from .manifest import ListRef, Manifest
from .model import Json
from .store import Store

NewName = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Shelf:
    part_lists: tuple[ListRef, ...] = ()
    listed: Mapping[int, int] = field(default_factory=dict)
    """By stage: so many parts, the first ones in order, are in ``part_lists``."""
    facts: Mapping[str, ListRef] = field(default_factory=dict)
    """The large ones, by key."""


def of(chain: Sequence[Manifest], folding: Folding) -> Shelf:
    """As the newest manifest leaves it."""
    facts: dict[str, ListRef] = {}
    for manifest in chain:
        for key in (*manifest.facts, *manifest.removed_facts):
            facts.pop(key, None)
        facts.update(manifest.large_facts)
    if any(stage.dropped for manifest in chain for stage in manifest.stages.values()):
        return Shelf(facts=facts)  # a dropped one may be in a list: all are listed anew
    listed = folding.part_counts()
    for manifest in chain:
        for number, stage in manifest.stages.items():
            listed[number] -= len(stage.parts)
    return Shelf(chain[0].part_lists, listed, facts)


def without_lists(shelf: Shelf) -> Shelf:
    """After a part was dropped: the next base lists all parts anew."""
    return replace(shelf, part_lists=(), listed={})


def with_facts(store: Store, shelf: Shelf, changed: Mapping[str, Json], new_name: NewName) -> tuple[Shelf, int]:
    """Write the large ones of ``changed``, unless they lie there already. And the bytes written."""
    facts = dict(shelf.facts)
    written = 0
    for key, value in changed.items():
        known = facts.pop(key, None)
        if value is None or not lists.is_large(value):
            continue
        body = {"format": 1, "key": key, "fact": value}
        if known is None or known.sha256 != lists.digest(body):
            known = lists.write_list(store, new_name(), body)
            written += known.length
        facts[key] = known
    return replace(shelf, facts=facts), written


def with_parts(store: Store, shelf: Shelf, folding: Folding, new_name: NewName) -> tuple[Shelf, int]:
    """Gather loose parts into a list once there are enough, and merge lists of a size. And the bytes written."""
    counts = folding.part_counts()
    if sum(counts.values()) - sum(shelf.listed.values()) < lists.PARTS_A_LIST:
        return shelf, 0

    def write(parts: Mapping[int, Sequence[tuple[int, Part]]]) -> ListRef:
        return lists.write_list(store, new_name(), lists.encode_parts(parts), sum(map(len, parts.values())))

    refs = [*shelf.part_lists, write({n: stage.parts for n, stage in folding.stages(shelf.listed).items()})]
    written = refs[-1].length
    while merging := lists.lists_to_merge(refs):
        together: dict[int, list[tuple[int, Part]]] = {}
        for ref in merging:
            for stage, parts in lists.read_parts(store, ref).items():
                together.setdefault(stage, []).extend(parts)
        refs = [*(ref for ref in refs if ref not in merging), write(together)]
        written += refs[-1].length
    return replace(shelf, part_lists=tuple(refs), listed=counts), written
