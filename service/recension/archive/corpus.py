"""The whole corpus as of (T, K), replayed from event columns by numpy instead of page by page.

The newest edit of each page, in the order of (valid time, revision id, position), is what is left when the
parts of the columns are laid over one another. Of a page that other things than edits happened to, or whose
text is hidden, the state is asked of its timeline (``history.page_at``), and so it is of all pages where
columns are lost or far behind the log. Both ways give the same entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

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
from recension.archive.commitments import Facts, Models, from_columns, from_timelines
from recension.archive.history import Choice, page_at, selects
from recension.archive.packing import Columns, ColumnsLostError, Numbers
from recension.archive.projects import tally_of
from recension.model.manifest import OnHidden, Redirects, Selector
from recension.model.record import Flag, Kind
from recension.model.tree import ENTRY_TAG, RECORD, entry_leaf, entry_leaves
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
_TITLE = slice(0, 32)

_ENTRY = np.dtype(
    [("tag", f"S{len(ENTRY_TAG)}"), ("page", ">i8"), ("rev", ">i8"), ("time", ">i8"), ("pair", "u1", 64)]
)
"""What the leaf of an entry is the digest of."""
_RECORD = np.dtype([("page", ">i8"), ("rev", ">i8"), ("leaf", "V32")])
"""A record of a tree's lowest nodes."""

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
        for page in pages.tolist():
            state = page_at(view, number, page, choice)
            if state is None or not selects(selector, state):
                continue
            edit = state.edit
            leaf = entry_leaf(page, edit.rev, edit.time, state.title.commitment, edit.content)
            found.append(page)
            records += RECORD.pack(page, edit.rev, leaf)
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
        rest = self._marked()
        if self._choice.on_hidden is not OnHidden.KEEP:
            rest = np.union1d(rest, newest.pages[newest.have(Flag.TEXT_HIDDEN)])
        newest = newest.at(~np.isin(newest.pages, rest))
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
        for at in sorted(range(len(self._parts)), key=lambda at: -self._parts[at].last_time):
            part = self._parts[at]
            if part.first_time > until:
                continue
            columns = self._read(at)
            times = columns[Column.TIMES]
            places = np.arange(np.searchsorted(times, until, "right"))
            if part.upto > self._choice.known_at:
                places = places[columns[Column.POSITIONS][places] <= self._choice.known_at]
            if part.holds & Holds.OTHERS:
                places = places[columns[Column.KINDS][places] >> KIND_SHIFT == Kind.EDIT]
            table.lay(columns, times, places, at)
        return table.found()

    def _slots(self) -> tuple[int, Callable[[Numbers], Numbers], Callable[[Numbers], Numbers]]:
        """Return the size of a table of pages, the slots of pages in it, and the pages of slots."""
        last = max((part.last_page for part in self._parts), default=0)
        if last <= _SPARSE * self._pages + _SMALL_TABLE:
            return last + 1, lambda pages: pages, lambda slots: slots
        each = (np.unique(self._read(at)[Column.PAGES]) for at in range(len(self._parts)))
        known = np.unique(np.concatenate(list(each)))
        return len(known), known.searchsorted, known.take

    def _marked(self) -> Numbers:
        """Return the pages of events that are no edits and were known at K, ascending."""
        found = [_NONE]
        for at, part in enumerate(self._parts):
            if part.holds & Holds.OTHERS:
                columns = self._read(at)
                others = columns[Column.KINDS] >> KIND_SHIFT != Kind.EDIT
                known = columns[Column.POSITIONS] <= self._choice.known_at
                found.append(columns[Column.PAGES][others & known])
        return np.unique(np.concatenate(found))

    def _facts(self, edits: _Newest) -> Facts:
        """Return the facts of edits, from columns where they are kept."""
        out = Facts.of(len(edits.refs))
        order = np.argsort(edits.refs)
        parts, firsts = np.unique(edits.refs[order] >> _PART_SHIFT, return_index=True)
        plain: list[Numbers] = []
        named: list[list[Numbers]] = []
        groups = np.split(order, firsts[1:]) if len(order) else []
        for at, mine in zip(parts.tolist(), groups, strict=True):
            part, places = self._parts[at], edits.refs[mine] & _IN_PART
            if part.holds & Holds.FACTS:
                where = part.upto, part.number
                some = from_columns(self._store, self._number, where, part.events, places, self._models)
                out.put(mine, some)
            else:
                columns = self._read(at)
                plain.append(mine)
                named.append([columns[column][places] for column in EDIT_KEY])
        if plain:
            mine = np.concatenate(plain)
            by_page = np.argsort(mine)
            keyed = [np.concatenate(column)[by_page] for column in zip(*named, strict=True)]
            out.put(mine[by_page], from_timelines(self._store, self._number, keyed, self._models))
        return out

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
            taken &= np.isin(facts.models, [at for at, name in enumerate(names) if name in selector.models])
        if selector.redirects is not Redirects.INCLUDE:
            taken &= edits.have(Flag.REDIRECT) == (selector.redirects is Redirects.ONLY)
        return taken


class _Table:
    """The newest edit of each page so far: a row of (time, revision, kind, reference) in its slot."""

    def __init__(
        self,
        size: int,
        slots: Callable[[Numbers], Numbers],
        pages: Callable[[Numbers], Numbers],
    ) -> None:
        self._slots = slots
        self._pages = pages
        self._rows = np.zeros((size, 4), np.int64)
        self._rows[:, 0] = _NO_TIME

    def lay(self, columns: Columns | list[Numbers], times: Numbers, places: Numbers, part: int) -> None:
        """Lay the edits at some places of a part over those before."""
        slots, times = self._slots(columns[Column.PAGES][places]), times[places]
        before = self._rows[slots, 0]
        near = np.flatnonzero(times >= before)
        if not len(near):
            return
        slots, times, places, before = slots[near], times[near], places[near], before[near]
        revs, kinds = columns[Column.REVS][places], columns[Column.KINDS][places]
        rows = np.column_stack([times, revs, kinds, places + (part << _PART_SHIFT)])
        same = np.flatnonzero(times == before)
        if len(same):  # of one revision too, the one that became known later counts
            _, other, _, refs = self._rows[slots[same]].T
            _, mine, _, own = rows[same].T
            older = same[(mine < other) | ((mine == other) & (own < refs))]
            slots, rows = np.delete(slots, older), np.delete(rows, older, axis=0)
        self._rows[slots] = rows  # of several in one slot the last stays, and they ascend

    def found(self) -> _Newest:
        """Return what is left."""
        slots = np.flatnonzero(self._rows[:, 0] != _NO_TIME)
        return _Newest(self._pages(slots), *self._rows[slots].T.copy())
