"""Run files: what goes in comes out, in bounded memory, from any thread."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from etlkit.checkpoint import RunRef, StateDir
from etlkit.errors import CorruptStateError


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir.open(tmp_path)
    state.begin("run", {}, {})
    return state


def every_type() -> pa.Table:
    return pa.table(
        {
            "i": pa.array([1, None, 3], pa.int8()),
            "f": pa.array([0.5, float("nan"), None], pa.float64()),
            "s": pa.array(["ä", "", None]),
            "d": pa.array([Decimal("1.25"), None, Decimal("-9.99")], pa.decimal128(15, 2)),
            "t": pa.array([dt.datetime(2026, 1, 1, tzinfo=dt.UTC), None, None], pa.timestamp("us", "UTC")),
            "l": pa.array([[1, 2], None, []], pa.list_(pa.int64())),
            "st": pa.array([{"a": 1}, {"a": None}, None], pa.struct([("a", pa.int64())])),
            "dict": pa.array(["x", "y", "x"]).dictionary_encode(),
            "n": pa.nulls(3),
            "b": pa.array([True, None, False]),
        }
    )


def test_a_section_is_made_in_a_buffer_of_a_mebibyte(state: StateDir) -> None:
    """Its buffer doubles: a section a little above would ask for two, which is what failed near a limit."""
    with state.run_writer(0, level=0) as writer:
        writer.add(0, pa.table({"i": pa.array(range(500_000), pa.int64()), "s": pa.array(["some words"] * 500_000)}))
        ref = writer.close()
    assert len(ref.sections) > 5
    assert all(section.length <= 1 << 20 for section in ref.sections)


def test_every_type_comes_back(state: StateDir) -> None:
    table = every_type()
    with state.run_writer(3, level=2) as writer:
        writer.add(0, table)
        writer.add(7, table.slice(1, 1))
        writer.add(7, table.slice(0, 0))
        writer.add(9, table.combine_chunks().to_batches()[0])
        ref = writer.close()
    assert (ref.stage, ref.level, ref.rows) == (3, 2, 7)
    with state.open_run(RunRef(ref.name, 3, 2, ref.length, ref.rows, ref.bytes, ref.index_crc32)) as reader:
        assert reader.sections == ref.sections and reader.partitions() == (0, 7, 9)
        whole, piece = reader.table(0), reader.table(7)
        assert whole is not None and piece is not None and whole.schema == table.schema
        # As text: NaN is not equal to itself.
        assert str(whole.to_pylist()) == str(table.to_pylist())
        assert str(piece.to_pylist()) == str(table.slice(1, 1).to_pylist())
        assert reader.rows_of(9) == 3 and reader.rows_of(8) == 0 and reader.table(8) is None
        reader.check()


def test_a_large_partition_is_cut_into_sections_that_bound_the_memory(state: StateDir) -> None:
    rows = 2_000_000
    table = pa.table({"x": pa.array(range(rows), pa.int64())})
    with state.run_writer(0) as writer:
        writer.add(4, table)
        ref = writer.close()
    del table
    assert ref.length > 15_000_000 and len(ref.sections) >= 4 and max(s.length for s in ref.sections) < 5 * 2**20
    before = pa.total_allocated_bytes()
    peak, expected = 0, 0
    with state.open_run(ref) as reader:
        for batch in reader.batches(4):
            assert batch["x"][0].as_py() == expected
            expected += batch.num_rows
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert expected == rows and peak < 10 * 2**20


def test_partitions_must_come_in_order(state: StateDir) -> None:
    with state.run_writer(0) as writer:
        writer.add(2, pa.table({"x": [1]}))
        with pytest.raises(ValueError, match="partition 1 after 2"):
            writer.add(1, pa.table({"x": [1]}))
    assert not state._store.names("runs")


def test_an_empty_run_is_a_run(state: StateDir) -> None:
    with state.run_writer(0) as writer:
        ref = writer.close()
    with state.open_run(ref) as reader:
        assert reader.partitions() == () and list(reader.batches(0)) == []
        reader.check()


def test_threads_share_a_reader(state: StateDir) -> None:
    with state.run_writer(0) as writer:
        for partition in range(64):
            writer.add(partition, pa.table({"x": [partition] * 1000}))
        ref = writer.close()
    with state.open_run(ref) as reader, ThreadPoolExecutor(4) as pool:
        sums = pool.map(lambda p: sum(sum(b["x"].to_pylist()) for b in reader.batches(p)), range(64))
        assert list(sums) == [partition * 1000 for partition in range(64)]


def test_a_run_of_the_same_name_and_length_is_not_taken_for_it(state: StateDir, tmp_path: Path) -> None:
    refs = []
    for value in (1, 2):
        with state.run_writer(0) as writer:
            writer.add(0, pa.table({"x": [value]}))
            refs.append(writer.close())
    assert refs[0].length == refs[1].length
    (tmp_path / refs[0].name).write_bytes((tmp_path / refs[1].name).read_bytes())
    with state.open_run(refs[0]) as reader, pytest.raises(CorruptStateError, match=refs[0].name):
        reader.table(0)


def test_a_writer_with_little_memory_makes_small_sections(state: StateDir) -> None:
    table = pa.table({"x": pa.array(range(200_000), pa.int64())})
    with state.run_writer(0, small=True) as writer:
        writer.add(0, table)
        run = writer.close()
    assert max(section.length for section in run.sections) < 128 << 10
    with state.open_run(run) as reader:
        reader.check()
        assert pa.Table.from_batches(reader.batches(0)).equals(table)
