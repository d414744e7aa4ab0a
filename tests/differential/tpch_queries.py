"""The table of queries over TPC-H-derived data: every step of the contract, alone and in plans of several stages."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

import etlkit as ek

from .harness import Data, Query, table_of

col, fn, when = ek.col, ek.fn, ek.when
REVENUE = col("l_extendedprice") * (1 - col("l_discount"))
CHARGE = REVENUE * (1 + col("l_tax"))


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


def doubled(batch: pa.RecordBatch) -> pa.RecordBatch:
    """An author's function that changes the schema."""
    twice = pc.multiply(batch.column("l_linenumber").cast(pa.int64()), 2)
    return pa.RecordBatch.from_arrays([batch.column("l_orderkey"), twice], ["l_orderkey", "twice"])


def odd_only(batch: pa.RecordBatch) -> pa.Table:
    """An author's function that drops rows, and returns a table."""
    odd = pc.equal(pc.bit_wise_and(batch.column("o_orderkey"), 1), 1)
    return pa.Table.from_batches([batch.filter(odd)])


def words(d: Data) -> ek.Pipeline:
    return d("orders").select("o_orderkey", words=fn.utf8_split_whitespace(col("o_comment")))


def hot(d: Data) -> ek.Pipeline:
    """lineitem with nine tenths of its rows under one key."""
    return d("lineitem").select(
        "l_orderkey", "l_linenumber", "l_quantity", k=when(col("l_linenumber") < 6).then(7).otherwise(col("l_suppkey"))
    )


HOT = "(select l_orderkey, l_linenumber, l_quantity, case when l_linenumber < 6 then 7 else l_suppkey end k from lineitem)"


def null_keys(d: Data) -> tuple[ek.Pipeline, ek.Pipeline]:
    """Nulls under some keys of both sides."""
    left = d("orders").select(
        "o_orderkey", k=when(col("o_custkey") % 3 != 0).then(col("o_custkey")).otherwise(ek.lit(None))
    )
    right = d("customer").select(
        "c_name", k=when(col("c_custkey") % 5 != 0).then(col("c_custkey")).otherwise(ek.lit(None))
    )
    return left, right


NULL_LEFT = "(select o_orderkey, case when o_custkey % 3 <> 0 then o_custkey end k from orders)"
NULL_RIGHT = "(select c_name, case when c_custkey % 5 <> 0 then c_custkey end k from customer)"


def null_join(how: Any) -> Any:
    def build(d: Data) -> ek.Pipeline:
        left, right = null_keys(d)
        return left.join(right, on="k", how=how)

    return build


def customer_orders(how: Any) -> Any:
    return lambda d: (
        d("customer").select("c_custkey", "c_name")
        .join(d("orders").select("o_orderkey", "o_custkey", "o_totalprice"), left_on="c_custkey", right_on="o_custkey", how=how)
    )  # fmt: skip


def parts_by_name(out: Path, suffix: str) -> list[Path]:
    return sorted(out.rglob(f"*.{suffix}"))


def read_csv(out: Path) -> pa.Table:
    return pa.concat_tables(pyarrow.csv.read_csv(path) for path in parts_by_name(out, "csv"))


def read_json(out: Path) -> pa.Table:
    return pa.concat_tables(pyarrow.json.read_json(path) for path in parts_by_name(out, "jsonl"))


def read_ipc(out: Path) -> pa.Table:
    return pa.concat_tables(pa.ipc.open_file(path).read_all() for path in parts_by_name(out, "arrow"))


def read_hive(out: Path) -> pa.Table:
    """The parts, with the columns that the folders name as text again, last."""
    tables = []
    for path in parts_by_name(out, "parquet"):
        table = pq.ParquetFile(path).read()
        for folder in path.relative_to(out).parts[:-1]:
            name, _, value = folder.partition("=")
            table = table.append_column(name, pa.array([unquote(value)] * table.num_rows))
        tables.append(table)
    return pa.concat_tables(tables)


STEPS = [
    Query("filter", lambda d: d("lineitem").filter(col("l_quantity") < 10),
          "from lineitem where l_quantity < 10", ordered=True),
    Query("filter, several predicates",
          lambda d: d("lineitem").filter(
              col("l_shipdate") >= day("1994-01-01"), col("l_shipdate") < "1995-01-01",
              col("l_discount").between(Decimal("0.05"), Decimal("0.07")), (col("l_quantity") < 24) | (col("l_tax") == 0)),
          """from lineitem where l_shipdate >= date '1994-01-01' and l_shipdate < date '1995-01-01'
             and l_discount between 0.05 and 0.07 and (l_quantity < 24 or l_tax = 0)""", ordered=True),
    Query("filter that keeps nothing", lambda d: d("orders").filter(col("o_totalprice") < 0), "from orders where o_totalprice < 0"),
    Query("filter by text", lambda d: d("part").filter(fn.match_substring(col("p_name"), pattern="green"), col("p_size").isin([1, 5, 9, 40])),
          "from part where p_name like '%green%' and p_size in (1, 5, 9, 40)", ordered=True),
    Query("select", lambda d: d("orders").select("o_comment", "o_orderkey", total=col("o_totalprice") * 2, year=fn.year(col("o_orderdate"))),
          "select o_comment, o_orderkey, o_totalprice * 2 total, year(o_orderdate) as year from orders", ordered=True),
    Query("with_columns", lambda d: d("lineitem").with_columns(revenue=REVENUE, charge=CHARGE, l_comment=fn.utf8_length(col("l_comment"))),
          """select * replace (length(l_comment) as l_comment), l_extendedprice * (1 - l_discount) revenue,
             l_extendedprice * (1 - l_discount) * (1 + l_tax) charge from lineitem""", ordered=True),
    Query("with_columns, then filters on old and new ones",
          lambda d: d("lineitem").with_columns(revenue=REVENUE).rename(l_quantity="qty").filter(col("qty") > 45).filter(col("revenue") > 80000)
          .select("l_orderkey", "revenue", "qty"),
          """select l_orderkey, l_extendedprice * (1 - l_discount) revenue, l_quantity qty from lineitem
             where qty > 45 and revenue > 80000""", ordered=True),
    Query("rename and drop", lambda d: d("supplier").rename({"s_name": "name"}, s_phone="phone").drop("s_comment", "s_address"),
          "select s_suppkey, s_name as name, s_nationkey, s_phone phone, s_acctbal from supplier", ordered=True),
    Query("cast", lambda d: d("orders").cast({"o_totalprice": pa.float64()}, o_orderkey="int32", o_orderdate=pa.timestamp("ms"), o_shippriority="string"),
          """select * replace (o_totalprice::double as o_totalprice, o_orderkey::int as o_orderkey,
             o_orderdate::timestamp_ms as o_orderdate, o_shippriority::varchar as o_shippriority) from orders""", ordered=True),
    Query("when", lambda d: d("part").select("p_partkey", kind=when(col("p_size") < 10).then(ek.lit("small")).otherwise(
          when(col("p_size") < 30).then(ek.lit("medium")).otherwise(ek.lit("large")))),
          "select p_partkey, case when p_size < 10 then 'small' when p_size < 30 then 'medium' else 'large' end kind from part", ordered=True),
    Query("map_batches with a schema",
          lambda d: d("lineitem").map_batches(doubled, pa.schema({"l_orderkey": pa.int64(), "twice": pa.int64()})).filter(col("twice") > 4),
          "select l_orderkey, l_linenumber * 2 twice from lineitem where twice > 4", ordered=True),
    Query("map_batches after a join",
          lambda d: d("orders").join(d("customer").select("c_custkey", "c_mktsegment"), left_on="o_custkey", right_on="c_custkey")
          .map_batches(odd_only).group_by("c_mktsegment").agg(n=ek.count()),
          "select c_mktsegment, count(*) n from orders join customer on o_custkey = c_custkey where o_orderkey % 2 = 1 group by 1"),
    Query("explode", lambda d: words(d).explode("words"),
          "select o_orderkey, unnest(string_split_regex(o_comment, '\\s+')) words from orders", ordered=True),
    Query("explode, then group", lambda d: words(d).explode("words").filter(col("words") != "").group_by("words").agg(n=ek.count(), orders=ek.count_distinct("o_orderkey")),
          """select words, count(*) n, count(distinct o_orderkey) orders from
             (select o_orderkey, unnest(string_split_regex(o_comment, '\\s+')) words from orders) where words <> '' group by 1"""),
    Query("limit", lambda d: d("lineitem").select("l_orderkey", "l_linenumber", "l_comment").limit(7001),
          "select l_orderkey, l_linenumber, l_comment from lineitem limit 7001", ordered=True),
    Query("limit after a filter", lambda d: d("lineitem").filter(col("l_quantity") == 17).select("l_orderkey", "l_linenumber").limit(100),
          "select l_orderkey, l_linenumber from lineitem where l_quantity = 17 limit 100", ordered=True),
    Query("limit 0", lambda d: d("orders").limit(0), "from orders limit 0"),
    Query("limit beyond the end", lambda d: d("nation").limit(1000), "from nation", ordered=True),
    Query("limit, then a filter and a group", lambda d: d("orders").limit(5000).filter(col("o_orderstatus") == "F").group_by("o_orderpriority").agg(n=ek.count()),
          "select o_orderpriority, count(*) n from (from orders limit 5000) where o_orderstatus = 'F' group by 1"),
    Query("count over a limit", lambda d: d("orders").limit(4321).agg(n=ek.count()), "select 4321::bigint n"),
    Query("union", lambda d: d("orders").select("o_orderkey", k=col("o_custkey")).union(
          d("customer").select(k=col("c_custkey"), o_orderkey=col("c_nationkey").cast("int64"))),
          "select o_orderkey, o_custkey k from orders union all select c_nationkey, c_custkey from customer", ordered=True),
    Query("union of one table with itself", lambda d: d("nation").union(d("nation"), d("nation")), "from nation union all from nation union all from nation"),
    Query("union of types that differ", lambda d: d("nation").select(k=col("n_nationkey").cast("int8"), x=col("n_regionkey").cast("int32"), t=col("n_name")).union(
          d("orders").select(k=col("o_orderkey"), x=col("o_totalprice"), t=col("o_comment").cast(pa.large_string()))),
          "select n_nationkey k, n_regionkey x, n_name t from nation union all select o_orderkey, o_totalprice, o_comment from orders", ordered=True),
    Query("distinct", lambda d: d("lineitem").select("l_returnflag", "l_linestatus", "l_shipmode").distinct(),
          "select distinct l_returnflag, l_linestatus, l_shipmode from lineitem"),
    Query("distinct of many", lambda d: d("lineitem").select("l_partkey", "l_suppkey").distinct(), "select distinct l_partkey, l_suppkey from lineitem"),
    Query("distinct by keys keeps the first", lambda d: d("lineitem").select("l_orderkey", "l_linenumber", "l_partkey", "l_comment").distinct("l_partkey"),
          "select l_orderkey, l_linenumber, l_partkey, l_comment from lineitem qualify row_number() over (partition by l_partkey order by l_orderkey, l_linenumber) = 1"),
    Query("distinct of a union", lambda d: d("orders").select(k=col("o_custkey")).union(d("customer").select(k=col("c_custkey"))).distinct(),
          "select distinct k from (select o_custkey k from orders union all select c_custkey from customer)"),
]  # fmt: skip

GROUPS = [
    Query("pricing summary (TPC-H 1)",
          lambda d: d("lineitem").filter(col("l_shipdate") <= day("1998-09-02")).with_columns(price=REVENUE, charge=CHARGE)
          .group_by("l_returnflag", "l_linestatus")
          .agg(q=ek.sum("l_quantity"), base=ek.sum("l_extendedprice"), price=ek.sum("price"), charge=ek.sum("charge"),
               aq=ek.mean("l_quantity"), ap=ek.mean("l_extendedprice"), ad=ek.mean("l_discount"), n=ek.count())
          .sort("l_returnflag", "l_linestatus"),
          """select l_returnflag, l_linestatus, sum(l_quantity) q, sum(l_extendedprice) base, sum(l_extendedprice * (1 - l_discount)) price,
             sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) charge, avg(l_quantity) aq, avg(l_extendedprice) ap, avg(l_discount) ad,
             count(*) n from lineitem where l_shipdate <= date '1998-09-02' group by all order by 1, 2""", ordered=True),
    Query("every aggregate",
          lambda d: d("lineitem").group_by("l_suppkey").agg(
              sum=ek.sum("l_quantity"), mean=ek.mean("l_extendedprice"), min=ek.min("l_shipdate"), max=ek.max("l_comment"),
              count=ek.count("l_tax"), different=ek.count_distinct("l_partkey"), first=ek.first("l_comment"), last=ek.last("l_shipmode"),
              any=ek.any(col("l_quantity") > 49), all=ek.all(col("l_discount") < Decimal("0.1")), stddev=ek.stddev("l_quantity"),
              variance=ek.variance("l_discount", 0), median=ek.quantile("l_extendedprice", 0.5), tenth=ek.quantile("l_quantity", 0.1)),
          """select l_suppkey, sum(l_quantity) "sum", avg(l_extendedprice) mean, min(l_shipdate) "min", max(l_comment) "max", count(l_tax) "count",
             count(distinct l_partkey) different, first(l_comment order by l_orderkey, l_linenumber) "first",
             last(l_shipmode order by l_orderkey, l_linenumber) "last", bool_or(l_quantity > 49) "any", bool_and(l_discount < 0.1) "all",
             stddev_samp(l_quantity) "stddev", var_pop(l_discount::double) "variance", quantile_cont(l_extendedprice::double, 0.5) median,
             quantile_cont(l_quantity::double, 0.1) tenth from lineitem group by 1""", close=1e-9),
    Query("aggregates without keys",
          lambda d: d("orders").agg(n=ek.count(), total=ek.sum("o_totalprice"), first=ek.first("o_orderkey"), last=ek.last("o_orderkey"),
                                    customers=ek.count_distinct("o_custkey"), latest=ek.max("o_orderdate")),
          """select count(*) n, sum(o_totalprice) total, first(o_orderkey) "first", last(o_orderkey) "last",
             count(distinct o_custkey) customers, max(o_orderdate) latest from orders"""),
    Query("aggregates of nothing", lambda d: d("orders").filter(col("o_orderkey") < 0).agg(n=ek.count(), s=ek.sum("o_totalprice"), m=ek.max("o_comment")),
          "select count(*) n, sum(o_totalprice) s, max(o_comment) m from orders where o_orderkey < 0"),
    Query("group of nothing", lambda d: d("orders").filter(col("o_orderkey") < 0).group_by("o_custkey").agg(n=ek.count()),
          "select o_custkey, count(*) n from orders where o_orderkey < 0 group by 1"),
    Query("group by many texts", lambda d: d("lineitem").group_by("l_comment").agg(n=ek.count(), first=ek.min("l_orderkey")),
          """select l_comment, count(*) n, min(l_orderkey) "first" from lineitem group by 1"""),
    Query("group by a date and a decimal", lambda d: d("lineitem").group_by("l_shipdate", "l_quantity").agg(s=ek.sum(REVENUE)),
          "select l_shipdate, l_quantity, sum(l_extendedprice * (1 - l_discount)) s from lineitem group by 1, 2"),
    Query("group by unique keys", lambda d: d("lineitem").group_by("l_orderkey", "l_linenumber").agg(p=ek.sum("l_extendedprice")),
          "select l_orderkey, l_linenumber, sum(l_extendedprice) p from lineitem group by 1, 2"),
    Query("group of a group", lambda d: d("orders").group_by("o_custkey").agg(n=ek.count()).group_by("n").agg(customers=ek.count(), most=ek.max("o_custkey")),
          "select n, count(*) customers, max(o_custkey) most from (select o_custkey, count(*) n from orders group by 1) group by 1"),
    Query("group by nobody's aggregate", lambda d: d("orders").group_by("o_custkey", "o_orderpriority").agg(), "select distinct o_custkey, o_orderpriority from orders"),
    Query("group, then filter and project", lambda d: d("lineitem").group_by("l_orderkey").agg(q=ek.sum("l_quantity"), n=ek.count()).filter(col("q") > 200).select("l_orderkey", share=col("q") / col("n")),
          "select l_orderkey, sum(l_quantity) / count(*) share from lineitem group by 1 having sum(l_quantity) > 200"),
    Query("hot key, grouped", lambda d: hot(d).group_by("k").agg(n=ek.count(), q=ek.sum("l_quantity"), orders=ek.count_distinct("l_orderkey"), m=ek.quantile("l_quantity")),
          f"select k, count(*) n, sum(l_quantity) q, count(distinct l_orderkey) orders, quantile_cont(l_quantity::double, 0.5) m from {HOT} group by 1"),
]  # fmt: skip

JOINS = [
    *[Query(f"join {how}", customer_orders(how),
            f"""select c_custkey, c_name, o_orderkey, o_totalprice from customer {how} join orders on c_custkey = o_custkey""")
      for how in ("inner", "left")],
    Query("join right", lambda d: d("orders").filter(col("o_custkey") > 700).select("o_orderkey", "o_custkey").join(
          d("customer").select("c_custkey", "c_name"), left_on="o_custkey", right_on="c_custkey", how="right"),
          """select o_orderkey, c_custkey o_custkey, c_name from (from orders where o_custkey > 700) right join customer on o_custkey = c_custkey"""),
    Query("join outer", lambda d: d("orders").filter(col("o_custkey") > 700).select("o_orderkey", "o_custkey").join(
          d("customer").filter(col("c_custkey") < 900).select("c_custkey", "c_name"), left_on="o_custkey", right_on="c_custkey", how="outer"),
          """select o_orderkey, coalesce(o_custkey, c_custkey) o_custkey, c_name from (from orders where o_custkey > 700)
             full join (from customer where c_custkey < 900) on o_custkey = c_custkey"""),
    *[Query(f"join {how}", customer_orders(how),
            f"select c_custkey, c_name from customer {how} join orders on c_custkey = o_custkey") for how in ("semi", "anti")],
    *[Query(f"null keys, {how}", null_join(how),
            f"select o_orderkey, l.k, c_name from {NULL_LEFT} l {how} join {NULL_RIGHT} r on l.k = r.k") for how in ("inner", "left")],
    *[Query(f"null keys, {how}", null_join(how),
            f"select o_orderkey, l.k from {NULL_LEFT} l {how} join {NULL_RIGHT} r on l.k = r.k") for how in ("semi", "anti")],
    Query("null keys, right", null_join("right"), f"select o_orderkey, r.k, c_name from {NULL_LEFT} l right join {NULL_RIGHT} r on l.k = r.k"),
    Query("null keys, outer", null_join("outer"), f"select o_orderkey, coalesce(l.k, r.k) k, c_name from {NULL_LEFT} l full join {NULL_RIGHT} r on l.k = r.k"),
    Query("join by several keys", lambda d: d("lineitem").select("l_orderkey", "l_partkey", "l_suppkey").join(
          d("partsupp").select("ps_partkey", "ps_suppkey", "ps_supplycost"), left_on=["l_partkey", "l_suppkey"], right_on=["ps_partkey", "ps_suppkey"]),
          "select l_orderkey, l_partkey, l_suppkey, ps_supplycost from lineitem join partsupp on l_partkey = ps_partkey and l_suppkey = ps_suppkey"),
    Query("join of keys of two widths", lambda d: d("customer").select("c_name", k=col("c_nationkey").cast("int16")).join(
          d("nation").select("n_name", k=col("n_nationkey").cast("int64")), on="k"),
          "select c_name, c_nationkey::smallint k, n_name from customer join nation on c_nationkey = n_nationkey"),
    Query("join by text and decimal", lambda d: d("part").select("p_partkey", "p_brand", "p_retailprice").join(
          d("part").filter(col("p_size") < 20).select("p_brand", "p_retailprice", other=col("p_partkey")), on=["p_brand", "p_retailprice"]),
          "select p.p_partkey, p.p_brand, p.p_retailprice, o.p_partkey other from part p join part o on p.p_brand = o.p_brand and p.p_retailprice = o.p_retailprice where o.p_size < 20"),
    Query("self join with a suffix", lambda d: d("nation").join(d("nation"), on="n_regionkey", suffix="_2").select("n_name", "n_name_2", "n_regionkey"),
          "select a.n_name, b.n_name n_name_2, a.n_regionkey from nation a join nation b on a.n_regionkey = b.n_regionkey"),
    *[Query(f"empty right side, {how}", lambda d, how=how: d("nation").join(d("region").filter(col("r_regionkey") > 99).drop("r_comment"), left_on="n_regionkey", right_on="r_regionkey", how=how),
            f"select n_nationkey, n_name, n_regionkey, n_comment, r_name from nation {how} join (from region where r_regionkey > 99) on n_regionkey = r_regionkey")
      for how in ("inner", "left")],
    Query("empty left side, outer", lambda d: d("nation").filter(col("n_nationkey") < 0).select("n_regionkey", "n_name").join(
          d("region").select("r_regionkey", "r_name"), left_on="n_regionkey", right_on="r_regionkey", how="outer"),
          "select r_regionkey n_regionkey, null::varchar n_name, r_name from region"),
    Query("empty right side, anti", lambda d: d("nation").join(d("region").filter(col("r_regionkey") > 99), left_on="n_regionkey", right_on="r_regionkey", how="anti"), "from nation"),
    Query("hot key, joined", lambda d: hot(d).join(d("supplier").select("s_suppkey", "s_name"), left_on="k", right_on="s_suppkey").group_by("s_name").agg(n=ek.count(), q=ek.sum("l_quantity")),
          f"select s_name, count(*) n, sum(l_quantity) q from {HOT} join supplier on k = s_suppkey group by 1"),
    Query("hot key on the right, left join", lambda d: d("supplier").select("s_suppkey", "s_name").join(hot(d), left_on="s_suppkey", right_on="k", how="left"),
          f"select s_suppkey, s_name, l_orderkey, l_linenumber, l_quantity from supplier left join {HOT} on s_suppkey = k"),
    Query("shipping priority (TPC-H 3)",
          lambda d: d("customer").filter(col("c_mktsegment") == "BUILDING").select("c_custkey")
          .join(d("orders").filter(col("o_orderdate") < day("1995-03-15")), left_on="c_custkey", right_on="o_custkey")
          .join(d("lineitem").filter(col("l_shipdate") > day("1995-03-15")), left_on="o_orderkey", right_on="l_orderkey")
          .with_columns(revenue=REVENUE).group_by("o_orderkey", "o_orderdate", "o_shippriority").agg(revenue=ek.sum("revenue"))
          .sort("revenue", "o_orderdate", "o_orderkey", descending=[True, False, False]).limit(10),
          """select o_orderkey, o_orderdate, o_shippriority, sum(l_extendedprice * (1 - l_discount)) revenue from customer
             join orders on c_custkey = o_custkey join lineitem on l_orderkey = o_orderkey where c_mktsegment = 'BUILDING'
             and o_orderdate < date '1995-03-15' and l_shipdate > date '1995-03-15' group by 1, 2, 3 order by 4 desc, 2, 1 limit 10""", ordered=True),
    Query("local supplier volume (TPC-H 5)",
          lambda d: d("lineitem").join(d("orders").filter(col("o_orderdate").between(day("1994-01-01"), day("1994-12-31"))).select("o_orderkey", "o_custkey"), left_on="l_orderkey", right_on="o_orderkey")
          .join(d("customer").select("c_custkey", "c_nationkey"), left_on="o_custkey", right_on="c_custkey")
          .join(d("supplier").select("s_suppkey", "s_nationkey"), left_on=["l_suppkey", "c_nationkey"], right_on=["s_suppkey", "s_nationkey"])
          .join(d("nation"), left_on="c_nationkey", right_on="n_nationkey").join(d("region").filter(col("r_name") == "ASIA"), left_on="n_regionkey", right_on="r_regionkey")
          .group_by("n_name").agg(revenue=ek.sum(REVENUE)).sort("revenue", descending=True),
          """select n_name, sum(l_extendedprice * (1 - l_discount)) revenue from lineitem join orders on l_orderkey = o_orderkey
             join customer on o_custkey = c_custkey join supplier on l_suppkey = s_suppkey and c_nationkey = s_nationkey
             join nation on c_nationkey = n_nationkey join region on n_regionkey = r_regionkey where r_name = 'ASIA'
             and o_orderdate between date '1994-01-01' and date '1994-12-31' group by 1 order by 2 desc""", ordered=True),
    Query("order priority (TPC-H 4)",
          lambda d: d("orders").filter(col("o_orderdate") >= "1993-07-01", col("o_orderdate") < "1993-10-01")
          .join(d("lineitem").filter(col("l_commitdate") < col("l_receiptdate")), left_on="o_orderkey", right_on="l_orderkey", how="semi")
          .group_by("o_orderpriority").agg(n=ek.count()).sort("o_orderpriority"),
          """select o_orderpriority, count(*) n from orders where o_orderdate >= date '1993-07-01' and o_orderdate < date '1993-10-01'
             and exists (from lineitem where l_orderkey = o_orderkey and l_commitdate < l_receiptdate) group by 1 order by 1""", ordered=True),
    Query("join of two groups",
          lambda d: d("lineitem").group_by("l_suppkey").agg(sold=ek.sum("l_quantity")).join(
              d("partsupp").group_by("ps_suppkey").agg(held=ek.sum("ps_availqty"), cost=ek.mean("ps_supplycost")), left_on="l_suppkey", right_on="ps_suppkey"),
          """select l_suppkey, sold, held, cost from (select l_suppkey, sum(l_quantity) sold from lineitem group by 1)
             join (select ps_suppkey, sum(ps_availqty) held, avg(ps_supplycost) cost from partsupp group by 1) on l_suppkey = ps_suppkey"""),
    Query("group of a join of a group",
          lambda d: d("orders").group_by("o_custkey").agg(spent=ek.sum("o_totalprice"), orders=ek.count())
          .join(d("customer"), left_on="o_custkey", right_on="c_custkey", how="outer")
          .group_by("c_nationkey").agg(customers=ek.count(), buyers=ek.count("orders"), spent=ek.sum("spent")),
          """select c_nationkey, count(*) customers, count(orders) buyers, sum(spent) spent from
             (select o_custkey, sum(o_totalprice) spent, count(*) orders from orders group by 1) full join customer on o_custkey = c_custkey group by 1"""),
    Query("count over a join", lambda d: d("orders").join(d("lineitem"), left_on="o_orderkey", right_on="l_orderkey").agg(n=ek.count()),
          "select count(*) n from orders join lineitem on o_orderkey = l_orderkey"),
    Query("join of a union", lambda d: d("nation").union(d("nation").filter(col("n_nationkey") < 5)).join(d("supplier").select("s_nationkey", "s_name"), left_on="n_nationkey", right_on="s_nationkey"),
          """select n.*, s_name from (from nation union all from nation where n_nationkey < 5) n join supplier on n_nationkey = s_nationkey"""),
]  # fmt: skip

SORTS = [
    Query("sort", lambda d: d("lineitem").sort("l_shipdate"), "from lineitem order by l_shipdate, l_orderkey, l_linenumber", ordered=True),
    Query("sort descending", lambda d: d("lineitem").select("l_extendedprice", "l_orderkey", "l_linenumber").sort("l_extendedprice", descending=True),
          "select l_extendedprice, l_orderkey, l_linenumber from lineitem order by 1 desc, 2, 3", ordered=True),
    Query("sort by several keys", lambda d: d("lineitem").select("l_returnflag", "l_shipmode", "l_extendedprice", "l_orderkey", "l_linenumber").sort("l_returnflag", "l_shipmode", "l_extendedprice", descending=[True, False, True]),
          "select l_returnflag, l_shipmode, l_extendedprice, l_orderkey, l_linenumber from lineitem order by 1 desc, 2, 3 desc, 4, 5", ordered=True),
    Query("sort by a constant", lambda d: d("lineitem").select("l_orderkey", "l_linenumber", one=ek.lit(1)).sort("one"),
          "select l_orderkey, l_linenumber, 1 as one from lineitem", ordered=True),
    Query("sort with nulls", lambda d: d("orders").select("o_orderkey", k=when(col("o_custkey") % 4 != 0).then(col("o_custkey")).otherwise(ek.lit(None))).sort("k", "o_orderkey"),
          "select o_orderkey, case when o_custkey % 4 <> 0 then o_custkey end k from orders order by k nulls last, o_orderkey", ordered=True),
    Query("sort with nulls, descending", lambda d: d("orders").select("o_orderkey", k=when(col("o_custkey") % 4 != 0).then(col("o_custkey")).otherwise(ek.lit(None))).sort("k", "o_orderkey", descending=True),
          "select o_orderkey, case when o_custkey % 4 <> 0 then o_custkey end k from orders order by k desc nulls last, o_orderkey desc", ordered=True),
    Query("sort by text", lambda d: d("customer").select("c_comment", "c_custkey").sort("c_comment"), "select c_comment, c_custkey from customer order by c_comment, c_custkey", ordered=True),
    Query("limit after a sort", lambda d: d("lineitem").sort("l_extendedprice", "l_orderkey", descending=[True, False]).limit(500).select("l_orderkey", "l_extendedprice"),
          "select l_orderkey, l_extendedprice from lineitem order by l_extendedprice desc, l_orderkey limit 500", ordered=True),
    Query("sort of a join", lambda d: d("orders").select("o_orderkey", "o_custkey").join(d("customer").select("c_custkey", "c_name"), left_on="o_custkey", right_on="c_custkey").sort("c_name", "o_orderkey").drop("o_custkey"),
          "select o_orderkey, c_name from orders join customer on o_custkey = c_custkey order by c_name, o_orderkey", ordered=True),
    Query("sort of a group", lambda d: d("lineitem").group_by("l_partkey").agg(r=ek.sum(REVENUE), n=ek.count()).sort("n", "r", "l_partkey", descending=[True, False, False]),
          "select l_partkey, sum(l_extendedprice * (1 - l_discount)) r, count(*) n from lineitem group by 1 order by n desc, r, 1", ordered=True),
    Query("group of a sort", lambda d: d("lineitem").sort("l_shipdate", "l_orderkey", "l_linenumber").group_by("l_shipmode").agg(first=ek.first("l_orderkey"), last=ek.last("l_linenumber"), n=ek.count()),
          """select l_shipmode, first(l_orderkey order by l_shipdate, l_orderkey, l_linenumber) "first",
             last(l_linenumber order by l_shipdate, l_orderkey, l_linenumber) "last", count(*) n from lineitem group by 1"""),
    Query("limit of a sort, sorted again", lambda d: d("part").sort("p_retailprice", "p_partkey", descending=True).limit(50).sort("p_partkey").select("p_partkey", "p_retailprice"),
          "from (select p_partkey, p_retailprice from part order by p_retailprice desc, p_partkey desc limit 50) order by p_partkey", ordered=True),
]  # fmt: skip

JOBS = [
    Query("three sinks in one job", lambda d: d("orders").filter(col("o_orderstatus") == "P"), "from orders where o_orderstatus = 'P'",
          more=[(lambda d: d("orders").group_by("o_orderstatus").agg(n=ek.count()), "select o_orderstatus, count(*) n from orders group by 1"),
                (lambda d: d("customer").join(d("nation"), left_on="c_nationkey", right_on="n_nationkey").select("c_name", "n_name"),
                 "select c_name, n_name from customer join nation on c_nationkey = n_nationkey")]),
    Query("partition_by", lambda d: d("lineitem").select("l_orderkey", "l_linenumber", "l_shipmode", "l_returnflag"),
          "select l_orderkey, l_linenumber, l_shipmode, l_returnflag from lineitem",
          write=lambda p, out: p.write_parquet(out, partition_by=["l_shipmode", "l_returnflag"]), read=read_hive),
    Query("partition_by after a group", lambda d: d("lineitem").group_by("l_suppkey", "l_returnflag").agg(n=ek.count()).select("l_suppkey", "n", "l_returnflag"),
          "select l_suppkey, count(*) n, l_returnflag from lineitem group by 1, 3",
          write=lambda p, out: p.write_parquet(out, partition_by="l_returnflag"), read=read_hive),
    Query("to csv", lambda d: d("orders").select("o_orderkey", "o_comment", "o_orderdate").filter(col("o_orderkey") < 9000),
          "select o_orderkey, o_comment, o_orderdate from orders where o_orderkey < 9000",
          write=lambda p, out: p.write_csv(out), read=read_csv, ordered=True),
    Query("to json", lambda d: d("part").select("p_partkey", "p_name", "p_size"), "select p_partkey, p_name, p_size from part",
          write=lambda p, out: p.write_json(out), read=read_json, ordered=True),
    Query("to ipc", lambda d: d("orders").group_by("o_custkey").agg(total=ek.sum("o_totalprice")), "select o_custkey, sum(o_totalprice) total from orders group by 1",
          write=lambda p, out: p.write_ipc(out), read=read_ipc),
]  # fmt: skip


def csv(d: Data, table: str) -> ek.Pipeline:
    return ek.read_csv(d.path(table))


def json_lines(d: Data, table: str) -> ek.Pipeline:
    return ek.read_json(d.path(table))


def ipc(d: Data, table: str) -> ek.Pipeline:
    return ek.read_ipc(d.path(table))


FORMATS = [
    Query("csv as it is", lambda d: csv(d, "orders_csv"), "from orders_csv", ordered=True),
    Query("csv, filtered and grouped", lambda d: csv(d, "orders_csv").filter(col("o_orderdate") >= day("1995-01-01")).group_by("o_orderpriority").agg(n=ek.count(), least=ek.min("o_totalprice"), last=ek.last("o_comment")),
          """select o_orderpriority, count(*) n, min(o_totalprice) least, last(o_comment order by o_orderkey) "last" from orders_csv
             where o_orderdate >= date '1995-01-01' group by 1"""),
    Query("csv with a schema, exactly", lambda d: ek.read_csv(d.path("orders_csv"), schema={"o_totalprice": pa.decimal128(15, 2)}).group_by("o_custkey").agg(total=ek.sum("o_totalprice")),
          "select o_custkey, sum(o_totalprice) total from orders group by 1"),
    Query("csv in gzip, joined with parquet", lambda d: csv(d, "orders_csv_gz").select("o_orderkey", "o_custkey").join(d("customer").select("c_custkey", "c_acctbal"), left_on="o_custkey", right_on="c_custkey"),
          "select o_orderkey, o_custkey, c_acctbal from orders_csv_gz join customer on o_custkey = c_custkey"),
    Query("json as it is", lambda d: json_lines(d, "customer_json"), "from customer_json", ordered=True),
    Query("json, sorted", lambda d: json_lines(d, "orders_json").select("o_clerk", "o_orderkey", "o_shippriority").sort("o_clerk", "o_orderkey"),
          "select o_clerk, o_orderkey, o_shippriority from orders_json order by 1, 2", ordered=True),
    Query("ipc, grouped", lambda d: ipc(d, "orders_ipc").group_by("o_orderstatus", "o_orderpriority").agg(total=ek.sum("o_totalprice"), n=ek.count_distinct("o_custkey")),
          "select o_orderstatus, o_orderpriority, sum(o_totalprice) total, count(distinct o_custkey) n from orders group by 1, 2"),
    Query("union of four formats", lambda d: csv(d, "orders_csv").select("o_orderkey", "o_comment").union(
          json_lines(d, "orders_json").select("o_comment", "o_orderkey"), ipc(d, "orders_ipc").select("o_orderkey", "o_comment"), d("orders").select("o_orderkey", "o_comment")).group_by("o_comment").agg(n=ek.count(), s=ek.sum("o_orderkey")),
          "select o_comment, count(*) * 4 n, sum(o_orderkey) * 4 s from orders group by 1"),
]  # fmt: skip

QUERIES = table_of([*STEPS, *GROUPS, *JOINS, *SORTS, *JOBS, *FORMATS])
