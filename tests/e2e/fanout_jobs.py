"""Jobs for the tests of fan-out: with and without an exchange, and one whose heavy rows are all in the splits of index 2 of 4."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

import etlkit as ek

HEAVY_KEY = 1_000_000


@ek.job
def clean(src: str, out: str) -> ek.Pipeline:
    return ek.read_parquet(src).filter(ek.col("v") % 3 != 0).with_columns(w=ek.col("v") * 2).write_parquet(out)


@ek.job
def grouped(src: str, out: str) -> ek.Pipeline:
    totals = (
        ek.read_parquet(src)
        .group_by("k")
        .agg(total=ek.sum("v"), n=ek.count(), least=ek.min("name"), first=ek.first("v"))
    )
    return totals.write_parquet(out)


@ek.job
def several(src: str, out: str) -> list[ek.Pipeline]:
    """Four rounds: a join with a group-by, sorted; and beside it what ends in earlier rounds."""
    rows = ek.read_parquet(src)
    totals = rows.group_by("k").agg(total=ek.sum("v"))
    joined = rows.join(totals, on="k").select("k", "v", "total", "name").sort("total", "v", "name")
    return [
        joined.write_parquet(f"{out}/joined"),
        rows.select("k").distinct("k").write_csv(f"{out}/keys"),
        rows.filter(ek.col("v") < 0).group_by("k").agg(n=ek.count()).write_parquet(f"{out}/none"),
        rows.limit(1000).write_parquet(f"{out}/limit"),
    ]


def weigh(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Needs 140 MiB for a moment where there is a heavy key."""
    if pc.max(batch.column("k")).as_py() >= HEAVY_KEY:
        held = bytearray(140 << 20)
        held[::4096] = b"x" * len(held[::4096])
    return batch


@ek.job
def uneven(src: str, out: str) -> ek.Pipeline:
    weighed = ek.read_parquet(src).map_batches(weigh, version="1")
    return weighed.group_by("k").agg(total=ek.sum("v"), n=ek.count()).write_parquet(out)
