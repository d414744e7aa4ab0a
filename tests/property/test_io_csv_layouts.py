"""Random CSV and JSON lines files, cut anywhere: every good row once and in order, every bad row told by its own line."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etlkit.io import records
from etlkit.io.formats import open_source
from etlkit.io.text_source import TextSource

TEXTS = st.text(alphabet='ab,;"\n é', min_size=1, max_size=8).filter(lambda text: text.strip() != "")
SCHEMA = pa.schema([("id", pa.int64()), ("s", pa.string())])


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(TEXTS, max_size=30),
    bad=st.sets(st.integers(0, 29), max_size=4),
    target=st.integers(1, 400),
    block=st.integers(1, 200),
    batch_rows=st.integers(1, 10),
    format=st.sampled_from(["csv", "json"]),
)
def test_every_good_row_once_and_every_bad_row_named(
    texts: list[str], bad: set[int], target: int, block: int, batch_rows: int, format: str
) -> None:
    head, lines, line = "id,s\n" if format == "csv" else "", [], 2 if format == "csv" else 1
    bad_lines, good = [], []
    for number, text in enumerate(texts):
        if format == "csv":
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerow(["oops" if number in bad else number, text])
            record = out.getvalue()
        else:
            record = json.dumps({"id": "oops" if number in bad else number, "s": text}) + "\n"
        (bad_lines.append(line) if number in bad else good.append((number, text)))
        lines.append(record)
        line += record.count("\n")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK_BYTES", block)
        path = Path(folder, f"in.{format}")
        path.write_bytes((head + "".join(lines)).encode())
        aside = Path(folder, "aside")
        options = {"schema": SCHEMA, "bad_rows": "quarantine", "quarantine": str(aside)}
        source = open_source(format, [str(path)], options)
        assert isinstance(source, TextSource)
        splits = source.splits(None, None, target)
        assert list(open_source(format, [str(path)], options).splits(None, None, target)) == list(splits)
        found = []
        for split in splits:
            for batch in source.read(split, None, None, batch_rows):
                assert 0 < batch.num_rows <= batch_rows and batch.schema == SCHEMA
                found += [(row["id"], row["s"]) for row in batch.to_pylist()]
        assert found == good
        rejected = [json.loads(text) for one in aside.glob("*.jsonl") for text in one.read_text().splitlines()]
        assert sorted(one["line"] for one in rejected) == bad_lines
