"""``etlkit doctor --meet``: two that meet over a volume; and that each finding can be a bad one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from etlkit.checkpoint import meeting
from etlkit.checkpoint.disk import Disk
from etlkit.checkpoint.fsspec_store import FsspecStore
from etlkit.checkpoint.local import LocalStore
from etlkit.checkpoint.meeting import Finding, NobodyCameError
from etlkit.checkpoint.store import Store
from tests.conftest import environment


def test_two_processes_meet_and_leave_nothing(tmp_path: Path) -> None:
    """The second comes first, and finds what a meeting that was cut off has left."""
    left = tmp_path / "state" / ".meeting" / "manifests"
    left.mkdir(parents=True)
    (left / "hello").write_text("0badcafe")
    words = [sys.executable, "-m", "etlkit", "doctor", "--state", "state", "--json", "--meet"]
    both = [
        subprocess.Popen(
            [*words, part], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for part in ("1", "0")
    ]
    for process in both:
        said, complained = process.communicate(timeout=60)
        assert process.returncode == 0, complained.decode()
        assert [name in said.decode() for name in ("seen", "replaced", "raced", "late", "lock")] == [True] * 5
    assert list(tmp_path.rglob("*")) == [tmp_path / "state"]


def test_nobody_comes(tmp_path: Path) -> None:
    with pytest.raises(NobodyCameError):
        meeting.meet(str(tmp_path / "state"), 0, 0.2)
    assert not list(tmp_path.iterdir())


def met(monkeypatch: pytest.MonkeyPatch, folder: Path, make: Callable[[], Store]) -> dict[str, set[bool | None]]:
    """Both parts in threads, each with a store of its own; what both have found."""
    monkeypatch.setattr(meeting, "open_store", lambda place: make())
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(meeting.meet, str(folder / "state"), part, 20.0) for part in (0, 1)]
        found: list[Finding] = [one for part in parts for one in part.result(60)]
    return {one.name: {other.holds for other in found if other.name == one.name} for one in found}


GOOD = {"seen": {True}, "replaced": {True}, "raced": {True}, "late": {True}}


class NoLinks(Disk):
    def link(self, source: str, target: str) -> None:
        raise OSError(errno.EPERM, "no links here")


class RenamingLinks(Disk):
    """A commit by rename after a look: what this project must never do."""

    def link(self, source: str, target: str) -> None:
        copy = Path(f"{source}-copy")
        copy.write_bytes(Path(source).read_bytes())
        copy.rename(target)


class TornRenames(Disk):
    def rename(self, source: str, target: str) -> None:
        content = Path(source).read_bytes()
        handle = os.open(target, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
        os.write(handle, content[:100])
        time.sleep(0.002)
        os.write(handle, content[100:])
        os.close(handle)
        self.unlink(source)


class NoLocks(Disk):
    def lock(self, path: str, wait_s: float) -> None:
        return None


@pytest.mark.parametrize(
    ("disk", "different"),
    [
        (Disk, {"lock": {True}}),
        (NoLinks, {"lock": {True}}),
        (NoLocks, {"lock": {None}}),
        (RenamingLinks, {"lock": {True}, "raced": {False}, "late": {False}}),
        (TornRenames, {"lock": {True}, "replaced": {False}}),
    ],
)
def test_each_finding_is_good_or_bad_as_the_volume_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: type[Disk], different: dict[str, Any]
) -> None:
    found = met(monkeypatch, tmp_path, lambda: LocalStore(tmp_path / "state" / ".meeting", disk()))
    assert found == GOOD | different


def test_a_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """fsspec's own store in memory looks and then writes; a server does that in one step."""
    files, put, one_at_a_time = (
        fsspec.filesystem("memory", skip_instance_cache=True),
        MemoryFileSystem.pipe_file,
        Lock(),
    )

    def pipe_file(path: str, value: bytes, mode: str = "overwrite", **more: Any) -> Any:
        with one_at_a_time:
            return put(files, path, value, mode=mode, **more)

    monkeypatch.setattr(files, "pipe_file", pipe_file, raising=False)
    found = met(monkeypatch, tmp_path, lambda: FsspecStore(files, f"meeting{tmp_path}"))
    assert found["lock"] == {None} and {name: found[name] for name in GOOD} == GOOD
