"""The report in headless Chromium: laid out without anything that sticks out, light and dark, and nothing is asked of a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from etlkit.observe.report import page
from etlkit.observe.timeline import timeline
from tests.unit.test_observe_report import events, story

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
PROBE = """<script>
const plot = document.querySelector('.plot'), seen = [...document.querySelectorAll('figure, section, .tile, h1, .verdict')];
const outside = seen.filter(one => { const r = one.getBoundingClientRect(); return r.left < 0 || r.right > innerWidth + 1; });
document.body.dataset.found = [document.documentElement.scrollWidth <= innerWidth, outside.length, seen.length,
  plot.getBoundingClientRect().width > innerWidth / 2, getComputedStyle(document.body).backgroundColor,
  performance.getEntriesByType('resource').length].join(' | ');
</script></body>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: `make test` as root installs it")


def looked_at(folder: Path, width: int, *flags: str) -> list[str]:
    """What the page says of its own layout. The probe is put into a copy: the report itself has no script."""
    copy = folder / "report.html"
    copy.write_text(page(story(), timeline(events())).replace("</body>", PROBE), encoding="utf-8")
    profile = folder / f"profile-{width}-{len(flags)}"
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*command, copy.as_uri()], capture_output=True, text=True, timeout=120)
    match = re.search(r'data-found="([^"]+)"', done.stdout)
    assert match, done.stderr[-2000:]
    return match[1].split(" | ")


@pytest.mark.parametrize("width", [1200, 800, 500])
def test_nothing_sticks_out_at_any_width(tmp_path: Path, width: int) -> None:
    fits, outside, seen, wide, _, fetched = looked_at(tmp_path, width)
    assert (fits, outside, wide, fetched) == ("true", "0", "true", "0")
    assert int(seen) > 15


def test_it_is_dark_for_who_wants_it_dark(tmp_path: Path) -> None:
    light = looked_at(tmp_path, 900)[4]
    dark = looked_at(tmp_path, 900, "--blink-settings=preferredColorScheme=0")[4]
    brightness = [sum(map(int, re.findall(r"\d+", text)[:3])) for text in (light, dark)]
    assert brightness[0] > 600 and brightness[1] < 150
