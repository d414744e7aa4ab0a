"""The kill campaign in its short form, and that its judge can tell."""

from __future__ import annotations

import pyarrow as pa
import pytest

from .campaign import JOBS, difference, run_campaign, table

KILLS = 40


def test_forty_kills_lose_and_double_nothing(tmp_path):
    verdicts, _ = run_campaign(tmp_path, KILLS, seed=1)
    assert sum(len(verdict.kills) for verdict in verdicts) >= KILLS
    assert {verdict.job for verdict in verdicts if verdict.kills} == set(JOBS)
    wrong = [str(verdict) for verdict in verdicts if not verdict.good]
    assert not wrong, "\n".join([*wrong, *table(verdicts)])


@pytest.mark.parametrize(
    ("values", "lost", "doubled"),
    [([1, 2, 2, 3], 0, 0), ([3, 2, 1, 2], 0, 0), ([1, 2, 3], 1, 0), ([1, 1, 2, 2, 3], 0, 1)],
)
def test_the_judge_counts_rows_as_a_multiset(values, lost, doubled):
    assert difference(pa.table({"x": [1, 2, 2, 3]}), pa.table({"x": values})) == (lost, doubled)
