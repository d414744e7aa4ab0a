"""The cluster's story, tried on the local node, so that it works on the day that there is a cluster.

Submitting, following, resizing, restarting, checking: the same code, the same official client. Image, volumes and the
init container are the machine's own Python and a folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etlkit.units import parse_bytes, quantity_bytes
from tests.unit.cluster_double import Double, double

from . import story as story_module
from .story import Story, told

FILES, ROWS = 8, 250_000


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with double(monkeypatch) as made:
        made.node.rules.granted.add(("create", "events"))
        yield made


@pytest.fixture
def story(node: Double, tmp_path: Path) -> Iterator[Story]:
    options = {"root": str(tmp_path), "files": FILES, "rows": ROWS, "here": True, "python": (sys.executable,)}
    with told("jobs:1", "etl", **options) as made:
        yield made


@pytest.mark.parametrize("shape", ["restart", "live"])
def test_it_starts_too_small_is_resized_and_finishes(story: Story, tmp_path: Path, shape: str) -> None:
    story_module.grows_and_finishes(story, tmp_path, shape, "128Mi", "--grace=10s")


def test_it_is_deferred_behind_a_blocker_and_then_granted(story: Story, node: Double, tmp_path: Path) -> None:
    def fill(leaving: str) -> Callable[[], None]:
        used = node.node.used_by_others("")
        room = node.node.capacity_bytes - used - parse_bytes(leaving)
        assert node.node.add_pod("blocker", quantity_bytes(room))
        return lambda: node.node.remove_pod("blocker")

    story_module.is_deferred_and_then_granted(story, tmp_path, fill, "128Mi", "--grace=10s")
