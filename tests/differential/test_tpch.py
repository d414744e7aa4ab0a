"""Queries over TPC-H-derived tables, against DuckDB, each also killed and resumed."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from .forks import Forks
from .harness import check, expected_of
from .tpch_queries import QUERIES


@pytest.mark.parametrize("name", QUERIES)
def test_same_rows_as_duckdb(
    name: str, tpch_data: Path, tpch_duckdb: duckdb.DuckDBPyConnection, forks: Forks, tmp_path: Path
) -> None:
    query = QUERIES[name]
    check(query, "tests.differential.tpch_queries", tpch_data, expected_of(query, tpch_duckdb), forks, tmp_path)
