"""Where two sequences differ, in bounded work: the one place that knows the library which finds it.

The library's work and memory grow with the product of both lengths (1.2 GB for 100,000 items and as many), so
each comparison spends from a budget. What is too large for it is split first at items that each side holds
once, and is told as replaced where that does not help either.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz.distance import Indel

_DEPTH = 4
"""Times that a stretch is split again: items that are no anchors in the whole may be some in a part."""


class Region(NamedTuple):
    """A stretch that differs: items ``a_start`` to ``a_stop`` of A stand where those of B stand."""

    a_start: int
    a_stop: int
    b_start: int
    b_stop: int


class Budget:
    """How much may be spent, in pairs of items: 4e8 of them take about 0.1 s and, at once, 50 MB."""

    def __init__(self, total: int) -> None:
        """``total``: pairs of items that may be compared."""
        self.left = total
        self.coarse = False
        """Something was told as replaced without a close look."""

    def take(self, pairs: int) -> bool:
        """Spend, if there is enough left."""
        if pairs > self.left:
            return False
        self.left -= pairs
        return True


def differing(a: Sequence[int], b: Sequence[int], budget: Budget) -> list[Region]:
    """Return where two sequences of numbers differ, in order; equal items lie between two regions."""
    found: list[Region] = []
    _compare(a, b, Region(0, len(a), 0, len(b)), budget, _DEPTH, found)
    return _joined(found)


def _compare(
    a: Sequence[int], b: Sequence[int], whole: Region, budget: Budget, depth: int, found: list[Region]
) -> None:
    region = trimmed(a, b, whole)
    n, m = region.a_stop - region.a_start, region.b_stop - region.b_start
    if not n or not m:
        if n or m:
            found.append(region)
    elif budget.take(n * m):
        ours, theirs = a[region.a_start : region.a_stop], b[region.b_start : region.b_stop]
        i, j = region.a_start, region.b_start
        found.extend(
            Region(i + step.src_start, i + step.src_end, j + step.dest_start, j + step.dest_end)
            for step in Indel.opcodes(ours, theirs)
            if step.tag != "equal"
        )
    else:
        anchors = _anchors(a, b, region) if depth else []
        if not anchors:
            budget.coarse = True
            found.append(region)
            return
        i, j = region.a_start, region.b_start
        for at_a, at_b in (*anchors, (region.a_stop, region.b_stop)):
            if (at_a, at_b) != (i, j):
                _compare(a, b, Region(i, at_a, j, at_b), budget, depth - 1, found)
            i, j = at_a + 1, at_b + 1


def trimmed(a: Sequence[int], b: Sequence[int], whole: Region) -> Region:
    """Return a region without what both of its sides begin and end with."""
    i, k, j, n = whole
    while i < k and j < n and a[i] == b[j]:
        i, j = i + 1, j + 1
    while i < k and j < n and a[k - 1] == b[n - 1]:
        k, n = k - 1, n - 1
    return Region(i, k, j, n)


def _anchors(a: Sequence[int], b: Sequence[int], region: Region) -> list[tuple[int, int]]:
    """Return places of items that stand once on each side, the longest chain of them in order on both."""
    ours, theirs = a[region.a_start : region.a_stop], b[region.b_start : region.b_stop]
    count_a, count_b = Counter(ours), Counter(theirs)
    place_b = {item: at for at, item in enumerate(theirs) if count_b[item] == 1 and count_a[item] == 1}
    pairs = [(at, place_b[item]) for at, item in enumerate(ours) if item in place_b]
    # Patience: the longest rising chain of places in B, by the smallest end of a chain of each length.
    ends: list[int] = []
    last_of: list[int] = []
    before: list[int] = []
    for number, (_, at_b) in enumerate(pairs):
        length = bisect_left(ends, at_b)
        before.append(last_of[length - 1] if length else -1)
        if length == len(ends):
            ends.append(at_b)
            last_of.append(number)
        else:
            ends[length], last_of[length] = at_b, number
    chain = []
    number = last_of[-1] if last_of else -1
    while number >= 0:
        at_a, at_b = pairs[number]
        chain.append((region.a_start + at_a, region.b_start + at_b))
        number = before[number]
    return chain[::-1]


def _joined(regions: list[Region]) -> list[Region]:
    """Join regions with nothing equal between them."""
    out: list[Region] = []
    for region in regions:
        if out and out[-1].a_stop == region.a_start and out[-1].b_stop == region.b_start:
            out[-1] = Region(out[-1].a_start, region.a_stop, out[-1].b_start, region.b_stop)
        else:
            out.append(region)
    return out
