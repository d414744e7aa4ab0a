"""``@ek.job``: a function whose parameters are the job's, and loading one from TARGET.

TARGET is ``jobs/part_revenue.py``, ``package.module:name`` or ``jobs/many.py:name`` (contract). Parameters are read from
the signature: names, types, defaults. Values from the command line are converted by the annotation.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UsageError
from .nodes import Write, WriteSink
from .pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Job:
    """A named function from parameters to one pipeline or several, each ending in a sink. Made by ``@ek.job``."""

    name: str
    fn: Callable[..., Pipeline | Sequence[Pipeline]]
    parameters: Mapping[str, inspect.Parameter]
    doc: str

    def __call__(self, *args: Any, **kwargs: Any) -> Pipeline | Sequence[Pipeline]:
        return self.fn(*args, **kwargs)

    def bind(self, given: Mapping[str, object]) -> dict[str, object]:
        """All parameters with values: ``given`` ones, strings converted by annotation, then defaults.

        Errors: ``UsageError`` for a name that is no parameter, a value that is not of its type, or one that is missing.
        """
        values: dict[str, object] = {}
        for name in given:
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, 1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise UsageError(
                    f"job '{self.name}' has no parameter '{name}'",
                    f"{hint}it has: {', '.join(self.parameters) or 'none'}",
                )
        hints = typing.get_type_hints(self.fn) if self.parameters else {}
        for name, parameter in self.parameters.items():
            if name in given:
                value = given[name]
                values[name] = _convert(name, value, hints.get(name, str)) if isinstance(value, str) else value
            elif parameter.default is inspect.Parameter.empty:
                raise UsageError(f"job '{self.name}' needs a value for '{name}'", f"add --set {name}=…")
            else:
                values[name] = parameter.default
        return values

    def pipelines(self, parameters: Mapping[str, object]) -> tuple[Pipeline, ...]:
        """The pipelines for these parameters. An exception of the author's function is raised as it is.

        Errors: ``ConfigError`` for what is no pipeline, or one without a sink.
        """
        return as_pipelines(self.fn(**parameters), f"job '{self.name}'")


def as_pipelines(made: object, whose: str) -> tuple[Pipeline, ...]:
    """One pipeline or several, each checked to end in a sink."""
    several = (made,) if isinstance(made, Pipeline) else tuple(made) if isinstance(made, list | tuple) else ()
    if not several or not all(isinstance(one, Pipeline) for one in several):
        raise ConfigError(f"{whose} returned {type(made).__name__}", "return an ek.Pipeline, or a list of them")
    for one in several:
        if not isinstance(one.node, Write | WriteSink):
            raise ConfigError(f"{whose} returned a pipeline without a sink", "end it with .write_parquet(path)")
    return several


def job(fn: Callable[..., Pipeline | Sequence[Pipeline]]) -> Job:
    """Make a function a job: ``@ek.job``. Its parameters become ``--set name=value``, its docstring the description.

    The function returns a pipeline that ends in a sink, or a list of them; their outputs appear together. Values from the command line
    are converted by the parameter's annotation: ``str``, ``int``, ``float``, ``bool``, ``Path``, dates and times, lists of them (with
    commas), ``X | None``. Parameters are part of a run's identity, and are logged: no place for secrets.

    Errors: ``ConfigError`` for ``*args`` or ``**kwargs``.
    """
    parameters = dict(inspect.signature(fn).parameters)
    for name, parameter in parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise ConfigError(
                f"job '{fn.__name__}' takes *{name}", "name each parameter: they are part of a run's identity"
            )
    return Job(fn.__name__, fn, parameters, inspect.getdoc(fn) or "")


def _convert(name: str, text: str, kind: Any) -> object:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        choices = [one for one in typing.get_args(kind) if one is not type(None)]
        if text.lower() in ("none", "null") and len(choices) < len(typing.get_args(kind)):
            return None
        kind = choices[0]
        origin = typing.get_origin(kind)
    if origin in (list, tuple):
        inner = (typing.get_args(kind) or (str,))[0]
        return [_convert(name, one, inner) for one in text.split(",") if one]
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind in (int, float, Path):
            return kind(text)
        if hasattr(kind, "fromisoformat"):
            return kind.fromisoformat(text)
    except (ValueError, KeyError):
        raise UsageError(f"--set {name}={text}: not {getattr(kind, '__name__', kind)}", "check the value") from None
    return text


def load(target: str) -> Job:
    """The job that TARGET names. Errors: UsageError (2) if there is none, with the remedy."""
    place, _, name = target.partition(":")
    if place.endswith(".py"):
        module = _load_file(Path(place))
    else:
        sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name and not place.startswith(error.name):
                raise
            raise UsageError(f"no module '{place}'", "give a file (jobs/x.py), or package.module:name") from None
        finally:
            sys.path.pop(0)
    found = {key: value for key, value in vars(module).items() if isinstance(value, Job)}
    if name:
        if name not in found:
            raise UsageError(f"'{place}' has no job '{name}'", f"it has: {', '.join(found) or 'none; use @ek.job'}")
        return found[name]
    own = {key: value for key, value in found.items() if value.fn.__module__ == module.__name__} or found
    if len(own) != 1:
        known = ", ".join(f"{place}:{key}" for key in own)
        raise UsageError(f"'{place}' has {len(own)} jobs", f"name one: {known}" if own else "decorate one with @ek.job")
    return next(iter(own.values()))


def _load_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise UsageError(f"no file '{path}'", "give the path of the job's Python file")
    spec = importlib.util.spec_from_file_location(f"etlkit_job_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"'{path}' cannot be loaded as Python", "give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{error.filename}:{error.lineno}: {error.msg}", "mend the job's file") from error
    finally:
        sys.path.pop(0)
    return module
