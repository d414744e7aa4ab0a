"""The suites themselves: what they say of figures, that every work has its rivals, and `etlkit bench`."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import rivals, throughput
from benchmarks.results import Figure, Result, finish, ratios, table
from etlkit.cli import bench, dispatch
from etlkit.plan.job import load
from etlkit.settings import load as load_settings


def test_a_figure_is_met_or_missed() -> None:
    assert Figure("x", "×", (1.0, 9.0, 1.1), at_most=1.1).met
    assert not Figure("x", "×", (1.2,), at_most=1.1).met
    assert Figure("x", "×", (0.6,), at_least=0.5).met
    assert Figure("x", "×", (0.6,)).met is None
    assert ratios([2.0, 3.0], [1.0, 2.0]) == (2.0, 1.5)


def test_an_older_result_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("throughput", {})
    result.add("wall", "s", [3.0])
    older = tmp_path / "older.json"
    older.write_text(json.dumps({"suite": "throughput", "figures": [{"name": "wall", "value": 2.0}]}))
    assert finish(result, argparse.Namespace(against=str(older), json=str(tmp_path / "new.json"))) == 0
    assert "+50%" in capsys.readouterr().out
    assert json.loads((tmp_path / "new.json").read_text())["figures"][0]["value"] == 3.0
    other = Result("scale", {})
    with pytest.raises(SystemExit, match="is a result of 'throughput'"):
        finish(other, argparse.Namespace(against=str(older), json=None))


def test_every_work_is_a_job_and_has_its_rivals() -> None:
    jobs = Path(throughput.__file__).with_name("jobs.py")
    for work in throughput.ASKED:
        assert load(f"{jobs}:{work}").name == work
        assert work in rivals.SQL
    assert table([]).count("\n") == 1


def test_bench_lists_its_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["bench"]) == 0
    said = capsys.readouterr().out
    for name in bench.SUITES:
        suite = import_module(f"benchmarks.{name}")
        assert name in said and suite.HELP in said


def test_checkpoints_by_time_can_be_switched_off() -> None:
    assert load_settings({"checkpoint_every": "none"}, {}).checkpoint_every_s is None
    assert load_settings({}, {"ETLKIT_CHECKPOINT_EVERY": "100ms"}).checkpoint_every_s == 0.1
