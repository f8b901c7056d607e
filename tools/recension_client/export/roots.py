"""The root of a project from its shards: each of them holds whole nodes of level 1, ``page_id >> 8``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from recension.model.errors import VerificationError
from recension.model.event import MAX_ID
from recension.model.tree import EMPTY_ROOT, RECORD, Child, node_digest


class ShardTree:
    """The lower two levels of a snapshot tree, over some of its pages in their order.

    Keeps about 100 bytes for each 256 page ids.
    """

    def __init__(self) -> None:
        self.nodes: list[Child] = []
        """Nodes of level 1."""
        self.count = 0
        """Pages so far."""
        self._lone = b""
        self._last = 0
        self._records = bytearray()
        self._below: list[Child] = []

    def add(self, page_id: int, rev_id: int, leaf: bytes) -> None:
        """Take the next page. Raises ``VerificationError`` when it is none that can follow."""
        if not self._last < page_id <= MAX_ID or not 0 < rev_id <= MAX_ID:
            what = "occurs twice" if page_id == self._last else "is out of order or has no id"
            raise VerificationError(f"page {page_id} {what}", pageId=page_id)
        if self._last >> 4 != page_id >> 4:
            self._close_leaves()
            if self._last >> 8 != page_id >> 8:
                self._close_node()
        self._last = page_id
        self._records += RECORD.pack(page_id, rev_id, leaf)
        self.count += 1

    def close(self) -> None:
        """Finish the nodes that are open."""
        self._close_leaves()
        self._close_node()

    def _close_leaves(self) -> None:
        if self._records:
            digest = node_digest(b"\0" + self._records)
            self._below.append(Child(self._last >> 4, len(self._records) // RECORD.size, digest))
            self._records.clear()

    def _close_node(self) -> None:
        if self._below:
            self._lone = self._below[0].digest if len(self._below) == 1 else b""
            self.nodes.append(_parent(1, self._below))
            self._below = []

    @property
    def alone(self) -> bytes:
        """The digest of the only node of level 0, if all pages lie in one; else empty."""
        return self._lone if len(self.nodes) == 1 else b""


def root_of(trees: Iterable[ShardTree]) -> bytes:
    """Return the root over the pages of all shards of a project."""
    held = list(trees)
    row = sorted((node for tree in held for node in tree.nodes), key=lambda node: node.prefix)
    if not row:
        return EMPTY_ROOT
    if len(row) == 1:
        return next((tree.alone for tree in held if tree.alone), row[0].digest)
    level = 1
    while len(row) > 1:
        level += 1
        row = list(_level(level, row))
    return row[0].digest


def _level(level: int, row: list[Child]) -> Iterator[Child]:
    for _, below in groupby(row, key=lambda child: child.prefix >> 4):
        yield _parent(level, list(below))


def _parent(level: int, below: list[Child]) -> Child:
    records = b"".join(RECORD.pack(child.prefix, child.entries, child.digest) for child in below)
    count = sum(child.entries for child in below)
    return Child(below[0].prefix >> 4, count, node_digest(bytes([level]) + records))
