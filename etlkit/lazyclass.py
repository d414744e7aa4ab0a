"""``dataclass`` that costs a fifth at import: the methods of a class are made when they are first wanted.

The standard library's writes each method of each class as text and compiles it, at every start: two hundred classes were a third
of what etlkit's start took, and a restart pays it again (ADR 11). Here only ``__init__`` is compiled, at the first
construction; the others are closures. Fields, ``replace``, ``asdict``, slots and matching are the standard library's own.

Takes ``frozen``, ``slots``, ``eq`` and ``repr``. It does not cover ``order``, ``kw_only``, ``InitVar`` and inheritance from a class of
the standard library's decorator; classes that users import keep that one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, repr=True):
        """The standard library's decorator of this name, lazily."""

        def decorate(cls):
            return _made(cls, frozen, slots, eq, repr)

        return decorate if cls is None else decorate(cls)


def _made(plain: type, frozen: bool, slots: bool, eq: bool, repr: bool) -> type:
    own = set(plain.__dict__)
    if not plain.__doc__:
        plain.__doc__ = plain.__name__  # else the signature is worked out for it
    cls: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(plain)
    fields = dataclasses.fields(cls)
    names = tuple(f.name for f in fields)
    methods: dict[str, Any] = {"__init__": _first_init(cls, frozen)}
    if repr:
        methods["__repr__"] = _repr(tuple(f.name for f in fields if f.repr))
    if eq:
        values = _values(tuple(f.name for f in fields if f.compare))
        methods["__eq__"] = _eq(values)
        methods["__hash__"] = _hash(values) if frozen else None
        if "__eq__" in own and plain.__dict__["__hash__"] is None:
            own.discard("__hash__")  # Python's own answer to an __eq__, not the author's
    if frozen:
        methods["__setattr__"], methods["__delattr__"] = _refuses("assign to"), _refuses("delete")
        if slots:
            methods["__getstate__"], methods["__setstate__"] = _getstate(names), _setstate(names)
    for name, method in methods.items():
        if name not in own:
            if method is not None:
                method.__qualname__ = f"{cls.__qualname__}.{name}"
            setattr(cls, name, method)
    made: type = cls
    return made


def _first_init(cls: type, frozen: bool) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **given: Any) -> None:
        made = _init(cls, frozen)
        cls.__init__ = made  # type: ignore[misc]
        made(self, *args, **given)

    return __init__


def _init(cls: type, frozen: bool) -> Callable[..., None]:
    """``__init__`` as one would write it by hand, compiled."""
    known: dict[str, Any] = {"_absent": object(), "_set": object.__setattr__}
    parameters, lines = ["self"], []
    for f in dataclasses.fields(cls):
        value = f.name
        if f.default_factory is not dataclasses.MISSING:
            known[f"_make_{f.name}"] = f.default_factory
            value = f"_make_{f.name}() if {f.name} is _absent else {f.name}" if f.init else f"_make_{f.name}()"
            parameters += [f"{f.name}=_absent"] * f.init
        elif f.default is not dataclasses.MISSING:
            known[f"_default_{f.name}"] = f.default
            if not f.init:
                value = f"_default_{f.name}"
            parameters += [f"{f.name}=_default_{f.name}"] * f.init
        elif f.init:
            parameters.append(f.name)
        else:
            continue
        lines.append(f"_set(self, {f.name!r}, {value})" if frozen else f"self.{f.name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n  " + "\n  ".join(lines or ["pass"]), known)
    made: Callable[..., None] = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _values(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        get = attrgetter(names[0])
        return lambda self: (get(self),)
    return attrgetter(*names) if names else lambda self: ()


def _repr(names: tuple[str, ...]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _eq(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any, object], bool]:
    def __eq__(self: Any, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    return __eq__


def _hash(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:
        return hash(values(self))

    return __hash__


def _refuses(what: str) -> Callable[..., None]:
    def refuse(self: Any, name: str, *value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot {what} field {name!r}")

    return refuse


def _getstate(names: tuple[str, ...]) -> Callable[[Any], list[Any]]:
    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    return __getstate__


def _setstate(names: tuple[str, ...]) -> Callable[[Any, list[Any]], None]:
    def __setstate__(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    return __setstate__
