"""Stages: the newest edit of every page as of (T, K), so that a replay need not begin with the first event.

Rows of up to ``CHUNK`` pages by id, each column packed by itself: some 15 bytes a page. A row of its own
names a stage and says which pages its chunks hold, so that a replay reads those of some pages alone. A stage
counts for each question that knows at least as much and asks for no earlier time. Derived: what is lost of it
costs time alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

import numpy as np

from recension.archive.columns import Part, covered
from recension.archive.packing import Columns, ColumnsLostError, Numbers, pack_columns
from recension.store import keys
from recension.store.interface import Row, Store

EVERY = 2**24
"""Events after which a stage is due: a replay of so many takes some 2 s."""
_PER_PAGE = 4
"""Events a page that a stage is due after at least, so that stages take no more than 4 bytes an event."""
CHUNK = 65_536
_PAGES = struct.Struct(">Q")
_CHUNK = struct.Struct(">QI")
MARK_SHIFT = 8
"""In the column of kinds: above the flags of an edit lie the marks of its page."""


class Mark(IntFlag):
    """What concerns a page beside its edits."""

    LATE = 1
    """A move, delete or restore at or before T that no edit came after; perhaps one did, after all."""
    MOVED = 2
    """A move of any time is known."""
    JUDGED = 4
    """A visibility change of any of its revisions is known."""


class StageColumn(IntEnum):
    """The columns of a chunk, in their order."""

    PAGES = 0
    TIMES = 1
    REVS = 2
    """0 for a page that has marks and no edit yet."""
    KINDS = 3
    """Marks and flags."""
    REFS = 4
    """Which event of the parts of the event columns it is, counted through."""


class Stage(NamedTuple):
    """What the row of a stage says."""

    upto: int
    """K: it holds what the parts of the event columns up to this position hold."""
    valid_at: int
    """T."""
    chunks: tuple[tuple[int, int], ...]
    """First page and number of pages of each."""

    @property
    def pages(self) -> int:
        """The number of its pages."""
        return sum(count for _, count in self.chunks)


class StageLostError(ColumnsLostError):
    """A stage is not whole. What it says follows from the event columns."""


def find_stages(store: Store, number: int) -> list[Stage]:
    """Return the stages of a project by (K, T), without those whose row cannot be read."""
    with store.view() as view:
        return read_stages(view.scan(keys.stage(number), keys.stage(number + 1)))


def read_stages(rows: Iterable[Row]) -> list[Stage]:
    """Return the stages that some rows name, without those that cannot be read."""
    found = [Stage(*keys.read_stage(key), _read_chunks(value)) for key, value in rows]
    return [stage for stage in found if stage.chunks]


def _read_chunks(value: bytes) -> tuple[tuple[int, int], ...]:
    """Return the chunks that a stage's row tells of; none if it cannot be read."""
    if len(value) % _CHUNK.size != _PAGES.size:
        return ()
    chunks = tuple(_CHUNK.iter_unpack(value[_PAGES.size :]))
    (pages,) = _PAGES.unpack_from(value)
    return chunks if sum(count for _, count in chunks) == pages else ()


def due(parts: Sequence[Part], stages: Sequence[Stage], pages: int) -> list[int]:
    """Return the times T, ascending, of the stages that a project of so many pages lacks as known now.

    Between two of them lie as many of the events that the last stage did not know as make one due. A writer
    that was killed leaves out the later ones: the one of all times says that none is missing.
    """
    upto = covered(parts)
    made = {stage.valid_at for stage in stages if stage.upto == upto}
    known = max((stage.upto for stage in stages if stage.upto < upto), default=0)
    fresh = sorted((part.last_time, part.events) for part in parts if part.upto > known)
    every = max(EVERY, _PER_PAGE * pages)
    if sum(events for _, events in fresh) < every:
        return []
    newest = max(part.last_time for part in parts)
    if newest in made:
        return []
    times = {newest}
    seen = 0
    for time, events in fresh:
        seen += events
        if seen >= every:
            times.add(time)
            seen = 0
    return sorted(times - made)


def chunk_rows(
    number: int, upto: int, valid_at: int, chunk: int, columns: Sequence[Numbers]
) -> Iterator[tuple[tuple[int, int], Row]]:
    """Yield what names each chunk of some pages, ascending, and its row; ``chunk`` numbers the first."""
    pages = columns[StageColumn.PAGES]
    for at in range(0, len(pages), CHUNK):
        some = [column[at : at + CHUNK] for column in columns]
        key = keys.stage_chunk(number, upto, valid_at, chunk)
        yield (int(pages[at]), len(some[0])), (key, pack_columns(some))
        chunk += 1


def stage_row(number: int, stage: Stage) -> Row:
    """Return the row that names a stage."""
    chunks = b"".join(_CHUNK.pack(*chunk) for chunk in stage.chunks)
    return keys.stage(number, stage.upto, stage.valid_at), _PAGES.pack(stage.pages) + chunks


def read_stage(store: Store, number: int, stage: Stage, low: int, high: int) -> Iterator[list[Numbers]]:
    """Yield the columns of the pages with ``low <= page < high``, ascending. Raises ``StageLostError``."""
    for at, (first, count) in enumerate(stage.chunks):
        if first >= high or (at + 1 < len(stage.chunks) and stage.chunks[at + 1][0] <= low):
            continue
        with store.view() as view:
            raw = view.get(keys.stage_chunk(number, stage.upto, stage.valid_at, at))
        try:
            packed = Columns(raw or b"", count)
            columns = [packed[column] for column in StageColumn]
        except ColumnsLostError as error:
            raise StageLostError(f"a stage cannot be read: {error.message}") from None
        begin, end = np.searchsorted(columns[StageColumn.PAGES], (low, high)).tolist()
        if begin < end:
            yield [column[begin:end] for column in columns]
