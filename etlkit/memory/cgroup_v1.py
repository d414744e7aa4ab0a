"""Memory of a cgroup v1 group.

Covers memory.limit_in_bytes, usage_in_bytes, stat, oom_control and kmem.usage_in_bytes; the ``total_`` numbers, since
a group is charged for its children. memory.stat also tells the smallest limit of all ancestors, even of those that
a namespace hides. v1 has no memory.high and no PSI of its own. It does not write to the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .process import ResidentSize
from .pseudofile import PseudoFile, as_limit, field, open_if_there
from .sample import MemorySample

_NONE = 1 << 62


class CgroupV1Reader:
    """``levels``: the process's own folder first, then its ancestors up to the mount root."""

    def __init__(self, levels: Sequence[Path], root: Path = Path("/")) -> None:
        self._levels = [_Level(folder) for folder in levels]
        self._resident = ResidentSize(root)

    def read(self) -> MemorySample:
        limit_bytes, level = self._binding()
        current_bytes = level.usage.number()
        stat = level.stat.read()
        # The same number again, but with what a namespace hides from the walk up.
        inherited = field(stat, b"\nhierarchical_memory_limit ", _NONE)
        if inherited < _NONE and (limit_bytes is None or inherited < limit_bytes):
            limit_bytes = inherited
        anon_bytes, file_bytes = field(stat, b"\ntotal_rss "), field(stat, b"\ntotal_cache ")
        inactive_file_bytes = field(stat, b"\ntotal_inactive_file ")
        unexplained_bytes = max(0, current_bytes - anon_bytes - file_bytes)
        kernel_bytes = unexplained_bytes if level.kernel is None else level.kernel.number()
        # Kernels before 5.9 did not tell anonymous refaults from those of files.
        refaults = field(stat, b"\ntotal_workingset_refault ")
        refaults += field(stat, b"\ntotal_workingset_refault_file ") + field(stat, b"\ntotal_workingset_refault_anon ")
        own = self._levels[0].oom_control
        anon_own, file_own = self._resident.split()
        return MemorySample(
            limit_bytes=limit_bytes,
            used_bytes=max(0, current_bytes - inactive_file_bytes),
            current_bytes=current_bytes,
            anon_bytes=anon_bytes,
            file_bytes=file_bytes,
            inactive_file_bytes=inactive_file_bytes,
            dirty_bytes=field(stat, b"\ntotal_dirty "),
            kernel_bytes=kernel_bytes,
            oom_kills=field(own.read(), b"\noom_kill ") if own is not None else 0,
            refaults=refaults,
            major_faults=field(stat, b"\ntotal_pgmajfault "),
            psi_some_avg10=None,
            source="cgroup1",
            writeback_bytes=field(stat, b"\ntotal_writeback "),
            shmem_bytes=field(stat, b"\ntotal_shmem "),
            mapped_bytes=field(stat, b"\ntotal_mapped_file "),
            active_file_bytes=field(stat, b"\ntotal_active_file "),
            unevictable_bytes=field(stat, b"\ntotal_unevictable "),
            swap_bytes=field(stat, b"\ntotal_swap "),
            process_bytes=anon_own + file_own,
        )

    def limit_bytes(self) -> int | None:
        limit_bytes, _ = self._binding()
        inherited = as_limit(b"%d" % field(self._levels[0].stat.read(), b"\nhierarchical_memory_limit ", _NONE))
        if limit_bytes is None or inherited is None:
            return limit_bytes if inherited is None else inherited
        return min(limit_bytes, inherited)

    def describe(self) -> str:
        limit_bytes = self.limit_bytes()
        where = f"cgroup v1 {self._binding()[1].folder}"
        return f"{where}, limit {'none' if limit_bytes is None else limit_bytes}"

    def close(self) -> None:
        self._resident.close()
        for level in self._levels:
            level.close()

    def _binding(self) -> tuple[int | None, _Level]:
        smallest: int | None = None
        binding = self._levels[0]
        for level in self._levels:
            limit_bytes = level.limit.limit()
            if limit_bytes is not None and (smallest is None or limit_bytes < smallest):
                smallest, binding = limit_bytes, level
        return smallest, binding


class _Level:
    """The open files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.usage = PseudoFile(folder / "memory.usage_in_bytes")
        self.limit = PseudoFile(folder / "memory.limit_in_bytes")
        self.stat = PseudoFile(folder / "memory.stat")
        self.oom_control = open_if_there(folder / "memory.oom_control")
        self.kernel = open_if_there(folder / "memory.kmem.usage_in_bytes")

    def close(self) -> None:
        for file in (self.usage, self.limit, self.stat, self.oom_control, self.kernel):
            if file is not None:
                file.close()
