"""State in an object store, through fsspec.

The commit is one conditional put (``If-None-Match: *`` on S3): the object appears whole or not at all, and only if the name is
free. It covers filesystems whose ``pipe_file(mode="create")`` is such a put, and asks the store itself at the start whether it
obeys; others are refused. There is no lock here: a second run takes over, and the first one is fenced at its next commit.

Relied upon: the conditional put, and reading by name what was written (read-after-write). Not relied upon: listing that is up to
date, rename, append.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from ..errors import ConfigError, StateError
from ..testing.crashpoints import reach
from .store import Bytes, Taken, io_error

CONDITIONAL = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"))
"""Protocols whose ``pipe_file(mode="create")`` is one conditional request. In others it is a look and then a write."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
_BLOCK_BYTES = 8 * 1024 * 1024
_Result = TypeVar("_Result")


class FsspecStore:
    reserves = False

    def __init__(self, filesystem: Any, root: str) -> None:
        """``root`` as the filesystem writes it, without protocol (``bucket/prefix``)."""
        self._fs = filesystem
        self._root = root.rstrip("/")
        protocol = filesystem.protocol
        self._protocol = protocol if isinstance(protocol, str) else protocol[0]

    @classmethod
    def from_url(cls, url: str, **options: Any) -> FsspecStore:
        """``options`` go to the filesystem, for tests; in production the platform's environment says all."""
        scheme = url.partition("://")[0]
        if scheme not in CONDITIONAL:
            raise ConfigError(
                f"state cannot be kept at {scheme}://…: that store has no conditional put that etlkit knows of",
                f"use a folder or one of {', '.join(sorted(CONDITIONAL - {'memory'}))}",
            )
        try:
            filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except ImportError as error:
            raise ConfigError(
                f"state at {scheme}://… needs a package that is not installed: {error}",
                f"install etlkit-runtime with the extra [{_EXTRAS.get(scheme, scheme)}]",
            ) from error
        return cls(filesystem, root)

    @property
    def location(self) -> str:
        return f"{self._protocol}://{self._root}"

    def prepare(self) -> None:
        """Ask the store to create the same object twice: the second time it must refuse."""
        name = f"manifests/.probe-{secrets.token_hex(4)}.tmp"
        try:
            self._create(name, b"1")
            try:
                self._create(name, b"2")
            except Taken:
                return
        finally:
            with contextlib.suppress(Exception):
                self._fs.rm_file(self._path(name))
        raise StateError(
            f"{self.location}: this object store ignores If-None-Match, so two runs could not be kept apart",
            "use a store or a version of it that supports conditional writes, or keep the state in a folder",
        )

    def strangers(self) -> list[str]:
        def look() -> list[str]:
            try:
                return [str(found) for found in self._fs.ls(self._root, detail=False)]
            except FileNotFoundError:
                return []

        plain = {path.rstrip("/").rpartition("/")[2] for path in self._call("list", self._root, look)}
        return sorted(name for name in plain - {"manifests", "runs", "lists", "events", ""} if not name.startswith("."))

    def names(self, folder: str) -> list[str]:
        return list(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        place = self._path(folder)

        def look() -> dict[str, int]:
            self._fs.invalidate_cache(place)
            try:
                found = self._fs.ls(place, detail=True)
            except FileNotFoundError:
                return {}
            return {
                f"{folder}/{one['name'].rpartition('/')[2]}": int(one["size"] or 0)
                for one in found
                if one["type"] == "file"
            }

        return self._call("list", place, look)

    def read(self, name: str) -> bytes | None:
        path = self._path(name)
        try:
            return bytes(self._call("read", path, lambda: self._fs.cat_file(path)))
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        return self._length(name) is not None

    taken = exists

    def reserve(self, name: str) -> None:
        """The put itself takes the name."""

    def put_new(self, name: str, content: bytes, tag: str) -> None:
        reach("manifest.written")
        self._create(name, content)
        reach("manifest.linked")

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        self._call("write", path, lambda: self._fs.pipe_file(path, content))

    def create(self, name: str) -> _ObjectTarget:
        path = self._path(name)
        opened = self._call("create", path, lambda: self._fs.open(path, "wb", block_size=_BLOCK_BYTES))
        return _ObjectTarget(self, path, opened, name.partition("/")[0].rstrip("s"))

    def open(self, name: str) -> _ObjectReadable | None:
        length = self._length(name)
        return None if length is None else _ObjectReadable(self, self._path(name), length)

    def remove(self, name: str) -> bool:
        path = self._path(name)
        try:
            self._call("remove", path, lambda: self._fs.rm_file(path))
        except FileNotFoundError:
            return False
        return True

    def lock(self, wait_s: float) -> None:
        return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _length(self, name: str) -> int | None:
        path = self._path(name)

        def look() -> int | None:
            # HEAD by name; a look through the listing might lag.
            self._fs.invalidate_cache(path)
            found = self._fs.info(path)
            return int(found["size"] or 0) if found["type"] == "file" else None

        try:
            return self._call("look for", path, look)
        except FileNotFoundError:
            return None

    def _create(self, name: str, content: bytes) -> None:
        path = self._path(name)
        try:
            self._call("commit", path, lambda: self._fs.pipe_file(path, content, mode="create"))
        except FileExistsError:
            raise Taken(name) from None

    def _call(self, act: str, place: str, function: Callable[[], _Result]) -> _Result:
        """Clients raise what they like (OSError, botocore's and aiohttp's own): all of it is the store's failure."""
        try:
            return function()
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            if _says_taken(error):
                raise FileExistsError(errno.EEXIST, "taken", place) from error
            raise io_error(act, f"{self._protocol}://{place}", error) from error
        except StateError:
            raise
        except Exception as error:
            if _says_taken(error):
                raise FileExistsError(errno.EEXIST, "taken", place) from error
            raise StateError(
                f"{self._protocol}://{place}: cannot {act}: {type(error).__name__}: {error}; the last good checkpoint is untouched",
                "look at the store's address, credentials and reachability, then start the same command again; it resumes",
            ) from error


def _says_taken(error: BaseException) -> bool:
    """412 Precondition Failed, or 409 from two conditional puts at the same moment; clients wrap them variously."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (409, 412):
                return True
        seen = seen.__cause__ or seen.__context__
    return False


class _ObjectTarget:
    """An upload: the object appears, whole, when it is finished."""

    def __init__(self, store: FsspecStore, path: str, opened: Any, kind: str) -> None:
        self._store, self._path, self._kind = store, path, kind
        self._opened: Any = opened

    def write(self, data: Bytes) -> None:
        # The client keeps what it is given until the block is sent, and we use our buffer again.
        self._store._call("write", self._path, lambda: self._opened.write(bytes(data)))

    def flush_behind(self) -> None:
        """Blocks are sent as they fill."""

    def finish(self) -> None:
        reach(f"{self._kind}.written")
        self._store._call("write", self._path, self._opened.close)
        self._opened = None
        reach(f"{self._kind}.synced")

    def abort(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            with contextlib.suppress(Exception):
                opened.discard()
            with contextlib.suppress(Exception):
                opened.closed = True  # or the garbage collector would finish the upload
        with contextlib.suppress(Exception):
            self._store._fs.rm_file(self._path)


class _ObjectReadable:
    def __init__(self, store: FsspecStore, path: str, length: int) -> None:
        self._store, self._path = store, path
        self.length = length

    def read_into(self, offset: int, buffer: memoryview) -> int:
        stop = min(self.length, offset + len(buffer))
        if stop <= offset:
            return 0
        content = self._store._call(
            "read", self._path, lambda: self._store._fs.cat_file(self._path, start=offset, end=stop)
        )
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Nothing is held open."""
