"""The checkpoint log: manifests, pins, keys, retractions, answers as leaves of one Merkle tree, in log order.

The hash of each leaf is an index row, with its place among the leaves; the tree above them is held in memory
and grows as the log does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from recension.model.errors import (
    CheckpointOutOfRangeError,
    DataLossError,
    InvalidArgumentError,
    SnapshotNotFoundError,
)
from recension.model.merkle import MerkleTree, leaf_hash
from recension.model.note import KeyStatement, read_key_statement
from recension.model.reading import SigningKey
from recension.model.record import Kind, Statement
from recension.store import keys
from recension.store.interface import Row, Store, View

LEAVES = frozenset({Kind.SNAPSHOT, Kind.PIN, Kind.KEY, Kind.RETRACTION, Kind.RECEIPT, Kind.ACKNOWLEDGEMENT})
"""Kinds of statements that are leaves. Definitions of projects are not: they say nothing of a corpus."""
_LEAF = struct.Struct(">Q32s")
_SLICE = 4096


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the checkpoint log."""

    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A leaf and its audit path in the tree of some size."""

    index: int
    size: int
    path: list[bytes]


def leaf_row(view: View, position: int, nth: int, payload: bytes) -> Row:
    """Return the row of the ``nth`` leaf of a commit, by the leaves that ``view`` has of those before it."""
    row = view.last(keys.leaf(0), keys.leaf(position))
    before = _LEAF.unpack(row[1])[0] + 1 if row is not None else 0
    return keys.leaf(position, nth), _LEAF.pack(before + nth, leaf_hash(payload))


def signing_keys(view: View) -> list[SigningKey]:
    """Return all keys that the log has named, the newest last."""
    found = []
    for row, payload in view.scan(keys.signing_key(0), keys.signing_key(keys.END)):
        position = int.from_bytes(row[1:], "big")
        statement = _statement(payload)
        index = leaf_at(view, position).index
        found.append(SigningKey(str(statement.key), payload.decode(), position, index))
    return found


def current_key(view: View) -> KeyStatement | None:
    """Return the newest statement of a key."""
    row = view.last(keys.signing_key(0), keys.signing_key(keys.END))
    return None if row is None else _statement(row[1])


def leaf_at(view: View, position: int) -> Leaf:
    """Return the leaf of the one statement that was recorded at a position."""
    raw = view.get(keys.leaf(position))
    if raw is None:
        raise DataLossError(f"the leaf of commit {position} is missing", hint="run recension-server fsck")
    return Leaf(*_LEAF.unpack(raw))


class Ledger:
    """Answers for the checkpoint log of a store. Safe for concurrent use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._tree = MerkleTree()
        self._next = keys.leaf(0)

    def newest(self) -> tuple[int, bytes]:
        """Return (size, root) of all that was recorded up to now."""
        with self._grown() as tree:
            return tree.size, tree.root(tree.size)

    def position_of(self, snapshot_id: bytes) -> int:
        """Return the position of the commit that keeps a snapshot. Raises ``SnapshotNotFoundError``."""
        with self._store.view() as view:
            row = view.get(keys.snapshot(snapshot_id))
        if row is None:
            raise SnapshotNotFoundError(f"no snapshot sha256:{snapshot_id.hex()}")
        return int.from_bytes(row, "big")

    def root(self, size: int) -> bytes:
        """Return the root of an earlier size. Raises ``CheckpointOutOfRangeError``."""
        with self._grown() as tree:
            _check_size(size, tree.size)
            return tree.root(size)

    def inclusion(self, position: int, size: int = 0) -> Inclusion:
        """Prove the leaf of a commit in the tree of a size; 0 means now.

        Raises ``CheckpointOutOfRangeError``.
        """
        with self._store.view() as view:
            index = leaf_at(view, position).index
        with self._grown() as tree:
            size = size or tree.size
            _check_size(size, tree.size)
            if index >= size:
                raise CheckpointOutOfRangeError(
                    f"leaf {index} is not among the first {size}",
                    hint="ask for a proof in a newer checkpoint",
                    index=index,
                    size=size,
                )
            return Inclusion(index, size, tree.inclusion(index, size))

    def consistency(self, first: int, second: int = 0) -> tuple[int, list[bytes]]:
        """Return (larger size, proof) between two sizes; 0 is now. Raises ``CheckpointOutOfRangeError``."""
        with self._grown() as tree:
            second = second or tree.size
            _check_size(max(first, second), tree.size)
            if not 0 < first <= second:
                raise InvalidArgumentError(
                    f"first_size: {first} is not from 1 to {second}", hint="swap them", field="first_size"
                )
            return second, tree.consistency(first, second)

    @contextmanager
    def _grown(self) -> Iterator[MerkleTree]:
        """Lend the tree with all leaves that were recorded up to now."""
        with self._lock:
            while True:
                with self._store.view() as view:
                    rows = view.scan(self._next, keys.leaf(keys.END), limit=_SLICE)
                for key, value in rows:
                    leaf = Leaf(*_LEAF.unpack(value))
                    if leaf.index != self._tree.size:
                        raise DataLossError(
                            f"leaf {self._tree.size} is missing", hint="run recension-server fsck"
                        )
                    self._tree.append(leaf.hash)
                    self._next = key + b"\0"
                if len(rows) < _SLICE:
                    break
            yield self._tree


def key_statement(key: KeyStatement) -> Statement:
    """Return what is recorded of a key."""
    return Statement(Kind.KEY, key.encoded)


def _check_size(size: int, newest: int) -> None:
    if not 0 <= size <= newest:
        raise CheckpointOutOfRangeError(
            f"the log has {newest} leaves, not {size}",
            hint="a checkpoint of that size is not of this log, or the log has lost its end",
            size=size,
            newest=newest,
        )


def _statement(payload: bytes) -> KeyStatement:
    try:
        return read_key_statement(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"a signing key in the log is damaged: {error.message}") from None
