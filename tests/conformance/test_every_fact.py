"""Each row of the facts about in-place resize, and the tests that state it: found by their names, ``test_fNN_…``.

A row without a test fails here; so does a test of a row that is not in the list. What each row says is in the tests. The client is
tested on the recorded answers, each file of them at least once.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from . import test_node_facts
from .conftest import RECORDED

ROWS = {
    1: "a PATCH of pods/resize: 200, the next generation",
    2: "memory, RestartContainer: SIGTERM at the old limit, restart at the new, no back-off",
    3: "SIGTERM's grace; SIGKILL past it",
    4: "memory, NotRequired: the limit file changes, no restart; the downward volume is ahead",
    5: "a shrink below use, page cache included, hangs, lands in a dip or is taken back",
    6: "Deferred: granted when others leave, tried again, withdrawn, holds its room",
    7: "more than the node has: 403, before 1.36 Infeasible",
    8: "resize restarts count against backoffLimit, sidecars' too",
    9: "Never with RestartContainer: 422 at creation",
    10: "a restart by restartPolicyRules does not count",
    11: "a container that is Never restarted is, by a resize",
    12: "exit 0 on the resize's SIGTERM",
    13: "an OOM kill: 137, back-off, who dies, a new size has a fresh one",
    14: "a restart while Deferred or Infeasible: the old limit",
    15: "an exit between PATCH and actuation can meet the pod's old limit",
    16: "QoS: a Guaranteed pod moves both, a Burstable one may raise the limit alone",
    17: "what validation refuses, in its words",
    18: "LimitRange, ResourceQuota, admission policy",
    19: "CPU is live",
    20: "a sidecar is resized, the others stay",
    21: "level, not edge: the status flips back, and follows the limit file",
    22: "a replacement pod starts at the template's size",
    23: "RBAC, and a policy for only oneself up to a cap",
    24: "when a deleted pod's replacement starts",
    25: "podFailurePolicy, with Never only",
    26: "swap, static managers: Infeasible",
    27: "somebody else's resize",
    28: "the container's own name is a literal variable",
    29: "a plain pod with Always runs the finished job again",
}


def rows_of(name: str) -> list[int]:
    """``test_f16_f17_words`` states two rows."""
    found = re.match(r"test((?:_f\d\d)+)_", name)
    return [int(number) for number in re.findall(r"\d\d", found[1])] if found else []


def test_each_row_is_a_test() -> None:
    stated = {row for name in vars(test_node_facts) for row in rows_of(name)}
    assert stated == set(ROWS), "a row without a test, or a test of no row"


@pytest.mark.parametrize("folder", ["conformance", "unit"])
def test_each_recorded_answer_is_compared_with(folder: str) -> None:
    """With the node's in this folder, with what the client makes of it in the unit tests. Timelines go by their short names."""
    files = (RECORDED.parent / folder).glob("test_*.py")
    text = "".join(path.read_text() for path in files if path.name != Path(__file__).name)
    names = {path.stem.removeprefix("timeline-") for path in RECORDED.glob("*.json")} - {"get-running"}
    assert sorted(name for name in names if name not in text) == []
