"""jobs/sessions.py"""

import datetime

import pyarrow as pa

import etlkit as ek

INSTANT = pa.timestamp("us", "UTC")
LINE = {"at": INSTANT, "user": "string", "path": "string", "status": "int32", "bytes": "int64"}


@ek.job
def sessions(src: str = "data/weblog", out: str = "out/sessions", idle_s: int = 1800) -> ek.Pipeline:
    """Visits in a web log: one ends after ``idle_s`` seconds without a hit, and at midnight.

    Rows of one user lie anywhere in the log, so a function over batches can't do this, and there are no window functions. A group-by
    can: two hits in the same slot of ``idle_s`` seconds are never further apart than that. So each slot with hits is one piece of a
    visit, and goes on with the piece before it if that lies in the slot before and ended no more than ``idle_s`` earlier.
    """
    idle = datetime.timedelta(seconds=idle_s)
    hits = ek.read_json(src, schema=LINE).filter(ek.col("user").is_not_null())
    second = ek.col("at").cast("int64") // 1_000_000
    pieces = (
        hits.with_columns(day=ek.col("at").cast("date32"), slot=second // idle_s)
        .group_by("user", "day", "slot")
        .agg(begin=ek.min("at"), end=ek.max("at"), hits=ek.count(), bytes=ek.sum("bytes"))
    )
    before = pieces.select("user", "day", slot=ek.col("slot") + 1, before=ek.col("end"))
    starts = (
        pieces.join(before, on=["user", "day", "slot"], how="left")
        .filter(ek.col("before").is_null() | (ek.col("begin") - ek.col("before") > idle))
        .select("user", "day", start=ek.col("begin"))
    )
    # A piece belongs to the last visit of its day that began no later. A day has few of them, so joining all is cheap.
    return (
        pieces.join(starts, on=["user", "day"])
        .filter(ek.col("start") <= ek.col("begin"))
        .group_by("user", "day", "slot")
        .agg(start=ek.max("start"), end=ek.max("end"), hits=ek.max("hits"), bytes=ek.max("bytes"))
        .group_by("user", "start")
        .agg(end=ek.max("end"), hits=ek.sum("hits"), bytes=ek.sum("bytes"))
        .write_parquet(out)
    )
