"""What a stream tells out of order: before what it is about is known, or behind what has overtaken it.

Streams keep an order within each of their partitions at best. That a revision is hidden may come before the
revision, that a page is gone before the page; and of two changes of one revision's visibility the one that
comes last in the log is in force, so an older one must not come behind a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable

from recension.archive.projects import project_number
from recension.archive.rows import read_visibility
from recension.model.event import Edit, Event, Visibility
from recension.sources.items import Item, Sighting
from recension.store import keys
from recension.store.interface import View


class Order:
    """Judges the items of one batch by what is known and what the batch itself brings."""

    def __init__(self, view: View, project: str, batch: Iterable[Item]) -> None:
        """``view``: of the store before the batch is in it."""
        self._view = view
        self._number = project_number(view, project)
        self._pages: set[int] = set()
        self._revisions: set[int] = set()
        for item in batch:
            if isinstance(item, Event) and isinstance(item.what, Edit):
                self._pages.add(item.page_id)
                self._revisions.add(item.what.rev_id)

    def is_early(self, item: Item) -> bool:
        """Say whether what an item is about may be still to come."""
        match item:
            case Event(what=Visibility() as change):
                return not self._knows_revision(change.rev_id)
            case Sighting(gone=True) if item.page_id:
                return not (
                    self._knows_revision(item.rev_id) if item.rev_id else self._knows_page(item.page_id)
                )
        return False

    def is_overtaken(self, item: Item) -> bool:
        """Say whether a newer change of the same revision's visibility is known."""
        if not isinstance(item, Event) or not isinstance(item.what, Visibility):
            return False
        rev = item.what.rev_id
        row = self._view.last(keys.visibility(self._number, rev), keys.visibility(self._number, rev + 1))
        return row is not None and read_visibility(row[1])[3] > item.time

    def _knows_revision(self, rev: int) -> bool:
        if rev in self._revisions:
            return True
        start, stop = keys.revision(self._number, rev), keys.revision(self._number, rev + 1)
        return self._view.last(start, stop) is not None

    def _knows_page(self, page: int) -> bool:
        if page in self._pages:
            return True
        start, stop = keys.edits_from(self._number, page), keys.edits_from(self._number, page + 1)
        return self._view.last(start, stop) is not None


def in_order(items: Iterable[Item]) -> list[Item]:
    """Return items, those last that tell what became of pages and revisions, the oldest of them first."""
    return sorted(items, key=_turn)


def _turn(item: Item) -> tuple[int, int]:
    match item:
        case Event(what=Visibility()):
            return 1, item.time
        case Sighting():
            return 2, item.time
        case _:
            return 0, 0
