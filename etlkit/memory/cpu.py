"""CPU of this process's group: the quota, what was used, how long it was throttled.

Covers cgroup v1 (cpu and cpuacct) and v2 (cpu.max, cpu.stat), ``ETLKIT_CGROUP`` and, without a group, the process's own
CPU time. The quota is read each time: it changes live when the pod is resized. It does not count the machine's cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from ..lazyclass import dataclass
from .discover import find_group
from .pseudofile import PseudoFile, field, open_if_there


@dataclass(frozen=True, slots=True)
class CpuSample:
    """``usage_s`` and ``throttled_s`` grow; take differences. ``quota_cores`` None: no quota."""

    quota_cores: float | None
    usage_s: float
    throttled_s: float


class CpuReader:
    """Made by ``find_cpu_reader``; used by one thread at a time."""

    def __init__(
        self,
        source: str,
        quotas: list[tuple[PseudoFile, PseudoFile | None]],
        stat: PseudoFile | None,
        usage: PseudoFile | None = None,
    ) -> None:
        """``quotas``: own level first; v1 has quota and period in two files, v2 in one."""
        self._source, self._quotas, self._stat, self._usage = source, quotas, stat, usage

    def read(self) -> CpuSample:
        quota_cores: float | None = None
        for first, second in self._quotas:
            cores = _v2_cores(first) if second is None else _v1_cores(first, second)
            if cores is not None and (quota_cores is None or cores < quota_cores):
                quota_cores = cores
        if self._stat is None:
            return CpuSample(quota_cores, time.process_time(), 0.0)
        stat = self._stat.read()
        if self._source == "cgroup1":
            usage_s = self._usage.number() / 1e9 if self._usage is not None else time.process_time()
            return CpuSample(quota_cores, usage_s, field(stat, b"\nthrottled_time ") / 1e9)
        return CpuSample(quota_cores, field(stat, b"\nusage_usec ") / 1e6, field(stat, b"\nthrottled_usec ") / 1e6)

    def describe(self) -> str:
        if self._stat is None:
            return "this process's own CPU time; no cpu group, so no quota is known"
        return f"{self._source} {Path(self._stat.path).parent}"

    def close(self) -> None:
        for pair in self._quotas:
            for file in pair:
                if file is not None:
                    file.close()
        for file in (self._stat, self._usage):
            if file is not None:
                file.close()


def find_cpu_reader(root: str | os.PathLike[str] = "/", environ: Mapping[str, str] | None = None) -> CpuReader:
    """The reader for the CPU this process is held to; arguments as for ``find_reader``."""
    folder = (os.environ if environ is None else environ).get("ETLKIT_CGROUP")
    if folder:
        quota = open_if_there(Path(folder) / "cpu.max", keep_open=False)
        stat = open_if_there(Path(folder) / "cpu.stat", keep_open=False)
        return CpuReader("cgroup2", [(quota, None)] if quota is not None else [], stat)
    base = Path(root)
    group = find_group("cpu", base)
    if group is None:
        return CpuReader("process", [], None)
    own = group.levels[0]
    if group.version == 2:
        return CpuReader("cgroup2", [(PseudoFile(level / "cpu.max"), None) for level in group.levels], _stat(own))
    pairs = []
    for level in group.levels:
        quota, period = open_if_there(level / "cpu.cfs_quota_us"), open_if_there(level / "cpu.cfs_period_us")
        if quota is not None and period is not None:
            pairs.append((quota, period))
    # cpuacct may be a hierarchy of its own, with the same or another path.
    accounting = find_group("cpuacct", base)
    usage = open_if_there(accounting.levels[0] / "cpuacct.usage") if accounting and accounting.version == 1 else None
    return CpuReader("cgroup1", list(pairs), _stat(own), usage)


def _stat(folder: Path) -> PseudoFile | None:
    return open_if_there(folder / "cpu.stat")


def _v1_cores(quota: PseudoFile, period: PseudoFile) -> float | None:
    quota_us, period_us = quota.number(), period.number()
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _v2_cores(file: PseudoFile) -> float | None:
    buffer = file.read()
    words = bytes(buffer[1 : buffer.index(0)]).split()
    if len(words) < 2 or words[0] == b"max":
        return None
    return int(words[0]) / int(words[1])
