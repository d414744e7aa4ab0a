"""jobs/meetings.py"""

import etlkit as ek


@ek.job
def meetings(src: str = "out/flights", out: str = "out/meetings", least: int = 2) -> ek.Pipeline:
    """Pairs of planes by how often they left the same airport in the same hour."""
    flights = ek.read_parquet(src).select("origin", "time_hour", "tailnum")
    return (
        flights.join(flights, on=["origin", "time_hour"], suffix="_other")
        .filter(ek.col("tailnum") < ek.col("tailnum_other"))
        .group_by("tailnum", "tailnum_other")
        .agg(meetings=ek.count(), first=ek.min("time_hour"), last=ek.max("time_hour"))
        .filter(ek.col("meetings") >= least)
        .write_parquet(out)
    )
