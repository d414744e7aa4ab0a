"""Wrong input and wrong plans, as a user meets them: from the command line, with the exit code and the place in the message.

Nothing half-written may be visible after any of them, and no traceback may be shown: that would be an error nobody thought of.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.checkpoint import document
from etlkit.checkpoint.manifest import FORMAT

from .. import warm
from ..conftest import environment

JOBS = """
import pyarrow as pa
import pyarrow.compute as pc
import etlkit as ek

col = ek.col


def boom(batch):
    if pc.any(pc.equal(batch.column("k"), 250)).as_py():
        raise ValueError("250 is not allowed")
    return batch


def other(batch):
    return batch.rename_columns(["k", "w", "s", "l"])


def text(batch):
    return batch.set_column(0, "k", batch.column("k").cast(pa.string()))


def number(batch):
    return 7


READ = {"parquet": ek.read_parquet, "csv": ek.read_csv, "json": ek.read_json, "ipc": ek.read_ipc}


@ek.job
def copy(src: str, out: str, format: str = "parquet", bad_rows: str = "error", schema: str = "strict") -> ek.Pipeline:
    options = {"bad_rows": bad_rows} if format in ("csv", "json") else {"schema": schema}
    return READ[format](src, **options).write_parquet(out)


@ek.job
def steps(src: str, out: str, which: str) -> ek.Pipeline:
    p = ek.read_parquet(src)
    q = {
        "raises": lambda: p.map_batches(boom),
        "other columns": lambda: p.map_batches(other),
        "other type": lambda: p.map_batches(text),
        "no batch": lambda: p.map_batches(number),
        "unknown column": lambda: p.filter(col("kk") > 1),
        "unknown key": lambda: p.group_by("vv").agg(n=ek.count()),
        "unknown sort key": lambda: p.sort("kkk"),
        "unknown join key": lambda: p.join(p, on="x"),
        "number and text": lambda: p.filter(col("k") > "abc"),
        "filter of a number": lambda: p.filter(col("k") + 1),
        "sum of text": lambda: p.agg(s=ek.sum("s")),
        "join of text and number": lambda: p.join(p.select(k=col("s")), on="k"),
        "union of others": lambda: p.union(p.drop("v")),
        "explode of a number": lambda: p.explode("k"),
        "sort by a list": lambda: p.sort("l"),
        "group by a list": lambda: p.group_by("l").agg(),
        "no aggregate": lambda: p.agg(),
        "no column": lambda: p.select(),
        "bad cast": lambda: p.cast(s="int64"),
        "overflow": lambda: p.with_columns(big=col("k") * 9223372036854775807),
        "sum overflow": lambda: p.with_columns(big=ek.lit(9223372036854775807)).agg(s=ek.sum("big")),
        "division by zero": lambda: p.with_columns(z=col("k") // (col("k") - 7)),
        "all of it": lambda: p,
        "grouped": lambda: p.group_by("k").agg(n=ek.count()),
    }
    return q[which]().write_parquet(out)


@ek.job
def another(src: str, out: str) -> ek.Pipeline:
    return ek.read_parquet(src).write_parquet(out)
"""


@dataclass
class Place:
    """A folder with jobs and input, and the command line in it."""

    folder: Path

    def __call__(
        self,
        job: str,
        *more: str,
        code: int,
        state: str = "state",
        env: dict[str, str] | None = None,
        powerless: bool = False,
        **values: object,
    ) -> str:
        """Run it, look at the exit code, and return what it said. ``powerless``: root may not read what is closed, either."""
        given = {"src": self.folder / "in", "out": self.folder / "out", **values}
        command = ["run", f"jobs.py:{job}", "--state", state, "--progress", "none", *more]
        for name, value in given.items():
            command += ["--set", f"{name}={value}"]
        if powerless and os.geteuid() == 0:
            less = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
            done = subprocess.run(
                [*less, sys.executable, "-m", "etlkit", *command],
                cwd=self.folder,
                env=environment(env),
                capture_output=True,
                text=True,
            )
        else:
            done = warm.run(command, cwd=self.folder, env=environment(env))
        assert done.returncode == code, f"{done.returncode}, not {code}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr, done.stderr
        if code:
            out = Path(str(given["out"]))
            assert not visible(out), visible(out)
        return done.stderr


def visible(out: Path) -> list[str]:
    """What a reader of the output would take for it."""
    names = (path.relative_to(out) for path in out.rglob("*") if path.is_file())
    return [
        str(name)
        for name in names
        if name.name.startswith(("part-", "_SUCCESS")) and not name.parts[0].startswith((".", "_etlkit"))
    ]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """in/: three Parquet files of 100 rows."""
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "in").mkdir()
    for number in range(3):
        pq.write_table(table(number), tmp_path / "in" / f"{number}.parquet")
    return Place(tmp_path)


def table(number: int) -> pa.Table:
    k = pa.array(range(number * 100, number * 100 + 100))
    return pa.table({"k": k, "v": k.cast(pa.float64()), "s": pa.array(["x"] * 100), "l": pa.array([[1]] * 100)})


def write(folder: Path, format: str) -> Path:
    """One good file of a format, and the name of another beside it, to be made wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = table(0).drop_columns(["l"])
    path = folder / {"parquet": "b.parquet", "csv": "b.csv", "json": "b.jsonl", "ipc": "b.arrow"}[format]
    if format == "parquet":
        pq.write_table(flat, path)
    elif format == "csv":
        path.write_text("k,v,s\n" + "".join(f"{n},{n}.5,x\n" for n in range(100)))
    elif format == "json":
        path.write_text("".join(json.dumps({"k": n, "s": "x"}) + "\n" for n in range(100)))
    else:
        with pa.ipc.new_file(path, flat.schema) as writer:
            writer.write_table(flat, max_chunksize=10)
    return path


# ── paths ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("format", ["parquet", "csv", "json", "ipc"])
def test_a_path_that_is_not_there(place: Place, format: str) -> None:
    said = place("copy", src=place.folder / "nowhere", format=format, code=78)
    assert "nowhere" in said


def test_a_folder_with_nothing_to_read(place: Place) -> None:
    (place.folder / "empty").mkdir()
    assert "empty" in place("copy", src=place.folder / "empty", code=78)


@pytest.mark.parametrize("format", ["parquet", "csv", "json", "ipc"])
def test_a_file_that_may_not_be_read(place: Place, format: str) -> None:
    closed = write(place.folder / "closed", format)
    closed.chmod(0)
    said = place("copy", src=closed.parent, format=format, code=65, powerless=True)
    assert closed.name in said and "ermission" in said


# ── damaged files ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("format", ["parquet", "ipc"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty"])
def test_a_damaged_file_is_named(place: Place, format: str, damage: str) -> None:
    path = write(place.folder / "bad", format)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(
        {"truncated": whole[:half], "corrupt": whole[:-40] + b"\xff" * 30 + whole[-10:], "empty": b""}[damage]
    )
    assert path.name in place("copy", src=path.parent, format=format, code=65)


@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_truncated_compressed_file_is_named(place: Place, format: str) -> None:
    path = write(place.folder / "bad", format)
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(os.urandom(20).hex().encode() + b"\n" + path.read_bytes())[:-30])
    path.unlink()
    assert packed.name in place("copy", src=packed.parent, format=format, code=65)


def test_a_file_that_is_no_text_is_named_with_its_line(place: Place) -> None:
    path = write(place.folder / "bad", "json")
    path.write_bytes(path.read_bytes() + b"\x00\x01\x02 not json\n")
    said = place("copy", src=path.parent, format="json", code=65)
    assert path.name in said and "101" in said


def test_files_that_differ(place: Place) -> None:
    pq.write_table(pa.table({"k": pa.array(["text"])}), place.folder / "in" / "9.parquet")
    said = place("copy", code=65)
    assert "9.parquet" in said and "k" in said
    pq.write_table(table(1).append_column("extra", pa.array(range(100))), place.folder / "in" / "9.parquet")
    said = place("copy", code=65, state="other")
    assert "9.parquet" in said and "extra" in said and "schema=" in said
    place("copy", code=0, state="third", schema="union")


# ── rows that do not parse ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_csv_row_that_does_not_parse(place: Place) -> None:
    path = write(place.folder / "bad", "csv")
    path.write_text(path.read_text() + "1000,text,x\n1001,2.5\n1002,1.5,x\n")
    said = place("copy", src=path.parent, format="csv", code=65)
    assert "b.csv" in said and ("102" in said or "103" in said) and "bad_rows" in said
    place("copy", src=path.parent, format="csv", bad_rows="skip", out=place.folder / "skipped", code=0, state="skip")
    assert pq.read_table(place.folder / "skipped").num_rows in (101, 102)
    place(
        "copy",
        src=path.parent,
        format="csv",
        bad_rows="quarantine",
        out=place.folder / "kept",
        code=0,
        state="quarantine",
    )
    found = [line for kept in place.folder.rglob("*.jsonl") for line in kept.read_text().splitlines()]
    assert any("1001,2.5" in line for line in found)


def test_a_choice_that_is_none(place: Place) -> None:
    path = write(place.folder / "bad", "csv")
    assert "bad_rows" in place("copy", src=path.parent, format="csv", bad_rows="ignore", code=78)


# ── plans and functions ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("which", "code", "words"),
    [
        ("raises", 1, "boom ValueError 250 2.parquet"),
        ("other columns", 78, "other w schema"),
        ("other type", 78, "text k string"),
        ("no batch", 78, "number int"),
        ("unknown column", 78, "kk k"),
        ("unknown key", 78, "vv v"),
        ("unknown sort key", 78, "kkk"),
        ("unknown join key", 78, "join x"),
        ("number and text", 78, "k int64 abc"),
        ("filter of a number", 78, "filter int64"),
        ("sum of text", 78, "s string"),
        ("join of text and number", 78, "join k int64 string cast"),
        ("union of others", 78, "union v"),
        ("explode of a number", 78, "explode k int64"),
        ("sort by a list", 78, "sort l list"),
        ("group by a list", 78, "l list"),
        ("no aggregate", 78, "agg() ek.sum"),
        ("no column", 78, "select()"),
        ("bad cast", 65, "x int64 0.parquet"),
        ("overflow", 65, "overflow parquet"),
        ("sum overflow", 65, "sum"),
        ("division by zero", 65, "zero 0.parquet"),
    ],
)
def test_a_plan_or_a_function_that_cannot_work(place: Place, which: str, code: int, words: str) -> None:
    said = place("steps", which=which, code=code)
    for word in words.split():
        assert word in said, f"'{word}' is not in: {said}"


def test_what_failed_for_good_fails_fast_again(place: Place) -> None:
    place("steps", which="bad cast", code=65)
    assert "--restart" in place("steps", which="bad cast", code=65)


# ── outputs and disks ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_output_that_exists(place: Place) -> None:
    out = place.folder / "out"
    out.mkdir()
    (out / "something.txt").write_text("mine")
    said = place("copy", code=78)
    assert "out" in said and "if_exists" in said
    assert (out / "something.txt").read_text() == "mine"


@contextlib.contextmanager
def tiny_disk(folder: Path, size: str, *options: str) -> Iterator[Path]:
    """A filesystem of its own, as large as is said. Skips where nothing may be mounted."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def many_rows(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for number in range(4):
        k = pa.array(range(number * 50_000, number * 50_000 + 50_000))
        pq.write_table(pa.table({"k": k, "v": k.cast(pa.float64())}), folder / f"{number}.parquet", compression="none")


def test_a_full_disk_under_the_output(place: Place) -> None:
    many_rows(place.folder / "in")
    with tiny_disk(place.folder / "small", "256k") as small:
        said = place("steps", which="all of it", out=small / "out", code=74)
        assert "No space left" in said and "small" in said
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        place("steps", which="all of it", out=small / "out", code=0)
        assert pq.read_table(small / "out").num_rows == 200_000


def test_a_full_disk_under_the_state(place: Place) -> None:
    many_rows(place.folder / "in")
    with tiny_disk(place.folder / "small", "128k") as small:
        said = place("steps", which="grouped", state=str(small / "state"), code=74)
        assert "No space left" in said
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        place("steps", which="grouped", state=str(small / "state"), code=0)
        assert pq.read_table(place.folder / "out").num_rows == 200_000


def test_a_state_that_may_not_be_written(place: Place) -> None:
    with tiny_disk(place.folder / "shut", "1m", "ro") as shut:
        assert "shut" in place("another", state=str(shut / "state"), code=74)


def test_a_state_that_is_a_file(place: Place) -> None:
    (place.folder / "state").write_text("no folder")
    assert "state" in place("another", code=74)


# ── states of others ────────────────────────────────────────────────────────────────────────────────────────────────


def interrupt(place: Place) -> None:
    """Leave an unfinished run of ``steps`` in the state."""
    place("steps", which="all of it", code=-signal.SIGKILL, env={"ETLKIT_CRASH_AT": "sink.commit"})


def test_the_state_of_another_job(place: Place) -> None:
    interrupt(place)
    said = place("another", code=78)
    assert "steps" in said and "--restart" in said
    place("another", "--restart", code=0)


def test_changed_input_under_an_unfinished_run(place: Place) -> None:
    interrupt(place)
    pq.write_table(table(7), place.folder / "in" / "1.parquet")
    said = place("steps", which="all of it", code=78)
    assert "1.parquet" in said and "--restart" in said


def test_a_state_of_a_newer_format(place: Place) -> None:
    interrupt(place)
    newest = max((place.folder / "state" / "manifests").glob("*.json"))
    newest.write_bytes(document.wrap({**document.unwrap(newest.read_bytes(), newest.name), "format": FORMAT + 1}))
    said = place("steps", which="all of it", code=74)
    assert f"format {FORMAT + 1}" in said and "later" in said


def test_a_state_in_use(place: Place) -> None:
    """Another process holds it, and the waiting is over."""
    command = [sys.executable, "-m", "etlkit", "run", "jobs.py:steps", "--state", "state", "--progress", "none"]
    for value in (f"src={place.folder / 'in'}", f"out={place.folder / 'out'}", "which=all of it"):
        command += ["--set", value]
    stopped = subprocess.Popen(command, cwd=place.folder, env=environment({"ETLKIT_CRASH_AT": "sink.staged:stop"}))
    try:
        os.waitpid(stopped.pid, os.WUNTRACED)
        said = place("steps", "--lock-wait", "0s", which="all of it", code=73)
        assert str(stopped.pid) in said
    finally:
        stopped.kill()
        stopped.wait()
