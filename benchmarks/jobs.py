"""The works that are measured, as etlkit jobs. ``rivals.py`` has the same for DuckDB, Polars and pyarrow."""

import etlkit as ek

SORT_COLUMNS = (
    "l_orderkey",
    "l_partkey",
    "l_suppkey",
    "l_linenumber",
    "l_quantity",
    "l_extendedprice",
    "l_shipdate",
    "l_shipmode",
)


@ek.job
def filter_write(src: str, out: str) -> ek.Pipeline:
    """Filter, derive, write: all columns and one more."""
    return (
        ek.read_parquet(f"{src}/lineitem")
        .filter(ek.col("l_quantity") < 40)
        .with_columns(revenue=ek.col("l_extendedprice") * (1 - ek.col("l_discount")))
        .write_parquet(out)
    )


@ek.job
def group_many(src: str, out: str) -> ek.Pipeline:
    """A group for each part: 200,000 times the scale."""
    return (
        ek.read_parquet(f"{src}/lineitem")
        .filter(ek.col("l_quantity") < 40)
        .with_columns(revenue=ek.col("l_extendedprice") * (1 - ek.col("l_discount")))
        .group_by("l_partkey")
        .agg(revenue=ek.sum("revenue"), lines=ek.count(), dearest=ek.max("l_extendedprice"))
        .write_parquet(out)
    )


@ek.job
def group_few(src: str, out: str) -> ek.Pipeline:
    """Four groups."""
    return (
        ek.read_parquet(f"{src}/lineitem")
        .with_columns(revenue=ek.col("l_extendedprice") * (1 - ek.col("l_discount")))
        .group_by("l_returnflag", "l_linestatus")
        .agg(quantity=ek.sum("l_quantity"), revenue=ek.sum("revenue"), discount=ek.mean("l_discount"), lines=ek.count())
        .write_parquet(out)
    )


@ek.job
def join_write(src: str, out: str) -> ek.Pipeline:
    """Every line with its order."""
    lines = ek.read_parquet(f"{src}/lineitem").select(
        "l_orderkey", "l_partkey", "l_quantity", "l_extendedprice", "l_shipdate"
    )
    orders = ek.read_parquet(f"{src}/orders").select("o_orderkey", "o_custkey", "o_orderdate", "o_orderpriority")
    return lines.join(orders, left_on="l_orderkey", right_on="o_orderkey").write_parquet(out)


@ek.job
def sort_write(src: str, out: str) -> ek.Pipeline:
    """All rows in the order of shipping."""
    return (
        ek.read_parquet(f"{src}/lineitem")
        .select(*SORT_COLUMNS)
        .sort("l_shipdate", "l_orderkey", "l_linenumber")
        .write_parquet(out)
    )


@ek.job
def distinct(src: str, out: str) -> ek.Pipeline:
    """Which supplier has shipped which part: 800,000 pairs times the scale."""
    return ek.read_parquet(f"{src}/lineitem").select("l_partkey", "l_suppkey").distinct().write_parquet(out)


@ek.job
def growing(src: str, out: str) -> ek.Pipeline:
    """A group for each order: state that grows to the end of the input."""
    return (
        ek.read_parquet(f"{src}/lineitem")
        .group_by("l_orderkey")
        .agg(total=ek.sum("l_extendedprice"), lines=ek.count())
        .write_parquet(out)
    )


@ek.job
def stateless(src: str, out: str) -> ek.Pipeline:
    """Little is kept of much that is read: a long run that writes few bytes."""
    return (
        ek.read_parquet(f"{src}/lineitem")
        .filter(ek.col("l_quantity") < 5)
        .with_columns(revenue=ek.col("l_extendedprice") * (1 - ek.col("l_discount")))
        .select("l_orderkey", "l_partkey", "l_shipdate", "l_shipmode", "revenue")
        .write_parquet(out)
    )
