"""The report in headless Chromium: laid out without anything that sticks out, light and dark, and nothing is asked of a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from etlkit.observe.report import page
from etlkit.observe.timeline import timeline
from tests.unit.test_observe_report import events, story

from ..browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: `make test` as root installs it")

SEEN = "[...document.querySelectorAll('figure, section, .tile, h1, .verdict')]"
OUTSIDE = (
    f"{SEEN}.filter(one => {{ const r = one.getBoundingClientRect(); return r.left < 0 || r.right > innerWidth + 1; }})"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(story(), timeline(events())), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("width", [1200, 800, 500, 360])
def test_nothing_sticks_out_at_any_width(browser: Browser, report: str, width: int) -> None:
    browser.look(report, width)
    assert browser.ask("innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(f"{OUTSIDE}.map(one => one.className || one.tagName)") == []
    assert browser.ask(f"{SEEN}.length") > 15
    assert browser.ask("document.querySelector('.plot').getBoundingClientRect().width") > width / 2
    assert browser.ask("performance.getEntriesByType('resource').length") == 0


def test_it_is_dark_for_who_wants_it_dark(browser: Browser, report: str) -> None:
    brightness = []
    for dark in (False, True):
        browser.look(report, 900, dark=dark)
        colour = browser.ask("getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
    assert brightness[0] > 600 and brightness[1] < 150


def test_what_sticks_out_would_be_found(browser: Browser, report: str) -> None:
    browser.look(report, 500)
    browser.ask("document.querySelector('h1').style.marginLeft = '600px'")
    assert browser.ask(f"{OUTSIDE}.length") > 0
