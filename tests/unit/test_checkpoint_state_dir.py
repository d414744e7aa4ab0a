"""StateDir on real folders: what is committed is found again, by one writer at a time, and old files go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from etlkit.checkpoint import (
    Delta,
    Intervals,
    LocalStore,
    Phase,
    RunRef,
    StageDelta,
    StateDir,
    choose_compaction,
    compact,
)
from etlkit.errors import FencedError, StateBusyError, StateError
from etlkit.exits import Exit
from etlkit.io.sink import Part
from etlkit.testing.faulty_store import LaggingStore


def begun(folder: Path, **facts: object) -> StateDir:
    state = StateDir.open(folder)
    state.begin("run-1", {"job": "abc"}, facts)
    return state


def part(split: int, epoch: int = 1) -> Part:
    return Part(split, f"part-{split:05d}.e{epoch}", f"part-{split:05d}", 10, 100, split)


def split_delta(split: int, *runs: RunRef, reason: str = "interval") -> Delta:
    stage = StageDelta(Intervals.of([split]), runs, (), ((0, part(split)),), 10, 7)
    return Delta(reason, {0: stage}, {"last": split})


def write_run(state: StateDir, stage: int = 0, level: int = 0, **partitions: list[int]) -> RunRef:
    with state.run_writer(stage, level) as writer:
        for name, values in sorted(partitions.items(), key=lambda item: int(item[0][1:])):
            writer.add(int(name[1:]), pa.table({"x": values}))
        return writer.close()


def abandon(state: StateDir) -> None:
    """As if its node were lost: the lock is gone, the process may still be there."""
    if state._lock is not None:
        state._lock.__exit__(None, None, None)
        state._lock = None


def test_a_fresh_folder_has_no_snapshot(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "a" / "b") as state:
        assert state.snapshot is None
        with pytest.raises(ValueError, match="begin or claim first"):
            state.commit(Delta("x"))
        with pytest.raises(ValueError, match="no run to claim"):
            state.claim({})


def test_what_was_committed_is_found_again(tmp_path: Path) -> None:
    with begun(tmp_path, job="part_revenue", nothing=None) as state:
        run = write_run(state, p0=[1, 2], p5=[3])
        first = state.commit(split_delta(0, run))
        second = state.commit(split_delta(1, reason="memory is tight"))
        assert (first.id, second.id, second.reason) == (3, 4, "memory is tight")
        assert first.bytes > run.length and first.duration_s > 0
        said = state.snapshot
    with StateDir.open(tmp_path) as again:
        found = again.snapshot
        assert found == said and found is not None
        assert (found.id, found.epoch, found.phase, found.run_id) == (4, 1, Phase.RUNNING, "run-1")
        assert found.fingerprint == {"job": "abc"} and found.facts == {"job": "part_revenue", "last": 1}
        stage = found.stages[0]
        assert stage.finished == Intervals([(0, 2)]) and stage.runs == (run,)
        assert stage.parts == ((0, part(0)), (0, part(1))) and (stage.rows_in, stage.rows_out) == (20, 14)
        with again.open_run(stage.runs[0]) as reader:
            assert reader.partitions() == (0, 5)
            assert [batch.to_pydict() for batch in reader.batches(5)] == [{"x": [3]}]
            assert list(reader.batches(1)) == []


def test_a_claim_takes_the_next_epoch_and_fences(tmp_path: Path) -> None:
    paused = begun(tmp_path)
    paused.commit(split_delta(0))
    abandon(paused)
    with StateDir.open(tmp_path) as state:
        snapshot = state.claim({"attempts": [1, 2]})
        assert (snapshot.id, snapshot.epoch) == (4, 2)
        for act in (paused.fence, paused.collect, lambda: paused.commit(split_delta(1))):
            with pytest.raises(FencedError) as fenced:
                act()
            assert fenced.value.exit_code is Exit.STATE_BUSY
        state.commit(split_delta(1))
        assert len(state.snapshot.stages[0].parts) == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("commits", [1, 40, 200])
def test_a_writer_that_slept_through_collections_is_fenced(tmp_path: Path, commits: int) -> None:
    """Its number is free again, because manifests of that age are collected; the commit must fail all the same."""
    paused = begun(tmp_path)
    paused.commit(split_delta(0))
    run = write_run(paused, p0=[1])
    abandon(paused)
    with StateDir.open(tmp_path) as state:
        state.claim({})
        for split in range(1, commits + 1):
            state.commit(split_delta(split))
        before = state.snapshot
        with pytest.raises(FencedError):
            paused.fence()
        with pytest.raises(FencedError):
            paused.commit(split_delta(1, run))
        state.commit(split_delta(commits + 1))
        assert before is not None
    again = StateDir.open(tmp_path)
    assert again.snapshot is not None and again.snapshot.id == before.id + 1 and not again.warnings


def test_two_that_opened_the_same_state_cannot_both_claim(tmp_path: Path) -> None:
    with begun(tmp_path):
        pass
    one = StateDir.open(tmp_path)
    abandon(one)
    two = StateDir.open(tmp_path)
    two.claim({})
    with pytest.raises(FencedError):
        one.claim({})
    with pytest.raises(FencedError):
        one.begin("other", {}, {})


def test_another_live_run_is_told_politely_and_who_it_is(tmp_path: Path) -> None:
    with begun(tmp_path):
        with pytest.raises(StateBusyError, match=f"process {os.getpid()} on ") as busy:
            StateDir.open(tmp_path, 0.1)
        assert busy.value.exit_code is Exit.STATE_BUSY
        assert StateDir.open(tmp_path, read_only=True).snapshot is not None
    StateDir.open(tmp_path).close()


def test_waiting_for_the_lock_ends_when_it_is_released(tmp_path: Path) -> None:
    state = begun(tmp_path)
    timer = threading.Timer(0.2, state.close)
    timer.start()
    with StateDir.open(tmp_path, 30) as later:
        assert later.snapshot is not None
    timer.join()


def test_reading_only_changes_nothing(tmp_path: Path) -> None:
    reader = StateDir.open(tmp_path / "nowhere", read_only=True)
    assert reader.snapshot is None and not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="begin or claim"):
        reader.collect()


def test_increments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with begun(tmp_path) as state:
        run = write_run(state, p0=[1])
        state.commit(split_delta(3, run))
        for stage, why in (
            (StageDelta(Intervals([(2, 5)])), "finished before"),
            (StageDelta(runs=(run,)), "again"),
            (StageDelta(dropped=("runs/none",)), "does not have"),
            (StageDelta(parts=((0, part(9)), (0, part(9)))), "twice"),
        ):
            with pytest.raises(ValueError, match=why):
                state.commit(Delta("x", {0: stage}))
        state.commit(split_delta(4))
        state.commit(Delta("all", phase=Phase.PUBLISHING))
        with pytest.raises(ValueError, match="cannot be running again"):
            state.commit(Delta("x"))


def test_facts_that_are_not_json_commit_nothing(tmp_path: Path) -> None:
    with begun(tmp_path) as state:
        with pytest.raises(TypeError):
            state.commit(Delta("x", facts={"bad": object()}))
        assert state.commit(split_delta(0)).id == 3


def test_large_facts_lie_beside_the_manifests(tmp_path: Path) -> None:
    plan = list(range(20_000))
    with begun(tmp_path, plan=plan) as state:
        for split in range(70):
            state.commit(split_delta(split))
        assert max(path.stat().st_size for path in (tmp_path / "manifests").iterdir()) < 20_000
        assert len(list((tmp_path / "lists").iterdir())) == 1
        state.commit(Delta("x", facts={"plan": "short now"}))
    with StateDir.open(tmp_path) as state:
        assert state.snapshot is not None and state.snapshot.facts["plan"] == "short now"
        state.claim({"plan": plan})
        assert state.snapshot.facts["plan"] == plan
        state.commit(Delta("x", facts={"plan": None}))
    found = StateDir.open(tmp_path, read_only=True).snapshot
    assert found is not None and "plan" not in found.facts


def test_orphans_go_and_what_is_in_flight_stays(tmp_path: Path) -> None:
    with begun(tmp_path) as dead:
        write_run(dead, p0=list(range(1000)))
        (tmp_path / "manifests" / ".00000009.json.e1-abcd.tmp").write_bytes(b"half")
        (tmp_path / "runs" / "s00-00000003.e9.run").write_bytes(b"of a later writer")
        (tmp_path / "runs" / "notes.txt").write_bytes(b"not ours")
    with StateDir.open(tmp_path) as state:
        state.claim({})
        flying, landed = state.run_writer(0), write_run(state, p0=[1])
        assert state.collect() > 8000
        names = {path.name for path in (tmp_path / "runs").iterdir()}
        assert names == {"s00-00000003.e9.run", "notes.txt", flying.name.split("/")[1], landed.name.split("/")[1]}
        assert not list((tmp_path / "manifests").glob(".*"))
        flying.abort()
        state.commit(Delta("x", {0: StageDelta(runs=(landed,))}))
        assert not state.verify()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_generations_as_asked_for_are_kept_whole(tmp_path: Path, keep: int) -> None:
    state = StateDir.open(tmp_path, keep=keep)
    state.begin("r", {}, {})
    previous: tuple[str, ...] = ()
    for split in range(200):
        run = write_run(state, p0=[split])
        state.commit(Delta("x", {0: StageDelta(Intervals.of([split]), (run,), previous)}))
        previous = (run.name,)
    manifests = sorted(path.name for path in (tmp_path / "manifests").glob("0*.json"))
    assert (keep - 1) * 33 < len(manifests) <= keep * 33 + 1
    assert len(list((tmp_path / "runs").iterdir())) <= len(manifests) + 2
    assert not state.verify()
    state.close()
    # Every kept checkpoint can be read, with its runs.
    from etlkit.checkpoint import history

    for name in manifests:
        found = history.load(LocalStore(tmp_path), at=int(name[:8]))
        for stage in found.folding.stages({}).values():
            for run in stage.runs:
                with StateDir.open(tmp_path, read_only=True).open_run(run) as reader:
                    reader.check()


def test_a_second_run_in_the_same_folder_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    with begun(tmp_path) as state:
        state.commit(split_delta(0, write_run(state, p0=[1])))
        state.commit(Delta("end", phase=Phase.PUBLISHING))
        state.commit(Delta("end", phase=Phase.DONE))
    with StateDir.open(tmp_path) as state:
        assert state.snapshot is not None and state.snapshot.phase is Phase.DONE
        fresh = state.begin("run-2", {"job": "def"}, {})
        assert (fresh.epoch, fresh.phase, dict(fresh.stages)) == (2, Phase.RUNNING, {})
        state.collect()
        assert not list((tmp_path / "runs").iterdir())
        assert state.commit(split_delta(0)).id == fresh.id + 1


def test_a_failed_run_is_running_again_once_claimed(tmp_path: Path) -> None:
    with begun(tmp_path) as state:
        state.commit(Delta("bad input", phase=Phase.FAILED))
    with StateDir.open(tmp_path) as state:
        assert state.snapshot is not None and state.snapshot.phase is Phase.FAILED
        assert state.claim({}).phase is Phase.RUNNING


def test_listing_may_lag(tmp_path: Path) -> None:
    state = StateDir.open(LaggingStore(tmp_path, 3))
    state.begin("r", {}, {})
    for split in range(100):
        state.commit(split_delta(split))
    abandon(state)
    late = LaggingStore(tmp_path, 10)
    for _ in range(3):
        late.names("manifests")
    for split in range(100, 104):
        state.commit(split_delta(split))
    assert StateDir.open(late, read_only=True).snapshot == state.snapshot
    with StateDir.open(late) as taker:
        taker.claim({})
        with pytest.raises(FencedError):
            state.commit(split_delta(104))
        taker.commit(split_delta(104))
        taker.collect()
        assert not taker.verify()


def test_runs_may_be_written_and_committed_from_several_threads(tmp_path: Path) -> None:
    with begun(tmp_path) as state:
        errors: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                for step in range(10):
                    run = write_run(state, p0=[worker, step])
                    state.commit(split_delta(worker * 10 + step, run))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        found = StateDir.open(tmp_path, read_only=True).snapshot
        assert (
            found is not None and found.stages[0].finished == Intervals([(0, 40)]) and len(found.stages[0].runs) == 40
        )
        assert not state.verify()


def test_compaction_is_tiered_and_keeps_the_rows(tmp_path: Path) -> None:
    with begun(tmp_path) as state:
        written = 0
        for split in range(100):
            run = write_run(state, p0=[split], p1=[split, split])
            runs, dropped = [run], ()
            stage = state.snapshot.stages.get(0)  # type: ignore[union-attr]
            if stage is not None and (chosen := choose_compaction(stage.runs, 4)):
                merged = compact(state, chosen, lambda _, batches: pa.Table.from_batches(batches))
                written += merged.rows
                runs, dropped = [run, merged], tuple(each.name for each in chosen)
            state.commit(Delta("x", {0: StageDelta(Intervals.of([split]), tuple(runs), dropped)}))
        stage = state.snapshot.stages[0]  # type: ignore[union-attr]
        assert len(stage.runs) <= 4 * 4
        assert written <= 300 * 3  # log4(100) < 4 levels, the lowest written by the runs themselves
        values = []
        for run in stage.runs:
            with state.open_run(run) as reader:
                values += [x for batch in reader.batches(1) for x in batch["x"].to_pylist()]
        assert sorted(values) == sorted([*range(100), *range(100)])


def test_compaction_chooses_the_oldest_of_the_highest_full_level() -> None:
    def ref(name: str, level: int) -> RunRef:
        return RunRef(name, 0, level, 1, 1, 1, 0)

    runs = [ref("a", 1), ref("b", 0), ref("c", 1), ref("d", 0), ref("e", 0)]
    assert choose_compaction(runs, 4) is None
    assert [run.name for run in choose_compaction(runs, 2) or ()] == ["a", "c"]
    assert [run.name for run in choose_compaction(runs, 3) or ()] == ["b", "d", "e"]
    assert len(choose_compaction([ref(str(n), 0) for n in range(100)], 3) or ()) == 12


def test_a_newer_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    from etlkit.checkpoint import document

    with begun(tmp_path):
        pass
    newest = sorted((tmp_path / "manifests").glob("*.json"))[-1]
    body = document.unwrap(newest.read_bytes(), "x")
    newest.write_bytes(document.wrap({**body, "format": 2, "something": "new"}))
    with pytest.raises(StateError, match="format 2") as refused:
        StateDir.open(tmp_path)
    assert "later" in refused.value.remedy and refused.value.exit_code is Exit.STATE_IO
    StateDir.open(tmp_path, read_only=False, discard=True).close()
