"""What a complete dump no longer has: pages, and revisions of the pages that it has.

A dump tells what there was on one day. What is known from before that day and is not in it was taken away in
between, and nothing else says when; so it becomes events of the dump's own time:

- A page without any revision in the dump was deleted; one that was known as deleted, and is there, is back.
- A revision that is missing while its page is there was deleted from it: text, comment and contributor are
  hidden. Only a history says that; a dump of newest revisions lacks older ones by design.

What is not a sign of anything, and is left as it is: whatever is dated at or behind the dump's time; a
revision above all ids of the dump that did not come with a dump, since an import may have brought it later
with an old date; pages of namespaces that the dump leaves out; a revision that the dump has under another
page, as after a merge of histories: here a revision keeps its first page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby

from recension.archive.history import edit_row, hidden_flags, is_deleted, last_edit, marks_of, title_at
from recension.archive.projects import project_number
from recension.archive.rows import HIDDEN, EditRow, MarkRow
from recension.archive.sealed import find_sealed
from recension.model.event import NO_COMMENT, NOBODY, Delete, Event, Happening, Restore, Visibility
from recension.model.instant import format_instant
from recension.model.record import Flag, Kind, Skeleton
from recension.model.seal import read_title
from recension.store import keys
from recension.store.interface import Store, View

_SLICE = 4096
_CHUNK_BITS = 13
_TALK = 1
_USER = 2


class Extent(Enum):
    """Which part of a wiki a complete dump has."""

    HISTORY = "history"
    """All revisions of all pages."""
    CURRENT = "current"
    """The newest revision of all pages."""
    ARTICLES = "articles"
    """The same without talk pages and those of users."""

    def covers(self, namespace: int) -> bool:
        """Whether pages of a namespace are in it."""
        return self is not Extent.ARTICLES or not (namespace % 2 == _TALK or namespace == _USER)


class Ids:
    """A set of ids, a bit for each where they lie close together: 200 MB hold those of the largest wiki."""

    def __init__(self) -> None:
        """An empty set."""
        self._chunks: dict[int, bytearray] = {}

    def add(self, number: int) -> bool:
        """Put an id in; whether it is new."""
        chunk = self._chunks.get(number >> _CHUNK_BITS)
        if chunk is None:
            chunk = self._chunks[number >> _CHUNK_BITS] = bytearray(1 << (_CHUNK_BITS - 3))
        byte, bit = (number >> 3) & ((1 << (_CHUNK_BITS - 3)) - 1), 1 << (number & 7)
        if chunk[byte] & bit:
            return False
        chunk[byte] |= bit
        return True

    def __contains__(self, number: int) -> bool:
        """Whether an id is in."""
        chunk = self._chunks.get(number >> _CHUNK_BITS)
        byte = (number >> 3) & ((1 << (_CHUNK_BITS - 3)) - 1)
        return chunk is not None and bool(chunk[byte] & (1 << (number & 7)))


@dataclass(slots=True)
class Roll:
    """The pages and revisions that a dump has."""

    pages: Ids = field(default_factory=Ids)
    revisions: Ids = field(default_factory=Ids)
    greatest: int = 0
    """Largest id of a revision."""
    several: bool = False
    """Whether a page has more than one revision: a dump of newest revisions has no such page."""

    def see(self, edit: Skeleton) -> None:
        """Note an edit."""
        if not self.revisions.add(edit.rev_id):
            return
        self.several |= not self.pages.add(edit.page_id)
        self.greatest = max(self.greatest, edit.rev_id)


def vanished(store: Store, project: str, roll: Roll, extent: Extent, made_at: int) -> Iterator[Event]:
    """Yield what follows from what a dump of ``made_at`` does not have, page by page.

    To say it again yields nothing new. Views are short, so the events may be appended meanwhile. Raises
    ``DataLossError``.
    """
    with store.view() as view:
        number = project_number(view, project)
    for page, edits in groupby(_edits(store, number), lambda edit: edit.page):
        there, missing = _compare(edits, roll, made_at)
        if page in roll.pages or there or missing:
            with store.view() as view:
                seen = _Page(view, number, project, page, made_at, extent)
                yield from seen.events(page in roll.pages, there, missing)


def _edits(store: Store, number: int) -> Iterator[EditRow]:
    start, stop = keys.edits_from(number, 0), keys.edits_to(number)
    while True:
        with store.view() as view:
            rows = view.scan(start, stop, limit=_SLICE)
        yield from map(edit_row, rows)
        if len(rows) < _SLICE:
            return
        start = rows[-1][0] + b"\0"


def _compare(edits: Iterator[EditRow], roll: Roll, made_at: int) -> tuple[bool, dict[int, EditRow]]:
    """Return whether the dump has any of a page's revisions, and those it should have and has not."""
    there = False
    missing: dict[int, EditRow] = {}
    for edit in edits:
        if edit.rev in roll.revisions:
            there = True
        elif edit.time < made_at and (edit.rev <= roll.greatest or edit.flags & Flag.TITLE_INFERRED):
            missing[edit.rev] = edit
    return there, missing


class _Page:
    """A page as it is known at the time of the dump."""

    def __init__(
        self, view: View, number: int, project: str, page: int, made_at: int, extent: Extent
    ) -> None:
        self._view, self._number, self._project = view, number, project
        self._page, self._made_at, self._extent = page, made_at, extent
        self._known_at = view.head().position

    def events(self, listed: bool, there: bool, missing: dict[int, EditRow]) -> Iterator[Event]:  # noqa: FBT001
        """Yield what follows; ``listed``: the dump has the page, ``there``: it has a revision of it."""
        marks = marks_of(self._view, self._number, self._page, self._known_at)
        if not (listed or there):
            yield from self._gone(marks)
            return
        if listed and marks:
            yield from self._back(marks)
        if self._extent is Extent.HISTORY:
            for rev, edit in missing.items():
                if hidden_flags(self._view, self._number, rev, edit.hidden, self._known_at) != HIDDEN:
                    change = Visibility(rev, text_hidden=True, comment_hidden=True, contributor_hidden=True)
                    yield self._event(f"hide:{rev}", change)

    def _gone(self, marks: list[MarkRow]) -> Iterator[Event]:
        newest = self._newest()
        # A later delete is what took it away: a dump is of its day or of some days after it.
        later = any(mark.kind is Kind.DELETE and mark.time >= self._made_at for mark in marks)
        if newest is None or later or is_deleted(marks, newest, self._made_at):
            return
        named = self._title(marks, newest)
        if named is not None and self._extent.covers(named[0]):
            yield self._event("delete", Delete(named[1], named[0], NOBODY, NO_COMMENT))

    def _back(self, marks: list[MarkRow]) -> Iterator[Event]:
        newest = self._newest()
        before = [mark for mark in marks if mark.time < self._made_at]
        # A delete of the very time of the dump is what another dump of that day did not have.
        if newest is None or not all(is_deleted(some, newest, self._made_at) for some in (marks, before)):
            return
        named = self._title(marks, newest)
        if named is not None:
            yield self._event("restore", Restore(named[1], named[0], NOBODY, NO_COMMENT))

    def _newest(self) -> EditRow | None:
        return last_edit(self._view, self._number, self._page, self._made_at, self._known_at)

    def _title(self, marks: list[MarkRow], newest: EditRow) -> tuple[int, str] | None:
        """Return namespace and title; ``None`` if it was erased, and then the page is withdrawn anyway."""
        source = title_at(marks, newest, newest, self._made_at)
        value = find_sealed(self._view, source.position, source.ordinal).values[source.field]
        return None if value is None else read_title(value)

    def _event(self, what: str, happening: Happening) -> Event:
        source = f"complete:{format_instant(self._made_at)}:{self._page}:{what}"
        return Event(self._project, self._page, self._made_at, source, happening)
