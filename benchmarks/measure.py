"""One command, measured: wall, cpu and peak memory of a whole process and its children.

In a real memory cgroup where one can be made, else by ``wait4`` alone. The peak is two numbers: ``rss_bytes``, the
largest resident set
of the process (the same rule everywhere), and ``charged_bytes``, the most that the cgroup was charged, page cache of
what it wrote and
re-read included. Input files are read into the page cache before each run, outside of the group, so that no one finds a colder disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from etlkit.testing.cgroups import RealGroup, make_group, unavailable

ROOT = Path(__file__).resolve().parent.parent
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one command."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    charged_bytes: int | None
    exit_code: int
    oom_killed: bool
    stderr: str

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and not self.oom_killed


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The child's: this source tree first, none of our settings, compiled code kept as on any machine."""
    ours = ("ETLKIT_", "MALLOC_", "ARROW_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {**kept, "PYTHONPATH": path, **(extra or {})}


def warm(paths: Sequence[Path]) -> None:
    """Read the files, so that they are in the page cache and charged to nobody who is measured."""
    for path in paths:
        with path.open("rb", buffering=0) as opened:
            while opened.read(_CHUNK_BYTES):
                pass


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    limit_bytes: int | None = None,
    timeout_s: float = 900.0,
    during: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Measured:
    """Run to the end; past the time-out it is killed. ``during`` is called once the process runs."""
    with _group(limit_bytes) as group, tempfile.TemporaryFile() as errors:
        command = group.command(argv) if group is not None else list(argv)
        started_s = time.monotonic()
        process = subprocess.Popen(
            command, env=dict(env or environment()), stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        if during is not None:
            during(process)
        status, usage = _wait(process.pid, started_s + timeout_s)
        wall_s = time.monotonic() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        return Measured(
            wall_s=wall_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            rss_bytes=usage.ru_maxrss * 1024,
            charged_bytes=group.peak_bytes if group is not None else None,
            exit_code=process.returncode,
            oom_killed=group.oom_kills > 0 if group is not None else False,
            stderr=errors.read().decode(errors="replace")[-4000:],
        )


@contextlib.contextmanager
def _group(limit_bytes: int | None) -> Iterator[RealGroup | None]:
    reason = unavailable()
    if reason is None:
        with make_group(limit_bytes) as group:
            yield group
    elif limit_bytes is not None:
        raise SystemExit(f"a memory limit needs a real cgroup: {reason}")
    else:
        yield None


def _wait(pid: int, deadline_s: float):  # type: ignore[no-untyped-def]
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > deadline_s:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage
        time.sleep(0.002)


def etlkit_run(
    job: str,
    parameters: Mapping[str, object],
    state: Path,
    *,
    every: str = "1s",
    threads: int = 2,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command line of one job of ``benchmarks/jobs.py``, as a user would type it."""
    pairs = [word for name, value in parameters.items() for word in ("--set", f"{name}={value}")]
    target = f"{ROOT / 'benchmarks' / 'jobs.py'}:{job}"
    fixed = ["--state", str(state), "--checkpoint-every", every, "--workers", str(threads), "--progress", "none"]
    return [sys.executable, "-m", "etlkit", "run", target, *pairs, *fixed, *extra]


def discard(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
