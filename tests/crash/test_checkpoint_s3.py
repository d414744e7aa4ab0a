"""State in an object store: a real S3 protocol server on loopback, and fsspec's memory filesystem for the same laws."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from etlkit.checkpoint import Delta, Intervals, Phase, StageDelta, StateDir, state_dir
from etlkit.checkpoint.fsspec_store import FsspecStore
from etlkit.checkpoint.store import Taken
from etlkit.errors import ConfigError, CorruptStateError, FencedError, StateError

PLACES = ["memory", "s3"]


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    pytest.importorskip("s3fs", reason="the extra [s3] is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    before = dict(os.environ)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(settings, AWS_ENDPOINT_URL=f"http://{host}:{port}")
    try:
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.stop()
        for name in (*settings, "AWS_ENDPOINT_URL"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


@pytest.fixture(params=PLACES)
def store(request: pytest.FixtureRequest) -> FsspecStore:
    name = request.node.name.replace("[", "-").replace("]", "")
    root = "memory://" if request.param == "memory" else request.getfixturevalue("s3_url") + "/"
    return FsspecStore.from_url(f"{root}{name}/state", skip_instance_cache=True)


def write(state: StateDir, values: list[int]) -> Any:
    with state.run_writer(0) as writer:
        writer.add(0, pa.table({"x": values}))
        return writer.close()


def test_a_run_from_begin_to_done(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_dir, "DELTAS_A_BASE", 3)
    state = StateDir.open(store)
    state.begin("run", {"job": "x"}, {"plan": list(range(5000))})
    for split in range(8):
        run = write(state, [split])
        state.commit(Delta("x", {0: StageDelta(Intervals.of([split]), (run,), rows_in=1)}))
    again = StateDir.open(store)
    snapshot = again.claim({"attempts": [1, 2]})
    assert snapshot.epoch == 2 and snapshot.stages[0].rows_in == 8 and snapshot.facts["plan"] == list(range(5000))
    total = 0
    for run in snapshot.stages[0].runs:
        with again.open_run(run) as reader:
            total += sum(x for batch in reader.batches(0) for x in batch["x"].to_pylist())
    assert total == sum(range(8))
    with pytest.raises(FencedError):
        state.commit(Delta("late"))
    with pytest.raises(FencedError):
        state.fence()
    orphan = write(state, [1, 2, 3])
    assert again.collect() >= orphan.length
    again.commit(Delta("publish", phase=Phase.PUBLISHING))
    again.commit(Delta("done", phase=Phase.DONE))
    assert again.verify() == [] and again.bytes_on_disk() > 0
    found = StateDir.open(store, read_only=True).snapshot
    assert found is not None and found.phase is Phase.DONE


def test_the_put_is_conditional(store: FsspecStore) -> None:
    store.prepare()
    store.put_new("manifests/00000001.json", b"one", "e1")
    with pytest.raises(Taken):
        store.put_new("manifests/00000001.json", b"two", "e1")
    assert store.read("manifests/00000001.json") == b"one"
    assert store.read("manifests/00000002.json") is None and not store.exists("manifests/00000002.json")
    assert store.names("manifests") == ["manifests/00000001.json"]
    assert store.remove("manifests/00000001.json") and store.names("manifests") == []


def test_a_put_that_was_repeated_by_the_client_finds_its_own_work(store: FsspecStore) -> None:
    """The reply is lost, the client sends it again, and the answer is 412: it is there, and it is ours."""
    state = StateDir.open(store)
    state.begin("run", {}, {})
    real = store.put_new

    def twice(name: str, content: bytes, tag: str) -> None:
        real(name, content, tag)
        real(name, content, tag)

    store.put_new = twice  # type: ignore[method-assign]
    assert state.commit(Delta("x")).id == 3
    found = StateDir.open(store, read_only=True).snapshot
    assert found is not None and found.id == 3


def test_a_large_run_goes_up_in_blocks(store: FsspecStore) -> None:
    state = StateDir.open(store)
    state.begin("run", {}, {})
    with state.run_writer(0) as writer:
        for partition in range(4):
            writer.add(partition, pa.table({"x": pa.array(range(500_000), pa.int64())}))
        run = writer.close()
    assert run.length > 16_000_000
    state.commit(Delta("x", {0: StageDelta(runs=(run,))}))
    with state.open_run(run) as reader:
        reader.check()
        assert len(reader.sections) > 4, "a partition of 4 MB is more than one section"
        assert sum(section.rows for section in reader.sections) == 2_000_000
        assert sum(batch.num_rows for batch in reader.batches(3)) == 500_000


def test_an_aborted_upload_leaves_nothing(store: FsspecStore) -> None:
    state = StateDir.open(store)
    state.begin("run", {}, {})
    writer = state.run_writer(0)
    writer.add(0, pa.table({"x": [1]}))
    writer.abort()
    assert store.names("runs") == []


def test_listing_that_lags_hides_nothing(store: FsspecStore) -> None:
    state = StateDir.open(store)
    state.begin("run", {}, {})
    old = store.sizes("manifests")
    for split in range(5):
        state.commit(Delta("x", {0: StageDelta(Intervals.of([split]))}))
    real = store.sizes
    store.sizes = lambda folder: old if folder == "manifests" else real(folder)  # type: ignore[method-assign,assignment]
    late = StateDir.open(store)
    assert late.snapshot == state.snapshot
    late.claim({})
    with pytest.raises(FencedError):
        state.commit(Delta("x"))


def test_a_store_that_ignores_the_condition_is_refused(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store._fs.pipe_file
    monkeypatch.setattr(store._fs, "pipe_file", lambda path, content, mode="overwrite": real(path, content))
    with pytest.raises(StateError, match="ignores If-None-Match"):
        StateDir.open(store)


def test_damage_and_strangers_are_named(store: FsspecStore) -> None:
    state = StateDir.open(store)
    state.begin("run", {}, {})
    run = write(state, [1])
    state.commit(Delta("x", {0: StageDelta(runs=(run,))}))
    store.remove(run.name)
    with pytest.raises(CorruptStateError, match=run.name):
        state.open_run(run)
    assert [problem.name for problem in state.verify()] == [run.name]
    elsewhere = FsspecStore(store._fs, f"{store._root}-other")
    store._fs.pipe_file(f"{store._root}-other/thesis.docx", b"years of work")
    with pytest.raises(ConfigError, match=r"thesis\.docx"):
        StateDir.open(elsewhere)


def test_an_unreachable_store_is_a_state_error(s3_url: str) -> None:
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    with pytest.raises(StateError) as refused:
        StateDir.open(FsspecStore.from_url(f"{s3_url}/x", skip_instance_cache=True, **options))
    assert refused.value.remedy and "s3://bucket/x" in refused.value.message
