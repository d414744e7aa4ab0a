"""Which files an author's paths mean, what version each is, and how one is opened.

Covers a path, a folder, a glob or a list of them, on this machine or behind any fsspec URL. Files of a folder or glob
come sorted by path; a list keeps its own order. Names that begin with '.' or '_' are left out, at every level,
unless they are named outright. It does not look into files. fsspec is imported only for a URL.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import ConfigError, InputError, StateError
from ..memory.allocation import is_allocation_failure
from .source import FileRecord

REMOTE_READ_BYTES = 1 << 20
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:(?=:|//)")
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
_VERSION_KEYS = (
    "ETag", "etag", "version_id", "generation", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime",
    "modified", "created",
)  # fmt: skip


def local_path(path: str) -> str | None:
    """The path on this machine, or None for a URL of another file system. Refuses a URL with a password."""
    if _PASSWORD.search(path):
        shown = _PASSWORD.sub("://***@", path)
        raise ConfigError(
            f"{shown}: the URL contains a password",
            "remove it: give credentials by environment, mounted file or workload identity",
        )
    if path.startswith("file://"):
        return path.removeprefix("file://")
    return None if _URL.match(path) else path


def expand(paths: Sequence[str]) -> tuple[FileRecord, ...]:
    """The files that ``paths`` mean, in the order that defines the order of rows.

    Errors: ``ConfigError`` where a path means no file, where a file is reached twice, or for a password in a URL.
    """
    found: dict[str, FileRecord] = {}
    for path in paths:
        local = local_path(path)
        records = list(_local_files(local) if local is not None else _remote_files(path))
        if not records:
            remedy = "check the path; names beginning with '.' or '_' are ignored"
            raise ConfigError(f"{path}: no input file found", remedy)
        for record in records:
            if record.path in found:
                raise ConfigError(f"{record.path}: named twice by the input paths", "name each file once")
            found[record.path] = record
    if not found:
        raise ConfigError("no input path was given", "name a file, a folder, a glob or a list of them")
    return tuple(found.values())


def _hidden(relative: str) -> bool:
    return any(name.startswith((".", "_")) for name in relative.split("/") if name not in ("", ".", ".."))


def _local_record(path: str) -> FileRecord:
    facts = os.stat(path)  # noqa: PTH116 - a stat of a string, thousands of times
    return FileRecord(path, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_size}")


def _local_files(path: str) -> Iterator[FileRecord]:
    try:
        if glob.has_magic(path) and not os.path.lexists(path):
            # What the author spelled out may begin with '_'; only what the wildcard matched is judged.
            fixed = path[: re.search(r"[*?[]", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
            for match in sorted(glob.glob(path, recursive=True)):  # noqa: PTH207 - keeps the author's spelling
                if _hidden(match[len(fixed) :]):
                    continue
                if Path(match).is_file():
                    yield _local_record(match)
                elif not path.rstrip("/").endswith("**"):
                    yield from _folder(match)
        elif Path(path).is_dir():
            yield from _folder(path)
        elif os.path.lexists(path):
            yield _local_record(path)
    except PermissionError as error:
        raise ConfigError(f"{error.filename}: may not be read", "give this user read permission") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename}: is not there (a dangling link?)", "check the path") from error


def _folder(root: str) -> Iterator[FileRecord]:
    found: list[str] = []

    def unreadable(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        found += [os.path.join(folder, name) for name in names if not name.startswith((".", "_"))]  # noqa: PTH118
    for path in sorted(found):
        yield _local_record(path)


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec.core

    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: {error}", "install the extra for this store: etlkit-runtime[s3], [gcs] or [azure]"
        ) from error
    return fs, str(path)


def _remote_files(url: str) -> Iterator[FileRecord]:
    fs, path = _filesystem(url)
    try:
        if glob.has_magic(path):
            details = fs.glob(path, detail=True)
            fixed = path[: re.search(r"[*?[]", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        elif fs.isfile(path):
            details, fixed = {path: fs.info(path)}, path
        else:
            details, fixed = fs.find(path, detail=True), path
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise ConfigError(f"{url}: may not be read: {error}", "check the credentials and their rights") from error
    for name, facts in sorted(details.items()):
        if facts.get("type") == "file" and not _hidden(name[len(fixed) :]):
            size = int(facts.get("size") or 0)
            version = next((str(facts[key]) for key in _VERSION_KEYS if facts.get(key)), "")
            yield FileRecord(str(fs.unstrip_protocol(name)), size, f"{version}-{size}")


def folder_files(path: str) -> Iterator[tuple[FileRecord, int]]:
    """The visible files that lie directly in a folder, with their inodes (0 behind a URL). Errors: ``OSError``."""
    local = local_path(path)
    if local is None:
        fs, inside = _filesystem(path)
        fs.invalidate_cache()
        root = str(fs.unstrip_protocol(inside)).rstrip("/")
        for record in _remote_files(path):
            if record.path.rpartition("/")[0] == root:
                yield record, 0
        return
    with os.scandir(local) as entries:
        for entry in entries:
            if entry.name.startswith((".", "_")):
                continue
            try:
                if not entry.is_file():
                    continue
                facts = entry.stat()
            except FileNotFoundError:
                continue  # renamed or removed since it was listed
            record = FileRecord(entry.path, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_size}")
            yield record, facts.st_ino


def exists(path: str) -> bool:
    """Whether a file is there, on this machine or behind a URL."""
    local = local_path(path)
    if local is not None:
        return Path(local).exists()
    fs, inside = _filesystem(path)
    fs.invalidate_cache()
    return bool(fs.exists(inside))


def open_input(file: FileRecord) -> pa.NativeFile:
    """Open for random reads. The caller closes it.

    Errors: ``InputError`` for a file that is gone, may not be read, or is another one than ``file`` describes.
    """
    local = local_path(file.path)
    try:
        if local is None:
            fs, path = _filesystem(file.path)
            return pa.PythonFile(fs.open(path, "rb", cache_type="none"), mode="r")
        opened = pa.OSFile(local)
        facts = os.fstat(opened.fileno())
    except FileNotFoundError as error:
        raise InputError("the file is gone", "put it back, or start again with --restart", place=file.path) from error
    except OSError as error:
        if is_allocation_failure(error):
            raise
        raise InputError(f"cannot be opened: {error}", "check the file's permissions", place=file.path) from error
    if file.version != f"{facts.st_mtime_ns}-{facts.st_size}":
        opened.close()
        remedy = "put the old file back, or start again with --restart"
        raise InputError("the file changed after the run began", remedy, place=file.path)
    return opened


def drop_behind(opened: pa.NativeFile, file: FileRecord, start: int, length: int) -> None:
    """Let the page cache forget what was read, so that it is not charged to the job. Only for files of this machine."""
    if local_path(file.path) is not None and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(opened.fileno(), start, length, os.POSIX_FADV_DONTNEED)


def local_output(path: str) -> Path:
    """Where a sink writes. Staging and publication rest on rename, so a store without it is refused."""
    local = local_path(path)
    if local is None:
        raise ConfigError(f"{path}: a sink writes to a folder", "mount the store as one, or write an ek.Sink for it")
    return Path(local)


def state_error(what: str, path: object, error: OSError) -> StateError:
    """An output that cannot be written, with the remedy that fits its errno."""
    remedy = {
        28: "free space on that file system, then run the same command again",
        122: "raise the quota, then run the same command again",
        30: "mount the output's file system writable",
        13: "give this user write permission on the output folder",
    }.get(error.errno or 0, "look at the file system's health, then run the same command again")
    return StateError(f"{path}: {what}: {error.strerror or error}", remedy)
