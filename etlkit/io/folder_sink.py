"""Sinks that publish files in a folder: prepare, stage, recover, commit. What all formats share.

The commit, in this order; each step may be repeated, so a crash anywhere rolls forward:

1. ``_SUCCESS`` names this run: nothing is left to do but to remove staging.
2. An old ``_SUCCESS`` is removed (if_exists "replace" and "append"), so that nobody trusts what is in between.
3. "replace": each file that this run found at its start is removed, if it is that file still and no part has its name. Their folders
   are synced: what was removed must not come back beside the new ``_SUCCESS``.
4. Folders for partitions are made and synced, and then each part is renamed from staging to its final name, unless it is there
   already. (A power loss may leave it under both names.)
5. Folders are synced, innermost first.
6. ``_SUCCESS`` is written in staging, synced, renamed, and the folder synced. From here on the output is true.
7. Staging is removed.

Before the first step, parts that another process wrote (an earlier attempt, a share) are read and compared with the checksums that the
checkpoint has of them: what rotted since must not become output. What this process wrote itself is not read again.

Whoever did a step may have been killed before its sync, so who goes on syncs again: the page cache shows what no disk holds yet.

With ``visible="checkpoint"`` the runtime calls ``publish`` after each commit: 2 and 3 happen the first time, then 4 and 5 for the new
parts. Their names are written to ``shown`` in staging before they are. So a start from an older checkpoint (the newest one was
damaged) knows which visible files are its own: those that its checkpoint does not name are taken back.

A ``share`` is this output for one of several processes (a fan-out): it stages into the folder that the whole sink has prepared,
under names with a mark of its own, and removes only orphans with that mark. The whole sink commits the parts of all.

What it relies on: rename within one file system is atomic and takes a synced file's content along; fsync of a folder
makes its names durable. NFS does both; neither hard links nor locks are used. It does not guard against another
program that writes the same names at the same moment: runs into one folder are told apart by ``_SUCCESS`` and by names.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

import pyarrow as pa

from ..errors import ConfigError, CorruptStateError, StateError
from ..plan.nodes import IfExists, Visible
from ..testing.crashpoints import declare, reach
from .part_file import PartFile, sync_above, sync_folder, write_durably
from .paths import local_output, state_error
from .sink import Part, StagedPart
from .staged import FormatWriter, StagedFiles

SUCCESS = "_SUCCESS"
_START = "start.json"
_SHOWN = "shown"
VISIBLE = ("end", "checkpoint")
_READ_BYTES = 1024 * 1024
_RUNS_REMEMBERED = 1000
"""Earlier runs that an appended-to ``_SUCCESS`` still names."""

declare(
    "sink.staged", "sink.prepared", "sink.commit", "sink.unmarked", "sink.cleared", "sink.part", "sink.published",
    "sink.synced", "sink.marked", "sink.done", "early.listed", "early.shown",
)  # fmt: skip

Identity = list[int]


class FolderSink(ABC):
    """A format gives ``format``, ``extension``, ``options`` and ``open_writer``."""

    format: ClassVar[str]
    extension: ClassVar[str]

    def __init__(
        self,
        path: str,
        if_exists: IfExists = "error",
        partition_by: Sequence[str] = (),
        visible: Visible = "end",
        target_file_bytes: int | None = None,
    ) -> None:
        if visible not in VISIBLE:
            raise ConfigError(f"visible={visible!r} is not known", f"one of {', '.join(VISIBLE)}")
        if target_file_bytes is not None and target_file_bytes < 1:
            raise ConfigError(f"target_file_bytes={target_file_bytes} is below 1", "leave it out for one file a split")
        self.visible = visible
        self.target_file_bytes = target_file_bytes
        self._early: set[str] | None = None
        self._opened = False
        self._trusted: set[str] = set()
        """Staged names that this process wrote, or has read."""
        self.path = path
        self.if_exists = if_exists
        self.partition_by = tuple(partition_by)
        self._out = local_output(path)
        self._run_id: str | None = None
        self._share = ""

    @abstractmethod
    def options(self) -> dict[str, object]:
        """The format's own options, as JSON data."""

    @abstractmethod
    def open_writer(self, file: PartFile, first: pa.RecordBatch) -> FormatWriter:
        """A writer that ``first`` (also written to it) is the first batch of."""

    def describe(self) -> dict[str, object]:
        shared: dict[str, object] = {"format": self.format, "path": self.path, "if_exists": self.if_exists}
        shared |= {"visible": self.visible, "target_file_bytes": self.target_file_bytes}
        return {**shared, "partition_by": list(self.partition_by), **self.options()}

    def share(self, name: str) -> Self:
        mine = copy.copy(self)
        mine._share = f".{name}"
        mine._trusted = set()
        return mine

    def prepare(self, run_id: str, *, resuming: bool) -> None:
        self._run_id = run_id
        staging = self._staging
        if self._share:
            if not (staging / _START).exists() and not self._published():
                gone = f"{staging}: the staging folder of this run is gone"
                raise CorruptStateError(
                    gone, "discard the run: remove its state, then start it anew", name=str(staging)
                )
            return
        if self._published() and resuming:
            return
        if resuming and (staging / _START).exists():
            sync_folder(staging)
            sync_above(staging)
            return
        # A run that was interrupted before its start was written down has shown nothing to anybody: it starts now.
        success = _identity(self._out / SUCCESS)
        found = self._visible()
        mine = [name for name in self._read_shown() if found.pop(name, None)]  # of a run that is being discarded
        if self.if_exists == "error" and (found or success):
            shown = min(found, default=SUCCESS)
            raise ConfigError(
                f"{self.path}: the output folder is not empty (it holds {shown})",
                'remove it, write elsewhere, or say if_exists="replace" or "append"',
            )
        try:
            self._take_back(mine)
            if staging.exists():
                shutil.rmtree(staging)
            self._early = set()
            staging.mkdir(parents=True, exist_ok=True)
            start = {"success": success, "replaces": found if self.if_exists == "replace" else {}}
            write_durably(staging / _START, json.dumps(start).encode(), by_way_of=staging / f"{_START}.new")
        except OSError as error:
            raise state_error("the staging folder cannot be made", staging, error) from error
        sync_above(staging)
        reach("sink.prepared")

    def cannot_hold(self, kind: pa.DataType) -> bool:
        """Whether the format has no such type."""
        return bool(pa.types.is_interval(kind))

    def stage(self, split: int, epoch: int, schema: pa.Schema) -> StagedPart:
        for name in self.partition_by:
            if schema.get_field_index(name) < 0:
                raise ConfigError(f"partition_by: no column '{name}'", f"the columns are {', '.join(schema.names)}")
            kind = schema.field(name).type
            if pa.types.is_nested(kind) or pa.types.is_interval(kind):
                raise ConfigError(f"partition_by: '{name}' is a {schema.field(name).type}", "name plain columns")
        for one in schema:
            if self.cannot_hold(one.type):
                raise ConfigError(
                    f"write_{self.format}: column '{one.name}' is a {one.type}, which {self.format} files cannot hold",
                    "explode, cast or drop it, or write another format",
                )
        if self.partition_by and len(self.partition_by) == len(schema.names):
            raise ConfigError("partition_by names every column", "leave a column for the files to hold")
        number = f"part-{split:05d}"
        prefix = f"{hashlib.sha256(self._id.encode()).hexdigest()[:8]}-" if self.if_exists == "append" else ""

        def staged(index: int) -> str:
            several = f".{index}" if self.partition_by or index else ""
            name = f"{number}.e{epoch}{several}{self._share}.{self.extension}"
            self._trusted.add(name)
            return name

        def final(folder: str, again: int) -> str:
            name = f"{prefix}{number}{f'-{again}' if again else ''}.{self.extension}"
            return f"{folder}/{name}" if folder else name

        return StagedFiles(
            self._staging, split, self.partition_by, self.open_writer, staged, final, self.target_file_bytes
        )

    def stage_empty(self, epoch: int, schema: pa.Schema) -> tuple[Part, ...]:
        """For an output without rows: a file that says which columns there would be, where the format can say it."""
        staged = self.stage(0, epoch, schema)
        try:
            if isinstance(staged, StagedFiles):
                staged.write_empty(schema)
            return staged.close()
        except BaseException:
            staged.abort()
            raise

    def recover(self, parts: Sequence[Part]) -> int:
        if self._published():
            return 0
        staging = self._staging
        named = {part.name for part in parts} | {_START, _SHOWN}
        removed = 0
        try:
            for entry in list(os.scandir(staging)) if staging.exists() else []:
                if entry.name not in named and entry.name.endswith(
                    f"{self._share}.{self.extension}" if self._share else ""
                ):
                    removed += entry.stat().st_size
                    os.unlink(entry.path)  # noqa: PTH108
        except OSError as error:
            raise state_error("orphans cannot be removed", staging, error) from error
        replaces = self._start()["replaces"] if parts else {}
        for part in parts:
            self._check(part, replaces)
        finals = {part.final for part in parts}
        try:
            self._take_back([name for name in self._read_shown() if name not in finals])
        except OSError as error:
            raise state_error("files of a lost checkpoint cannot be taken back", self.path, error) from error
        return removed

    def publish(self, parts: Sequence[Part], fence: Callable[[], None]) -> None:
        """Show parts that a checkpoint names, before the run is done. May be repeated after a crash at any point."""
        if not parts or self._published():
            return
        try:
            start = self._start()
            self._read_again(parts, start["replaces"])
            if not self._opened:
                self._open_output(start, {part.final for part in parts}, fence)
            for part in parts:
                self._refuse_strangers(part, start["replaces"])
            fence()
            self._note_shown([part.final for part in parts])
            reach("early.listed")
            self._make_folders(parts)
            for part in parts:
                self._publish_part(part, start["replaces"], fence)
            self._sync_folders(parts)
        except OSError as error:
            raise state_error("the output cannot be published", self.path, error) from error
        reach("early.shown")

    def commit(self, parts: Sequence[Part], fence: Callable[[], None]) -> None:
        try:
            if not self._published():
                self._publish(parts, fence)
            else:
                sync_folder(self._out)  # who marked it may have died before
            if self._staging.exists():
                fence()
                shutil.rmtree(self._staging)
                sync_folder(self._out)
        except OSError as error:
            raise state_error("the output cannot be published", self.path, error) from error
        reach("sink.done")

    @property
    def _id(self) -> str:
        if self._run_id is None:
            raise StateError(f"{self.path}: the sink was not prepared", "call prepare() first")
        return self._run_id

    @property
    def _staging(self) -> Path:
        return _staging_of(self._out, self._id)

    def _published(self) -> bool:
        return self._id in self._success().get("runs", ())

    def _success(self) -> dict[str, Any]:
        """What ``_SUCCESS`` says; empty where there is none, or one that another program wrote."""
        return _read_success(self._out)

    def _start(self) -> dict[str, Any]:
        """What this run found when it began."""
        path = self._staging / _START
        try:
            return dict(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise CorruptStateError(
                f"{path}: cannot be read: {error}", "start the job anew with --restart", name=str(path)
            ) from error

    def _visible(self) -> dict[str, Identity]:
        """Every visible file below the output folder, by its relative name."""
        if self._out.exists() and not self._out.is_dir():
            raise ConfigError(f"{self.path}: is a file", "name a folder for the output")
        found: dict[str, Identity] = {}
        for folder, folders, names in os.walk(self._out):
            folders[:] = [name for name in folders if not name.startswith((".", "_"))]
            for name in names:
                path = Path(folder, name)
                identity = _identity(path)
                if not name.startswith((".", "_")) and identity is not None:
                    found[path.relative_to(self._out).as_posix()] = identity
        return found

    def _read_again(self, parts: Sequence[Part], replaces: dict[str, Identity]) -> None:
        for part in parts:
            if part.name in self._trusted:
                continue
            where = self._check(part, replaces)
            if not _holds(where, part):
                raise CorruptStateError(
                    f"{where}: its bytes are not those that were written; nothing of it is published",
                    "restore it from a backup, or start anew with --restart",
                    name=str(where),
                )
            self._trusted.add(part.name)

    def _check(self, part: Part, replaces: dict[str, Identity]) -> Path:
        """Where the part lies. Errors: CorruptStateError."""
        staged, final = _identity(self._staging / part.name), _identity(self._out / part.final)
        where = self._staging / part.name
        if staged is None and final is not None and final != replaces.get(part.final):
            staged, where = final, self._out / part.final
        if staged is None:
            raise CorruptStateError(f"{where}: the staged part is gone", "start anew with --restart", name=str(where))
        if staged[2] != part.length:
            wrong = f"{where}: has {staged[2]} bytes, {part.length} were written"
            raise CorruptStateError(wrong, "start anew with --restart", name=str(where))
        return where

    def _open_output(self, start: dict[str, Any], finals: set[str], fence: Callable[[], None]) -> list[str]:
        """Steps 2 and 3. Which runs the folder held before."""
        replaces: dict[str, Identity] = start["replaces"]
        success = _identity(self._out / SUCCESS)
        if success is not None and success != start["success"]:
            raise self._taken(SUCCESS)
        earlier: list[str] = self._success().get("runs", [])
        reach("sink.commit")
        if success is not None:
            # Which runs were here before must outlive the old _SUCCESS.
            if self.if_exists == "append":
                kept = json.dumps({**start, "runs": earlier})
                write_durably(self._staging / _START, kept.encode(), by_way_of=self._staging / f"{_START}.new")
            fence()
            (self._out / SUCCESS).unlink()
            sync_folder(self._out)
        else:
            earlier = start.get("runs", [])
        reach("sink.unmarked")
        for name, identity in replaces.items():
            path = self._out / name
            if name not in finals and _identity(path) == identity:
                fence()
                path.unlink()
        _sync_removed(self._out, [name for name in replaces if name not in finals])
        reach("sink.cleared")
        self._opened = True
        return earlier

    def _publish(self, parts: Sequence[Part], fence: Callable[[], None]) -> None:
        start = self._start()
        self._read_again(parts, start["replaces"])
        earlier = self._open_output(start, {part.final for part in parts}, fence)
        fence()
        self._make_folders(parts)
        for part in parts:
            self._publish_part(part, start["replaces"], fence)
        reach("sink.published")
        self._sync_folders(parts)
        reach("sink.synced")
        runs = [*earlier, self._id][-_RUNS_REMEMBERED:] if self.if_exists == "append" else [self._id]
        said = {
            "run_id": self._id,
            "rows": sum(part.rows for part in parts),
            "parts": len(parts),
            "bytes": sum(part.length for part in parts),
            "runs": runs,
        }
        fence()
        text = json.dumps(said) + "\n"
        write_durably(self._out / SUCCESS, text.encode(), by_way_of=self._staging / f"{SUCCESS}.new")
        reach("sink.marked")

    def _publish_part(self, part: Part, replaces: dict[str, Identity], fence: Callable[[], None]) -> None:
        staged, final = self._staging / part.name, self._out / part.final
        if _identity(staged) is None:
            self._check(part, replaces)  # published before a crash, or lost
            return
        self._refuse_strangers(part, replaces)
        fence()
        staged.rename(final)
        reach("sink.part")

    def _refuse_strangers(self, part: Part, replaces: dict[str, Identity]) -> None:
        """A file that this run has neither found at its start nor shown itself is another's, unless it is the part: then a power loss
        has kept its new name and brought the old one back."""
        there = _identity(self._out / part.final)
        if there is None or there == replaces.get(part.final) or part.final in self._read_shown():
            return
        if _identity(self._staging / part.name) is not None and not _holds(self._out / part.final, part):
            raise self._taken(part.final)

    def _make_folders(self, parts: Sequence[Part]) -> None:
        """A file that is renamed into a folder whose own name is lost would be lost with it."""
        folders = self._folders_of(parts)
        for folder in folders:
            folder.mkdir(exist_ok=True)
        for above in dict.fromkeys(folder.parent for folder in folders):
            sync_folder(above)

    def _sync_folders(self, parts: Sequence[Part]) -> None:
        for folder in reversed(self._folders_of(parts)):
            sync_folder(folder)
        sync_folder(self._out)

    def _folders_of(self, parts: Sequence[Part]) -> list[Path]:
        """Folders of partitions, each after the one above it."""
        above = {
            parent for final in {part.final.rpartition("/")[0] for part in parts} for parent in _with_parents(final)
        }
        return [self._out / name for name in sorted(above)]

    def _read_shown(self) -> set[str]:
        """Final names that this run has shown, or was about to show, before its end."""
        if self._early is None:
            self._early = _names_shown(self._staging)
        return self._early

    def _note_shown(self, finals: Sequence[str]) -> None:
        fresh = [name for name in finals if name not in self._read_shown()]
        if not fresh:
            return
        # The first end of a line is for one that a crash has torn.
        text = "".join(f"\n{json.dumps(name)}" for name in fresh).encode() + b"\n"
        fd = os.open(self._staging / _SHOWN, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while text:
                text = text[os.write(fd, text) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(self._staging)
        self._read_shown().update(fresh)

    def _take_back(self, names: Sequence[str]) -> None:
        """Remove files that this run showed and that no checkpoint names any more."""
        _take_back(self._out, names)

    def _taken(self, name: str) -> ConfigError:
        return ConfigError(
            f"{self.path}: {name} appeared while this run was working: another run wrote here",
            "give each job an output folder of its own; move the other's files away, then run this command again",
        )


def discard_run(path: str, run_id: str) -> int:
    """Remove what an unfinished run has left below its output folder: its staging, and files that it showed before its end. What a
    finished run published stays. Bytes removed. Errors: ConfigError for a path that is not a folder here, StateError."""
    out = local_output(path)
    staging = _staging_of(out, run_id)
    if not staging.is_dir():
        return 0
    try:
        if run_id not in _read_success(out).get("runs", ()):
            _take_back(out, sorted(_names_shown(staging)))
        size = sum(file.stat().st_size for file in staging.iterdir())
        shutil.rmtree(staging)
        sync_folder(out)
    except OSError as error:
        raise state_error("what a discarded run left cannot be removed", staging, error) from error
    return size


def _staging_of(out: Path, run_id: str) -> Path:
    return out / f".etlkit-{quote(run_id, safe='')}"


def _read_success(out: Path) -> dict[str, Any]:
    try:
        said = json.loads((out / SUCCESS).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    except OSError as error:
        raise state_error("cannot be read", out / SUCCESS, error) from error
    return said if isinstance(said, dict) else {}


def _names_shown(staging: Path) -> set[str]:
    try:
        lines = (staging / _SHOWN).read_text().splitlines()
    except FileNotFoundError:
        return set()
    found = set()
    for line in lines:
        try:
            found.add(json.loads(line))
        except ValueError:
            pass  # torn by a crash: what it names was not shown yet
    return found


def _take_back(out: Path, names: Sequence[str]) -> None:
    for name in names:
        (out / name).unlink(missing_ok=True)
    _sync_removed(out, names)


def _with_parents(folder: str) -> Iterator[str]:
    """``a/b`` and ``a``; nothing for the output folder itself."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _sync_removed(out: Path, names: Iterable[str]) -> None:
    """That these files are gone is durable, and so are the folders that were left empty."""
    for folder in sorted({(out / name).parent for name in names}):
        while folder != out and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
        while not folder.is_dir():
            folder = folder.parent
        sync_folder(folder)


def _holds(path: Path, part: Part) -> bool:
    """Whether that file's bytes are the part's."""
    crc32 = length = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            crc32 = zlib.crc32(piece, crc32)
            if hasattr(os, "posix_fadvise"):  # the page cache is charged to the job, which is soon done with it
                os.posix_fadvise(file.fileno(), length, len(piece), os.POSIX_FADV_DONTNEED)
            length += len(piece)
    return length == part.length and crc32 == part.crc32


def _identity(path: Path) -> Identity | None:
    """Inode, time of change and length: enough to tell the file that was found from one of the same name."""
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [facts.st_ino, facts.st_mtime_ns, facts.st_size]
