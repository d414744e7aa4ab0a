"""jobs/open_orders.py"""

import datetime

import etlkit as ek


@ek.job
def open_orders(
    src: str = "data/tpch",
    out: str = "out/open_orders",
    segment: str = "BUILDING",
    day: datetime.date = datetime.date(1995, 3, 15),
) -> ek.Pipeline:
    """Orders of a market segment that were not shipped by a day, the dearest first: customers, orders and line items joined."""
    customers = (
        ek.read_parquet(f"{src}/customer").filter(ek.col("c_mktsegment") == segment).select("c_custkey", "c_name")
    )
    orders = ek.read_parquet(f"{src}/orders").filter(ek.col("o_orderdate") < day)
    items = ek.read_parquet(f"{src}/lineitem").filter(ek.col("l_shipdate") > day)
    return (
        items.join(orders, left_on="l_orderkey", right_on="o_orderkey")
        .join(customers, left_on="o_custkey", right_on="c_custkey")
        .with_columns(price=ek.col("l_extendedprice") * (1 - ek.col("l_discount")))
        .group_by("l_orderkey", "c_name", "o_orderdate")
        .agg(open=ek.sum("price"), items=ek.count())
        .sort("open", "l_orderkey", descending=[True, False])
        .write_parquet(out)
    )
