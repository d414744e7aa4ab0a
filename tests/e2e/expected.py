"""What DuckDB computes from the same files: the expected output of the two main jobs."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

PART_REVENUE = """
    select l_partkey, sum(l_extendedprice * (1 - l_discount)) as revenue, count(*) as lines,
           max(l_extendedprice) as dearest
    from read_parquet('{src}/*.parquet') where l_quantity < {max_qty} group by l_partkey
"""


def part_revenue(src: Path, max_qty: int = 40) -> pa.Table:
    return duckdb.sql(PART_REVENUE.format(src=src, max_qty=max_qty)).to_arrow_table()


def read_output(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("*.parquet")))


def assert_same(found: pa.Table, expected: pa.Table, keys: list[str]) -> None:
    """The same multiset of rows: as many, and equal once sorted by keys that are unique. Decimals by value, exactly."""
    assert found.num_rows == expected.num_rows
    assert set(found.column_names) == set(expected.column_names)
    order = [(key, "ascending") for key in keys]
    found, expected = found.sort_by(order), expected.select(found.column_names).sort_by(order)
    for name in found.column_names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name
