"""Six ways to meet a memory limit, each as an etlkit job and as the plain pyarrow script that people write today.

    steady          the need does not grow
    growing         a group-by whose state grows as the input is read
    spike           an author's function that takes 120 MiB for one batch in forty
    huge_row_group  the whole input is one row group
    leak            an author's function that keeps 512 KiB a batch
    skewed_join     half of all rows have one key

and one that is long (32 M rows take a minute), for wall time and GiB-seconds; it is run when it is asked for:

    worked          an author's function that works on each row in Python, then a group-by whose state grows

``python -m benchmarks.survival_jobs make FOLDER ROWS`` makes the input, ``… plain NAME FOLDER OUT`` runs the plain script.
"""

from __future__ import annotations

import sys
from pathlib import Path

import etlkit as ek

NAMES = ("steady", "growing", "spike", "huge_row_group", "leak", "skewed_join")
SPIKE_BYTES, SPIKE_EVERY = 120 << 20, 40
LEAK_BYTES = 512 << 10
KEPT: list[bytearray] = []


def spikes(batch):  # type: ignore[no-untyped-def]
    if batch.column("id")[0].as_py() // batch.num_rows % SPIKE_EVERY == SPIKE_EVERY - 1:
        held = bytearray(SPIKE_BYTES)
        held[::4096] = b"x" * len(held[::4096])
    return batch


def digests(batch):  # type: ignore[no-untyped-def]
    """A key out of the text, as a script would make it: row by row, a million of them."""
    import hashlib

    import pyarrow as pa

    made = [
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little") % 1_000_000
        for text in batch.column("text").to_pylist()
    ]
    return pa.record_batch({"digest": pa.array(made, pa.int64()), "value": batch.column("value")})


def keeps(batch):  # type: ignore[no-untyped-def]
    KEPT.append(bytearray(b"x" * LEAK_BYTES))
    return batch


@ek.job
def steady(src: str, out: str) -> ek.Pipeline:
    return ek.read_parquet(f"{src}/rows").filter(ek.col("value") < 500_000).write_parquet(out)


@ek.job
def growing(src: str, out: str) -> ek.Pipeline:
    grouped = (
        ek.read_parquet(f"{src}/rows").group_by("key").agg(total=ek.sum("value"), most=ek.max("value"), n=ek.count())
    )
    return grouped.write_parquet(out)


@ek.job
def spike(src: str, out: str) -> ek.Pipeline:
    return (
        ek.read_parquet(f"{src}/rows")
        .map_batches(spikes, version="1")
        .filter(ek.col("value") < 500_000)
        .write_parquet(out)
    )


@ek.job
def huge_row_group(src: str, out: str) -> ek.Pipeline:
    return ek.read_parquet(f"{src}/huge").group_by("key").agg(total=ek.sum("value"), n=ek.count()).write_parquet(out)


@ek.job
def leak(src: str, out: str) -> ek.Pipeline:
    return (
        ek.read_parquet(f"{src}/rows")
        .map_batches(keeps, version="1")
        .filter(ek.col("value") < 500_000)
        .write_parquet(out)
    )


@ek.job
def worked(src: str, out: str) -> ek.Pipeline:
    import pyarrow as pa

    schema = pa.schema({"digest": pa.int64(), "value": pa.int64()})
    made = ek.read_parquet(f"{src}/rows").select("text", "value").map_batches(digests, schema=schema, version="1")
    return made.group_by("digest").agg(total=ek.sum("value"), n=ek.count()).write_parquet(out)


@ek.job
def skewed_join(src: str, out: str) -> ek.Pipeline:
    return (
        ek.read_parquet(f"{src}/rows")
        .join(ek.read_parquet(f"{src}/names"), left_on="skewed", right_on="k")
        .write_parquet(out)
    )


def make(folder: Path, rows: int) -> None:
    """Four files of 32 row groups, the same rows in one row group, and a table to join with."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    number = pa.array(range(rows), pa.int64())
    # A fixed scramble: the same input on every machine.
    drawn = pc.bit_wise_and(
        pc.shift_right(pc.multiply(number, pa.scalar(0x9E3779B97F4A7C15 - (1 << 64))), 20), 0x7FFFFFFF
    )
    key = pc.subtract(drawn, pc.multiply(pc.divide(drawn, rows // 4), rows // 4))
    value = pc.subtract(drawn, pc.multiply(pc.divide(drawn, 1_000_000), 1_000_000))
    skewed = pc.if_else(pc.less(value, 500_000), pa.scalar(7, pa.int64()), key)
    text = pc.binary_join_element_wise("text-", pc.cast(key, pa.string()), "-padding-padding", "")
    table = pa.table({"id": number, "key": key, "value": value, "skewed": skewed, "text": text})
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    for index in range(4):
        piece = table.slice(index * rows // 4, rows // 4)
        pq.write_table(piece, folder / "rows" / f"{index}.parquet", row_group_size=rows // 128)
    (folder / "huge").mkdir(exist_ok=True)
    pq.write_table(table, folder / "huge" / "0.parquet", row_group_size=rows)
    (folder / "names").mkdir(exist_ok=True)
    keys = pa.array(range(rows // 4), pa.int64())
    names = pc.binary_join_element_wise("name-", pc.cast(keys, pa.string()), "")
    pq.write_table(pa.table({"k": keys, "name": names}), folder / "names" / "0.parquet")


def plain(name: str, folder: Path, out: Path) -> None:
    """As most scripts are: read it all, work on it, write it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(folder / ("huge" if name == "huge_row_group" else "rows"))
    if name in ("spike", "leak"):
        for batch in table.to_batches():
            spikes(batch) if name == "spike" else keeps(batch)
    if name == "worked":
        import pyarrow as pa

        table = pa.Table.from_batches([digests(batch) for batch in table.to_batches()])
        table = table.group_by("digest").aggregate([("value", "sum"), ([], "count_all")])
    elif name in ("growing", "huge_row_group"):
        table = table.group_by("key").aggregate([("value", "sum"), ("value", "max"), ([], "count_all")])
    elif name == "skewed_join":
        table = table.join(pq.read_table(folder / "names"), "skewed", "k", "inner")
    else:
        table = table.filter(pc.less(table["value"], 500_000))
    pq.write_table(table, out / "0.parquet")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        plain(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
