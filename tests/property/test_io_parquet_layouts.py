"""Random layouts of files and row groups: every row exactly once, in order, in exact batches, the same each time."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from etlkit.io.parquet import ParquetSource


@settings(max_examples=40, deadline=None)
@given(
    layout=st.lists(st.lists(st.integers(0, 40), max_size=5), min_size=1, max_size=4),
    target=st.integers(1, 200_000),
    batch_rows=st.integers(1, 50),
    columns=st.sampled_from([None, ["id"], ["s", "id"], []]),
)
def test_every_row_once(layout: list[list[int]], target: int, batch_rows: int, columns: list[str] | None) -> None:
    schema = pa.schema([("id", pa.int64()), ("s", pa.string_view())])
    with tempfile.TemporaryDirectory() as folder:
        count = 0
        for number, groups in enumerate(layout):
            with pq.ParquetWriter(Path(folder, f"{number}.parquet"), schema) as writer:
                for rows in groups:
                    values = range(count, count + rows)
                    writer.write_table(
                        pa.table({"id": values, "s": pa.array(map(str, values), pa.string_view())}, schema)
                    )
                    count += rows
        source = ParquetSource([folder])
        splits = source.splits(columns, None, target)
        assert list(ParquetSource([folder]).splits(columns, None, target)) == list(splits)
        assert sum(split.rows or 0 for split in splits) == count
        sizes, ids = [], []
        for split in splits:
            found = 0
            for batch in source.read(split, columns, None, batch_rows):
                assert 0 < batch.num_rows <= batch_rows
                found += batch.num_rows
                sizes.append(batch.num_rows)
                if columns != []:
                    ids += batch.column("id").to_pylist()
            assert found == split.rows
        assert ids == (list(range(count)) if columns != [] else [])
        expected = [
            min(batch_rows, rows - at) for groups in layout for rows in groups for at in range(0, rows, batch_rows)
        ]
        assert sizes == expected
