"""The kill campaign: real jobs through the real command line, real SIGKILL, and a count of lost and doubled rows.

    python -m tests.crash.campaign [--kills 500] [--seed 1] [--jobs stateless,stateful,outputs]

A case is a fresh state and a fresh output. It is killed once to three times, at a named crash point (the first or a later time it is
reached) or at a random moment, each time started again with the same command, and then left alone. What it leaves must be what an
undisturbed run leaves: the same rows (as a multiset), the same visible names, ``_SUCCESS``, no staging, each input row counted once.

Two cases run side by side. Not covered: a machine that loses power (tests/crash/test_crash_states.py), and writers that sleep
(tests/crash/test_stopped_writers.py).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.json as pjson
import pyarrow.parquet as pq

import etlkit.io.folder_sink
import etlkit.runtime.api  # noqa: F401  the points are declared by the modules that reach them
from etlkit.checkpoint import StateDir
from etlkit.observe.state import observe
from etlkit.testing import crashpoints

from .. import warm
from ..conftest import environment, tpch

JOBS = ("stateless", "stateful", "outputs")
TARGET = Path(__file__).with_name("campaign_jobs.py")
RANDOM = "a random moment"
ELSEWHERE = frozenset(("manifest.claimed",))
"""Points that a local folder with hard links never comes to."""
_MOST_TIMES = 6
_TIMEOUT_S = 120.0
_MOST_STATE, _SMALL_BYTES = 3, 64 * 1024
"""The budget for the volume: orphans of killed attempts must not add up."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One that happened. ``times`` is 0 for a random moment."""

    job: str
    point: str
    times: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one case left. ``wrong`` says what beside rows is not as it should be."""

    job: str
    kills: tuple[Kill, ...]
    lost: int
    doubled: int
    wrong: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def __str__(self) -> str:
        kills = ", ".join(f"{kill.point}:{kill.times}" if kill.times else kill.point for kill in self.kills)
        return f"{self.job} killed at [{kills}]: {self.lost} lost, {self.doubled} doubled; {'; '.join(self.wrong)}"


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a run that nobody kills leaves, and how long it works."""

    rows: dict[str, pa.Table]
    names: frozenset[str]
    rows_in: int
    seconds: float
    state_bytes: int


@dataclass(slots=True)
class Campaign:
    """The input and the undisturbed runs, made once, and what was seen of the points."""

    folder: Path
    source: Path
    draw: random.Random
    undisturbed: dict[str, Undisturbed] = field(default_factory=dict)
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)
    most_times: dict[tuple[str, str], int] = field(default_factory=dict)
    """Where a point was not reached so many times by a fresh run: it is not drawn again for that many."""
    unseen: list[tuple[str, str]] = field(default_factory=list)
    """Points that no kill was planned at yet."""

    def prepare(self, jobs: tuple[str, ...]) -> None:
        self.most_times |= {
            (job, point): most for job in jobs for point in points() for most in _most_times(job, point)
        }
        self.unseen = [(job, point) for job in jobs for point in points() if self.most_times.get((job, point)) != 1]
        self.draw.shuffle(self.unseen)
        for job in jobs:
            place = self.folder / f"whole-{job}"
            code = finish(job, self.source, place)
            if code != 0:
                raise RuntimeError(f"{job} does not run undisturbed: exit {code}")
            story = observe(place / "state").story
            began = [one["started_at"] for one in story["attempts"]]
            ended = [one["ended_at"] for one in story["attempts"]]
            self.undisturbed[job] = Undisturbed(
                rows_of(place / "out"),
                names_of(place / "out"),
                story["rows_in"],
                _between(began[0], ended[-1]),
                StateDir.open(place / "state", read_only=True).bytes_on_disk(),
            )

    def cases(self, jobs: tuple[str, ...], kills: int) -> Iterator[tuple[int, str, list[tuple[str, int]]]]:
        """(number, job, where to kill it), until so many kills are planned: each point once, between ones drawn at random."""
        planned = 0
        number = 0
        while planned < kills:
            number += 1
            job, wanted = self.draw.choice(jobs), []
            if self.unseen and number % 2:
                job, point = self.unseen.pop()
                wanted = [(point, 1)]
            for earlier in range(len(wanted), self.draw.randint(1, 3)):
                wanted.append(self._draw_point(job, earlier))
            wanted = wanted[: kills - planned]
            planned += len(wanted)
            yield number, job, wanted

    def run_case(self, number: int, job: str, wanted: list[tuple[str, int]], seed: int) -> Verdict:
        place = self.folder / f"case-{number}"
        moments = random.Random(f"{seed} {number}")
        done: list[Kill] = []
        code: int | None = None
        for point, times in wanted:
            if point == RANDOM:
                code = kill_at_random(job, self.source, place, moments, self.undisturbed[job].seconds)
            else:
                code = finish(job, self.source, place, {crashpoints.VARIABLE: f"{point}:{times}"})
            if code == -signal.SIGKILL:
                done.append(Kill(job, point, 0 if point == RANDOM else times))
                self.reached[job, point] += 1
                continue
            if point != RANDOM and not done:
                self.most_times[job, point] = min(self.most_times.get((job, point), times), times)
            break
        if code == -signal.SIGKILL:
            code = finish(job, self.source, place)
        verdict = self._judge(job, tuple(done), place, code)
        if verdict.good:
            shutil.rmtree(place, ignore_errors=True)
        return verdict

    def _draw_point(self, job: str, earlier: int) -> tuple[str, int]:
        """A start after ``earlier`` kills has less left to do, and passes each point fewer times."""
        point = self.draw.choice([point for point in points() if self.most_times.get((job, point)) != 1])
        if self.draw.random() < 0.35:
            return RANDOM, 0
        most = min(self.most_times.get((job, point), _MOST_TIMES + 1) - 1, _MOST_TIMES // (1 + earlier))
        return point, self.draw.randint(1, most)

    def _judge(self, job: str, kills: tuple[Kill, ...], place: Path, code: int | None) -> Verdict:
        if code != 0:
            return Verdict(job, kills, 0, 0, (f"ended with {code}, see {place}/said",))
        expected = self.undisturbed[job]
        found = rows_of(place / "out")
        lost = doubled = 0
        for name in expected.rows.keys() | found.keys():
            less, more = difference(expected.rows.get(name), found.get(name))
            lost, doubled = lost + less, doubled + more
        return Verdict(job, kills, lost, doubled, tuple(_wrong(place, expected)))


def _most_times(job: str, point: str) -> Iterator[int]:
    """What can be said beforehand: how often, and once more, the job passes the point."""
    kind, _, step = point.partition(".")
    if (
        (kind == "run" and job == "stateless")
        or (kind == "early" and job != "outputs")
        or (kind == "list" and job == "stateful")
    ):
        yield 1
    elif kind == "sink" and step not in ("staged", "part"):
        yield 4 if job == "outputs" else 2


def points() -> list[str]:
    return [name for name in crashpoints.names() if name not in ELSEWHERE]


def command(job: str, source: Path, place: Path) -> list[str]:
    return [
        "run", f"{TARGET}:{job}", "--set", f"src={source}", "--set", f"out={place / 'out'}",
        "--state", str(place / "state"), "--checkpoint-every", "15ms", "--workers", "1", "--progress", "none",
    ]  # fmt: skip


def start(job: str, source: Path, place: Path, extra: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    place.mkdir(parents=True, exist_ok=True)
    with (place / "said").open("ab") as said:
        return warm.start(
            command(job, source, place), env=environment(extra), stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )


def finish(job: str, source: Path, place: Path, extra: dict[str, str] | None = None) -> int:
    process = start(job, source, place, extra)
    try:
        return process.wait(_TIMEOUT_S)
    finally:
        _end(process)


def kill_at_random(job: str, source: Path, place: Path, moments: random.Random, work_s: float) -> int:
    """Mostly while it works, now and then while it starts. The exit code, if it was done before."""
    log = place / "state" / "events.jsonl"
    before = log.stat().st_size if log.exists() else 0
    process = start(job, source, place)
    try:
        if moments.random() < 0.9:
            deadline = time.monotonic() + _TIMEOUT_S
            while process.poll() is None and time.monotonic() < deadline:
                if log.exists() and log.stat().st_size > before:
                    break
                time.sleep(0.002)
            after_s = moments.uniform(0.0, work_s)
        else:
            after_s = moments.uniform(0.0, 0.5)
        try:
            return process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def names_of(out: Path) -> frozenset[str]:
    """Every file below the output folder, hidden ones too."""
    return frozenset(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def rows_of(out: Path) -> dict[str, pa.Table]:
    """What readers see, by output. Files are read in order of their names."""
    found = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("part-*") if not path.relative_to(folder).parts[0].startswith("."))
        tables = [_read(path) for path in files]
        if tables:
            found[folder.name] = pa.concat_tables(tables, promote_options="permissive")
    return found


def _read(path: Path) -> pa.Table:
    if path.suffix == ".csv":
        return pcsv.read_csv(path)
    if path.suffix in (".json", ".jsonl"):
        return pjson.read_json(path)
    table = pq.read_table(path, partitioning=None)
    for folder in path.parts:
        name, equals, value = folder.partition("=")
        if equals:
            table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    return table


def difference(expected: pa.Table | None, found: pa.Table | None) -> tuple[int, int]:
    """Rows lost, and rows that are there too often (or should not be there at all)."""
    if expected is None or found is None:
        return (0 if expected is None else expected.num_rows, 0 if found is None else found.num_rows)
    if expected.schema.equals(found.schema):
        order = [(name, "ascending") for name in expected.column_names]
        if expected.sort_by(order).equals(found.sort_by(order)):
            return 0, 0
    one, other = _counted(expected), _counted(found)
    return (one - other).total(), (other - one).total()


def _counted(table: pa.Table) -> Counter[tuple[Any, ...]]:
    names = sorted(table.column_names)
    return Counter(zip(*(table[name].to_pylist() for name in names), strict=True))


def _wrong(place: Path, expected: Undisturbed) -> Iterator[str]:
    if strange := names_of(place / "out") ^ expected.names:
        yield f"names {', '.join(sorted(strange)[:5])} differ from an undisturbed run's"
    for folder, table in expected.rows.items():
        mark = place / "out" / folder / "_SUCCESS"
        said = json.loads(mark.read_bytes())["rows"] if mark.exists() else None
        if said != table.num_rows:
            yield f"{folder}/_SUCCESS says {said} rows of {table.num_rows}"
    seen = observe(place / "state")
    if (seen.story["status"], seen.story["rows_in"]) != ("done", expected.rows_in):
        yield f"show: {seen.story['status']}, {seen.story['rows_in']} rows in of {expected.rows_in}"
    if seen.warnings:
        yield f"the checkpoint is damaged: {seen.warnings[0]}"
    state_dir = StateDir.open(place / "state", read_only=True)
    for problem in state_dir.verify():
        yield f"verify: {problem}"
    if (size := state_dir.bytes_on_disk()) > _MOST_STATE * expected.state_bytes + _SMALL_BYTES:
        yield f"the state is {size} bytes, {expected.state_bytes} undisturbed"
    # Killed once it was done, a run is not touched again by the same command: the next run of this state removes the last temporary.
    if b"is done already" not in (place / "said").read_bytes():
        for left in (place / "state").rglob("*.tmp"):
            yield f"left behind: {left.name}"


def _between(began: str, ended: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def make_source(folder: Path, scale: str = "0.005", rows_a_group: int = 625) -> Path:
    """TPC-H's lineitem in three files of many small row groups: 48 of them, whatever the scale, if both go up together."""
    table = pq.read_table(tpch(folder / "tpch", scale, "lineitem", 1) / "lineitem")
    source = folder / "lineitem"
    source.mkdir()
    rows = -(-table.num_rows // 3)
    for number in range(3):
        pq.write_table(table.slice(number * rows, rows), source / f"{number}.parquet", row_group_size=rows_a_group)
    return source


def run_campaign(
    folder: Path,
    kills: int,
    seed: int,
    jobs: tuple[str, ...] = JOBS,
    say: Callable[[str], None] = lambda _: None,
    source: Callable[[Path], Path] = make_source,
) -> tuple[list[Verdict], Campaign]:
    """So many kills at least; cases go on two at a time until they have happened."""
    campaign = Campaign(folder, source(folder), random.Random(seed))
    campaign.prepare(jobs)
    say(", ".join(f"{job}: {whole.seconds:.2f} s undisturbed" for job, whole in campaign.undisturbed.items()))
    verdicts: list[Verdict] = []
    numbers = 0
    with ThreadPoolExecutor(2) as pool:
        while (happened := sum(len(verdict.kills) for verdict in verdicts)) < kills:
            # In portions, so that what was learned about the points is used.
            batch = list(campaign.cases(jobs, min(20, kills - happened)))
            futures = [
                pool.submit(campaign.run_case, numbers + number, job, wanted, seed) for number, job, wanted in batch
            ]
            numbers += len(batch)
            verdicts += [future.result() for future in futures]
            for verdict in verdicts[-len(batch) :]:
                if not verdict.good:
                    say(str(verdict))
            say(f"{sum(len(verdict.kills) for verdict in verdicts)} kills in {len(verdicts)} cases")
    return verdicts, campaign


def table(verdicts: list[Verdict]) -> list[str]:
    """job · point · kills · lost · doubled. Losses of a case count at each of its kills' points."""
    rows: dict[tuple[str, str], list[int]] = {}
    for verdict in verdicts:
        for job, point in {(kill.job, kill.point) for kill in verdict.kills}:
            row = rows.setdefault((job, point), [0, 0, 0, 0])
            row[0] += sum((kill.job, kill.point) == (job, point) for kill in verdict.kills)
            row[1] += verdict.lost
            row[2] += verdict.doubled
            row[3] += bool(verdict.wrong)
    lines = [f"{'job':<11}{'point':<24}{'kills':>6}{'lost':>7}{'doubled':>9}{'other':>7}"]
    for (job, point), figures in sorted(rows.items()):
        lines.append(f"{job:<11}{point:<24}{figures[0]:>6}{figures[1]:>7}{figures[2]:>9}{figures[3]:>7}")
    kills = sum(len(verdict.kills) for verdict in verdicts)
    lost, doubled = sum(verdict.lost for verdict in verdicts), sum(verdict.doubled for verdict in verdicts)
    lines.append(f"{'all':<35}{kills:>6}{lost:>7}{doubled:>9}{sum(bool(v.wrong) for v in verdicts):>7}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.campaign", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--keep", metavar="DIR", help="work here and leave what is wrong (default: a folder that goes)")
    args = parser.parse_args()
    folder = Path(args.keep or tempfile.mkdtemp(prefix="etlkit-campaign-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    try:
        verdicts, campaign = run_campaign(
            folder,
            args.kills,
            args.seed,
            tuple(args.jobs.split(",")),
            lambda text: print(text, flush=True),
            lambda folder: make_source(folder, "0.02", 2500),
        )
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(table(verdicts)))
    missed = [point for point in points() if not any(at == point for _, at in campaign.reached)]
    if missed:
        print(f"never reached: {', '.join(missed)}")
    print(f"{time.monotonic() - began_s:.0f} s, seed {args.seed}")
    return 0 if all(verdict.good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
