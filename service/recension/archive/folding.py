"""The newest edit of each page as of (T, K): the parts of the event columns laid over one another by numpy.

Of a project of many events the replay starts from the stage that leaves the fewest of them (``stages``), and
goes through the pages some at a time, so that what it holds does not grow with the corpus.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from recension.archive import stages
from recension.archive.columns import (
    KIND_SHIFT,
    Column,
    Events,
    Holds,
    Part,
    covered,
    find_parts,
    holds_of,
    logged,
    read_columns,
)
from recension.archive.history import Choice
from recension.archive.packing import Columns, ColumnsLostError, Numbers
from recension.archive.projects import tally_of
from recension.archive.stages import MARK_SHIFT, Mark, Stage, StageColumn, StageLostError
from recension.model.record import Flag, Kind
from recension.store.interface import Row, Store

FOREVER = 2**62
_NO_TIME = -(2**63)
_SPARSE = 4
"""Page ids for each page from which a table of all ids would be too empty."""
_SMALL_TABLE = 2**20
_SPAN = 2**21
"""Pages of one replay: some 600 MB with what their leaves take."""
_BEHIND = 4
"""Events a page that columns lack, from which seeking each page is faster than reading the log."""
_AHEAD = 2
"""Parts read while another is used."""
_FLAGS = 2**KIND_SHIFT - 1

T = TypeVar("T")
Mask = npt.NDArray[np.bool_]


class Newest(NamedTuple):
    """The newest edits of pages, by page."""

    pages: Numbers
    times: Numbers
    revs: Numbers
    flags: Numbers
    refs: Numbers
    """Which events they are, counted through all parts of the columns."""
    marks: Numbers

    def at(self, places: Mask | Numbers) -> Newest:
        """Return some of them."""
        return Newest(*(column[places] for column in self))

    def have(self, flag: Flag) -> Mask:
        """Say which have a flag."""
        mask: Mask = self.flags & flag != 0
        return mask

    def marked(self, mark: Mark) -> Mask:
        """Say which have a mark."""
        mask: Mask = self.marks & mark != 0
        return mask


class Span(NamedTuple):
    """Pages that are replayed together, each in a slot of its own."""

    low: int
    high: int
    """Page ids: ``low <= page < high``."""
    known: Numbers | None
    """The pages, ascending, where a table of all ids would be too empty."""

    @property
    def size(self) -> int:
        """Number of slots."""
        return self.high - self.low if self.known is None else len(self.known)

    def slots(self, pages: Numbers) -> Numbers:
        """Return the slots of pages."""
        if self.known is not None:
            return self.known.searchsorted(pages)
        return pages - self.low if self.low else pages

    def pages(self, slots: Numbers) -> Numbers:
        """Return the pages of slots."""
        return slots + self.low if self.known is None else self.known.take(slots)

    def holds(self, pages: Numbers) -> Mask:
        """Say which pages are among them."""
        mask: Mask = (pages >= self.low) & (pages < self.high)
        return mask


class Fold:
    """The columns of a project, and the events of the log behind them, as far as K.

    Raises ``ColumnsLostError`` if they are not whole, or too far behind.
    """

    def __init__(
        self, store: Store, number: int, choice: Choice, known: Sequence[Stage] | None = None
    ) -> None:
        """``known``: the stages to start from, or all that are stored."""
        self._store = store
        self._number = number
        self._choice = choice
        parts = find_parts(store, number)
        upto = min(covered(parts), choice.known_at)
        with store.view() as view:
            _, tally = tally_of(view, number, choice.known_at)
            _, before = tally_of(view, number, upto)
        if tally.revisions - before.revisions > _BEHIND * tally.pages:
            raise ColumnsLostError("event columns are far behind the log")
        self._pages = tally.pages
        self.parts = [part for part in parts if part.after < choice.known_at]
        some = stages.find_stages(store, number) if known is None else known
        # None that was made meanwhile, of parts that were not there yet: it counts events through those too.
        self._stages = [one for one in some if one.upto <= upto]
        self._tail: list[Numbers] = []
        self._add_tail(upto)
        self._bases = np.cumsum([0, *(part.events for part in self.parts)])
        """The number of the first event of each part."""
        spans = [(part.first_time, part.last_time, part.upto) for part in self.parts]
        self._firsts, self._lasts, self._uptos = np.array(spans, np.int64).reshape(-1, 3).T

    def _add_tail(self, after: int) -> None:
        """Read what the columns lack from the log, as one more part."""
        events = Events()
        for position, some in logged(self._store, self._number, after, self._choice.known_at):
            events.add(position, some)
        if not len(events):
            return
        (self._tail,) = events.sorted(len(events))
        times, pages = self._tail[Column.TIMES], self._tail[Column.PAGES]
        upto, holds = self._choice.known_at, holds_of(self._tail[Column.KINDS])
        self.parts.append(
            Part(upto, 0, after, len(times), int(times[0]), int(times[-1]), int(pages.max()), 1, holds)
        )

    def read(self, at: int) -> Columns | list[Numbers]:
        """Return the columns of a part."""
        if self._tail and at == len(self.parts) - 1:
            return self._tail
        return read_columns(self._store, self._number, self.parts[at])

    def places(self, refs: Numbers) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield (part, which of the events lie in it, and where), for each part that holds some."""
        order = np.argsort(refs)
        parts = np.searchsorted(self._bases, refs.take(order), "right") - 1
        firsts = np.flatnonzero(np.diff(parts, prepend=-1))
        for part, mine in zip(parts[firsts].tolist(), np.split(order, firsts[1:]), strict=False):
            yield part, mine, refs[mine] - self._bases[part]

    def spans(self) -> list[Span]:
        """Return all pages, in the order of their ids."""
        end = 1 + max((part.last_page for part in self.parts), default=0)
        if end <= _SPARSE * self._pages + _SMALL_TABLE:
            return [Span(low, min(low + _SPAN, end), None) for low in range(0, end, _SPAN)]
        known = self._known_pages()
        some = [known[at : at + _SPAN] for at in range(0, len(known), _SPAN)]
        return [Span(int(one[0]), int(one[-1]) + 1, one) for one in some]

    def _known_pages(self) -> Numbers:
        """Return the pages of all events, ascending."""
        each = [np.unique(self.read(at)[Column.PAGES]) for at in range(len(self.parts))]
        return np.unique(np.concatenate(each))

    def newest(self, span: Span, until: int) -> Newest:
        """Return the newest edits with valid time <= ``until``."""
        return self._laid(span, until)[0].found(span)

    def current(self, span: Span) -> Newest:
        """Return the newest edits that are settled, with what may say more of a page than they do.

        Marked is a move, delete or restore that no edit came after, a move of any time, and a visibility
        change of the edit itself; after a stage the first and the last perhaps where there is none.
        """
        table, stage = self._laid(span, self._choice.settled_at)
        self._mark(table, span, stage, self._choice.valid_at, all_revisions=False)
        return table.found(span)

    def stage_columns(self, span: Span) -> list[Numbers]:
        """Return the columns of a stage of this T and K; its pages may be none."""
        until = self._choice.valid_at
        table, stage = self._laid(span, until)
        self._mark(table, span, stage, until, all_revisions=True)
        pages, times, revs, flags, refs, marks = table.found(span, marked=True)
        return [pages, times, revs, flags | marks << MARK_SHIFT, refs]

    def _laid(self, span: Span, until: int) -> tuple[_Table, Stage | None]:
        """Return the newest edits until then, and the stage that they began with."""
        stage = self._nearest(until)
        table = _Table(span.size)
        if stage is not None:
            try:
                for columns in stages.read_stage(self._store, self._number, stage, span.low, span.high):
                    table.begin(span.slots(columns[StageColumn.PAGES]), columns)
            except StageLostError:
                self._stages.remove(stage)
                return self._laid(span, until)
        # The newest first: what they leave to the others is little.
        begun = np.flatnonzero(self._needed(stage, until)).tolist()
        begun.sort(key=lambda at: -self.parts[at].last_time)
        for at, (read, times, pages) in ahead(self._read_decoded, begun):
            part = self.parts[at]
            end = int(np.searchsorted(times, until, "right"))
            mask = span.holds(pages[:end])
            if part.upto > self._choice.known_at:
                mask &= read[Column.POSITIONS][:end] <= self._choice.known_at
            if part.holds & Holds.OTHERS:
                mask &= read[Column.KINDS][:end] >> KIND_SHIFT == Kind.EDIT
            places = None if mask.all() else np.flatnonzero(mask)
            taken = slice(end) if places is None else places
            edits = _Laid(int(self._bases[at]), times[taken], span.slots(pages[taken]), places)
            table.lay(read, edits)
        if stage is not None:
            table.settle(stage.valid_at)
        return table, stage

    def _read_decoded(self, at: int) -> tuple[Columns | list[Numbers], Numbers, Numbers]:
        columns = self.read(at)
        return columns, columns[Column.TIMES], columns[Column.PAGES]

    def _needed(self, stage: Stage | None, until: int) -> Mask:
        """Say which parts may hold events until then that a stage does not know."""
        mask: Mask = self._firsts <= until
        return mask if stage is None else mask & self._behind(stage)

    def _behind(self, stage: Stage) -> Mask:
        """Say which parts hold events of which a stage does not know the edits."""
        mask: Mask = (self._uptos > stage.upto) | (self._lasts > stage.valid_at)
        return mask

    def _nearest(self, until: int) -> Stage | None:
        """Return the stage from which the least is to be done, if one is better than none."""
        events = np.diff(self._bases)
        best, least = None, int(events[self._needed(None, until)].sum())
        for stage in self._stages:
            if stage.valid_at <= until:
                work = stage.pages + int(events[self._needed(stage, until)].sum())
                if work < least:
                    best, least = stage, work
        return best

    def _mark(
        self, table: _Table, span: Span, stage: Stage | None, valid_at: int, *, all_revisions: bool
    ) -> None:
        """Mark pages by the events that are no edits; ``stage`` has marked them by those that it knows."""
        behind = np.ones(len(self.parts), bool) if stage is None else self._behind(stage)
        for at in np.flatnonzero(behind).tolist():
            part = self.parts[at]
            if not part.holds & Holds.OTHERS:
                continue
            columns = self.read(at)
            kinds, pages = columns[Column.KINDS] >> KIND_SHIFT, columns[Column.PAGES]
            mask = (kinds != Kind.EDIT) & span.holds(pages)
            if part.upto > self._choice.known_at:
                mask &= columns[Column.POSITIONS] <= self._choice.known_at
            others = np.flatnonzero(mask)
            if not len(others):
                continue
            kinds, times = kinds.take(others), columns[Column.TIMES].take(others)
            slots = span.slots(pages.take(others))
            changes = kinds == Kind.VISIBILITY
            late = ~changes & (times > table.times[slots]) & (times <= valid_at)
            if not all_revisions:
                changes &= columns[Column.REVS].take(others) == table.revs[slots]
            for mark, mine in (Mark.LATE, late), (Mark.MOVED, kinds == Kind.MOVE), (Mark.JUDGED, changes):
                table.marks[slots[mine]] |= np.uint8(mark)


def keep_stages(store: Store, number: int) -> None:
    """Make the stages of a project that are due; durable when it returns. Idempotent.

    Takes what a snapshot takes for each. For the holder of ``store.exclusive_writer()``. Raises
    ``ColumnsLostError`` if a part of the event columns is missing.
    """
    parts = find_parts(store, number)
    with store.view() as view:
        _, tally = tally_of(view, number, covered(parts))
    for valid_at in stages.due(parts, stages.find_stages(store, number), tally.pages):
        rows = StageRows(store, number, covered(parts), valid_at)
        store.put_derived(iter(rows))
        store.put_derived(iter([rows.name()]))


class StageRows:
    """The rows of a stage, each made as it is asked for, and when all are, the row that names it."""

    def __init__(
        self, store: Store, number: int, upto: int, valid_at: int, known: Sequence[Stage] | None = None
    ) -> None:
        """``known``: the stages to start from, or all that are stored."""
        self._fold = Fold(store, number, Choice(valid_at, upto), known)
        self._number, self._upto, self._valid_at = number, upto, valid_at
        self._chunks: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of the chunks, by page."""
        for span in self._fold.spans():
            columns = self._fold.stage_columns(span)
            at = len(self._chunks)
            for chunk, row in stages.chunk_rows(self._number, self._upto, self._valid_at, at, columns):
                self._chunks.append(chunk)
                yield row

    def name(self) -> Row:
        """Return the row that names the stage, of all chunks that were made."""
        return stages.stage_row(self._number, Stage(self._upto, self._valid_at, tuple(self._chunks)))


class _Laid(NamedTuple):
    """Some edits of a part, ascending by (time, revision, order of the log)."""

    base: int
    """The number of the part's first event."""
    times: Numbers
    slots: Numbers
    """Those of their pages."""
    places: Numbers | None
    """``None`` for those from the first on."""


class _Table:
    """The newest edit of each page so far, in its slot."""

    def __init__(self, size: int) -> None:
        self.times = np.full(size, _NO_TIME)
        self.revs, self._refs = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._flags = np.zeros(size, np.uint8)
        self.marks = np.zeros(size, np.uint8)

    def begin(self, slots: Numbers, columns: list[Numbers]) -> None:
        """Take what a stage says of pages."""
        _, times, revs, kinds, refs = columns
        self.marks[slots] = kinds >> MARK_SHIFT
        begun = np.flatnonzero(revs)
        slots = slots.take(begun)
        self.times[slots], self.revs[slots] = times.take(begun), revs.take(begun)
        self._flags[slots], self._refs[slots] = kinds.take(begun) & _FLAGS, refs.take(begun)

    def settle(self, valid_at: int) -> None:
        """Forget, of pages with an edit after a stage's T, what came after the edits that the stage knew."""
        self.marks[self.times > valid_at] &= ~np.uint8(Mark.LATE)

    def lay(self, columns: Columns | list[Numbers], edits: _Laid) -> None:
        """Lay edits of a part over those before."""
        slots = edits.slots
        before = self.times.take(slots)  # three times as fast as by brackets
        near = np.flatnonzero(edits.times >= before)
        if not len(near):
            return
        slots, times, before = slots.take(near), edits.times.take(near), before.take(near)
        places = near if edits.places is None else edits.places.take(near)
        refs = places + edits.base
        revs, flags = columns[Column.REVS].take(places), columns[Column.KINDS].take(places) & _FLAGS
        same = np.flatnonzero(times == before)
        if len(same):  # of one revision too, the one that became known later counts
            rev, other = revs[same], self.revs[slots[same]]
            older = (rev < other) | ((rev == other) & (refs[same] < self._refs[slots[same]]))
            slots, times, revs, flags, refs = (
                np.delete(column, same[older]) for column in (slots, times, revs, flags, refs)
            )
        # Of several in one slot the last stays, and they ascend.
        self.times[slots], self.revs[slots] = times, revs
        self._flags[slots], self._refs[slots] = flags, refs

    def found(self, span: Span, *, marked: bool = False) -> Newest:
        """Return what is left, with ``marked`` also pages without an edit that have marks: revision 0."""
        there = self.times != _NO_TIME
        slots = np.flatnonzero(there | (self.marks != 0) if marked else there)
        revs, refs = self.revs.take(slots), self._refs.take(slots)
        times = np.where(revs, self.times.take(slots), 0) if marked else self.times.take(slots)
        flags, marks = (column.take(slots).astype(np.int64) for column in (self._flags, self.marks))
        return Newest(span.pages(slots), times, revs, flags, refs, marks)


def ahead(work: Callable[[int], T], items: Iterable[int]) -> Iterator[tuple[int, T]]:
    """Yield each item with what ``work`` returns of it, made in another thread while others are used."""
    context = copy_context()
    waiting: deque[tuple[int, Future[T]]] = deque()
    with ThreadPoolExecutor(1, "replay") as pool:
        for item in items:
            waiting.append((item, pool.submit(context.run, work, item)))
            if len(waiting) > _AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
