"""Files of format 1 as they were first written: every later version reads them, and writes the same bytes or a new number."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

from etlkit.checkpoint import Intervals, Phase, StateDir, document, manifest
from etlkit.io.sink import Part

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "format-1"


def test_the_state_reads_as_it_was_written() -> None:
    state = StateDir.open(GOLDEN, read_only=True)
    snapshot = state.snapshot
    assert snapshot is not None and not state.warnings and state.verify() == []
    assert (snapshot.id, snapshot.epoch, snapshot.phase) == (15, 2, Phase.PUBLISHING)
    assert (snapshot.run_id, snapshot.fingerprint) == ("golden-run", {"job": "a1", "input": "b2"})
    assert snapshot.facts == {
        "job": "golden",
        "plan": list(range(100)),
        "learned": {"peak_bytes": 1 << 33, "ratio": 0.25},
        "attempts": [{"number": 1, "exit_code": None}, {"number": 2}],
    }
    scan, reduce = snapshot.stages[0], snapshot.stages[1]
    assert scan.finished == Intervals([(0, 9)]) and (scan.rows_in, scan.rows_out) == (54, 54)
    expected = [
        Part(split, f"part-{split:05d}.e1.parquet", f"year=2026/part-{split:05d}.parquet", 2, 1000 + split, split)
        for split in range(9)
    ]
    assert sorted((part for _, part in scan.parts), key=lambda part: part.split) == expected
    assert reduce.finished == Intervals([(0, 1)]) and (reduce.rows_in, reduce.rows_out) == (9, 1)
    last, merged = scan.runs
    assert (last.level, merged.level, merged.rows) == (0, 1, 3)
    with state.open_run(last) as reader:
        assert reader.partitions() == (0, 1, 2)
        assert [batch.to_pydict() for batch in reader.batches(1)] == [
            {"k": [8, 1], "name": ["ä", None], "v": [0.5, -1.0]}
        ]
    with state.open_run(merged) as reader:
        assert reader.partitions() == (2,) and reader.rows_of(2) == 3


def test_a_new_writer_can_go_on_with_it(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "state")
    with StateDir.open(tmp_path / "state") as state:
        assert state.claim({}).epoch == 3
        state.collect()
        assert state.verify() == []


@pytest.mark.parametrize("name", sorted(path.name for path in (GOLDEN / "manifests").glob("0*.json")))
def test_what_is_written_today_is_the_same_to_the_byte(name: str) -> None:
    written = (GOLDEN / "manifests" / name).read_bytes()
    assert manifest.encode(manifest.decode(written, int(name[:8]))) == written
    # Anything that reads JSON can read it.
    said = orjson.loads(written)
    assert set(said) == {"sha256", "body"} and said["body"]["format"] == 1


def test_the_envelope_is_what_the_format_says() -> None:
    assert document.wrap({"b": 1, "a": [True, None]}) == (
        b'{"sha256":"51705a2c9eb3e7e410a58f696a770c3ac3885a0cf43eb7fc88f5e47c11d4d30d","body":{"a":[true,null],"b":1}}\n'
    )
