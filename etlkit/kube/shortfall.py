"""By how much a refused size was too large: the numbers that a refusal carries. Pure, standard library only.

Covers the words of Kubernetes 1.33 to 1.36 for the node's capacity, LimitRange maxima and quotas (``recorded/``). A policy's
words are its author's, so nothing is read out of those.
"""

from __future__ import annotations

import re

from ..errors import UsageError
from ..units import parse_bytes

_NODE = re.compile(r"memory, requested: (\d+), (?:used: \d+, )?(?:allocatable|capacity): (\d+)")
_MAXIMUM = re.compile(r"maximum memory usage per \w+ is ([\w.]+), but (?:limit|request) is ([\w.]+)")
_QUOTA = re.compile(r"requested: (?P<requested>\S+), used: (?P<used>\S+), limited: (?P<limited>\S+)")


def shortfall_bytes(message: str) -> int | None:
    """So many bytes less would have been taken; None where the message does not say. The largest of several."""
    try:
        found = [int(wanted) - int(most) for wanted, most in _NODE.findall(message)]
        found += [parse_bytes(wanted) - parse_bytes(most) for most, wanted in _MAXIMUM.findall(message)]
        for quota in _QUOTA.finditer(message):
            requested, used, limited = (_amounts(quota[name]) for name in ("requested", "used", "limited"))
            found += [
                size + used[name] - limited[name]
                for name, size in requested.items()
                if name in used and name in limited
            ]
    except UsageError:
        return None
    short = max(found, default=0)
    return short if short > 0 else None


def most_bytes(to_bytes: int, message: str) -> int | None:
    """The size that would not have been refused in place of ``to_bytes``, where the message says so."""
    short = shortfall_bytes(message)
    return to_bytes - short if short is not None and short < to_bytes else None


def _amounts(text: str) -> dict[str, int]:
    """``limits.memory=1Gi,limits.cpu=2``: memory alone."""
    pairs = [one.partition("=") for one in text.rstrip(",)]").split(",")]
    return {name: parse_bytes(size) for name, _, size in pairs if name.endswith("memory")}
