"""One page as of (T, K): the rules of DESIGN section 2, read from the timelines by seeks.

Events fold in the order of (valid time, revision id, position). Moves, deletes and restores carry no
revision id and so come before an edit of the same instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recension.archive.rows import (
    EditRow,
    MarkRow,
    read_edit_value,
    read_mark_row,
    read_page_value,
    read_visibility,
)
from recension.archive.sealed import CONTENT_FIELD, find_sealed
from recension.model.manifest import AsOf, OnHidden, Redirects, Selector
from recension.model.record import Flag, Kind
from recension.model.seal import FROM_TITLE, TITLE, read_content, read_title
from recension.store import keys
from recension.store.interface import Row, View

_MICROSECONDS = 1_000_000
_LONGEST_AGE_SECONDS = 10_000 * 366 * 86_400
"""Of any revision at any time that is allowed; a greater age asks for the same: nothing."""
_SLICE = 4096


class TitleSource(NamedTuple):
    """Which event gave a title, and how it sealed it."""

    position: int
    ordinal: int
    label: bytes
    field: int
    """Index of the field among the event's sealed values."""
    namespace: int
    inferred: bool


class State(NamedTuple):
    """A page as of (T, K): its current revision and what names it."""

    edit: EditRow
    title: TitleSource


class Choice(NamedTuple):
    """What a query takes of a page's history."""

    valid_at: int
    known_at: int
    min_age_seconds: int = 0
    on_hidden: OnHidden = OnHidden.KEEP

    @property
    def settled_at(self) -> int:
        """Newest instant of a revision that is old enough."""
        return self.valid_at - self.min_age_seconds * _MICROSECONDS


def choice_of(selector: Selector, as_of: AsOf) -> Choice:
    """Return what a snapshot takes of a page's history."""
    age = min(selector.min_age_seconds, _LONGEST_AGE_SECONDS)
    return Choice(as_of.valid_at, as_of.known_at, age, selector.on_hidden)


def edit_row(row: Row) -> EditRow:
    """Read an edit row."""
    page, time, rev, position, ordinal = keys.read_edit(row[0])
    return EditRow(page, time, rev, position, ordinal, *read_edit_value(row[1]))


def marks_of(view: View, number: int, page: int, known_at: int) -> list[MarkRow]:
    """Return a page's moves, deletes and restores known at K, by (valid time, position)."""
    out = []
    for key, value in view.scan(keys.marks_from(number, page), keys.marks_from(number, page + 1)):
        _, time, position, ordinal = keys.read_mark(key)
        if position <= known_at:
            out.append(read_mark_row(time, position, ordinal, value))
    return out


def last_edit(view: View, number: int, page: int, until: int, known_at: int) -> EditRow | None:
    """Return the newest edit with valid time <= ``until`` that was known at K."""
    start, stop = keys.edits_from(number, page), keys.edits_from(number, page, until + 1)
    while True:
        row = view.last(start, stop)
        if row is None:
            return None
        edit = edit_row(row)
        if edit.position <= known_at:
            return edit
        stop = row[0]


def hidden_flags(view: View, number: int, rev: int, own: int, known_at: int) -> int:
    """Return what is hidden of a revision, as learned up to a position (DESIGN 2, rule 4).

    ``own`` is what was hidden of it as its edit came.
    """
    row = view.last(keys.visibility(number, rev), keys.visibility(number, rev, known_at + 1))
    return own if row is None else read_visibility(row[1])[0]


def any_hidden(view: View, number: int) -> bool:
    """Say whether a visibility change of a project is known."""
    return bool(view.scan(keys.visibility(number, 0), keys.visibility(number + 1, 0), limit=1))


def is_deleted(marks: Sequence[MarkRow], newest: EditRow, valid_at: int) -> bool:
    """Say whether the page is deleted at T: the last delete or restore is a delete, and no edit followed.

    An edit after a delete shows that the page came back, whether or not its restore is known.
    """
    last = None
    for mark in marks:
        if mark.time <= valid_at and mark.kind in (Kind.DELETE, Kind.RESTORE):
            last = mark
    return last is not None and last.kind is Kind.DELETE and newest.time < last.time


def title_at(marks: Sequence[MarkRow], current: EditRow, newest: EditRow, valid_at: int) -> TitleSource:
    """Return what names the page at T (DESIGN 2, rule 2).

    The last exact statement at or before T: a move's new title, or an edit that came with its own. Before
    the first move, that move's old title. Else the title of the newest edit known, and it is inferred.
    """
    before = after = None
    for mark in marks:
        if mark.kind is Kind.MOVE:
            if mark.time <= valid_at:
                before = mark
            elif after is None:
                after = mark
    exact = not current.flags & Flag.TITLE_INFERRED
    if exact and (before is None or current.time >= before.time):
        return _of_edit(current, inferred=False)
    if before is not None:
        return _of_move(before)
    if after is not None:
        return TitleSource(after.position, after.ordinal, FROM_TITLE, 1, after.from_namespace, inferred=False)
    return _of_edit(newest, inferred=bool(newest.flags & Flag.TITLE_INFERRED) or newest != current)


def own_title(edit: EditRow) -> TitleSource:
    """Return the title that an edit came with, as ``title_at`` does where it is what names the page."""
    return _of_edit(edit, inferred=bool(edit.flags & Flag.TITLE_INFERRED))


def other_titles(view: View, number: int, edit: EditRow, choice: Choice) -> Iterator[TitleSource]:
    """Yield what else may name a page whose current revision is ``edit``, the likeliest first.

    Each as ``title_at`` returns it where it is what names the page; which one does, the caller knows.
    """
    if edit.flags & Flag.TITLE_INFERRED:
        newest = last_edit(view, number, edit.page, _END_OF_TIME, choice.known_at)
        if newest is not None:
            yield _of_edit(newest, inferred=True)
    start, stop = keys.marks_from(number, edit.page), keys.marks_from(number, edit.page, choice.valid_at + 1)
    row = view.last(start, stop)
    if row is not None:
        _, time, position, ordinal = keys.read_mark(row[0])
        mark = read_mark_row(time, position, ordinal, row[1])
        if mark.kind is Kind.MOVE and position <= choice.known_at:
            yield _of_move(mark)


def _of_move(mark: MarkRow) -> TitleSource:
    return TitleSource(mark.position, mark.ordinal, TITLE, 0, mark.namespace, inferred=False)


def _of_edit(edit: EditRow, *, inferred: bool) -> TitleSource:
    return TitleSource(edit.position, edit.ordinal, TITLE, 0, edit.namespace, inferred)


def page_at(
    view: View, number: int, page: int, choice: Choice, marks: list[MarkRow] | None = None
) -> State | None:
    """Return the page's state as of (T, K), or ``None`` when it does not exist then.

    ``marks`` are what ``marks_of`` returns, for callers that know them.
    """
    latest = last_edit(view, number, page, choice.valid_at, choice.known_at)
    if latest is None:
        return None
    if marks is None:
        marks = marks_of(view, number, page, choice.known_at)
    if marks and is_deleted(marks, latest, choice.valid_at):
        return None
    current: EditRow | None = latest
    if choice.min_age_seconds:
        current = last_edit(view, number, page, choice.settled_at, choice.known_at)
    if choice.on_hidden is not OnHidden.KEEP:
        current = _visible(view, number, current, choice)
    if current is None:
        return None
    newest = current
    if current.flags & Flag.TITLE_INFERRED and not any(mark.kind is Kind.MOVE for mark in marks):
        newest = last_edit(view, number, page, _END_OF_TIME, choice.known_at) or current
    return State(current, title_at(marks, current, newest, choice.valid_at))


def page_titled(view: View, number: int, title: str, choice: Choice) -> State | None:
    """Return the state of the page that has a title, or ``None``."""
    for form in dict.fromkeys((title, title.replace("_", " "))):
        start = keys.title(number, form)
        for key, _ in view.scan(start, start[:-8] + b"\xff" * 8):
            state = page_at(view, number, int.from_bytes(key[-8:], "big"), choice)
            if state is not None:
                source = state.title
                sealed = find_sealed(view, source.position, source.ordinal)
                if read_title(sealed.value(source.field))[1] == form:
                    return state
    return None


_END_OF_TIME = 2**62


def _visible(view: View, number: int, edit: EditRow | None, choice: Choice) -> EditRow | None:
    while (
        edit is not None
        and hidden_flags(view, number, edit.rev, edit.hidden, choice.known_at) & Flag.TEXT_HIDDEN
    ):
        if choice.on_hidden is OnHidden.SKIP:
            return None
        start = keys.edits_from(number, edit.page)
        stop = keys.edit(number, edit.page, edit.time, edit.rev, 0, 0)
        row = view.last(start, stop)
        while row is not None and edit_row(row).position > choice.known_at:
            row = view.last(start, row[0])
        edit = None if row is None else edit_row(row)
    return edit


def selects(selector: Selector, state: State) -> bool:
    """Say whether a selector takes a page in that state."""
    if selector.namespaces and state.title.namespace not in selector.namespaces:
        return False
    if selector.models and state.edit.model not in selector.models:
        return False
    redirect = bool(state.edit.flags & Flag.REDIRECT)
    return selector.redirects is Redirects.INCLUDE or redirect is (selector.redirects is Redirects.ONLY)


def find_revision(view: View, number: int, rev: int, known_at: int) -> EditRow | None:
    """Return a revision's newest row known at K."""
    stop = keys.revision(number, rev, known_at + 1)
    row = view.last(keys.revision(number, rev), stop)
    if row is None:
        return None
    page, time = read_page_value(row[1])
    _, position, ordinal = keys.read_revision(row[0])
    key = keys.edit(number, page, time, rev, position, ordinal)
    value = view.get(key)
    return None if value is None else edit_row((key, value))


def namespaces_of(view: View, number: int, edit: EditRow, known_at: int) -> frozenset[int]:
    """Return the namespaces that a page was in with a revision as its current one, by what is known at K."""
    start = keys.edit(number, edit.page, edit.time, edit.rev, keys.END, 0)
    stop = keys.edits_from(number, edit.page + 1)
    until = _END_OF_TIME
    while rows := view.scan(start, stop, limit=1):
        after = edit_row(rows[0])
        if after.position <= known_at:
            until = after.time
            break
        start = rows[0][0] + b"\0"
    marks = marks_of(view, number, edit.page, known_at)
    newest = last_edit(view, number, edit.page, _END_OF_TIME, known_at) or edit
    times = [edit.time, *(mark.time for mark in marks if edit.time < mark.time <= until)]
    return frozenset(title_at(marks, edit, newest, time).namespace for time in times)


def text_times(view: View, number: int, page: int) -> dict[bytes, int]:
    """Return, by the first 16 bytes of its digest, when each text of a page was first there."""
    out: dict[bytes, int] = {}
    start, stop = keys.edits_from(number, page), keys.edits_from(number, page + 1)
    while rows := view.scan(start, stop, limit=_SLICE):
        for row in rows:
            edit = edit_row(row)
            content = find_sealed(view, edit.position, edit.ordinal).values[CONTENT_FIELD]
            for slot in read_content(content) if content is not None else ():
                out.setdefault(slot.digest[:16], edit.time)
        start = rows[-1][0] + b"\0"
    return out
