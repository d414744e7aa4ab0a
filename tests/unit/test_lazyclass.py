"""The lazy decorator beside the standard library's, on the same classes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from etlkit import lazyclass

Decorator = Callable[..., Any]
FLAGS = [{}, {"frozen": True}, {"slots": True}, {"frozen": True, "slots": True}]


def a_class(decorator: Decorator, **flags: bool) -> Any:
    @decorator(**flags)
    class Point:
        x: float
        y: float = 2.0
        names: list[str] = field(default_factory=list)
        hidden: int = field(default=0, compare=False, repr=False)
        later: int = field(default=7, init=False)
        empty: dict[str, int] = field(default_factory=dict, init=False)

        def moved(self) -> Any:
            return dataclasses.replace(self, x=self.x + 1)  # type: ignore[type-var]

    return Point


def both(**flags: bool) -> list[Any]:
    return [a_class(dataclasses.dataclass, **flags), a_class(lazyclass.dataclass, **flags)]


@pytest.mark.parametrize("flags", FLAGS)
def test_it_is_the_standard_librarys(flags: dict[str, bool]) -> None:
    seen = []
    for kind in both(**flags):
        one, same, other = kind(1), kind(1, 2.0, [], 5), kind(x=1, y=3.0)
        nan = float("nan")
        hashable = kind.__hash__ is not None
        seen.append(
            (
                repr(one), repr(one.moved()), one == same, one == other, one == 1, kind(nan) == kind(nan), dataclasses.asdict(one),
                hashable, kind.__match_args__, [f.name for f in dataclasses.fields(kind)], hasattr(one, "__dict__"),
                one.names is not same.names, copy.copy(one) == one, copy.deepcopy(one) == one, one.later, one.empty,
                getattr(kind, "__slots__", None),
            )
        )  # fmt: skip
    assert seen[0] == seen[1]


@pytest.mark.parametrize("flags", FLAGS)
def test_it_refuses_what_the_standard_librarys_refuses(flags: dict[str, bool]) -> None:
    said = []
    for kind in both(**flags):
        for call in (
            lambda kind=kind: kind(),
            lambda kind=kind: kind(1, unknown=2),
            lambda kind=kind: kind(1, later=2),
        ):
            with pytest.raises(TypeError) as caught:
                call()
            said.append(str(caught.value).rpartition(".")[2])
        if flags.get("frozen"):
            for act in (lambda one: setattr(one, "x", 2), lambda one: delattr(one, "x")):
                with pytest.raises(FrozenInstanceError) as refused:
                    act(kind(1))
                said.append(str(refused.value))
        else:
            one = kind(1)
            one.x = 5
            assert one.x == 5
    assert said[: len(said) // 2] == said[len(said) // 2 :]


@lazyclass.dataclass(frozen=True, slots=True)
class Sent:
    a: int
    b: tuple[int, ...] = ()


def test_a_frozen_one_can_be_pickled_and_hashed() -> None:
    assert pickle.loads(pickle.dumps(Sent(1, (2,)))) == Sent(1, (2,))
    assert {Sent(1), Sent(1)} == {Sent(1)}


def test_what_the_author_wrote_is_kept() -> None:
    @lazyclass.dataclass(frozen=True)
    class Named:
        """Says so."""

        name: str

        def __post_init__(self) -> None:
            object.__setattr__(self, "name", self.name.upper())

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 3

        def __repr__(self) -> str:
            return "mine"

    assert (Named("a").name, Named("a") == Named("b"), hash(Named("a")), repr(Named("a"))) == ("A", True, 3, "mine")
    assert Named.__doc__ == "Says so."


def test_a_class_below_another() -> None:
    @lazyclass.dataclass(frozen=True, slots=True)
    class Base:
        a: int

    @lazyclass.dataclass(frozen=True, slots=True)
    class Below(Base):
        b: int = 2

    assert (Below(1).a, Below(1).b, Base(1) == Below(1)) == (1, 2, False)
