"""What the user set, and where: option beats environment beats ``etlkit.toml`` beats default.

Standard library only and read at every start, so it stays light. It parses and checks single values. It does not know
the machine's thresholds: the ``[policy]`` table is handed on as it is (``runtime/policy_file.py`` reads it).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path

from .errors import ConfigError, EtlkitError, UsageError
from .lazyclass import dataclass
from .units import parse_bytes, parse_cpu, parse_seconds

FILE_NAME = "etlkit.toml"
FILE_VARIABLE = "ETLKIT_CONFIG"
DEFAULT_GRACE_S = 30.0
"""Kubernetes' terminationGracePeriodSeconds where a manifest does not say. A pod's environment can't tell it."""
PROGRESS = ("auto", "plain", "json", "none")
RESIZE_REQUEST = ("follow", "keep")


@dataclass(frozen=True, slots=True)
class Settings:
    state: str | None = None
    """Where checkpoints go. None: ``.etlkit/NAME`` below the current folder."""
    checkpoint_every_s: float | None = 1.0
    """Bound on lost work: at most this long between checkpoints. Left at its default the cadence stretches where a checkpoint is dear;
    given, it is kept. None: no checkpoint by time, only on pressure, at the end of a stage and when the job is interrupted."""
    workers: int | None = None
    """Splits that run at once. None: as many as the cgroup's CPU quota has cores."""
    max_memory_bytes: int | None = None
    """Never ask for more memory than this. None: never ask."""
    max_cores: float | None = None
    """Never ask for more CPU than this, while the quota holds the job back. None: never ask."""
    progress: str = "auto"
    """``auto``: drawn on a terminal, else plain lines. ``json``: one event a line on stdout."""
    metrics_port: int | None = None
    """Serve Prometheus metrics at ``/metrics`` on this port."""
    metrics_file: str | None = None
    """Write Prometheus metrics to this file, for the node exporter's textfile collector."""
    lock_wait_s: float = 0.0
    """How long to wait for another live run of the same state before exit 73. In a pod, and on no terminal: grace and 30 s."""
    backoff_limit: int | None = None
    """The Job's, which a pod can't read: how many restarts are left for resizes follows from it. None: Kubernetes' default of 6."""
    keep: int = 2
    """Generations of checkpoints that are kept."""
    resize_request: str = "follow"
    """In a Burstable pod the request moves with the limit, or is kept (then a resize overcommits the node, F16)."""
    policy: Mapping[str, object] = field(default_factory=dict)
    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    def asked(self, key: str) -> bool:
        """Somebody set this; it is not a default. ``key`` as it is written in ``etlkit.toml``."""
        return not self.origins[key].startswith("default")

    def rows(self) -> list[tuple[str, object, str]]:
        """Key, value and origin of each, for ``doctor``."""
        rows: list[tuple[str, object, str]] = [(k.name, getattr(self, k.field), self.origins[k.name]) for k in _KEYS]
        return rows + [(f"policy.{name}", value, f"file {self.file}") for name, value in sorted(self.policy.items())]


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    field: str
    parse: Callable[[object], object]
    expects: str

    @property
    def variable(self) -> str:
        return f"ETLKIT_{self.name.upper()}"


def _text(value: object) -> str:
    if not isinstance(value, str) and not isinstance(value, os.PathLike):
        raise ValueError
    if not os.fspath(value):
        raise ValueError
    return os.fspath(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def _port(value: object) -> int:
    number = _count(value)
    if number > 65535:
        raise ValueError
    return number


def _count_or_none(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or int(value) < 0:
        raise ValueError
    return int(value)


def _memory(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    number = parse_bytes(int(value) if isinstance(value, str) and value.isdigit() else value)
    if number < 1:
        raise ValueError
    return number


def _cores(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    cores = parse_cpu(str(value))
    if cores <= 0:
        raise ValueError
    return float(cores)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    seconds = parse_seconds(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


def _positive_seconds(value: object) -> float:
    seconds = _seconds(value)
    if seconds <= 0:
        raise ValueError
    return seconds


def _interval(value: object) -> float | None:
    return None if value == "none" else _positive_seconds(value)


def _one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return parse


_KEYS = (
    _Key("state", "state", _text, "a folder or a URL"),
    _Key(
        "checkpoint_every", "checkpoint_every_s", _interval, "a duration above zero, such as 500ms, 1s or 2m, or none"
    ),
    _Key("workers", "workers", _count, "a whole number from 1"),
    _Key("max_memory", "max_memory_bytes", _memory, "a quantity such as 512Mi or 2Gi"),
    _Key("max_cpu", "max_cores", _cores, "cores such as 2 or 1500m"),
    _Key("progress", "progress", _one_of(PROGRESS), f"one of {', '.join(PROGRESS)}"),
    _Key("metrics_port", "metrics_port", _port, "a port from 1 to 65535"),
    _Key("metrics_file", "metrics_file", _text, "a file, such as etlkit.prom in the textfile collector's folder"),
    _Key("lock_wait", "lock_wait_s", _seconds, "a duration such as 0s, 30s or 2m"),
    _Key("backoff_limit", "backoff_limit", _count_or_none, "a whole number from 0, as in the Job"),
    _Key("keep", "keep", _count, "a whole number from 1"),
    _Key("resize_request", "resize_request", _one_of(RESIZE_REQUEST), f"one of {', '.join(RESIZE_REQUEST)}"),
)
KEYS = tuple(key.name for key in _KEYS)


def load(
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: str | os.PathLike[str] = ".",
    *,
    terminal: bool | None = None,
) -> Settings:
    """``options`` are the command line's, by key; None means not given, and names that are no settings are left alone,
    so ``vars(args)`` will do. Raises ``UsageError`` for a wrong option, ``ConfigError`` for environment and file."""
    options = options or {}
    path, table = _read_file(environ, Path(cwd))
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for key in _KEYS:
        option, variable = options.get(key.name), environ.get(key.variable, "")
        if option is not None:
            origins[key.name] = f"option --{key.name.replace('_', '-')}"
            values[key.field] = _parse(key, option, origins[key.name], UsageError)
        elif variable:
            origins[key.name] = f"environment {key.variable}"
            values[key.field] = _parse(key, variable, origins[key.name], ConfigError)
        elif key.name in table:
            origins[key.name] = f"file {path}"
            values[key.field] = _parse(key, table[key.name], f"{path}: '{key.name}'", ConfigError)
        else:
            origins[key.name] = "default"
    interactive = sys.stderr.isatty() if terminal is None else terminal
    if origins["lock_wait"] == "default" and environ.get("ETLKIT_POD_NAME") and not interactive:
        values["lock_wait_s"] = DEFAULT_GRACE_S + 30
        origins["lock_wait"] = "default in a pod: grace + 30 s"
    policy = table.get("policy", {})
    if not isinstance(policy, dict):
        raise ConfigError(f"{path}: 'policy' is {policy!r}", "write it as a table: [policy], then one threshold a line")
    return Settings(**values, policy=policy, file=path, origins=origins)  # type: ignore[arg-type]


def _parse(key: _Key, value: object, place: str, error: type[EtlkitError]) -> object:
    try:
        return key.parse(value)
    except (ValueError, OverflowError, UsageError) as cause:
        raise error(f"{place} is {value!r}", f"give {key.expects}") from cause


def config_file(environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The file that is in force: the one that ETLKIT_CONFIG names, else ``etlkit.toml`` in the current folder."""
    named = environ.get(FILE_VARIABLE, "")
    if named:
        return cwd / named
    path = cwd / FILE_NAME
    return path if path.is_file() else None


def read_toml(path: Path) -> dict[str, object]:
    """The file as a table, its top-level keys checked. Raises ``ConfigError``."""
    import tomllib

    try:
        table: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", f"create it, or unset {FILE_VARIABLE}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", "correct that line") from error
    for name in table:
        if name not in KEYS and name != "policy":
            raise ConfigError(f"{path}: unknown key '{name}'", nearest(name, (*KEYS, "policy")))
    return table


def nearest(name: str, known: tuple[str, ...]) -> str:
    """The remedy for an unknown key."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known keys are: {', '.join(known)}"


def _read_file(environ: Mapping[str, str], cwd: Path) -> tuple[Path | None, dict[str, object]]:
    path = config_file(environ, cwd)
    return path, {} if path is None else read_toml(path)
