"""The report: one file, nothing fetched, well-formed, in proportion, and safe with whatever a job is called."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from etlkit.observe.charts import Chart, byte_ticks, clock, decimal_ticks, thinned, time_ticks
from etlkit.observe.report import page
from etlkit.observe.timeline import timeline
from etlkit.units import GIB, MIB

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checker(HTMLParser):
    """Every element closed where it should be; all text kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def parse(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def at(second: float) -> str:
    return f"2025-11-24T10:{int(second // 60):02d}:{second % 60:06.3f}Z"


def events(progress: int = 40):
    yield {"event": "attempt_started", "at": at(0), "attempt": 1, "run_id": "r", "limit_bytes": 192 * MIB}
    for number in range(progress):
        yield {
            "event": "progress", "at": at(number / 4), "used_bytes": (50 + number) * MIB, "limit_bytes": 192 * MIB,
            "projected_bytes": 300 * MIB, "rows_in": number * 1000, "rows_per_s": 4000, "level": "calm",
        }  # fmt: skip
    end = progress / 4
    yield {"event": "checkpoint", "at": at(end), "id": 7, "duration_s": 0.05, "bytes": 3 * MIB, "reason": "a <b> & c"}
    yield {"event": "resize", "at": at(end), "outcome": "requested", "to_bytes": GIB, "reason": "forecast"}
    yield {"event": "resize", "at": at(end), "outcome": "requested", "to_bytes": GIB, "reason": "forecast"}
    yield {"event": "attempt_ended", "at": at(end), "attempt": 1, "exit_code": 75, "rows_in": progress * 1000}
    yield {"event": "attempt_started", "at": at(end + 2), "attempt": 2, "run_id": "r", "limit_bytes": GIB}
    for number in range(3):
        yield {
            "event": "progress",
            "at": at(end + 2 + number),
            "used_bytes": 90 * MIB,
            "limit_bytes": GIB,
            "rows_in": 1,
        }


def story(**more):
    return {
        "job": "part_revenue", "run_id": "r", "status": "done", "fingerprint": "f" * 64, "parameters": {"src": "in"},
        "rows_in": 40_000, "rows_out": 10, "rows_repeated": 0, "splits_done": 4, "splits_total": 4, "oom_kills": 0,
        "checkpoints": [{"id": 7, "at": at(10), "duration_s": 0.05, "bytes": 3 * MIB, "reason": "interval"}],
        "checkpoint_cost": {"count": 1, "bytes": 3 * MIB, "seconds": 0.05, "share": 0.002, "longest_stretch_s": 10.0},
        "attempts": [
            {"number": 1, "started_at": at(0), "ended_at": at(10), "exit_code": 75, "ended_by": "SIGTERM",
             "limit_bytes": 192 * MIB, "peak_bytes": 90 * MIB, "resumed_from": None},
            {"number": 2, "started_at": at(12), "ended_at": at(15), "exit_code": 0, "ended_by": "done",
             "limit_bytes": GIB, "peak_bytes": 90 * MIB, "resumed_from": 7},
        ],
        "resizes": [{"at": at(10), "from_bytes": 192 * MIB, "to_bytes": GIB, "reason": "forecast",
                     "outcome": "actuated", "requested_to_actuated_s": 2.0}],
        "decisions": [{"at": at(1), "instruction": "SetWorkers", "reason": "pressure", "workers": 1}],
        "failure": None, "outputs": ["out/x"],
    } | more  # fmt: skip


def test_one_file_that_fetches_nothing_and_runs_nothing():
    found = parse(page(story(), timeline(events())))
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not any(name in ("src", "href", "onclick", "onload") for _, attrs in found.tags for name in attrs)
    assert "url(" not in page(story(), timeline(events())) and "@import" not in page(story(), timeline(events()))


def test_it_is_made_for_a_phone_and_for_the_dark():
    text = page(story(), timeline(events()))
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text and "max-width: 720px" in text


def test_what_is_on_it():
    found = parse(page(story(), timeline(events())))
    for words in (
        "Memory against the limit", "Throughput", "Checkpoints: size", "Forecast and fact", "The bill: memory × time",
        "Attempts", "Resizes", "Decisions (1)", "restart: 2.0 s", "asks for 1 GiB", "40,000",
    ):  # fmt: skip
        assert words in found.text, words
    assert found.text.count("asks for 1 GiB") == 1, "the same request is marked once"


def test_names_and_reasons_are_text_and_never_markup():
    evil = '<script>alert("x")</script>'
    found = parse(
        page(story(job=evil, parameters={evil: evil}, failure={"message": evil}, status="failed"), timeline(events()))
    )
    assert "script" not in {tag for tag, _ in found.tags}
    assert evil in found.text


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_short_or_lost_log_still_makes_a_page(kept):
    found = parse(page(story(), timeline(list(events())[:kept])))
    assert "part_revenue" in found.text and "Attempts" in found.text


def test_a_long_run_makes_no_long_page():
    assert len(page(story(), timeline(events(20_000)))) < 200_000


def test_the_limit_is_drawn_to_scale():
    chart = Chart(10, 200, [0, 100, 200], str)
    chart.stairs("limit", [(0, 50.0), (5, 200.0)])
    (path,) = re.findall(r' d="([^"]+)"', chart.html("t"))
    assert path == "M0.0 750.0 L500.0 750.0 L500.0 0.0 L1000.0 0.0"


def test_what_is_above_the_top_is_cut_off_there():
    chart = Chart(10, 100, [], str)
    assert (chart.y(500), chart.y(-5), chart.y(25)) == (0, 1000, 750)


def test_thinning_keeps_ends_and_peaks():
    points = [(float(x), 0.0) for x in range(10_000)]
    points[5_555] = (5_555.0, 9.0)
    found = thinned(points)
    assert len(found) < 1_000
    assert (5_555.0, 9.0) in found and found[0] == points[0] and found[-1] == points[-1]


@pytest.mark.parametrize("top", [1, 1000, 192 * MIB * 1.12, GIB, 40 * GIB])
def test_byte_ticks_are_powers_of_two_and_few(top):
    ticks = byte_ticks(top)
    assert 2 <= len(ticks) <= 7 and ticks[-1] <= top
    assert (ticks[1]).hex().startswith("0x1.0000")


@pytest.mark.parametrize("top", [0.0004, 0.05, 1.1, 7, 4_700_000])
def test_decimal_ticks_are_round_and_few(top):
    ticks = decimal_ticks(top)
    assert 3 <= len(ticks) <= 6 and ticks[-1] <= top
    assert re.match(r"[125]e", f"{ticks[1]:.0e}")


@pytest.mark.parametrize("end", [0.5, 3, 59, 61, 3600, 90_000, 3_000_000])
def test_time_ticks_are_few_and_inside(end):
    ticks = time_ticks(end)
    assert 2 <= len(ticks) <= 8 and ticks[-1] <= end
    assert len({clock(tick) for tick in ticks}) == len(ticks)


def test_the_verb_writes_the_file_or_says_why_not(tmp_path, etlkit_command):
    from etlkit.checkpoint import StateDir

    with StateDir.open(tmp_path / "s") as state:
        state.begin("r", {"job": "j"}, {"job": "j", "attempts": [], "resizes": []})
    done = etlkit_command("report", "s", "-o", "r.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert parse((tmp_path / "r.html").read_text()).text.startswith("\nj: interrupted")
    refused = etlkit_command("report", "s", "-o", "missing/r.html", cwd=tmp_path)
    assert refused.returncode == 2 and "missing/r.html" in refused.stderr
