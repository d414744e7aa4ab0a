"""Arrow IPC files as a source."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from etlkit.errors import InputError
from etlkit.io.formats import open_source
from etlkit.io.ipc import IpcSource


def write(path: Path, batches: list[pa.RecordBatch], compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def numbers(start: int, stop: int) -> pa.RecordBatch:
    values = range(start, stop)
    return pa.RecordBatch.from_pydict({"id": list(values), "s": pa.array([f"s{i}" for i in values], pa.string_view())})


def source(*paths: Path, **options: str) -> IpcSource:
    made = open_source("ipc", [str(path) for path in paths], options)
    assert isinstance(made, IpcSource)
    return made


def read(made: IpcSource, columns: list[str] | None = None, target: int = 1) -> pa.Table:
    schema = made.schema if columns is None else pa.schema([made.schema.field(name) for name in columns])
    splits = made.splits(columns, None, target)
    return pa.Table.from_batches([b for split in splits for b in made.read(split, columns, None, 7)], schema)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_every_row_once(tmp_path: Path, compression: str | None) -> None:
    write(tmp_path / "a.arrow", [numbers(0, 30), numbers(30, 33)], compression)
    write(tmp_path / "b.arrow", [numbers(33, 40)], compression)
    made = source(tmp_path)
    assert len(made.splits(None, None, 1)) == 3 and len(made.splits(None, None, 1 << 30)) == 1
    assert read(made)["id"].to_pylist() == list(range(40)) and made.schema.field("s").type == pa.string()
    (split,) = made.splits(None, None, 1 << 30)
    assert [b.num_rows for b in made.read(split, None, None, 20)] == [20, 10, 3, 7]
    assert read(made, ["s"]).schema.names == ["s"]
    assert sum(b.num_rows for b in made.read(split, [], None, 20)) == 40


def test_drift(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", [numbers(0, 1)])
    write(tmp_path / "b.arrow", [pa.RecordBatch.from_pydict({"id": [1], "more": [2]})])
    with pytest.raises(InputError, match=r"b\.arrow, column s"):
        source(tmp_path).splits(None, None, 1)
    assert read(source(tmp_path, schema="union")).to_pydict() == {"id": [0, 1], "s": ["s0", None], "more": [None, 2]}
    assert read(source(tmp_path, schema="first")).to_pydict() == {"id": [0, 1], "s": ["s0", None]}


def test_a_dictionary_is_one_way_to_store_its_values(tmp_path: Path) -> None:
    texts = pa.array(["a", None, "a"])
    for at, column in enumerate(
        [texts.dictionary_encode(), texts, texts.dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))]
    ):
        write(tmp_path / f"{at}.arrow", [pa.record_batch([column], names=["s"])])
    found = read(source(tmp_path, schema="union"))
    assert found.schema.field("s").type == pa.string() and found["s"].to_pylist() == ["a", None, "a"] * 3


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -200])
def test_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.arrow", [numbers(0, 1000)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.arrow: not readable as an Arrow IPC file"):
        read(source(path))


def test_corrupt_batch_is_named_and_does_not_crash(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.arrow",
        [numbers(0, 1000), pa.RecordBatch.from_pydict(numbers(0, 1000).to_pydict(), numbers(0, 1).schema)],
    )
    data = path.read_bytes()
    damaged = data.replace(b"s500", b"\xff\xff\xff\xff")
    assert damaged != data
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="record batch 0"):
        read(source(path))
    for place in range(200, len(data), 997):
        path.write_bytes(data[:place] + b"\xff" * 8 + data[place + 8 :])
        try:
            read(source(path))
        except InputError as error:
            assert "a.arrow" in error.message


def test_types_without_kernels_become_those_that_have_them(tmp_path: Path) -> None:
    views = [[1], [2, None], None, []]
    money = [Decimal("1.50"), None, Decimal(0), Decimal("-2.25")]
    columns = {
        "v": pa.array(views, pa.list_view(pa.int32())), "w": pa.array(views, pa.large_list_view(pa.int32())),
        "d": pa.array(money, pa.decimal32(7, 2)), "e": pa.array(money, pa.decimal64(15, 2)),
    }  # fmt: skip
    batch = pa.RecordBatch.from_pydict(columns)
    made = source(write(tmp_path / "x.arrow", [batch]))
    assert [str(kind) for kind in made.schema.types] == [
        "list<item: int32>", "large_list<item: int32>", "decimal128(7, 2)", "decimal128(15, 2)",
    ]  # fmt: skip
    found = read(made)
    found.validate(full=True)
    assert found.to_pydict() == {"v": views, "w": views, "d": money, "e": money}
