"""The numbers of the manifests: taking the next one, which is the commit, and learning that another writer has.

Steps 2 to 6 of a commit are here (1 is made of runs, parts and lists). After an error in any of them nobody knows whether
the manifest is there; ``in_doubt`` says so until a later one has been put. It covers one writer's view of the numbers, and
is not thread-safe: ``StateDir`` holds its lock.
"""

from __future__ import annotations

from ..errors import FencedError
from .history import numbers
from .manifest import Manifest, decode, encode, name_of, number_of
from .retention import floor_of
from .store import Store, Taken


class Fence:
    def __init__(self, store: Store, highest: int) -> None:
        self._store = store
        self.highest = highest
        """The highest number that is known to be taken, by us or before us."""
        self._doubtful: bytes | None = None
        self.in_doubt = False

    def next_number(self) -> int:
        """The number to commit under: the next one, or the one after our own manifest of unknown outcome."""
        if self._is_ours(self.highest + 1):
            self.highest, self._doubtful = self.highest + 1, None
        return self.highest + 1

    def enter(self, number: int) -> int | None:
        """Before a writer's first commit: take the number where that is a step of its own, then look whether anything has
        changed since it was read. Returns the newest manifest's number; None if there is none."""
        try:
            self._store.reserve(name_of(number))
        except Taken as error:
            raise self.error(number) from error
        manifests, _ = numbers(self._store)
        if manifests and manifests[-1] > self.highest:
            raise self.error(manifests[-1])
        return manifests[-1] if manifests else None

    def put(self, manifest: Manifest) -> Manifest:
        """The atomic step. Returns the manifest as it lies on disk."""
        document = encode(manifest)
        name = name_of(manifest.id)
        self._doubtful, self.in_doubt = document, True
        try:
            self._store.put_new(name, document, f"e{manifest.epoch}")
        except Taken as error:
            # A request that was repeated by the network finds its own work.
            if self._store.read(name) != document:
                self._doubtful = None
                raise self.error(manifest.id) from error
        manifest = decode(document, manifest.id)
        try:
            self._look_above(manifest.id)
        except FencedError:
            # We slept until our number was used and collected, and have now taken it again: nobody will ever read it.
            if manifest.id < floor_of(self._store):
                self._store.remove(name)
            raise
        self.highest, self._doubtful, self.in_doubt = manifest.id, None, False
        return manifest

    def check(self) -> None:
        """``FencedError`` if there is a number above ours."""
        self._look_above(self.highest + 1 if self._is_ours(self.highest + 1) else self.highest)

    def error(self, number: int) -> FencedError:
        return FencedError(
            f"{self._store.location}: another run has taken over this state directory (checkpoint {number} is not ours)",
            "nothing to do if that run goes on; otherwise start the same command again, and it resumes",
        )

    def _is_ours(self, number: int) -> bool:
        return self._doubtful is not None and self._store.read(name_of(number)) == self._doubtful

    def _look_above(self, number: int) -> None:
        """A writer that slept while others went on *and* collected could find its number free again: the floor, read by
        name, and the listing tell it."""
        above = max((number_of(name) or 0 for name in self._store.names("manifests")), default=0)
        if above <= number and self._store.taken(name_of(number + 1)):
            above = number + 1
        if above <= number:
            above = floor_of(self._store) - 1
        if above > number:
            raise self.error(above)
