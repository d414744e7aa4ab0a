"""Strings that repeat travel in dictionaries inside the engine, and nobody outside can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import etlkit as ek
from etlkit.engine.planner import lower
from etlkit.engine.stages import ScanInput

WORDS = ("rail", "ship", None, "truck", "ärmel", "")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Two files whose dictionaries differ, and one that has none and other string types."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = 3_000
    for number, words in enumerate((WORDS, WORDS[::-1], WORDS)):
        kind = pa.large_string() if number == 2 else pa.string()
        columns = {
            "word": pa.array([words[i % len(words)] for i in range(rows)], kind),
            "n": pa.array([i + number * rows for i in range(rows)], pa.int64()),
        }
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=1_000, use_dictionary=number < 2)
    return folder


def read(src: Path) -> ek.Pipeline:
    return ek.read_parquet(src, schema="first")


def rows_of(src: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(src.iterdir()) for row in pq.read_table(path).to_pylist()]


def ran(pipeline: ek.Pipeline, tmp_path: Path) -> pa.Table:
    out = tmp_path / "out"
    ek.run(pipeline.write_parquet(out), state=tmp_path / "state")
    for path in out.glob("*.parquet"):
        assert pa.string() in pq.ParquetFile(path).schema_arrow.types
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("*.parquet")))


def test_they_are_used(src: Path, tmp_path: Path) -> None:
    stages = lower([read(src).filter(ek.col("n") > 1).write_parquet(tmp_path / "out")]).stages
    assert isinstance(stages[0].inputs[0], ScanInput)
    assert pa.types.is_dictionary(stages[0].inputs[0].schema.field("word").type)
    assert stages[0].schema.field("word").type == pa.string()


def test_filter_and_write(src: Path, tmp_path: Path) -> None:
    found = ran(read(src).filter(ek.col("word") != "ship"), tmp_path).to_pylist()
    assert found == [row for row in rows_of(src) if row["word"] not in ("ship", None)]


def test_group(src: Path, tmp_path: Path) -> None:
    pipeline = read(src).group_by("word").agg(n=ek.sum("n"), most=ek.max("word"), words=ek.count_distinct("word"))
    found = {row["word"]: row for row in ran(pipeline, tmp_path).to_pylist()}
    for word in WORDS:
        total = sum(row["n"] for row in rows_of(src) if row["word"] == word)
        assert found[word] == {"word": word, "n": total, "most": word, "words": int(word is not None)}
    assert len(found) == len(WORDS)


def test_join_sort_and_an_author(src: Path, tmp_path: Path) -> None:
    seen: set[pa.DataType] = set()

    def note(batch: pa.RecordBatch) -> pa.RecordBatch:
        seen.add(batch.schema.field("word_right").type)
        return batch

    other = read(src).filter(ek.col("n") < 100)
    pipeline = read(src).join(other, on="n").map_batches(note).sort("n", descending=True)
    found = ran(pipeline, tmp_path).to_pylist()
    expected = [{**row, "word_right": row["word"]} for row in rows_of(src) if row["n"] < 100]
    assert [{**row} for row in found] == [{name: row[name] for name in found[0]} for row in expected[::-1]]
    assert seen == {pa.string()}


def test_union_and_text(src: Path, tmp_path: Path) -> None:
    both = read(src).union(read(src).with_columns(word=ek.col("word")))
    assert ran(both, tmp_path).num_rows == 2 * len(rows_of(src))
    ek.run(read(src).filter(ek.col("n") < 6).write_csv(tmp_path / "csv"), state=tmp_path / "state2")
    text = "".join(path.read_text() for path in sorted((tmp_path / "csv").glob("*.csv")))
    assert "truck" in text and "ärmel" in text
