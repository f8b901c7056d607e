"""How a copy lays long values out so that LMDB's pages are full.

A value above some 2 KB goes to pages of its own, and the last of them is half empty on average. A copy knows
all values, so it lays each out as a *head* of exactly k pages and a *rest*, and the rests of many values in
*bins* that fill four pages. Measured on 1,309 blocks of 5.7 KB: 1 % is left free, where the pieces of a value
that is written by itself (``pieces``) leave 8 %.

Nothing is ever added to a bin later. Of a value that goes, its part becomes zeros, and zeros at the end of a
bin are not kept: what is missing there reads as zeros, and every value is checked against its digest.
"""

from __future__ import annotations

import struct

from recension.store.interface import Row
from recension.store.layout import damaged
from recension.store.pieces import PAGE_BYTES, PAGE_HEADER_BYTES

SHARED = 0xFF
"""Stands before a head where the number of a value's pieces would: its rest is in a bin."""
_PLACE = struct.Struct(">BIHH")
_BIN = struct.Struct(">I")
_BIN_BYTES = 4 * PAGE_BYTES - PAGE_HEADER_BYTES
_OPEN_BINS = 64
_SMALL_BYTES = 500
"""Values up to this size share leaf pages well enough."""
_SPARE_BYTES = 64
"""A value that leaves no more free than this stays in one."""


class Rests:
    """Lays values out, and collects their rests in bins. Holds up to a mebibyte of them."""

    def __init__(self) -> None:
        self._open: dict[int, bytearray] = {}
        self._number = 0
        self._full: list[Row] = []

    def lay(self, raw: bytes) -> bytes:
        """Return the row of a value."""
        spare = -(1 + len(raw) + PAGE_HEADER_BYTES) % PAGE_BYTES
        if len(raw) <= _SMALL_BYTES or spare <= _SPARE_BYTES:
            return b"\0" + raw
        pages = (_PLACE.size + len(raw) + PAGE_HEADER_BYTES) // PAGE_BYTES
        cut = pages * PAGE_BYTES - PAGE_HEADER_BYTES - _PLACE.size if pages else 0
        return _PLACE.pack(SHARED, *self._put(raw[cut:])) + raw[:cut]

    def full(self, *, all_: bool = False) -> list[Row]:
        """Return the bins to which nothing will be added, once; with ``all_``, those that are left."""
        if all_:
            for number in list(self._open):
                self._close(number)
        full, self._full = self._full, []
        return full

    def _put(self, rest: bytes) -> tuple[int, int, int]:
        """Put a rest into the bin that it fills best; return (bin, offset, length)."""
        fits = [(len(some), at) for at, some in self._open.items() if len(some) + len(rest) <= _BIN_BYTES]
        if fits:
            _, number = max(fits)
        else:
            if len(self._open) >= _OPEN_BINS:
                self._close(max(self._open, key=lambda at: len(self._open[at])))
            self._number = number = self._number + 1
            self._open[number] = bytearray()
        some = self._open[number]
        place = number, len(some), len(rest)
        some += rest
        return place

    def _close(self, number: int) -> None:
        self._full.append((_BIN.pack(number), bytes(self._open.pop(number)).rstrip(b"\0") or b"\0"))


def place_of(table: bytes, key: bytes, head: bytes) -> tuple[bytes, int, int]:
    """Return the key of a bin, and where in it the rest lies: offset, length."""
    try:
        _, number, offset, length = _PLACE.unpack_from(head)
    except struct.error:
        raise damaged(table, key) from None
    return _BIN.pack(number), offset, length


def joined(head: bytes, some: bytes, offset: int, length: int) -> bytes:
    """Return a value from its head and its bin."""
    return head[_PLACE.size :] + some[offset : offset + length].ljust(length, b"\0")


def without(some: bytes, offset: int, length: int) -> bytes:
    """Return a bin without a rest; empty when nothing is left."""
    return (some[:offset] + bytes(length) + some[offset + length :]).rstrip(b"\0")
