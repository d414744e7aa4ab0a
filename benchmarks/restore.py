"""How fast state is read back, for ``checkpoint``: ``python -m benchmarks.restore FOLDER MIB`` prints one JSON object.

It writes a run as a checkpoint does (64 partitions of a group-by's partial rows), then reads the file plainly and by
partition, each with a
cold cache, three times.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from etlkit.checkpoint import StateDir, open_store

PARTITIONS = 64
ROUNDS = 3
_ROW_BYTES = 40
_DROP = Path("/proc/sys/vm/drop_caches")


def main() -> None:
    folder, mib = Path(sys.argv[1]), int(sys.argv[2])
    state_dir = StateDir.open(open_store(str(folder)), 0.0)
    state_dir.begin("restore", {}, {})
    rows = mib * (1 << 20) // _ROW_BYTES // PARTITIONS
    writer = state_dir.run_writer(0)
    for partition in range(PARTITIONS):
        # Bytes that no compression shrinks much: the disk is what is measured.
        numbers = pa.Array.from_buffers(pa.int64(), rows * 5, [None, pa.py_buffer(os.urandom(rows * _ROW_BYTES))])
        columns = {f"c{i}": numbers.slice(i * rows, rows) for i in range(5)}
        writer.add(partition, pa.table(columns))
    ref = writer.close()
    path = next(path for path in folder.rglob("*") if path.is_file() and path.name == Path(ref.name).name)
    cold = os.access(_DROP, os.W_OK)
    disk, state = [], []

    def plainly() -> int:
        buffer, total = bytearray(1 << 20), 0
        with path.open("rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                total += count
        return total

    def by_partition() -> int:
        with state_dir.open_run(ref) as reader:
            return sum(batch.nbytes for partition in reader.partitions() for batch in reader.batches(partition))

    for _ in range(ROUNDS):
        for found, read in ((disk, plainly), (state, by_partition)):
            found.append(_rate(read, cold))
    state_dir.close()
    json.dump({"disk": disk, "state": state, "cold": cold}, sys.stdout)


def _rate(read: Callable[[], int], cold: bool) -> float:
    if cold:
        os.sync()
        _DROP.write_text("1")
    began_s = time.monotonic()
    return read() / (1 << 20) / (time.monotonic() - began_s)


if __name__ == "__main__":
    main()
