"""Whom to credit: the contributors of pages up to a revision, of one page or of a whole snapshot.

Contributors are sealed values, which lie in the order of the log. A stream therefore collects the edits of
many pages from their timelines, and reads the contributors of all of them in one go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from recension.archive.clock import while_fresh
from recension.archive.history import any_hidden, edit_row
from recension.archive.projects import Numbers, definition_of
from recension.archive.rows import read_visibility
from recension.archive.sealed import each_value
from recension.model.credit import Attribution, Person, Share, license_at, person_of
from recension.model.errors import DeadlineError
from recension.model.event import Presence
from recension.model.reading import Entry, Revision
from recension.model.reading import wanted as still_wanted
from recension.model.record import Flag
from recension.model.seal import read_contributor
from recension.store import keys
from recension.store.interface import Store, View

_PAGES = 1024
"""Pages whose edits are collected together."""
_EDITS = 8192
"""Edits read in one view, with their contributors: some 50 ms."""
_CONTRIBUTOR_FIELD = 1
"""Of an edit's fields."""


class Attributed(NamedTuple):
    """What is to be attributed: a revision, and its page as it is to be named."""

    project: str
    page_id: int
    rev_id: int
    timestamp: int
    title: str
    namespace: int
    title_inferred: bool
    text_hidden: bool


class _Edit(NamedTuple):
    """One edit of one of the pages that are being attributed."""

    at: int
    """Place of the page among them."""
    rev: int
    time: int
    position: int
    ordinal: int
    hidden: int
    """Flags: what is hidden of it now."""


class _Count:
    """The contributors of a page, as its edits come in the order of its timeline."""

    __slots__ = ("edits", "first_at", "hidden", "last", "shares", "unstated")

    def __init__(self) -> None:
        self.first_at: int | None = None
        self.shares: dict[Person, int] = {}
        """In the order in which they came."""
        self.hidden = 0
        self.unstated = 0
        self.last: tuple[int, Person | Presence] = (0, Presence.ABSENT)
        """Revision that was counted last, and for whom."""

    def take(self, edit: _Edit, who: Person | Presence) -> None:
        """Count an edit. One that is stored again, since it gained a lost text, replaces itself."""
        if edit.rev == self.last[0]:
            self._add(self.last[1], -1)
        elif self.first_at is None:
            self.first_at = edit.time
        self._add(who, 1)
        self.last = edit.rev, who

    def _add(self, who: Person | Presence, edits: int) -> None:
        if isinstance(who, Person):
            self.shares[who] = self.shares.get(who, 0) + edits
        elif who is Presence.HIDDEN:
            self.hidden += edits
        else:
            self.unstated += edits

    def ranked(self) -> tuple[Share, ...]:
        """Return who did how much, most first; an account that was renamed goes by its later name."""
        accounts: dict[object, Share] = {}
        for person, edits in self.shares.items():
            account = person.id or person
            before = accounts.get(account)
            accounts[account] = Share(person, edits + before.edits if before else edits)
        return tuple(
            sorted((share for share in accounts.values() if share.edits), key=lambda one: -one.edits)
        )


class Credits:
    """Attributes pages. Safe for concurrent use."""

    def __init__(self, store: Store, numbers: Numbers) -> None:
        self._store = store
        self._number = numbers.of

    def of_entries(self, entries: Iterable[Entry], known_at: int) -> Iterator[Attribution]:
        """Yield the attribution of each entry, in their order; the edits are those known at a position."""
        rest = map(_of_entry, entries)
        some: list[Attributed] = []
        while some := some or list(islice(rest, _PAGES)):
            same = [one for one in some if one.project == some[0].project]
            sent = 0
            for one in while_fresh(self.of(same, known_at)):  # who takes them slowly gets a later view's
                yield one
                sent += 1
            some = some[sent:]

    def of(self, wanted: Sequence[Attributed], known_at: int) -> list[Attribution]:
        """Return the attribution of some revisions of one project, by the edits known at a position."""
        with self._store.view() as view:
            number = self._number(view, wanted[0].project)
            periods = definition_of(view, number).periods
        counts = [_Count() for _ in wanted]
        for edits, people in self._edits(number, wanted, known_at):
            for edit, who in zip(edits, people, strict=True):
                counts[edit.at].take(edit, who)
        return [
            _attribution(one, count, license_at(periods, one.timestamp))
            for one, count in zip(wanted, counts, strict=True)
        ]

    def _edits(
        self, number: int, wanted: Sequence[Attributed], known_at: int
    ) -> Iterator[tuple[list[_Edit], list[Person | Presence]]]:
        """Yield the edits of pages up to their revisions, page by page in time order, and whose they are.

        Some at a time, each time as one view has them.
        """
        at, behind = 0, b""
        while at < len(wanted):
            if not still_wanted.get()():
                raise DeadlineError(
                    "nobody waits for the answer any more", hint="ask again, and allow more time"
                )
            edits: list[_Edit] = []
            with self._store.view() as view:
                hides = any_hidden(view, number)
                while at < len(wanted) and len(edits) < _EDITS:
                    one = wanted[at]
                    start = behind or keys.edits_from(number, one.page_id)
                    stop = keys.edit(number, one.page_id, one.timestamp, one.rev_id, keys.END, 0)
                    rows = view.scan(start, stop, limit=_EDITS)
                    hidden = _hidden_now(view, number, one.page_id) if hides else {}
                    for row in rows:
                        _, time, rev, position, ordinal, *_ = edit = edit_row(row)
                        if position <= known_at:
                            flags = hidden.get(rev, edit.hidden)
                            edits.append(_Edit(at, rev, time, position, ordinal, flags))
                    more = len(rows) == _EDITS
                    at, behind = (at, rows[-1][0] + b"\0") if more else (at + 1, b"")
                people = _people(view, edits)
            yield edits, people


def _hidden_now(view: View, number: int, page: int) -> dict[int, int]:
    """Return what is hidden of those of a page's revisions that a visibility change is known of."""
    rows = view.scan(keys.page_visibility(number, page), keys.page_visibility(number, page, keys.END))
    said = (read_visibility(value) for _, value in rows)
    return {rev: flags for flags, _, rev, _ in said}


def _people(view: View, edits: Sequence[_Edit]) -> list[Person | Presence]:
    """Return who made each edit. Raises ``DataLossError`` when what was sealed is missing."""
    people: list[Person | Presence] = [Presence.HIDDEN] * len(edits)
    shown = [at for at, edit in enumerate(edits) if not edit.hidden & Flag.CONTRIBUTOR_HIDDEN]
    shown.sort(key=lambda at: edits[at][3:5])
    places = [edits[at][3:5] for at in shown]
    for at, value in zip(shown, each_value(view, places, _CONTRIBUTOR_FIELD), strict=True):
        if value is not None:  # what was purged is hidden for ever
            who = read_contributor(value)
            people[at] = person_of(who) if who.presence is Presence.PRESENT else who.presence
    return people


def of_revision(revision: Revision) -> Attributed:
    """Return a revision as what is to be attributed."""
    return Attributed(
        revision.project,
        revision.page_id,
        revision.rev_id,
        revision.timestamp,
        revision.title,
        revision.namespace,
        revision.title_inferred,
        any(slot.presence is Presence.HIDDEN for slot in revision.slots),
    )


def _of_entry(entry: Entry) -> Attributed:
    return Attributed(*entry[:7], entry.text_hidden)


def _attribution(one: Attributed, count: _Count, license_: str) -> Attribution:
    shares = count.ranked()
    edits = sum(share.edits for share in shares) + count.hidden + count.unstated
    first = one.timestamp if count.first_at is None else count.first_at
    return Attribution(*one, license_, first, edits, shares, count.hidden, count.unstated)
