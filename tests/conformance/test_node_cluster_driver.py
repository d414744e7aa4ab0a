"""The driver for a real cluster, tried on the local node: so that it works on the day that there is a cluster.

The local node answers an operator's calls, and a few rows go through them here. It shows that the driver asks the right things in
the right way; that a real cluster answers the same is what the driver is for.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from etlkit.node.node import Node

from . import test_node_facts as facts
from .cluster import ClusterDriver


@pytest.fixture
def driver(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterDriver]:
    monkeypatch.setenv("ETLKIT_TEST_NAMESPACE", node.namespace)
    with ClusterDriver.connect(node.kubeconfig()) as made:
        yield made


ROWS = [
    facts.test_f02_restart_sees_the_old_limit_at_sigterm_and_the_new_one_after,
    facts.test_f06_patched_back_it_is_withdrawn,
    facts.test_f08_a_job_survives_backoff_limit_minus_one_restarts,
    facts.test_f09_never_with_restart_container_is_refused_at_creation,
    facts.test_f20_a_sidecar_is_resized_and_the_others_stay,
    facts.test_f22_a_replacement_pod_has_the_templates_size,
    facts.test_f25_a_failure_policy_ends_the_job_at_a_permanent_exit_code,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__.removeprefix("test_"))
def test_a_row_through_the_api(driver: ClusterDriver, row: object) -> None:
    row(driver)  # type: ignore[operator]
