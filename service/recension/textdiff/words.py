"""Which words differ where lines replace lines: a reader sees the change and not two walls of text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recension.textdiff.sequences import Budget, Region, differing, trimmed

Ranges = tuple[tuple[int, int], ...]
"""(start, end) in code points of one line, in order, none touching another; empty for the whole line."""

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


class _Token(NamedTuple):
    line: int
    start: int
    end: int
    """``start`` for the end of a line."""


def changed_words(
    removed: Sequence[str], added: Sequence[str], budget: Budget
) -> tuple[list[Ranges], list[Ranges]]:
    """Return what differs in each removed and each added line of one replacement."""
    numbers: dict[str, int] = {}
    tokens_a, ids_a = _tokens(removed, numbers)
    tokens_b, ids_b = _tokens(added, numbers)
    spaces = {number for word, number in numbers.items() if word != "\n" and word.isspace()}
    joined = _readable(differing(ids_a, ids_b, budget), tokens_a, tokens_b, ids_a, spaces)
    regions = [trimmed(ids_a, ids_b, region) for region in joined]
    whole = _size(tokens_a, 0, len(tokens_a)), _size(tokens_b, 0, len(tokens_b))
    told = sum(_size(tokens_a, region.a_start, region.a_stop) for region in regions)
    if whole[0] - told < _ALIKE * min(whole):
        return [()] * len(removed), [()] * len(added)
    return (
        _by_line(removed, tokens_a, [(region.a_start, region.a_stop) for region in regions]),
        _by_line(added, tokens_b, [(region.b_start, region.b_stop) for region in regions]),
    )


def _tokens(lines: Sequence[str], numbers: dict[str, int]) -> tuple[list[_Token], list[int]]:
    """Return the words of some lines and the end of each, with a number that equal ones share."""
    tokens: list[_Token] = []
    ids: list[int] = []
    for at, line in enumerate(lines):
        for start, end in words(line):
            tokens.append(_Token(at, start, end))
            ids.append(numbers.setdefault(line[start:end], len(numbers)))
        tokens.append(_Token(at, len(line), len(line)))
        ids.append(numbers.setdefault("\n", len(numbers)))
    return tokens, ids


def words(line: str) -> Iterator[tuple[int, int]]:
    """Yield the words, spaces and signs of a line; marks stay with what they are written on."""
    if line.isascii():
        yield from (match.span() for match in _ASCII_WORD.finditer(line))
        return
    held: tuple[int, int] | None = None
    for match in _WORD.finditer(line):
        start, end = match.span()
        if held is not None and _belongs(line, start):
            held = held[0], end
            continue
        if held is not None:
            yield held
        held = start, end
    if held is not None:
        yield held


def _belongs(line: str, at: int) -> bool:
    char = line[at]
    return char == _JOINER or line[at - 1] == _JOINER or unicodedata.category(char)[0] == "M"


def _size(tokens: Sequence[_Token], start: int, stop: int) -> int:
    return sum(token.end - token.start for token in tokens[start:stop])


def _readable(
    regions: Sequence[Region],
    tokens_a: Sequence[_Token],
    tokens_b: Sequence[_Token],
    ids_a: Sequence[int],
    spaces: set[int],
) -> list[Region]:
    """Join differences that only a few equal words keep apart: a reader sees one change there.

    Equal words go when both neighbours are at least as long, and space alone goes in any case.
    """
    out: list[Region] = []
    sizes: list[int] = []
    for region in regions:
        size = max(
            _size(tokens_a, region.a_start, region.a_stop), _size(tokens_b, region.b_start, region.b_stop)
        )
        joined = region
        while out:
            start, stop = out[-1].a_stop, joined.a_start
            equal = _size(tokens_a, start, stop)
            if equal > min(sizes[-1], size) and not all(number in spaces for number in ids_a[start:stop]):
                break
            joined = Region(out[-1].a_start, joined.a_stop, out[-1].b_start, joined.b_stop)
            size = sizes[-1] + equal + size
            out.pop()
            sizes.pop()
        out.append(joined)
        sizes.append(size)
    return out


def _by_line(
    lines: Sequence[str], tokens: Sequence[_Token], stretches: Sequence[tuple[int, int]]
) -> list[Ranges]:
    found: list[list[tuple[int, int]]] = [[] for _ in lines]
    for start, stop in stretches:
        for token in tokens[start:stop]:
            held = found[token.line]
            if token.start == token.end:
                continue
            if held and held[-1][1] == token.start:
                held[-1] = held[-1][0], token.end
            else:
                held.append((token.start, token.end))
    return [
        () if ranges == [(0, len(line))] else tuple(ranges) for line, ranges in zip(lines, found, strict=True)
    ]
