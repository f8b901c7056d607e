"""The Merkle tree of RFC 6962, section 2.1: roots and proofs of every size that it had."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

EMPTY = sha256(b"").digest()
"""Root of a tree without leaves."""


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + leaf).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """Grows by one leaf at a time. Some 64 bytes a leaf; every answer takes O(log n) hashes."""

    def __init__(self) -> None:
        # By level, the hashes of all whole subtrees of 2^level leaves.
        self._levels: list[list[bytes]] = [[]]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        for level in self._levels:
            level.append(leaf)
            if len(level) % 2:
                return
            leaf = _node_hash(*level[-2:])
        self._levels.append([leaf])

    def root(self, size: int) -> bytes:
        """Return the root that the tree had with so many leaves, at most as many as now."""
        return self._hash(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of a leaf, from the leaf up (RFC 6962, section 2.1.1); ``index < size``."""
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof between two sizes (RFC 6962, section 2.1.2); ``0 < first <= second``."""
        path: list[bytes] = []
        start, end = 0, second
        while first != end:
            middle = start + _split(end - start)
            if first <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        if start:
            path.append(self._hash(start, end))
        return path[::-1]

    def _hash(self, start: int, end: int) -> bytes:
        """Return the hash of the leaves from ``start`` to ``end``; whole subtrees are looked up."""
        size = end - start
        if size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self._levels[level][start >> level]
        middle = start + _split(size)
        return _node_hash(self._hash(start, middle), self._hash(middle, end))


class Frontier:
    """The tree without its leaves: it grows, and knows its root of now. O(log n) of memory."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """``peaks``: the hashes of the largest whole subtrees, from the first leaf on."""
        self.size = size
        self._peaks = list(peaks)
        if len(self._peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(self._peaks)}")

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """What it is made from again."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        whole = self.size
        while whole & 1:
            leaf = _node_hash(self._peaks.pop(), leaf)
            whole >>= 1
        self._peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of all leaves up to now."""
        if not self._peaks:
            return EMPTY
        *rest, root = self._peaks
        for peak in reversed(rest):
            root = _node_hash(peak, root)
        return root


def _split(size: int) -> int:
    """Return the largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
