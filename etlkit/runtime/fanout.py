"""One run in several processes: what an index finds at its start, and what it does when its share is done (ADR 18).

Covers the state of the run as a whole (``whole``), a share's own start, where its rows come from, arrival and publication. How a share
is run is the loop's, as ever; how pods are made from it is ``manifest``'s.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from ..checkpoint import Delta, Intervals, Phase, RunReader, RunRef, Snapshot, StageDelta, StateDir, open_store
from ..engine.extent import Extent, Ranges, rounds
from ..engine.planner import lower
from ..engine.splits import reduce_groups
from ..engine.stages import ExchangeOutput, Plan, ReduceInput, SinkOutput, Stage
from ..engine.work import Task
from ..errors import ConfigError, EtlkitError, FencedError, StateError, error_for
from ..exits import Exit
from ..io.folder_sink import discard_run
from ..io.sink import HasShares, Part, ShowsEarly, ShowsEmpty, Sink
from ..layout import WHOLE, share_folder, shares_below
from ..lazyclass import dataclass
from ..plan.fingerprint import fingerprint, run_id
from .opening import (
    AlreadyDone,
    Opened,
    Request,
    begin,
    failed_before,
    growing,
    input_files,
    parts_of,
    planned,
    refused,
    resume,
)
from .shard import Shard

LOOK_S = 0.5
"""Between two looks at whether the round before has ended."""
LEAST_WAIT_S = 30.0
"""For ``whole``, which others hold only for moments."""
TOKEN = "fan-out"
_Result = TypeVar("_Result")


def open_share(request: Request, limit_bytes: int | None, ended: Mapping[str, object] | None) -> Opened | AlreadyDone:
    """Join the run, begin it if it is nobody's yet, and open this share's own state.

    Errors as ``open_run``'s; 75 if the round before has not ended."""
    shard = request.shard
    assert shard is not None
    plan = lower(request.pipelines)
    check(plan, shard)
    files = input_files(plan)
    parts = fingerprint(request.job, request.parameters, request.pipelines, files)
    identity = request.run_id or run_id(parts)
    parts = parts | {"shards": str(shard.of)}
    whole = Whole(shard, plan, request.lock_wait_s, request.keep)
    joined = whole.join(request, identity, parts, files)
    if joined.phase is Phase.DONE:
        return AlreadyDone(identity, _rows_out(joined))
    if shard.round:
        joined = whole.wait_for_round(joined)
    mine = replace(plan, sinks=tuple(_share_of(sink, shard) for sink in plan.sinks))
    state_dir = StateDir.open(open_store(request.state), request.lock_wait_s, keep=request.keep)
    try:
        with state_dir.or_fenced():
            opened = _take(request, mine, state_dir, identity, parts | {TOKEN: whole.token}, files, limit_bytes, ended)
    except BaseException:
        state_dir.close()
        raise
    if isinstance(opened, AlreadyDone):
        state_dir.close()
        return opened
    opened.extent = ShareOf(state_dir, whole, joined)
    opened.hand_over = whole.arrive
    return opened


def _take(
    request: Request,
    plan: Plan,
    state_dir: StateDir,
    identity: str,
    parts: dict[str, str],
    files: Sequence[tuple[str, int, str]],
    limit_bytes: int | None,
    ended: Mapping[str, object] | None,
) -> Opened | AlreadyDone:
    """``whole`` is the authority: what belongs to another run than its present one is begun anew."""
    found = state_dir.snapshot
    if found is None or found.run_id != identity or dict(found.fingerprint) != parts:
        return begin(request, plan, state_dir, identity, parts, files, limit_bytes)
    if found.phase is Phase.FAILED:
        raise _without_restart(failed_before(found), request.shard)
    if found.phase is Phase.DONE:
        return AlreadyDone(identity, _rows_out(found))
    return resume(request, plan, state_dir, found, limit_bytes, ended)


def check(plan: Plan, shard: Shard) -> None:
    """What can't be fanned out. Errors: ConfigError."""
    if growing(plan):
        raise ConfigError("watch_dir has no end that several processes could agree on", "run this job without --shards")
    for sink in plan.sinks:
        if not isinstance(sink, HasShares):
            name = type(sink).__name__
            raise ConfigError(
                f"{name} has no shares: it can't be written by several processes", "give it `share(name)`"
            )
        if isinstance(sink, ShowsEarly) and sink.visible == "checkpoint":
            raise ConfigError('visible="checkpoint" shows parts before all indexes are done', 'say visible="end"')
    most = max(rounds(plan.stages))
    if shard.round > most:
        raise ConfigError(f"--round {shard.round}: this job has rounds 0 to {most}", "print its manifest again")


def _share_of(sink: Sink, shard: Shard) -> Sink:
    assert isinstance(sink, HasShares)
    return sink.share(shard.name)


def _rows_out(snapshot: Snapshot) -> int:
    return sum(stage.rows_out for stage in snapshot.stages.values())


class ShareOf(Extent):
    """The stages of one round, every N-th split of them; rows of earlier rounds come out of the states of all indexes."""

    may_hold = False

    def __init__(self, state_dir: StateDir, whole: Whole, joined: Snapshot) -> None:
        super().__init__(state_dir)
        self._whole = whole
        self._ended: Mapping[str, Any] = joined.facts.get("ended") or {}
        self._store = open_store(whole.shard.root)

    def runs_here(self, stage: Stage) -> bool:
        return self._whole.rounds[stage.index] == self._whole.shard.round

    def own(self, tasks: list[Task]) -> list[Task]:
        shard = self._whole.shard
        return [task for task in tasks if task.index % shard.of == shard.index]

    def groups(self, stage: int, snapshot: Snapshot) -> Sequence[Sequence[int]]:
        found: Sequence[Sequence[int]] = self._ended.get(str(stage), ())
        return found

    def runs(self, stage: int, snapshot: Snapshot) -> tuple[RunRef, ...]:
        return tuple(
            replace(run, name=f"{folder}/{run.name}")
            for folder, share in self._whole.shares(self._whole.rounds[stage])
            if stage in share.stages
            for run in share.stages[stage].runs
        )

    def open_run(self, ref: RunRef) -> RunReader:
        return RunReader(self._store, ref)

    def ranges(self, stage: int, snapshot: Snapshot, find: Callable[[], Ranges]) -> Ranges:
        return self._whole.ranges(stage, find)


@dataclass(slots=True)
class Whole:
    """The run as all indexes see it. Written for moments only, each time claimed anew: who loses the race for a number looks again."""

    shard: Shard
    plan: Plan
    lock_wait_s: float
    keep: int
    token: str = ""

    @property
    def place(self) -> str:
        return f"{self.shard.root}/{WHOLE}"

    @property
    def rounds(self) -> tuple[int, ...]:
        return rounds(self.plan.stages)

    def look(self) -> Snapshot | None:
        return look(self.shard.root)

    # ── joining ─────────────────────────────────────────────────────────────────────────────────────────────────

    def join(
        self, request: Request, identity: str, parts: dict[str, str], files: Sequence[tuple[str, int, str]]
    ) -> Snapshot:
        """The run as it stands; begun if there is none, or one that is done. Errors: ConfigError for another unfinished run."""
        found = self.look()
        if not _is(found, identity, parts):
            if self.shard.round:
                what = f"round {self.shard.round - 1} of this run has not begun"
                raise error_for(int(Exit.AGAIN), what, "start this when the Job of that round is complete")
            found = self._again(lambda: self._begin(request, identity, parts, files))
        assert found is not None
        self.token = str(found.facts["token"])
        return found

    def _begin(
        self, request: Request, identity: str, parts: dict[str, str], files: Sequence[tuple[str, int, str]]
    ) -> Snapshot:
        with self._open() as state_dir:
            found = state_dir.snapshot
            if found is not None and _is(found, identity, parts):
                return found
            if found is not None and found.phase is not Phase.DONE:
                raise _without_restart(refused(request, found, parts, identity, files), self.shard)
            for sink in self.plan.sinks:
                state_dir.still_ours()
                sink.prepare(identity, resuming=False)
            facts: dict[str, Any] = {
                "job": request.job,
                "target": request.target,
                "parameters": {name: str(value) for name, value in request.parameters.items()},
                "plan": planned(self.plan),
                "sinks": [sink.describe() for sink in self.plan.sinks],
                "shards": self.shard.of,
                "rounds": max(self.rounds) + 1,
                "token": secrets.token_hex(8),
                "arrived": {},
                "ended": {},
                "boundaries": {},
            }
            snapshot = state_dir.begin(identity, parts, facts)
            state_dir.collect()
            return snapshot

    def wait_for_round(self, joined: Snapshot) -> Snapshot:
        """Until the round before has ended; normally it has, since its Job comes first. Errors: 75 after ``lock_wait`` or a signal."""
        before = str(self.shard.round - 1)
        until_s = time.monotonic() + self.lock_wait_s
        with _stopped() as stopped:
            while True:
                arrived = (joined.facts.get("arrived") or {}).get(before, ())
                missing = sorted(set(range(self.shard.of)) - set(arrived))
                if not missing:
                    return joined
                if stopped.is_set() or time.monotonic() >= until_s:
                    shown = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
                    what = f"round {before} has not ended: index {shown} of {self.shard.of} is missing"
                    raise error_for(int(Exit.AGAIN), what, "start this when the Job of that round is complete")
                stopped.wait(LOOK_S)
                joined = self._ours(self.look())

    # ── between the rounds ──────────────────────────────────────────────────────────────────────────────────────

    def shares(self, round_: int) -> Iterator[tuple[str, Snapshot]]:
        """What each index has left of a round that has ended. Errors: StateError if it is not there as it was told."""
        for index in range(self.shard.of):
            folder = share_folder(round_, index)
            found = StateDir.open(open_store(f"{self.shard.root}/{folder}"), read_only=True).snapshot
            final = found is not None and found.phase in (Phase.PUBLISHING, Phase.DONE)
            if found is None or not final or found.fingerprint.get(TOKEN) != self.token:
                raise StateError(
                    f"{self.shard.root}/{folder}: it has arrived, and its state does not say so",
                    "was it removed? start the whole run anew: remove the state, then submit it again",
                )
            yield folder, found

    def ranges(self, stage: int, find: Callable[[], Ranges]) -> Ranges:
        """The first index to need them finds them from a sample of all splits; the others take what is recorded."""
        known = Ranges.recorded(stage, self._ours(self.look()).facts)
        if known is not None:
            return known
        fresh = find()

        def write() -> Ranges:
            with self._open() as state_dir:
                facts = self._ours(state_dir.snapshot).facts
                known = Ranges.recorded(stage, facts)
                if known is None:
                    state_dir.claim(fresh.facts(stage, facts), "ranges of a sort")
                return known or fresh

        return self._again(write)

    # ── arriving ────────────────────────────────────────────────────────────────────────────────────────────────

    def arrive(self) -> Sequence[Part] | None:
        """This share is final. The last of a round says how its partitions are cut; the last of all publishes, and gives all parts.
        May be repeated."""
        return self._again(self._arrive)

    def _arrive(self) -> Sequence[Part] | None:
        shard, number = self.shard, str(self.shard.round)
        with self._open() as state_dir, state_dir.or_fenced():
            found = self._ours(state_dir.snapshot)
            if found.phase is Phase.DONE:
                return None
            arrived: dict[str, list[int]] = dict(found.facts["arrived"])
            arrived[number] = sorted({*arrived.get(number, ()), shard.index})
            facts: dict[str, Any] = {"arrived": arrived}
            complete = len(arrived[number]) == shard.of
            if complete and shard.round < max(self.rounds):
                facts["ended"] = {**found.facts["ended"], **self._cut(shard.round)}
            state_dir.claim(facts, f"index {shard.index} of round {shard.round} has arrived")
            if complete and shard.round == max(self.rounds):
                return self._publish(state_dir)
            return None

    def _cut(self, round_: int) -> dict[str, list[list[int]]]:
        """How the partitions of the stages that ended with this round are cut into splits of later ones."""
        stored: dict[int, int] = {}
        for earlier in range(round_ + 1):
            for _, share in self.shares(earlier):
                for number, state in share.stages.items():
                    stored[number] = stored.get(number, 0) + sum(run.bytes for run in state.runs)
        groups: dict[str, list[list[int]]] = {}
        for stage in self.plan.stages:
            if self.rounds[stage.index] == round_ and isinstance(stage.output, ExchangeOutput):
                together = {number for met in self._met_with(stage.index) for number in met}
                total = sum(stored.get(number, 0) for number in together)
                groups[str(stage.index)] = reduce_groups(total, stage.output.partitions, self.shard.of)
        return groups

    def _met_with(self, number: int) -> list[tuple[int, ...]]:
        return [
            one.stages
            for stage in self.plan.stages
            for one in stage.inputs
            if isinstance(one, ReduceInput) and number in one.stages
        ]

    def _publish(self, state_dir: StateDir) -> Sequence[Part]:
        found = state_dir.snapshot
        assert found is not None
        for sink in self.plan.sinks:
            sink.prepare(found.run_id, resuming=True)
        if found.phase is Phase.RUNNING:
            state_dir.commit(Delta("every index has arrived", self._all_parts(found), {}, Phase.PUBLISHING))
            found = state_dir.snapshot
            assert found is not None
        parts = parts_of(found)
        for number, sink in enumerate(self.plan.sinks):
            mine = [part for at, part in parts if at == number]
            state_dir.fence()
            sink.recover(mine)
            sink.commit(mine, state_dir.fence)
        state_dir.commit(Delta("output published", {}, {}, Phase.DONE))
        return [part for _, part in parts]

    def _all_parts(self, found: Snapshot) -> dict[int, StageDelta]:
        """What all indexes of all rounds have done, as one step of the whole run."""
        deltas: dict[int, StageDelta] = {}
        for round_ in range(max(self.rounds) + 1):
            for _, share in self.shares(round_):
                for number, state in share.stages.items():
                    before = deltas.get(number, StageDelta())
                    if before.finished & state.finished:
                        raise StateError(f"stage {number}: two indexes did the same splits", "report this: it is a bug")
                    deltas[number] = StageDelta(
                        finished=before.finished | state.finished,
                        parts=(*before.parts, *state.parts),
                        rows_in=before.rows_in + state.rows_in,
                        rows_out=before.rows_out + state.rows_out,
                    )
        for stage in self.plan.stages:
            if isinstance(stage.output, SinkOutput):
                sink, number = self.plan.sinks[stage.output.sink], stage.output.sink
                delta = deltas.get(stage.index, StageDelta(finished=Intervals()))
                if not delta.parts and isinstance(sink, ShowsEmpty):
                    empty = sink.stage_empty(found.epoch, stage.schema)
                    deltas[stage.index] = replace(delta, parts=tuple((number, part) for part in empty))
        return deltas

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> StateDir:
        return StateDir.open(open_store(self.place), max(self.lock_wait_s, LEAST_WAIT_S), keep=self.keep)

    def _ours(self, found: Snapshot | None) -> Snapshot:
        if found is None or found.facts.get("token") != self.token:
            raise FencedError(f"{self.place}: another run has taken over", "nothing to do if that run goes on")
        return found

    def _again(self, act: Callable[[], _Result]) -> _Result:
        """Where there are no locks, two may go for the same number: who loses looks again."""
        until_s = time.monotonic() + max(self.lock_wait_s, LEAST_WAIT_S)
        while True:
            try:
                return act()
            except FencedError:
                if time.monotonic() >= until_s:
                    raise
                if self.token:
                    self._ours(self.look())
                time.sleep(0.02 + secrets.randbelow(100) / 1000)


def look(root: str) -> Snapshot | None:
    """The newest of the run as a whole; None if there is none below this root."""
    place = f"{root}/{WHOLE}"
    if "://" not in place and not Path(place).is_dir():
        return None
    return StateDir.open(open_store(place), read_only=True).snapshot


def discard(root: str) -> None:
    """A run that is not done, its staging and its state. No index may be running. Errors: StateError, ConfigError."""
    found = look(root)
    if found is None:
        return
    if "://" in root:
        raise ConfigError(
            f"{root}: a fan-out's state behind a URL is not discarded here", "remove it by its store's tools"
        )
    with StateDir.open(open_store(f"{root}/{WHOLE}"), LEAST_WAIT_S):
        for sink in found.facts.get("sinks") or ():
            if sink.get("path") and found.phase is not Phase.DONE:
                discard_run(str(sink["path"]), found.run_id)
    for folder in (Path(root, WHOLE), *(folder for _, _, folder in shares_below(Path(root)))):
        shutil.rmtree(folder, ignore_errors=True)


def _is(found: Snapshot | None, identity: str, parts: Mapping[str, str]) -> bool:
    if found is None or found.run_id != identity:
        return False
    return found.phase is Phase.DONE or dict(found.fingerprint) == dict(parts)


def _without_restart(error: EtlkitError, shard: Shard | None) -> EtlkitError:
    """In a fan-out there is no --restart: N pods would discard one another."""
    root = shard.root if shard is not None else "STATE"
    error.remedy = f"mend the cause, remove {root} (the unfinished run), then start it anew"
    return error


@contextlib.contextmanager
def _stopped() -> Iterator[threading.Event]:
    """Set by SIGTERM or SIGINT while we wait; the job's own handlers come later."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
