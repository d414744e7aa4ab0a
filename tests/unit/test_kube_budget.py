"""The Job's arithmetic (F8)."""

from __future__ import annotations

import pytest

from etlkit.kube.budget import DEFAULT_BACKOFF_LIMIT, UNLIMITED, restarts_left


@pytest.mark.parametrize(
    ("backoff_limit", "counts", "left"),
    [(0, [0], 0), (1, [0], 0), (2, [0], 1), (6, [0, 0], 5), (6, [2, 1], 2), (6, [5], 0), (6, [9], 0), (3, [], 2)],
)
def test_every_restart_of_every_container_counts(backoff_limit: int, counts: list[int], left: int) -> None:
    assert restarts_left(backoff_limit, counts) == left


def test_a_job_that_does_not_say() -> None:
    assert restarts_left(None, [1]) == DEFAULT_BACKOFF_LIMIT - 2


def test_where_nobody_counts() -> None:
    assert restarts_left(0, [7], in_job=False) == UNLIMITED
    assert restarts_left(0, [7], restart_policy="Never") == UNLIMITED
