"""What every ``ek.Source`` must do, as tests that an author runs on their own.

    from etlkit.testing.source_contract import SourceContract

    class TestMySource(SourceContract):
        def make(self, place): ...          # put some input there: several hundred rows at least
        def open_source(self, place): return MySource(place)
        def expected(self, place): ...      # all rows, in order, as a pyarrow table

Needs pytest. Covers what exactly-once rests on: splits that come out the same in every process, and batches that depend on nothing
but the split and the size asked for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ..errors import InputError
from ..io.source import FileRecord, Source, Split
from ..plan.expr import col

TARGETS = (1, 16 * 1024, 1 << 30)
"""Bytes of a split: as small as the source can, middling, and all in one."""


class SourceContract:
    """Subclass it, and give at least ``make``, ``open_source`` and ``expected``."""

    def make(self, place: Path) -> None:
        """Put the input there. ``place`` is an empty folder for one test."""
        raise NotImplementedError("give make")

    def open_source(self, place: Path) -> Source:
        """A new object over the same input, as a new process has it."""
        raise NotImplementedError("give open_source")

    def expected(self, place: Path) -> pa.Table:
        """Every row, in the order of the input, with the source's columns."""
        raise NotImplementedError("give expected")

    def change(self, place: Path) -> None:
        """Change the input after the run has begun, as a careless producer would."""
        pytest.skip("change is not given: what changed input does is not tried")

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        self.make(tmp_path)
        return tmp_path

    def read(
        self, source: Source, splits: Sequence[Split], columns: Sequence[str] | None = None, batch_rows: int = 1000
    ) -> list[pa.RecordBatch]:
        return [batch for split in splits for batch in source.read(split, columns, None, batch_rows)]

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────

    def test_it_is_a_source_and_describes_itself_as_data(self, place: Path) -> None:
        first, second = self.open_source(place), self.open_source(place)
        assert isinstance(first, Source)
        assert json.loads(json.dumps(first.describe())) == second.describe(), "the same, in every process"

    def test_schema_and_inventory_are_the_same_each_time(self, place: Path) -> None:
        first, second = self.open_source(place), self.open_source(place)
        assert first.schema.equals(second.schema)
        assert len(set(first.schema.names)) == len(first.schema.names)
        assert not any(kind in (pa.string_view(), pa.binary_view()) for kind in first.schema.types), "views: see Source"
        assert list(first.inventory()) == list(second.inventory())
        assert all(isinstance(file, FileRecord) and file.size_bytes >= 0 for file in first.inventory())

    @pytest.mark.parametrize("target_bytes", TARGETS)
    def test_splits_hold_every_row_once_in_order(self, place: Path, target_bytes: int) -> None:
        source = self.open_source(place)
        splits = source.splits(None, None, target_bytes)
        assert pa.Table.from_batches(self.read(source, splits), source.schema).equals(self.expected(place))

    @pytest.mark.parametrize("target_bytes", TARGETS)
    def test_splits_come_out_the_same_in_every_process(self, place: Path, target_bytes: int) -> None:
        first, second = (self.open_source(place).splits(None, None, target_bytes) for _ in range(2))
        assert list(first) == list(second)
        for split in first:
            assert all(0 <= one.file < len(self.open_source(place).inventory()) for one in split.segments)
            assert min(split.encoded_bytes, split.decoded_bytes, split.unit_bytes) >= 0

    def test_rows_that_are_promised_are_there(self, place: Path) -> None:
        source = self.open_source(place)
        for split in source.splits(None, None, 1):
            if split.rows is not None:
                assert sum(batch.num_rows for batch in self.read(source, [split])) == split.rows

    @pytest.mark.parametrize("batch_rows", [1, 7, 100_000])
    def test_batches_are_no_larger_than_asked_and_the_same_again(self, place: Path, batch_rows: int) -> None:
        source = self.open_source(place)
        split = source.splits(None, None, 1)[0]
        first = self.read(source, [split], batch_rows=batch_rows)
        assert first and max(batch.num_rows for batch in first) <= batch_rows
        again = self.read(self.open_source(place), [split], batch_rows=batch_rows)
        assert [batch.num_rows for batch in first] == [batch.num_rows for batch in again]
        assert all(one.equals(other) for one, other in zip(first, again, strict=True))

    def test_a_part_of_the_columns_in_the_order_asked_for(self, place: Path) -> None:
        source = self.open_source(place)
        names = source.schema.names[::-1][: max(1, len(source.schema) // 2)]
        splits = source.splits(names, None, 1 << 30)
        found = pa.Table.from_batches(self.read(source, splits, names))
        assert found.column_names == names
        assert found.equals(self.expected(place).select(names))

    def test_no_columns_still_have_rows(self, place: Path) -> None:
        source = self.open_source(place)
        batches = self.read(source, source.splits((), None, 1 << 30), ())
        assert sum(batch.num_rows for batch in batches) == self.expected(place).num_rows
        assert all(batch.num_columns == 0 for batch in batches)

    def test_splits_are_read_in_any_order_and_side_by_side(self, place: Path) -> None:
        source = self.open_source(place)
        splits = list(source.splits(None, None, 1))
        alone = [pa.Table.from_batches(self.read(source, [split]), source.schema) for split in splits]
        found: dict[int, pa.Table] = {}

        def work(numbers: list[int]) -> None:
            for number in numbers:
                found[number] = pa.Table.from_batches(self.read(source, [splits[number]]), source.schema)

        backwards = list(range(len(splits)))[::-1]
        threads = [threading.Thread(target=work, args=(backwards[start::2],)) for start in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [found[number] for number in range(len(splits))] == alone

    def test_a_predicate_leaves_out_only_what_it_excludes(self, place: Path) -> None:
        """It may save reading; whoever calls still filters."""
        source, whole = self.open_source(place), self.expected(place)
        for name, kind in zip(source.schema.names, source.schema.types, strict=True):
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                continue
            middle = pc.quantile(whole[name], 0.5)[0].as_py()
            predicate = col(name) > middle
            batches = [
                batch
                for split in source.splits(None, predicate, 1)
                for batch in source.read(split, None, predicate, 1000)
            ]
            kept = pa.Table.from_batches(batches, source.schema)
            above = pc.field(name) > pa.scalar(middle, pa.float64())
            assert kept.filter(above).equals(whole.filter(above)), name

    def test_input_that_changed_is_refused(self, place: Path) -> None:
        source = self.open_source(place)
        splits = source.splits(None, None, 1)
        self.read(source, splits[:1])
        self.change(place)
        with pytest.raises(InputError):
            self.read(source, splits)
