"""Random CSV texts: pieces and blocks always end where a record ends, and hold every byte once."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etlkit.io import records

VALUES = st.lists(st.sampled_from(["a", ",", "\n", '""', "\r\n", "é"]), max_size=6).map("".join)
PLAIN = st.sampled_from(["x,2\n", "\n", '5" pipe,1\n', '1,5"\n', '1,5" x 6"\r\n', 'a,"",b\n'])
RECORDS = st.lists(
    st.one_of(VALUES.map(lambda value: f'"{value}",1\n'), VALUES.map(lambda value: f'1,"{value}"\n'), PLAIN),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(texts=RECORDS, target=st.integers(1, 40), block=st.integers(1, 30), end=st.booleans())
def test_cuts_are_between_records(texts: list[str], target: int, block: int, end: bool) -> None:
    expected = [text.encode() for text in texts]
    if expected and end:
        expected[-1] = expected[-1].removesuffix(b"\n")
    expected = [one for one in expected if one]
    data = b"".join(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK_BYTES", block)
        found = records.pieces(pa.BufferReader(data), len(data), target, b",", "place")
        assert all(stop - start >= target for start, stop in found[:-1])
        again = []
        for start, stop in found:
            opened = pa.BufferReader(data)
            opened.seek(start)
            for piece, torn in records.blocks(opened, stop - start, b",", "place"):
                assert not torn
                again += [text for _, text in records.split_records(piece, b",")]
    assert again == expected
