"""What a growing source has taken, as facts of the state: the schema once, arrivals in chunks.

Covers writing them down before they are used, reading them back on a restart, and whether what is not finished is still as it was
taken. A chunk that is full is never written again, so what a commit writes does not grow with the number of files.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..checkpoint import Intervals, Snapshot
from ..io.source import Arrival, FileRecord, Growing, Segment, Split
from .stages import Plan, ScanInput, Stage

CHUNK_FILES = 400
FACT = "watched"


def first_facts(plan: Plan) -> dict[str, Any]:
    """What the first commit of a run says of its growing sources; empty where there are none."""
    said = {
        str(number): {
            "source": source.describe(),
            "schema": base64.b64encode(source.schema.serialize().to_pybytes()).decode(),
        }
        for number, source in enumerate(plan.sources)
        if isinstance(source, Growing)
    }
    return {FACT: said} if said else {}


def recall(source: Any, number: int, facts: Mapping[str, Any]) -> None:
    """Take up what is recorded of a source. Facts of another source are left alone."""
    said = (facts.get(FACT) or {}).get(str(number))
    if said is None or said["source"] != source.describe():
        return
    arrivals: list[Arrival] = []
    chunk = 0
    while (found := facts.get(_key(number, chunk))) is not None:
        arrivals += [_arrival(one) for one in found]
        chunk += 1
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(said["schema"])))
    source.recall(schema, arrivals)


class Record:
    """Makes the fact that one more arrival changes. One a source and attempt."""

    def __init__(self, number: int, arrivals: Sequence[Arrival]) -> None:
        self._number = number
        self._chunk = 0
        self._open: list[Any] = []
        self._files = 0
        for arrival in arrivals:
            self.add(arrival)

    def add(self, arrival: Arrival) -> dict[str, Any]:
        """The fact to commit, with this arrival in it."""
        if self._files >= CHUNK_FILES:
            self._chunk, self._open, self._files = self._chunk + 1, [], 0
        self._open.append(_json(arrival))
        self._files += len(arrival.files)
        return {_key(self._number, self._chunk): list(self._open)}


def growing_input(stage: Stage) -> ScanInput | None:
    """The input of a stage that grows: the last one, if any (the planner sees to that)."""
    last = stage.inputs[-1]
    return last if isinstance(last, ScanInput) and isinstance(last.source, Growing) else None


def changed_unfinished(plan: Plan, snapshot: Snapshot) -> list[str]:
    """Files that were taken, are not finished, and are not there as they were, in words."""
    said: list[str] = []
    for stage in plan.stages:
        scan = growing_input(stage)
        if scan is None or str(stage.index) in (snapshot.facts.get("ended") or {}):
            continue
        source = scan.source
        assert isinstance(source, Growing)
        before = snapshot.stages.get(stage.index)
        finished = before.finished if before is not None else Intervals()
        number = 0
        for one in stage.inputs:
            ended = snapshot.facts.get("ended") or {}
            number += len(one.splits if isinstance(one, ScanInput) else ended.get(str(max(one.stages)), ()))
        files: dict[int, None] = {}
        for arrival in source.arrivals:
            for split in arrival.splits:
                if number not in finished:
                    files.update(dict.fromkeys(segment.file for segment in split.segments))
                number += 1
        said += source.wrong(list(files))
    return said


def _key(number: int, chunk: int) -> str:
    return f"{FACT}.{number}.{chunk}"


def _json(arrival: Arrival) -> dict[str, Any]:
    return {
        "files": [
            [file.path, file.size_bytes, file.version, inode]
            for file, inode in zip(arrival.files, arrival.inodes, strict=True)
        ],
        "splits": [
            [
                [[one.file, one.start, one.stop] for one in split.segments],
                split.rows,
                split.encoded_bytes,
                split.decoded_bytes,
                split.unit_bytes,
            ]
            for split in arrival.splits
        ],
    }


def _arrival(said: Mapping[str, Any]) -> Arrival:
    return Arrival(
        tuple(FileRecord(path, size, version) for path, size, version, _ in said["files"]),
        tuple(inode for *_, inode in said["files"]),
        tuple(
            Split(tuple(Segment(*one) for one in segments), rows, encoded, decoded, unit)
            for segments, rows, encoded, decoded, unit in said["splits"]
        ),
    )
