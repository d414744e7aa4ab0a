"""jobs/part_revenue.py"""

import etlkit as ek


@ek.job
def part_revenue(src: str = "data/tpch/lineitem", out: str = "out/part_revenue", max_qty: float = 40) -> ek.Pipeline:
    """Revenue per part: a group-by whose state grows as the input is read."""
    return (
        ek.read_parquet(src)
        .filter(ek.col("l_quantity") < max_qty)
        .with_columns(revenue=ek.col("l_extendedprice") * (1 - ek.col("l_discount")))
        .group_by("l_partkey")
        .agg(revenue=ek.sum("revenue"), lines=ek.count(), dearest=ek.max("l_extendedprice"))
        .write_parquet(out)
    )
