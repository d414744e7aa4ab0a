"""Rows that do not parse: finding them, and what becomes of them.

A block that the parser refuses is halved until single records are left over: the same parser judges, so a good row is never
lost with a bad one. ``error`` names the first one, ``skip`` leaves them out, ``quarantine`` writes them, one JSON
object a line, into a folder. Its files are named by input file and place and hold the same whenever they are written
again, so a restart neither loses nor doubles them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa

from ..errors import ConfigError, InputError, StateError
from ..memory.allocation import is_allocation_failure
from .part_file import PartFile, sync_folder
from .paths import state_error
from .records import split_records

BadRows = Literal["error", "skip", "quarantine"]
BAD_ROWS: tuple[str, ...] = get_args(BadRows)
Parse = Callable[[bytes], pa.RecordBatch | None]
Reject = Callable[[int, bytes, str], None]
"""Line, text, reason."""

_ROW = re.compile(r"(In CSV column #\d+: )?Row #\d+: |,? in row \d+")
_SHOWN = 200


def parsed(block: bytes, delimiter: bytes, parse: Parse, line: int, reject: Reject) -> Iterator[pa.RecordBatch]:
    """The rows of a block that begins at ``line``; each record that does not parse is rejected."""
    try:
        batch = parse(block)
    except (pa.ArrowException, ValueError) as error:
        if is_allocation_failure(error):
            raise
        records = [(line + before, text) for before, text in split_records(block, delimiter)]
        yield from _halved(records, parse, reject, error)
    else:
        if batch is not None:
            yield batch


def _halved(
    records: Sequence[tuple[int, bytes]], parse: Parse, reject: Reject, error: Exception
) -> Iterator[pa.RecordBatch]:
    if len(records) == 1:
        ((line, text),) = records
        reject(line, text, str(error))
        return
    middle = len(records) // 2
    for half in (records[:middle], records[middle:]):
        try:
            batch = parse(b"".join(text for _, text in half))
        except (pa.ArrowException, ValueError) as worse:
            if is_allocation_failure(worse):
                raise
            yield from _halved(half, parse, reject, worse)
        else:
            if batch is not None:
                yield batch


def readable(rows: bytes, delimiter: bytes, parse: Callable[[bytes], pa.Table]) -> Iterator[tuple[bytes, pa.Table]]:
    """Runs of records that parse together, and what they hold; records that do not parse are left out."""
    if not rows.strip():
        return
    try:
        table = parse(rows)
    except (pa.ArrowException, ValueError) as error:
        if is_allocation_failure(error):
            raise
        records = [text for _, text in split_records(rows, delimiter)]
        if len(records) > 1:
            middle = len(records) // 2
            yield from readable(b"".join(records[:middle]), delimiter, parse)
            yield from readable(b"".join(records[middle:]), delimiter, parse)
    else:
        yield rows, table


def refuse(place: str, column: Callable[[str], str | None]) -> Reject:
    """``bad_rows="error"``. ``column`` finds the column in a parser's message, if it says one."""

    def reject(line: int, text: bytes, reason: str) -> None:
        name = column(reason)
        raise InputError(
            f"{_ROW.sub('', reason)}: {_text(text)[:_SHOWN]}",
            'mend the line, give its column another type by schema=…, or choose bad_rows="skip" or "quarantine"',
            place=f"{place}, line {line}" + (f", column {name}" if name else ""),
        )

    return reject


def skip(line: int, text: bytes, reason: str) -> None:
    """``bad_rows="skip"``."""


class Quarantine:
    """``bad_rows="quarantine"``: the rejected rows of one piece of one file, in a file of its own that appears whole."""

    def __init__(self, folder: Path, path: str, start: int) -> None:
        digest = hashlib.sha256(path.encode()).hexdigest()[:8]
        self._name = f"{Path(path).name}-{digest}-{start}.jsonl"
        self._folder = folder
        self._path = path
        self._file: PartFile | None = None

    def reject(self, line: int, text: bytes, reason: str) -> None:
        if self._file is None:
            part = self._folder / f".{self._name}.new"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                part.unlink(missing_ok=True)
                self._file = PartFile(part)
            except (OSError, StateError) as error:
                raise ConfigError(
                    f"{self._folder}: cannot hold the quarantined rows: {error}", "name a folder: quarantine=…"
                ) from error
        said = {"file": self._path, "line": line, "reason": _ROW.sub("", reason), "text": _text(text)}
        self._file.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            try:
                self._file.path.rename(self._folder / self._name)
            except OSError as error:
                raise state_error("the quarantined rows cannot be kept", self._folder, error) from error
            sync_folder(self._folder)

    def abandon(self) -> None:
        if self._file is not None:
            self._file.discard()


def _text(record: bytes) -> str:
    return record.decode(errors="replace").rstrip("\r\n")
