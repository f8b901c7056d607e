"""What differs between two snapshots: work proportional to that, equal subtrees are never read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from recension.archive.clock import while_fresh
from recension.archive.columns import changed_pages
from recension.archive.entries import Entries, Held, Opener
from recension.archive.history import Choice
from recension.archive.pins import check_held
from recension.archive.projects import Numbers
from recension.archive.shown import with_texts
from recension.model.manifest import Manifest, OnHidden, ProjectPart
from recension.model.reading import Change, ChangeKind, Place
from recension.model.tree import Leaf
from recension.store import keys
from recension.store.interface import Store, View

_SLICE = 256
"""Pages compared in one view: some 10 ms."""
_SLICE_BYTES = 4 * 1024 * 1024
"""Texts held at once for one diff; a slice ends with the change whose texts reach it."""
_FEW = 8
"""Pages with changed visibility compared in one view when texts are asked for."""
_CANDIDATES = 100_000
"""Changed pages held at once; when there are more, all visibility changes are read instead."""


class Comparer:
    """Compares snapshots. Safe for concurrent use."""

    def __init__(self, store: Store, numbers: Numbers, entries: Entries) -> None:
        self._store = store
        self._number = numbers.of
        self._entries = entries

    def diff(self, a: Manifest, b: Manifest, start: Place, *, text: bool) -> Iterator[Change]:
        """Yield what differs between two snapshots of the same projects, by (project, page id)."""
        for left, right in zip(a.parts, b.parts, strict=True):
            if left.project < start[0]:
                continue
            last = start[1] if left.project == start[0] else 0
            differing = self._differing(a, b, left, right, last, text=text)
            if b.selector.on_hidden is not OnHidden.KEEP or a.as_of.known_at >= b.as_of.known_at:
                yield from differing
                continue
            withdrawn = self._withdrawn(a, b, left, right, last, text=text)
            yield from merge(differing, withdrawn, key=lambda change: change.page_id)

    def _differing(
        self, a: Manifest, b: Manifest, left: ProjectPart, right: ProjectPart, last: int, *, text: bool
    ) -> Iterator[Change]:
        """Yield the changes of pages whose leaves differ."""
        more = True
        while more:
            more = False
            old: list[Leaf] = []
            new: list[Leaf] = []
            with self._store.view() as view:
                check_held(view, a.snapshot_id, b.snapshot_id)
                pair = self._pair(view, left.project, a, b)
                for before, after in self._entries.trees(view).differences(left.root, right.root, last):
                    old += before
                    new += after
                    if len(old) + len(new) >= _SLICE:
                        more, last = True, max(before[-1:] + after[-1:]).page_id
                        break
                changes = pair.changes(old, new)
                if text:
                    fitting = _fitting(changes)
                    if fitting < len(changes):
                        changes, more = changes[:fitting], True
                        last = changes[-1].page_id
                    changes = _with_texts(view, changes)
            sent = 0
            for change in while_fresh(changes):
                yield change
                sent += 1
            if sent < len(changes):
                more, last = True, changes[sent - 1].page_id

    def _withdrawn(
        self, a: Manifest, b: Manifest, left: ProjectPart, right: ProjectPart, last: int, *, text: bool
    ) -> Iterator[Change]:
        """Yield the pages whose leaves are equal, but whose text was hidden between A's K and B's.

        Only a B that keeps hidden pages holds such a leaf. The trees do not tell; the visibility changes do.
        """
        pages = self._with_changed_visibility(left.project, a.as_of.known_at, b.as_of.known_at, last)
        while slice_ := list(islice(pages, _FEW if text else _SLICE)):
            with self._store.view() as view:
                check_held(view, a.snapshot_id, b.snapshot_id)
                same, trees = [], self._entries.trees(view)
                for page in slice_:
                    before, after = (trees.leaf_at(part.root, page) for part in (left, right))
                    if before is not None and before == after:
                        same.append(before)
                changes = self._pair(view, left.project, a, b).changes(same, same)
                if text:
                    changes = _with_texts(view, changes)
            yield from changes

    def _pair(self, view: View, project: str, a: Manifest, b: Manifest) -> _Pair:
        old, new = (self._entries.opener(view, project, manifest) for manifest in (a, b))
        return _Pair(project, old, new, a.as_of.known_at, b.as_of.known_at)

    def _with_changed_visibility(self, project: str, low: int, high: int, last: int) -> Iterator[int]:
        """Yield the pages with id > ``last`` of which a visibility change became known in (low, high]."""
        with self._store.view() as view:
            number = self._number(view, project)
        # Two questions of one valid time differ by what became known between them.
        questions = (Choice(0, low), Choice(0, high))
        found = changed_pages(self._store, number, *questions, _CANDIDATES)
        if found is None:
            yield from self._ever_hidden(number, low, high, last)
            return
        rest = iter([page for page in found if page > last])
        while slice_ := list(islice(rest, _SLICE)):
            with self._store.view() as view:
                changed = [page for page in slice_ if _changes_visibility(view, number, page, low, high)]
            yield from changed

    def _ever_hidden(self, number: int, low: int, high: int, last: int) -> Iterator[int]:
        """Yield the same by reading each visibility change of the project behind ``last``."""
        start, stop = keys.page_visibility(number, last + 1), keys.page_visibility(number + 1, 0)
        while True:
            with self._store.view() as view:
                rows = view.scan(start, stop, limit=_SLICE)
            for key, _ in rows:
                page, position, _ = keys.read_revision(key)
                if page > last and low < position <= high:
                    yield page
                    last = page
            if len(rows) < _SLICE:
                return
            start = rows[-1][0] + b"\0"


def _fitting(changes: list[Change]) -> int:
    """Return how many changes have texts that are held at once; one of any size if there are any."""
    room = _SLICE_BYTES
    for number, change in enumerate(changes, 1):
        room -= change.text_bytes_before + change.text_bytes_after
        if room <= 0:
            return number
    return len(changes)


def _with_texts(view: View, changes: list[Change]) -> list[Change]:
    sides = [side for change in changes for side in (change.before, change.after) if side is not None]
    slots = iter(with_texts(view, [side.slots for side in sides]))
    filled = iter([side._replace(slots=its) for side, its in zip(sides, slots, strict=True)])
    return [
        change._replace(
            before=None if change.before is None else next(filled),
            after=None if change.after is None else next(filled),
        )
        for change in changes
    ]


def _changes_visibility(view: View, number: int, page: int, low: int, high: int) -> bool:
    start, stop = (keys.page_visibility(number, page, position + 1) for position in (low, high))
    return bool(view.scan(start, stop, limit=1))


@dataclass(slots=True)
class _Pair:
    """One project of two snapshots, inside one view."""

    project: str
    old: Opener
    new: Opener
    old_known_at: int
    new_known_at: int

    def changes(self, before: list[Leaf], after: list[Leaf]) -> list[Change]:
        """Return how the pages of some leaves differ, by page id."""
        project = self.project
        afters = {leaf.page_id: held for leaf, held in zip(after, self.new.open(after), strict=True)}
        if not before:
            return [
                Change(ChangeKind.ADDED, project, page, None, held.entry) for page, held in afters.items()
            ]
        befores = {leaf.page_id: held for leaf, held in zip(before, self.old.open(before), strict=True)}
        out = []
        for page in sorted(befores.keys() | afters.keys()):
            old, new = befores.get(page), afters.get(page)
            kind = ChangeKind.ADDED if old is None else self._kind(old, new)
            if kind is not None:
                entries = [None if held is None else held.entry for held in (old, new)]
                out.append(Change(kind, project, page, *entries))
        return out

    def _kind(self, old: Held, new: Held | None) -> ChangeKind | None:
        """Return how a page differs, or ``None`` when only the event that gave its title does.

        A page that was moved away and back has its old title from another event, so another leaf.
        """
        before, after = old.entry, None if new is None else new.entry
        if self.old.hidden(old, self.new_known_at) and (
            after is None or after.rev_id != before.rev_id or not self.old.hidden(old, self.old_known_at)
        ):
            return ChangeKind.RETRACTED
        if new is None or after is None:
            return ChangeKind.REMOVED
        moved = before.title != after.title or before.namespace != after.namespace
        if before.rev_id != after.rev_id:
            return ChangeKind.EDITED_AND_MOVED if moved else ChangeKind.EDITED
        if moved:
            return ChangeKind.MOVED
        return None if old.content == new.content else ChangeKind.EDITED
