"""Upstream log entries that name a page by the title of that moment: from kept entries to events.

A log says "X was moved to Y" without a page id. What is known of a page is its title at one moment, and from
there the entries lead both ways: the next one that leaves its title is the page's own, and so is the last
one that came to it.

A dump does not say of which moment its titles are: not before the page's newest revision, perhaps before
the end of the log. So each gap between later entries about that title is tried, and a gap falls away when
what follows from it cannot be: somebody comes where the page is, an entry is another page's, the page was
there before it can have come. If one gap is left, what follows from it is taken. Entries of pages for which
more are left stay kept, are counted, and are tried again after each ingest.

Taken for granted is that the log has no holes between its first and its last entry, and reaches as far as
the dump. Held in memory are the moves, and of the deletes and restores those of titles that some page had.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import attrgetter

from recension.archive.history import find_revision, last_edit, marks_of
from recension.archive.ingest import Ingestor
from recension.archive.projects import project_number
from recension.archive.rows import MarkRow, read_log_value
from recension.archive.sealed import find_sealed
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    Delete,
    Event,
    LogAction,
    Move,
    Restore,
    Visibility,
)
from recension.model.record import Flag, Kind
from recension.model.seal import read_comment, read_contributor, read_log_entry, read_title
from recension.store import keys
from recension.store.interface import Row, Store, View

_BATCH = 256
_END_OF_TIME = 2**62
_MOMENT = 2_000_000
"""Microseconds within which a move, its entry, and the redirect that it leaves are dated."""
_MAX_GAPS = 100
"""A page whose title has more entries after what is known of it is left alone."""
_FOLLOWED_BY_NOTHING = frozenset({LogAction.OTHER, LogAction.CONCEALMENT})
_ACTIONS = {Kind.MOVE: LogAction.MOVE, Kind.DELETE: LogAction.DELETE, Kind.RESTORE: LogAction.RESTORE}


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


@dataclass(frozen=True, slots=True)
class _Step:
    """What an entry says of titles."""

    time: int
    log_id: int
    action: LogAction
    title: str
    to_title: str
    """Of a move, else empty."""


@dataclass(slots=True)
class _Page:
    """What is known of a page without the log."""

    number: int
    first: int
    """Time of the first revision."""
    last: int
    """Time of the newest one."""
    title: str
    since: int
    """The page had ``title`` at this time; a later one is possible unless ``exact``."""
    exact: bool


_Claims = dict[int, bool]
"""Entries that follow, by index; true where the log writes underscores for the page's spaces."""


@dataclass(slots=True)
class _Titles:
    """Who had which title when, as far as it follows from the entries."""

    steps: list[_Step]
    """In the order in which they happened."""
    touches: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """For each title, twice the index of each step that left it free, and one more of each that took it."""
    deletions: dict[int, int] = field(default_factory=dict)
    """For touches that restore a page, which touch of the same title had deleted it."""
    owners: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Steps whose page is known, with what ``_Claims`` says."""

    def __post_init__(self) -> None:
        for index, step in enumerate(self.steps):
            title, to_title = _fold(step.title), _fold(step.to_title)
            if step.action is LogAction.MOVE and title != to_title:
                self.touches[title].append(2 * index)
                self.touches[to_title].append(2 * index + 1)
            elif step.action is not LogAction.MOVE:
                self.touches[title].append(2 * index + (step.action is LogAction.RESTORE))
        for touches in self.touches.values():
            self.deletions.update(_deletions(touches, self.steps))

    def settle(self, pages: Iterable[_Page]) -> None:
        """Find out the owners: what is certain of one page rules out what was possible for another."""
        open_pages, learned = list(pages), True
        while learned:
            learned, left = False, []
            certain: list[tuple[_Page, _Claims]] = []
            for page in open_pages:
                possible = self._possible(page)
                if possible:
                    common = set.intersection(*map(set, possible))
                    certain.append((page, {index: possible[0][index] for index in sorted(common)}))
                    left += [page] if len(possible) > 1 else []
            bids = Counter(index for _, claims in certain for index in claims)
            for page, claims in certain:
                # An entry has one page; where two are certain of it, something is wrong with both.
                if any(bids[index] > 1 for index in claims):
                    left = [other for other in left if other is not page]
                    continue
                learned |= not self.owners.keys() >= claims.keys()
                self.owners.update((index, (page.number, plain)) for index, plain in claims.items())
            open_pages = left

    def _possible(self, page: _Page) -> list[_Claims]:
        """Return what would follow from each moment at which the page can have had its title."""
        touches = self.touches.get(_fold(page.title), [])
        first = bisect_left(touches, page.since, key=self._time)
        end = bisect_right(touches, page.since, key=self._time) if page.exact else len(touches)
        if end - first > _MAX_GAPS:
            return []
        found = (self._follow(page, gap) for gap in range(first, end + 1))
        return [claims for claims in found if claims is not None]

    def at(self, title: str, time: int) -> list[int]:
        """Return the touches of a title at one time."""
        touches = self.touches.get(title, [])
        return touches[
            bisect_left(touches, time, key=self._time) : bisect_right(touches, time, key=self._time)
        ]

    def _time(self, touch: int) -> int:
        return self.steps[touch // 2].time

    def _follow(self, page: _Page, gap: int) -> _Claims | None:
        """Return what follows when the page has its title in a gap between touches; ``None``: it cannot."""
        claims: _Claims = {}
        possible = self._back(page, gap, claims) and self._ahead(page, gap, claims)
        mine = all(self.owners.get(index, (page.number, False))[0] == page.number for index in claims)
        return claims if possible and mine else None

    def _back(self, page: _Page, gap: int, claims: _Claims) -> bool:
        title = page.title
        while gap:
            index, took = divmod(self.touches[_fold(title)][gap - 1], 2)
            step = self.steps[index]
            if not took:
                return page.first >= step.time  # free from here on, so the page was made there later
            if step.time < page.first:
                return True  # somebody else, and nothing says what became of them
            if step.action is LogAction.MOVE:
                claims[index], title = _other(title, step.to_title, step.title)
                gap = bisect_left(self.touches[_fold(title)], 2 * index)
                continue
            claims[index] = title != step.title
            deletion = self.deletions.get(2 * index + 1)
            if deletion is None:
                return True
            gap = deletion
            deleted = self.touches[_fold(title)][gap] // 2
            if self.steps[deleted].time < page.first:
                return True
            claims[deleted] = title != self.steps[deleted].title
        return True

    def _ahead(self, page: _Page, gap: int, claims: _Claims) -> bool:
        title = page.title
        while gap < len(touches := self.touches.get(_fold(title), [])):
            index, took = divmod(touches[gap], 2)
            step = self.steps[index]
            if took:
                if step.action is LogAction.MOVE:
                    return False  # somebody comes where the page is
                gap += 1  # more revisions are restored to it
            elif step.action is LogAction.MOVE:
                if step.time <= page.first + _MOMENT:
                    return True  # it may be the redirect that the move left
                claims[index], title = _other(title, step.title, step.to_title)
                gap = bisect_right(self.touches[_fold(title)], 2 * index + 1)
            else:
                claims[index] = title != step.title
                restore = self._restore_after(title, gap)
                if page.last > step.time and (restore is None or self._time(touches[restore]) > page.last):
                    return False  # it went on without a restore, so the deleted page was another
                if restore is None or self.deletions.get(touches[restore]) != gap:
                    return True
                claims[touches[restore] // 2] = title != self.steps[touches[restore] // 2].title
                gap = restore + 1
        return True

    def _restore_after(self, title: str, at: int) -> int | None:
        """Return the next touch that restores a page of that title."""
        touches = self.touches[_fold(title)]
        for later in range(at + 1, len(touches)):
            if self.steps[touches[later] // 2].action is LogAction.RESTORE:
                return later
        return None


def _deletions(touches: list[int], steps: list[_Step]) -> Iterator[tuple[int, int]]:
    """Yield each restoring touch with the place of the one that deleted the page, where only one can have."""
    deleted: list[int] = []
    for at, touch in enumerate(touches):
        action = steps[touch // 2].action
        if action is LogAction.DELETE:
            deleted.append(at)
        elif action is LogAction.RESTORE:
            if len(deleted) > 1:
                return
            if deleted:
                yield touch, deleted.pop()


def _fold(title: str) -> str:
    """Return the form by which titles are compared: a log may write spaces as underscores."""
    return title.replace("_", " ")


def _other(borne: str, stated: str, other: str) -> tuple[bool, str]:
    """Say whether a move writes underscores for the spaces of a title, and return its other title."""
    plain = borne != stated and borne == _fold(stated)
    return plain, _fold(other) if plain else other


def resolve(store: Store, ingestor: Ingestor, project: str) -> Resolved:
    """Turn kept log entries into events where their page is known by now. Idempotent.

    Decides by what was known when it began. Durable when it returns. Run again after a kill, it appends the
    same batches.
    """
    with store.view() as view:
        number, known_at = project_number(view, project), view.head().position
    owners, concealed = _owners(store, number, known_at), _concealed(store, number)
    total = Resolved(0, 0, 0)
    events: list[Event] = []
    for _, same_time in groupby(_entries(store, number), attrgetter("time")):
        # Entries of one instant stay in one batch and in their order.
        with store.view() as view:
            for entry in sorted(same_time, key=lambda entry: entry.log_id):
                if entry.action in _FOLLOWED_BY_NOTHING:
                    continue
                bits = concealed.get(entry.log_id, 0)
                of_entry = list(_events(view, number, known_at, project, entry, owners, bits))
                total += Resolved(0, 0, not of_entry)
                events += of_entry
        if len(events) >= _BATCH:
            total += _append(ingestor, project, events)
            events = []
    return total + _append(ingestor, project, events)


def _append(ingestor: Ingestor, project: str, events: list[Event]) -> Resolved:
    appended = ingestor.append(project, events)
    return Resolved(appended.accepted, appended.known, len(appended.rejected))


def _entries(store: Store, number: int) -> Iterator[_Kept]:
    """Yield the kept entries by time; views are short."""
    start, stop = keys.log_entries(number)
    while True:
        with store.view() as view:
            rows = list(view.scan(start, stop, limit=_BATCH))
        yield from map(_kept, rows)
        if len(rows) < _BATCH:
            return
        start = rows[-1][0] + b"\0"


def _concealed(store: Store, number: int) -> dict[int, int]:
    """Return what is hidden of log entries now, by log id; the flag of the text is that of the action."""
    out: dict[int, int] = {}
    entries = (entry for entry in _entries(store, number) if entry.action is LogAction.CONCEALMENT)
    while some := list(islice(entries, _BATCH)):
        with store.view() as view:
            for entry in some:
                ids = read_log_entry(find_sealed(view, entry.position, entry.ordinal).value(1))[2]
                out.update(dict.fromkeys(ids, entry.flags))
    return out


def _kept(row: Row) -> _Kept:
    time, position, ordinal = keys.read_log_entry(row[0])
    action, log_id, flags = read_log_value(row[1])
    return _Kept(log_id, time, LogAction(action), flags, position, ordinal)


# --- which page an entry is about ---------------------------------------------------------------


def _owners(store: Store, number: int, known_at: int) -> dict[int, tuple[int, bool]]:
    """Return the page of each entry for which it is certain, by log id."""
    moves = list(_steps(store, number, LogAction.MOVE))
    moved = {_fold(title) for step in moves for title in (step.title, step.to_title)}
    others = _steps(store, number, LogAction.DELETE, LogAction.RESTORE, of=moved)
    titles = _Titles(sorted([*moves, *others], key=lambda step: (step.time, step.log_id)))
    pages: dict[int, _Page | None] = {}
    for title in {title for step in titles.steps for title in (step.title, step.to_title)}:
        with store.view() as view:
            for page in _pages_called(view, number, title):
                if page not in pages:
                    pages[page] = _known_of(view, number, page, known_at, titles)
    titles.settle(page for _, page in sorted(pages.items()) if page is not None)
    return {titles.steps[index].log_id: owner for index, owner in titles.owners.items()}


def _steps(
    store: Store, number: int, *actions: LogAction, of: Container[str] | None = None
) -> Iterator[_Step]:
    """Yield entries of some actions; with ``of``, of these titles and of those that a page had."""
    entries = (entry for entry in _entries(store, number) if entry.action in actions)
    while some := list(islice(entries, _BATCH)):
        with store.view() as view:
            for entry in some:
                sealed = find_sealed(view, entry.position, entry.ordinal)
                title, to_title = read_title(sealed.value(0))[1], read_log_entry(sealed.value(1))[1]
                if of is None or _fold(title) in of or _pages_called(view, number, title):
                    yield _Step(entry.time, entry.log_id, entry.action, title, to_title)


def _pages_called(view: View, number: int, title: str) -> list[int]:
    """Return the pages that had a title once, as it is written or with spaces."""
    pages = []
    for form in {title, _fold(title)}:
        start = keys.title(number, form)
        pages += [int.from_bytes(key[-8:]) for key, _ in view.scan(start, start[:-8] + b"\xff" * 8)]
    return pages


def _known_of(view: View, number: int, page: int, known_at: int, titles: _Titles) -> _Page | None:
    """Return what is known of a page, and note which entries are known to be its own."""
    newest = last_edit(view, number, page, _END_OF_TIME, known_at)
    if newest is None:
        return None
    first = keys.read_edit(view.scan(keys.edits_from(number, page), keys.edits_to(number), limit=1)[0][0])[1]
    title, since = find_sealed(view, newest.position, newest.ordinal).values[0], newest.time
    exact = not newest.flags & Flag.TITLE_INFERRED
    for mark in marks_of(view, number, page, known_at):
        values, is_move = find_sealed(view, mark.position, mark.ordinal).values, mark.kind is Kind.MOVE
        stated = [None if value is None else read_title(value)[1] for value in values[: 1 + is_move]]
        if stated[0] is None or _is_resolved(mark, stated, page, titles) or not is_move:
            continue
        if not exact or mark.time > since:
            title, since, exact = values[0], mark.time, True
    if title is None:
        return None
    return _Page(page, first, newest.time, read_title(title)[1], since, exact)


def _is_resolved(mark: MarkRow, stated: list[str | None], page: int, titles: _Titles) -> bool:
    """Say whether a move, delete or restore is of an entry, and note that; ``stated``: title, old title."""
    folded = [None if title is None else _fold(title) for title in stated]
    for touch in titles.at(folded[0] or "", mark.time):
        step = titles.steps[touch // 2]
        forms = [step.to_title, step.title] if step.action is LogAction.MOVE else [step.title]
        if (
            step.action is _ACTIONS[mark.kind]
            and [_fold(form) for form in forms] == folded
            and touch // 2 not in titles.owners
        ):
            titles.owners[touch // 2] = page, forms[0] != stated[0]
            return True
    return False


# --- what an entry becomes ----------------------------------------------------------------------


def _events(
    view: View,
    number: int,
    known_at: int,
    project: str,
    entry: _Kept,
    owners: dict[int, tuple[int, bool]],
    concealed: int,
) -> Iterator[Event]:
    if concealed & Flag.TEXT_HIDDEN and entry.action is LogAction.MOVE:
        return  # upstream no longer says to which title; that a page is gone or hidden it can only mean
    if entry.action is not LogAction.VISIBILITY and entry.log_id not in owners:
        return
    sealed = find_sealed(view, entry.position, entry.ordinal)
    namespace, title = read_title(sealed.value(0))
    to_namespace, to_title, rev_ids = read_log_entry(sealed.value(1))
    contributor, comment = read_contributor(sealed.value(2)), read_comment(sealed.value(3))
    if concealed & Flag.CONTRIBUTOR_HIDDEN:
        contributor = HIDDEN_CONTRIBUTOR
    if concealed & Flag.COMMENT_HIDDEN:
        comment = HIDDEN_COMMENT
    source = f"logbook:{entry.log_id}"
    if entry.action is LogAction.VISIBILITY:
        for rev_id in rev_ids:
            edit = find_revision(view, number, rev_id, known_at)
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
    page, plain = owners[entry.log_id]
    if plain:
        title, to_title = _fold(title), _fold(to_title)
    what: Move | Delete | Restore
    if entry.action is LogAction.MOVE:
        what = Move(title, namespace, to_title, to_namespace, contributor, comment)
    else:
        kind = Delete if entry.action is LogAction.DELETE else Restore
        what = kind(title, namespace, contributor, comment)
    yield Event(project, page, entry.time, source, what)
