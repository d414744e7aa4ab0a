"""One job over a table of every type, for tables that Hypothesis makes. What it does with which columns is in ``work.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

import etlkit as ek

FORMATS: dict[str, Any] = {
    "parquet": ek.read_parquet,
    "ipc": ek.read_ipc,
}


@dataclass(frozen=True)
class EveryType:
    """Outputs 0: everything as it is. 1: groups of each key. Then, for the one key: sorted, distinct, joined with itself."""

    def pipelines(self, data: Path, out: Path) -> list[ek.Pipeline]:
        work = json.loads((data / "work.json").read_text())
        read = FORMATS[work["format"]]

        def rows() -> ek.Pipeline:
            made: ek.Pipeline = read(str(data / "t"))
            return made

        key, how, down = work["key"], work["how"], work["descending"]
        wide = pa.int64() if work["widen"] else None
        right = rows().select(key, m=ek.col("n"))
        if wide is not None:
            right = right.cast({key: wide})
        several = [
            rows(),
            *(rows().group_by(one).agg(rows=ek.count(), first=ek.first("n"), last=ek.last("lists")) for one in work["groups"]),
            rows().sort(key, "n", descending=[down, not down]).select("n", key, "structs"),
            rows().distinct(key).select(key, "n"),
            rows().select("n", key, "lists").join(right, on=key, how=how),
            rows().sort(key, descending=down).limit(5).select("n"),
            rows().select("n", "lists", key).explode("lists").rename(lists="item"),
        ]  # fmt: skip
        return [pipeline.write_ipc(str(out / str(at))) for at, pipeline in enumerate(several)]


QUERIES = {"every type": EveryType()}
