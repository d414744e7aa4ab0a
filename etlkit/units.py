"""Quantities as Kubernetes writes them, and durations: parsing and printing.

Covers memory (``192Mi``), CPU (``1500m``) and durations (``1s``, ``250ms``, ``2m``). It does not
cover dates. Source: the Kubernetes resource.Quantity format, of which the exponent form is read too.
"""

from __future__ import annotations

import math
import re

from .errors import UsageError

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_QUANTITY = re.compile(r"^(\d+(?:\.\d*)?|\.\d+)(?:(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)|[eE]([+-]?\d+))?$")
_DURATION = re.compile(r"^(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h)?$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def _quantity(text: str) -> float | int:
    found = _QUANTITY.match(text.strip())
    if found is None:
        raise UsageError(f"'{text}' is not a quantity", "write it as Kubernetes does: 192Mi, 1Gi, 1500m, 2")
    number, suffix, exponent = found.groups()
    value: float | int = int(number) if number.isdigit() else float(number)
    if suffix == "m":
        return value / 1000
    if exponent is not None:
        return value * 10.0 ** int(exponent)
    return value * _SUFFIXES[suffix or ""]


def parse_bytes(text: str | int) -> int:
    """``"192Mi"`` → 201326592. Fractions are rounded up, as the API server does."""
    return text if isinstance(text, int) else math.ceil(_quantity(text))


def parse_cpu(text: str | float) -> float:
    """``"1500m"`` → 1.5 cores."""
    return float(_quantity(text)) if isinstance(text, str) else float(text)


def parse_seconds(text: str | float) -> float:
    """``"250ms"`` → 0.25. A bare number is seconds."""
    if not isinstance(text, str):
        return float(text)
    found = _DURATION.match(text.strip())
    if found is None:
        raise UsageError(f"'{text}' is not a duration", "write it as 250ms, 1s, 2m or 1h")
    return float(found.group(1)) * _SECONDS[found.group(2)]


def quantity_bytes(value: int) -> str:
    """Bytes as a Kubernetes quantity that parses back to the same number: 201326592 → ``192Mi``."""
    for suffix in ("Gi", "Mi", "Ki"):
        if value and value % _SUFFIXES[suffix] == 0:
            return f"{value // _SUFFIXES[suffix]}{suffix}"
    return str(value)


def format_bytes(value: float) -> str:
    """Bytes for a person: ``1.4 GiB``, ``192 MiB``. Not for a machine to read back."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.0f} {unit}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.1f} {unit}"
    return f"{value:.0f} B"


def format_seconds(value: float) -> str:
    """Seconds for a person: ``85 ms``, ``4.2 s``, ``3 min 20 s``."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"
