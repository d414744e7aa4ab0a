"""Holding documents to the rules: every rule on every workload that runs etlkit. Pure.

It covers what schemas can't see. Unknown fields and wrong types are for `kubectl apply --dry-run=server`, or kubernetes-validate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import rules_job, rules_pod, rules_safety
from .workload import Finding, Json, Level, Workload, workloads

RULES: tuple[Callable[[Workload], Iterator[Finding]], ...] = (
    *rules_job.RULES,
    *rules_pod.RULES,
    *rules_safety.RULES,
)


def lint(documents: Sequence[Json]) -> list[Finding]:
    """Failures first; each finding once."""
    found = [finding for w in workloads(documents) for rule in RULES for finding in rule(w)]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.level is not Level.FAIL)
