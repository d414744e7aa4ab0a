"""The suites themselves: what they say of figures, that every work has its rivals, and `etlkit bench`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import data, killed, limits, measure, recovery, results, rivals, throughput
from benchmarks.results import Figure, Result, finish, from_json, older_result, ratios, read, table
from benchmarks.survival import Cell
from etlkit.cli import bench, dispatch
from etlkit.plan.job import load
from etlkit.settings import load as load_settings
from tests.conftest import REPOSITORY
from tests.unit.test_observe_report import parse


def test_a_figure_is_met_or_missed() -> None:
    assert Figure("x", "×", (1.0, 9.0, 1.1), at_most=1.1).met
    assert not Figure("x", "×", (1.2,), at_most=1.1).met
    assert Figure("x", "×", (0.6,), at_least=0.5).met
    assert Figure("x", "×", (0.6,)).met is None
    assert ratios([2.0, 3.0], [1.0, 2.0]) == (2.0, 1.5)


def options(folder: Path, **more: object) -> argparse.Namespace:
    return argparse.Namespace(**{"against": None, "json": None, "html": None, "work": str(folder), **more})


def test_an_older_result_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("throughput", {})
    result.add("wall", "s", [3.0])
    older = tmp_path / "older.json"
    older.write_text(json.dumps({"suite": "throughput", "figures": [{"name": "wall", "value": 2.0}]}))
    assert finish(result, options(tmp_path, against=str(older), json=str(tmp_path / "new.json"))) == 0
    said = capsys.readouterr().out
    assert "+50%" in said and "worse" in said
    assert json.loads((tmp_path / "new.json").read_text())["figures"][0]["value"] == 3.0
    other = Result("scale", {})
    with pytest.raises(SystemExit, match="2"):
        finish(other, options(tmp_path, against=str(older)))
    assert "is a result of 'throughput'" in capsys.readouterr().err


def test_a_change_counts_only_outside_of_the_spread(tmp_path: Path) -> None:
    before = Result("scale", {})
    before.add("wall", "s", [1.0, 1.2])
    before.add("rate", "MiB/s", [100.0, 110.0])
    finish(before, options(tmp_path))
    older = older_result(str(tmp_path / "scale.json"), "scale")
    assert older.verdict(Figure("wall", "s", (1.1, 1.9))) == "within the spread"
    assert older.verdict(Figure("wall", "s", (1.3, 1.9))) == "worse"
    assert older.verdict(Figure("wall", "s", (0.8, 0.9))) == "better"
    assert older.verdict(Figure("rate", "MiB/s", (120.0, 130.0))) == "better", "more of a rate is better"
    assert older.verdict(Figure("new", "s", (1.0,))) == ""


def test_a_result_is_read_back_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("scale", {"scales": [1.0]})
    result.add("a · b · wall", "×", [1.0, 2.0], at_most=1.1, note="n")
    finish(result, options(tmp_path))
    back = from_json(read(str(tmp_path / "scale.json")))
    assert back.figures == result.figures and back.settings == result.settings
    assert back.to_json()["machine"] == json.loads((tmp_path / "scale.json").read_text())["machine"]
    for text in ("", "[]", '{"suite": "scale"}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(SystemExit, match="2"):
            read(str(tmp_path / "x.json"))
        assert "is no result of" in capsys.readouterr().err


def test_the_page_has_every_figure_and_what_was_asked(tmp_path: Path) -> None:
    result = Result(
        "throughput", {"scale": 2, "cells": [asdict(Cell("leak", "vpa", 96 << 20, 0, oom_kills=2, gib_s=1.5))]}
    )
    result.add("sort · etlkit · wall", "s", [3.0, 3.2])
    result.add("sort · duckdb · wall", "s", [2.0])
    result.add("sort · etlkit / duckdb · wall", "×", [1.5, 1.6], at_most=1.0)
    result.add("sort · etlkit / <polars> · wall", "×", [0.8], at_most=1.0)
    finish(result, options(tmp_path), "whole jobs beside others")
    text = (tmp_path / "throughput.html").read_text()
    found = parse(text)
    for words in ("Whole jobs beside others", "Wall time: ratios", "1 of 2", "Who lives", "1.50 · 2 k", "Every figure"):
        assert words in found.text, words
    for one in result.figures:
        assert one.name in found.text
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "polars"}
    (dotted,) = {attrs["style"] for _, attrs in found.tags if attrs.get("class") == "asked"}
    assert dotted is not None and dotted in text.replace("--one", "left"), "what was asked is drawn at one"


def test_bench_compares_results_and_runs_an_old_one_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[argparse.Namespace] = []

    def measure_suite(args: argparse.Namespace) -> Result:
        seen.append(args)
        result = Result("scale", {})
        result.add("wall", "s", [float(len(seen))])
        return result

    monkeypatch.setattr(import_module("benchmarks.scale"), "measure_suite", measure_suite)
    assert dispatch(["bench", "scale", "--scales", "0.5,1", "--json", "one.json"]) == 0
    assert dispatch(["bench", "--against", "one.json"]) == 0
    assert seen[1].scales == "0.5,1", "the settings are those of the older result"
    assert "+100%" in capsys.readouterr().out
    assert Path("out/bench/scale.html").is_file()
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert dispatch(["bench", "out/bench/scale.json", "--against", "one.json"]) == 0
    assert "+100%" in capsys.readouterr().out and len(seen) == 2
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before, "to compare writes nothing"
    assert dispatch(["bench", "out/bench/scale.json", "--against", "one.json", "--html", "both.html"]) == 0
    assert Path("both.html").is_file() and not Path("both.json").exists()
    assert dispatch(["bench", "nothing"]) == 2


@pytest.mark.parametrize("suite", ["throughput", "scale", "limits"])
def test_a_rival_that_is_not_there_is_told_before_the_run(
    suite: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[argparse.Namespace] = []
    module = import_module(f"benchmarks.{suite}")
    monkeypatch.setattr(module, "measure_suite", lambda args: ran.append(args) or Result(suite, {}))
    monkeypatch.setattr(results, "find_spec", lambda name: None if name == "polars" else name)
    for call, words in (
        (["--rivals", "duckdb,polars"], ("not installed: polars", "'.[bench]'", "--rivals duckdb")),
        (["--rivals", "polars"], ("--rivals ''",)),
        (["--rivals", "duckbd"], ("'duckbd' is none of duckdb,",)),
    ):
        with pytest.raises(SystemExit, match="2"):
            dispatch(["bench", suite, *call])
        said = capsys.readouterr().err
        assert all(word in said for word in words) and not ran, said


@pytest.mark.parametrize(("least", "found"), [(0, 64), (100, 112), (1024, 1024), (4096, None)])
def test_the_smallest_limit_has_one_below_it_that_failed(
    least: int, found: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: dict[int, bool] = {}

    def one_run(*args: object) -> measure.Measured:
        limit_bytes = args[5]
        assert isinstance(limit_bytes, int)
        tried[limit_bytes >> 20] = ok = limit_bytes >> 20 >= least
        return measure.Measured(1.0, 1.0, 1, None, 0 if ok else 78, False, "")

    monkeypatch.setattr(limits, "one_run", one_run)
    smallest = limits._smallest("etlkit", "distinct", tmp_path, tmp_path, argparse.Namespace(threads=1, timeout=1.0))
    assert (smallest and smallest[0]) == found
    assert len(tried) <= 4
    below = [one for one in limits.LADDER_MIB if found is None or one < found]
    assert not below or tried[below[-1]] is False


def test_every_engine_finds_the_same_rows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    src = data.tables(tmp_path, 0.001)
    for work in throughput.ASKED | {"growing": None}:
        rows = {}
        for engine in ("duckdb", "pyarrow"):
            if engine == "duckdb" or work in rivals.PYARROW:
                out = tmp_path / "out" / engine / work
                command = [sys.executable, "-m", "benchmarks.rivals", engine, work, str(src), str(out), "1"]
                subprocess.run(command, check=True, cwd=REPOSITORY)
                rows[engine] = pq.read_metadata(f"{out}.parquet").num_rows
        out, state = tmp_path / "out" / "etlkit" / work, tmp_path / "state" / work
        command = measure.etlkit_run(work, {"src": src, "out": out}, state)
        subprocess.run(command, check=True, env=measure.environment())
        rows["etlkit"] = pq.read_table(out).num_rows
        assert len(set(rows.values())) == 1 and rows["etlkit"] > 0, (work, rows)


def test_bytewax_goes_on_after_a_kill_and_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("bytewax", reason="bytewax is not installed: pip install -e '.[bench]'")
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    src = data.tables(tmp_path, 0.001)
    assert killed.start("bytewax", src, tmp_path / "w", 1).ok
    found = pq.read_table(tmp_path / "w" / "out")
    lines = sum(pq.read_metadata(path).num_rows for path in data.files(src, "lineitem"))
    assert pc.sum(found["lines"]).as_py() == lines
    assert pc.count_distinct(found["l_orderkey"]).as_py() == found.num_rows
    assert killed.start("bytewax", src, tmp_path / "w", 1, fresh=False).ok
    assert killed._rows_twice("bytewax", src, tmp_path / "w") == 0, "what it has read and saved it does not read again"


def test_the_first_rows_are_where_the_log_says_so(tmp_path: Path) -> None:
    src = data.tables(tmp_path, 0.001)
    argv, log = recovery._start(src, tmp_path / "w", 1.0, 1)
    process, took_s = recovery._until_rows(argv, log)
    assert process.wait() == 0
    whole = [one["event"] for one in recovery._events(log)]
    (first,) = [one for one in recovery._events(log) if one["event"] == "first_batch"]
    assert took_s > first["seconds"] > 0, "a process starts before its attempt begins"
    with pytest.raises(SystemExit, match="too early"):
        recovery._until_rows(argv, log, skip=len(whole))  # done: a second start reads nothing


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
