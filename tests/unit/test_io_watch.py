"""When a file has arrived, what is taken once, and when it is over: the folder's rules under a clock of our own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etlkit.engine import growth
from etlkit.engine.planner import lower
from etlkit.errors import ConfigError, EtlkitError, InputError, PlanError, UsageError
from etlkit.io import folder_watch, watch
from etlkit.io.source import Arrival, Growing, Source
from etlkit.io.watch import WatchSource
from etlkit.plan.pipeline import read_parquet, watch_dir

SCHEMA = pa.schema([("id", pa.int64())])


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WatchSource]:
    monkeypatch.setattr(watch, "GATHER_S", 0.0)
    (tmp_path / "in").mkdir()

    def made(format: str = "parquet", **options: object) -> WatchSource:
        given = {name: options.pop(name) for name in ("schema", "delimiter") if name in options} or {"schema": SCHEMA}
        source = WatchSource(str(tmp_path / "in"), format, given, poll_s=0.01, clock=clock, **options)  # type: ignore[arg-type]
        source.splits(None, None, 1 << 20)
        return source

    return made


def put(folder: Path, name: str, *ids: int) -> Path:
    pq.write_table(pa.table({"id": pa.array(ids, pa.int64())}), folder / name)
    return folder / name


def names(arrival: Arrival | None) -> list[str]:
    return [] if arrival is None else [file.path.rpartition("/")[2] for file in arrival.files]


def look(source: WatchSource) -> Arrival | None:
    arrival = source.next(0.0)
    if arrival is not None:
        source.take(arrival)
    return arrival


def ids(source: WatchSource) -> list[int]:
    splits = [split for arrival in source.arrivals for split in arrival.splits]
    return [
        one for split in splits for batch in source.read(split, None, None, 1000) for one in batch["id"].to_pylist()
    ]


def test_it_is_a_source_that_grows(make) -> None:
    assert isinstance(make(), Growing) and isinstance(make(), Source)


def test_a_file_is_taken_when_it_stayed_the_same_and_once(make, tmp_path: Path, clock: Clock) -> None:
    source = make(settle_s=2.0)
    path = put(tmp_path / "in", "a.parquet", 1, 2)
    assert look(source) is None
    clock.now_s += 1.9
    assert look(source) is None
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    clock.now_s += 1.9
    assert look(source) is None, "it changed: the time begins again"
    clock.now_s += 2.1
    assert names(look(source)) == ["a.parquet"]
    clock.now_s += 10
    assert look(source) is None
    assert ids(source) == [1, 2]


def test_a_file_that_was_renamed_into_a_name_that_counts_is_whole_at_once(make, tmp_path: Path) -> None:
    source = make(settle_s=1000.0)
    put(tmp_path / "in", "a.parquet", 1)
    assert look(source) is None
    source._bell._heard("moved", str(tmp_path / "in" / ".a.tmp"), str(tmp_path / "in" / "a.parquet"))
    assert names(look(source)) == ["a.parquet"]
    put(tmp_path / "in", "c.parquet", 1)
    source._bell._heard("moved", str(tmp_path / "in" / "b.parquet"), str(tmp_path / "in" / "c.parquet"))
    assert look(source) is None, "from a name that counts: who knows whether it is written on"


def test_a_file_that_is_old_needs_not_settle(make, tmp_path: Path) -> None:
    source = make(settle_s=1000.0)
    path = put(tmp_path / "in", "a.parquet", 1)
    assert look(source) is None
    os.utime(path, (1, 1))
    assert names(look(source)) == ["a.parquet"]


@pytest.mark.parametrize("name", [".a.parquet", "_a.parquet", "a.parquet.tmp", "a.csv", "notes"])
def test_names_that_do_not_count(make, tmp_path: Path, clock: Clock, name: str) -> None:
    source = make(settle_s=0.0)
    put(tmp_path / "in", name, 1)
    (tmp_path / "in" / "folder.parquet").mkdir()
    assert look(source) is None


def test_what_was_taken_is_known_by_its_inode_too(make, tmp_path: Path, clock: Clock) -> None:
    source = make(settle_s=0.0)
    path = put(tmp_path / "in", "a.parquet", 1)
    os.link(path, tmp_path / "in" / "b.parquet")
    assert len(names(look(source))) == 1, "two names, one file"
    (tmp_path / "in" / "a.parquet").rename(tmp_path / "in" / "c.parquet")
    assert look(source) is None
    again = make(settle_s=0.0)
    again.recall(SCHEMA, source.arrivals)
    assert look(again) is None, "nor after a restart"
    put(tmp_path / "in", "d.parquet", 1)
    assert names(look(again)) == ["d.parquet"], "the same content in another file is another file"


def test_a_torn_file_waits_and_at_the_end_it_is_refused_by_name(make, tmp_path: Path, clock: Clock) -> None:
    source = make(settle_s=1.0, idle_s=20.0)
    (tmp_path / "in" / "torn.parquet").write_bytes(b"PAR1 and no end")
    look(source)
    clock.now_s += 5
    assert look(source) is None and not source.ended
    clock.now_s += 20
    with pytest.raises(InputError, match=r"torn\.parquet"):
        look(source)


def test_idle_counts_from_the_last_change(make, tmp_path: Path, clock: Clock) -> None:
    source = make(settle_s=1.0, idle_s=5.0)
    look(source)
    clock.now_s += 4.9
    put(tmp_path / "in", "a.parquet", 1)
    look(source)
    clock.now_s += 1.1
    assert names(look(source)) == ["a.parquet"]
    clock.now_s += 3.8
    look(source)
    assert not source.ended
    clock.now_s += 0.2
    look(source)
    assert source.ended


def test_the_marker_ends_it_after_everything_before_it_is_taken(make, tmp_path: Path, clock: Clock) -> None:
    source = make(settle_s=1.0, until="_DONE")
    put(tmp_path / "in", "a.parquet", 1)
    (tmp_path / "in" / "_DONE").touch()
    assert look(source) is None and not source.ended
    clock.now_s += 1.1
    assert names(look(source)) == ["a.parquet"]
    look(source)
    assert source.ended


def test_many_files_come_in_several_arrivals(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_FILES", 3)
    source = make(settle_s=0.0)
    for number in range(7):
        put(tmp_path / "in", f"{number}.parquet", number)
    assert [len(names(look(source))) for _ in range(4)] == [3, 3, 1, 0]
    assert sorted(ids(source)) == list(range(7))


def test_another_schema_is_refused_by_name_or_read_as_the_first(make, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([1], pa.int32()), "more": [1]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet, column id"):
        look(make(settle_s=0.0))
    source = WatchSource(str(tmp_path / "in"), "parquet", {"schema": "first"}, settle_s=0.0)
    source.splits(None, None, 1 << 20)
    source.recall(SCHEMA, ())
    look(source)
    assert ids(source) == [1]
    with pytest.raises(ConfigError, match="union"):
        make(schema="union")


@pytest.mark.parametrize(
    ("format", "name", "text"),
    [("csv", "a.csv", "id\n1\n2\n"), ("json", "a.jsonl", '{"id": 1}\n{"id": 2}\n'), ("csv", "a.csv.gz", None)],
)
def test_text_formats(make, tmp_path: Path, format: str, name: str, text: str | None) -> None:
    import gzip

    data = gzip.compress(b"id\n1\n2\n") if text is None else text.encode()
    (tmp_path / "in" / name).write_bytes(data)
    source = make(format, settle_s=0.0)
    assert names(look(source)) == [name]
    assert ids(source) == [1, 2]


def test_the_first_file_gives_the_schema_and_idle_without_one_says_what_to_do(
    make, tmp_path: Path, clock: Clock
) -> None:
    put(tmp_path / "in", "a.parquet", 1)
    source = WatchSource(str(tmp_path / "in"), "parquet", {}, settle_s=0.0)
    assert source.schema == SCHEMA
    (tmp_path / "in" / "a.parquet").unlink()
    with pytest.raises(ConfigError, match=r"no file arrived(.|\n)*schema=pa\.schema"):
        _ = WatchSource(str(tmp_path / "in"), "parquet", {}, idle_s=0.05).schema


def test_a_folder_that_cannot_be_listed_for_a_while_is_no_end(
    make, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(settle_s=0.0, idle_s=10.0)
    look(source)
    real = watch.folder_files

    def broken(path: str):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(watch, "folder_files", broken)
    clock.now_s += 50
    assert look(source) is None and not source.ended
    monkeypatch.setattr(watch, "folder_files", real)
    look(source)
    assert not source.ended, "idle counts from when it could be seen"
    monkeypatch.setattr(watch, "folder_files", broken)
    look(source)
    clock.now_s += 61
    with pytest.raises(EtlkitError, match="Stale file handle"):
        look(source)


def test_without_inotify_there_is_no_news_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchdog.observers

    class Broken:
        def schedule(self, *_: object) -> None:
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watchdog.observers, "Observer", Broken)
    bell = folder_watch.Bell(str(tmp_path), lambda name: True)
    bell.start()
    assert not bell.wait(0.0)
    bell.stop()


def test_inotify_rings_for_what_is_written_and_not_for_what_is_read(tmp_path: Path) -> None:
    bell = folder_watch.Bell(str(tmp_path), lambda name: not name.startswith("."))
    bell.start()
    try:
        (tmp_path / ".a").write_text("x")
        assert bell.wait(30)
        (tmp_path / ".a").rename(tmp_path / "a")
        while "a" not in bell.renamed():
            assert bell.wait(30)
        while bell.wait(0.2):
            pass
        (tmp_path / "a").read_text()
        assert not bell.wait(0.2)
    finally:
        bell.stop()


# ── what is written down ────────────────────────────────────────────────────────────────────────────────────────────


def test_arrivals_come_back_as_they_were_and_full_chunks_are_not_written_again(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "CHUNK_FILES", 2)
    source = make(settle_s=0.0)
    plan = lower([watch_dir(str(tmp_path / "in"), schema=SCHEMA).write_parquet(str(tmp_path / "out"))])
    facts = growth.first_facts(plan)
    record = growth.Record(0, ())
    keys = []
    for number in range(5):
        put(tmp_path / "in", f"{number}.parquet", number)
        arrival = look(source)
        assert arrival is not None
        fact = record.add(arrival)
        keys.append(next(iter(fact)))
        facts |= fact
    assert keys == [f"watched.0.{chunk}" for chunk in (0, 0, 1, 1, 2)]
    again = lower([watch_dir(str(tmp_path / "in"), schema=SCHEMA).write_parquet(str(tmp_path / "out"))], facts)
    taken = again.sources[0]
    assert isinstance(taken, WatchSource)
    assert list(taken.arrivals) == list(source.arrivals)
    assert list(taken.inventory()) == list(source.inventory())
    another = lower([watch_dir(str(tmp_path), schema=SCHEMA).write_parquet(str(tmp_path / "out"))], facts)
    assert another.sources[0].arrivals == [], "of another folder"  # type: ignore[attr-defined]
    after = growth.Record(0, taken.arrivals)
    put(tmp_path / "in", "5.parquet", 5)
    arrival = look(source)
    assert arrival is not None
    assert list(after.add(arrival)) == ["watched.0.2"], "it goes on where the attempt before stopped"


def test_plans_that_cannot_number_their_splits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    put(tmp_path, "x.parquet", 1)
    watched, plain = watch_dir(str(tmp_path / "in"), schema=SCHEMA), read_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(PlanError, match="comes last"):
        lower([watched.union(plain).write_parquet(str(tmp_path / "out"))])
    lower([plain.union(watched).write_parquet(str(tmp_path / "out"))])
    with pytest.raises(PlanError, match="its own output"):
        lower([watched.write_parquet(str(tmp_path / "in"))])
    with pytest.raises(UsageError, match="until"):
        watch_dir("in", until="a/b")


def test_how_it_ends_is_no_part_of_the_identity(tmp_path: Path) -> None:
    from etlkit.plan.nodes import canonical

    one, other = watch_dir("in", idle="1s"), watch_dir("in", until="_END", poll="1s", settle=5)
    assert canonical(one.node) == canonical(other.node) != canonical(watch_dir("in2", idle="1s").node)
    assert canonical(one.node) != canonical(watch_dir("in", "csv", idle="1s").node)
