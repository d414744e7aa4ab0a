"""One job for each operator of the contract, and the SQL that says how many rows come out: what the memory contract runs.

``etlkit run tests/conformance/operator_jobs.py:one --set operator=NAME``. The input is ``lineitem`` and ``orders``, TPC-H-derived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

import etlkit as ek


@dataclass(frozen=True, slots=True)
class Operator:
    build: Callable[[ek.Pipeline, ek.Pipeline], ek.Pipeline]
    """Of lineitem and orders."""
    sql: str
    """How many rows come out."""
    partition_by: str | None = None


LINES = ("l_orderkey", "l_partkey", "l_suppkey", "l_quantity", "l_extendedprice", "l_shipdate", "l_shipmode")
ORDERS = ("o_orderkey", "o_custkey", "o_orderdate", "o_orderpriority")
ALL = "SELECT count(*) FROM lineitem"


def doubled(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index("q"), "q", pc.multiply(batch.column("q"), pa.scalar(2.0)))


def _mapped(lines: ek.Pipeline, orders: ek.Pipeline) -> ek.Pipeline:
    read = lines.select("l_orderkey", "l_shipmode", "l_comment", q=ek.col("l_quantity").cast(pa.float64()))
    return read.map_batches(doubled, version="1")


def _exploded(lines: ek.Pipeline, orders: ek.Pipeline) -> ek.Pipeline:
    return lines.select("l_orderkey", word=ek.fn.split_pattern(ek.col("l_comment"), pattern=" ")).explode("word")


def _joined(how: str, *, exchanged: bool) -> Callable[[ek.Pipeline, ek.Pipeline], ek.Pipeline]:
    """By the order's number, of which a table can be held; by its number and date, of which none can."""

    def build(lines: ek.Pipeline, orders: ek.Pipeline) -> ek.Pipeline:
        few = orders.select(*ORDERS).filter(ek.col("o_custkey") % 2 == 0)
        left = lines.select(*LINES)
        if how == "right" and not exchanged:
            return few.join(left, left_on="o_orderkey", right_on="l_orderkey", how="right")
        if exchanged and how in ("inner", "left", "semi", "anti"):
            name = "text"
            few = few.with_columns(text=ek.col("o_orderkey").cast(pa.string()))
            left = left.with_columns(text=ek.col("l_orderkey").cast(pa.string()))
            return left.join(few, on=name, how=how)
        return left.join(few, left_on="l_orderkey", right_on="o_orderkey", how=how)

    return build


def _join_sql(how: str) -> str:
    word = {"outer": "FULL"}.get(how, how.upper())
    return (
        f"SELECT count(*) FROM lineitem {word} JOIN (SELECT * FROM orders WHERE o_custkey % 2 = 0) o "
        "ON l_orderkey = o_orderkey"
    )


OPERATORS: dict[str, Operator] = {
    "filter, with_columns": Operator(
        lambda lines, _: lines.filter(ek.col("l_quantity") < 40).with_columns(
            revenue=ek.col("l_extendedprice") * (1 - ek.col("l_discount"))
        ),
        f"{ALL} WHERE l_quantity < 40",
    ),
    "select, rename, drop, cast": Operator(
        lambda lines, _: (
            lines.select(*LINES, "l_comment").rename(l_comment="comment").drop("l_shipmode")
            .cast(l_quantity=pa.float64(), l_orderkey=pa.string())
        ),
        ALL,
    ),
    "map_batches": Operator(_mapped, ALL),
    "explode": Operator(_exploded, "SELECT sum(len(string_split(l_comment, ' '))) FROM lineitem"),
    "limit": Operator(lambda lines, _: lines.limit(50_000), "SELECT least(count(*), 50000) FROM lineitem"),
    "union": Operator(
        lambda lines, _: lines.select(*LINES).union(lines.select(*LINES).filter(ek.col("l_quantity") < 25)),
        f"SELECT ({ALL}) + ({ALL} WHERE l_quantity < 25)",
    ),
    "distinct": Operator(
        lambda lines, _: lines.select("l_partkey", "l_suppkey").distinct(),
        "SELECT count(*) FROM (SELECT DISTINCT l_partkey, l_suppkey FROM lineitem)",
    ),
    "distinct, of keys": Operator(
        lambda lines, _: lines.select(*LINES).distinct("l_partkey"), "SELECT count(DISTINCT l_partkey) FROM lineitem"
    ),
    "group_by, few": Operator(
        lambda lines, _: lines.group_by("l_returnflag", "l_linestatus").agg(
            quantity=ek.sum("l_quantity"), discount=ek.mean("l_discount"), spread=ek.stddev("l_tax"), lines=ek.count()
        ),
        "SELECT count(*) FROM (SELECT DISTINCT l_returnflag, l_linestatus FROM lineitem)",
    ),
    "group_by, many": Operator(
        lambda lines, _: lines.group_by("l_orderkey", "l_linenumber").agg(
            price=ek.sum("l_extendedprice"), dearest=ek.max("l_extendedprice"), lines=ek.count()
        ),
        "SELECT count(*) FROM (SELECT DISTINCT l_orderkey, l_linenumber FROM lineitem)",
    ),
    "group_by, texts": Operator(
        lambda lines, _: lines.group_by("l_comment").agg(price=ek.sum("l_extendedprice"), lines=ek.count()),
        "SELECT count(DISTINCT l_comment) FROM lineitem",
    ),
    "group_by, count_distinct": Operator(
        lambda lines, _: lines.group_by("l_returnflag").agg(orders=ek.count_distinct("l_orderkey"), lines=ek.count()),
        "SELECT count(DISTINCT l_returnflag) FROM lineitem",
    ),
    "group_by, count_distinct and mean": Operator(
        lambda lines, _: lines.group_by("l_returnflag").agg(
            orders=ek.count_distinct("l_orderkey"), parts=ek.count_distinct("l_partkey"), price=ek.mean("l_quantity")
        ),
        "SELECT count(DISTINCT l_returnflag) FROM lineitem",
    ),
    "group_by, quantile": Operator(
        lambda lines, _: lines.group_by("l_suppkey").agg(median=ek.quantile("l_extendedprice", 0.5)),
        "SELECT count(DISTINCT l_suppkey) FROM lineitem",
    ),
    "group_by, first and last": Operator(
        lambda lines, _: lines.group_by("l_partkey").agg(first=ek.first("l_comment"), last=ek.last("l_shipdate")),
        "SELECT count(DISTINCT l_partkey) FROM lineitem",
    ),
    **{
        f"join, {how}, {way}": Operator(
            _joined(how, exchanged=way == "exchanged"), _join_sql("left" if (how, way) == ("right", "held") else how)
        )
        for how in ("inner", "left", "right", "outer", "semi", "anti")
        for way in ("held", "exchanged")
        if (how, way) != ("outer", "held")
    },
    "sort": Operator(lambda lines, _: lines.select(*LINES).sort("l_shipdate", "l_orderkey", "l_partkey"), ALL),
    "sort, limit": Operator(
        lambda lines, _: lines.sort("l_extendedprice", descending=True).limit(10_000),
        "SELECT least(count(*), 10000) FROM lineitem",
    ),
    "partition_by": Operator(lambda lines, _: lines, ALL, partition_by="l_shipmode"),
}  # fmt: skip


@ek.job
def one(src: str, out: str, operator: str) -> ek.Pipeline:
    chosen = OPERATORS[operator]
    made = chosen.build(ek.read_parquet(f"{src}/lineitem"), ek.read_parquet(f"{src}/orders"))
    if chosen.partition_by is not None:
        return made.write_parquet(out, partition_by=chosen.partition_by)
    return made.write_parquet(out)
