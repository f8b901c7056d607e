"""Single revisions and pages: as they were, and what happened to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from recension.archive import history
from recension.archive.clock import Clock, known_position, resolve
from recension.archive.history import Choice, State, page_titled
from recension.archive.horizons import recorded_at
from recension.archive.marks import provenance_of
from recension.archive.projects import Numbers
from recension.archive.rows import EditRow, MarkRow, read_visibility
from recension.archive.sealed import SealedReader, find_sealed
from recension.archive.shown import naming_of, slots_of, with_texts
from recension.model.errors import (
    DataLossError,
    InvalidArgumentError,
    PageNotFoundError,
    RecensionError,
    RevisionNotFoundError,
    TextUnavailableError,
)
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    MAX_ID,
    Delete,
    Move,
    Presence,
    Restore,
    Visibility,
)
from recension.model.instant import check_instant, format_instant
from recension.model.manifest import AsOf
from recension.model.reading import (
    MAX_BATCH,
    Answer,
    Provenance,
    Revision,
    RevisionDiff,
    TimelineItem,
    TimelinePlace,
    behind,
)
from recension.model.record import Flag, Kind, Skeleton
from recension.model.seal import read_comment, read_contributor, read_title
from recension.store import keys
from recension.store.interface import Store, View
from recension.textdiff.hunks import diff_texts

_SLICE = 256
"""Items of a timeline read in one view."""
_NEWEST = keys.END - 1
_EVER = 2**62

# (time, rev_id, position, ordinal) and a mark, or the flags of a visibility change of that revision.
_Happening = tuple[int, int, int, int, MarkRow | int]


def _order(item: _Happening) -> tuple[int, int, int, int]:
    return item[:4]


class Pages:
    """Reads revisions and pages. Safe for concurrent use."""

    def __init__(self, store: Store, clock: Clock, numbers: Numbers) -> None:
        self._store = store
        self._clock = clock
        self._number = numbers.of

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision, named as at its own time."""
        with self._store.view() as view:
            number = self._number(view, project)
            known = known_position(view.head(), known_at)
            edit = _edit(view, number, project, rev_id, known)
            return Answer(_revision(view, project, number, edit, known, text=text), AsOf(edit.time, known))

    def provenance(self, project: str, rev_id: int, *, known_at: int = 0) -> Provenance:
        """Return what a revision was read from."""
        revision = self.revision(project, rev_id, known_at=known_at, text=False).revision
        return provenance_of(self._store, project, rev_id, revision.position, revision.recorded_at)

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked."""
        if len(rev_ids) > MAX_BATCH:
            raise InvalidArgumentError(
                f"{len(rev_ids)} revision ids; a batch takes {MAX_BATCH}", hint="split it", field="rev_ids"
            )
        with self._store.view() as view:
            self._number(view, project)
        out: list[Revision | RecensionError] = []
        for rev_id in rev_ids:
            try:
                out.append(self.revision(project, rev_id, known_at=known_at, text=text).revision)
            except RecensionError as error:
                out.append(error)
        return out

    def article(
        self,
        project: str,
        page: int | str,
        *,
        valid_at: int | None = None,
        known_at: int = 0,
        text: bool = True,
    ) -> Answer:
        """Return a page, by id or title, as it was."""
        with self._store.view() as view:
            number = self._number(view, project)
            as_of = resolve(self._clock, view.head(), valid_at, known_at)
            choice = Choice(as_of.valid_at, as_of.known_at)
            state = (
                _by_id(view, number, page, choice)
                if isinstance(page, int)
                else page_titled(view, number, page, choice)
            )
            if state is None:
                raise _no_page(view, project, number, page, as_of.known_at, as_of.valid_at)
            return Answer(_revision_in(view, project, number, state, text=text), as_of)

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size."""
        return present_text(self.revision(project, rev_id).revision, role)

    def diff(
        self, project: str, rev_ids: tuple[int, int], role: str, context: int, known_at: int
    ) -> RevisionDiff:
        """Compare one slot of two revisions."""
        if context < 0:
            raise InvalidArgumentError(
                f"context_lines: {context} is negative", hint="leave it out for 3", field="context_lines"
            )
        with self._store.view() as view:
            number = self._number(view, project)
            known = known_position(view.head(), known_at)
            edits = [_edit(view, number, project, rev_id, known) for rev_id in rev_ids]
            a, b = (_revision(view, project, number, edit, known, text=True) for edit in edits)
        diff = diff_texts(present_text(a, role), present_text(b, role), context=context)
        return RevisionDiff(_without_texts(a), _without_texts(b), diff, known)

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page by (valid time, revision id, position), behind ``after``."""
        _check_place(after)
        with self._store.view() as view:
            number = self._number(view, project)
            known = known_position(view.head(), known_at)
            if not _is_known(view, number, page_id, known):
                raise _no_page(view, project, number, page_id, known)
            start, stop = keys.edits_from(number, page_id), keys.edits_from(number, page_id + 1)
            if after is not None:
                start = keys.edit(number, page_id, *after[:3], 0)
            marks = history.marks_of(view, number, page_id, known)
            others: list[_Happening] = [(mark.time, 0, mark.position, mark.ordinal, mark) for mark in marks]
            changes = view.scan(
                keys.page_visibility(number, page_id), keys.page_visibility(number, page_id, known + 1)
            )
        for key, value in changes:
            _, position, ordinal = keys.read_revision(key)
            flags, _, rev, time = read_visibility(value)
            others.append((time, rev, position, ordinal, flags))
        others = sorted((item for item in others if not after or item[:3] >= after[:3]), key=_order)
        return behind(self._timeline(project, number, (start, stop), known, others), after)

    def brought(
        self, view: View, project: str, position: int, events: Iterable[tuple[int, Skeleton]]
    ) -> Iterator[TimelineItem]:
        """Yield what some (ordinal, event) of a commit are in the timelines of their pages, known then.

        Raises ``DataLossError`` for an event that is in no timeline.
        """
        number = self._number(view, project)
        for ordinal, event in events:
            if event.kind is Kind.EDIT:
                key = keys.edit(number, event.page_id, event.time, event.rev_id, position, ordinal)
                value = view.get(key)
                if value is None:
                    raise DataLossError(f"revision {event.rev_id} is not in its page's timeline")
                revision = _revision(
                    view, project, number, history.edit_row((key, value)), position, text=False
                )
                yield TimelineItem(event.time, position, revision.recorded_at, revision)
                continue
            what: MarkRow | int = event.flags
            if event.kind is not Kind.VISIBILITY:
                namespaces = event.namespace, event.from_namespace
                what = MarkRow(event.time, position, ordinal, event.kind, *namespaces)
            yield _other(view, (event.time, event.rev_id, position, ordinal, what))

    def _timeline(
        self,
        project: str,
        number: int,
        bounds: tuple[bytes, bytes],
        known: int,
        others: list[_Happening],
    ) -> Iterator[TimelineItem]:
        start, stop = bounds
        at = 0
        while True:
            items: list[TimelineItem] = []
            with self._store.view() as view:
                rows = view.scan(start, stop, limit=_SLICE)
                for row in rows:
                    edit = history.edit_row(row)
                    if edit.position > known:
                        continue
                    order = (edit.time, edit.rev, edit.position, edit.ordinal)
                    while at < len(others) and others[at][:4] < order:
                        items.append(_other(view, others[at]))
                        at += 1
                    revision = _revision(view, project, number, edit, known, text=False)
                    items.append(TimelineItem(edit.time, edit.position, revision.recorded_at, revision))
                if len(rows) < _SLICE:
                    items += [_other(view, other) for other in others[at:]]
            yield from items
            if len(rows) < _SLICE:
                return
            start = rows[-1][0] + b"\0"


def _is_id(number: int) -> bool:
    return 0 < number <= MAX_ID


def _check_place(place: TimelinePlace | None) -> None:
    if place is None:
        return
    check_instant(place.time)
    if not all(0 <= number <= MAX_ID for number in place[1:]):
        raise InvalidArgumentError(f"not a place in a timeline: {place[1:]}", field="after")


def present_text(revision: Revision, role: str) -> bytes:
    """Return the text of a slot. Raises ``TextUnavailableError``."""
    slot = revision.slot(role)
    if slot is None or slot.text is None:
        raise _no_text(revision, role)
    return slot.text


def check_present(revision: Revision, role: str) -> None:
    """Refuse a revision without a text in a slot, whether it was read or not.

    Raises ``TextUnavailableError``.
    """
    slot = revision.slot(role)
    if slot is None or slot.presence is not Presence.PRESENT:
        raise _no_text(revision, role)


def _no_text(revision: Revision, role: str) -> TextUnavailableError:
    slot = revision.slot(role)
    what = "no such slot" if slot is None else slot.presence.name.lower()
    return TextUnavailableError(
        f"revision {revision.rev_id} of {revision.project!r} has no text in slot {role!r}: {what}",
        project=revision.project,
        revId=revision.rev_id,
        role=role,
    )


def _without_texts(revision: Revision) -> Revision:
    return replace(revision, slots=tuple(slot._replace(text=None) for slot in revision.slots))


def _is_known(view: View, number: int, page: int, known_at: int) -> bool:
    """Say whether anything of a page was known at K."""
    return _is_id(page) and history.last_edit(view, number, page, _EVER, known_at) is not None


def _edit(view: View, number: int, project: str, rev_id: int, known_at: int) -> EditRow:
    edit = history.find_revision(view, number, rev_id, known_at) if _is_id(rev_id) else None
    if edit is None:
        raise RevisionNotFoundError(f"no revision {rev_id} in {project!r}", project=project, revId=rev_id)
    return edit


def _by_id(view: View, number: int, page: int, choice: Choice) -> State | None:
    return history.page_at(view, number, page, choice) if _is_id(page) else None


def _no_page(
    view: View, project: str, number: int, page: int | str, known_at: int, valid_at: int | None = None
) -> PageNotFoundError:
    name = f"page {page}" if isinstance(page, int) else f"page titled {page[:200]!r}"
    when = "" if valid_at is None else f" as of {format_instant(valid_at)},"
    hint = _whereabouts(view, project, number, page, known_at)
    return PageNotFoundError(
        f"no {name} in {project!r}{when} known at {known_at}", hint=hint, project=project, page=page
    )


def _whereabouts(view: View, project: str, number: int, page: int | str, known_at: int) -> str:
    """Return what helps whoever looks for a page at a time or a position that it has nothing at."""
    if isinstance(page, int):
        pages, what = [page], "its"
    else:
        pages = [
            int.from_bytes(key[-8:], "big")
            for form in dict.fromkeys((page, page.replace("_", " ")))
            for key, _ in view.scan(keys.title(number, form), keys.title(number, form)[:-8] + b"\xff" * 8)
        ]
        what = "the title was once that of page {}, whose"
    pages.sort(key=lambda one: not _is_known(view, number, one, known_at))
    for one in filter(_is_id, pages):
        first = view.scan(keys.edits_from(number, one), keys.edits_from(number, one + 1), limit=1)
        if first and _is_known(view, number, one, known_at):
            since = format_instant(keys.read_edit(first[0][0])[1])
            return (
                f"{what.format(one)} first revision is of {since}; "
                f"recension log {project} id:{one} shows its timeline"
            )
        if first:
            return f"{what.format(one)} history became known later; ask for a later known-at"
    return "check the id, or the title's spelling and namespace prefix"


def _revision(view: View, project: str, number: int, edit: EditRow, known_at: int, *, text: bool) -> Revision:
    """Return a revision named as at its own time."""
    marks = history.marks_of(view, number, edit.page, known_at)
    newest = history.last_edit(view, number, edit.page, 2**62, known_at) or edit
    title = history.title_at(marks, edit, newest, edit.time)
    return _revision_in(view, project, number, State(edit, title), text=text)


def _revision_in(view: View, project: str, number: int, state: State, *, text: bool) -> Revision:
    edit = state.edit
    values = SealedReader(view)
    sealed = values.of(edit.position, edit.ordinal)
    # What is hidden binds every later answer about any T, so the newest position decides.
    flags = history.hidden_flags(view, number, edit.rev, edit.hidden, _NEWEST)
    namespace, title = read_title(naming_of(values, state, sealed).value(state.title.field))
    slots = slots_of(sealed, edit, flags)
    contributor, comment = sealed.values[1:3]
    hide_contributor = flags & Flag.CONTRIBUTOR_HIDDEN
    return Revision(
        project,
        edit.page,
        edit.rev,
        edit.parent,
        edit.time,
        title,
        namespace,
        state.title.inferred,
        HIDDEN_CONTRIBUTOR if hide_contributor or contributor is None else read_contributor(contributor),
        HIDDEN_COMMENT if flags & Flag.COMMENT_HIDDEN or comment is None else read_comment(comment),
        bool(edit.flags & Flag.MINOR),
        bool(edit.flags & Flag.REDIRECT),
        with_texts(view, [slots])[0] if text else slots,
        edit.position,
        recorded_at(view, edit.position),
    )


def _other(view: View, item: _Happening) -> TimelineItem:
    time, rev, position, ordinal, what = item
    sealed = find_sealed(view, position, ordinal)
    contributor, comment = read_contributor(sealed.value(-2)), read_comment(sealed.value(-1))
    happening: Move | Delete | Restore | Visibility
    if isinstance(what, MarkRow):
        namespace, title = read_title(sealed.value(0))
        if what.kind is Kind.MOVE:
            from_namespace, from_title = read_title(sealed.value(1))
            happening = Move(from_title, from_namespace, title, namespace, contributor, comment)
        else:
            shape = Delete if what.kind is Kind.DELETE else Restore
            happening = shape(title, namespace, contributor, comment)
    else:
        happening = Visibility(
            rev,
            bool(what & Flag.TEXT_HIDDEN),
            bool(what & Flag.COMMENT_HIDDEN),
            bool(what & Flag.CONTRIBUTOR_HIDDEN),
            contributor,
            comment,
        )
    return TimelineItem(time, position, recorded_at(view, position), happening)
