"""The states that a power loss may legally leave, from the log of a ``SimDisk`` or of ``recorder.recording``.

The model, deliberately weaker than any journaling filesystem:

* A file's bytes are durable up to its last fsync. Of what was written since, there is all, nothing, the first half, zeros of the
  full length, or the last write without the ones before it.
* A folder's names are durable as they were at its last fsync. Of the changes since, **any subset** is there, in any combination
  with other folders.
* A rename within a folder is one change. Between folders the new name may be durable before the old one is gone, but a file is never
  lost by it.
* A folder is there if its name in the folder above is; what is below a lost folder is lost.

It covers one power loss at every point of the log. It does not cover bits that rot or disks that lie about fsync.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .simdisk import Mark, Mkdir, Name, Op, Rename, Rmdir, Sync, SyncFolder, Unlink, Write

Tree = Mapping[str, Mapping[str, bytes]]
"""Folders by path, each with its files' content by name."""


@dataclass(frozen=True, slots=True)
class CrashState:
    tree: Tree
    after: int
    """How many calls of the log had returned."""
    notes: tuple[object, ...]
    """What the workload had been told by then."""
    key: bytes
    """Equal for equal trees."""


@dataclass(slots=True)
class _File:
    synced: bytes = b""
    pending: list[bytes] = field(default_factory=list)

    def variants(self) -> list[bytes]:
        if not self.pending:
            return [self.synced]
        everything = b"".join(self.pending)
        last = self.pending[-1]
        return list(
            dict.fromkeys(
                (
                    self.synced + everything,
                    self.synced,
                    self.synced + everything[: len(everything) // 2],
                    self.synced + bytes(len(everything)),
                    self.synced + bytes(len(everything) - len(last)) + last,
                )
            )
        )


_ROOT = -1


@dataclass(frozen=True, slots=True)
class _Change:
    """Names to set (a file's inode, or a folder's number, which is negative) or to take away (None), as one step. ``after`` must
    be durable first."""

    names: tuple[tuple[str, int | None], ...]
    after: tuple[int, _Change] | None = None


@dataclass(slots=True)
class _Folder:
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def with_changes(self, changes: list[_Change]) -> dict[str, int]:
        names = dict(self.durable)
        for change in changes:
            for name, inode in change.names:
                if inode is None:
                    names.pop(name, None)
                else:
                    names[name] = inode
        return names

    def settle(self, change: _Change) -> None:
        if any(change is waiting for waiting in self.pending):
            self.durable = self.with_changes([change])
            self.pending = [waiting for waiting in self.pending if waiting is not change]


class _Model:
    """A folder that is removed and made again under the same path is another folder: what was below the first may come back."""

    def __init__(self) -> None:
        self.files: dict[int, _File] = {}
        self.folders: dict[int, _Folder] = {_ROOT: _Folder()}
        self.at: dict[str, int] = {"/": _ROOT}
        """The folder that each path means to the process."""

    def step(self, op: Op) -> None:
        match op:
            case Mkdir(path):
                number = _ROOT - len(self.folders)
                self.folders[number] = _Folder()
                self.at[path] = number
                self._change(path, number)
            case Name(path, inode):
                self.files.setdefault(inode, _File())
                self._change(path, inode)
            case Unlink(path):
                self._change(path, None)
            case Rmdir(path):
                del self.at[path]
                self._change(path, None)
            case Rename(source, target, inode):
                self._rename(source, target, inode)
            case Write(inode, data):
                self.files[inode].pending.append(data)
            case Sync(inode):
                file = self.files[inode]
                self.files[inode] = _File(file.synced + b"".join(file.pending))
            case SyncFolder(path):
                self._sync_folder(self.at[path])
            case Mark():
                pass

    def _change(self, path: str, inode: int | None, after: tuple[int, _Change] | None = None) -> tuple[int, _Change]:
        folder, name = _split(path)
        change = _Change(((name, inode),), after)
        self.folders[self.at[folder]].pending.append(change)
        return self.at[folder], change

    def _rename(self, source: str, target: str, inode: int) -> None:
        (source_folder, source_name), (target_folder, target_name) = _split(source), _split(target)
        if source_folder == target_folder:
            change = _Change(((target_name, inode), (source_name, None)))
            self.folders[self.at[target_folder]].pending.append(change)
        else:
            self._change(source, None, after=self._change(target, inode))

    def _sync_folder(self, number: int) -> None:
        folder = self.folders[number]
        for change in folder.pending:
            if change.after is not None:
                self.folders[change.after[0]].settle(change.after[1])
        self.folders[number] = _Folder(folder.with_changes(folder.pending))

    def states(self, limit: int, dice: random.Random) -> Iterator[Tree]:
        """All combinations if there are no more than ``limit``; else the extreme ones and a sample."""
        open_folders = [number for number, folder in self.folders.items() if folder.pending]
        open_files = [inode for inode, file in self.files.items() if file.pending]
        subsets = [list(_subsets(self.folders[number].pending, limit, dice)) for number in open_folders]
        variants = [self.files[inode].variants() for inode in open_files]
        choices: list[list[Any]] = [*subsets, *variants]
        combinations: Iterator[tuple[Any, ...]]
        if math.prod(map(len, choices)) <= limit:
            combinations = itertools.product(*choices)
        else:
            extremes = [tuple(options[0] for options in choices), tuple(options[-1] for options in choices)]
            sampled = (tuple(dice.choice(options) for options in choices) for _ in range(limit - 2))
            combinations = itertools.chain(extremes, sampled)
        for combination in combinations:
            changes = dict(zip(open_folders, combination[: len(open_folders)], strict=True))
            if self._is_legal(changes):
                yield self._tree(changes, dict(zip(open_files, combination[len(open_folders) :], strict=True)))

    def _is_legal(self, changes: Mapping[int, list[_Change]]) -> bool:
        for chosen in changes.values():
            for change in chosen:
                if change.after is not None:
                    folder, needed = change.after
                    waits = any(needed is waiting for waiting in self.folders[folder].pending)
                    if waits and not any(needed is other for other in changes.get(folder, ())):
                        return False
        return True

    def _tree(self, changes: Mapping[int, list[_Change]], contents: Mapping[int, bytes]) -> Tree:
        tree: dict[str, dict[str, bytes]] = {}
        waiting = [("/", _ROOT)]
        while waiting:
            path, number = waiting.pop()
            tree[path] = {}
            for name, inode in self.folders[number].with_changes(changes.get(number, [])).items():
                if inode < 0:
                    waiting.append((f"{path.rstrip('/')}/{name}", inode))
                else:
                    tree[path][name] = contents.get(inode, self.files[inode].synced)
        return tree


def _subsets(pending: list[_Change], limit: int, dice: random.Random) -> Iterator[list[_Change]]:
    if 2 ** len(pending) <= limit:
        for mask in range(2 ** len(pending)):
            yield [change for place, change in enumerate(pending) if mask >> place & 1]
        return
    yield []
    for stop in range(1, len(pending) + 1):
        yield pending[:stop]
    for _ in range(limit):
        yield [change for change in pending if dice.random() < 0.5]


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder or "/", name


def everything(log: Sequence[Op]) -> Tree:
    """The folder as it is when the process ends and nothing is lost."""
    model = _Model()
    for op in log:
        model.step(op)
    changes = {number: folder.pending for number, folder in model.folders.items()}
    return model._tree(changes, {inode: file.variants()[0] for inode, file in model.files.items()})


def crash_states(log: Sequence[Op], a_point: int = 48, seed: int = 0, settled: int = 0) -> Iterator[CrashState]:
    """Every distinct state, at most ``a_point`` new ones after each call. The same log gives the same states. None before the first
    ``settled`` calls have returned."""
    dice = random.Random(seed)
    model = _Model()
    notes: list[object] = []
    seen: set[bytes] = set()
    for after, op in enumerate([None, *log]):
        if isinstance(op, Mark):
            notes.append(op.note)
            # What has been told matters: the same files with more promised are to be looked at again.
            seen.clear()
        elif op is not None:
            model.step(op)
        for tree in model.states(a_point, dice) if after >= settled else ():
            key = _key(tree)
            if key not in seen:
                seen.add(key)
                yield CrashState(tree, after, tuple(notes), key)


def _key(tree: Tree) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(tree):
        digest.update(path.encode() + b"\0")
        for name in sorted(tree[path]):
            content = tree[path][name]
            digest.update(b"%s\0%d\0" % (name.encode(), len(content)))
            digest.update(content)
    return digest.digest()
