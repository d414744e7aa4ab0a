"""Where the states of a fan-out lie below its root. Standard library only.

STATE/whole        the run as a whole
STATE/r0-i0003     what index 3 has done in round 0
"""

from __future__ import annotations

import re
from pathlib import Path

WHOLE = "whole"
_SHARE = re.compile(r"r(\d+)-i(\d{4})")


def share_folder(round_: int, index: int) -> str:
    return f"r{round_}-i{index:04d}"


def shares_below(root: Path) -> list[tuple[int, int, Path]]:
    """(round, index, folder) of all shares that have begun, in order."""
    found = [(_SHARE.fullmatch(path.name), path) for path in root.iterdir()] if root.is_dir() else []
    return sorted((int(match[1]), int(match[2]), path) for match, path in found if match is not None)


def is_fanout(root: Path) -> bool:
    return (root / WHOLE / "manifests").is_dir()
