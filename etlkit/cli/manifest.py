"""``etlkit manifest TARGET --image IMAGE``: the Kubernetes YAML for a job, with the reason of each setting beside it.

Covers one Job with its account, role and volume, as a text to keep, change and apply. It applies nothing and asks no cluster. The text
is ``job.yaml.in``; ``manifests/etlkit-job.yaml`` is what this prints for the call in its first lines.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.resources import files
from string import Template

NAME = "manifest"
HELP = "print the Kubernetes YAML for a job"

_PLAIN = re.compile(r"(?:[A-Za-z/]|--|\./)[A-Za-z0-9/._=+@-]*(?::[A-Za-z0-9/._=+@-]+)*")
_WORDS_THAT_MEAN_MORE = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "~", ".inf", ".nan"})
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="as the image has it: jobs/x.py or package.module:name")
    parser.add_argument("--image", required=True, help="the image, with etlkit-runtime and the job in it")
    parser.add_argument("--name", help="of the Job and its volume (default: the job's)")
    parser.add_argument("--namespace", default="etl", help="(default: etl)")
    parser.add_argument("--memory", metavar="SIZE", default="512Mi", help="what it starts with (default: 512Mi)")
    parser.add_argument("--max-memory", metavar="SIZE", default="4Gi", help="the most it may ask for (default: 4Gi)")
    parser.add_argument("--cpu", metavar="N", default="2", help="the CPU limit; half of it is requested (default: 2)")
    parser.add_argument("--storage", metavar="SIZE", default="20Gi", help="of the volume (default: 20Gi)")
    parser.add_argument(
        "--resize-policy",
        choices=("RestartContainer", "NotRequired"),
        default="RestartContainer",
        help="what a change of memory does (default: RestartContainer)",
    )
    parser.add_argument("--backoff-limit", metavar="N", type=int, default=12, help="the Job's (default: 12)")
    parser.add_argument("--grace", metavar="T", default="60s", help="from SIGTERM to SIGKILL (default: 60s)")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="a parameter of the job")


def run(args: argparse.Namespace) -> int:
    from ..plan.job import load
    from .run import parameters_of

    job = load(args.target)
    job.bind(parameters_of(args.set))
    sys.stdout.write(text(vars(args), job.name))
    return 0


def text(options: Mapping[str, object], job: str) -> str:
    """The YAML. ``options`` as the command line's; ``job`` is the job's name. Errors: UsageError."""
    from ..errors import UsageError
    from ..memory.allocation import allocator_environment
    from ..units import parse_bytes, parse_cpu, parse_seconds

    name = str(options.get("name") or re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-"))
    namespace = str(options["namespace"])
    for what, label in (("--name", name), ("--namespace", namespace)):
        if not _LABEL.fullmatch(label):
            raise UsageError(f"{what} {label} is no name for Kubernetes", "use a-z, 0-9 and -, at most 63 of them")
    memory, max_memory = str(options["memory"]), str(options["max_memory"])
    if parse_bytes(max_memory) < parse_bytes(memory):
        raise UsageError(
            f"--max-memory {max_memory} is less than --memory {memory}", "raise it: it is the most to ask for"
        )
    backoff_limit = int(str(options["backoff_limit"]))
    policy = str(options["resize_policy"])
    if policy == "RestartContainer" and backoff_limit < 2:
        raise UsageError(
            f"--backoff-limit {backoff_limit} leaves no room for a resize: the first restart fails the Job",
            "give at least 2, or --resize-policy NotRequired",
        )
    pairs = [str(pair) for pair in options["set"]]  # type: ignore[attr-defined]
    filled = {
        "command": _command(options),
        "name": _scalar(name),
        "namespace": _scalar(namespace),
        "image": _scalar(str(options["image"])),
        "target": _scalar(str(options["target"])),
        "arguments": "".join(f"            - {_scalar(f'--set={pair}')}\n" for pair in pairs),
        "memory": _scalar(memory),
        "max_memory": _scalar(max_memory),
        "cpu": _scalar(str(options["cpu"])),
        "cpu_request": _scalar(_millicores(parse_cpu(str(options["cpu"])) / 2)),
        "storage": _scalar(str(options["storage"])),
        "resize_policy": policy,
        "backoff_comment": _backoff(policy, backoff_limit),
        "backoff_limit": backoff_limit,
        "grace_s": round(parse_seconds(str(options["grace"]))),
        "state": _scalar(f"/data/state/{job}"),
        "allocator": "".join(
            f"            - name: {key}\n              value: {_scalar(value)}\n"
            for key, value in allocator_environment(parse_bytes(memory)).items()
        ),
    }
    parse_bytes(str(options["storage"]))
    return Template(files(__package__).joinpath("job.yaml.in").read_text(encoding="utf-8")).substitute(filled)


def _backoff(policy: str, limit: int) -> str:
    if policy == "NotRequired":
        return "# A resize is live here and restarts nothing; only failures count."
    return (
        "# Every resize with RestartContainer is a restart, and the Job fails when they reach this: "
        f"{limit} leaves room for {limit - 1} (F8)."
    )


def _command(options: Mapping[str, object]) -> str:
    """The call that prints the same again: the options that are not the defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    words = ["etlkit", "manifest", str(options["target"])]
    for action in parser._actions:
        value = options.get(action.dest)
        if not action.option_strings or value in (None, action.default):
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [action.option_strings[-1], str(one)]
    line = " ".join(shlex.quote(word) for word in words)
    return "".join(one if one.isprintable() else "?" for one in line)  # it stands in a comment, on one line


def _millicores(cores: float) -> str:
    return f"{cores:g}" if cores == int(cores) else f"{round(cores * 1000)}m"


def _scalar(value: str) -> str:
    """As YAML, in quotes only where it would be taken for something else."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS_THAT_MEAN_MORE:
        return value
    if re.fullmatch(r"[0-9.]+[A-Za-z]+", value) and not re.fullmatch(r"[0-9.]+[eE]", value):
        return value  # a quantity: 512Mi
    escaped = (one if one.isprintable() and one not in '"\\' else f"\\U{ord(one):08x}" for one in value)
    return f'"{"".join(escaped)}"'
