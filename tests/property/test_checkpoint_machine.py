"""Interleavings of run, crash, resume, takeover, resize, rollback, damage and full disks: what was committed is there, once, and
nothing else; and what is rolled back is done again, while what happened to the process stays written down."""

from __future__ import annotations

import errno

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from etlkit.checkpoint import (
    Delta,
    Intervals,
    LocalStore,
    Phase,
    StageDelta,
    StateDir,
    choose_compaction,
    compact,
    lists,
    state_dir,
)
from etlkit.errors import ConfigError, FencedError, StateError
from etlkit.io.sink import Part
from etlkit.testing.faulty_store import FaultyDisk
from etlkit.testing.simdisk import SimDisk


class NoLinks(SimDisk):
    def link(self, source: str, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", target)


class Runs(RuleBasedStateMachine):
    """The model is three sets: splits done, parts named, facts. The state directory must say the same after everything."""

    make: type[SimDisk] = SimDisk

    def __init__(self) -> None:
        super().__init__()
        self.volume = self.make({"/": {}, "/pvc": {}})
        self.done: set[int] = set()
        self.facts: dict[str, object] = {}
        self.phase = Phase.RUNNING
        self.paused: list[StateDir] = []
        self.next_split = 0
        self.past: dict[int, tuple[set[int], dict[str, object]]] = {}
        """What each commit of this run said, by its number."""

    @initialize()
    def begin(self) -> None:
        self.disk = FaultyDisk(errno.ENOSPC, disk=self.volume)
        self.state = StateDir.open(LocalStore("/pvc/state", self.disk))
        self.state.begin("run", {"job": "x"}, {"kept": "from the beginning"})
        self.facts = {"kept": "from the beginning"}
        self.remember()

    def remember(self) -> None:
        snapshot = self.state.snapshot
        assert snapshot is not None
        self.past[snapshot.id] = set(self.done), dict(self.facts)

    def delta(self, splits: set[int], reason: str = "x") -> Delta:
        snapshot = self.state.snapshot
        assert snapshot is not None
        staged = f"e{snapshot.epoch}-{self.next_split}"
        parts = [(0, Part(split, f"part-{split}.{staged}", f"part-{split}", 1, 1, 1)) for split in sorted(splits)]
        with self.state.run_writer(0) as writer:
            writer.add(0, pa.table({"x": sorted(splits)}))
            runs = [writer.close()]
        dropped: tuple[str, ...] = ()
        if 0 in snapshot.stages and (chosen := choose_compaction(snapshot.stages[0].runs, 3)):
            runs.append(compact(self.state, chosen, lambda _, batches: pa.Table.from_batches(batches)))
            dropped = tuple(run.name for run in chosen)
        stage = StageDelta(Intervals.of(splits), tuple(runs), dropped, tuple(parts), len(splits), len(splits))
        return Delta(reason, {0: stage}, {"n": self.next_split, "big": ["b" * 20] * (self.next_split % 7)})

    def took(self, splits: set[int], delta: Delta) -> None:
        self.done |= splits
        self.facts |= delta.facts
        self.remember()

    @precondition(lambda self: self.phase is Phase.RUNNING)
    @rule(to_mib=st.sampled_from([256, 512, 1024]), killed=st.booleans(), again=st.booleans())
    def resize(self, to_mib: int, killed: bool, again: bool) -> None:
        """The intent is durable before the PATCH; the container is killed for it, before or after it could write down how it went."""
        known = [*self.facts.get("resizes", []), {"to": to_mib, "outcome": "requested"}]  # type: ignore[misc]
        self.state.commit(Delta("ask for memory", facts={"resizes": known}))
        self.facts["resizes"] = known
        self.remember()
        if killed:
            self.resume()
        if again:
            settled = [*known[:-1], {"to": to_mib, "outcome": "actuated"}]
            self.state.commit(Delta("granted", facts={"resizes": settled}))
            self.facts["resizes"] = settled
            self.remember()

    @precondition(lambda self: len(self.past) > 1)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """To any checkpoint that is still kept, but not once anything may be visible. Resizes and attempts happened all the same."""
        kept = [number for number in self.past if f"/pvc/state/manifests/{number:08d}.json" in self.paths()]
        number = data.draw(st.sampled_from(kept))
        fresh = StateDir.open(LocalStore("/pvc/state", self.disk))
        if self.phase is not Phase.RUNNING:
            with pytest.raises(ConfigError):
                fresh.go_back(number)
            return
        self.paused.append(self.state)
        self.state = fresh
        self.state.go_back(number)
        done, facts = self.past[number]
        lasting = {"resizes": self.facts["resizes"]} if "resizes" in self.facts else {}
        self.done, self.facts = set(done), {**facts, **lasting}
        self.next_split = max(self.done, default=-1) + 1
        self.past = {earlier: said for earlier, said in self.past.items() if earlier <= number}
        self.remember()
        self.state.collect()

    def paths(self) -> set[str]:
        return {f"{folder}/{name}" for folder, names in self.volume.tree().items() for name in names}

    @precondition(lambda self: self.phase is Phase.RUNNING)
    @rule(count=st.integers(1, 3))
    def commit(self, count: int) -> None:
        splits = set(range(self.next_split, self.next_split + count))
        self.next_split += count
        delta = self.delta(splits)
        self.state.commit(delta)
        self.took(splits, delta)

    @precondition(lambda self: self.phase is Phase.RUNNING)
    @rule(call=st.integers(1, 12), lasting=st.booleans(), again=st.booleans())
    def commit_on_a_full_disk(self, call: int, lasting: bool, again: bool) -> None:
        """Then there is room, and the same splits come again with one more; or the process ends."""
        splits = {self.next_split}
        self.next_split += 1
        self.disk.seen.clear()
        self.disk.fail_at, self.disk._lasting = call, lasting
        try:
            delta = self.delta(splits)
            self.state.commit(delta)
        except StateError:
            self.disk.mend()
            if again:
                splits |= {self.next_split}
                self.next_split += 1
                delta = self.delta(splits)
                self.state.commit(delta)
                self.took(splits, delta)
            else:
                # It may be there or not; a start finds out which.
                found = StateDir.open(LocalStore("/pvc/state", self.volume), read_only=True).snapshot
                assert found is not None
                if 0 in found.stages and splits & set(found.stages[0].finished):
                    self.took(splits, Delta("", facts=found.facts))
                self.resume()
        else:
            self.disk.mend()
            self.took(splits, delta)

    @rule()
    def resume(self) -> None:
        """The process died; whatever it had not committed is gone."""
        self.state = StateDir.open(LocalStore("/pvc/state", self.disk))
        assert not self.state.warnings
        self.state.claim({})
        self.remember()
        self.state.collect()

    @rule()
    def take_over(self) -> None:
        self.paused.append(self.state)
        self.resume()

    @precondition(lambda self: self.paused)
    @rule(which=st.integers(0, 5), data=st.data())
    def a_paused_writer_wakes(self, which: int, data: st.DataObject) -> None:
        sleeper = self.paused[which % len(self.paused)]
        assert sleeper.snapshot is not None
        phase = sleeper.snapshot.phase
        act = data.draw(st.sampled_from(["commit", "fence", "collect", "publish"]))
        with pytest.raises(FencedError):
            if act == "commit":
                sleeper.commit(Delta("late", {0: StageDelta(Intervals.of([10**6]))}, phase=phase))
            elif act == "publish":
                sleeper.commit(Delta("late", phase=Phase.DONE))
            elif act == "fence":
                sleeper.fence()
            else:
                sleeper.collect()

    @rule()
    def damage_the_newest(self) -> None:
        """At most the newest commit's work is lost, and it is said."""
        newest = self.state.snapshot
        assert newest is not None
        path = f"/pvc/state/manifests/{newest.id:08d}.json"
        inode = self.volume._find(path)
        whole = bytes(self.volume._inodes[inode])
        self.volume._inodes[inode][len(whole) // 2] ^= 1
        state = StateDir.open(LocalStore("/pvc/state", self.volume), read_only=True)
        assert state.warnings and state.snapshot is not None and state.snapshot.id < newest.id
        assert state.snapshot.phase is self.phase or self.phase is Phase.DONE
        self.volume._inodes[inode][:] = whole

    @precondition(lambda self: self.phase is Phase.RUNNING and self.done)
    @rule()
    def publish(self) -> None:
        self.state.commit(Delta("all", phase=Phase.PUBLISHING))
        self.phase = Phase.PUBLISHING
        self.remember()

    @precondition(lambda self: self.phase is Phase.PUBLISHING)
    @rule()
    def finish(self) -> None:
        self.state.commit(Delta("all", phase=Phase.DONE))
        self.phase = Phase.DONE
        self.remember()

    @invariant()
    def a_start_would_find_what_was_committed(self) -> None:
        if not hasattr(self, "state"):
            return
        state = StateDir.open(LocalStore("/pvc/state", self.volume), read_only=True)
        snapshot = state.snapshot
        assert snapshot is not None and not state.warnings
        assert snapshot == self.state.snapshot
        assert snapshot.phase is self.phase
        assert dict(snapshot.facts) == self.facts
        stage = snapshot.stages.get(0)
        assert set(stage.finished if stage else ()) == self.done
        if stage is not None:
            assert sorted(part.split for _, part in stage.parts) == sorted(self.done)
            assert stage.rows_in == len(self.done)
            rows: list[int] = []
            for run in stage.runs:
                with state.open_run(run) as reader:
                    rows += [x for batch in reader.batches(0) for x in batch["x"].to_pylist()]
            assert sorted(rows) == sorted(self.done)

    def teardown(self) -> None:
        if hasattr(self, "state"):
            assert self.state.verify() == []


class RunsWithoutLinks(Runs):
    make = NoLinks


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_dir, "DELTAS_A_BASE", 4)
    monkeypatch.setattr(lists, "PARTS_A_LIST", 3)
    monkeypatch.setattr(lists, "LARGE_FACT_BYTES", 60)


@pytest.mark.parametrize("machine", [Runs, RunsWithoutLinks])
def test_interleavings(machine: type[Runs]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
