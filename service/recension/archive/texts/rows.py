"""The index rows that say which blocks a page has. They say how texts lie and are part of no identity."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from recension.archive.texts.block import NO_PREFIX, Prefix, read_block
from recension.archive.texts.reading import as_prefix, load
from recension.store import keys
from recension.store.interface import Row, View

_BLOCK = struct.Struct(">QIHQqq")
_TAIL = struct.Struct(">16sqI")
SHORT_DIGEST = 16
"""Bytes of a digest in keys and rows; the whole one is checked when the text is read."""
GONE = bytes(SHORT_DIGEST)
"""Digest of a tail whose text was erased."""


@dataclass(frozen=True, slots=True)
class PageBlock:
    """A sealed block of a page."""

    number: int
    """Id of the block."""
    version: int
    """Counts its rewrites, so that a rewrite computed on an older state is noticed."""
    texts: int
    raw_bytes: int
    first_time: int
    """Valid time of its oldest text."""
    last_time: int

    def encode(self) -> bytes:
        """Return the row's value."""
        return _BLOCK.pack(
            self.number, self.version, self.texts, self.raw_bytes, self.first_time, self.last_time
        )

    def rewritten(self, raw_bytes: int) -> PageBlock:
        """Return the row after a rewrite of its block."""
        return replace(self, version=self.version + 1, raw_bytes=raw_bytes)


def read_page_block(value: bytes) -> PageBlock:
    """Return the row of a sealed block."""
    return PageBlock(*_BLOCK.unpack(value))


def last_block(view: View, project: int, page: int) -> tuple[int, PageBlock] | None:
    """Return (index, row) of a page's newest sealed block."""
    row = view.last(keys.page_block(project, page, 0), keys.page_block(project, page + 1, 0))
    return None if row is None else (int.from_bytes(row[0][-4:], "big"), read_page_block(row[1]))


def page_blocks(view: View, project: int, page: int) -> list[tuple[int, PageBlock]]:
    """Return (index, row) of all sealed blocks of a page, by index."""
    rows = view.scan(keys.page_block(project, page, 0), keys.page_block(project, page + 1, 0))
    return [(int.from_bytes(key[-4:], "big"), read_page_block(value)) for key, value in rows]


@dataclass(frozen=True, slots=True)
class Tail:
    """A text that lies in a block of its own."""

    number: int
    """Id of its block."""
    digest: bytes
    """``SHORT_DIGEST`` bytes; ``GONE`` once erased."""
    time: int
    """Valid time of the edit that brought it."""
    size: int

    def encode(self) -> bytes:
        """Return the row's value."""
        return _TAIL.pack(self.digest, self.time, self.size)


def tails_of(view: View, project: int, page: int) -> list[Tail]:
    """Return a page's tails in the order of their arrival."""
    rows = view.scan(keys.tail(project, page), keys.tail(project, page + 1))
    return [read_tail(key, value) for key, value in rows]


def read_tail(key: bytes, value: bytes) -> Tail:
    """Return the row of a tail."""
    return Tail(keys.read_tail(key)[2], *_TAIL.unpack(value))


def block_prefix(view: View, page: tuple[int, int], index: int) -> Prefix:
    """Return what a page's sealed block offers as prefix; nothing for an index of -1."""
    value = view.get(keys.page_block(*page, index)) if index >= 0 else None
    if value is None:
        return NO_PREFIX
    number = read_page_block(value).number
    return as_prefix(view, number) if load(view, number).serves else NO_PREFIX


def similar_prefix(
    view: View, number: int, user: tuple[int, int]
) -> tuple[Prefix, dict[bytes, bytes | None]]:
    """Return a page's first block as prefix of another page's, and the index row that must not change.

    Only a block without a prefix of its own serves, so chains stay short.
    """
    raw = view.blob(keys.block(number)) if number else None
    if raw is not None:
        block = read_block(raw)
        key = keys.page_block(block.project, block.page, 0)
        value = view.get(key)
        first = value is not None and read_page_block(value).number == number
        other = (block.project, block.page) != user
        if first and other and not block.prefix and block.serves:
            return as_prefix(view, number), {key: value}
    return NO_PREFIX, {}


def use_rows(prefix: Prefix, user: int) -> list[Row]:
    """Return the rows that say a block of another page is compressed against a block."""
    if not prefix.block:
        return []
    return [(keys.block_user(prefix.block), b""), (keys.block_user(prefix.block, user), b"")]
