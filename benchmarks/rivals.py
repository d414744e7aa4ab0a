"""The same works by DuckDB, Polars and plain pyarrow: ``python -m benchmarks.rivals ENGINE WORK SRC OUT THREADS [MEMORY]``.

Run as a process of its own. Each is written as its documentation advises, with its own defaults but for threads, memory and a place
to spill. None of them syncs what it writes, or can go on after a kill.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SORT_COLUMNS = "l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_shipdate, l_shipmode"
SQL = {
    "filter_write": "SELECT *, l_extendedprice * (1 - l_discount) AS revenue FROM lineitem WHERE l_quantity < 40",
    "group_many": "SELECT l_partkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, count(*) AS lines, "
    "max(l_extendedprice) AS dearest "
    "FROM lineitem WHERE l_quantity < 40 GROUP BY l_partkey",
    "group_few": "SELECT l_returnflag, l_linestatus, sum(l_quantity) AS quantity, sum(l_extendedprice * (1 - l_discount)) AS revenue, "
    "avg(l_discount) AS discount, count(*) AS lines FROM lineitem GROUP BY l_returnflag, l_linestatus",
    "join_write": "SELECT l_orderkey, l_partkey, l_quantity, l_extendedprice, l_shipdate, o_custkey, o_orderdate, o_orderpriority "
    "FROM lineitem JOIN orders ON l_orderkey = o_orderkey",
    "sort_write": f"SELECT {SORT_COLUMNS} FROM lineitem ORDER BY l_shipdate, l_orderkey, l_linenumber",
    "distinct": "SELECT DISTINCT l_partkey, l_suppkey FROM lineitem",
    "growing": "SELECT l_orderkey, sum(l_extendedprice) AS total, count(*) AS lines FROM lineitem GROUP BY l_orderkey",
}
PYARROW = ("filter_write", "group_many", "group_few", "growing")
"""Works that plain pyarrow does without another engine around it."""


def duckdb_(work: str, src: str, out: str, threads: int, memory: str | None) -> None:
    import duckdb

    # The input fits this table of settings; order of rows is kept, as etlkit keeps it.
    config = {"threads": threads, "temp_directory": f"{out}.spill", **({"memory_limit": memory} if memory else {})}
    connection = duckdb.connect(config=config)
    for table in ("lineitem", "orders"):
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{src}/{table}/*.parquet')")
    connection.execute(f"COPY ({SQL[work]}) TO '{out}.parquet' (FORMAT parquet)")


def polars_(work: str, src: str, out: str, threads: int, memory: str | None) -> None:
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    import polars as pl

    col = pl.col
    lineitem, orders = pl.scan_parquet(f"{src}/lineitem/*.parquet"), pl.scan_parquet(f"{src}/orders/*.parquet")
    revenue = col("l_extendedprice") * (1 - col("l_discount"))
    kept = lineitem.filter(col("l_quantity") < 40)
    lines = lineitem.select("l_orderkey", "l_partkey", "l_quantity", "l_extendedprice", "l_shipdate")
    dated = orders.select("o_orderkey", "o_custkey", "o_orderdate", "o_orderpriority")
    frames = {
        "filter_write": lambda: kept.with_columns(revenue=revenue),
        "group_many": lambda: kept.group_by("l_partkey").agg(
            revenue=revenue.sum(), lines=pl.len(), dearest=col("l_extendedprice").max()
        ),
        "group_few": lambda: lineitem.group_by("l_returnflag", "l_linestatus").agg(
            quantity=col("l_quantity").sum(), revenue=revenue.sum(), discount=col("l_discount").mean(), lines=pl.len()
        ),
        "join_write": lambda: lines.join(dated, left_on="l_orderkey", right_on="o_orderkey"),
        "sort_write": lambda: lineitem.select(SORT_COLUMNS.split(", ")).sort(
            "l_shipdate", "l_orderkey", "l_linenumber"
        ),
        "distinct": lambda: lineitem.select("l_partkey", "l_suppkey").unique(),
        "growing": lambda: lineitem.group_by("l_orderkey").agg(total=col("l_extendedprice").sum(), lines=pl.len()),
    }
    frames[work]().sink_parquet(f"{out}.parquet", compression="snappy")


def pyarrow_(work: str, src: str, out: str, threads: int, memory: str | None) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    from pyarrow import acero

    pa.set_cpu_count(threads)
    lineitem = ds.dataset(f"{src}/lineitem")
    one = pc.scalar(pa.scalar(1, pa.decimal128(15, 2)))
    revenue = pc.multiply(pc.field("l_extendedprice"), pc.subtract(one, pc.field("l_discount")))
    where = pc.less(pc.field("l_quantity"), pa.scalar(40, pa.decimal128(15, 2)))
    needs = {
        "filter_write": lineitem.schema.names,
        "group_many": ["l_partkey", "l_quantity", "l_extendedprice", "l_discount"],
        "group_few": ["l_returnflag", "l_linestatus", "l_quantity", "l_extendedprice", "l_discount"],
        "growing": ["l_orderkey", "l_extendedprice"],
    }[work]
    # The input's own schema asks for string views, for which pyarrow has neither filter nor hash.
    plain = {
        name: pc.field(name).cast(pa.string())
        if lineitem.schema.field(name).type == pa.string_view()
        else pc.field(name)
        for name in needs
    }
    steps = [acero.Declaration("scan", acero.ScanNodeOptions(lineitem, columns=needs))]
    steps.append(acero.Declaration("project", acero.ProjectNodeOptions([*plain.values()], [*plain])))
    if work in ("filter_write", "group_many"):
        steps.append(acero.Declaration("filter", acero.FilterNodeOptions(where)))
    if work != "growing":
        columns = {**{name: pc.field(name) for name in needs}, "revenue": revenue}
        steps.append(acero.Declaration("project", acero.ProjectNodeOptions([*columns.values()], [*columns])))
    lines = ([], "hash_count_all", None, "lines")
    price = "l_extendedprice"
    grouped = {
        "group_many": (["l_partkey"], [("revenue", "hash_sum", None, "revenue"), lines, (price, "hash_max", None, "dearest")]),
        "group_few": (
            ["l_returnflag", "l_linestatus"],
            [("l_quantity", "hash_sum", None, "quantity"), ("revenue", "hash_sum", None, "revenue"),
             ("l_discount", "hash_mean", None, "discount"), lines],
        ),
        "growing": (["l_orderkey"], [(price, "hash_sum", None, "total"), lines]),
    }.get(work)  # fmt: skip
    if grouped is not None:
        keys, asked = grouped
        steps.append(acero.Declaration("aggregate", acero.AggregateNodeOptions(asked, keys)))
    reader = acero.Declaration.from_sequence(steps).to_reader()
    import pyarrow.parquet as pq

    with pq.ParquetWriter(f"{out}.parquet", reader.schema, compression="snappy") as writer:
        for batch in reader:
            writer.write_batch(batch)


def main() -> None:
    engine, work, src, out, threads, *memory = sys.argv[1:]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    {"duckdb": duckdb_, "polars": polars_, "pyarrow": pyarrow_}[engine](
        work, src, out, int(threads), memory[0] if memory else None
    )


if __name__ == "__main__":
    main()
