"""What every ``ek.Sink`` must do, as tests that an author runs on their own.

    from etlkit.testing.sink_contract import SinkContract

    class TestMySink(SinkContract):
        def open_sink(self, place):
            return MySink(place / "out")

        def read_rows(self, place):
            return ...  # a pyarrow table of what a reader sees now, or None

Needs pytest. Covers staging, publication, repetition, crashes before every visible change, fencing, and what is reported. It does
not cover power losses: whether a part is durable when ``close`` returns is for the author to know (sync file and folder).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ..errors import CorruptStateError, FencedError
from ..io.sink import Part, Sink

RUN_ID = "contract-run"
SPLITS, ROWS = 3, 100


class Crash(BaseException):
    """The process ends here: whatever was done is done, and nothing comes after."""


class SinkContract:
    """Subclass it, and give at least ``open_sink`` and ``read_rows``."""

    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("amount", pa.float64())])
    """What is written. Another one must keep an ``id`` column of int64; give ``batch`` too then."""

    def open_sink(self, place: Path) -> Sink:
        """A new object over the same target, as a new process has it. ``place`` is an empty folder for one test."""
        raise NotImplementedError("give open_sink")

    def read_rows(self, place: Path) -> pa.Table | None:
        """What a reader of the target sees now; None or an empty table for nothing. At least the column ``id``."""
        raise NotImplementedError("give read_rows")

    def lose(self, place: Path, part: Part) -> None:
        """Make a staged part disappear, as a fault of the store would."""
        pytest.skip("lose is not given: what a lost part does is not tried")

    def batch(self, start: int, rows: int) -> pa.RecordBatch:
        ids = range(start, start + rows)
        columns = [list(ids), [f"name {one % 3}" if one % 5 else None for one in ids], [one / 4 for one in ids]]
        return pa.RecordBatch.from_arrays(
            [pa.array(values, kind) for values, kind in zip(columns, self.schema.types, strict=True)],
            schema=self.schema,
        )

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, place: Path, *, resuming: bool = False) -> Sink:
        sink = self.open_sink(place)
        sink.prepare(RUN_ID, resuming=resuming)
        return sink

    def stage(self, sink: Sink, split: int, epoch: int = 1, rows: int = ROWS) -> tuple[Part, ...]:
        staged = sink.stage(split, epoch, self.schema)
        half = rows // 2
        staged.write(self.batch(split * 1000, half))
        staged.write(self.batch(split * 1000 + half, rows - half))
        return staged.close()

    def stage_all(self, sink: Sink) -> list[Part]:
        return [part for split in range(SPLITS) for part in self.stage(sink, split)]

    def ids(self, place: Path) -> list[int]:
        table = self.read_rows(place)
        return [] if table is None or not table.num_rows else sorted(table["id"].to_pylist())

    def expected(self, splits: Sequence[int] = range(SPLITS)) -> list[int]:
        return [split * 1000 + row for split in splits for row in range(ROWS)]

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────

    def test_it_is_a_sink_and_describes_itself_as_data(self, tmp_path: Path) -> None:
        first, second = self.open_sink(tmp_path), self.open_sink(tmp_path)
        assert isinstance(first, Sink)
        assert json.loads(json.dumps(first.describe())) == second.describe(), "the same, in every process"

    def test_nothing_is_seen_before_the_commit_and_everything_after(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        parts = self.stage_all(sink)
        assert self.ids(tmp_path) == []
        sink.commit(parts, _no_fence)
        assert self.ids(tmp_path) == self.expected()

    def test_parts_say_what_is_in_them_and_final_names_do_not_depend_on_the_epoch(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        first, again = self.stage(sink, 1, epoch=1), self.stage(sink, 1, epoch=2)
        assert first and all(isinstance(part, Part) and part.split == 1 for part in first)
        assert sum(part.rows for part in first) == ROWS
        assert [part.final for part in first] == [part.final for part in again]
        names = [part.name for part in (*first, *again)]
        assert len(set(names)) == len(names), "a staged name is never used again"
        for part in first:
            assert json.loads(json.dumps(part.length)) >= 0 and 0 <= part.crc32 < 1 << 32

    def test_only_parts_that_are_named_are_seen(self, tmp_path: Path) -> None:
        """A split was staged twice, by an attempt that died and by the next one; and one was never named."""
        sink = self.begin(tmp_path)
        self.stage(sink, 0, epoch=1)
        self.stage(sink, 2, epoch=1)
        sink = self.begin(tmp_path, resuming=True)
        named = [*self.stage(sink, 0, epoch=2), *self.stage(sink, 1, epoch=2)]
        sink = self.begin(tmp_path, resuming=True)
        assert sink.recover(named) >= 0
        sink.commit(named, _no_fence)
        assert self.ids(tmp_path) == self.expected([0, 1])

    def test_an_aborted_split_leaves_nothing_and_may_begin_again(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        staged = sink.stage(0, 1, self.schema)
        staged.write(self.batch(500, 10))
        staged.abort()
        parts = self.stage(sink, 0)
        sink.commit(parts, _no_fence)
        assert self.ids(tmp_path) == self.expected([0])

    def test_a_split_without_rows_and_an_output_without_parts(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        staged = sink.stage(0, 1, self.schema)
        staged.write(self.batch(0, 0))
        parts = staged.close()
        assert sum(part.rows for part in parts) == 0
        sink.commit(parts, _no_fence)
        assert self.ids(tmp_path) == []

    def test_splits_are_staged_side_by_side(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        done: dict[int, tuple[Part, ...]] = {}

        def work(split: int) -> None:
            done[split] = self.stage(sink, split)

        threads = [threading.Thread(target=work, args=(split,)) for split in range(SPLITS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        sink.commit([part for split in range(SPLITS) for part in done[split]], _no_fence)
        assert self.ids(tmp_path) == self.expected()

    def test_a_commit_may_be_repeated_also_by_a_new_process(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        parts = self.stage_all(sink)
        sink.commit(parts, _no_fence)
        sink.commit(parts, _no_fence)
        again = self.begin(tmp_path, resuming=True)
        again.recover(parts)
        again.commit(parts, _no_fence)
        assert self.ids(tmp_path) == self.expected()

    def test_a_new_process_goes_on_with_what_was_staged(self, tmp_path: Path) -> None:
        parts = list(self.stage(self.begin(tmp_path), 0))
        sink = self.begin(tmp_path, resuming=True)
        sink.recover(parts)
        parts += [*self.stage(sink, 1, epoch=2), *self.stage(sink, 2, epoch=2)]
        sink.commit(parts, _no_fence)
        assert self.ids(tmp_path) == self.expected()

    def test_a_crash_before_any_visible_change_rolls_forward(self, tmp_path: Path) -> None:
        """The fence is called before each visible change: dying there tries every half-done commit."""
        calls = self._fences_of_a_commit(tmp_path / "count")
        assert calls > 0, "commit never called its fence: a paused writer would overwrite its successor's output"
        for number in range(calls):
            place = tmp_path / str(number)
            place.mkdir()
            sink = self.begin(place)
            parts = self.stage_all(sink)
            with pytest.raises(Crash):
                sink.commit(parts, _raise_at(number, Crash()))
            again = self.begin(place, resuming=True)
            again.recover(parts)
            again.commit(parts, _no_fence)
            assert self.ids(place) == self.expected(), f"after a crash at fence {number + 1} of {calls}"

    def test_a_fenced_writer_stops_at_once(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        parts = self.stage_all(sink)
        with pytest.raises(FencedError):
            sink.commit(parts, _raise_at(0, FencedError("another run has taken over", "let it work")))
        assert self.ids(tmp_path) == []

    def test_a_part_that_was_lost_is_told(self, tmp_path: Path) -> None:
        sink = self.begin(tmp_path)
        parts = self.stage_all(sink)
        self.lose(tmp_path, parts[1])
        again = self.begin(tmp_path, resuming=True)
        with pytest.raises(CorruptStateError):
            again.recover(parts)

    def _fences_of_a_commit(self, place: Path) -> int:
        place.mkdir()
        sink = self.begin(place)
        count = 0

        def fence() -> None:
            nonlocal count
            count += 1

        sink.commit(self.stage_all(sink), fence)
        return count


def _no_fence() -> None:
    pass


def _raise_at(number: int, error: BaseException) -> Any:
    left = number

    def fence() -> None:
        nonlocal left
        if left == 0:
            raise error
        left -= 1

    return fence
