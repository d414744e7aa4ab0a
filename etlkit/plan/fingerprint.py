"""The identity of a run: what it does, with which parameters, over which input.

A fingerprint has one digest a part, so that a refusal can say which part changed. Everything is made of canonical bytes
(law 12). What may change without changing it: workers, limits, cadence, the machine, and code that keeps plan and function versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from . import nodes
from .pipeline import Pipeline

PLAN_VERSION = "1"
"""Raised when a release cuts the same plan into other splits or partitions."""


def digest(data: object) -> str:
    """SHA-256 over JSON with sorted keys, as hex."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(
    job: str,
    parameters: Mapping[str, object],
    pipelines: Sequence[Pipeline],
    inventory: Sequence[tuple[str, int, str]],
) -> dict[str, str]:
    """``inventory``: (path, size in bytes, version) of every input file, in order."""
    ends = [pipeline.node for pipeline in pipelines]
    plan = [nodes.canonical(end) for end in ends]
    return {
        "job": job,
        "parameters": digest({name: str(value) for name, value in parameters.items()}),
        "plan": digest(plan),
        "input": digest([list(one) for one in inventory]),
        "format": PLAN_VERSION,
    }


def run_id(parts: Mapping[str, str]) -> str:
    """The default identity: job, parameters and input. The same again is the same run."""
    return digest([parts["job"], parts["parameters"], parts["input"]])[:12]


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The parts that differ, in words."""
    words = {
        "job": "another job",
        "parameters": "other parameters",
        "plan": "the pipeline or the version of one of its functions",
        "input": "the input files",
        "format": "the version of etlkit's plans",
        "shards": "another number of --shards",
    }
    return [
        words.get(part, part)
        for part in dict.fromkeys((*words, *before))
        if before.get(part) != now.get(part) and part in before
    ]


def changed_parameters(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Parameters that have another value, or are new or gone, in words. ``before`` holds them as text."""
    said = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if (name in before) != (name in now) or str(old) != str(new):
            said.append(f"{name} was {old if name in before else 'not there'}, is {new if name in now else 'gone'}")
    return said


def changed_files(before: Sequence[Sequence[object]], now: Sequence[tuple[str, int, str]]) -> list[str]:
    """Input files that were changed, added or removed, in words."""
    old = {str(path): (size, version) for path, size, version in before}
    new = {path: (size, version) for path, size, version in now}
    said = [f"{path} is gone" for path in old if path not in new]
    said += [f"{path} is new" for path in new if path not in old]
    said += [f"{path} changed" for path in new if path in old and tuple(old[path]) != new[path]]
    return said
