"""The whole corpus as of (T, K), replayed from event columns by numpy instead of page by page.

The newest edit of each page, in the order of (valid time, revision id, position), is what is left when the
parts of the columns are laid over one another. Of a page whose state more than edits have made, as a delete
behind the last of them, it is asked of the timeline (``history.page_at``), and so it is of all pages where
columns are lost or far behind the log. Both ways give the same entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from recension.archive.columns import (
    EDIT_KEY,
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
from recension.archive.commitments import Facts, Models, basis_of, from_columns, from_timelines
from recension.archive.history import Choice, page_at, selects
from recension.archive.packing import Columns, ColumnsLostError, Numbers
from recension.archive.projects import tally_of
from recension.archive.sealed import SealedReader
from recension.model.manifest import OnHidden, Redirects, Selector
from recension.model.record import Flag, Kind
from recension.model.tree import ENTRY_TAG, RECORD, entry_leaves
from recension.store import keys
from recension.store.interface import Store

_FOREVER = 2**62
_NO_TIME = -(2**63)
_NONE = np.zeros(0, np.int64)
_SPARSE = 4
"""Page ids for each page from which a table of all ids would be too empty."""
_SMALL_TABLE = 2**20
_BEHIND = 4
"""Events a page that columns lack, from which seeking each page is faster than reading the log."""
_SLICE = 16_384
"""Pages of one step: some 10 ms, or 400 where all are sought."""
_SOUGHT = 4096
_PART_SHIFT = 32
"""In a reference to an event: above its place in its part lies the number of the part."""
_IN_PART = 2**_PART_SHIFT - 1
_AHEAD = 2
"""Parts read while another is used."""
_TITLE = slice(0, 32)

_ENTRY = np.dtype(
    [("tag", f"S{len(ENTRY_TAG)}"), ("page", ">i8"), ("rev", ">i8"), ("time", ">i8"), ("pair", "u1", 64)]
)
"""What the leaf of an entry is the digest of."""
_RECORD = np.dtype([("page", ">i8"), ("rev", ">i8"), ("leaf", "V32")])
"""A record of a tree's lowest nodes."""

T = TypeVar("T")
Mask = npt.NDArray[np.bool_]


class Entries(NamedTuple):
    """Some entries of a project's share of a snapshot, by page id."""

    pages: Numbers
    records: bytes
    """Those of the tree, one behind the other."""
    text_bytes: int


def entries_at(store: Store, number: int, selector: Selector, choice: Choice) -> Iterator[Entries]:
    """Yield the entries that a selector takes as of (T, K), by page id, some at a time.

    Takes some 300 bytes of memory a page. Raises ``DataLossError``.
    """
    try:
        replay = _Replay(store, number, choice)
        edits, rest = replay.run(selector)
    except ColumnsLostError:
        edits, rest = None, np.fromiter(_all_pages(store, number), np.int64)
    taken = _NONE if edits is None else edits.pages
    pages = np.sort(np.concatenate([taken, rest]))  # no page is in both
    for start in range(0, len(pages), _SLICE):
        bounds = pages[start], pages[start : start + _SLICE][-1] + 1
        low, high = np.searchsorted(rest, bounds)
        sought = _sought(store, number, selector, choice, rest[low:high])
        if edits is not None:
            low, high = np.searchsorted(taken, bounds)
            sought = _joined(edits.hashed(low, high), sought)
        yield sought


def _joined(one: Entries, other: Entries) -> Entries:
    """Return the entries of both; no page is in both."""
    if not len(other.pages):
        return one
    pages = np.concatenate([one.pages, other.pages])
    records = np.frombuffer(one.records + other.records, _RECORD)
    order = np.argsort(pages)
    return Entries(pages[order], records[order].tobytes(), one.text_bytes + other.text_bytes)


# --- page by page -----------------------------------------------------------------------------------


def _sought(store: Store, number: int, selector: Selector, choice: Choice, pages: Numbers) -> Entries:
    """Return the entries of some pages from their timelines."""
    found: list[int] = []
    records = bytearray()
    text_bytes = 0
    with store.view() as view:
        values = SealedReader(view)
        for page in pages.tolist():
            state = page_at(view, number, page, choice)
            if state is None or not selects(selector, state):
                continue
            edit = state.edit
            found.append(page)
            records += RECORD.pack(page, edit.rev, basis_of(values, state).leaf)
            text_bytes += edit.text_bytes
    return Entries(np.array(found, np.int64), bytes(records), text_bytes)


def _all_pages(store: Store, number: int) -> Iterator[int]:
    """Yield the pages that have edits, by id."""
    page, stop = 0, keys.edits_to(number)
    while True:
        some: list[int] = []
        with store.view() as view:
            while len(some) < _SOUGHT and (rows := view.scan(keys.edits_from(number, page), stop, limit=1)):
                some.append(keys.read_edit(rows[0][0])[0])
                page = some[-1] + 1
        yield from some
        if len(some) < _SOUGHT:
            return


# --- by columns -------------------------------------------------------------------------------------


class _Newest(NamedTuple):
    """The newest edits of pages, by page."""

    pages: Numbers
    times: Numbers
    revs: Numbers
    kinds: Numbers
    refs: Numbers
    """Where they lie in the columns."""

    def at(self, places: Mask | Numbers) -> _Newest:
        """Return some of them."""
        return _Newest(*(column[places] for column in self))

    def have(self, flag: Flag) -> Mask:
        """Say which have a flag."""
        mask: Mask = self.kinds & flag != 0
        return mask


class _Laid(NamedTuple):
    """Some edits of a part, ascending by (time, revision, order of the log)."""

    part: int
    times: Numbers
    pages: Numbers
    places: Numbers | None
    """``None`` for those from the first on."""


class _Edits(NamedTuple):
    """The current edits of pages, and what their leaves take."""

    newest: _Newest
    facts: Facts

    @property
    def pages(self) -> Numbers:
        """The pages, ascending."""
        return self.newest.pages

    def hashed(self, low: int, high: int) -> Entries:
        """Return some as entries."""
        pages, times, revs, *_ = (column[low:high] for column in self.newest)
        said = np.zeros(high - low, _ENTRY)
        said["tag"], said["pair"] = ENTRY_TAG, self.facts.pairs[low:high]
        records = np.zeros(high - low, _RECORD)
        records["page"], records["rev"], said["time"] = pages, revs, times
        said["page"], said["rev"] = pages, revs
        records["leaf"] = np.frombuffer(entry_leaves(said.tobytes()), "V32")
        return Entries(pages, records.tobytes(), int(self.facts.text_bytes[low:high].sum()))


class _Replay:
    """The columns of a project, and the events of the log behind them, as far as K.

    Raises ``ColumnsLostError`` if they are not whole, or too far behind.
    """

    def __init__(self, store: Store, number: int, choice: Choice) -> None:
        self._store = store
        self._number = number
        self._choice = choice
        self._models = Models()
        parts = find_parts(store, number)
        upto = min(covered(parts), choice.known_at)
        with store.view() as view:
            _, tally = tally_of(view, number, choice.known_at)
            _, before = tally_of(view, number, upto)
        if tally.revisions - before.revisions > _BEHIND * tally.pages:
            raise ColumnsLostError("event columns are far behind the log")
        self._pages = tally.pages
        self._parts = [part for part in parts if part.after < choice.known_at]
        self._tail: list[Numbers] = []
        self._add_tail(upto)

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
        self._parts.append(
            Part(upto, 0, after, len(times), int(times[0]), int(times[-1]), int(pages.max()), 1, holds)
        )

    def _read(self, at: int) -> Columns | list[Numbers]:
        """Return the columns of a part."""
        if self._tail and at == len(self._parts) - 1:
            return self._tail
        return read_columns(self._store, self._number, self._parts[at])

    def run(self, selector: Selector) -> tuple[_Edits, Numbers]:
        """Return the edits that the selector takes, and the pages whose timelines have to be asked."""
        newest = self._newest(self._choice.settled_at)
        asked = self._marked(newest)
        if self._choice.on_hidden is not OnHidden.KEEP:
            asked |= newest.have(Flag.TEXT_HIDDEN)
        rest = newest.pages[asked]
        if len(rest):
            newest = newest.at(~asked)
        facts = self._facts(newest)
        inferred = newest.have(Flag.TITLE_INFERRED)
        if inferred.any():
            self._put_titles(newest, facts, np.flatnonzero(inferred))
        taken = self._selected(selector, newest, facts)
        if not taken.all():
            newest, facts = newest.at(taken), facts.at(taken)
        return _Edits(newest, facts), rest

    def _newest(self, until: int) -> _Newest:
        """Return the newest edit of each page with valid time <= ``until``."""
        table = _Table(*self._slots())
        # The newest first: what they leave to the others is little.
        parts = sorted(range(len(self._parts)), key=lambda at: -self._parts[at].last_time)
        begun = [at for at in parts if self._parts[at].first_time <= until]
        for at, (columns, times, pages) in _ahead(self._read_decoded, begun):
            part = self._parts[at]
            end = int(np.searchsorted(times, until, "right"))
            places = None
            if part.upto > self._choice.known_at:
                places = np.flatnonzero(columns[Column.POSITIONS][:end] <= self._choice.known_at)
            if part.holds & Holds.OTHERS:
                are_edits = columns[Column.KINDS] >> KIND_SHIFT == Kind.EDIT
                places = np.flatnonzero(are_edits[:end]) if places is None else places[are_edits[places]]
            taken = slice(end) if places is None else places
            table.lay(columns, _Laid(at, times[taken], pages[taken], places))
        return table.found()

    def _read_decoded(self, at: int) -> tuple[Columns | list[Numbers], Numbers, Numbers]:
        columns = self._read(at)
        return columns, columns[Column.TIMES], columns[Column.PAGES]

    def _slots(self) -> tuple[int, Callable[[Numbers], Numbers], Callable[[Numbers], Numbers]]:
        """Return the size of a table of pages, the slots of pages in it, and the pages of slots."""
        last = max((part.last_page for part in self._parts), default=0)
        if last <= _SPARSE * self._pages + _SMALL_TABLE:
            return last + 1, lambda pages: pages, lambda slots: slots
        each = (np.unique(self._read(at)[Column.PAGES]) for at in range(len(self._parts)))
        known = np.unique(np.concatenate(list(each)))
        return len(known), known.searchsorted, known.take

    def _marked(self, edits: _Newest) -> Mask:
        """Say of which pages the state does not follow from the current edit, because of what was known at K.

        A move, delete or restore says something only if no edit came after it, a move also of a title that
        is inferred; a visibility change, if it is of the current revision and hidden texts are not kept.
        """
        marked = np.zeros(len(edits.pages), bool)
        for at, part in enumerate(self._parts):
            if not part.holds & Holds.OTHERS or not len(marked):
                continue
            columns = self._read(at)
            pages, times, kinds = (columns[one] for one in (Column.PAGES, Column.TIMES, Column.KINDS))
            kinds = kinds >> KIND_SHIFT
            others = (kinds != Kind.EDIT) & (columns[Column.POSITIONS] <= self._choice.known_at)
            slots = np.minimum(np.searchsorted(edits.pages, pages), len(marked) - 1)
            others &= edits.pages[slots] == pages
            late = (times > edits.times[slots]) & (times <= self._choice.valid_at)
            moved = (kinds == Kind.MOVE) & edits.have(Flag.TITLE_INFERRED)[slots]
            tells = (kinds != Kind.VISIBILITY) & (late | moved)
            if self._choice.on_hidden is not OnHidden.KEEP:
                tells |= (kinds == Kind.VISIBILITY) & (columns[Column.REVS] == edits.revs[slots])
            marked[slots[others & tells]] = True
        return marked

    def _facts(self, edits: _Newest) -> Facts:
        """Return the facts of edits, from columns where they are kept."""
        out = Facts.of(len(edits.refs))
        order = np.argsort(edits.refs)
        parts = edits.refs.take(order) >> _PART_SHIFT
        firsts = np.flatnonzero(np.diff(parts, prepend=-1))
        groups = np.split(order, firsts[1:]) if len(order) else []
        places = dict(zip(parts[firsts].tolist(), groups, strict=True))

        def read(at: int) -> Facts | list[Numbers]:
            return self._facts_of_part(at, edits.refs[places[at]] & _IN_PART)

        plain: list[Numbers] = []
        named: list[list[Numbers]] = []
        for at, some in _ahead(read, places):
            if isinstance(some, Facts):
                out.put(places[at], some)
            else:
                plain.append(places[at])
                named.append(some)
        if plain:
            mine = np.concatenate(plain)
            by_page = np.argsort(mine)
            keyed = [np.concatenate(column)[by_page] for column in zip(*named, strict=True)]
            out.put(mine[by_page], from_timelines(self._store, self._number, keyed, self._models))
        return out

    def _facts_of_part(self, at: int, places: Numbers) -> Facts | list[Numbers]:
        """Return the facts of some edits of a part, or what names them where it keeps none."""
        part = self._parts[at]
        if part.holds & Holds.FACTS:
            where = part.upto, part.number
            return from_columns(self._store, self._number, where, part.events, places, self._models)
        columns = self._read(at)
        return [columns[column][places] for column in EDIT_KEY]

    def _put_titles(self, edits: _Newest, facts: Facts, inferred: Numbers) -> None:
        """Put the titles of the newest edits known at K, of any time, to edits without one of their own."""
        newest = self._newest(_FOREVER)
        newest = newest.at(np.searchsorted(newest.pages, edits.pages[inferred]))
        other = newest.refs != edits.refs[inferred]
        titles = self._facts(newest.at(other))
        facts.namespaces[inferred[other]] = titles.namespaces
        facts.pairs[inferred[other], _TITLE] = titles.pairs[:, _TITLE]

    def _selected(self, selector: Selector, edits: _Newest, facts: Facts) -> Mask:
        """Say which edits a selector takes, as ``history.selects`` does of a page."""
        taken = np.ones(len(edits.pages), bool)
        if selector.namespaces:
            taken &= np.isin(facts.namespaces, list(selector.namespaces))
        if selector.models:
            names = self._models.names()
            taken &= np.isin(
                facts.models, [at for at, name in enumerate(names) if name.decode() in selector.models]
            )
        if selector.redirects is not Redirects.INCLUDE:
            taken &= edits.have(Flag.REDIRECT) == (selector.redirects is Redirects.ONLY)
        return taken


def _ahead(work: Callable[[int], T], items: Iterable[int]) -> Iterator[tuple[int, T]]:
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


class _Table:
    """The newest edit of each page so far, in its slot."""

    def __init__(
        self,
        size: int,
        slots: Callable[[Numbers], Numbers],
        pages: Callable[[Numbers], Numbers],
    ) -> None:
        self._slots = slots
        self._pages = pages
        self._times = np.full(size, _NO_TIME)
        self._revs, self._refs = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._kinds = np.zeros(size, np.int16)

    def lay(self, columns: Columns | list[Numbers], edits: _Laid) -> None:
        """Lay edits of a part over those before."""
        slots = self._slots(edits.pages)
        before = self._times.take(slots)  # three times as fast as by brackets
        near = np.flatnonzero(edits.times >= before)
        if not len(near):
            return
        slots, times, before = slots.take(near), edits.times.take(near), before.take(near)
        places = near if edits.places is None else edits.places.take(near)
        refs = places + (edits.part << _PART_SHIFT)
        revs, kinds = columns[Column.REVS].take(places), columns[Column.KINDS].take(places)
        same = np.flatnonzero(times == before)
        if len(same):  # of one revision too, the one that became known later counts
            rev, other = revs[same], self._revs[slots[same]]
            older = (rev < other) | ((rev == other) & (refs[same] < self._refs[slots[same]]))
            slots, times, revs, kinds, refs = (
                np.delete(column, same[older]) for column in (slots, times, revs, kinds, refs)
            )
        # Of several in one slot the last stays, and they ascend.
        self._times[slots], self._revs[slots] = times, revs
        self._kinds[slots], self._refs[slots] = kinds, refs

    def found(self) -> _Newest:
        """Return what is left."""
        slots = np.flatnonzero(self._times != _NO_TIME)
        columns = self._times, self._revs, self._kinds.astype(np.int64), self._refs
        times, revs, kinds, refs = (column.take(slots) for column in columns)
        return _Newest(self._pages(slots), times, revs, kinds, refs)
