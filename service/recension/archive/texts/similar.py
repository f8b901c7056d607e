"""Which stored text a new page resembles: min-hash of long lines, kept in memory only.

A page that was copied from another compresses to almost nothing against it: a tree of copied pages took
3.02 MB instead of 4.37 MB. What is forgotten costs bytes, never answers, so nothing of it is stored.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from functools import lru_cache
from heapq import nsmallest
from zlib import crc32

_LINE_BYTES = 24
"""Shorter lines say little of where a text comes from."""
_HASHES = 8
_COMMON = 3
"""Of ``_HASHES``, so many in common make texts similar."""
_KEPT = 2**18
_SCANNED_BYTES = 2**18


class Similar:
    """Finds the block whose text has lines in common with a new one."""

    def __init__(self) -> None:
        """Know nothing."""
        self._blocks: OrderedDict[int, int] = OrderedDict()

    def add(self, block: int, text: bytes) -> None:
        """Remember what a block offers as prefix."""
        for line in _sketch(text):
            self._blocks[line] = block
        while len(self._blocks) > _KEPT:
            self._blocks.popitem(last=False)

    def find(self, text: bytes) -> int:
        """Return the id of the most similar block, 0 for none. It may have been rewritten since."""
        votes = Counter(self._blocks[line] for line in _sketch(text) if line in self._blocks)
        block, common = max(votes.items(), key=lambda item: item[1], default=(0, 0))
        return block if common >= _COMMON else 0


@lru_cache(maxsize=4)
def _sketch(text: bytes) -> list[int]:
    """Return the hashes of a few lines, the same in every process: stored bytes follow from what is stored.

    What is looked for in vain is remembered next: hence the cache.
    """
    lines = {line for line in text[:_SCANNED_BYTES].split(b"\n") if len(line) >= _LINE_BYTES}
    return nsmallest(_HASHES, map(crc32, lines))
