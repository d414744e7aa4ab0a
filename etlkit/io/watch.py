"""Files that arrive in a folder while the job runs, as a source.

Covers when a file has arrived, what was taken already, and when nothing more will come. What the folder lists is the truth;
inotify (watchdog) only makes a look come sooner. So a filesystem on which inotify says nothing is slower, and never wrong.

A file has **arrived** when it was renamed from a name that does not count to one that does, or when its size and time of change
stayed the same for the settling time, and, for Parquet and IPC, when its end is there. Names that begin with '.' or '_' and
names without one of the format's endings do not count. A file is taken once: by its name, and by its inode under another
name. Sub-folders are not looked into.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import ConfigError, EtlkitError, InputError, error_for
from ..exits import Exit
from .batches import check_drift, normal_schema
from .folder_watch import Bell
from .formats import open_source
from .paths import exists, folder_files, local_path, open_input
from .source import Arrival, FileRecord, Segment, Split

if TYPE_CHECKING:
    from ..plan.expr import Expr

ENDINGS: Mapping[str, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv", ".txt"),
    "json": (".json", ".jsonl", ".ndjson"),
    "ipc": (".arrow", ".ipc", ".feather"),
}
_PACKED = (".gz", ".bz2", ".zst", ".lz4", ".br")
_LAST_BYTES = {"parquet": b"PAR1", "ipc": b"ARROW1"}
MAX_FILES = 256
"""Of one arrival: one commit, and small files share its splits."""
LOOK_S = 1.0
"""How often the folder is listed though nothing was heard."""
LOOK_SHARE = 20
"""Between two looks at a large folder, so many times what one took."""
GATHER_S = 0.05
"""After news, a moment for more of it."""
OLD_S = 60.0
"""A file that was last changed so long ago by this machine's clock is not being written: it need not settle."""
BLIND_S = 60.0
"""The folder may be unreadable for so long (a server that restarts) before the attempt ends."""

_log = logging.getLogger(__name__)


class WatchSource:
    """``schema``: a pyarrow schema, or what the format's reader takes; without a whole schema the first file gives it.

    ``idle_s``: it ends when nothing has come or changed for so long. ``until``: it ends when a file of that name is there and all
    that came before it is taken. Neither: it never ends. ``poll_s``: list the folder that often and do not use inotify.
    """

    def __init__(
        self,
        path: str,
        format: str,
        options: Mapping[str, Any],
        *,
        idle_s: float | None = None,
        until: str | None = None,
        settle_s: float = 1.0,
        poll_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path.rstrip("/") or path
        self.format = format
        self._given = dict(options)
        schema = self._given.get("schema")
        self._schema = normal_schema(schema) if isinstance(schema, pa.Schema) else None
        if self._schema is not None and format in _LAST_BYTES:
            del self._given["schema"]
        self._strict = self._given.get("schema", "strict") == "strict" and format in _LAST_BYTES
        if self._given.get("schema") == "union":
            raise ConfigError(
                'watch_dir: schema="union" would need every file at the start',
                'give schema=pa.schema(...), or schema="first"',
            )
        self.idle_s, self.until, self.settle_s, self.poll_s = idle_s, until, settle_s, poll_s
        self._clock = clock
        self._wanted: tuple[Sequence[str] | None, Expr | None, int] = (None, None, 0)
        self._arrivals: list[Arrival] = []
        self._files: list[FileRecord] = []
        self._names: set[str] = set()
        self._same: set[tuple[int, str]] = set()
        """Inode and version of what was taken: the same file under another name."""
        self._bell = Bell(None if poll_s is not None else local_path(path), self._counts)
        self._folder = _Folder(self)
        self._ended = False
        self._reader: Any = self._open()

    def _open(self, files: Sequence[FileRecord] = (), schema: pa.Schema | None = None) -> Any:
        reader: Any = open_source(self.format, (self.path,), self._given)
        if files:
            reader.pin(files, schema)
        return reader

    def _counts(self, name: str) -> bool:
        """Whether a file of this name is input."""
        if name.startswith((".", "_")) or name == self.until:
            return False
        name = name.lower()
        packed = next((one for one in _PACKED if name.endswith(one)), "") if self.format not in _LAST_BYTES else ""
        return name.removesuffix(packed).endswith(ENDINGS[self.format])

    # ── the source ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def schema(self) -> pa.Schema:
        """Waits for the first file where nobody has said it."""
        if self._schema is None:
            self._schema = self._learned()
        return self._schema

    def _learned(self) -> pa.Schema:
        with _Stop(self.path) as stop:
            said = False
            while True:
                self._folder.look()
                for record, _ in self._folder.complete():
                    schema: pa.Schema = self._open([record]).schema
                    return schema
                if self._folder.over():
                    raise ConfigError(
                        f"{self.path}: no file arrived, so the columns are not known",
                        "give watch_dir schema=pa.schema(...) for a folder that may stay empty",
                    )
                if not said and not self._folder.unsettled:
                    _log.warning("waiting for the first file in %s, to learn its columns", self.path)
                    said = True
                stop.pause(0.1)

    def inventory(self) -> Sequence[FileRecord]:
        """The files taken so far, in order of arrival."""
        return self._files

    def describe(self) -> dict[str, object]:
        """What is read. How it ends may change while the run is unfinished."""
        options = {name: str(value) for name, value in self._given.items()}
        return {"format": "watch", "path": self.path, "files": self.format, "options": options}

    def splits(self, columns: Sequence[str] | None, predicate: Expr | None, target_bytes: int) -> Sequence[Split]:
        """None is known when the job is planned; how to cut what arrives is kept."""
        self._wanted = (columns, predicate, target_bytes)
        return ()

    def read(
        self, split: Split, columns: Sequence[str] | None, predicate: Expr | None, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        batches: Iterator[pa.RecordBatch] = self._reader.read(split, columns, predicate, batch_rows)
        return batches

    # ── growing ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def arrivals(self) -> Sequence[Arrival]:
        return self._arrivals

    @property
    def ended(self) -> bool:
        return self._ended

    def recall(self, schema: pa.Schema, arrivals: Sequence[Arrival]) -> None:
        self._schema = schema
        for arrival in arrivals:
            self.take(arrival)

    def watch(self) -> None:
        self._bell.start()

    def close(self) -> None:
        self._bell.stop()

    def next(self, timeout_s: float) -> Arrival | None:
        began_s = time.perf_counter()
        self._folder.look()
        least_s = LOOK_SHARE * (time.perf_counter() - began_s)
        found = self._folder.complete()[:MAX_FILES]
        if found and (arrival := self._cut(found)) is not None:
            return arrival
        if not found and self._folder.over():
            self._ended = True
            return None
        wait_s = min(timeout_s, self.poll_s or LOOK_S)
        if self._folder.unsettled:
            wait_s = min(wait_s, max(0.02, self.settle_s / 4))
        if self.idle_s is not None:
            wait_s = min(wait_s, max(0.02, self.idle_s / 4))
        if self._bell.wait(max(wait_s, least_s)):
            time.sleep(max(GATHER_S, least_s))
        return None

    def take(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)
        self._files += arrival.files
        self._names.update(file.path for file in arrival.files)
        self._same.update(
            (inode, file.version) for inode, file in zip(arrival.inodes, arrival.files, strict=True) if inode
        )
        self._reader.pin(tuple(self._files), self.schema)
        self._folder.forget(file.path for file in arrival.files)

    def taken(self, file: FileRecord, inode: int) -> bool:
        return file.path in self._names or (inode, file.version) in self._same

    def _cut(self, found: Sequence[tuple[FileRecord, int]]) -> Arrival | None:
        """The splits of what has come. A file that is another one by now waits for its next turn."""
        files = [file for file, _ in found]
        try:
            if self._strict:
                for file in files:
                    check_drift(file.path, self._open([file]).schema, self.schema, "the first file")
            splits = self._open(files, self.schema).splits(*self._wanted)
        except InputError:
            gone = [file.path for file in files if _changed(file)]
            if not gone:
                raise
            self._folder.forget(gone)
            return None
        first = len(self._files)
        moved = tuple(
            replace(
                split,
                segments=tuple(Segment(one.file + first, one.start, one.stop) for one in split.segments),
            )
            for split in splits
        )
        return Arrival(tuple(files), tuple(inode for _, inode in found), moved)

    def wrong(self, files: Sequence[int]) -> list[str]:
        found = [(self._files[index], _changed(self._files[index])) for index in files]
        return [f"{file.path} {how}" for file, how in found if how]


def _changed(file: FileRecord) -> str:
    """How a file is not the one that was found; empty if it is."""
    try:
        open_input(file).close()
    except InputError:
        return "changed" if exists(file.path) else "is gone"
    return ""


class _Folder:
    """What the folder lists and since when: which files are complete, and when all is over."""

    def __init__(self, source: WatchSource) -> None:
        self._source = source
        self._clock = source._clock
        self._waiting: dict[str, tuple[FileRecord, int, float]] = {}
        """Path: the file as it was seen last, its inode, and since when it has been so."""
        self._whole: set[str] = set()
        self._torn: set[str] = set()
        """Settled, and without the end that its format has."""
        self._moved_s = self._clock()
        self._marked_s: float | None = None
        self._blind_s: float | None = None

    @property
    def unsettled(self) -> bool:
        return bool(self._waiting)

    def forget(self, paths: Iterator[str] | Sequence[str]) -> None:
        for path in paths:
            self._waiting.pop(path, None)
            self._whole.discard(path)
            self._torn.discard(path)

    def look(self) -> None:
        """List the folder once."""
        source, now_s = self._source, self._clock()
        renamed = source._bell.renamed()
        try:
            listed = [(file, inode) for file, inode in folder_files(source.path) if source._counts(_name(file.path))]
            marked = source.until is not None and exists(f"{source.path}/{source.until}")
        except OSError as error:
            self._cannot_look(error, now_s)
            return
        self._blind_s = None
        there = {file.path for file, _ in listed}
        self.forget([path for path in self._waiting if path not in there])
        for file, inode in listed:
            if source.taken(file, inode):
                self.forget([file.path])  # another name of a file that was taken meanwhile
                continue
            known = self._waiting.get(file.path)
            if known is None or known[0] != file or known[1] != inode:
                self.forget([file.path])
                self._waiting[file.path] = (file, inode, now_s)
                self._moved_s = now_s
            if _name(file.path) in renamed or _old(file):
                self._whole.add(file.path)
        if not marked:
            self._marked_s = None
        elif self._marked_s is None:
            self._marked_s = now_s

    def _cannot_look(self, error: OSError, now_s: float) -> None:
        if self._blind_s is None:
            if isinstance(error, FileNotFoundError | NotADirectoryError) and not self._waiting:
                raise ConfigError(f"{self._source.path}: there is no such folder to watch", "make it first") from error
            self._blind_s = now_s
        self._moved_s = now_s
        if now_s - self._blind_s > BLIND_S:
            raise EtlkitError(f"{self._source.path}: cannot be listed: {error}", "mend it, then run the same again")

    def complete(self) -> list[tuple[FileRecord, int]]:
        """What has arrived, the oldest first."""
        now_s = self._clock()
        done = []
        for path, (file, inode, since_s) in self._waiting.items():
            if path not in self._whole and now_s - since_s >= self._source.settle_s:
                self._whole.add(path)
            if path in self._whole and (self._has_end(file) or self._waited_enough()):
                done.append((file, inode))
        first: dict[tuple[int, str], tuple[FileRecord, int]] = {}
        for number, (file, inode) in enumerate(sorted(done, key=lambda one: (_changed_ns(one[0]), one[0].path))):
            first.setdefault((inode, file.version) if inode else (-number, file.path), (file, inode))
        return list(first.values())

    def _has_end(self, file: FileRecord) -> bool:
        last = _LAST_BYTES.get(self._source.format)
        if last is None or file.path in self._torn:
            return last is None
        try:
            with open_input(file) as opened:
                opened.seek(max(0, file.size_bytes - len(last)))
                found = opened.read() == last
        except (InputError, OSError):
            return False  # another look will say what became of it
        if not found:
            self._torn.add(file.path)
        return bool(found)

    def over(self) -> bool:
        """Nothing waits, and nothing will come."""
        return not self._waiting and self._waited_enough()

    def _waited_enough(self) -> bool:
        """From here on nothing is waited for: what is torn is taken too, for the reader to refuse it by name."""
        now_s, source = self._clock(), self._source
        if self._blind_s is not None:
            return False
        idle = source.idle_s is not None and now_s - self._moved_s >= source.idle_s
        marked = self._marked_s is not None and now_s - max(self._marked_s, self._moved_s) >= source.settle_s
        return idle or marked


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _changed_ns(file: FileRecord) -> int:
    """When a file of this machine was last changed; 0 for others."""
    return int(file.version.partition("-")[0]) if local_path(file.path) is not None else 0


def _old(file: FileRecord) -> bool:
    changed_ns = _changed_ns(file)
    return changed_ns > 0 and time.time() - changed_ns / 1e9 > OLD_S


class _Stop:
    """SIGTERM and SIGINT while there is nothing to save yet: noted, and raised as exit 75 at the next look. Raising in the handler
    would lose it wherever something catches every exception, as logging does."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: list[str] = []
        self._rung = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen.append(signal.Signals(number).name)
        self._rung.set()

    def pause(self, seconds: float) -> None:
        self._rung.wait(seconds)
        if self._seen:
            raise error_for(
                Exit.AGAIN,
                f"{self._seen[0]} while waiting for the first file in {self._path}",
                "nothing was begun; the same command goes on",
            )


def same_folder(one: str, other: str) -> bool:
    """Whether two paths on this machine name the same folder."""
    first, second = local_path(one), local_path(other)
    return first is not None and second is not None and os.path.realpath(first) == str(Path(second).resolve())
