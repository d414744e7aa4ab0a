"""The table of facts in docs/kubernetes.md: each of the 29 has its place, its test, and a test of the node itself."""

from __future__ import annotations

import re

from ..conftest import REPOSITORY

ROW = re.compile(r"^\| F(\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
PLACE = re.compile(r"`([^`]+/[^`]+)`")


def test_each_fact_has_its_place_and_is_tested() -> None:
    rows = ROW.findall((REPOSITORY / "docs" / "kubernetes.md").read_text())
    assert [int(number) for number, *_ in rows] == list(range(1, 30))
    facts = (REPOSITORY / "tests" / "conformance" / "test_node_facts.py").read_text()
    for number, fact, heeded, shown in rows:
        assert PLACE.search(heeded) and PLACE.search(shown), f"F{number}: {fact}"
        gone = [place for place in PLACE.findall(heeded + shown) if not (REPOSITORY / place).exists()]
        assert not gone, f"F{number} is said to be in {gone}"
        assert re.search(rf"^def test_f{int(number):02}_", facts, re.MULTILINE) or f"_f{int(number):02}_" in facts, (
            f"no test of F{number} on a node"
        )
