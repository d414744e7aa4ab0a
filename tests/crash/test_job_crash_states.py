"""A power loss at every call of a whole job: source, engine, checkpointer, sinks and state as a user runs them.

The job has three outputs (Parquet in partitions over an old output, CSV that is shown at each checkpoint, JSON that is appended,
behind a group-by), two workers and a checkpoint after nearly every split. It is recorded on a real folder; the states that a power
loss may leave are laid out, and the same job goes on from each. A resume takes a tenth of a second, so the suite takes a sample of
them; the long form takes more than ten thousand, in slices. The suite's ten thousand are the store's (``test_crash_states.py``).
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.checkpoint import StateDir, lists, state_dir
from etlkit.engine import planner
from etlkit.io import folder_sink
from etlkit.observe.summary import summarise
from etlkit.testing.crash_states import everything
from etlkit.testing.recorder import Recorder, lay_out, recording
from etlkit.testing.simdisk import Mark

from .recorded import RUN_ID, Checker, Site, by_content, place_in_memory, tree_of
from .test_sink_crash_states import SITES as SINK_SITES

OUTPUTS = ("kinds", "early", "groups")
ROWS, ROWS_A_SPLIT = 12, 4
SLICES = 24
long = pytest.mark.long


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny input shall have several splits, and a short run bases, lists and merged lists too."""
    monkeypatch.setattr(planner, "SINK_SPLIT_BYTES", 1)
    monkeypatch.setattr(planner, "EXCHANGE_SPLIT_BYTES", 1)
    monkeypatch.setattr(state_dir, "DELTAS_A_BASE", 3)
    monkeypatch.setattr(lists, "PARTS_A_LIST", 2)
    monkeypatch.setattr(lists, "LARGE_FACT_BYTES", 50)
    monkeypatch.setattr(folder_sink, "_identity", by_content)


@pytest.fixture
def place() -> Iterator[Path]:
    for folder in place_in_memory():
        ids = list(range(ROWS))
        table = pa.table({"id": ids, "k": [number % 2 for number in ids], "v": [number * number for number in ids]})
        (folder / "in").mkdir()
        pq.write_table(table, folder / "in" / "a.parquet", row_group_size=ROWS_A_SPLIT)
        yield folder


def run(place: Path, run_id: str = RUN_ID, state: str = "job/state", every: str = "1s") -> None:
    """The same job each time: its place is part of its identity."""
    rows, out = ek.read_parquet(str(place / "in")), place / "job"
    if run_id != RUN_ID:
        rows = rows.with_columns(v=ek.col("v") + 1)
    outputs = [
        rows.write_parquet(str(out / "kinds"), partition_by="k", if_exists="replace"),
        rows.select("id", "v").write_csv(str(out / "early"), visible="checkpoint"),
        rows.group_by("k").agg(total=ek.sum("v")).write_json(str(out / "groups"), if_exists="append"),
    ]
    if run_id != RUN_ID:
        outputs = [
            outputs[0],
            outputs[2],
        ]  # of other rows: where states are laid out again, equal bytes are the same file
    result = ek.run(outputs, state=place / state, run_id=run_id, checkpoint_every=every, workers=2)
    assert result.done


def record(place: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int = 0) -> Recorder:
    """A run over an old output. ``killed_after``: of another one that died at that call there is what the page cache holds, and this
    one goes on from it; states from before are left out then."""
    root = place / "job"
    root.mkdir()
    run(place, "yesterday", "old-state")
    log = record_one(place, monkeypatch, lambda: recording(root))
    if killed_after:
        kept = log.log[: min(log.seeded + killed_after, len(log.log) - 1)]
        shutil.rmtree(root)
        lay_out(everything(kept), root)
        log = record_one(place, monkeypatch, lambda: recording(root, after=kept))
    return log


def record_one(place: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[], Any]) -> Recorder:
    with begin() as recorder, monkeypatch.context() as patched:
        for name in ("begin", "claim", "commit"):
            tell(recorder, name, patched)
        run(place, every="1ms")
        number, _ = next(op.note for op in reversed(recorder.log) if isinstance(op, Mark))  # type: ignore[misc]
        recorder.mark((number, "done"))
    assert isinstance(recorder, Recorder)
    return recorder


def tell(recorder: Recorder, name: str, patched: pytest.MonkeyPatch) -> None:
    """What returns has told the caller that it is durable."""
    real = getattr(StateDir, name)

    def commit(state: StateDir, *given: Any, **more: Any) -> Any:
        committed = real(state, *given, **more)
        recorder.mark((committed.id, "running"))
        return committed

    patched.setattr(StateDir, name, commit)


def checker_of(place: Path, recorder: Recorder) -> Checker:
    root = place / "job"
    found = tree_of(root)
    shutil.rmtree(root)
    checker = Checker(recorder.log, recorder.seeded, OUTPUTS, root, lambda _: run(place))
    assert all(checker.expected[output] for output in OUTPUTS) and len(found) > 5
    return checker


@pytest.mark.parametrize("number", [None, *(pytest.param(at, marks=long) for at in range(SLICES))])
def test_every_state_of_a_job_recovers(place: Path, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """The short form takes one of each so many; the long form all, each slice of a recording of its own."""
    checker = checker_of(place, record(place, monkeypatch))
    if number is None:
        assert len(checker.explore(itertools.islice(checker.states(a_point=3), 0, None, 9))) >= 50
    else:
        assert (
            len(checker.explore(itertools.islice(checker.states(a_point=200), number, None, SLICES)))
            >= 10_000 // SLICES
        )


@pytest.mark.parametrize("every_call", [97, pytest.param(11, marks=long)])
def test_a_power_loss_after_a_kill_recovers(place: Path, monkeypatch: pytest.MonkeyPatch, every_call: int) -> None:
    """What the killed process did and did not sync, the next one must not take for durable."""
    seen: set[bytes] = set()
    for killed_after in range(every_call, 400, every_call):
        checker = checker_of(place, record(place, monkeypatch, killed_after))
        seen |= checker.explore(itertools.islice(checker.states(a_point=2), 0, None, 23))
    assert len(seen) >= 1_000 // every_call


def test_a_damaged_checkpoint_is_gone_behind_and_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = record(place, monkeypatch)
    told = [at for at, op in enumerate(recorder.log) if isinstance(op, Mark)]
    checker = checker_of(place, recorder)
    lay_out(everything(recorder.log[: told[3]]), place / "job")
    newest = max((place / "job" / "state" / "manifests").glob("0*.json"))
    newest.write_bytes(newest.read_bytes()[:-1])
    run(place)
    assert f"warning: manifests/{newest.name}" in capsys.readouterr().err
    assert f"damaged: manifests/{newest.name}" in summarise(place / "job" / "state")
    assert not checker.seen_at_once(tree_of(place / "job"))


STATE_SITES: dict[str, Site] = {
    "manifest": lambda kind, path: kind == "file" and "/manifests/" in path,
    "manifests folder": lambda kind, path: kind == "folder" and path.endswith("/manifests"),
    "run": lambda kind, path: kind == "file" and "/runs/" in path,
    "runs folder": lambda kind, path: kind == "folder" and path.endswith("/runs"),
    "list": lambda kind, path: kind == "file" and "/lists/" in path,
    "lists folder": lambda kind, path: kind == "folder" and path.endswith("/lists"),
    "the state folder": lambda kind, path: kind == "folder" and path == "/state",
}
SITES: dict[str, Site] = {
    **STATE_SITES,
    **{name: site for name, site in SINK_SITES.items() if name != "output folder"},
    "output folder": lambda kind, path: kind == "folder" and path.lstrip("/") in OUTPUTS,
}
IN_THE_SUITE = ("run", "manifests folder", "staged part")


@pytest.mark.parametrize("site", [pytest.param(name, marks=() if name in IN_THE_SUITE else long) for name in SITES])
def test_every_sync_of_a_job_is_needed(place: Path, monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    """Take one away and a state that comes out wrong must be found."""
    checker = checker_of(place, record(place, monkeypatch))
    assert checker.needs(SITES[site], a_point=24), f"without the sync of {site} nothing went wrong"
