"""Finding and reading the newest good checkpoint.

The newest manifest is found by listing and then probing upward by name, since listing may lag. Its chain (a base and the
deltas on it, each naming the one before by digest) must be whole. If it is not, an older checkpoint is used **only if exactly
one manifest is damaged**, which is safe because everything that must not be gone behind is written twice (see
``docs/checkpoint-format.md``, "Falling back"); with more damage than that, ``CorruptStateError``. Covers reading only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

from ..errors import ConfigError, CorruptStateError, StateError
from ..lazyclass import dataclass
from . import lists
from .folding import Folding
from .manifest import ListRef, Manifest, decode, name_of, number_of
from .model import Phase
from .store import Store

_TRIES = 5
_REMEDY = "`etlkit verify` lists what is damaged; restore it from a backup, or start over with --restart"


@dataclass(slots=True)
class History:
    """``chain`` is the base and deltas that ``folding`` was made from, empty in a fresh state directory. ``highest`` is the
    highest number that anything has taken."""

    folding: Folding
    chain: list[Manifest]
    highest: int
    warnings: list[str] = field(default_factory=list)
    damaged: list[CorruptStateError] = field(default_factory=list)

    @property
    def newest(self) -> Manifest | None:
        return self.chain[-1] if self.chain else None


def numbers(store: Store) -> tuple[list[int], int]:
    """Numbers of the manifests there are, ascending, and the highest number taken by a manifest or a claim."""
    manifests: set[int] = set()
    taken = 0
    for name in store.names("manifests"):
        number = number_of(name)
        if number is not None:
            taken = max(taken, number)
            if name.endswith(".json"):
                manifests.add(number)
    while store.taken(name_of(taken + 1)):
        taken += 1
        if store.exists(name_of(taken)):
            manifests.add(taken)
    return sorted(manifests), taken


def load(store: Store, at: int | None = None) -> History:
    """The newest good checkpoint, or exactly the one numbered ``at``."""
    for attempt in range(_TRIES):
        found, highest = numbers(store)
        if at is not None and at not in found:
            raise ConfigError(
                f"{store.location}: there is no checkpoint {at}",
                f"there are {found[0]} to {found[-1]}; `etlkit checkpoints STATE list` shows them" if found else "",
            )
        try:
            return _load(store, found if at is None else [n for n in found if n <= at], highest, exact=at is not None)
        except CorruptStateError:
            # Files that go away while we read belong to a live run; then the next look sees other files.
            if attempt == _TRIES - 1 or numbers(store) == (found, highest):
                if at is not None:
                    raise CorruptStateError(f"there is no whole checkpoint {at}", _REMEDY, name=name_of(at)) from None
                raise
    raise AssertionError("unreachable")


def all_manifests(store: Store) -> Iterator[Manifest | CorruptStateError]:
    """Every manifest there is, ascending; for a damaged one what is wrong with it. ``StateError`` for a newer format."""
    for number in numbers(store)[0]:
        document = store.read(name_of(number))
        if document is None:
            continue  # a live run has collected it since
        try:
            yield decode(document, number)
        except CorruptStateError as error:
            yield error


def readable(store: Store) -> Iterator[Manifest]:
    """Every manifest that can be read, ascending, whatever is wrong with the others. ``StateError`` only for I/O."""
    for number in numbers(store)[0]:
        document = store.read(name_of(number))
        if document is None:
            continue
        try:
            manifest = decode(document, number)
        except StateError:
            continue
        yield manifest


class _Reader:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[int, Manifest | CorruptStateError] = {}

    def manifest(self, number: int) -> Manifest | CorruptStateError:
        found = self._read.get(number)
        if found is None:
            found = self._read[number] = self._load(number)
        return found

    def _load(self, number: int) -> Manifest | CorruptStateError:
        name = name_of(number)
        document = self._store.read(name)
        if document is None:
            return CorruptStateError(f"{name} is missing", _REMEDY, name=name)
        try:
            return decode(document, number)
        except CorruptStateError as error:
            return error

    def chain(self, number: int) -> list[Manifest] | CorruptStateError:
        """From the base to ``number``, or what is wrong with it."""
        last = self.manifest(number)
        if isinstance(last, CorruptStateError):
            return last
        chain: list[Manifest] = []
        for step in range(last.base, number + 1):
            link = self.manifest(step)
            if isinstance(link, CorruptStateError):
                return link
            if link.base != last.base or (step > last.base and link.previous != chain[-1].digest):
                name = name_of(step)
                return CorruptStateError(f"{name} does not belong between its neighbours", _REMEDY, name=name)
            chain.append(link)
        return chain


def fold(store: Store, chain: list[Manifest]) -> Folding:
    """The state that a whole chain says. ``CorruptStateError`` naming a list that is not as it was written."""
    folding = Folding()
    for ref in chain[0].part_lists:
        for stage, parts in lists.read_parts(store, ref).items():
            folding.add_parts(stage, parts)
    for manifest in chain:
        folding.add(manifest.stages)
        folding.add_facts(manifest.facts)
        for key in manifest.removed_facts:
            folding.facts.pop(key, None)
        for key in manifest.large_facts:
            folding.facts[key] = None
    large: dict[str, ListRef] = {}
    for manifest in chain:
        for key in (*manifest.facts, *manifest.removed_facts):
            large.pop(key, None)
        large.update(manifest.large_facts)
    for key, ref in large.items():
        folding.facts[key] = lists.read_fact(store, ref)
    return folding


def _load(store: Store, found: list[int], highest: int, *, exact: bool) -> History:
    if not found:
        return History(Folding(), [], highest)
    reader = _Reader(store)
    damaged: dict[str, CorruptStateError] = {}
    newer: list[Manifest] = []
    for number in reversed(found):
        chain = reader.chain(number)
        if not isinstance(chain, CorruptStateError):
            try:
                folding = fold(store, chain)
            except CorruptStateError as error:
                chain = error
            else:
                return _accept(History(folding, chain, highest), newer, damaged)
        damaged[chain.name] = chain
        manifest = reader.manifest(number)
        if isinstance(manifest, Manifest):
            newer.append(manifest)
        if exact or len(damaged) > 1:
            break
    errors = list(damaged.values())
    raise CorruptStateError(
        f"{store.location}: no checkpoint can be trusted: {'; '.join(error.message for error in errors)}",
        _REMEDY,
        name=errors[0].name,
    )


def _accept(history: History, newer: list[Manifest], damaged: dict[str, CorruptStateError]) -> History:
    """Whether it is safe to go back to this checkpoint, given what lies above it."""
    newest = history.chain[-1]
    history.damaged = list(damaged.values())
    visible = (Phase.PUBLISHING, Phase.DONE)
    crossing = [
        manifest
        for manifest in newer
        if manifest.begun != newest.begun or (manifest.phase in visible and newest.phase not in visible)
    ]
    if crossing:
        error = history.damaged[0]
        raise CorruptStateError(
            f"{error.message}, and checkpoint {crossing[0].id} ({crossing[0].phase.value}) cannot be gone behind",
            _REMEDY,
            name=error.name,
        )
    for error in history.damaged:
        history.warnings.append(
            f"{error.message}: going back to checkpoint {newest.id} of {newest.at}; work after it is done again"
        )
    return history
