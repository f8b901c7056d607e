"""The snapshot tree: radix 16 on page_id, 16 ids a leaf node, history independent (DESIGN section 3).

A *record* is 48 bytes, big-endian. A node's digest is ``SHA-256(01 || level || records)``:

- level 0 records are ``page_id u64 || rev_id u64 || entry leaf 32``; the node holds the pages whose
  ``page_id >> 4`` is the node's prefix;
- level n records are ``child prefix u64 || entries below u64 || child digest 32``; the node holds the
  children whose prefix shifted right by 4 is the node's prefix.

Levels are added until one node is left; that node is the root. No entries: the level 0 node without
records. ``MEASURED`` choice: smallest new bytes at every change rate, nodes of at most 770 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple

from recension.model.errors import DataLossError
from recension.model.event import MAX_ID

RECORD = struct.Struct(">QQ32s")
NODE_TAG = b"\x01"
TOP_LEVEL = 15
"""The highest level that ids of 63 bits can need."""
RADIX_BITS = 4
_RADIX = 2**RADIX_BITS
_LEAF_BYTES = 32
ENTRY_TAG = b"\x00recension/entry/v1\0"
_ENTRY_HEAD = struct.Struct(">QQq")
_ENTRY_BYTES = len(ENTRY_TAG) + _ENTRY_HEAD.size + 2 * _LEAF_BYTES


def entry_leaf(page_id: int, rev_id: int, timestamp: int, title: bytes, content: bytes) -> bytes:
    """Return the leaf of one entry; ``title`` and ``content`` are its 32-byte commitments."""
    return sha256(ENTRY_TAG + _ENTRY_HEAD.pack(page_id, rev_id, timestamp) + title + content).digest()


def entry_leaves(entries: bytes) -> bytes:
    """Return the leaves of many entries, one behind the other.

    ``entries`` are ``ENTRY_TAG``, page id, revision id, timestamp, title and content of each.
    """
    size = _ENTRY_BYTES
    return b"".join([sha256(entries[at : at + size]).digest() for at in range(0, len(entries), size)])


def node_digest(node: bytes) -> bytes:
    """Return the digest of a node, whose bytes are ``level || records``."""
    return sha256(NODE_TAG + node).digest()


EMPTY_NODE = b"\x00"
EMPTY_ROOT = node_digest(EMPTY_NODE)


class Child(NamedTuple):
    """A record of an inner node."""

    prefix: int
    entries: int
    digest: bytes


class Leaf(NamedTuple):
    """A record of a level 0 node."""

    page_id: int
    rev_id: int
    leaf: bytes


def level_of(node: bytes) -> int:
    """Return the level of a node; 0 holds entries. Raises ``DataLossError``, as all that read a node do."""
    if not node or node[0] > TOP_LEVEL:
        raise _damaged("its first byte is no level")
    return node[0]


def children_of(node: bytes) -> list[Child]:
    """Return the records of an inner node."""
    level = level_of(node)
    children = list(map(Child._make, _records(node)))
    if level == 0 or not children:
        raise _damaged("an inner node has children")
    if children[-1].prefix > MAX_ID >> (4 * level):
        raise _damaged("a prefix is too large for its level")
    if not all(0 < child.entries <= _RADIX**level for child in children):
        raise _damaged("a child has an impossible number of entries")
    return children


def leaves_of(node: bytes) -> list[Leaf]:
    """Return the records of a level 0 node."""
    records = _records(node)
    if level_of(node) != 0:
        raise _damaged("an inner node has no leaves")
    leaves = list(map(Leaf._make, records))
    revs = [leaf.rev_id for leaf in leaves]
    if leaves and not 0 < min(leaves[0].page_id, *revs) <= max(leaves[-1].page_id, *revs) <= MAX_ID:
        raise _damaged("an id is outside 1 to 2^63-1")
    return leaves


def _records(node: bytes) -> list[tuple[int, int, bytes]]:
    """Return the records: at most 16, ascending, of one prefix."""
    if len(node) % RECORD.size != 1 or len(node) > 1 + _RADIX * RECORD.size:
        raise _damaged(f"{len(node)} bytes are no node")
    records = list(RECORD.iter_unpack(node[1:]))
    keys = [record[0] for record in records]
    if keys != sorted(set(keys)) or (keys and keys[0] ^ keys[-1] >= _RADIX):
        raise _damaged("its records do not ascend under one prefix")
    return records


def _damaged(message: str) -> DataLossError:
    return DataLossError(f"not a snapshot tree node: {message}")


Put = Callable[[bytes, bytes], None]
"""Takes (digest, node)."""


def build(entries: Iterable[tuple[int, int, bytes]], put: Put) -> tuple[bytes, int]:
    """Build the tree over (page_id, rev_id, entry leaf), ascending by page_id.

    Calls ``put(digest, node)`` for each node, children before parents. Returns (root digest, number of
    entries). Memory: 48 bytes for each 16 entries; the nodes themselves are handed on at once.
    """
    return build_from(_grouped(entries), put)


def build_from(groups: Iterable[tuple[int, bytes]], put: Put) -> tuple[bytes, int]:
    """Build the same from the (prefix, records) of its level 0 nodes, ascending."""
    level = 0
    row = []
    for prefix, records in groups:
        node = EMPTY_NODE + records
        digest = node_digest(node)
        put(digest, node)
        row.append(Child(prefix, len(records) // RECORD.size, digest))
    count = sum(child.entries for child in row)
    while len(row) > 1:
        level += 1
        row = list(_parents(row, level, put))
    if not row:
        put(EMPTY_ROOT, EMPTY_NODE)
        return EMPTY_ROOT, 0
    return row[0].digest, count


def _grouped(entries: Iterable[tuple[int, int, bytes]]) -> Iterator[tuple[int, bytes]]:
    records = bytearray()
    last = 0
    for page_id, rev_id, leaf in entries:
        if not last < page_id <= MAX_ID:
            raise DataLossError(f"page {page_id} follows page {last} in a snapshot", pageId=page_id)
        if not 0 < rev_id <= MAX_ID or len(leaf) != _LEAF_BYTES:
            raise DataLossError(f"page {page_id} has no revision id or no leaf", pageId=page_id)
        if records and page_id >> 4 != last >> 4:
            yield last >> 4, bytes(records)
            records.clear()
        records += RECORD.pack(page_id, rev_id, leaf)
        last = page_id
    if records:
        yield last >> 4, bytes(records)


def _parents(row: list[Child], level: int, put: Put) -> Iterator[Child]:
    at = 0
    while at < len(row):
        prefix = row[at].prefix >> 4
        node = bytearray([level])
        count = 0
        while at < len(row) and row[at].prefix >> 4 == prefix:
            child = row[at]
            node += RECORD.pack(child.prefix, child.entries, child.digest)
            count += child.entries
            at += 1
        raw = bytes(node)
        digest = node_digest(raw)
        put(digest, raw)
        yield Child(prefix, count, digest)


# --- a tree with a few pages changed --------------------------------------------------------------

Changes = Sequence[tuple[int, tuple[int, bytes] | None]]
"""(page id, (revision id, entry leaf) or ``None`` for a page that is not there), ascending by page id."""


def find(root: bytes, page: int, get: Callable[[bytes], bytes]) -> Leaf | None:
    """Return the leaf of a page in the tree of ``root``, if it has one. Reads one path of nodes."""
    node = get(root)
    level = level_of(node)
    while level:
        children = {child.prefix: child.digest for child in children_of(node)}
        digest = children.get(page >> (4 * level))
        if digest is None:
            return None
        node, below = get(digest), level - 1
        level = level_of(node)
        if level != below:
            raise _damaged("a node is not of the level below its parent's")
    return next((leaf for leaf in leaves_of(node) if leaf.page_id == page), None)


def update(root: bytes, changes: Changes, get: Callable[[bytes], bytes], put: Put) -> tuple[bytes, int]:
    """Return (root digest, number of entries) of the tree of ``root`` with some pages changed.

    The same root as ``build`` over all entries. ``get`` returns the node of a digest; ``put`` is called as
    ``build`` calls it, for the nodes on the paths to what changed. Work: one path of nodes a change.
    """
    edit = _Edit(get)
    top, digest, prefix = edit.lift(root, [page for page, _ in changes])
    changed = edit.apply(top, digest, changes) if changes else Child(prefix, 0, root)
    if changed is None:
        put(EMPTY_ROOT, EMPTY_NODE)
        return EMPTY_ROOT, 0
    at = changed.digest
    while level_of(node := edit.node(at)) and len(children_of(node)) == 1:
        at = children_of(node)[0].digest
    entries = _entries(edit.node(at))
    edit.keep(at, put)
    return at, entries


def _entries(node: bytes) -> int:
    return sum(child.entries for child in children_of(node)) if level_of(node) else len(leaves_of(node))


class _Edit:
    """The nodes made by an update, over those that exist."""

    def __init__(self, get: Callable[[bytes], bytes]) -> None:
        self._get = get
        self._made: dict[bytes, bytes] = {}

    def node(self, digest: bytes) -> bytes:
        """Return a node, made or stored."""
        return self._made.get(digest) or self._get(digest)

    def lift(self, root: bytes, pages: Sequence[int]) -> tuple[int, bytes, int]:
        """Return (level, digest, prefix) of the lowest node above the old tree and ``pages``."""
        node = self.node(root)
        level = level_of(node)
        records = _records(node)
        if not records:
            level, prefix, root = 0, pages[0] >> 4 if pages else 0, b""
        else:
            prefix = records[0][0] >> 4
        while any(page >> (4 * (level + 1)) != prefix for page in pages):
            if root:
                record = RECORD.pack(prefix, _entries(self.node(root)), root)
                root = self._make(bytes([level + 1]) + record)
            level, prefix = level + 1, prefix >> 4
        return level, root, prefix

    def apply(self, level: int, digest: bytes, changes: Changes) -> Child | None:
        """Return the changed node as its parent records it, ``None`` when nothing is left of it."""
        node = self.node(digest) if digest else b""
        found = _records(node) if node else []
        records = {key: (number, content) for key, number, content in found}
        for key, group in groupby(changes, key=lambda change: change[0] >> (4 * level)):
            below = list(group)
            if level:
                new = self.apply(level - 1, records.get(key, (0, b""))[1], below)
                record = None if new is None else (new.entries, new.digest)
            else:
                record = below[0][1]
            if record is None:
                records.pop(key, None)
            else:
                records[key] = record
        if not records:
            return None
        made = bytearray([level])
        for key in sorted(records):
            made += RECORD.pack(key, *records[key])
        raw = bytes(made)
        return Child(next(iter(records)) >> 4, _entries(raw), self._make(raw))

    def keep(self, digest: bytes, put: Put) -> None:
        """Hand on the made nodes under a digest, children before parents."""
        node = self._made.pop(digest, None)
        if node is None:
            return
        for child in children_of(node) if level_of(node) else ():
            self.keep(child.digest, put)
        put(digest, node)

    def _make(self, node: bytes) -> bytes:
        digest = node_digest(node)
        self._made[digest] = node
        return digest
