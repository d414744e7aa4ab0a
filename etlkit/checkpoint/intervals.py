"""A set of whole numbers as sorted, disjoint, non-touching ``[start, stop)`` pairs.

Finished splits are nearly contiguous, so that the set stays a handful of pairs however many splits there are. Covers what a
checkpoint needs: adding, union, difference, membership, JSON. Immutable.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any


def _merged(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    result: list[tuple[int, int]] = []
    for start, stop in sorted(pairs):
        if start >= stop:
            continue
        if result and start <= result[-1][1]:
            if stop > result[-1][1]:
                result[-1] = (result[-1][0], stop)
        else:
            result.append((start, stop))
    return tuple(result)


class Intervals:
    """``Intervals([(0, 3)])`` is {0, 1, 2}. Pairs may come in any order and overlap."""

    __slots__ = ("_pairs",)

    _pairs: tuple[tuple[int, int], ...]

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        object.__setattr__(self, "_pairs", _merged(pairs))

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Intervals:
        return cls((number, number + 1) for number in numbers)

    @classmethod
    def from_json(cls, data: Any) -> Intervals:
        """From ``[[0, 3], [5, 6]]``. ``ValueError`` unless it is exactly what ``to_json`` gives."""
        pairs = [(start, stop) for start, stop in data]
        made = cls(pairs)
        if any(type(number) is not int for pair in pairs for number in pair) or list(made._pairs) != pairs:
            raise ValueError(f"{data!r} is not a sorted list of disjoint [start, stop) pairs of whole numbers")
        return made

    def to_json(self) -> list[list[int]]:
        return [[start, stop] for start, stop in self._pairs]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return self._pairs

    def add(self, number: int) -> Intervals:
        return self if number in self else Intervals((*self._pairs, (number, number + 1)))

    def union(self, other: Intervals) -> Intervals:
        if not other._pairs:
            return self
        return Intervals((*self._pairs, *other._pairs)) if self._pairs else other

    __or__ = union

    def intersection(self, other: Intervals) -> Intervals:
        found: list[tuple[int, int]] = []
        mine, theirs = self._pairs, other._pairs
        i = j = 0
        while i < len(mine) and j < len(theirs):
            start, stop = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
            if start < stop:
                found.append((start, stop))
            if mine[i][1] <= theirs[j][1]:
                i += 1
            else:
                j += 1
        return Intervals(found)

    __and__ = intersection

    def difference(self, other: Intervals) -> Intervals:
        found: list[tuple[int, int]] = []
        for start, stop in self._pairs:
            at = start
            for cut_start, cut_stop in other._pairs[max(0, bisect_right(other._pairs, (start,)) - 1) :]:
                if cut_start >= stop:
                    break
                if cut_start > at:
                    found.append((at, cut_start))
                at = max(at, cut_stop)
            if at < stop:
                found.append((at, stop))
        return Intervals(found)

    __sub__ = difference

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        at = bisect_right(self._pairs, (number + 1,)) - 1
        return at >= 0 and self._pairs[at][0] <= number < self._pairs[at][1]

    def __iter__(self) -> Iterator[int]:
        for start, stop in self._pairs:
            yield from range(start, stop)

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self._pairs)

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def __eq__(self, other: object) -> bool:
        return self._pairs == other._pairs if isinstance(other, Intervals) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Intervals is immutable")

    def __reduce__(self) -> tuple[type[Intervals], tuple[tuple[tuple[int, int], ...]]]:
        return Intervals, (self._pairs,)

    def __repr__(self) -> str:
        return f"Intervals({list(self._pairs)})"
