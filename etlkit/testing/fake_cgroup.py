"""A folder shaped like a cgroup v2 group, for ``ETLKIT_CGROUP``: limits and usage that a test moves by hand.

Covers the files the readers read. Every change is one atomic replacement, as a supervisor should write them. It
enforces nothing and measures nothing: for a limit that kills, use ``etlkit.testing.cgroups``.
"""

from __future__ import annotations

import os
from pathlib import Path


class FakeCgroup:
    """``folder`` is made if need be. Set what a test needs; the rest is nought."""

    def __init__(self, folder: str | os.PathLike[str], *, limit_bytes: int | None = None, used_bytes: int = 0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.set_limit(limit_bytes)
        self.set_high(None)
        self.set_usage(anon_bytes=used_bytes)
        self.set_oom_kills(0)
        self.set_cpu(None)

    @property
    def environ(self) -> dict[str, str]:
        """What to add to the environment of the process that is to see this group."""
        return {"ETLKIT_CGROUP": str(self.folder)}

    def set_limit(self, limit_bytes: int | None) -> None:
        self._write("memory.max", "max" if limit_bytes is None else str(limit_bytes))

    def set_high(self, high_bytes: int | None) -> None:
        self._write("memory.high", "max" if high_bytes is None else str(high_bytes))

    def set_usage(
        self,
        *,
        anon_bytes: int = 0,
        active_file_bytes: int = 0,
        inactive_file_bytes: int = 0,
        kernel_bytes: int = 0,
        dirty_bytes: int = 0,
        mapped_bytes: int = 0,
        refaults: int = 0,
        major_faults: int = 0,
    ) -> None:
        """``memory.stat`` and, as their sum, ``memory.current``."""
        file_bytes = active_file_bytes + inactive_file_bytes
        lines = {
            "anon": anon_bytes,
            "file": file_bytes,
            "kernel": kernel_bytes,
            "shmem": 0,
            "file_mapped": mapped_bytes,
            "file_dirty": dirty_bytes,
            "file_writeback": 0,
            "inactive_file": inactive_file_bytes,
            "active_file": active_file_bytes,
            "unevictable": 0,
            "slab_reclaimable": 0,
            "workingset_refault_anon": 0,
            "workingset_refault_file": refaults,
            "pgmajfault": major_faults,
        }
        self._write("memory.stat", "\n".join(f"{key} {value}" for key, value in lines.items()))
        self._write("memory.current", str(anon_bytes + file_bytes + kernel_bytes))

    def set_oom_kills(self, count: int) -> None:
        self._write("memory.events", f"low 0\nhigh 0\nmax {count}\noom {count}\noom_kill {count}")

    def set_pressure(self, some_avg10: float, some_us: int) -> None:
        """``memory.pressure``, absent until this is called, as on a kernel without PSI."""
        some = f"some avg10={some_avg10:.2f} avg60=0.00 avg300=0.00 total={some_us}"
        self._write("memory.pressure", f"{some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0")

    def set_cpu(self, quota_cores: float | None, *, usage_s: float = 0.0, throttled_s: float = 0.0) -> None:
        quota = "max" if quota_cores is None else str(round(quota_cores * 100_000))
        self._write("cpu.max", f"{quota} 100000")
        usage_us, throttled_us = round(usage_s * 1e6), round(throttled_s * 1e6)
        self._write("cpu.stat", f"usage_usec {usage_us}\nthrottled_usec {throttled_us}")

    def _write(self, name: str, text: str) -> None:
        staged = self.folder / f".{name}.new"
        staged.write_text(text + "\n")
        staged.replace(self.folder / name)
