"""Runs: rows of one family that follow one another, in one value a twentieth to two thirds of their size.

A copy writes the index rows of ``keys.PACKED`` so, some dozens or hundreds in a value. Keys lose what all of
them begin with; what is left, and the values, become columns of bytes. A column is kept as it is when it does
not compress (digests), once when all its bytes are one, and else goes into one deflate stream, as differences
from row to row where those are fewer. The run's own digest stands before all of it.

::

    count u16 || key length u8 || shared u8 || value length u8 || flags u8 || raw columns u16 || raw bytes u32
    first key || raw columns || deflate( kind of each column || first bytes || columns )
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recension.store.interface import Row
from recension.store.layout import RUNS, SEAL_BYTES, damaged, unseal
from recension.store.pieces import LEAF_BYTES, PAGE_BYTES, PAGE_HEADER_BYTES

MOST_ROWS = 128
"""Opening a run of so many takes some 30 us."""
LEAST_ROWS = 8
"""Fewer stay rows of their own."""
MOST_VALUE_BYTES = 255
_HEADER = struct.Struct(">HBBBBHI")
SUMMARY_BYTES = SEAL_BYTES + _HEADER.size
_VARIED = 1
"""Flag: values have different lengths; a column says which, and shorter ones are filled up with zeros."""
_RAW, _PLAIN, _STEPS, _SAME = range(4)
_PAGE_ROOM = PAGE_BYTES - PAGE_HEADER_BYTES - SEAL_BYTES
_LEAF_ROOM = LEAF_BYTES - SEAL_BYTES
_TRIES = 4
_FULL = 0.97
_DENSE = 0.85
"""A column with so many of the different bytes that chance would give it is taken as it is."""
_LEVEL = 9

_Columns = NDArray[np.uint8]


def fits(row: Row) -> bool:
    """Say whether a row can be in a run."""
    return len(row[1]) <= MOST_VALUE_BYTES


def fill(rows: Sequence[Row], guess: int = MOST_ROWS // 2) -> tuple[int, bytes]:
    """Return how many of the first rows fill a page, or half of one, and their run.

    ``rows`` ascend, their keys are of one length, and all of them ``fits``. ``guess`` is how many it may be.
    """
    count, body = _fill(rows[:MOST_ROWS], guess, _PAGE_ROOM)
    if _LEAF_ROOM < len(body) < _FULL * _PAGE_ROOM and count == min(len(rows), MOST_ROWS):
        return _fill(rows[:count], count * _LEAF_ROOM // len(body), _LEAF_ROOM)
    return count, body


def _fill(rows: Sequence[Row], guess: int, room: int) -> tuple[int, bytes]:
    best: tuple[int, bytes] | None = None
    over = len(rows) + 1
    count = max(1, min(guess, len(rows)))
    for _ in range(_TRIES):
        body = pack_run(rows[:count])
        if len(body) <= room:
            best = count, body
            if count == len(rows) or len(body) >= _FULL * room:
                break
        else:
            over = count
        least = best[0] + 1 if best else 1
        if least >= over:
            break
        count = min(max(count * room // len(body), least), over - 1)
    while best is None:
        count = max(1, count * 3 // 4)
        body = pack_run(rows[:count])
        if len(body) <= room or count == 1:
            best = count, body
    return best


def pack_run(rows: Sequence[Row]) -> bytes:
    """Return rows as a run; they are as ``fill`` takes them."""
    first, last = rows[0][0], rows[-1][0]
    shared = next((at for at in range(len(first)) if first[at] != last[at]), len(first))
    width = max(len(value) for _, value in rows)
    varied = any(len(value) < width for _, value in rows)
    lengths = [bytes([len(value)]) if varied else b"" for _, value in rows]
    lines = [
        key[shared:] + length + value.ljust(width, b"\0")
        for (key, value), length in zip(rows, lengths, strict=True)
    ]
    table = np.frombuffer(b"".join(lines), np.uint8).reshape(len(rows), -1).T
    steps = np.diff(table, prepend=np.uint8(0))
    different, different_steps = _different(table), _different(steps)
    kinds = np.where(different_steps < different, _STEPS, _PLAIN).astype(np.uint8)
    chance = 256 * (1 - (1 - 1 / 256) ** len(rows))
    kinds[np.minimum(different, different_steps) >= _DENSE * chance] = _RAW
    kinds[different == 1] = _SAME
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(
        b"".join(
            (
                kinds.tobytes(),
                table[kinds == _SAME, 0].tobytes(),
                table[kinds == _PLAIN].tobytes(),
                steps[kinds == _STEPS].tobytes(),
            )
        )
    )
    raw = table[kinds == _RAW]
    size = sum(len(key) + len(value) for key, value in rows)
    flags = _VARIED if varied else 0
    header = _HEADER.pack(len(rows), len(first), shared, width, flags, len(raw), size)
    return b"".join((header, first, raw.tobytes(), packed, deflate.flush()))


def _different(table: _Columns) -> NDArray[np.int64]:
    """Return how many different bytes each column has."""
    ordered = np.sort(table, axis=1)
    changes: NDArray[np.int64] = np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
    return changes + 1


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run says of itself."""

    rows: int
    raw_bytes: int
    """Of keys and values, before they were packed."""


def summary(raw: bytes) -> Summary:
    """Return what a run says of itself, unchecked, from its first ``SUMMARY_BYTES`` as it is stored."""
    count, *_, size = _HEADER.unpack_from(raw, SEAL_BYTES)
    return Summary(count, size)


class Run:
    """A run that was read. Its columns are opened when a row is asked for that it may have."""

    __slots__ = (
        "_body",
        "_head",
        "_keys",
        "_lines",
        "_name",
        "_stride",
        "_suffix",
        "_values",
        "_varied",
        "count",
        "first",
    )

    def __init__(self, key: bytes, raw: bytes) -> None:
        """Raises ``DataLossError`` when ``raw`` is not what was stored under ``key``.

        So does every method when these are no columns, which only a digest that is right by chance lets pass.
        """
        body = unseal(RUNS, key, raw)
        try:
            self.count, size, shared, width, flags, *_ = _HEADER.unpack_from(body)
        except struct.error:
            raise damaged(RUNS, key, "is cut short") from None
        self._name = key
        self.first = body[_HEADER.size : _HEADER.size + size]
        self._head = self.first[:shared]
        self._suffix = size - shared
        self._varied = flags & _VARIED
        self._stride = self._suffix + self._varied + width
        self._body = body
        self._lines = b""
        self._keys: list[bytes] = []
        self._values: list[bytes] = []

    def find(self, key: bytes) -> int:
        """Return the place of the first row whose key is not below ``key``."""
        shared = len(self._head)
        if key[:shared] != self._head:
            return 0 if key[:shared] < self._head else self.count
        if self._keys:
            return bisect_left(self._keys, key[shared:])
        if key <= self.first:
            return 0
        if self._lines:  # asked for the second time, and so perhaps often
            self._split()
            return bisect_left(self._keys, key[shared:])
        lines, stride, size = self._opened(), self._stride, self._suffix
        return bisect_left(
            range(self.count), key[shared:], key=lambda at: lines[at * stride : at * stride + size]
        )

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key."""
        at = self.find(key)
        if at == self.count or (not at and key < self.first):
            return None
        known, value = self.row(at)
        return value if known == key else None

    def row(self, at: int) -> Row:
        """Return the row at a place."""
        if self._values:
            return self._head + self._keys[at], self._values[at]
        lines, start = self._opened() if self._body else self._lines, at * self._stride
        end = start + self._suffix
        key = self._head + lines[start:end]
        if self._varied:
            return key, lines[end + 1 : end + 1 + lines[end]]
        return key, lines[end : start + self._stride]

    def _split(self) -> None:
        rows = self.rows()
        self._keys = [key[len(self._head) :] for key, _ in rows]
        self._values = [value for _, value in rows]  # the last: who sees it takes both

    def rows(self, start: int = 0, stop: int | None = None) -> list[Row]:
        """Return the rows from one place to another."""
        return [self.row(at) for at in range(start, self.count if stop is None else stop)]

    def _opened(self) -> bytes:
        """Return the rows behind one another, without what all keys begin with."""
        body = self._body  # looked at first: it goes when the rows are there
        if body:
            try:
                self._lines = _lines(body, self.count, self._stride)
            except (zlib.error, struct.error, ValueError, IndexError):
                raise damaged(RUNS, self._name, "holds no columns") from None
            self._body = b""
        return self._lines


def _lines(body: bytes, count: int, columns: int) -> bytes:
    raw = _HEADER.unpack_from(body)[5]
    at = _HEADER.size + body[2]
    end = at + raw * count
    packed = zlib.decompress(body[end:], -zlib.MAX_WBITS)
    kinds = np.frombuffer(packed, np.uint8, columns)
    table = np.empty((columns, count), np.uint8)
    table[kinds == _RAW] = np.frombuffer(body, np.uint8, raw * count, at).reshape(raw, count)
    rest = np.frombuffer(packed, np.uint8, offset=columns)
    same = kinds == _SAME
    ones = int(np.count_nonzero(same))
    table[same] = rest[:ones, np.newaxis]
    rest = rest[ones:].reshape(-1, count)
    plain = kinds == _PLAIN
    middle = int(np.count_nonzero(plain))
    table[plain] = rest[:middle]
    table[kinds == _STEPS] = np.add.accumulate(rest[middle:], axis=1, dtype=np.uint8)
    return table.T.tobytes()
