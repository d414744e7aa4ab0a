"""Memory of a cgroup v2 group, or of a folder shaped like one (``ETLKIT_CGROUP``).

Covers memory.max, high, current, stat, events, pressure and swap.current. The smallest memory.max on the way up
binds, and the numbers are that level's, so that limit and use belong together. It does not write to the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .process import ResidentSize
from .pseudofile import PseudoFile, field, open_if_there
from .sample import MemorySample


class CgroupV2Reader:
    """``levels``: the process's own folder first, then its ancestors up to the mount root."""

    def __init__(self, levels: Sequence[Path], root: Path = Path("/"), *, keep_open: bool = True) -> None:
        self._levels = [_Level(folder, keep_open) for folder in levels]
        self._resident = ResidentSize(root)

    def read(self) -> MemorySample:
        limit_bytes, level = self._binding()
        current_bytes = level.current.number()
        stat = level.stat.read() if level.stat is not None else bytearray(2)
        inactive_file_bytes = field(stat, b"\ninactive_file ")
        anon_bytes, file_bytes = field(stat, b"\nanon "), field(stat, b"\nfile ")
        # Without "kernel" (before 5.18) it is what neither anonymous memory nor page cache explains.
        kernel_bytes = field(stat, b"\nkernel ", -1)
        if kernel_bytes < 0:
            kernel_bytes = max(0, current_bytes - anon_bytes - file_bytes) if level.stat is not None else 0
        # Kernels before 5.9 did not tell anonymous refaults from those of files.
        refaults = field(stat, b"\nworkingset_refault ")
        refaults += field(stat, b"\nworkingset_refault_file ") + field(stat, b"\nworkingset_refault_anon ")
        psi_some_avg10, psi_some_us = level.pressure_now()
        anon_own, file_own = self._resident.split()
        return MemorySample(
            limit_bytes=limit_bytes,
            used_bytes=max(0, current_bytes - inactive_file_bytes),
            current_bytes=current_bytes,
            anon_bytes=anon_bytes if level.stat is not None else current_bytes,
            file_bytes=file_bytes,
            inactive_file_bytes=inactive_file_bytes,
            dirty_bytes=field(stat, b"\nfile_dirty "),
            kernel_bytes=kernel_bytes,
            oom_kills=self._oom_kills(),
            refaults=refaults,
            major_faults=field(stat, b"\npgmajfault "),
            psi_some_avg10=psi_some_avg10,
            source="cgroup2",
            high_bytes=self._high_bytes(),
            writeback_bytes=field(stat, b"\nfile_writeback "),
            shmem_bytes=field(stat, b"\nshmem "),
            mapped_bytes=field(stat, b"\nfile_mapped "),
            active_file_bytes=field(stat, b"\nactive_file "),
            unevictable_bytes=field(stat, b"\nunevictable "),
            slab_reclaimable_bytes=field(stat, b"\nslab_reclaimable "),
            swap_bytes=level.swap.number() if level.swap is not None else 0,
            psi_some_us=psi_some_us,
            process_bytes=anon_own + file_own,
        )

    def limit_bytes(self) -> int | None:
        return self._binding()[0]

    def describe(self) -> str:
        limit_bytes, level = self._binding()
        where = f"cgroup v2 {level.folder}"
        return f"{where}, limit {'none' if limit_bytes is None else limit_bytes}"

    def close(self) -> None:
        self._resident.close()
        for level in self._levels:
            level.close()

    def _binding(self) -> tuple[int | None, _Level]:
        smallest: int | None = None
        binding = self._levels[0]
        for level in self._levels:
            limit_bytes = level.limit.limit() if level.limit is not None else None
            if limit_bytes is not None and (smallest is None or limit_bytes < smallest):
                smallest, binding = limit_bytes, level
        return smallest, binding

    def _high_bytes(self) -> int | None:
        smallest: int | None = None
        for level in self._levels:
            high_bytes = level.high.limit() if level.high is not None else None
            if high_bytes is not None and (smallest is None or high_bytes < smallest):
                smallest = high_bytes
        return smallest

    def _oom_kills(self) -> int:
        # Of our own group: a kill in a neighbour's is not ours, even where the limit is the parent's.
        events = self._levels[0].events
        return field(events.read(), b"\noom_kill ") if events is not None else 0


class _Level:
    """The open files of one folder."""

    def __init__(self, folder: Path, keep_open: bool) -> None:
        self.folder = folder
        self.current = PseudoFile(folder / "memory.current", keep_open=keep_open)
        self.limit = open_if_there(folder / "memory.max", keep_open=keep_open)
        self.high = open_if_there(folder / "memory.high", keep_open=keep_open)
        self.stat = open_if_there(folder / "memory.stat", keep_open=keep_open)
        self.events = open_if_there(folder / "memory.events", keep_open=keep_open)
        self.swap = open_if_there(folder / "memory.swap.current", keep_open=keep_open)
        self.pressure = open_if_there(folder / "memory.pressure", keep_open=keep_open)

    def pressure_now(self) -> tuple[float | None, int | None]:
        if self.pressure is None:
            return None, None
        buffer = self.pressure.read()
        line = bytes(buffer[1 : buffer.find(b"\n", 1)]).split()
        if len(line) < 5 or line[0] != b"some":
            return None, None
        return float(line[1].partition(b"=")[2]), int(line[4].partition(b"=")[2])

    def close(self) -> None:
        for file in (self.current, self.limit, self.high, self.stat, self.events, self.swap, self.pressure):
            if file is not None:
                file.close()
