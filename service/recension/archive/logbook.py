"""Upstream log entries that name a page by the title of that moment: from kept entries to events.

A log says "X was moved to Y" without a page id. Walking the log backwards from the titles known later tells
which page was called X then: below a move, the page that is called Y afterwards was called X before. An
entry whose page is not known stays kept, is counted, and is tried again after each ingest.

The walk keeps one title for each page that some entry renamed, and one batch of events; all else is looked
up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from recension.archive.history import Choice, find_revision, last_edit, page_at
from recension.archive.ingest import Ingestor
from recension.archive.projects import project_number
from recension.archive.rows import read_log_value
from recension.archive.sealed import find_sealed
from recension.model.event import Delete, Event, LogAction, Move, Restore, Visibility
from recension.model.record import Flag
from recension.model.seal import read_comment, read_contributor, read_log_entry, read_title
from recension.store import keys
from recension.store.interface import Row, Store, View

_BATCH = 256
_END_OF_TIME = 2**62


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of kept log entries."""

    resolved: int
    """Turned into events by this call."""
    already: int
    """Turned into events before."""
    unresolved: int
    """Kept; their page or revision is not known."""

    def __add__(self, other: Resolved) -> Resolved:
        return Resolved(
            self.resolved + other.resolved, self.already + other.already, self.unresolved + other.unresolved
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    log_id: int
    time: int
    action: LogAction
    flags: int
    position: int
    ordinal: int


@dataclass(slots=True)
class _Titles:
    """Which page is called what, at the moment the walk has reached."""

    number: int
    known_at: int
    view: View = field(init=False)
    moved: dict[str, int | None] = field(default_factory=dict)
    """Titles that a later entry took or freed; ``None`` when nobody has it."""
    renamed: set[int] = field(default_factory=set)
    """Pages whose current title is in ``moved``, not the one known at the end."""

    def known_form(self, title: str, time: int) -> tuple[str, int | None]:
        """Return the title as the page bears it, and that page; a log may write spaces as underscores."""
        plain = title.replace("_", " ")
        page = self.holder(title, time)
        if page is None and plain != title:
            other = self.holder(plain, time)
            if other is not None:
                return plain, other
        return title, page

    def holder(self, title: str, time: int) -> int | None:
        """Return the page called ``title`` at ``time``, if it existed by then."""
        page = self.moved[title] if title in self.moved else self._at_end(title)
        if page is None:
            return None
        start, stop = keys.edits_from(self.number, page), keys.edits_from(self.number, page, time + 1)
        return page if self.view.last(start, stop) is not None else None

    def _at_end(self, title: str) -> int | None:
        start = keys.title(self.number, title)
        for key, _ in self.view.scan(start, start[:-8] + b"\xff" * 8):
            page = int.from_bytes(key[-8:], "big")
            if page not in self.renamed and self._newest_title(page) == title:
                return page
        return None

    def _newest_title(self, page: int) -> str | None:
        """Return the title a page has at the end of what was known when the walk began."""
        state = page_at(self.view, self.number, page, Choice(_END_OF_TIME, self.known_at))
        edit = last_edit(self.view, self.number, page, _END_OF_TIME, self.known_at)
        if edit is None:
            return None
        at, ordinal, index = (
            (state.title.position, state.title.ordinal, state.title.field)
            if state is not None
            else (edit.position, edit.ordinal, 0)
        )
        title = find_sealed(self.view, at, ordinal).values[index]
        return None if title is None else read_title(title)[1]

    def undo_move(self, page: int, before: str, after: str) -> None:
        """Step back over a move: the page is called ``before`` now."""
        self.moved[after] = None
        self.moved[before] = page
        self.renamed.add(page)


def resolve(store: Store, ingestor: Ingestor, project: str) -> Resolved:
    """Turn kept log entries into events where their page is known by now. Idempotent.

    The walk sees what was known when it began, so what it appends on its way changes nothing for it.
    Durable when it returns. Run again after a kill, it appends the same batches.
    """
    with store.view() as view:
        number, known_at = project_number(view, project), view.head().position
    titles = _Titles(number, known_at)
    restored: set[int] = set()
    total = Resolved(0, 0, 0)
    events: list[Event] = []
    for same_time in _backwards(store, number):
        with store.view() as titles.view:
            found = [list(_events(titles, project, entry, restored)) for entry in same_time]
        total += Resolved(0, 0, sum(not of_entry for of_entry in found))
        # Backwards, but entries of one instant stay in one batch and in their order.
        events = [event for of_entry in reversed(found) for event in of_entry] + events
        if len(events) >= _BATCH:
            total += _append(ingestor, project, events)
            events = []
    return total + _append(ingestor, project, events)


def _append(ingestor: Ingestor, project: str, events: list[Event]) -> Resolved:
    appended = ingestor.append(project, events)
    return Resolved(appended.accepted, appended.known, len(appended.rejected))


def _backwards(store: Store, number: int) -> Iterator[list[_Kept]]:
    """Yield the kept entries of each instant, newest first, in each the greatest log id first."""
    group: list[_Kept] = []
    start, stop = keys.log_entries(number)
    while True:
        with store.view() as view:
            rows = list(_last_rows(view, start, stop))
        for row in rows:
            entry = _kept(row)
            if group and group[0].time != entry.time:
                yield sorted(group, key=lambda entry: -entry.log_id)
                group = []
            group.append(entry)
        if not rows:
            break
        stop = rows[-1][0]
    if group:
        yield sorted(group, key=lambda entry: -entry.log_id)


def _last_rows(view: View, start: bytes, stop: bytes) -> Iterator[Row]:
    """Yield the last rows of a range, backwards."""
    for _ in range(_BATCH):
        row = view.last(start, stop)
        if row is None:
            return
        yield row
        stop = row[0]


def _kept(row: Row) -> _Kept:
    time, position, ordinal = keys.read_log_entry(row[0])
    action, log_id, flags = read_log_value(row[1])
    return _Kept(log_id, time, LogAction(action), flags, position, ordinal)


def _events(titles: _Titles, project: str, entry: _Kept, restored: set[int]) -> Iterator[Event]:
    sealed = find_sealed(titles.view, entry.position, entry.ordinal)
    namespace, title = read_title(sealed.value(0))
    to_namespace, to_title, rev_ids = read_log_entry(sealed.value(1))
    contributor, comment = read_contributor(sealed.value(2)), read_comment(sealed.value(3))
    source = f"logbook:{entry.log_id}"
    if entry.action is LogAction.VISIBILITY:
        for rev_id in rev_ids:
            edit = find_revision(titles.view, titles.number, rev_id, titles.known_at)
            if edit is not None:
                change = Visibility(
                    rev_id,
                    bool(entry.flags & Flag.TEXT_HIDDEN),
                    bool(entry.flags & Flag.COMMENT_HIDDEN),
                    bool(entry.flags & Flag.CONTRIBUTOR_HIDDEN),
                    contributor,
                    comment,
                )
                yield Event(project, edit.page, entry.time, f"{source}:{rev_id}", change)
        return
    if entry.action is LogAction.MOVE:
        stated, (to_title, page) = to_title, titles.known_form(to_title, entry.time)
        title = title if to_title == stated else title.replace("_", " ")
        if page is not None:
            titles.undo_move(page, title, to_title)
            move = Move(title, namespace, to_title, to_namespace, contributor, comment)
            yield Event(project, page, entry.time, source, move)
        return
    title, page = titles.known_form(title, entry.time)
    if page is None:
        return
    if entry.action is LogAction.RESTORE:
        restored.add(page)
        yield Event(project, page, entry.time, source, Restore(title, namespace, contributor, comment))
    elif entry.action is LogAction.DELETE and (page in restored or _ended(titles, page, entry.time)):
        restored.discard(page)
        yield Event(project, page, entry.time, source, Delete(title, namespace, contributor, comment))


def _ended(titles: _Titles, page: int, time: int) -> bool:
    """Say whether a page has no edit after ``time``: a deletion then can be its own.

    A page that goes on without a restore was not the one deleted: its title was taken from another.
    """
    newest = last_edit(titles.view, titles.number, page, _END_OF_TIME, titles.known_at)
    return newest is not None and newest.time <= time
