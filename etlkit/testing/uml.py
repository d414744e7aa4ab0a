"""User-Mode Linux: a real kernel with cgroup v2, as a program, on this machine's own files.

Covers booting it (two seconds) with a shell script as its init, and what the script printed. It is slow where pages
fault (some fifty times), has no PSI and no network, and sees the files of this machine: give it tiny inputs and write
only below a temporary folder. Debian: ``apt-get install user-mode-linux``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import EtlkitError

_SETUP = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "+memory +cpu +io +pids" > /sys/fs/cgroup/cgroup.subtree_control
"""


def unavailable() -> str | None:
    """Why it cannot be booted here; None where it can."""
    if _program() is None:
        return "linux.uml is not installed (Debian package user-mode-linux)"
    return None


def run_in_uml(
    script: str, mem: str = "512M", timeout_s: float = 60.0, environ: Mapping[str, str] | None = None
) -> str:
    """What ``script`` (for /bin/sh, as root) prints when it runs in a kernel of its own.

    /proc, /sys and a cgroup v2 hierarchy with memory, cpu, io and pids are mounted. A script that ends with another
    code than 0 is an EtlkitError with what it printed.
    """
    program = _program()
    if program is None:
        raise EtlkitError("linux.uml is not installed", "install the package user-mode-linux, or skip this")
    with tempfile.TemporaryDirectory(prefix="etlkit-uml-") as name:
        folder = Path(name)
        body, init, output, result = (folder / part for part in ("body", "init", "output", "result"))
        body.write_text(script)
        exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in _environment(environ).items())
        # What the script prints goes to a file, since the console also carries the kernel's own words.
        end = f"/bin/sh {body} > {output} 2>&1\necho $? > {result}\nsync\necho o > /proc/sysrq-trigger\nsleep 60\n"
        init.write_text(_SETUP + exports + f"cd {shlex.quote(str(Path.cwd()))}\n" + end)
        init.chmod(0o755)
        console = _boot(program, init, folder, mem, timeout_s)
        printed = output.read_text() if output.exists() else ""
        code = result.read_text().strip() if result.exists() else "none"
    if code != "0":
        raise EtlkitError(
            f"the script in User-Mode Linux ended with code {code}; it printed:\n{printed[-4000:]}",
            f"the kernel's last words were:\n{console[-2000:]}",
        )
    return printed


def _boot(program: str, init: Path, folder: Path, mem: str, timeout_s: float) -> str:
    arguments = [
        program,
        f"mem={mem}",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        f"init={init}",
        f"uml_dir={folder}",
        "con=null",
        "con0=fd:0,fd:1",
    ]
    # A process group of its own: the kernel starts helpers, and they must go with it.
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        console, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise EtlkitError(
            f"the script in User-Mode Linux did not end within {timeout_s:.0f} s",
            "give it less to do (pages fault some fifty times slower there), or a longer timeout_s",
        ) from error
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return console.decode(errors="replace")


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **(extra or {})}


def _program() -> str | None:
    return shutil.which("linux.uml")
