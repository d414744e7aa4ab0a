"""Prometheus metrics of a run, made from its events: served on a port, or written as a file for the textfile collector.

Covers the metrics (``METRICS`` has every one), the text format 0.0.4, and ``MetricsSink``, which takes the events on their way to a
renderer. Written by hand: the format is a page, and a client library would be one more import at a small limit. Counters are of
this process unless their help says otherwise; a restart begins them anew, which Prometheus expects. Metrics never stop a job: a
file that cannot be written is said once.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError
from .progress import Renderer
from .sentences import moment

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FILE_EVERY = timedelta(seconds=1)
"""The file is written no more often, by the events' own time, but for what must not be missed."""
_AT_ONCE = frozenset(("attempt_started", "resize", "published", "attempt_ended"))
_SLOW_CLIENT_S = 5.0
_FINAL = frozenset(("actuated", "infeasible", "refused", "unreachable", "withdrawn"))
_LEVELS = ("calm", "tight", "critical")
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Upper bounds of the histogram of checkpoints: one takes milliseconds on a disk, seconds on an object store."""


@dataclass(frozen=True, slots=True)
class Metric:
    kind: str
    help: str


METRICS: Mapping[str, Metric] = {
    "etlkit_run_info": Metric("gauge", "Always 1. Labels: run_id, and mode: what a resize does here."),
    "etlkit_attempt": Metric("gauge", "Number of this attempt of the run, from 1."),
    "etlkit_running": Metric("gauge", "1 while the attempt runs, 0 when it has ended."),
    "etlkit_exit_code": Metric("gauge", "How the attempt ended: 0 done, 75 to be started again. Not there while it runs."),
    "etlkit_attempt_start_time_seconds": Metric("gauge", "When the attempt began, in seconds since 1970."),
    "etlkit_last_event_time_seconds": Metric("gauge", "When the last event came, in seconds since 1970."),
    "etlkit_restart_seconds": Metric("gauge", "From the SIGTERM of the attempt before to the first batch of this one."),
    "etlkit_rows_read_total": Metric("counter", "Input rows of the run that are done, over all attempts."),
    "etlkit_rows_expected": Metric("gauge", "Input rows of the whole run, where they are known."),
    "etlkit_splits_done": Metric("gauge", "Splits of the run that are done."),
    "etlkit_splits": Metric("gauge", "Splits of the run that are known."),
    "etlkit_remaining_seconds": Metric("gauge", "Time that the rest is expected to take, where it is known."),
    "etlkit_workers": Metric("gauge", "Splits that are being worked on."),
    "etlkit_cpu_throttled_ratio": Metric("gauge", "Share of the time in which the CPU quota held the job back."),
    "etlkit_memory_limit_bytes": Metric("gauge", "Memory limit in force. Not there without one."),
    "etlkit_memory_max_bytes": Metric("gauge", "The job never asks for more memory than this."),
    "etlkit_memory_used_bytes": Metric("gauge", "Working set: use without inactive page cache."),
    "etlkit_memory_reserved_bytes": Metric("gauge", "What running splits have reserved."),
    "etlkit_memory_projected_bytes": Metric("gauge", "Forecast of the highest use until the end, at full speed."),
    "etlkit_memory_peak_bytes": Metric("gauge", "Highest use of the attempt. Not there while it runs."),
    "etlkit_memory_level": Metric("gauge", "1 for the level that holds. Label: level, one of calm, tight, critical."),
    "etlkit_state_bytes": Metric("gauge", "State in memory that a checkpoint would let go."),
    "etlkit_allocation_failures_total": Metric("counter", "Allocations that the wall stopped and that were tried again."),
    "etlkit_leak_bytes_per_split": Metric("gauge", "Growth without an explanation, where one was found."),
    "etlkit_checkpoints_total": Metric("counter", "Checkpoints that are durable."),
    "etlkit_checkpoint_failures_total": Metric("counter", "Checkpoints that could not be written."),
    "etlkit_checkpoint_bytes_total": Metric("counter", "Bytes that checkpoints added."),
    "etlkit_checkpoint_duration_seconds": Metric("histogram", "Time that a checkpoint took to become durable."),
    "etlkit_checkpoint_last_time_seconds": Metric("gauge", "When the newest checkpoint became durable, in seconds since 1970."),
    "etlkit_resizes_total": Metric("counter", "Requests for memory that are decided. Label: outcome."),
    "etlkit_resize_requested_bytes": Metric("gauge", "The limit that is asked for; 0 when nothing is."),
    "etlkit_limit_changes_total": Metric("counter", "Changes of the memory limit. Label: asked, true or false."),
    "etlkit_decisions_total": Metric("counter", "What was decided. Label: instruction."),
    "etlkit_output_rows": Metric("gauge", "Rows of the visible output. Not there before it is."),
    "etlkit_output_bytes": Metric("gauge", "Size of the visible output. Not there before it is."),
    "etlkit_output_files": Metric("gauge", "Files of the visible output. Not there before it is."),
}  # fmt: skip
"""Every metric by name. A series carries the label ``etl_job``; ``job`` is Prometheus' own."""

_PROGRESS = {
    "rows_in": "etlkit_rows_read_total", "rows_total": "etlkit_rows_expected", "splits_done": "etlkit_splits_done",
    "splits_total": "etlkit_splits", "remaining_s": "etlkit_remaining_seconds", "workers": "etlkit_workers",
    "throttled": "etlkit_cpu_throttled_ratio", "limit_bytes": "etlkit_memory_limit_bytes",
    "used_bytes": "etlkit_memory_used_bytes", "reserved_bytes": "etlkit_memory_reserved_bytes",
    "projected_bytes": "etlkit_memory_projected_bytes", "state_bytes": "etlkit_state_bytes",
}  # fmt: skip
_STARTED = {
    "attempt": "etlkit_attempt", "limit_bytes": "etlkit_memory_limit_bytes", "max_memory_bytes": "etlkit_memory_max_bytes",
    "workers": "etlkit_workers",
}  # fmt: skip
_PLANNED = {key: _PROGRESS[key] for key in ("splits_total", "splits_done", "rows_total")}
_PUBLISHED = {"rows": "etlkit_output_rows", "bytes": "etlkit_output_bytes", "parts": "etlkit_output_files"}
_ENDED = {
    "exit_code": "etlkit_exit_code",
    "peak_bytes": "etlkit_memory_peak_bytes",
    "rows_in": "etlkit_rows_read_total",
}

_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The series of one process. ``take`` from one thread, ``text`` from any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job = ""
        self._series: dict[str, dict[_Labels, float]] = {}
        self._durations: list[float] = [0.0] * len(_SECONDS)
        self._durations_sum = 0.0
        self._durations_count = 0
        self._resize: tuple[object, object] = (None, None)

    def take(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._take(event)

    def text(self) -> str:
        """All series in the text format, in the order of ``METRICS``; those without a value are left out."""
        with self._lock:
            return "".join(self._lines())

    def _take(self, event: Mapping[str, Any]) -> None:
        at = moment(event.get("at"))
        if at is not None:
            self._set("etlkit_last_event_time_seconds", at.timestamp())
        match event.get("event"):
            case "attempt_started":
                self._started(event, at)
            case "planned":
                self._copy(event, _PLANNED)
            case "first_batch":
                self._copy(event, {"restart_s": "etlkit_restart_seconds"})
            case "progress":
                self._copy(event, _PROGRESS)
                self._level(event.get("level"))
            case "level":
                self._level(event.get("level"))
            case "decision":
                self._add("etlkit_decisions_total", 1, instruction=str(event.get("instruction")))
            case "checkpoint":
                self._checkpoint(event, at)
            case "checkpoint_failed":
                self._add("etlkit_checkpoint_failures_total", 1)
            case "resize":
                self._resized(event)
            case "limit_changed":
                self._copy(event, {"to_bytes": "etlkit_memory_limit_bytes"})
                self._add("etlkit_limit_changes_total", 1, asked="true" if event.get("asked") else "false")
            case "allocation_failed":
                self._add("etlkit_allocation_failures_total", 1)
            case "leak":
                self._copy(event, {"bytes_per_split": "etlkit_leak_bytes_per_split"})
            case "published":
                self._copy(event, _PUBLISHED)
            case "attempt_ended":
                self._copy(event, _ENDED)
                self._set("etlkit_running", 0)
                self._set("etlkit_remaining_seconds", None)
                if event.get("exit_code") == 0:
                    self._series["etlkit_splits_done"] = dict(self._series.get("etlkit_splits", {}))

    def _started(self, event: Mapping[str, Any], at: datetime | None) -> None:
        self._job = str(event.get("job") or "")
        self._series.clear()
        info = {"run_id": str(event.get("run_id") or ""), "mode": str(event.get("mode") or "None")}
        self._set("etlkit_run_info", 1, **info)
        self._copy(event, _STARTED)
        self._set("etlkit_running", 1)
        self._set("etlkit_resize_requested_bytes", 0)
        for name in ("checkpoints", "checkpoint_failures", "checkpoint_bytes", "allocation_failures"):
            self._set(f"etlkit_{name}_total", 0)  # so that an increase from none is seen
        if at is not None:
            self._set("etlkit_attempt_start_time_seconds", at.timestamp())

    def _checkpoint(self, event: Mapping[str, Any], at: datetime | None) -> None:
        seconds = float(event.get("duration_s") or 0.0)
        self._add("etlkit_checkpoints_total", 1)
        self._add("etlkit_checkpoint_bytes_total", float(event.get("bytes") or 0))
        self._durations = [count + (seconds <= bound) for count, bound in zip(self._durations, _SECONDS, strict=True)]
        self._durations_sum += seconds
        self._durations_count += 1
        if at is not None:
            self._set("etlkit_checkpoint_last_time_seconds", at.timestamp())

    def _resized(self, event: Mapping[str, Any]) -> None:
        """The same outcome may be told again, by each look at the pod."""
        outcome, wanted = event.get("outcome"), event.get("to_bytes")
        if outcome not in _FINAL:
            self._set("etlkit_resize_requested_bytes", wanted)
        elif (outcome, wanted) != self._resize:
            self._set("etlkit_resize_requested_bytes", 0)
            self._add("etlkit_resizes_total", 1, outcome=str(outcome))
        self._resize = (outcome, wanted)

    def _level(self, now: object) -> None:
        for level in _LEVELS:
            self._set("etlkit_memory_level", float(level == now), level=level)

    def _copy(self, event: Mapping[str, Any], names: Mapping[str, str]) -> None:
        for key, name in names.items():
            if key in event:
                self._set(name, event[key])

    def _set(self, name: str, value: float | None, **labels: str) -> None:
        series = self._series.setdefault(name, {})
        key = tuple(sorted(labels.items()))
        if value is None:
            series.pop(key, None)
        else:
            series[key] = float(value)

    def _add(self, name: str, value: float, **labels: str) -> None:
        series = self._series.setdefault(name, {})
        key = tuple(sorted(labels.items()))
        series[key] = series.get(key, 0.0) + value

    def _lines(self) -> Iterator[str]:
        for name, metric in METRICS.items():
            samples = list(self._histogram(name) if metric.kind == "histogram" else self._samples(name))
            if samples:
                yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"
                yield from samples

    def _samples(self, name: str) -> Iterator[str]:
        for labels, value in self._series.get(name, {}).items():
            yield self._sample(name, labels, value)

    def _histogram(self, name: str) -> Iterator[str]:
        if self._durations_count == 0:
            return
        for bound, count in zip(_SECONDS, self._durations, strict=True):
            yield self._sample(f"{name}_bucket", (("le", f"{bound:g}"),), count)
        yield self._sample(f"{name}_bucket", (("le", "+Inf"),), self._durations_count)
        yield self._sample(f"{name}_sum", (), self._durations_sum)
        yield self._sample(f"{name}_count", (), self._durations_count)

    def _sample(self, name: str, labels: _Labels, value: float) -> str:
        said = ",".join(f'{key}="{_escaped(text)}"' for key, text in (("etl_job", self._job), *labels))
        return f"{name}{{{said}}} {int(value) if float(value).is_integer() else repr(value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsSink:
    """A renderer that counts what it hands on. Its port is open and its thread started when it is made: before the memory wall.

    ``port`` 0 takes any free one; ``self.port`` says which. Errors: ConfigError if the port or the file's folder cannot be used.
    """

    def __init__(self, inner: Renderer, *, port: int | None = None, file: str | os.PathLike[str] | None = None) -> None:
        self.metrics = Metrics()
        self.port: int | None = None
        self._inner = inner
        self._file = None if file is None else Path(file)
        self._written_at: datetime | None = None
        self._complained = False
        self._server = None if port is None else _serve(port, self.metrics)
        if self._server is not None:
            self.port = self._server.server_address[1]
        if self._file is not None and not self._file.parent.is_dir():
            self.close()
            raise ConfigError(f"{self._file}: there is no such folder for the metrics", "make it, or name another")

    def feed(self, event: Mapping[str, Any]) -> None:
        self.metrics.take(event)
        if self._file is not None and self._due(event):
            self._write(self._file)
        self._inner.feed(event)

    def say(self, text: str) -> None:
        self._inner.say(text)

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self._inner.close()

    def _due(self, event: Mapping[str, Any]) -> bool:
        at = moment(event.get("at"))
        due = (
            event.get("event") in _AT_ONCE
            or self._written_at is None
            or at is None
            or at - self._written_at >= FILE_EVERY
        )
        if due:
            self._written_at = at
        return due

    def _write(self, file: Path) -> None:
        """Whole or not at all: the collector may read at any moment. Its pattern is *.prom, so it does not see the one beside."""
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            beside.write_text(self.metrics.text(), encoding="utf-8")
            beside.replace(file)
        except OSError as error:
            beside.unlink(missing_ok=True)
            if not self._complained:
                self._complained = True
                self._inner.say(f"metrics can't be written to {file}: {error.strerror}; the job goes on without")


class _Server(HTTPServer):
    """One request at a time, in one thread: a thread for each would want a stack when memory is short."""

    metrics: Metrics

    def __init__(self, listening: socket.socket, metrics: Metrics) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_address = listening.getsockname()[:2]
        self.metrics = metrics

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or no memory for an answer: the next one is served."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _SLOW_CLIENT_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "the metrics are at /metrics")
            return
        body = cast(_Server, self.server).metrics.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _serve(port: int, metrics: Metrics) -> _Server:
    both = socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        raise ConfigError(
            f"port {port} can't be used for the metrics: {error.strerror}", "give another --metrics-port"
        ) from error
    server = _Server(listening, metrics)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True).start()
    return server
