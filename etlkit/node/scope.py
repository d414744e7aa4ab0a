"""A delegated cgroup v2 for an ordinary user, from systemd: ``systemd-run --user --scope -p Delegate=yes``.

Covers the question whether that works here, and starting the same command again inside such a scope. It is only worth
asking where cgroup v2 has the memory controller and no group may be written yet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import MutableMapping, Sequence
from typing import NoReturn

MARK = "ETLKIT_IN_SCOPE"
"""Set in the new scope, so that it is asked for once. The node does not hand it on to a pod."""

_SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "-p", "Delegate=yes")


def available(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether a user manager gives out scopes here."""
    if environ.get(MARK) or os.geteuid() == 0 or shutil.which(_SCOPE[0]) is None:
        return False
    try:
        return subprocess.run([*_SCOPE, "true"], capture_output=True, timeout=5, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def start_again(arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by the same command in a scope of its own."""
    os.environ[MARK] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(_SCOPE[0], [*_SCOPE, sys.executable, "-m", "etlkit", *arguments])
