"""The jobs that the kill campaign runs: the two shipped ones, and one with three outputs.

A tiny input would be one split and one checkpoint. So splits are cut small here, and bases and lists are written often: each process
passes each step of the protocol several times within a second. Nothing else differs from what a user runs.
"""

from __future__ import annotations

import etlkit as ek
from etlkit.checkpoint import lists, state_dir
from etlkit.engine import planner
from jobs.clean_lineitem import clean_lineitem
from jobs.part_revenue import part_revenue

planner.SINK_SPLIT_BYTES = 128 * 1024
planner.EXCHANGE_SPLIT_BYTES = 64 * 1024
state_dir.DELTAS_A_BASE = 4
lists.PARTS_A_LIST = 8


@ek.job
def stateless(src: str, out: str) -> ek.Pipeline:
    """jobs/clean_lineitem.py: parts, no state."""
    return clean_lineitem(src, f"{out}/rows")


@ek.job
def stateful(src: str, out: str) -> ek.Pipeline:
    """jobs/part_revenue.py: a group-by whose state grows."""
    return part_revenue(src, f"{out}/parts")


@ek.job
def outputs(src: str, out: str) -> list[ek.Pipeline]:
    """Three outputs: one folder a ship mode, one that shows its files at each checkpoint, one behind a group-by."""
    rows = ek.read_parquet(src).select("l_orderkey", "l_linenumber", "l_suppkey", "l_quantity", "l_shipmode")
    return [
        rows.filter(ek.col("l_quantity") < 40).write_parquet(f"{out}/modes", partition_by="l_shipmode"),
        rows.drop("l_shipmode").write_csv(f"{out}/early", visible="checkpoint"),
        rows.group_by("l_suppkey").agg(quantity=ek.sum("l_quantity"), lines=ek.count()).write_json(f"{out}/suppliers"),
    ]
