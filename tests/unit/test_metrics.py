"""Metrics: what events make of them, the text format, the port, the file; and that dashboard and alerts name only what exists."""

from __future__ import annotations

import io
import json
import re
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from etlkit.errors import ConfigError
from etlkit.observe.metrics import CONTENT_TYPE, METRICS, Metrics, MetricsSink
from etlkit.observe.progress import JsonLines, Silent
from etlkit.settings import load
from tests.conftest import REPOSITORY
from tests.unit.test_observe_progress import RUN, event

OBSERVABILITY = REPOSITORY / "manifests" / "observability"
SAMPLE = re.compile(r'^(\w+)\{((?:\w+="(?:[^"\\\n]|\\.)*",?)+)\} (-?[0-9.e+-]+)$')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every series by name and labels without etl_job; fails on a line that is not of the format."""
    assert text.endswith("\n")
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            continue
        match = SAMPLE.match(line)
        assert match, line
        labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2])
        assert labels[0][0] == "etl_job"
        key = (match[1], tuple(labels[1:]))
        assert key not in found, f"{line}: twice"
        found[key] = float(match[3])
    return found


def after(*events: dict[str, object]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    metrics = Metrics()
    for one in events:
        metrics.take(one)
    return parse(metrics.text())


def one(found: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str) -> float | None:
    return found.get((name, tuple(labels.items())))


STARTED, PROGRESS, ENDED = RUN[1], RUN[3], RUN[-1]


def test_names_follow_the_conventions():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"etlkit_[a-z_]+", name)
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert metric.kind in ("counter", "gauge", "histogram")
        assert not re.search(r"_(ms|millis|mib|kib|percent|minutes|count|bucket|sum)(_|$)", name), f"{name}: base units"
        assert metric.help.endswith(".") and "\n" not in metric.help


def test_a_run_that_is_resized_told_by_its_metrics():
    found = after(*RUN[:8])
    assert one(found, "etlkit_memory_limit_bytes") == 192 << 20
    assert one(found, "etlkit_memory_max_bytes") == 1 << 30
    assert one(found, "etlkit_memory_level", level="tight") == 1
    assert one(found, "etlkit_memory_level", level="calm") == 0
    assert one(found, "etlkit_rows_read_total") == 1_500_000
    assert one(found, "etlkit_resize_requested_bytes") == 512 << 20
    assert one(found, "etlkit_checkpoints_total") == 1
    assert one(found, "etlkit_checkpoint_bytes_total") == 8 << 20
    assert one(found, "etlkit_running") == 1 and one(found, "etlkit_exit_code") is None
    assert one(found, "etlkit_remaining_seconds") == 2.5
    end = after(*RUN)
    assert one(end, "etlkit_attempt") == 2 and one(end, "etlkit_exit_code") == 0 and one(end, "etlkit_running") == 0
    assert one(end, "etlkit_memory_limit_bytes") == 512 << 20
    assert one(end, "etlkit_splits_done") == one(end, "etlkit_splits") == 12
    assert one(end, "etlkit_remaining_seconds") is None
    assert one(end, "etlkit_output_rows") == 200_000


def test_times_are_seconds_since_1970():
    found = after(STARTED)
    expected = datetime(2025, 11, 24, 10, 0, 0, 500_000, UTC).timestamp()
    assert one(found, "etlkit_attempt_start_time_seconds") == expected


def test_an_outcome_that_is_told_again_counts_once():
    granted = event("resize", outcome="actuated", from_bytes=1, to_bytes=2, reason="x")
    asked = event("resize", outcome="requested", from_bytes=2, to_bytes=3, reason="x")
    refused = event("resize", outcome="refused", from_bytes=2, to_bytes=3, reason="x")
    found = after(STARTED, granted, granted, asked, refused, refused)
    assert one(found, "etlkit_resizes_total", outcome="actuated") == 1
    assert one(found, "etlkit_resizes_total", outcome="refused") == 1
    assert one(found, "etlkit_resize_requested_bytes") == 0


def test_the_histogram_is_cumulative_and_agrees_with_the_counter():
    taken = (0.0005, 0.002, 0.02, 0.02, 99.0)
    found = after(STARTED, *(event("checkpoint", id=n, duration_s=s, bytes=10) for n, s in enumerate(taken)))
    buckets = [value for (name, _), value in found.items() if name.endswith("_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == len(taken)
    assert one(found, "etlkit_checkpoint_duration_seconds_bucket", le="0.001") == 1
    assert one(found, "etlkit_checkpoint_duration_seconds_bucket", le="0.03") == 4
    assert one(found, "etlkit_checkpoint_duration_seconds_sum") == pytest.approx(sum(taken))
    assert one(found, "etlkit_checkpoint_duration_seconds_count") == one(found, "etlkit_checkpoints_total") == 5


def test_every_metric_is_made_by_some_event():
    every = [
        *RUN[:5],
        event("first_batch", seconds=0.1, restart_s=1.5),
        event("progress", **{**PROGRESS, "throttled": 0.25}),
        event("decision", instruction="Spill", reason="x"),
        event("checkpoint", id=1, duration_s=0.1, bytes=1),
        event("checkpoint_failed", reason="x", error="y"),
        event("resize", outcome="actuated", from_bytes=1, to_bytes=2),
        event("limit_changed", from_bytes=1, to_bytes=2, asked=True),
        event("allocation_failed", split="0.1", tries=1, slice_rows=10, error="x"),
        event("leak", grown_bytes=10, bytes_per_split=5.5, splits_until_full=3, reason="x"),
        RUN[-2],
    ]
    names = {name for name, _ in after(*every)} | {name for name, _ in after(*every, {**ENDED, "peak_bytes": 7})}
    assert names - {f"etlkit_checkpoint_duration_seconds_{end}" for end in ("bucket", "sum", "count")} == set(
        METRICS
    ) - {"etlkit_checkpoint_duration_seconds"}


def test_labels_are_escaped():
    job = 'a "job"\\\nof two lines'
    text = after_text({**STARTED, "job": job, "run_id": 'x"y'})
    assert r'etl_job="a \"job\"\\\nof two lines"' in text
    parse(text)


def after_text(*events: dict[str, object]) -> str:
    metrics = Metrics()
    for each in events:
        metrics.take(each)
    return metrics.text()


def test_served_on_a_port_until_it_is_closed():
    sink = MetricsSink(Silent(io.StringIO()), port=0)
    try:
        sink.feed(STARTED)
        for host in ("127.0.0.1", "localhost"):
            with urllib.request.urlopen(f"http://{host}:{sink.port}/metrics", timeout=10) as answer:
                assert answer.headers["Content-Type"] == CONTENT_TYPE
                assert one(parse(answer.read().decode()), "etlkit_attempt") == 1
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/", timeout=10)
        assert refused.value.code == 404
        with pytest.raises(ConfigError, match=f"port {sink.port}"):
            MetricsSink(Silent(io.StringIO()), port=sink.port)
    finally:
        sink.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=10)


def test_the_file_is_replaced_whole_and_not_for_each_event(tmp_path, monkeypatch):
    file = tmp_path / "etlkit.prom"
    written: list[str] = []
    whole = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (written.append(self.name), whole(self, target))[1])
    sink = MetricsSink(Silent(io.StringIO()), file=file)
    sink.feed(STARTED)
    for tenth in range(50):
        sink.feed({**PROGRESS, "at": event("x", 1 + tenth / 10)["at"]})
    sink.feed(ENDED)
    sink.close()
    assert 5 <= len(written) <= 8
    assert not any(name.endswith(".prom") for name in written), "the collector would read one that is half written"
    assert [path.name for path in tmp_path.iterdir()] == ["etlkit.prom"]
    assert one(parse(file.read_text()), "etlkit_exit_code") == 0


def test_a_file_that_cannot_be_written_is_said_once_and_the_job_goes_on(tmp_path):
    out = io.StringIO()
    folder = tmp_path / "collector"
    folder.mkdir()
    sink = MetricsSink(JsonLines(out), file=folder / "etlkit.prom")
    folder.rmdir()
    for each in RUN:
        sink.feed(each)
    lines = out.getvalue().splitlines()
    assert sum("can't be written" in line for line in lines) == 1
    assert sum(line.startswith("{") for line in lines) == len(RUN), "every event is handed on"
    with pytest.raises(ConfigError, match="no such folder"):
        MetricsSink(Silent(out), file=folder / "etlkit.prom")


def test_settings():
    assert load({"metrics_port": "9400"}, {}).metrics_port == 9400
    assert load({}, {"ETLKIT_METRICS_FILE": "x.prom"}).metrics_file == "x.prom"
    with pytest.raises(Exception, match="a port from 1 to 65535"):
        load({"metrics_port": "70000"}, {})


def test_a_real_run_writes_them(tmp_path, etlkit_command):
    (tmp_path / "in.csv").write_text("k,v\n" + "".join(f"{n % 7},{n}\n" for n in range(1000)))
    (tmp_path / "job.py").write_text(
        'import etlkit as ek\n\n\n@ek.job\ndef small() -> ek.Pipeline:\n    return ek.read_csv("in.csv").group_by("k")'
        '.agg(n=ek.count()).write_csv("out")\n'
    )
    done = etlkit_command("run", "job.py", "--progress", "none", "--metrics-file", "small.prom", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = parse((tmp_path / "small.prom").read_text())
    assert one(found, "etlkit_rows_read_total") == 1000
    assert one(found, "etlkit_output_rows") == 7
    assert one(found, "etlkit_exit_code") == 0
    assert 'etl_job="small"' in (tmp_path / "small.prom").read_text()


def names_in(expression: str) -> set[str]:
    return {
        re.sub(r"^(etlkit_checkpoint_duration_seconds)_\w+$", r"\1", n) for n in re.findall(r"etlkit_\w+", expression)
    }


def test_the_dashboard_names_only_metrics_that_exist():
    dashboard = json.loads((OBSERVABILITY / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [each["expr"] for each in dashboard["annotations"]["list"]]
    expressions += [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert len(expressions) > 20
    for expression in expressions:
        assert names_in(expression), expression
        assert names_in(expression) <= set(METRICS), names_in(expression) - set(METRICS)
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [(x, y) for panel in panels for x, y in _cells(panel["gridPos"])]
    assert len(cells) == len(set(cells)), "no panel lies on another"
    assert all(x < 24 for x, _ in cells)


def _cells(place: dict[str, int]) -> list[tuple[int, int]]:
    return [(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])]


def test_the_alerts_name_only_metrics_that_exist():
    rules = [
        rule
        for group in yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(rules) >= 6
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert names_in(rule["expr"]) and names_in(rule["expr"]) <= set(METRICS), rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in ("info", "warning", "critical") and rule["annotations"]["summary"]
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= {"etl_job", "outcome"}
