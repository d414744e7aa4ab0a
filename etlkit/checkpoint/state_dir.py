"""The state directory of a job: open, begin or claim, commit, fence, collect.

A commit, in order:

1. runs, parts and lists that it names are durable (their writers have seen to that)
2. the manifest is written and synced under a temporary name
3. it is linked to the next number, which fails if the number is taken: **this is the commit, and the fence**
4. the folder is synced; only now is anybody told
5. numbers above ours are looked for: a writer that slept through a whole takeover learns of it here

Two manifests are written where one must not be gone behind: when a run begins, and before anything becomes visible.
After an error in 2 to 5 nobody knows whether the manifest is there, so the next commit is a base, which stands alone.

It covers one writer's view, safe to call from several threads. It does not cover what is in runs and parts, nor when to commit.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import ConfigError, FencedError, StateError
from ..lazyclass import dataclass
from . import history, shelf, verify
from .fence import Fence
from .folding import Folding
from .manifest import Manifest
from .model import Committed, Delta, Json, Phase, Problem, RunRef, Snapshot, StageDelta
from .naming import Naming
from .retention import Generation, collect, floor_of, generations, kept
from .runs import SMALL_SECTION_BYTES, RunReader, RunWriter
from .shelf import Shelf
from .store import Store, open_store

DELTAS_A_BASE = 32
_SMALL_BYTES = 64 * 1024
_LASTING = ("attempts", "resizes", "learned")
_VISIBLE = (Phase.PUBLISHING, Phase.DONE)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where this writer stands: its newest manifest, and what that says. ``folding`` grows with every delta."""

    last: Manifest | None
    folding: Folding
    shelf: Shelf
    deltas: int
    delta_bytes: int
    base_bytes: int


class StateDir:
    """Made by ``open``. ``begin`` or ``claim`` make it writable."""

    def __init__(
        self, store: Store, lock: AbstractContextManager[object] | None, found: history.History, keep: int
    ) -> None:
        self._store = store
        self._lock = lock
        self._keep = keep
        self._mutex = threading.RLock()
        self._naming = Naming()
        self._claimed = False
        self._generations: list[Generation] = []
        self._snapshot: Snapshot | None = None
        self._fence = Fence(store, found.highest)
        self.warnings = list(found.warnings)
        self._adopt(found)

    @classmethod
    def open(
        cls,
        store: Store | str | os.PathLike[str],
        lock_wait_s: float = 0.0,
        *,
        read_only: bool = False,
        discard: bool = False,
        keep: int = 2,
    ) -> StateDir:
        """Read the newest good checkpoint; claims nothing.

        ``read_only`` takes no lock, makes no folder and cannot commit. ``discard`` reads nothing, for a run that is to start
        over (``--restart``) even where no checkpoint can be trusted. Raises ``StateBusyError`` (another live run),
        ``CorruptStateError`` (nothing to trust), ``StateError`` (I/O, or a newer format), ``ConfigError`` (another's folder).
        """
        place = open_store(store) if isinstance(store, (str, os.PathLike)) else store
        if read_only:
            return cls(place, None, history.load(place), keep)
        if strangers := place.strangers():
            known = place.names("manifests")
            if not known:
                raise ConfigError(
                    f"{place.location} is not a state directory: it holds {strangers[0]}"
                    + (f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""),
                    "choose an empty or new folder with --state",
                )
        place.prepare()
        lock = place.lock(lock_wait_s)
        try:
            if discard:
                highest = max(history.numbers(place)[1], floor_of(place) - 1)
                return cls(place, lock, history.History(Folding(), [], highest), keep)
            return cls(place, lock, history.load(place), keep)
        except BaseException:
            if lock is not None:
                lock.__exit__(None, None, None)
            raise

    # ---- reading

    @property
    def location(self) -> str:
        return self._store.location

    @property
    def snapshot(self) -> Snapshot | None:
        """All of the newest checkpoint; None in a fresh state directory."""
        with self._mutex:
            last = self._standing.last
            if self._snapshot is None and last is not None:
                self._snapshot = self._standing.folding.snapshot(
                    last.id, last.epoch, last.phase, last.run_id, self._fingerprint, last.at
                )
            return self._snapshot

    def open_run(self, ref: RunRef) -> RunReader:
        """``CorruptStateError`` if it is not there as it was written; ``FencedError`` if another run has removed it."""
        with self._fenced_first():
            return RunReader(self._store, ref)

    def bytes_on_disk(self) -> int:
        """Everything below the state directory that checkpoints put there, temporary files included."""
        return sum(sum(self._store.sizes(folder).values()) for folder in ("manifests", "runs", "lists"))

    def verify(self) -> list[Problem]:
        """Read every byte that the kept checkpoints refer to (runs and lists; parts are the sinks')."""
        return verify.verify(self._store)

    # ---- writing

    def begin(self, run_id: str, fingerprint: Mapping[str, str], facts: Mapping[str, Json]) -> Snapshot:
        """A fresh run, whatever was there before. Writes two bases; claims."""
        with self._mutex:
            last = self._standing.last
            number = self._fence.next_number()
            # No epoch can be above its manifest's number, should the one before not be known.
            self._enter(number, last.epoch + number - last.id if last else number)
            self._run_id, self._fingerprint, self._begun = run_id, dict(fingerprint), number
            self._write_base(number, Folding(), Shelf(), Delta("begin", facts=facts), Phase.RUNNING)
            self._write_twin()
            return self._claim_done()

    def claim(self, facts: Mapping[str, Json], reason: str = "claim") -> Snapshot:
        """Go on with the run that is there: a base of the next epoch. From here on no earlier writer can commit."""
        with self._mutex:
            last = self._standing.last
            if last is None:
                raise ValueError("there is no run to claim: begin one")
            number = self._fence.next_number()
            # Damaged manifests above ours may each have been a claim: never use an epoch again.
            self._enter(number, last.epoch + number - last.id)
            now = self._standing
            phase = Phase.RUNNING if self._current.phase is Phase.FAILED else self._current.phase
            self._write_base(number, now.folding.copy(), now.shelf, Delta(reason, facts=facts), phase)
            return self._claim_done()

    def go_back(self, number: int) -> Snapshot:
        """Claim, with the state of an earlier checkpoint of the same run. What came after it is done again.

        ``ConfigError`` once anything may be visible, or for a checkpoint of another run; ``CorruptStateError`` if it is not
        there whole.
        """
        with self._mutex:
            last = self._standing.last
            if last is not None and self._standing.folding.shows_early():
                raise ConfigError(
                    f'{self._store.location}: parts were shown already (visible="checkpoint"): there is no going back',
                    "what was seen stays; start a new run instead",
                )
            if last is None or last.phase in _VISIBLE:
                raise ConfigError(
                    f"{self._store.location}: the run is {last.phase if last else 'not begun'}: there is no going back",
                    "its output may have been seen already; start a new run instead",
                )
            found = history.load(self._store, at=number)
            earlier = found.chain[-1]
            if earlier.begun != last.begun:
                raise ConfigError(
                    f"checkpoint {number} belongs to the run {earlier.run_id}, which was discarded",
                    "`etlkit checkpoints STATE list` shows the ones of the present run",
                )
            # What happened did happen: attempts and resizes stay in the record.
            facts = self._standing.folding.facts
            lasting = {key: facts[key] for key in _LASTING if key in facts}
            fresh = self._fence.next_number()
            self._enter(fresh, last.epoch + fresh - last.id)
            delta = Delta(f"back to checkpoint {number}", facts=lasting)
            self._write_base(fresh, found.folding, shelf.of(found.chain, found.folding), delta, Phase.RUNNING)
            return self._claim_done()

    def commit(self, delta: Delta) -> Committed:
        """Make ``delta`` true. On ``StateError`` it is not, the checkpoint before it stands, and ``commit`` may be called
        again with the same and more; on ``FencedError`` another run has taken over. ``ValueError``: it does not fit."""
        with self._mutex, self._fenced_first():
            last = self._writable()
            started = time.perf_counter()
            before = self._standing
            if refusal := before.folding.refusal(delta.stages):
                raise ValueError(f"commit refused: {refusal}")
            if last.phase in _VISIBLE and delta.phase not in _VISIBLE:
                raise ValueError(f"commit refused: a {last.phase.value} run cannot be {delta.phase.value} again")
            number = self._fence.next_number()
            if self._needs_base(delta):
                folding = before.folding.copy()
                relist = folding.drops_parts(delta.stages)
                folding.add(delta.stages)
                kept_shelf = shelf.without_lists(before.shelf) if relist else before.shelf
                written = self._write_base(number, folding, kept_shelf, delta, delta.phase)
                if delta.phase is Phase.PUBLISHING and last.phase is not Phase.PUBLISHING:
                    written += self._write_twin_or_undo(before)
                self._settle(delta.stages)
                with contextlib.suppress(StateError, MemoryError):
                    self.collect()  # what cannot be removed now is found again at the next base
            else:
                written = self._write_delta(number, delta)
                self._settle(delta.stages)
            written += sum(run.length for stage in delta.stages.values() for run in stage.runs)
            return Committed(self._current.id, time.perf_counter() - started, written, delta.reason, self._current.at)

    def fence(self) -> None:
        """``FencedError`` if another writer has claimed the state."""
        with self._mutex:
            self._writable()
            self._fence.check()

    def still_ours(self) -> None:
        """``FencedError`` if another writer has claimed the state since it was opened here. May be asked before claiming, unlike
        ``fence``: for a start that is about to remove things."""
        with self._mutex:
            self._fence.check()

    @contextlib.contextmanager
    def or_fenced(self) -> Iterator[None]:
        """Whatever fails inside is told as ``FencedError`` if another run has claimed the state since it was opened: files that
        were ours are gone, or an output is there that was not, because it went on without us."""
        try:
            yield
        except FencedError:
            raise
        except Exception:
            with self._mutex, contextlib.suppress(StateError):
                self._fence.check()
            raise

    def run_writer(self, stage: int, level: int = 0, *, small: bool = False) -> RunWriter:
        """A new run file, needed by nobody until a commit names it. ``small``: made in little memory, in more sections."""
        with self._mutex:
            self._writable()
            name = self._naming.run(stage, self._fence.highest)
            try:
                target = self._store.create(name)
            except BaseException:
                self._naming.settle([name])
                raise
        size = {"section_bytes": SMALL_SECTION_BYTES} if small else {}
        return RunWriter(target, name, stage, level, lambda: self._naming.settle([name]), **size)

    def collect(self) -> int:
        """Remove what no kept checkpoint needs: orphans, temporary files, old generations. Bytes removed."""
        with self._mutex:
            last = self._writable()
            self._fence.check()
            self._generations = list(kept(self._generations, self._keep))
            return collect(self._store, self._naming.epoch, last.id, self._generations, self._naming.in_flight())

    def close(self) -> None:
        """Give the lock back. Commits nothing."""
        with self._mutex:
            self._claimed = False
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.__exit__(None, None, None)

    def __enter__(self) -> StateDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside

    @property
    def _current(self) -> Manifest:
        assert self._standing.last is not None
        return self._standing.last

    def _adopt(self, found: history.History) -> None:
        if not found.chain:
            self._standing = _Standing(None, found.folding, Shelf(), 0, 0, 0)
            return
        base, *deltas = found.chain
        delta_bytes = sum(manifest.length for manifest in deltas)
        on_shelf = shelf.of(found.chain, found.folding)
        self._standing = _Standing(found.newest, found.folding, on_shelf, len(deltas), delta_bytes, base.length)
        self._run_id, self._fingerprint, self._begun = base.run_id, dict(base.fingerprint), base.begun

    def _writable(self) -> Manifest:
        if not self._claimed or self._standing.last is None:
            raise ValueError("this state directory is not claimed: begin or claim first")
        return self._standing.last

    def _enter(self, number: int, epoch: int) -> None:
        self._naming.epoch = epoch
        newest = self._fence.enter(number)
        if self._store.reserves and newest is not None and self._standing.last and newest != self._standing.last.id:
            # A writer without hard links can have finished a lower number between our look and our claim.
            self._adopt(history.load(self._store))

    def _claim_done(self) -> Snapshot:
        self._claimed = True
        self._generations = generations(history.readable(self._store))
        snapshot = self.snapshot
        assert snapshot is not None
        return snapshot

    def _needs_base(self, delta: Delta) -> bool:
        now = self._standing
        return (
            self._fence.in_doubt
            or delta.phase is not self._current.phase
            or now.deltas >= DELTAS_A_BASE
            or now.delta_bytes > max(now.base_bytes, _SMALL_BYTES)
        )

    def _write_base(self, number: int, folding: Folding, before: Shelf, delta: Delta, phase: Phase) -> int:
        """One base with ``folding`` (which has the delta's stages already) and the delta's facts."""
        with self._list_names() as new_name:
            folding.add_facts(delta.facts)
            after, written = shelf.with_facts(self._store, before, delta.facts, new_name)
            after, more = shelf.with_parts(self._store, after, folding, new_name)
            facts = {key: value for key, value in folding.facts.items() if key not in after.facts}
            manifest = self._manifest(number, number, delta.reason, phase, folding.stages(after.listed))
            manifest = self._fence.put(
                replace(
                    manifest,
                    fingerprint=self._fingerprint,
                    facts=facts,
                    large_facts=after.facts,
                    part_lists=after.part_lists,
                )
            )
        with self._known_or_closed():
            self._generations.append(Generation(number, self._begun))
            self._stand(_Standing(manifest, folding, after, 0, 0, manifest.length))
        return manifest.length + written + more

    def _write_twin(self) -> int:
        """The same base again under the next number, so that losing either file loses nothing."""
        number = self._fence.next_number()
        manifest = self._fence.put(replace(self._current, id=number, base=number, twin=True))
        self._stand(replace(self._standing, last=manifest))
        return manifest.length

    def _write_twin_or_undo(self, before: _Standing) -> int:
        """Without its twin the first copy does not count: whoever asked for both is told that neither is true."""
        try:
            return self._write_twin()
        except BaseException:
            self._standing, self._snapshot = before, None
            self._fence.in_doubt = True
            raise

    def _write_delta(self, number: int, delta: Delta) -> int:
        now, last = self._standing, self._current
        with self._list_names() as new_name:
            after, written = shelf.with_facts(self._store, now.shelf, delta.facts, new_name)
            large = {key: after.facts[key] for key in delta.facts if key in after.facts}
            manifest = self._manifest(number, last.base, delta.reason, delta.phase, delta.stages)
            manifest = self._fence.put(
                replace(
                    manifest,
                    previous=last.digest,
                    facts={k: value for k, value in delta.facts.items() if value is not None and k not in large},
                    large_facts=large,
                    removed_facts=tuple(key for key, value in delta.facts.items() if value is None),
                )
            )
        with self._known_or_closed():
            if now.folding.drops_parts(delta.stages):
                after = shelf.without_lists(after)
            now.folding.add(delta.stages)
            now.folding.add_facts(delta.facts)
            grown = now.delta_bytes + manifest.length
            self._stand(_Standing(manifest, now.folding, after, now.deltas + 1, grown, now.base_bytes))
        return manifest.length + written

    def _manifest(
        self, number: int, base: int, reason: str, phase: Phase, stages: Mapping[int, StageDelta]
    ) -> Manifest:
        """What bases and deltas have in common."""
        return Manifest(
            id=number,
            epoch=self._naming.epoch,
            base=base,
            begun=self._begun,
            writer=self._naming.writer,
            at=_now(),
            reason=reason,
            phase=phase,
            run_id=self._run_id,
            stages=stages,
        )

    @contextlib.contextmanager
    def _list_names(self) -> Iterator[Callable[[], str]]:
        """Names for lists, in flight until their manifest is put or has failed."""
        made: list[str] = []

        def new_name() -> str:
            made.append(self._naming.list(self._fence.highest))
            return made[-1]

        try:
            yield new_name
        finally:
            self._naming.settle(made)

    @contextlib.contextmanager
    def _known_or_closed(self) -> Iterator[None]:
        """What is on disk is now written down in memory. Should that fail half-way (no memory left), nothing may be committed or
        collected any more on the strength of it: the next start reads what is there."""
        try:
            yield
        except BaseException:
            self._claimed = False
            raise

    def _stand(self, standing: _Standing) -> None:
        self._standing, self._snapshot = standing, None
        if self._generations:
            self._generations[-1].add(self._current)

    def _settle(self, stages: Mapping[int, StageDelta]) -> None:
        """What is committed is in flight no more."""
        for stage in stages.values():
            self._naming.settle(run.name for run in stage.runs)

    @contextlib.contextmanager
    def _fenced_first(self) -> Iterator[None]:
        """A file of ours that is gone may have been removed by a run that took over: then that is what to say."""
        try:
            yield
        except StateError:
            with self._mutex, contextlib.suppress(StateError):
                if self._claimed:
                    self._fence.check()
            raise
