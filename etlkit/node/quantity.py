"""Kubernetes quantities as the API server keeps and prints them.

Covers canonical form (``1024Mi`` becomes ``1Gi``, ``0.5`` becomes ``500m``), exact values and sums that keep the
first one's format. What a job itself parses is in ``etlkit.units``; this is the server's side, where
``134217728`` and ``128Mi`` are equal and yet print differently. Source: apimachinery's resource.Quantity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction

PATTERN = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"

_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_SHAPE = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))([a-zA-Z]*|[eE][+-]?\d+)$")


class QuantityError(ValueError):
    """The text is no quantity; the API server answers 422 with PATTERN."""


def parse(text: str | int | float) -> tuple[Fraction, bool]:
    """The exact value, and whether it was written with a power of 1024."""
    found = _SHAPE.match(str(text).strip())
    if found is None:
        raise QuantityError(text)
    number, suffix = Fraction(found.group(1)), found.group(2)
    if suffix in _BINARY:
        return number * 1024 ** _BINARY[suffix], True
    if suffix in _DECIMAL:
        return number * Fraction(1000) ** _DECIMAL[suffix], False
    if suffix[:1] in "eE" and len(suffix) > 1:
        return number * Fraction(10) ** int(suffix[1:]), False
    raise QuantityError(text)


def whole(text: str | int | float) -> int:
    """The value, rounded up: bytes of a memory quantity."""
    return math.ceil(parse(text)[0])


def cores(text: str | int | float) -> float:
    return float(parse(text)[0])


def show(value: Fraction, binary: bool) -> str:
    """The shortest exact form with one suffix, as the API server prints it."""
    if binary and value.denominator == 1 and abs(value) >= 1024:
        number = value.numerator
        for suffix, power in sorted(_BINARY.items(), key=lambda item: -item[1]):
            if number % 1024**power == 0:
                return f"{number // 1024**power}{suffix}"
        return str(number)
    if value.denominator != 1:
        for suffix in ("m", "u", "n"):
            scaled = value / Fraction(1000) ** _DECIMAL[suffix]
            if scaled.denominator == 1:
                return f"{scaled.numerator}{suffix}"
        return f"{math.ceil(value * 10**9)}n"
    number = value.numerator
    for suffix, power in sorted(_DECIMAL.items(), key=lambda item: -item[1]):
        if power > 0 and number and number % 1000**power == 0:
            return f"{number // 1000**power}{suffix}"
    return str(number)


def canonical(text: str | int | float) -> str:
    return show(*parse(text))


def total(texts: Iterable[str | int | float]) -> str:
    """The sum, printed in the format of the first."""
    value, binary = Fraction(0), None
    for text in texts:
        number, is_binary = parse(text)
        value += number
        binary = is_binary if binary is None else binary
    return show(value, bool(binary))
