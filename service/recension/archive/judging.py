"""From what an event stream tells to events, whatever the order in which it tells it.

A stream of Wikimedia tells what happened, most of it once and in order; some of it late, again, or from
another data centre. What is keyed by its own time may come in any order: edits, moves, deletes, restores. Two
things may not, so they are judged by what is known:

- What is hidden of a revision follows from the newest statement, by the time at which upstream made it: an
  older one that comes late changes nothing, and of two of one instant what either hides is hidden.
- A delete that was suppressed hides all revisions of its page, also those that come late. The restore behind
  it shows all of them, as upstream does it, if it shows the page's newest revision; else they stay hidden.

A change of a page or of a revision that is not known yet is to wait (``must_wait``), for what it is about may
be on its way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from recension.archive.history import edit_row, find_revision, marks_of
from recension.archive.projects import project_number
from recension.archive.rows import HIDDEN, EditRow, read_visibility
from recension.archive.sealed import find_sealed
from recension.model.event import (
    NO_COMMENT,
    NOBODY,
    Delete,
    Edit,
    Event,
    Happening,
    Move,
    Presence,
    Restore,
    Visibility,
)
from recension.model.record import Flag, Kind, source_key
from recension.model.seal import COMMENT, CONTRIBUTOR, FIELDS
from recension.sources.page_change import Change, Complete, happened_event
from recension.store import keys
from recension.store.interface import Store, View

_CONTRIBUTOR = FIELDS[Delete].index(CONTRIBUTOR)
_COMMENT = FIELDS[Delete].index(COMMENT)
_HIDDEN_VALUE = bytes([Presence.HIDDEN])
_SLICE = 4096
_ASKED = ":asked"
"""Behind the source id of what upstream said when it was asked."""


@dataclass(slots=True)
class Judged:
    """What becomes of changes."""

    events: list[Event] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    """Of each event, the document that it follows from."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Of which nothing follows, for a summary."""


class _Statement(NamedTuple):
    time: int
    flags: int


@dataclass(slots=True)
class _Page:
    """What is known of a page: what lies in the store, and what the batch adds to it."""

    marks: list[tuple[int, Kind, bool]] = field(default_factory=list)
    """(time, kind, whether nobody was named): of deletes and restores, in the order of their times."""
    moves: set[int] = field(default_factory=set)
    """Times."""
    shows: set[int] = field(default_factory=set)
    """Times of restores in this batch that show what was suppressed."""
    edits: dict[int, int] = field(default_factory=dict)
    """Time by revision, of this batch."""


class Judge:
    """Judges the changes of one batch, in their order."""

    def __init__(self, view: View, project: str) -> None:
        """``view``: of the store before the batch."""
        self._view = view
        self._project = project
        self._number = project_number(view, project)
        self._pages: dict[int, _Page] = {}
        self._known: set[int] = set()
        self._said: dict[int, _Statement] = {}
        """The newest statement of each revision, as this batch leaves it."""
        self.judged = Judged()

    def hear(self, complete: Complete) -> None:
        """Take one change."""
        self._hear(complete)
        judged = self.judged
        judged.records += [complete.record] * (len(judged.events) - len(judged.records))

    def _hear(self, complete: Complete) -> None:
        change, edit, hides, _ = complete
        gained = edit is not None and change.revision is not None and self._time_of(change) is not None
        if edit is not None and not gained:
            self._edit(edit)
        match change.happened:
            case None:
                pass
            case Visibility() as stated:
                self._visibility(change, stated)
            case Restore():
                self._restore(change)
            case Delete():
                self._delete(change)
            case Move():
                self._move(change)
        if hides is not None:
            self._state(change, hides.rev_id, _flags_of(hides), asked=True)
        if edit is not None and gained:
            self.judged.events.append(edit)  # a text that was hidden comes back behind what shows it

    # --- one kind each ----------------------------------------------------------------------------

    def _edit(self, event: Event) -> None:
        edit = event.what
        assert isinstance(edit, Edit)  # noqa: S101 - what ``edit_of`` makes
        self.judged.events.append(event)
        self._known.add(event.page_id)
        self._page(event.page_id).edits[edit.rev_id] = event.time
        self._settle(event.page_id, edit.rev_id)

    def _move(self, change: Change) -> None:
        page = self._page(change.page_id)
        if change.time in page.moves:
            self.judged.ignored["told before"] += 1
        else:
            page.moves.add(change.time)
            self.judged.events.append(happened_event(change))

    def _delete(self, change: Change) -> None:
        if not self._knows_page(change.page_id):
            self.judged.ignored["delete of a page that is not known"] += 1
            return
        page = self._page(change.page_id)
        if any(mark[:2] == (change.time, Kind.DELETE) for mark in page.marks):
            self.judged.ignored["told before"] += 1
            return
        self._add_mark(change, Kind.DELETE, happened_event(change))
        if change.suppresses:
            self._settle_all(change.page_id)

    def _restore(self, change: Change) -> None:
        page, revision = self._page(change.page_id), change.revision
        event = happened_event(change)
        if revision is None:
            if any(mark[:2] == (change.time, Kind.RESTORE) for mark in page.marks):
                self.judged.ignored["told before"] += 1
            else:
                self._add_mark(change, Kind.RESTORE, event)
            return
        flags = (
            revision.text_hidden * Flag.TEXT_HIDDEN
            | (revision.comment.presence is Presence.HIDDEN) * Flag.COMMENT_HIDDEN
            | (revision.contributor.presence is Presence.HIDDEN) * Flag.CONTRIBUTOR_HIDDEN
        )
        name = _restore_name(change.page_id, change.time, shows=not flags)
        if self._has_source(name) or (not flags and change.time in page.shows):
            self.judged.ignored["told before"] += 1
            return
        if not flags:
            page.shows.add(change.time)
        self._add_mark(change, Kind.RESTORE, replace(event, source_id=name))
        if self._time_of(change) is not None:
            self._state(change, revision.rev_id, flags)
        self._settle_all(change.page_id)

    def _add_mark(self, change: Change, kind: Kind, event: Event) -> None:
        page = self._page(change.page_id)
        page.marks.append((change.time, kind, change.suppresses))
        page.marks.sort(key=lambda mark: mark[0])
        self.judged.events.append(event)

    def _visibility(self, change: Change, stated: Visibility) -> None:
        if self._time_of(change) is None:
            self.judged.events.append(happened_event(change))  # it is refused, with a reason
            return
        self._state(change, stated.rev_id, _flags_of(stated))

    # --- what is hidden ---------------------------------------------------------------------------

    def _state(self, change: Change, rev_id: int, flags: int, *, asked: bool = False) -> None:
        """Take what a change says of one revision, unless something newer is known.

        ``asked``: upstream said it when it was asked, not its document; it is of the document's time all the
        same, since nobody knows when it happened, and whatever is told later is to count.
        """
        stated = _Statement(change.time, flags)
        last, of_page = self._last(rev_id), self._of_page(change.page_id, rev_id)
        newest = max((one for one in (last, of_page) if one is not None), default=None)
        if newest is not None and newest.time > stated.time:
            self.judged.ignored["older than what is known"] += 1
            return
        if newest is not None and newest.time == stated.time:
            stated = _Statement(stated.time, flags | newest.flags)
        if last == stated:
            self.judged.ignored["told before"] += 1
            return
        source_id = f"{change.source_id}:{rev_id}{_ASKED if asked else ''}"
        self._say(change.page_id, rev_id, stated, source_id, None if asked else change.happened)

    def _settle(self, page_id: int, rev_id: int) -> None:
        """Hide or show a revision as its page was, unless something newer was said of it."""
        of_page, last = self._of_page(page_id, rev_id), self._last(rev_id)
        if of_page is None or (last is not None and last.time > of_page.time):
            return
        flags = of_page.flags if last is None or last.time < of_page.time else of_page.flags | last.flags
        stated = _Statement(of_page.time, flags)
        if last != stated:
            self._say(page_id, rev_id, stated, f"eventstreams:page:{of_page.time}:{flags}:{rev_id}")

    def _settle_all(self, page_id: int) -> None:
        if any(nobody for _, _, nobody in self._page(page_id).marks):
            for rev_id in self._revisions(page_id):
                self._settle(page_id, rev_id)

    def _say(
        self, page_id: int, rev_id: int, stated: _Statement, source_id: str, happened: Happening | None = None
    ) -> None:
        self._said[rev_id] = stated
        who = happened if isinstance(happened, Visibility) else None
        change = Visibility(
            rev_id,
            text_hidden=bool(stated.flags & Flag.TEXT_HIDDEN),
            comment_hidden=bool(stated.flags & Flag.COMMENT_HIDDEN),
            contributor_hidden=bool(stated.flags & Flag.CONTRIBUTOR_HIDDEN),
            contributor=NOBODY if who is None else who.contributor,
            comment=NO_COMMENT if who is None else who.comment,
        )
        self.judged.events.append(Event(self._project, page_id, stated.time, source_id, change))

    def _last(self, rev_id: int) -> _Statement | None:
        """Return the newest statement of a revision that is stored, or was made here."""
        if rev_id in self._said:
            return self._said[rev_id]
        row = self._view.last(
            keys.visibility(self._number, rev_id), keys.visibility(self._number, rev_id + 1)
        )
        if row is None:
            return None
        flags, _, _, time = read_visibility(row[1])
        return _Statement(time, flags)

    def _of_page(self, page_id: int, rev_id: int) -> _Statement | None:
        """Return the newest statement of all revisions of a page at once, as far as it is about this one."""
        page, came = self._page(page_id), self._time(page_id, rev_id)
        if came is None:
            return None
        stated, suppressed = None, False
        for time, kind, nobody in page.marks:
            if kind is Kind.DELETE:
                suppressed = nobody
                if nobody and time >= came:
                    stated = _Statement(time, HIDDEN)
            elif kind is Kind.RESTORE and suppressed and self._shows(page_id, time):
                suppressed = False
                stated = _Statement(time, 0) if time >= came else stated
        return stated

    def _shows(self, page_id: int, time: int) -> bool:
        """Say whether a restore showed what was suppressed."""
        return time in self._page(page_id).shows or self._has_source(_restore_name(page_id, time, shows=True))

    def _has_source(self, name: str) -> bool:
        return self._view.get(keys.source(self._number, source_key(self._project, name))) is not None

    # --- what is known ----------------------------------------------------------------------------

    def _page(self, page_id: int) -> _Page:
        page = self._pages.get(page_id)
        if page is None:
            page = self._pages[page_id] = self._read_page(page_id)
        return page

    def _read_page(self, page_id: int) -> _Page:
        page = _Page()
        for mark in marks_of(self._view, self._number, page_id, self._view.head().position):
            if mark.kind is Kind.MOVE:
                page.moves.add(mark.time)
                continue
            sealed = find_sealed(self._view, mark.position, mark.ordinal).values
            nobody = sealed[_CONTRIBUTOR] == sealed[_COMMENT] == _HIDDEN_VALUE
            page.marks.append((mark.time, mark.kind, nobody and mark.kind is Kind.DELETE))
        return page

    def _knows_page(self, page_id: int) -> bool:
        if page_id not in self._known:
            start, stop = keys.edits_from(self._number, page_id), keys.edits_from(self._number, page_id + 1)
            if self._view.last(start, stop) is None:
                return False
            self._known.add(page_id)
        return True

    def _time_of(self, change: Change) -> int | None:
        """Return when the revision of a change came to be, ``None`` where it is not known of that page."""
        return self._time(change.page_id, change.rev_id)

    def _time(self, page_id: int, rev_id: int) -> int | None:
        came = self._page(page_id).edits.get(rev_id)
        if came is not None:
            return came
        edit = find_revision(self._view, self._number, rev_id, self._view.head().position)
        return None if edit is None or edit.page != page_id else edit.time

    def _revisions(self, page_id: int) -> list[int]:
        """Return the revisions of a page, in the order of their times."""
        found: list[EditRow] = []
        start, stop = keys.edits_from(self._number, page_id), keys.edits_from(self._number, page_id + 1)
        while rows := self._view.scan(start, stop, limit=_SLICE):
            found += map(edit_row, rows)
            start = rows[-1][0] + b"\0"
        times = {edit.rev: edit.time for edit in found}
        times |= self._page(page_id).edits
        return sorted(times, key=lambda rev_id: (times[rev_id], rev_id))


def judge_changes(store: Store, project: str, changes: Sequence[Complete]) -> Judged:
    """Return what follows from changes, in their order."""
    with store.view() as view:
        judge = Judge(view, project)
        for complete in changes:
            judge.hear(complete)
    return judge.judged


def must_wait(view: View, number: int, change: Change) -> bool:
    """Say whether what happened, did so to a page or a revision that is not known."""
    if change.happened is None:
        return False
    if isinstance(change.happened, Visibility | Restore) and change.rev_id:
        return find_revision(view, number, change.rev_id, view.head().position) is None
    start, stop = keys.edits_from(number, change.page_id), keys.edits_from(number, change.page_id + 1)
    return view.last(start, stop) is None


def lacks_text(view: View, number: int, change: Change) -> bool:
    """Say whether the revision of a change is not known, or was hidden when it came and is shown by now."""
    revision = change.revision
    if revision is None or isinstance(change.happened, Delete):
        return False
    edit = find_revision(view, number, revision.rev_id, view.head().position)
    if edit is None:
        return True
    # An edit that says so again is older than what has hidden it; only what shows it brings the text back.
    return bool(edit.flags & Flag.TEXT_HIDDEN) and not revision.text_hidden and change.happened is not None


def _flags_of(stated: Visibility) -> int:
    return (
        stated.text_hidden * Flag.TEXT_HIDDEN
        | stated.comment_hidden * Flag.COMMENT_HIDDEN
        | stated.contributor_hidden * Flag.CONTRIBUTOR_HIDDEN
    )


def _restore_name(page_id: int, time: int, *, shows: bool) -> str:
    """Return the source id of a restore: it says for ever whether the restore showed what was suppressed."""
    return f"eventstreams:{'shows' if shows else 'keeps'}:{page_id}:{time}"
