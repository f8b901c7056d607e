"""The whole corpus as of (T, K), replayed from event columns by numpy instead of page by page.

The newest edit of each page, in the order of (valid time, revision id, position), is what is left when the
parts of the columns are laid over one another. Of a page whose state more than edits have made, as a delete
behind the last of them, it is asked of the timeline (``history.page_at``), and so it is of all pages where
columns are lost or far behind the log. Both ways give the same entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recension.archive.columns import EDIT_KEY, Holds
from recension.archive.commitments import Facts, Models, basis_of, from_columns, from_timelines
from recension.archive.folding import FOREVER, Fold, Mask, Newest, Span, ahead
from recension.archive.history import Choice, page_at, selects
from recension.archive.packing import ColumnsLostError, Numbers
from recension.archive.sealed import SealedReader
from recension.archive.stages import Mark
from recension.model.manifest import OnHidden, Redirects, Selector
from recension.model.record import Flag
from recension.model.tree import ENTRY_TAG, RECORD, entry_leaves
from recension.store import keys
from recension.store.interface import Store

_NONE = np.zeros(0, np.int64)
_SLICE = 16_384
"""Pages of one step: some 10 ms, or 400 where all are sought."""
_SOUGHT = 4096
_TITLE = slice(0, 32)

_ENTRY = np.dtype(
    [("tag", f"S{len(ENTRY_TAG)}"), ("page", ">i8"), ("rev", ">i8"), ("time", ">i8"), ("pair", "u1", 64)]
)
"""What the leaf of an entry is the digest of."""
_RECORD = np.dtype([("page", ">i8"), ("rev", ">i8"), ("leaf", "V32")])
"""A record of a tree's lowest nodes."""


class Entries(NamedTuple):
    """Some entries of a project's share of a snapshot, by page id."""

    pages: Numbers
    records: bytes
    """Those of the tree, one behind the other."""
    text_bytes: int


def entries_at(store: Store, number: int, selector: Selector, choice: Choice) -> Iterator[Entries]:
    """Yield the entries that a selector takes as of (T, K), by page id, some at a time.

    Takes some 300 bytes of memory a page, of two million pages at most. Raises ``DataLossError``.
    """
    try:
        replay = _Replay(store, number, choice)
    except ColumnsLostError:
        yield from _slices(store, number, selector, choice, None, _all_pages(store, number, 0, keys.END))
        return
    for span in replay.spans:
        yield from _slices(store, number, selector, choice, *replay.run(span, selector))


def _slices(
    store: Store, number: int, selector: Selector, choice: Choice, edits: _Edits | None, rest: Numbers
) -> Iterator[Entries]:
    """Yield the entries of current edits, and those of the pages whose timelines have to be asked."""
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


def _all_pages(store: Store, number: int, low: int, high: int) -> Numbers:
    """Return the pages with ``low <= page < high`` that have edits, ascending."""
    found: list[int] = []
    start, stop = low, keys.edits_to(number) if high >= keys.END else keys.edits_from(number, high)
    while True:
        with store.view() as view:
            for _ in range(_SOUGHT):
                rows = view.scan(keys.edits_from(number, start), stop, limit=1)
                if not rows:
                    return np.array(found, np.int64)
                found.append(keys.read_edit(rows[0][0])[0])
                start = found[-1] + 1


# --- by columns -------------------------------------------------------------------------------------


class _Edits(NamedTuple):
    """The current edits of pages, and what their leaves take."""

    newest: Newest
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
    """The current edits of pages, with what their leaves take. Raises as ``Fold`` does."""

    def __init__(self, store: Store, number: int, choice: Choice) -> None:
        self._store = store
        self._number = number
        self._choice = choice
        self._models = Models()
        self._fold = Fold(store, number, choice)
        self.spans = self._fold.spans()

    def run(self, span: Span, selector: Selector) -> tuple[_Edits | None, Numbers]:
        """Return the edits of some pages that the selector takes, and the pages to ask the timelines of."""
        try:
            return self._run(span, selector)
        except ColumnsLostError:
            return None, _all_pages(self._store, self._number, span.low, span.high)

    def _run(self, span: Span, selector: Selector) -> tuple[_Edits, Numbers]:
        newest = self._fold.current(span)
        asked = self._asked(newest)
        rest = newest.pages[asked]
        if len(rest):
            newest = newest.at(~asked)
        facts = self._facts(newest)
        inferred = newest.have(Flag.TITLE_INFERRED)
        if inferred.any():
            self._put_titles(span, newest, facts, np.flatnonzero(inferred))
        taken = self._selected(selector, newest, facts)
        if not taken.all():
            newest, facts = newest.at(taken), facts.at(taken)
        return _Edits(newest, facts), rest

    def _asked(self, edits: Newest) -> Mask:
        """Say of which pages the state does not follow from the current edit alone.

        A move says something of an edit with a title of its own only if no edit came after it; hidden texts
        say something unless they are kept.
        """
        asked = edits.marked(Mark.LATE) | (edits.marked(Mark.MOVED) & edits.have(Flag.TITLE_INFERRED))
        if self._choice.on_hidden is not OnHidden.KEEP:
            asked |= edits.marked(Mark.JUDGED) | edits.have(Flag.TEXT_HIDDEN)
        return asked

    def _facts(self, edits: Newest) -> Facts:
        """Return the facts of edits, from columns where they are kept."""
        out = Facts.of(len(edits.refs))
        found = {part: (mine, places) for part, mine, places in self._fold.places(edits.refs)}

        def read(part: int) -> Facts | list[Numbers]:
            return self._facts_of_part(part, found[part][1])

        plain: list[Numbers] = []
        named: list[list[Numbers]] = []
        for part, some in ahead(read, found):
            mine, _ = found[part]
            if isinstance(some, Facts):
                out.put(mine, some)
            else:
                plain.append(mine)
                named.append(some)
        if plain:
            all_ = np.concatenate(plain)
            by_page = np.argsort(all_)
            keyed = [np.concatenate(column)[by_page] for column in zip(*named, strict=True)]
            out.put(all_[by_page], from_timelines(self._store, self._number, keyed, self._models))
        return out

    def _facts_of_part(self, at: int, places: Numbers) -> Facts | list[Numbers]:
        """Return the facts of some edits of a part, or what names them where it keeps none."""
        part = self._fold.parts[at]
        if part.holds & Holds.FACTS:
            where = part.upto, part.number
            return from_columns(self._store, self._number, where, part.events, places, self._models)
        columns = self._fold.read(at)
        return [columns[column][places] for column in EDIT_KEY]

    def _put_titles(self, span: Span, edits: Newest, facts: Facts, inferred: Numbers) -> None:
        """Put the titles of the newest edits known at K, of any time, to edits without one of their own."""
        newest = self._fold.newest(span, FOREVER)
        newest = newest.at(np.searchsorted(newest.pages, edits.pages[inferred]))
        other = newest.refs != edits.refs[inferred]
        titles = self._facts(newest.at(other))
        facts.namespaces[inferred[other]] = titles.namespaces
        facts.pairs[inferred[other], _TITLE] = titles.pairs[:, _TITLE]

    def _selected(self, selector: Selector, edits: Newest, facts: Facts) -> Mask:
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
