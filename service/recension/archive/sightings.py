"""From what a source saw of pages to events: moves, deletes and restores.

Wikimedia Enterprise tells of states, not of what happened: a move is an update of the new name and a delete
of the old one, in any order, perhaps twice and late. So a sighting is judged by what is known:

- Of a page under another name: it was moved, unless the sighting is older than what is known.
- Of a page that was deleted: it is back, if the sighting is newer, or shows another name or a newer revision.
- That a name is gone: the page that has that name was deleted. If it has another one by now, it was moved.

What is newer follows from the page's newest revision, and the time of its last move, delete or restore.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recension.archive.history import Choice, is_deleted, last_edit, marks_of, page_titled, title_at
from recension.archive.projects import project_number
from recension.archive.sealed import find_sealed
from recension.model.event import NO_COMMENT, Delete, Event, Move, Restore
from recension.model.instant import MAX_INSTANT
from recension.model.seal import read_title
from recension.sources.items import Sighting
from recension.store.interface import Store, View

_EVER = 2**62


@dataclass(slots=True)
class _Page:
    """What is known of a page now."""

    title: str
    namespace: int
    rev_id: int
    """Of its newest revision."""
    edited_at: int
    since: int
    """Time of its last move, delete or restore; 0 before the first."""
    gone: bool


class Witness:
    """Judges the sightings of one batch, in their order. Holds what it learns for the next of that batch."""

    def __init__(self, view: View, project: str) -> None:
        """``view``: of the store before the batch's own edits are in it."""
        self._view = view
        self._project = project
        self._number = project_number(view, project)
        self._pages: dict[int, _Page | None] = {}
        self.ignored: Counter[str] = Counter()
        """Sightings of which nothing follows, for a summary."""

    def judge(self, seen: Sighting) -> Iterator[Event]:
        """Yield what follows from a sighting."""
        if seen.gone:
            yield from self._gone(seen)
            return
        page = self._page(seen.page_id)
        if page is None:
            self._pages[seen.page_id] = _Page(
                seen.title, seen.namespace, seen.rev_id, seen.time, 0, gone=False
            )
            return
        newer = seen.rev_id > page.rev_id
        if not newer and (seen.rev_id < page.rev_id or seen.time < page.since) and not self._half(page, seen):
            self.ignored["older than what is known"] += seen.title != page.title or page.gone
            return
        time = max(seen.time, page.since)
        if page.gone:
            page.gone, page.since = False, time
            yield self._event(
                seen, "restore", seen.page_id, time,
                Restore(page.title, page.namespace, seen.contributor, NO_COMMENT),
            )  # fmt: skip
        if seen.title != page.title:
            move = Move(page.title, page.namespace, seen.title, seen.namespace, seen.contributor, NO_COMMENT)
            page.title, page.namespace, page.since = seen.title, seen.namespace, time
            yield self._event(seen, "move", seen.page_id, time, move)
        if newer:
            page.rev_id, page.edited_at = seen.rev_id, max(page.edited_at, seen.time)

    @staticmethod
    def _half(page: _Page, seen: Sighting) -> bool:
        """Say whether it may be the other half of a move whose delete came first."""
        return page.gone and seen.rev_id == page.rev_id and seen.title != page.title

    def _gone(self, seen: Sighting) -> Iterator[Event]:
        page_id = seen.page_id or self._titled(seen.title)
        page = self._page(page_id) if page_id else None
        if page is None:
            self.ignored["delete of a page that is not known"] += 1
        elif page.title != seen.title:
            self.ignored["delete of a former name"] += 1
        elif page.gone or seen.time < page.since or (seen.rev_id and seen.rev_id < page.rev_id):
            self.ignored["older than what is known"] += not page.gone
        else:
            page.gone = True
            # An edit of the same instant would revive it.
            page.since = min(max(seen.time, page.edited_at + 1), MAX_INSTANT)
            what = Delete(seen.title, page.namespace, seen.contributor, NO_COMMENT)
            yield self._event(seen, "delete", page_id, page.since, what)

    def _event(
        self, seen: Sighting, what: str, page_id: int, time: int, happening: Delete | Move | Restore
    ) -> Event:
        return Event(self._project, page_id, time, f"{seen.source_id}:{what}", happening)

    def _page(self, page_id: int) -> _Page | None:
        if page_id not in self._pages:
            self._pages[page_id] = _find(self._view, self._number, page_id)
        return self._pages[page_id]

    def _titled(self, title: str) -> int:
        for page_id, page in self._pages.items():
            if page is not None and page.title == title:
                return page_id
        found = page_titled(self._view, self._number, title, Choice(_EVER, self._view.head().position))
        return 0 if found is None else found.edit.page


def _find(view: View, number: int, page_id: int) -> _Page | None:
    known_at = view.head().position
    newest = last_edit(view, number, page_id, _EVER, known_at)
    if newest is None:
        return None
    marks = marks_of(view, number, page_id, known_at)
    source = title_at(marks, newest, newest, _EVER)
    namespace, title = read_title(find_sealed(view, source.position, source.ordinal).value(source.field))
    since = max((mark.time for mark in marks), default=0)
    return _Page(title, namespace, newest.rev, newest.time, since, is_deleted(marks, newest, _EVER))


def judge(store: Store, project: str, sightings: Sequence[Sighting]) -> tuple[list[Event], Counter[str]]:
    """Return what follows from sightings, and a count of those of which nothing does."""
    with store.view() as view:
        witness = Witness(view, project)
        events = [event for seen in sightings for event in witness.judge(seen)]
    return events, witness.ignored
