"""The sentences at the head of the report: how it ended, what memory had to do with it, what a restart cost."""

from __future__ import annotations

import pytest

from etlkit.observe.timeline import timeline
from etlkit.observe.verdict import verdict
from etlkit.units import GIB, MIB
from tests.unit.test_observe_report import events, story


def test_a_run_that_was_resized() -> None:
    assert verdict(story(), timeline(events())) == (
        "Done in 14.0 s: 40,000 rows in, 10 out, each input row counted once. It began with 192 MiB, saw that this would not do, "
        "asked for 1 GiB and had it within 2.0 s. One restart, and no row was read twice."
    )


ASKED = story()["resizes"][0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"status": "failed"}, "Failed for good after 14.0 s, with 40,000 rows read and saved. No output is visible."),
        ({"status": "interrupted"}, "The same command goes on from there."),
        ({"status": "running"}, "Running for 14.0 s"),
        ({"resizes": []}, "It kept within its limit of 192 MiB."),
        ({"resizes": [], "oom_kills": 2}, "It was killed at its limit twice and went on from its last checkpoint."),
        ({"resizes": [{**ASKED, "outcome": "infeasible"}]}, "Its request for 1 GiB was infeasible, and it got by with 192 MiB."),
        ({"resizes": [{**ASKED, "to_bytes": 64 * MIB}]}, "It gave memory back: 192 MiB became 64 MiB."),
        ({"resizes": [ASKED, {**ASKED, "to_bytes": 2 * GIB}]}, "asked for more twice, up to 2 GiB, and had each within 2.0 s."),
        ({"rows_repeated": 4_000}, "One restart, after which 4,000 rows (10.0 %) were read again."),
    ],
)  # fmt: skip
def test_what_came_differently(more: dict[str, object], words: str) -> None:
    assert words in verdict(story(**more), timeline(events()))


def test_without_a_limit_nothing_is_said_of_memory() -> None:
    unlimited = [{**one, "limit_bytes": None} for one in events()]
    assert "MiB" not in verdict(story(resizes=[]), timeline(unlimited))
