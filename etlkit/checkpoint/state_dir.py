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
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import ConfigError, FencedError, StateError
from ..io.sink import Part
from . import history, lists, verify
from .document import wrap
from .folding import Folding
from .manifest import ListRef, Manifest, decode, encode, name_of, number_of
from .model import Committed, Delta, Json, Phase, Problem, RunRef, Snapshot, StageDelta
from .retention import FLOOR, Generation, epoch_of, floor_of, generations, kept
from .runs import RunReader, RunWriter
from .store import Store, Taken, open_store

DELTAS_A_BASE = 32
_SMALL_BYTES = 64 * 1024
_LASTING = ("attempts", "resizes", "learned")
_VISIBLE = (Phase.PUBLISHING, Phase.DONE)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class StateDir:
    """Made by ``open``. ``begin`` or ``claim`` make it writable."""

    def __init__(
        self, store: Store, lock: AbstractContextManager[object] | None, found: history.History, keep: int
    ) -> None:
        self._store = store
        self._lock = lock
        self._keep = keep
        self._mutex = threading.RLock()
        self._writer = secrets.token_hex(8)
        self._claimed = False
        self._epoch = 0
        self._serial = 0
        self._pending: set[str] = set()
        self._doubtful: bytes | None = None
        self._highest = 0
        self._generations: list[Generation] = []
        self._part_lists: list[ListRef] = []
        self._listed: dict[int, int] = {}
        self._large: dict[str, ListRef] = {}
        self._snapshot: Snapshot | None = None
        self.warnings: list[str] = []
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
            if self._snapshot is None and self._last is not None:
                last = self._last
                self._snapshot = self._folding.snapshot(
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
            number = self._next_number()
            previous = self._last.epoch + number - self._last.id if self._last else number
            self._enter(number, previous)
            self._run_id, self._fingerprint, self._begun = run_id, dict(fingerprint), number
            self._forget()
            self._write_base(number, Folding(), Delta("begin", facts=facts), Phase.RUNNING)
            self._write_twin()
            return self._claim_done()

    def claim(self, facts: Mapping[str, Json], reason: str = "claim") -> Snapshot:
        """Go on with the run that is there: a base of the next epoch. From here on no earlier writer can commit."""
        with self._mutex:
            if self._last is None:
                raise ValueError("there is no run to claim: begin one")
            number = self._next_number()
            last = self._last
            phase = Phase.RUNNING if last.phase is Phase.FAILED else last.phase
            # Damaged manifests above ours may each have been a claim: never use an epoch again.
            self._enter(number, last.epoch + number - last.id)
            self._write_base(number, self._folding.copy(), Delta(reason, facts=facts), phase)
            return self._claim_done()

    def go_back(self, number: int) -> Snapshot:
        """Claim, with the state of an earlier checkpoint of the same run. What came after it is done again.

        ``ConfigError`` once anything may be visible, or for a checkpoint of another run; ``CorruptStateError`` if it is not
        there whole.
        """
        with self._mutex:
            last = self._last
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
            lasting = {key: self._folding.facts[key] for key in _LASTING if key in self._folding.facts}
            fresh = self._next_number()
            self._enter(fresh, last.epoch + fresh - last.id)
            highest = self._highest
            self._adopt(found)
            self._highest = highest
            delta = Delta(f"back to checkpoint {number}", facts=lasting)
            self._write_base(fresh, self._folding.copy(), delta, Phase.RUNNING)
            return self._claim_done()

    def commit(self, delta: Delta) -> Committed:
        """Make ``delta`` true. On ``StateError`` it is not, the checkpoint before it stands, and ``commit`` may be called
        again with the same and more; on ``FencedError`` another run has taken over. ``ValueError``: it does not fit."""
        with self._mutex, self._fenced_first():
            last = self._writable()
            started = time.perf_counter()
            if refusal := self._folding.refusal(delta.stages):
                raise ValueError(f"commit refused: {refusal}")
            if last.phase in _VISIBLE and delta.phase not in _VISIBLE:
                raise ValueError(f"commit refused: a {last.phase.value} run cannot be {delta.phase.value} again")
            number = self._next_number()
            if self._needs_base(delta):
                folding = self._folding.copy()
                parts_dropped = folding.drops_parts(delta.stages)
                folding.add(delta.stages)
                written = self._write_base(number, folding, delta, delta.phase, relist=parts_dropped)
                if delta.phase is Phase.PUBLISHING and last.phase is not Phase.PUBLISHING:
                    written += self._write_twin()
                with contextlib.suppress(StateError):
                    self.collect()  # what cannot be removed now is found again at the next base
            else:
                written = self._write_delta(number, delta)
            written += sum(run.length for stage in delta.stages.values() for run in stage.runs)
            return Committed(self._current.id, time.perf_counter() - started, written, delta.reason, self._current.at)

    def fence(self) -> None:
        """``FencedError`` if another writer has claimed the state."""
        with self._mutex:
            self._writable()
            self._look_above_ours()

    def run_writer(self, stage: int, level: int = 0) -> RunWriter:
        """A new run file, needed by nobody until a commit names it."""
        with self._mutex:
            self._writable()
            name = self._new_name("runs", f"s{stage:02d}-", ".run")
            try:
                target = self._store.create(name)
            except BaseException:
                self._pending.discard(name)
                raise
            return RunWriter(target, name, stage, level, self._written)

    def collect(self) -> int:
        """Remove what no kept checkpoint needs: orphans, temporary files, old generations. Bytes removed."""
        with self._mutex:
            last = self._writable()
            self._look_above_ours()
            keeping = kept(self._generations, self._keep)
            floor = keeping[0].base
            needed = set[str]().union(self._pending, *(generation.names for generation in keeping))
            doomed: dict[str, int] = {}
            for name, length in self._store.sizes("manifests").items():
                number, epoch = number_of(name), epoch_of(name)
                old = number is not None and (number < floor or (name.endswith(".claim") and number <= last.id))
                stale = number is None and epoch is not None and epoch <= self._epoch
                if old or stale or "/.probe-" in name:
                    doomed[name] = length
            if any(name.endswith(".json") for name in doomed) and floor_of(self._store) < floor:
                self._store.replace(FLOOR, wrap({"format": 1, "below": floor}))
            for folder in ("runs", "lists"):
                for name, length in self._store.sizes(folder).items():
                    epoch = epoch_of(name)
                    if name not in needed and epoch is not None and epoch <= self._epoch:
                        doomed[name] = length
            self._generations = list(keeping)
            return sum(length for name, length in doomed.items() if self._store.remove(name))

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
        assert self._last is not None
        return self._last

    def _adopt(self, found: history.History) -> None:
        self._folding = found.folding
        self._highest = found.highest
        self.warnings += [warning for warning in found.warnings if warning not in self.warnings]
        self._forget()
        self._last: Manifest | None = found.newest
        if not found.chain:
            return
        base, *deltas = found.chain
        self._deltas = len(deltas)
        self._delta_bytes = sum(manifest.length for manifest in deltas)
        self._base_bytes = base.length
        self._run_id, self._fingerprint, self._begun = base.run_id, dict(base.fingerprint), base.begun
        self._part_lists = list(base.part_lists)
        if not any(part for manifest in deltas for part in manifest.stages.values() if part.dropped):
            for ref in self._part_lists:
                for stage, parts in lists.read_parts(self._store, ref).items():
                    self._listed[stage] = self._listed.get(stage, 0) + len(parts)
        else:
            self._part_lists = []
        for manifest in found.chain:
            for key in (*manifest.facts, *manifest.removed_facts):
                self._large.pop(key, None)
            self._large.update(manifest.large_facts)

    def _forget(self) -> None:
        """Nothing of the state before is listed or large any more."""
        self._deltas = self._delta_bytes = self._base_bytes = 0
        self._part_lists, self._listed, self._large = [], {}, {}

    def _writable(self) -> Manifest:
        if not self._claimed or self._last is None:
            raise ValueError("this state directory is not claimed: begin or claim first")
        return self._last

    def _next_number(self) -> int:
        """The number to commit under: the next one, or the one after our own commit of unknown outcome."""
        number = self._highest + 1
        if self._doubtful is not None and self._store.read(name_of(number)) == self._doubtful:
            self._highest, self._doubtful = number, b""
            number += 1
        return number

    def _enter(self, number: int, epoch: int) -> None:
        """Before the first commit of a writer: take the number where that is a step of its own, then look again whether
        anything has changed since ``open``."""
        self._epoch = epoch
        try:
            self._store.reserve(name_of(number))
        except Taken as error:
            raise self._fenced(number) from error
        manifests, _ = history.numbers(self._store)
        if manifests and manifests[-1] > self._highest:
            raise self._fenced(manifests[-1])
        if self._store.reserves and self._last is not None and manifests and manifests[-1] != self._last.id:
            # A writer without hard links can have finished a lower number between our look and our claim.
            self._adopt(history.load(self._store, at=manifests[-1]))

    def _claim_done(self) -> Snapshot:
        self._claimed = True
        found = history.all_manifests(self._store)
        self._generations = generations(manifest for manifest in found if isinstance(manifest, Manifest))
        snapshot = self.snapshot
        assert snapshot is not None
        return snapshot

    def _needs_base(self, delta: Delta) -> bool:
        return (
            self._doubtful is not None
            or delta.phase is not self._current.phase
            or self._deltas >= DELTAS_A_BASE
            or self._delta_bytes > max(self._base_bytes, _SMALL_BYTES)
        )

    def _write_base(self, number: int, folding: Folding, delta: Delta, phase: Phase, *, relist: bool = False) -> int:
        """One base with ``folding`` (which has the delta's stages already) and the delta's facts."""
        made: list[str] = []
        try:
            large, written = self._large_facts(delta.facts, made)
            folding.add_facts(delta.facts)
            large = {key: ref for key, ref in {**self._large, **large}.items() if key in folding.facts}
            for key, value in delta.facts.items():
                if key in large and not (value is not None and lists.is_large(value)):
                    del large[key]
            part_lists, listed, more = self._list_parts(folding, [] if relist else self._part_lists, made)
            manifest = Manifest(
                id=number,
                epoch=self._epoch,
                base=number,
                previous="",
                twin=False,
                begun=self._begun,
                writer=self._writer,
                at=_now(),
                reason=delta.reason,
                phase=phase,
                run_id=self._run_id,
                fingerprint=self._fingerprint,
                facts={key: value for key, value in folding.facts.items() if key not in large},
                large_facts=large,
                removed_facts=(),
                stages=folding.stages(listed),
                part_lists=tuple(part_lists),
            )
            manifest = self._put(manifest)
        finally:
            self._pending.difference_update(made)
        self._folding, self._part_lists, self._listed, self._large = folding, part_lists, listed, large
        self._deltas = self._delta_bytes = 0
        self._base_bytes = manifest.length
        self._generations.append(Generation(number, self._begun))
        self._committed(manifest, delta.stages)
        return manifest.length + written + more

    def _write_twin(self) -> int:
        """The same base again under the next number, so that losing either file loses nothing."""
        number = self._next_number()
        manifest = self._put(replace(self._current, id=number, base=number, twin=True))
        self._committed(manifest, {})
        return manifest.length

    def _write_delta(self, number: int, delta: Delta) -> int:
        last = self._current
        made: list[str] = []
        try:
            large, written = self._large_facts(delta.facts, made)
            manifest = Manifest(
                id=number,
                epoch=self._epoch,
                base=last.base,
                previous=last.digest,
                twin=False,
                begun=self._begun,
                writer=self._writer,
                at=_now(),
                reason=delta.reason,
                phase=delta.phase,
                run_id=self._run_id,
                fingerprint={},
                facts={k: value for k, value in delta.facts.items() if value is not None and k not in large},
                large_facts=large,
                removed_facts=tuple(key for key, value in delta.facts.items() if value is None),
                stages=delta.stages,
                part_lists=(),
            )
            manifest = self._put(manifest)
        finally:
            self._pending.difference_update(made)
        if self._folding.drops_parts(delta.stages):
            self._part_lists, self._listed = [], {}
        self._folding.add(delta.stages)
        self._folding.add_facts(delta.facts)
        for key in delta.facts:
            self._large.pop(key, None)
        self._large.update(large)
        self._deltas += 1
        self._delta_bytes += manifest.length
        self._committed(manifest, delta.stages)
        return manifest.length + written

    def _put(self, manifest: Manifest) -> Manifest:
        """The atomic step. Returns the manifest as it lies on disk."""
        document = encode(manifest)
        name = name_of(manifest.id)
        earlier, self._doubtful = self._doubtful, document
        try:
            self._store.put_new(name, document, f"e{self._epoch}")
        except Taken as error:
            # A request that was repeated by the network finds its own work.
            if self._store.read(name) != document:
                self._doubtful = earlier
                raise self._fenced(manifest.id) from error
        manifest = decode(document, manifest.id)
        try:
            self._look_above(manifest.id)
        except FencedError:
            # We slept until our number was used and collected, and have now taken it again: nobody will ever read it.
            if manifest.id < floor_of(self._store):
                self._store.remove(name)
            raise
        self._doubtful = None
        return manifest

    def _committed(self, manifest: Manifest, stages: Mapping[int, StageDelta]) -> None:
        self._last, self._highest, self._snapshot = manifest, manifest.id, None
        if self._generations:
            self._generations[-1].add(manifest)
        for stage in stages.values():
            self._pending.difference_update(run.name for run in stage.runs)

    def _look_above(self, number: int) -> None:
        """Is there anything newer than ``number``? A writer that slept while others went on *and* collected could find its
        number free again; the floor, read by name, and the listing tell it."""
        above = max((number_of(name) or 0 for name in self._store.names("manifests")), default=0)
        if above <= number and self._store.taken(name_of(number + 1)):
            above = number + 1
        if above <= number:
            above = floor_of(self._store) - 1
        if above > number:
            raise self._fenced(above)

    def _look_above_ours(self) -> None:
        number = self._highest
        if self._doubtful and self._store.read(name_of(number + 1)) == self._doubtful:
            number += 1  # our own, of which nobody knew whether it was there
        self._look_above(number)

    @contextlib.contextmanager
    def _fenced_first(self) -> Iterator[None]:
        """A file of ours that is gone may have been removed by a run that took over: then that is what to say."""
        try:
            yield
        except StateError:
            with self._mutex, contextlib.suppress(StateError):
                if self._claimed:
                    self._look_above_ours()
            raise

    def _fenced(self, number: int) -> FencedError:
        return FencedError(
            f"{self._store.location}: another run has taken over this state directory (checkpoint {number} is not ours)",
            "nothing to do if that run goes on; otherwise start the same command again, and it resumes",
        )

    def _large_facts(self, facts: Mapping[str, Json], made: list[str]) -> tuple[dict[str, ListRef], int]:
        """Write the large ones of ``facts`` beside the manifest, unless they lie there already."""
        large: dict[str, ListRef] = {}
        written = 0
        for key, value in facts.items():
            if value is None or not lists.is_large(value):
                continue
            body = {"format": 1, "key": key, "fact": value}
            known = self._large.get(key)
            if known is not None and known.sha256 == lists.digest(body):
                large[key] = known
                continue
            large[key] = lists.write_list(self._store, self._list_name(made), body)
            written += large[key].length
        return large, written

    def _list_parts(
        self, folding: Folding, part_lists: Sequence[ListRef], made: list[str]
    ) -> tuple[list[ListRef], dict[int, int], int]:
        """Gather loose parts into a list once there are enough, and merge lists of a size."""
        listed = self._listed if part_lists else {}
        counts = folding.part_counts()
        refs = list(part_lists)
        if sum(counts.values()) - sum(listed.values()) < lists.PARTS_A_LIST:
            return refs, listed, 0
        loose = {number: stage.parts for number, stage in folding.stages(listed).items()}
        entries = sum(map(len, loose.values()))
        refs.append(lists.write_list(self._store, self._list_name(made), lists.encode_parts(loose), entries))
        written = refs[-1].length
        while merging := lists.lists_to_merge(refs):
            together: dict[int, list[tuple[int, Part]]] = {}
            for ref in merging:
                for stage, parts in lists.read_parts(self._store, ref).items():
                    together.setdefault(stage, []).extend(parts)
            entries = sum(map(len, together.values()))
            merged = lists.write_list(self._store, self._list_name(made), lists.encode_parts(together), entries)
            refs = [ref for ref in refs if ref not in merging] + [merged]
            written += merged.length
        return refs, counts, written

    def _list_name(self, made: list[str]) -> str:
        # With our own mark: a writer that died before its claim was true may have left one of the same number and epoch.
        made.append(self._new_name("lists", "", f"-{self._writer}.json"))
        return made[-1]

    def _new_name(self, folder: str, prefix: str, ending: str) -> str:
        """Never used before: the serial is unique in an epoch, and the epoch in the state directory."""
        self._serial = max(self._serial, self._highest) + 1
        name = f"{folder}/{prefix}{self._serial:08d}.e{self._epoch}{ending}"
        self._pending.add(name)
        return name

    def _written(self, name: str, durable: bool) -> None:
        if not durable:
            with self._mutex:
                self._pending.discard(name)
