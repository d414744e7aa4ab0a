"""jobs/inbox.py"""

import etlkit as ek

COLUMNS = {"carrier": "string", "flight": "int64", "tailnum": "string", "origin": "string", "dest": "string"}


@ek.job
def inbox(src: str = "data/inbox", out: str = "out/inbox", rejects: str = "out/inbox_rejects") -> ek.Pipeline:
    """CSV files of flights that arrive in a folder while the job runs, until a file ``_DONE`` does; each file once, readable as soon
    as it is committed. Rows that do not parse (a departure that is NA) go to a folder of their own."""
    departures = {**COLUMNS, "dep_time": "int64", "dep_delay": "int64"}
    return (
        ek.watch_dir(src, format="csv", until="_DONE", schema=departures, bad_rows="quarantine", quarantine=rejects)
        .filter(ek.col("dep_delay") >= 15)
        .select("origin", "dest", "carrier", "flight", "tailnum", "time_hour", "dep_delay")
        .write_parquet(out, visible="checkpoint", if_exists="append")
    )
