"""Partitioning rows by a hash of their keys, the same on every machine and in every version.

Covers the hash of integers, decimals, floats, booleans, dates, times, strings, binaries, dictionaries and structs, and
cutting a batch into its partitions. Equal values hash alike whatever the width of their type (int32 and int64, float and
double, string, large_string and dictionary, decimals of one scale), so that the two sides of a join meet. Values of
different kinds (an integer and a decimal, timestamps of different units) do not: cast them to one type first.

The numbers are written into checkpoints (ADR 0003): changing them is a change of the state's format. pyarrow has no hash
kernel, so this is arithmetic on uint64 arrays that wraps; strings are read eight bytes at a time, straight out of their
buffer. It does not cover lists and maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import PlanError
from ..plan import decimals
from .physical import normal_floats

_U64 = pa.uint64()
_FACTOR_1, _FACTOR_2 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_ODD_1 = pa.scalar(_FACTOR_1, _U64)
_ODD_2 = pa.scalar(_FACTOR_2, _U64)
_SEED = pa.scalar(0x243F6A8885A308D3, _U64)
_OF_NULL = pa.scalar(0x13198A2E03707344, _U64)
_HALF = pa.scalar(32, _U64)
_LONGEST_IN_WORDS = 128
"""Bytes. Longer strings are hashed one by one in Python, at some 2 µs each."""
_FEW_STRINGS = 64
"""So many are hashed one by one, too: the kernels for eight bytes of them take 0.3 ms whether there are four or a thousand."""
_BITS = (1 << 64) - 1


def partition_ids(columns: Sequence[pa.Array], partitions: int, level: int = 0) -> pa.Array:
    """The partition of each row, as uint8 (uint16 for more than 256 partitions).

    ``partitions`` is a power of two up to 65536. Another ``level`` takes other bits: it splits a partition again.
    """
    bits = partitions.bit_length() - 1
    if partitions < 1 or partitions != 1 << bits or bits > 16:
        raise ValueError(f"partitions must be a power of two from 1 to 65536, not {partitions}")
    kind = pa.uint8() if bits <= 8 else pa.uint16()
    if bits == 0:
        return pa.repeat(pa.scalar(0, kind), len(columns[0]))
    if level:
        hashes = _mixed(pc.add(row_hashes(columns), pa.scalar(level * _FACTOR_2 & _BITS, _U64)), upper=True)
    else:
        hashes = row_hashes(columns, upper=True)
    return pc.shift_right(hashes, pa.scalar(64 - bits, _U64)).cast(kind, safe=False)  # they fit: no check


def row_hashes(columns: Sequence[pa.Array], *, upper: bool = False) -> pa.Array:
    """One uint64 a row, of all columns in order. ``upper``: only the upper 32 bits are asked for."""
    if not columns:
        raise ValueError("there is nothing to hash without a column")
    hashes: pa.Array | None = None
    for at, column in enumerate(columns):
        words = _words(column)
        if hashes is not None:
            words = pc.bit_wise_xor(pc.multiply(hashes, _ODD_2), words)
        hashes = _mixed(words, upper=upper and at == len(columns) - 1)
    return hashes


def partition_batch(
    batch: pa.RecordBatch, ids: pa.Array, partitions: int, mask: pa.Array | None = None
) -> list[tuple[int, pa.RecordBatch]]:
    """The rows of each partition that has any, in partition order, each in the order of the batch. Slices of one copy.

    ``mask`` (without nulls): the rows that count.
    """
    if batch.num_rows == 0:
        return []
    if partitions == 1:
        return [(0, batch)]
    rows = batch.num_rows
    if mask is not None:
        kind = ids.type if partitions < 256 else pa.uint16()
        ids = pc.if_else(mask, ids.cast(kind), pa.scalar(partitions, kind))  # the others go to the end, and no further
        rows = mask.true_count
    order = pc.sort_indices(ids)[:rows]
    firsts = pa.array(range(partitions), ids.type)
    bounds = [*pc.search_sorted(ids.take(order), firsts).to_pylist(), rows]
    moved = pc.take(batch, order, boundscheck=False)
    return [(at, moved.slice(a, b - a)) for at, (a, b) in enumerate(pairwise(bounds)) if b > a]


def _mixed(words: pa.Array, *, upper: bool = False) -> pa.Array:
    """Every bit of the result depends on every bit of the word: multiply, fold the upper half down, twice.

    ``upper``: the lower half of the result is not asked for, so it is not folded into.
    """
    words = pc.multiply(words, _ODD_1)
    words = pc.multiply(pc.bit_wise_xor(words, pc.shift_right(words, _HALF)), _ODD_2)
    return words if upper else pc.bit_wise_xor(words, pc.shift_right(words, _HALF))


def _words(array: pa.Array) -> pa.Array:
    """A uint64 for each value, equal for equal values, with one of its own for null."""
    kind = array.type
    if pa.types.is_null(kind):
        return pa.repeat(_OF_NULL, len(array))
    if pa.types.is_dictionary(kind):
        found = _words(array.dictionary).take(array.indices) if len(array.dictionary) else pa.nulls(len(array), _U64)
    elif pa.types.is_struct(kind):
        found = row_hashes(array.flatten()) if kind.num_fields else pa.repeat(_SEED, len(array))
    elif isinstance(kind, pa.BaseExtensionType):
        found = _words(array.storage)
    else:
        found = _plain_words(array)
    if array.null_count == 0:
        return found
    return pc.if_else(array.is_valid(), found, _OF_NULL)


def _plain_words(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_uint64(kind):
        return array
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return _viewed(array.cast(pa.int64()))
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return _viewed(array.cast(pa.int32()).cast(pa.int64()))
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return _viewed(array.cast(pa.int64()))
    if pa.types.is_decimal(kind):
        return _decimal_words(array)
    if pa.types.is_floating(kind):
        return _viewed(normal_floats(array.cast(pa.float64())))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _string_words(array)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return _string_words(array)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return _string_words(array.cast(pa.large_binary()))
    raise PlanError(f"a column of {kind} cannot be a key", "use one of its parts as the key, or cast it")


def _decimal_words(array: pa.Array) -> pa.Array:
    """The low word, and of numbers beyond 64 bits the higher ones too: precision alone makes no difference."""
    kind = array.type
    if kind.precision <= decimals.NARROW_DIGITS:
        return _viewed(decimals.narrow(array))
    if kind.bit_width < 128:
        array = array.cast(decimals.decimal_of(kind))
    count = array.type.bit_width // 64
    flat = pa.Array.from_buffers(
        pa.int64(), count * len(array), [None, array.buffers()[1]], offset=count * array.offset
    )
    parts = [flat.take(pa.array(range(part, count * len(array), count), pa.int64())) for part in range(count)]
    more = pa.scalar(0, _U64)
    for lower, part in reversed(list(pairwise(parts))):
        # Nothing is added by a word that only repeats the sign of the one below.
        beyond = pc.subtract(part, pc.if_else(pc.less(lower, 0), -1, 0))
        more = pc.multiply(pc.add(_viewed(beyond), more), _ODD_2)
    return pc.add(_viewed(parts[0]), more)


def _string_words(array: pa.Array) -> pa.Array:
    """A hash of each string's bytes and length. Empty batches and slices included; what is under a null does not matter."""
    rows = len(array)
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    if rows <= _FEW_STRINGS:
        values = array.cast(pa.large_binary() if large else pa.binary()).to_pylist()
        return pa.array([_string_word(value or b"") for value in values], _U64)
    offset_type = pa.int64() if large else pa.int32()
    offsets = pa.Array.from_buffers(offset_type, rows + 1, [None, array.buffers()[1]], offset=array.offset).cast(
        pa.int64()
    )
    first, last = offsets[0].as_py(), offsets[rows].as_py()
    data = array.buffers()[2]
    # Padded, so that the two words around any byte can be read.
    raw = (data[first:last].to_pybytes() if data is not None and last > first else b"") + bytes(16 + (first - last) % 8)
    memory = pa.Array.from_buffers(_U64, len(raw) // 8, [None, pa.py_buffer(raw)])
    start = pc.subtract(offsets.slice(0, rows), first)
    length = pc.subtract(offsets.slice(1), offsets.slice(0, rows))
    longest = pc.max(length).as_py()
    words = pc.multiply(_viewed(length), _ODD_1)
    for at in range(0, min(longest, _LONGEST_IN_WORDS), 8):
        words = _with_word(words, memory, start, length, at)
    return _with_long_ones(words, array, length) if longest > _LONGEST_IN_WORDS else words


def _string_word(value: bytes) -> int:
    """The same for one string."""
    if len(value) > _LONGEST_IN_WORDS:
        return _digest(value)
    word = len(value) * _FACTOR_1 & _BITS
    for at in range(0, len(value), 8):
        piece = value[at : at + 8]
        word ^= int.from_bytes(piece, "little") << 8 * (8 - len(piece))
        word = word * _FACTOR_2 & _BITS
        word ^= word >> 32
    return word


def _with_word(words: pa.Array, memory: pa.Array, start: pa.Array, length: pa.Array, at: int) -> pa.Array:
    """``words`` with the bytes ``at`` to ``at + 8`` of each string that is longer than ``at`` mixed in."""
    rest = pc.subtract(length, at)
    within = pc.greater(rest, 0)
    place = pc.if_else(within, pc.add(start, at), 0)
    index = pc.shift_right(place, 3)
    skipped = _viewed(pc.shift_left(pc.bit_wise_and(place, 7), 3))
    low = pc.shift_right(memory.take(index), skipped)
    # Shifting by 64 is not defined: one bit first, the rest after.
    high = pc.shift_left(
        pc.shift_left(memory.take(pc.add(index, 1)), pa.scalar(1, _U64)), pc.subtract(pa.scalar(63, _U64), skipped)
    )
    value = pc.bit_wise_or(low, high)
    beyond = pc.shift_left(pc.subtract(8, pc.min_element_wise(pc.max_element_wise(rest, 1), 8)), 3)
    value = pc.shift_left(value, _viewed(beyond))  # drops the bytes after the end
    mixed = pc.multiply(pc.bit_wise_xor(words, value), _ODD_2)
    return pc.if_else(within, pc.bit_wise_xor(mixed, pc.shift_right(mixed, _HALF)), words)


def _with_long_ones(words: pa.Array, array: pa.Array, length: pa.Array) -> pa.Array:
    long = pc.and_(pc.greater(length, _LONGEST_IN_WORDS), array.is_valid())
    digests = [_digest(value) for value in array.filter(long).cast(pa.large_binary()).to_pylist()]
    return pc.replace_with_mask(words, long, pa.array(digests, _U64)) if digests else words


def _digest(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")


def _viewed(array: pa.Array) -> pa.Array:
    return pa.Array.from_buffers(_U64, len(array), array.buffers(), array.null_count, array.offset)
