"""Damage of every kind to every file: an earlier good checkpoint and a word about it, or exit 74 naming the file.

Never a wrong state.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from etlkit.checkpoint import Delta, Intervals, Phase, Snapshot, StageDelta, StateDir, lists
from etlkit.errors import CorruptStateError, StateError
from etlkit.exits import Exit
from etlkit.io.sink import Part

Said = tuple[Intervals, tuple[str, ...], int, dict[str, object]]


def said(snapshot: Snapshot) -> Said:
    stage = snapshot.stages.get(0)
    if stage is None:
        return Intervals(), (), 0, dict(snapshot.facts)
    return stage.finished, tuple(part.name for _, part in stage.parts), stage.rows_in, dict(snapshot.facts)


class Kept:
    """A state directory and what it said at each of its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: dict[int, Said] = {}
        self.rows: dict[str, list[int]] = {}

    def look(self) -> StateDir:
        """Open it; what it says must be what was true at that checkpoint."""
        state = StateDir.open(self.folder, read_only=True)
        if state.snapshot is not None:
            assert said(state.snapshot) == self.history[state.snapshot.id]
        return state

    def expect_fallback_or_74(self, name: str) -> str:
        newest = max(self.history)
        try:
            state = self.look()
        except CorruptStateError as error:
            assert error.exit_code is Exit.STATE_IO and error.remedy
            assert name in str(error), f"{name} is not named: {error}"
            return "refused"
        assert state.snapshot is not None
        if state.snapshot.id == newest and not state.warnings:
            return "unharmed"
        assert any(name in warning for warning in state.warnings), f"{name} is not named: {state.warnings}"
        return "went back"


def make(folder: Path, splits: int, phase: Phase | None = None) -> Kept:
    kept = Kept(folder)
    with StateDir.open(folder) as state:

        def note() -> None:
            assert state.snapshot is not None
            kept.history[state.snapshot.id] = said(state.snapshot)

        snapshot = state.begin("run", {"job": "abc"}, {"plan": ["p" * 50] * 400})
        kept.history = {snapshot.id - 1: said(snapshot), snapshot.id: said(snapshot)}
        for split in range(splits):
            with state.run_writer(0) as writer:
                writer.add(0, pa.table({"x": [split, 1]}))
                run = writer.close()
            kept.rows[run.name] = [split, 1]
            part = Part(split, f"part-{split}.e1", f"part-{split}", 1, 2, 3)
            state.commit(
                Delta("x", {0: StageDelta(Intervals.of([split]), (run,), (), ((0, part),), 5, 5)}, {"n": split})
            )
            note()
        if phase is not None:
            state.commit(Delta("publish", phase=Phase.PUBLISHING))
            note()
            kept.history[max(kept.history) - 1] = kept.history[max(kept.history)]
            if phase is Phase.DONE:
                state.commit(Delta("done", phase=Phase.DONE))
                note()
    return kept


def flips(path: Path) -> Iterator[int]:
    content = path.read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        yield at
    path.write_bytes(content)


def manifest(kept: Kept, number: int) -> Path:
    return kept.folder / "manifests" / f"{number:08d}.json"


@pytest.mark.parametrize("which", ["newest", "middle", "base", "first"])
def test_every_byte_of_a_manifest(tmp_path: Path, which: str) -> None:
    kept = make(tmp_path, 6)
    number = {"newest": 8, "middle": 5, "base": 2, "first": 1}[which]
    outcomes = {kept.expect_fallback_or_74(f"{number:08d}.json") for _ in flips(manifest(kept, number))}
    # Number 2 is the twin of number 1: losing it costs the deltas, losing number 1 costs nothing.
    assert outcomes == {"unharmed" if which == "first" else "went back"}
    assert kept.look().snapshot.id == 8  # type: ignore[union-attr]


@pytest.mark.parametrize("phase", [Phase.PUBLISHING, Phase.DONE])
def test_every_byte_of_the_last_manifest_of_a_run_that_is_visible(tmp_path: Path, phase: Phase) -> None:
    """Never back to before the publication."""
    kept = make(tmp_path, 2, phase)
    for _ in flips(manifest(kept, max(kept.history))):
        state = kept.look()
        assert state.snapshot is not None and state.snapshot.phase is Phase.PUBLISHING and state.warnings


def test_two_damaged_manifests_are_one_too_many(tmp_path: Path) -> None:
    kept = make(tmp_path, 6)
    for number in (8, 7):
        manifest(kept, number).write_bytes(b"")
    with pytest.raises(CorruptStateError, match=r"00000008\.json.*00000007\.json"):
        kept.look()
    with StateDir.open(tmp_path, discard=True) as state:
        snapshot = state.begin("anew", {}, {})
        assert snapshot.id == 10 and snapshot.epoch > 1


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def double(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def other(path: Path) -> None:
    """Another file of the same kind under its name."""
    neighbours = sorted(each for each in path.parent.iterdir() if each != path and each.name != "floor.json")
    path.write_bytes(neighbours[0].read_bytes() if neighbours else b"{}")


KINDS: list[Callable[[Path], None]] = [zero, halve, empty, double, other, Path.unlink]


@pytest.mark.parametrize("damage", KINDS, ids=lambda kind: kind.__name__)
def test_every_file_damaged(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Whatever happens to whichever file: opening says a true state or 74; reading what it names gives the rows or 74."""
    kept = make(tmp_path / "state", 40)
    files = sorted(path for path in kept.folder.rglob("*") if path.is_file() and path.name != "writer.lock")
    assert {path.parent.name for path in files} == {"manifests", "runs", "lists"}
    for path in files:
        content = path.read_bytes()
        damage(path)
        try:
            state = kept.look()
            assert state.snapshot is not None
            for run in state.snapshot.stages[0].runs:
                with state.open_run(run) as reader:
                    rows = [x for batch in reader.batches(0) for x in batch["x"].to_pylist()]
                    assert rows == kept.rows[run.name]
        except CorruptStateError as error:
            assert path.name in str(error)
        path.write_bytes(content)


def test_every_byte_of_a_run(tmp_path: Path) -> None:
    kept = make(tmp_path, 1)
    (path,) = (tmp_path / "runs").iterdir()
    state = kept.look()
    (run,) = state.snapshot.stages[0].runs  # type: ignore[union-attr]
    for at in flips(path):
        try:
            with state.open_run(run) as reader:
                reader.check()
            raise AssertionError(f"byte {at} may change unnoticed")
        except CorruptStateError as error:
            assert run.name in str(error) and error.name == run.name
        problems = state.verify()
        assert [problem.name for problem in problems] == [run.name] and problems[0].fatal


def test_every_byte_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LARGE_FACT_BYTES", 100)
    kept = make(tmp_path, 1)
    (path,) = (tmp_path / "lists").iterdir()
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        assert kept.expect_fallback_or_74(path.name) == "refused"
    path.write_bytes(whole)
    assert not kept.look().verify()


def test_verify_names_what_is_damaged_and_what_is_needed(tmp_path: Path) -> None:
    kept = make(tmp_path, 3)
    assert StateDir.open(tmp_path, read_only=True).verify() == []
    runs = sorted((tmp_path / "runs").iterdir())
    runs[0].unlink()
    zero(runs[1])
    manifest(kept, 1).write_bytes(b"x")
    problems = {problem.name: problem for problem in StateDir.open(tmp_path, read_only=True).verify()}
    assert set(problems) == {f"runs/{runs[0].name}", f"runs/{runs[1].name}", "manifests/00000001.json"}
    assert problems[f"runs/{runs[0].name}"].fatal and "missing" in problems[f"runs/{runs[0].name}"].text
    assert not problems["manifests/00000001.json"].fatal


def test_a_state_copied_over_another_is_noticed(tmp_path: Path) -> None:
    """Manifests of two state directories mixed: the chain's digests do not fit."""
    one, two = make(tmp_path / "one", 6), make(tmp_path / "two", 6)
    shutil.copy(manifest(two, 6), manifest(one, 6))
    assert one.expect_fallback_or_74("00000006.json") == "went back"


def test_after_going_back_the_run_goes_on_with_an_epoch_of_its_own(tmp_path: Path) -> None:
    kept = make(tmp_path, 6)
    manifest(kept, 8).write_bytes(b"rotten")
    with StateDir.open(tmp_path) as state:
        assert state.warnings and state.snapshot is not None and state.snapshot.id == 7
        snapshot = state.claim({})
        # Number 8 may have been a claim, with epoch 2.
        assert (snapshot.id, snapshot.epoch) == (9, 3)
        state.commit(Delta("again", {0: StageDelta(Intervals.of([5]), rows_in=5)}))
    again = StateDir.open(tmp_path, read_only=True)
    assert not again.warnings and again.snapshot is not None and again.snapshot.stages[0].rows_in == 30


def test_a_newer_format_that_is_whole_is_not_damage(tmp_path: Path) -> None:
    from etlkit.checkpoint import document

    kept = make(tmp_path, 2)
    path = manifest(kept, 4)
    path.write_bytes(document.wrap({**document.unwrap(path.read_bytes(), ""), "format": 99}))
    with pytest.raises(StateError, match="format 99") as refused:
        kept.look()
    assert not isinstance(refused.value, CorruptStateError)
