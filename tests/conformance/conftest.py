"""The clusters that the conformance tests run against: the local node, and a real one when a kubeconfig is given.

``ETLKIT_TEST_KUBECONFIG`` names it, ``ETLKIT_TEST_NAMESPACE`` a namespace that may be filled (default: etlkit-conformance),
``ETLKIT_TEST_IMAGE`` an image with a shell (default: busybox:1).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from etlkit.node.answers import Json
from etlkit.node.node import Node
from etlkit.node.timings import Timings

from .driver import CAPACITY_BYTES, Driver, NodeDriver

RECORDED = Path(__file__).parent.parent / "recorded"

QUICK = Timings(backoff_first_s=1.0, job_backoff_first_s=0.2, resize_error_retry_s=0.2, rule_restart_s=0.3)
"""The order of things is the real one; only the long waits are short."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(CAPACITY_BYTES, timings=QUICK) as made:
        yield made
        assert made.failure is None, made.failure


@pytest.fixture
def local(node: Node, tmp_path: Path) -> NodeDriver:
    """For what only the local node can be made to do: faults, and rules of a cluster's administrator."""
    return NodeDriver(node, tmp_path)


@pytest.fixture(params=["node", "cluster"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    if request.param == "node":
        with Node(CAPACITY_BYTES, timings=QUICK) as made:
            yield NodeDriver(made, tmp_path)
            assert made.failure is None, made.failure
        return
    kubeconfig = os.environ.get("ETLKIT_TEST_KUBECONFIG")
    if not kubeconfig:
        pytest.skip("ETLKIT_TEST_KUBECONFIG is not set: no real cluster to compare with")
    from .cluster import ClusterDriver

    with ClusterDriver.connect(Path(kubeconfig)) as cluster:
        yield cluster


def recorded(name: str) -> Json:
    """An answer or a timeline of a real API server."""
    found: Json = json.loads((RECORDED / f"{name}.json").read_text())
    return found
