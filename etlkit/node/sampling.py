"""Memory limits where no cgroup can be had: sample the processes, kill the container that is over.

Covers a folder in the shape of cgroup v2 for each container (``ETLKIT_CGROUP`` names it), so that the job reads its
limit and use the same way. What is counted is anonymous and shared memory of the processes; clean file pages are shown
but never killed for. It is not a wall: between two samples a process may take what it likes, and the machine's
own limit comes first. Figures about survival or smallest limits mean nothing here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .enforce import orphans, own_group_name

_INTERVAL_S = 0.010
_LOOK_S = 0.100
_PS_INTERVAL_S = 0.100
_WIDTH = 20


@dataclass(frozen=True, slots=True)
class _Use:
    """Memory of a process tree."""

    anon_bytes: int
    file_bytes: int


def _members_proc(session: int) -> list[int]:
    """Processes of the session that the container's first process leads, from /proc."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text()
        except OSError:
            continue
        state, _, _, leads = text.rpartition(")")[2].split()[:4]
        if state != "Z" and int(leads) == session:
            found.append(int(entry.name))
    return found


def _use_proc(pids: list[int]) -> _Use:
    anon, file = 0, 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                anon += int(line.split()[1]) * 1024
            elif line.startswith("RssFile:"):
                file += int(line.split()[1]) * 1024
    return _Use(anon, file)


def _ps(session: int) -> tuple[list[int], _Use]:
    """The same by ``ps``, where there is no /proc. The process group stands for the session."""
    listed = subprocess.run(["ps", "-axo", "pid=,pgid=,rss="], capture_output=True, text=True, check=False).stdout
    pids, rss = [], 0
    for line in listed.splitlines():
        pid, group, kib = (int(part) for part in line.split())
        if group == session:
            pids.append(pid)
            rss += kib * 1024
    return pids, _Use(rss, 0)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class _Figure:
    """A file with one or more numbers, rewritten in place in fixed width: a reader may keep it open."""

    def __init__(self, path: Path, names: tuple[str, ...] = ("",)) -> None:
        self._names = names
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)

    def write(self, *values: int | str) -> None:
        lines = (f"{name} {value:<{_WIDTH}}".lstrip() for name, value in zip(self._names, values, strict=True))
        os.pwrite(self._fd, ("\n".join(lines) + "\n").encode(), 0)

    def close(self) -> None:
        os.close(self._fd)


class _SampledContainer:
    """One run of a container, its folder and its sampler."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._limit_bytes: int | None = None
        self._usage_bytes = 0
        self._peak_bytes = 0
        self._oom_kills = 0
        self._session: int | None = None
        self._stop = threading.Event()
        self._has_proc = Path("/proc/self/status").exists()
        (folder / "cgroup.controllers").write_text("cpu memory\n")
        (folder / "memory.high").write_text("max\n")
        (folder / "memory.swap.max").write_text("0\n")
        (folder / "memory.swap.current").write_text("0\n")
        self._max = _Figure(folder / "memory.max")
        self._current = _Figure(folder / "memory.current")
        self._events = _Figure(folder / "memory.events", ("low", "high", "max", "oom", "oom_kill", "oom_group_kill"))
        self._stat = _Figure(
            folder / "memory.stat",
            ("anon", "file", "kernel", "shmem", "file_mapped", "file_dirty", "file_writeback", "inactive_anon",
             "active_anon", "inactive_file", "active_file", "workingset_refault_file", "pgfault", "pgmajfault"),
        )  # fmt: skip
        self._cpu = folder / "cpu.max"
        self._cpu.write_text("max 100000\n")
        self._show(_Use(0, 0))
        self.set_memory(None)

    @property
    def joins(self) -> tuple[Path, ...]:
        return ()

    @property
    def environment(self) -> dict[str, str]:
        return {"ETLKIT_CGROUP": str(self._folder)}

    def attach(self, pid: int) -> None:
        self._session = pid
        threading.Thread(target=self._watch, name=f"etlkit-sample-{pid}", daemon=True).start()

    def set_memory(self, limit_bytes: int | None) -> None:
        with self._lock:
            self._limit_bytes = limit_bytes
            self._max.write("max" if limit_bytes is None else limit_bytes)

    def set_cpu(self, cores: float | None) -> None:
        quota = "max" if cores is None else str(round(cores * 100_000))
        self._cpu.write_text(f"{quota} 100000\n")

    def usage_bytes(self) -> int:
        return self._usage_bytes

    def peak_bytes(self) -> int:
        return self._peak_bytes

    def oom_kills(self) -> int:
        return self._oom_kills

    def kill_all(self) -> None:
        if self._session is not None:
            _kill(self._sample(self._session)[0])
        self._stop.set()

    def remove(self) -> None:
        self.kill_all()
        with self._lock:
            for figure in (self._max, self._current, self._events, self._stat):
                figure.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _sample(self, session: int) -> tuple[list[int], _Use]:
        if not self._has_proc:
            return _ps(session)
        members = _members_proc(session)
        return members, _use_proc(members)

    def _watch(self) -> None:
        assert self._session is not None
        interval_s = _INTERVAL_S if self._has_proc else _PS_INTERVAL_S
        members: list[int] = []
        looked_s = 0.0
        while not self._stop.wait(interval_s):
            # Finding the processes means looking at all of the machine's; what they use is read far more often.
            if not self._has_proc or not members or time.monotonic() - looked_s > _LOOK_S:
                looked_s = time.monotonic()
                members, use = self._sample(self._session)
            else:
                use = _use_proc(members)
            with self._lock:
                if self._stop.is_set():
                    return
                limit = self._limit_bytes
                if limit is not None and use.anon_bytes > limit and members:
                    self._oom_kills += 1
                    self._show(use)
                    _kill(self._sample(self._session)[0])
                    return
                self._show(use)

    def _show(self, use: _Use) -> None:
        anon, file = use.anon_bytes, use.file_bytes
        if self._limit_bytes is not None:
            # A kernel would drop clean file pages before it kills.
            file = max(0, min(file, self._limit_bytes - anon))
        self._usage_bytes = anon + file
        self._peak_bytes = max(self._peak_bytes, self._usage_bytes)
        self._current.write(self._usage_bytes)
        self._stat.write(anon, file, 0, 0, file, 0, 0, 0, anon, file, 0, 0, 0, 0)
        kills = self._oom_kills
        self._events.write(0, 0, kills, kills, kills, kills)


class _SampledPod:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def set_memory(self, limit_bytes: int | None) -> None:
        """Each container is watched alone; the pod's sum follows from that."""

    def set_cpu(self, cores: float | None) -> None:
        """Nothing limits cpu here."""

    def container(self, name: str) -> _SampledContainer:
        return _SampledContainer(self._folder / name)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class SamplingEnforcer:
    """The last resort."""

    name = "sampling"
    real = False

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        for orphan in orphans(parent):
            shutil.rmtree(orphan, ignore_errors=True)
        self._root = parent / own_group_name()
        self._root.mkdir(mode=0o700)

    def describe(self) -> str:
        return (
            "sampling and killing, for want of a cgroup that may be written: not a wall, "
            "so survival and smallest-limit figures mean nothing here"
        )

    def pod(self, uid: str) -> _SampledPod:
        folder = self._root / f"pod{uid}"
        folder.mkdir()
        return _SampledPod(folder)

    def close(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
