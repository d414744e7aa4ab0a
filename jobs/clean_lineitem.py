"""jobs/clean_lineitem.py"""

import datetime

import etlkit as ek


@ek.job
def clean_lineitem(
    src: str = "data/tpch/lineitem",
    out: str = "out/clean_lineitem",
    since: datetime.date = datetime.date(1993, 1, 1),
) -> ek.Pipeline:
    """Line items shipped since a day, with what was charged for each: no state, so nothing but the split in flight is at stake."""
    return (
        ek.read_parquet(src)
        .filter(ek.col("l_shipdate") >= since, ek.col("l_quantity") > 0)
        .with_columns(
            charge=ek.col("l_extendedprice") * (1 - ek.col("l_discount")) * (1 + ek.col("l_tax")),
            late=ek.col("l_receiptdate") > ek.col("l_commitdate"),
        )
        .select(
            "l_orderkey",
            "l_linenumber",
            "l_partkey",
            "l_suppkey",
            "l_quantity",
            "l_shipdate",
            "l_shipmode",
            "charge",
            "late",
        )
        .write_parquet(out)
    )
