"""Which words differ where lines replace lines: a reader sees the change and not two walls of text."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from recension.textdiff.sequences import Budget, Region, differing, trimmed

Ranges = tuple[tuple[int, int], ...]
"""As ``DiffLine.changed``."""

# Scripts that put no space between words: each character is a word of its own there.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
_ASCII_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+|\s+|[^\w\s]")
_JOINER = "\u200d"
_ALIKE = 0.3
"""Least part of the shorter side that two replaced stretches share; below it, equal words are chance."""


@dataclass(frozen=True, slots=True)
class _Side:
    """Replaced lines of one text, taken apart. The end of a line is a word of its own."""

    ids: list[int]
    """A number for each word, shared by equal ones."""
    places: list[int]
    """Where each word begins in the joined lines, and where the last one ends."""
    lines: list[int]
    """Where each line begins there, and where one more would."""

    def size(self, start: int, stop: int) -> int:
        """Return the code points of some words."""
        return self.places[stop] - self.places[start]

    def by_line(self, stretches: Sequence[tuple[int, int]]) -> list[Ranges]:
        """Return the places of some words, line by line."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.lines[1:]]
        for first, last in stretches:
            start, stop = self.places[first], self.places[last]
            at = bisect_right(self.lines, start) - 1
            while start < stop:
                begin, end = self.lines[at], self.lines[at + 1] - 1  # without the end of the line
                if start < end:
                    found[at].append((start - begin, min(stop, end) - begin))
                at, start = at + 1, end + 1
        return [
            () if ranges == [(0, after - before - 1)] else tuple(ranges)
            for ranges, before, after in zip(found, self.lines, self.lines[1:], strict=False)
        ]


def changed_words(
    removed: Sequence[str], added: Sequence[str], budget: Budget
) -> tuple[list[Ranges], list[Ranges]]:
    """Return what differs in each removed and each added line of one replacement."""
    numbers: dict[str, int] = {}
    a, b = _taken_apart(removed, numbers), _taken_apart(added, numbers)
    spaces = {number for word, number in numbers.items() if word != "\n" and word.isspace()}
    joined = _readable(differing(a.ids, b.ids, budget), a, b, spaces)
    regions = [trimmed(a.ids, b.ids, region) for region in joined]
    whole = a.places[-1], b.places[-1]
    told = sum(a.size(region.a_start, region.a_stop) for region in regions)
    if whole[0] - told < _ALIKE * min(whole):
        return [()] * len(removed), [()] * len(added)
    return (
        a.by_line([(region.a_start, region.a_stop) for region in regions]),
        b.by_line([(region.b_start, region.b_stop) for region in regions]),
    )


def _taken_apart(lines: Sequence[str], numbers: dict[str, int]) -> _Side:
    found: list[str] = []
    for line in lines:
        found += words(line)
        found.append("\n")
    ids = [numbers.setdefault(word, len(numbers)) for word in found]
    ends = accumulate(len(line) + 1 for line in lines)
    return _Side(ids, [0, *accumulate(map(len, found))], [0, *ends])


def words(line: str) -> list[str]:
    """Return the words, spaces and signs of a line; marks stay with what they are written on."""
    if line.isascii():
        return _ASCII_WORD.findall(line)
    out: list[str] = []
    for word in _WORD.findall(line):
        if out and (word[0] == _JOINER or out[-1][-1] == _JOINER or unicodedata.category(word[0])[0] == "M"):
            out[-1] += word
        else:
            out.append(word)
    return out


def _readable(regions: Sequence[Region], a: _Side, b: _Side, spaces: set[int]) -> list[Region]:
    """Join differences that only a few equal words keep apart: a reader sees one change there.

    Equal words go when both neighbours are at least as long, and space alone goes in any case.
    """
    out: list[Region] = []
    sizes: list[int] = []
    for region in regions:
        size = max(a.size(region.a_start, region.a_stop), b.size(region.b_start, region.b_stop))
        joined = region
        while out:
            start, stop = out[-1].a_stop, joined.a_start
            equal = a.size(start, stop)
            if equal > min(sizes[-1], size) and not spaces.issuperset(a.ids[start:stop]):
                break
            joined = Region(out[-1].a_start, joined.a_stop, out[-1].b_start, joined.b_stop)
            size += sizes.pop() + equal
            out.pop()
        out.append(joined)
        sizes.append(size)
    return out
