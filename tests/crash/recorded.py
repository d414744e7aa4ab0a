"""Runs that were recorded on a real folder, and the judge of the states that a power loss may have left of them.

Shared by ``test_sink_crash_states.py`` (the sinks) and ``test_job_crash_states.py`` (whole jobs). What a run is, is theirs.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etlkit.checkpoint import StateDir
from etlkit.errors import EtlkitError
from etlkit.io.folder_sink import SUCCESS
from etlkit.testing.crash_states import CrashState, Tree, crash_states, everything
from etlkit.testing.recorder import lay_out
from etlkit.testing.simdisk import Name, Op, Sync, SyncFolder

RUN_ID = "today"
Site = Callable[[str, str], bool]
"""Which syncs: of a "file" or a "folder", at a path."""


def by_content(path: Path) -> list[int] | None:
    """In place of the sinks' look at inode and time: laid out again, a file has others; its bytes are what it is here."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return [zlib.crc32(content), 0, len(content)]


def place_in_memory() -> Iterator[Path]:
    """In memory where there is such a place: thousands of folders are made, and what a sync does is the model's to say."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


def visible(tree: Tree, output: str) -> dict[str, bytes]:
    """What a reader of this output finds."""
    found = {}
    for folder, files in tree.items():
        inside = folder == f"/{output}" or folder.startswith(f"/{output}/")
        if inside and "/." not in folder:
            found |= {f"{folder}/{name}": content for name, content in files.items() if not name.startswith(".")}
    return found


def tree_of(root: Path) -> Tree:
    found: dict[str, dict[str, bytes]] = {}
    for path in root.rglob("*"):
        if path.is_file():
            found.setdefault(f"/{path.parent.relative_to(root)}", {})[path.name] = path.read_bytes()
    return found


@dataclass
class Checker:
    """``again`` is where states are laid out, ``recover`` what goes on from there. Marks are the number of a checkpoint and its phase,
    made once it was told to be durable; ``done`` also says that the run had ended and its output must be there."""

    log: Sequence[Op]
    seeded: int
    outputs: Sequence[str]
    again: Path
    recover: Callable[[Path], None]
    expected: dict[str, dict[str, bytes]] = field(init=False)
    old: dict[str, dict[str, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        whole, before = everything(self.log), everything(self.log[: self.seeded])
        self.expected = {output: visible(whole, output) for output in self.outputs}
        self.old = {output: visible(before, output) for output in self.outputs}

    def states(self, a_point: int) -> Iterator[CrashState]:
        return crash_states(self.log, a_point=a_point, settled=self.seeded)

    def explore(self, states: Iterable[CrashState]) -> set[bytes]:
        """Recover from each; which ones there were."""
        seen = set()
        for state in states:
            seen.add(state.key)
            problem = self.problem_of(state)
            assert not problem, f"{problem}; after call {state.after}: {self.log[state.after - 1]}"
        return seen

    def needs(self, site: Site, a_point: int) -> bool:
        """Whether some state of a run that never made these syncs comes out wrong."""
        cut = without(self.log, self.seeded, site)
        return any(self.problem_of(state) for state in new_states(self.log, cut, a_point, self.seeded))

    def seen_at_once(self, tree: Tree) -> str:
        """What is wrong for a reader who looks before anything is recovered."""
        for output in self.outputs:
            expected, old, found = self.expected[output], self.old[output], visible(tree, output)
            for path, content in found.items():
                if content not in (expected.get(path), old.get(path)):
                    return f"a reader sees a wrong {path}: {content[:60]!r}"
            mark = found.get(f"/{output}/{SUCCESS}")
            if mark is not None:
                runs = json.loads(mark)["runs"]
                whole = expected if RUN_ID in runs else old
                if RUN_ID in runs and found != whole:
                    return f"{output} is marked as done, and is not: {sorted(found.keys() ^ whole.keys())}"
                if any(path not in found for path in whole):
                    return f"{output} is marked as yesterday's, and lacks {sorted(whole.keys() - found.keys())}"
        return ""

    def problem_of(self, state: CrashState) -> str:
        if wrong := self.seen_at_once(state.tree):
            return wrong
        told, phase = state.notes[-1] if state.notes else (0, "")  # type: ignore[misc]
        lay_out(state.tree, self.again)
        try:
            with StateDir.open(self.again / "state", read_only=True) as found:
                number = found.snapshot.id if found.snapshot else 0
                if number < told:
                    return f"checkpoint {told} was told to be durable, and {number} was found"
            if phase == "done" and (wrong := self._differs(state.tree)):
                return f"the run said that it is done, and {wrong}"
            self.recover(self.again)
            after = tree_of(self.again)
            if wrong := self._differs(after):
                return wrong
            if left := [folder for folder in after if "/.etlkit-" in folder]:
                return f"left behind: {left}"
        except EtlkitError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(self.again)
        return ""

    def _differs(self, tree: Tree) -> str:
        for output in self.outputs:
            there, wanted = visible(tree, output), self.expected[output]
            if there != wanted:
                return f"{output} ends with {sorted(there.keys() ^ wanted.keys()) or 'other bytes'}"
        return ""


def without(log: Sequence[Op], since: int, site: Site) -> list[Op]:
    """The log of a run that never made these syncs."""
    paths = {op.inode: op.path for op in log if isinstance(op, Name)}

    def gone(op: Op) -> bool:
        match op:
            case Sync(inode):
                return site("file", paths[inode])
            case SyncFolder(path):
                return site("folder", path)
        return False

    return [op for at, op in enumerate(log) if at < since or not gone(op)]


def new_states(log: Sequence[Op], cut: Sequence[Op], a_point: int, settled: int = 0) -> list[CrashState]:
    """States that only the log with fewer syncs may leave, in no order: what is wrong must be among them."""
    assert len(cut) < len(log), "there is no such sync"
    legal = {(state.key, state.notes) for state in crash_states(log, a_point=a_point, settled=settled)}
    states = [one for one in crash_states(cut, a_point=a_point, settled=settled) if (one.key, one.notes) not in legal]
    random.Random(7).shuffle(states)
    return states
