"""What differs between two texts, as values, and the form in which `diff -u` writes it.

A line ends with a newline (U+000A) or with its text, and at nothing else. Lines count from 1; places within a
line are Unicode code points, as a Python string counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

DEFAULT_CONTEXT = 3
"""Equal lines around each difference, unless another number is asked for."""
MAX_CONTEXT = 10_000
"""Most equal lines around a difference; who asks for more gets so many."""


class LineKind(StrEnum):
    """What became of a line; the value is the mark that `diff -u` puts in front of it."""

    CONTEXT = " "
    REMOVED = "-"
    ADDED = "+"


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a hunk."""

    kind: LineKind
    text: str
    """The line without its newline."""
    changed: tuple[tuple[int, int], ...] = ()
    """Where words differ: (start, end) in order, none touching another.

    Empty when the line differs as a whole, and when the other side has all of its words and more.
    """
    no_newline: bool = False
    """The last line of a text that does not end with a newline."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """A stretch of two texts in which something differs, with equal lines around it."""

    start_a: int
    """Number of its first line in A; the line behind it, if it has none of A."""
    start_b: int
    lines: tuple[DiffLine, ...]
    """Of a replacement first the removed lines, then the added ones."""

    @property
    def count_a(self) -> int:
        """Lines of A in it."""
        return sum(line.kind is not LineKind.ADDED for line in self.lines)

    @property
    def count_b(self) -> int:
        """Lines of B in it."""
        return sum(line.kind is not LineKind.REMOVED for line in self.lines)


@dataclass(frozen=True, slots=True)
class TextDiff:
    """What differs between two texts."""

    hunks: tuple[Hunk, ...] = ()
    lines_removed: int = 0
    """Of the whole texts, also when the hunks are truncated."""
    lines_added: int = 0
    coarse: bool = False
    """Some lines or words are told as replaced that a closer look would find equal."""
    truncated: bool = False
    """There was no room for more: the hunks end early."""


def unified(diff: TextDiff, name_a: str, name_b: str) -> Iterator[str]:
    """Yield the lines of a unified diff, each with its newline; none when nothing differs.

    The names must not hold a newline. A diff that is truncated is written as far as it goes.
    """
    if not diff.hunks:
        return
    yield f"--- {name_a}\n"
    yield f"+++ {name_b}\n"
    for hunk in diff.hunks:
        yield f"@@ -{_range(hunk.start_a, hunk.count_a)} +{_range(hunk.start_b, hunk.count_b)} @@\n"
        for line in hunk.lines:
            yield f"{line.kind}{line.text}\n"
            if line.no_newline:
                yield "\\ No newline at end of file\n"


def _range(start: int, count: int) -> str:
    """Write a side's range: the line before it when it is empty, and no count of one."""
    if count == 1:
        return str(start)
    return f"{start if count else start - 1},{count}"
