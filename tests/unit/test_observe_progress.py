"""Progress: the same events drawn, as lines and as JSON; the figures behind it; what is told once and what is not."""

from __future__ import annotations

import io
import subprocess
import sys

import orjson
import pytest

from etlkit.observe.live import Live
from etlkit.observe.progress import JsonLines, Plain, Silent, make_renderer
from etlkit.observe.sentences import Teller, sentence
from etlkit.units import GIB, MIB
from tests.conftest import environment


def at(second: float) -> str:
    return f"2025-11-24T10:00:{second:06.3f}Z"


def event(name: str, second: float = 0, **fields):
    return {"event": name, "at": at(second), **fields}


PROGRESS = {
    "stage": 0, "splits_done": 3, "splits_total": 12, "rows_in": 1_500_000, "rows_total": 6_000_000,
    "rows_per_s": 2_000_000, "used_bytes": 120 * MIB, "reserved_bytes": 20 * MIB, "projected_bytes": 300 * MIB,
    "limit_bytes": 192 * MIB, "state_bytes": 40 * MIB, "level": "tight", "workers": 2, "remaining_s": 2.5,
}  # fmt: skip
RUN = [
    event("container_started", 0, restart_count=0, limit_bytes=192 * MIB),
    event(
        "attempt_started", 0.5, attempt=1, job="part_revenue", limit_bytes=192 * MIB, workers=2, resumed_from=None,
        max_memory_bytes=GIB, mode="RestartContainer",
    ),
    event("planned", 0.5, stages=[{"stage": 0, "kind": "scan → group"}, {"stage": 1, "kind": "reduce → write"}],
          splits_total=12, splits_done=0, rows_total=6_000_000),
    event("progress", 1, **PROGRESS),
    event("level", 1, level="tight", reason="120 MiB in use are 62 % of the limit"),
    event("resize", 1.1, outcome="requested", from_bytes=192 * MIB, to_bytes=512 * MIB, reason="forecast; asking for x"),
    event("checkpoint", 1.2, id=3, duration_s=0.04, bytes=8 * MIB, reason="resize: 192 MiB to 512 MiB", splits_done=3),
    event("resize", 1.3, outcome="requested", from_bytes=192 * MIB, to_bytes=512 * MIB, reason="forecast; asking for x"),
    event("attempt_ended", 1.5, attempt=1, exit_code=75, ended_by="SIGTERM", reason="SIGTERM: work left", seconds=1.0),
    event("container_exited", 1.5, exit_code=75, reason="Error", oom_killed=False, restart_in_s=0.0),
    event("container_started", 2, restart_count=1, limit_bytes=512 * MIB),
    event("attempt_started", 2.2, attempt=2, job="part_revenue", limit_bytes=512 * MIB, workers=2, resumed_from=3),
    event("progress", 2.5, **{**PROGRESS, "splits_done": 11, "limit_bytes": 512 * MIB, "level": "calm"}),
    event("checkpoint", 3, id=5, duration_s=0.04, bytes=8 * MIB, reason="interval", splits_done=12),
    event("published", 3.1, parts=8, rows=200_000, bytes=4 * MIB),
    event("attempt_ended", 3.2, attempt=2, exit_code=0, ended_by="done", reason="done", seconds=1.0),
]  # fmt: skip


def plain(events) -> list[str]:
    out = io.StringIO()
    renderer = Plain(out)
    for one in events:
        renderer.feed(one)
    renderer.close()
    return out.getvalue().splitlines()


def test_plain_tells_one_story_across_the_restart():
    text = "\n".join(plain(RUN))
    for words in (
        "part_revenue begins, with 192 MiB of memory, 2 workers; may ask for up to 1 GiB, granted by a restart",
        "planned: 2 stages, 12 splits, 6,000,000 rows",
        "25 %, 1,500,000 rows, 2,000,000 rows/s, 2.5 s left, memory 120 MiB of 192 MiB (tight), state 40 MiB",
        "asks for 512 MiB in place of 192 MiB: forecast",
        "checkpoint 3 (8 MiB in 40 ms): resize",
        "the container ended with 75 (checkpointed, work left); starting again",
        "restart 1: a new process, with 512 MiB",
        "attempt 2 goes on from checkpoint 3, with 512 MiB of memory",
        "the output is visible: 200,000 rows in 8 files, 4 MiB",
        "    3.2 s  attempt 2 is done after 1.0 s",
    ):
        assert words in text, text
    assert text.count("asks for") == 1, "the same outcome again is no news"
    assert "checkpoint 5" not in text, "a checkpoint whose time had come is no news"


def test_plain_figures_come_every_few_seconds_of_the_events_own_time():
    ticks = [event("progress", second / 4, **PROGRESS) for second in range(40)]
    assert len(plain(ticks)) == 4


def test_json_is_one_event_a_line_as_it_was_fed():
    out = io.StringIO()
    renderer = JsonLines(out)
    for one in RUN:
        renderer.feed(one)
    assert [orjson.loads(line) for line in out.getvalue().splitlines()] == RUN
    assert all({"event", "at"} <= set(orjson.loads(line)) for line in out.getvalue().splitlines())


def test_none_shows_no_event_but_what_a_job_prints():
    out = io.StringIO()
    renderer = Silent(out)
    renderer.feed(RUN[1])
    renderer.say("hello")
    assert out.getvalue() == "hello\n"


@pytest.mark.parametrize(("mode", "kind"), [("none", Silent), ("json", JsonLines), ("plain", Plain), ("auto", Plain)])
def test_auto_is_plain_where_there_is_no_terminal(mode, kind):
    assert type(make_renderer(mode, io.StringIO())) is kind


@pytest.mark.parametrize("mode", ["none", "json", "plain", "auto"])
def test_rich_is_loaded_only_to_draw(mode):
    code = (
        f"import io, sys; from etlkit.observe.progress import make_renderer; r = make_renderer({mode!r}, io.StringIO())\n"
        f"r.feed({RUN[3]!r}); r.close(); sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


def test_a_reader_that_went_away_does_not_stop_the_job():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    for renderer in (Plain(Gone()), JsonLines(Gone()), Silent(Gone())):
        for one in RUN:
            renderer.feed(one)
        renderer.say("x")


# ── drawn ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(events, width: int = 100) -> str:
    """What a terminal of that width would have got, without its control codes."""
    from rich.console import Console

    from etlkit.observe.screen import Screen

    out = io.StringIO()
    screen = Screen(out, Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False))
    for one in events:
        screen.feed(one)
    screen.close()
    screen.close()
    return out.getvalue()


def panel_lines(live: Live, width: int) -> list[str]:
    from rich.console import Console

    from etlkit.observe.screen import panel

    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(panel(live, width))
    return out.getvalue().splitlines()


def test_the_screen_tells_the_same_sentences():
    text = drawn(RUN, width=160)
    for line in plain(RUN):
        words = line.partition(" s  ")[2]
        assert "%" in words or words in text, words


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("upto", range(1, len(RUN) + 1))
def test_the_panel_fits_any_width_at_any_moment(width, upto):
    live = Live()
    for one in RUN[:upto]:
        live.take(one)
    lines = panel_lines(live, width)
    assert max(len(line) for line in lines) <= width
    assert len(lines) <= (12 if width < 60 else 10)


def memory_bar(**fields) -> str:
    live = Live()
    live.take(event("attempt_started", 0, attempt=1, limit_bytes=192 * MIB))
    live.take(event("progress", 0, **{**PROGRESS, **fields}))
    return next(line for line in panel_lines(live, 90) if line.startswith("memory")).removeprefix("memory").strip()


def test_the_bar_shows_the_forecast_crossing_the_limit():
    crossing = memory_bar(projected_bytes=300 * MIB)
    assert crossing.index("┃") < crossing.rindex("░")
    inside = memory_bar(projected_bytes=150 * MIB)
    assert inside.index("┃") > inside.rindex("░")


def test_the_bar_is_in_proportion():
    bar = memory_bar(used_bytes=96 * MIB, reserved_bytes=0, projected_bytes=96 * MIB)
    wall = bar.index("┃")
    assert bar.count("█") == pytest.approx(wall / 2, abs=1)


def test_a_forecast_far_away_leaves_the_wall_in_the_middle():
    bar = memory_bar(projected_bytes=100 * GIB)
    assert 20 < bar.index("┃") < 40


# ── the figures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_attempt_forgets_the_dead_process_and_remembers_the_run():
    live = Live()
    for one in RUN[:12]:
        live.take(one)
    assert (live.attempt, live.restarts, live.limit_bytes) == (2, 1, 512 * MIB)
    assert (live.used_bytes, live.rows_per_s) == (None, None)
    assert (live.rows_in, live.splits_total, live.checkpoints) == (1_500_000, 12, 1)
    assert (live.wanted_bytes, live.resizes) == (None, 1), "it woke up with what had been asked for"


def test_a_request_stays_open_until_its_outcome_is_final():
    live = Live()
    for outcome in ("requested", "deferred", "error", "in_progress"):
        live.take(event("resize", outcome=outcome, to_bytes=GIB))
        assert live.wanted_bytes == GIB
    live.take(event("resize", outcome="withdrawn", to_bytes=GIB))
    assert (live.wanted_bytes, live.resizes) == (None, 0)


def test_a_reason_is_told_once():
    teller = Teller()
    teller.tell(event("allocation_failed", split="0.3", tries=1, slice_rows=1024))
    said = teller.tell(
        event("decision", instruction="SetSliceRows", rows=512, reason="an allocation failed in 0.3 at …")
    )
    assert said.text == "slices of 512 rows from now on"
    first = teller.tell(event("decision", instruction="SetWorkers", workers=1, reason="pressure"))
    again = teller.tell(event("decision", instruction="ReleasePools", reason="pressure"))
    assert (first.text, again.text) == ("1 worker from now on: pressure", "gives freed memory back")


def test_a_flood_is_told_one_in_a_while_and_counted():
    teller = Teller()
    spills = [event("checkpoint", second / 10, id=second, reason="spill: no room", bytes=1) for second in range(50)]
    told = [said.text for said in map(teller.tell, spills) if said]
    assert len(told) == 2
    assert told[1].endswith("(and 29 more like it)")
    teller.tell(event("attempt_started", 5, attempt=2))
    assert teller.tell(spills[-1]), "a new attempt is a new story"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (event("container_exited", exit_code=137, oom_killed=True, restart_in_s=10.0), "OOM kill"),
        (event("container_exited", exit_code=137, oom_killed=True, restart_in_s=10.0), "starting again in 10.0 s"),
        (event("container_exited", exit_code=65, oom_killed=False, restart_in_s=None), "65 (bad input)"),
        (event("limit_changed", from_bytes=GIB, to_bytes=2 * GIB, asked=False), "somebody else changed it"),
        (event("resize", outcome="deferred", to_bytes=GIB, from_bytes=1, message="no room"), "no room for 1 GiB now: no room"),
        (event("resize", outcome="refused", to_bytes=GIB, from_bytes=1, message="403"), "1 GiB is refused: 403"),
        (event("attempt_ended", attempt=1, exit_code=78, reason="too small"), "ends with exit code 78: too small"),
        (event("first_batch", seconds=0.3, restart_s=1.2), "back at work, 1.2 s after SIGTERM"),
        (event("leak", grown_bytes=5 * MIB, splits_until_full=7, reason="kept"), "5 MiB have leaked, enough for 7 splits more: kept"),
        (event("cpu_changed", from_cores=1.0, to_cores=2.5, workers=2), "2.5 cores now, it was 1 core; 2 workers"),
        (event("cpu_resize", to_cores=4, outcome="refused", message="403"), "4 cores: refused, 403"),
        (event("policy", accepted=False, message="line 3"), "not taken, the one before stays: line 3"),
        (event("decision", instruction="RequestCpu", to_cores=4, reason="throttled"), "asks for 4 cores: throttled"),
        (event("checkpoint_failed", error="disk full"), "could not be written: disk full"),
        (event("attempt_started", attempt=1, job="j", limit_bytes=None, workers=1), "without a memory limit, 1 worker"),
    ],
)  # fmt: skip
def test_words(told, words):
    assert words in sentence(told).text


def test_events_of_a_later_version_are_no_trouble():
    for one in (
        event("dreamt"),
        event("progress"),
        event("planned"),
        event("checkpoint"),
        event("resize"),
        {"event": "x"},
    ):
        Teller().tell(one)
        Live().take(one)
        plain([one])
        drawn([one])


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_panel_cuts_nothing_off_and_names_all_four_quantities(width):
    from rich.console import Console

    from etlkit.observe.screen import panel

    live = Live()
    for one in RUN[:8]:
        live.take(one)
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(panel(live, width))
    text = out.getvalue()
    assert "…" not in text, text
    if width >= 80:  # what stands beside the bar, at its longest
        live.take(event("progress", 9, **{**PROGRESS, "remaining_s": 750}))
        assert any(line.rstrip().endswith("12 min 30 s left") for line in panel_lines(live, width))
        live.take(event("container_exited", 9, exit_code=75, restart_in_s=0.0))
        assert any(line.rstrip().endswith("%  starting again") for line in panel_lines(live, width))
        live.take(event("container_exited", 9, exit_code=65, restart_in_s=0.0))
        assert not any("starting again" in line for line in panel_lines(live, width)), "nothing mends that"
    for words in ("used 120 MiB", "reserved 20 MiB", "projected 300 MiB", "limit 192 MiB", "asked for 512 MiB"):
        assert words in text, text
    assert max(map(len, text.splitlines())) <= width


def test_between_two_attempts_no_figure_of_the_process_that_is_gone_is_shown():
    live = Live()
    for one in RUN[:11]:
        live.take(one)
    assert live.between and live.used_bytes is None and live.limit_bytes == 512 * MIB
    live.take(RUN[11])
    assert not live.between


def test_ctrl_c_says_what_a_second_one_does():
    told = sentence(event("decision", 1, instruction="Drain", reason="SIGINT: 22.5 s of the grace"))
    assert told is not None and "Ctrl-C again stops at once" in told.text
    told = sentence(event("decision", 1, instruction="Drain", reason="SIGTERM: 22.5 s of the grace"))
    assert told is not None and "Ctrl-C" not in told.text


def test_text_on_a_terminal_is_broken_between_words_and_elsewhere_never():
    from etlkit.observe.terminal import at_width, wrapped

    text = "  next  etlkit show place\n" + "word " * 30
    lines = at_width(text, 40).splitlines()
    assert all(len(line) <= 40 for line in lines) and lines[0] == "  next  etlkit show place"
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert wrapped(text, io.StringIO()) == text
    assert at_width("it takes 5 words and 800 ms", 25) == "it takes 5 words and\n  800 ms", (
        "a number stays with its unit"
    )


def test_a_table_keeps_its_columns_and_what_is_long_goes_on_below_itself():
    from etlkit.observe.terminal import table

    body = [(1, "10:00", "word " * 8), (22, None, "short")]
    assert table(("", "at", "why"), body) == [
        "      at     why",
        f"   1  10:00  {'word ' * 8}".rstrip(),
        "  22  –      short",
    ]
    lines = table(("", "at", "why"), body, columns=40)
    assert lines[1:3] == ["   1  10:00  word word word word word", "             word word word"]
    wide = table(("name", "why"), [("x" * 35, "word " * 20)], indent="", columns=50)
    assert all(len(line) <= 50 for line in wide) and wide[2].startswith("    word")
