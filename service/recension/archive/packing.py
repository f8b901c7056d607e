"""Columns of numbers in few bytes: differences or offsets, one plane a byte of them, compressed."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from recension.model.errors import DataLossError
from recension.store.packed import pack, unpack

Numbers = npt.NDArray[np.int64]


class ColumnsLostError(DataLossError):
    """Columns are not whole. What they say can be found in the timelines, which takes longer."""

    def __init__(self, message: str) -> None:
        """Say what is lost."""
        super().__init__(
            message, hint="all events are stored; make the index anew with recension-server rebuild"
        )


_HEAD = struct.Struct(">BBqqI")
_BITS = 8


def pack_columns(columns: Iterable[Numbers]) -> bytes:
    """Return the columns, each packed by itself and at least one number long."""
    return b"".join(map(_pack, columns))


class Columns:
    """Packed columns of ``length`` numbers each, of which one is unpacked when it is asked for."""

    def __init__(self, raw: bytes, length: int) -> None:
        """Raises ``ColumnsLostError`` for bytes that are none."""
        self._length = length
        self._packed: list[tuple[tuple[int, ...], bytes]] = []
        at = 0
        while at < len(raw):
            if len(raw) - at < _HEAD.size:
                raise ColumnsLostError("columns end within one")
            *how, size = _HEAD.unpack_from(raw, at)
            at += _HEAD.size + size
            self._packed.append((tuple(how), raw[at - size : at]))

    def says_same(self, other: Columns) -> bool:
        """Say whether both hold the same numbers, packed in whichever way. Raises ``ColumnsLostError``."""
        return len(self._packed) == len(other._packed) and all(
            np.array_equal(self[at], other[at]) for at in range(len(self._packed))
        )

    def __getitem__(self, column: int) -> Numbers:
        """Return a column. Raises ``ColumnsLostError`` if it cannot be read."""
        try:
            how, packed = self._packed[column]
            return _unpack(unpack(packed), self._length, *how)
        except (IndexError, ValueError, DataLossError) as error:
            raise ColumnsLostError(f"a column cannot be read: {error}") from None


def _pack(column: Numbers) -> bytes:
    """Pack the differences of neighbours, or from the least, whichever have fewer bits."""
    least = column.min()
    scale = max(np.gcd.reduce(column - least), 1)  # whole seconds, in microseconds
    offsets = ((column - least) // scale).astype(np.uint64)
    steps = np.diff(column, prepend=column[:1]) // scale
    signed = steps.astype(np.uint64) << np.uint64(1) ^ (steps >> 63).astype(np.uint64)
    by_steps = bool(np.log2(signed + 1.0).sum() < np.log2(offsets + 1.0).sum())
    numbers, base = (signed, column[0]) if by_steps else (offsets, least)
    width = -(-int(numbers.max()).bit_length() // _BITS)
    planes = numbers.astype("<u8").view(np.uint8).reshape(-1, 8).T[:width]
    packed = pack(planes.tobytes())
    return _HEAD.pack(by_steps, width, base, scale, len(packed)) + packed


def _unpack(raw: bytes, length: int, by_steps: int, width: int, base: int, scale: int) -> Numbers:
    wide = np.zeros((length, 8), np.uint8)
    wide[:, :width] = np.frombuffer(raw, np.uint8).reshape(width, length).T
    numbers = wide.view("<i8").ravel()
    if by_steps:
        sign = -(numbers & 1)
        numbers = numbers.view("<u8")
        np.right_shift(numbers, np.uint64(1), out=numbers)
        numbers = numbers.view("<i8")
        np.bitwise_xor(numbers, sign, out=numbers)
        np.cumsum(numbers, out=numbers)
    if scale > 1:
        numbers *= scale
    if base:
        numbers += base
    return numbers
