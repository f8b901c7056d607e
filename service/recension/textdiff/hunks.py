"""What differs between two texts: by lines, and by words where lines replace lines.

Work, memory and the size of what comes of it are bounded for any two texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from recension.model.difference import DEFAULT_CONTEXT, MAX_CONTEXT, DiffLine, Hunk, LineKind, TextDiff
from recension.textdiff.sequences import Budget, Region, differing
from recension.textdiff.words import Ranges, changed_words

LINE_PAIRS = 400_000_000
"""Pairs of lines that are compared in one diff: 20,000 lines that were all rewritten, 0.12 s and 50 MB."""
WORD_PAIRS = 100_000_000
"""Pairs of words that are compared in one diff."""
WORD_PAIRS_OF_ONE = 25_000_000
"""Pairs of words that are compared in one replacement."""
WORD_BYTES = 512 * 1024
"""Replaced text of both sides that is taken apart into words in one diff."""
MAX_LINES = 200_000
"""Lines of one side, without what both begin and end with, beyond which they are not compared one by one."""
ROOM_BYTES = 1_500_000
"""What the hunks may hold: their lines in UTF-8, and what carries them; an answer may hold them twice."""

_LINE_ROOM, _RANGE_ROOM, _HUNK_ROOM = 16, 12, 48
"""What a line, a range and a hunk take beyond the text, at most."""


def diff_texts(a: bytes, b: bytes, *, context: int = DEFAULT_CONTEXT, room: int = ROOM_BYTES) -> TextDiff:
    """Return what differs between two texts in UTF-8, with ``context`` equal lines around it.

    ``room``: bytes that the hunks may take.
    """
    head = _common_head(a, b)
    tail = _common_tail(a, b, head)
    if head == len(a) == len(b):
        return TextDiff()
    middles = a[head : len(a) - tail], b[head : len(b) - tail]
    counts = tuple(map(_count, middles))
    pairs = Budget(LINE_PAIRS)
    sides = tuple(_lines(middle, count, room) for middle, count in zip(middles, counts, strict=True))
    if max(counts) > MAX_LINES:
        regions = [Region(0, counts[0], 0, counts[1])]
        pairs.coarse = True
    else:
        numbers: dict[bytes, int] = {}
        ids_a, ids_b = ([numbers.setdefault(line, len(numbers)) for line in side] for side in sides)
        regions = _settled(differing(ids_a, ids_b, pairs), ids_a, ids_b)
    context = min(context, MAX_CONTEXT)
    writing = _Writing(
        before=a.count(b"\n", 0, head),
        head=_last_lines(a, head, min(context, room)),
        sides=sides,
        counts=counts,
        tail=_first_lines(a, len(a) - tail, min(context, room)),
        room=room,
    )
    hunks = tuple(writing.hunks(regions, context))
    return TextDiff(
        hunks,
        sum(region.a_stop - region.a_start for region in regions),
        sum(region.b_stop - region.b_start for region in regions),
        coarse=pairs.coarse or writing.coarse,
        truncated=writing.truncated,
    )


class _Full(Exception):  # noqa: N818 - never leaves this module
    """There is no room for another line."""


class _Writing:
    """Makes the hunks, for as long as there is room.

    Lines are numbered as in the middles of the texts: those of the common head have numbers below 0.
    """

    def __init__(
        self,
        *,
        before: int,
        head: Sequence[bytes],
        sides: tuple[Sequence[bytes], ...],
        counts: tuple[int, ...],
        tail: Sequence[bytes],
        room: int,
    ) -> None:
        self.coarse = False
        self.truncated = False
        self._before = before
        self._head = head
        self._a, self._b = sides
        self._count_a, _ = counts
        self._tail = tail
        self._room = room
        self._words = Budget(WORD_PAIRS)
        self._word_bytes = WORD_BYTES

    def hunks(self, regions: Sequence[Region], context: int) -> Iterator[Hunk]:
        for group in _groups(regions, context):
            start = max(group[0].a_start - context, -len(self._head))
            stop = min(group[-1].a_stop + context, self._count_a + len(self._tail))
            shift = group[0].b_start - group[0].a_start
            lines: list[DiffLine] = []
            try:
                self._take(_HUNK_ROOM)
                for line in self._written(group, start, stop):
                    lines.append(line)  # noqa: PERF402 - what was written stays when the room ends
            except _Full:
                self.truncated = True
            if any(line.kind is not LineKind.CONTEXT for line in lines):
                first = self._before + 1 + start
                yield Hunk(first, first + shift, tuple(lines))
            if self.truncated:
                return

    def _written(self, group: Sequence[Region], start: int, stop: int) -> Iterator[DiffLine]:
        at = start
        for region in group:
            yield from self._context(at, region.a_start)
            yield from self._changed(region)
            at = region.a_stop
        yield from self._context(at, stop)

    def _context(self, start: int, stop: int) -> Iterator[DiffLine]:
        for at in range(start, stop):
            if at < 0:
                line = self._head[at]
            elif at < self._count_a:
                line = self._a[at]
            else:
                line = self._tail[at - self._count_a]
            yield self._line(LineKind.CONTEXT, line)

    def _changed(self, region: Region) -> Iterator[DiffLine]:
        ours = self._a[region.a_start : region.a_stop]
        theirs = self._b[region.b_start : region.b_stop]
        whole_a: list[Ranges] = [()] * len(ours)
        whole_b: list[Ranges] = [()] * len(theirs)
        if ours and theirs:
            size = sum(map(len, ours)) + sum(map(len, theirs))
            if size <= min(self._word_bytes, self._room):
                self._word_bytes -= size
                whole_a, whole_b = self._compared(ours, theirs)
            else:
                self.coarse = True
        for kind, lines, ranges in ((LineKind.REMOVED, ours, whole_a), (LineKind.ADDED, theirs, whole_b)):
            for line, changed in zip(lines, ranges, strict=True):
                yield self._line(kind, line, changed)
        if len(ours) < region.a_stop - region.a_start or len(theirs) < region.b_stop - region.b_start:
            raise _Full  # there are more lines than were taken apart, as the room could not hold them

    def _compared(self, ours: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[list[Ranges], list[Ranges]]:
        allowed = min(WORD_PAIRS_OF_ONE, self._words.left)
        budget = Budget(allowed)
        found = changed_words(list(map(_shown, ours)), list(map(_shown, theirs)), budget)
        self._words.take(allowed - budget.left)
        self.coarse |= budget.coarse
        return found

    def _line(self, kind: LineKind, line: bytes, changed: Ranges = ()) -> DiffLine:
        self._take(len(line) + _LINE_ROOM + _RANGE_ROOM * len(changed))
        return DiffLine(kind, _shown(line), changed, no_newline=not line.endswith(b"\n"))

    def _take(self, room: int) -> None:
        if room > self._room:
            raise _Full
        self._room -= room


def _shown(line: bytes) -> str:
    return line.removesuffix(b"\n").decode()


def _groups(regions: Sequence[Region], context: int) -> Iterator[list[Region]]:
    """Yield regions whose context touches together."""
    if not regions:
        return
    group = [regions[0]]
    for last, region in pairwise(regions):
        if region.a_start - last.a_stop > 2 * context:
            yield group
            group = []
        group.append(region)
    yield group


def _settled(regions: Sequence[Region], a: Sequence[int], b: Sequence[int]) -> list[Region]:
    """Move pure insertions and removals down as far as they may go, as `diff` does: there they read best."""
    out: list[Region] = []
    end_a, end_b = len(a), len(b)
    for region in reversed(regions):
        i, k, j, n = region
        lines = b if i == k else a
        first, last = (j, n) if i == k else (i, k)
        if i == k or j == n:
            # Another region lies behind: at least one equal line stays between the two.
            while k + 1 < end_a + (end_a == len(a)) and n + 1 < end_b + (end_b == len(b)):
                if lines[first] != lines[last]:
                    break
                first, last, i, k, j, n = first + 1, last + 1, i + 1, k + 1, j + 1, n + 1
        out.append(Region(i, k, j, n))
        end_a, end_b = i, j
    return out[::-1]


def _common_head(a: bytes, b: bytes) -> int:
    """Return the length of the whole lines that both texts begin with."""
    if a == b:
        return len(a)
    low, high = 0, min(len(a), len(b))
    while low < high:  # all before ``low`` is equal; each step compares half of the rest at memory speed
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return a.rfind(b"\n", 0, low) + 1


def _common_tail(a: bytes, b: bytes, head: int) -> int:
    """Return the length of the whole lines that both texts end with, behind ``head``."""
    low, high = 0, min(len(a), len(b)) - head
    while low < high:
        middle = (low + high + 1) // 2
        if a[len(a) - middle : len(a) - low] == b[len(b) - middle : len(b) - low]:
            low = middle
        else:
            high = middle - 1
    if all(len(text) - low == head or text[len(text) - low - 1] == ord("\n") for text in (a, b)):
        return low
    start = a.find(b"\n", len(a) - low) + 1
    return len(a) - start if start else 0


def _count(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def _lines(text: bytes, count: int, room: int) -> list[bytes]:
    """Return the lines; of too many only those that there may be room for."""
    if count > MAX_LINES:
        # Without the last: it may have been cut.
        return _split(text[:room])[:-1]
    return _split(text)


def _split(text: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in text.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    if not lines[-1]:
        lines.pop()
    return lines


def _last_lines(text: bytes, stop: int, count: int) -> list[bytes]:
    """Return the last ``count`` lines of what comes before ``stop``, where a line ends."""
    start = stop
    for _ in range(count):
        if not start:
            break
        start = text.rfind(b"\n", 0, start - 1) + 1
    return _split(text[start:stop])


def _first_lines(text: bytes, start: int, count: int) -> list[bytes]:
    """Return the first ``count`` lines of what comes from ``start`` on."""
    stop = start
    for _ in range(count):
        stop = text.find(b"\n", stop) + 1 or len(text)
        if stop == len(text):
            break
    return _split(text[start:stop])
