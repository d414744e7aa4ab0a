"""`etlkit verify` and `etlkit checkpoints`, as a user types them, over a state made by the model job."""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from etlkit.checkpoint import Delta, Intervals, Phase, StageDelta, StateDir
from etlkit.cli import checkpoints, verify
from etlkit.errors import EtlkitError
from etlkit.io.sink import Part


def dispatch(words: list[str]) -> int:
    """As ``etlkit.cli.dispatch`` does it."""
    verb = {module.NAME: module for module in (checkpoints, verify)}[words[0]]
    parser = argparse.ArgumentParser(prog=f"etlkit {verb.NAME}", description=verb.HELP)
    verb.add_arguments(parser)
    try:
        return int(verb.run(parser.parse_args(words[1:])))
    except EtlkitError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)


def make(folder: Path, phase: Phase | None = None, splits: int = 5) -> Path:
    """A run with a run file and a staged part each split; published if ``phase`` says so."""
    out = folder / "out"
    staging = out / ".etlkit-run%2F1"
    staging.mkdir(parents=True)
    parts = []
    with StateDir.open(folder / "state") as state:
        facts = {"sinks": [{"format": "parquet", "path": str(out)}], "attempts": [1], "n": 0}
        state.begin("run/1", {"job": "abc"}, facts)
        for split in range(splits):
            content = b"rows of split %d" % split
            (staging / f"part-{split}.e1").write_bytes(content)
            parts.append(Part(split, f"part-{split}.e1", f"part-{split}", 3, len(content), zlib.crc32(content)))
            with state.run_writer(0) as writer:
                writer.add(0, pa.table({"x": [split]}))
                run = writer.close()
            stage = StageDelta(Intervals.of([split]), (run,), (), ((0, parts[-1]),), 3, 3)
            state.commit(Delta("interval", {0: stage}, {"n": split, "attempts": [1, split]}))
        if phase is not None:
            state.commit(Delta("all done", phase=Phase.PUBLISHING))
            for part in parts[:3]:
                (staging / part.name).rename(out / part.final)
    return folder / "state"


def test_verify_reads_runs_and_parts_staged_and_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make(tmp_path, Phase.PUBLISHING)
    assert dispatch(["verify", str(state)]) == 0
    assert "checkpoint 9 is whole: 5 runs and 5 parts read" in capsys.readouterr().out


@pytest.mark.parametrize("victim", ["state/runs/*4.e1.run", "out/.etlkit*/part-4.e1", "out/part-1"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_verify_names_what_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], victim: str, damage: str
) -> None:
    state = make(tmp_path, Phase.PUBLISHING)
    (path,) = tmp_path.glob(victim)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()
    if damage == "flip":
        path.write_bytes(content)
    assert dispatch(["verify", str(state)]) == 74
    assert path.name.partition(".e1")[0] in capsys.readouterr().err
    assert dispatch(["verify", str(state), "--json"]) == 74
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False and len(said["problems"]) == 1 and said["problems"][0]["fatal"] is True


def test_verify_of_damaged_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make(tmp_path)
    (state / "manifests" / "00000007.json").write_bytes(b"")
    assert dispatch(["verify", str(state)]) == 74
    assert "manifests/00000007.json" in capsys.readouterr().err
    (state / "manifests" / "00000006.json").write_bytes(b"")
    assert dispatch(["verify", str(state)]) == 74


@pytest.mark.parametrize("verb", ["verify", "checkpoints"])
def test_no_such_state(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert dispatch([verb, str(tmp_path / "nowhere")]) == 78
    assert "there is no such state directory" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_list_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make(tmp_path)
    assert dispatch(["checkpoints", str(state)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["ID", "AT", "EPOCH", "KIND", "PHASE"] and len(lines) == 8
    assert [line.split()[3] for line in lines[1:4]] == ["base", "twin", "delta"]
    assert dispatch(["checkpoints", str(state), "list", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)["checkpoints"]] == list(range(1, 8))
    assert dispatch(["checkpoints", str(state), "inspect", "5"]) == 0
    assert "stage 0: 3 splits done, 9 rows in, 9 out, 3 runs" in capsys.readouterr().out
    assert dispatch(["checkpoints", "--json", str(state), "inspect", "5"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["stages"]["0"]["finished"] == [[0, 3]] and said["facts"]["n"] == 2
    assert dispatch(["checkpoints", str(state), "inspect", "55"]) == 78


def test_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make(tmp_path)
    (state / "runs" / "s00-00000001.e1.run").write_bytes(b"orphan")
    assert dispatch(["checkpoints", str(state), "prune", "--keep", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == 8
    assert [path.name for path in (state / "manifests").glob("0*")] == ["00000008.json"]
    assert len(list((state / "runs").iterdir())) == 5
    assert dispatch(["verify", str(state)]) == 0
    with pytest.raises(SystemExit):
        dispatch(["checkpoints", str(state), "prune", "--keep", "0"])


def test_back_while_nothing_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make(tmp_path)
    assert dispatch(["checkpoints", str(state), "back", "4"]) == 0
    assert "checkpoint 8 now says what 4 said" in capsys.readouterr().out
    with StateDir.open(state) as opened:
        snapshot = opened.snapshot
        assert snapshot is not None and snapshot.stages[0].finished == Intervals([(0, 2)])
        assert snapshot.facts["n"] == 1 and snapshot.facts["attempts"] == [1, 4]
        assert opened.claim({}).epoch == 3
        opened.collect()
        opened.commit(Delta("again", {0: StageDelta(Intervals([(2, 5)]), rows_in=9)}))
        assert opened.verify() == []


def test_no_way_back_once_anything_may_be_visible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make(tmp_path, Phase.PUBLISHING)
    assert dispatch(["checkpoints", str(state), "back", "4"]) == 78
    assert "there is no going back" in capsys.readouterr().err


def test_a_live_run_is_not_pruned(tmp_path: Path) -> None:
    state = make(tmp_path)
    with StateDir.open(state):
        assert dispatch(["checkpoints", str(state), "prune"]) == 73
        assert dispatch(["checkpoints", str(state), "list"]) == 0
        assert dispatch(["verify", str(state)]) == 0
