"""jobs/customer_history.py"""

import datetime

import etlkit as ek

KEY = "c_custkey"
WATCHED = ("c_name", "c_address", "c_nationkey", "c_phone", "c_acctbal", "c_mktsegment")
PERIOD = ("valid_from", "valid_to")


def differs(name: str) -> ek.Expr:
    """Whether a column is another than it is today; of two nulls: no."""
    then, now = ek.col(name), ek.col(f"{name}_now")
    return (then != now).fill_null(False) | (then.is_null() != now.is_null())


@ek.job
def customer_history(
    src: str = "data/customer_history",
    out: str = "out/customer_history",
    snapshot: str = "data/tpch/customer",
    day: datetime.date = datetime.date(2026, 1, 1),
) -> ek.Pipeline:
    """A slowly changing dimension, type 2: a customer's versions, each valid from a day to a day, brought up to today's snapshot.

    A version whose customer changed or is gone is closed on ``day``; new and changed customers get a new version from ``day`` on.
    Merging the same snapshot twice changes nothing.
    """
    history = ek.read_parquet(src).select(KEY, *WATCHED, *PERIOD)
    today = ek.read_parquet(snapshot).select(KEY, *WATCHED)
    open_ones = history.filter(ek.col("valid_to").is_null())

    changed = ek.lit(False)
    for name in WATCHED:
        changed = changed | differs(name)
    now = today.rename({name: f"{name}_now" for name in WATCHED})
    met = open_ones.join(now.with_columns(listed=True), on=KEY, how="left")
    outdated = ek.col("listed").is_null() | changed
    ended = met.with_columns(valid_to=ek.when(outdated).then(day).otherwise(None)).select(KEY, *WATCHED, *PERIOD)

    unchanged = met.filter(~outdated).select(KEY)
    begun = today.join(unchanged, on=KEY, how="anti").with_columns(valid_from=day, valid_to=ek.lit(None, "date32"))
    return history.filter(ek.col("valid_to").is_not_null()).union(ended, begun).write_parquet(out)
