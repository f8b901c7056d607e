"""Making snapshots: the whole corpus as of (T, K) and its tree.

The scan reads each page's timeline once, in page order, in slices with a transaction of their own; the
tree's nodes are handed to the store as they are made. ``trees`` reads what is made here.
"""

from __future__ import annotations

from collections.abc import Iterator

from recension.archive.columns import changed_pages
from recension.archive.history import (
    Choice,
    State,
    edit_row,
    is_deleted,
    page_at,
    selects,
    title_at,
)
from recension.archive.projects import tally_of
from recension.archive.rows import EditRow, MarkRow, read_mark_row, read_visibility
from recension.archive.trees import node_at
from recension.model.manifest import OnHidden, ProjectPart, Selector
from recension.model.record import Flag, Kind
from recension.model.tree import build, entry_leaf, update
from recension.store import keys
from recension.store.interface import Row, Store, View

_SLICE = 20_000
"""Rows read in one transaction: some 50 ms."""
_LONG = 4
"""Revisions a page from which three seeks are faster than reading them all."""
_SOUGHT = 4000
"""Pages sought in one transaction: some 50 ms."""
_DERIVED_SHARE = 0.05
"""Of a snapshot's pages; when more may have changed, reading all timelines in order is faster."""
_DERIVED_LEAST = 1000
_DERIVED_SLICE = 1000
"""Pages compared in one transaction: some 50 ms."""


def build_part(store: Store, project: str, number: int, selector: Selector, choice: Choice) -> ProjectPart:
    """Compute one project's share of a snapshot and keep its tree."""
    total_bytes = 0
    nodes: list[Row] = []

    def put(digest: bytes, node: bytes) -> None:
        nodes.append((keys.node(digest), node))
        if len(nodes) >= _SLICE:
            store.put_derived(iter(nodes))
            nodes.clear()

    def entries() -> Iterator[tuple[int, int, bytes]]:
        nonlocal total_bytes
        for state in scan(store, number, choice):
            if selects(selector, state):
                edit = state.edit
                total_bytes += edit.text_bytes
                leaf = entry_leaf(edit.page, edit.rev, edit.time, state.title.commitment, edit.content)
                yield edit.page, edit.rev, leaf

    root, count = build(entries(), put)
    store.put_derived(iter(nodes))
    return ProjectPart(project, count, total_bytes, root)


def derive_part(
    store: Store, base: ProjectPart, number: int, selector: Selector, before: Choice, after: Choice
) -> ProjectPart | None:
    """Compute a project's share from that of another snapshot with the same selector, by what changed.

    ``None`` when so much changed that ``build_part`` is faster. The result is the same to the byte.
    """
    limit = max(_DERIVED_LEAST, int(base.count * _DERIVED_SHARE))
    pages = changed_pages(store, base.project, number, before, after, limit)
    if pages is None:
        return None
    total_bytes = base.text_bytes
    changes: list[tuple[int, tuple[int, bytes] | None]] = []
    for at in range(0, len(pages), _DERIVED_SLICE):
        with store.view() as view:
            for page in pages[at : at + _DERIVED_SLICE]:
                old, new = (_entry_of(view, number, page, selector, choice) for choice in (before, after))
                total_bytes += (new[2] if new else 0) - (old[2] if old else 0)
                if new != old:
                    changes.append((page, new[:2] if new else None))
    nodes: list[Row] = []
    with store.view() as view:
        root, count = update(
            base.root,
            changes,
            lambda digest: node_at(view, digest),
            lambda digest, node: nodes.append((keys.node(digest), node)),
        )
    store.put_derived(iter(nodes))
    return ProjectPart(base.project, count, total_bytes, root)


def _entry_of(
    view: View, number: int, page: int, selector: Selector, choice: Choice
) -> tuple[int, bytes, int] | None:
    """Return (revision, leaf, text bytes) of a page that the selector takes."""
    state = page_at(view, number, page, choice)
    if state is None or not selects(selector, state):
        return None
    edit = state.edit
    leaf = entry_leaf(edit.page, edit.rev, edit.time, state.title.commitment, edit.content)
    return edit.rev, leaf, edit.text_bytes


def scan(store: Store, number: int, choice: Choice) -> Iterator[State]:
    """Yield the state of each page that exists as of (T, K), by page id.

    Reads every row of the timelines in order where they are short, and finds each page's by seeks where
    they are long.
    """
    marks = _all_marks(store, number, choice.known_at)
    with store.view() as view:
        _, tally = tally_of(view, number)
    if tally.revisions > _LONG * tally.pages:
        yield from _sought(store, number, choice, marks)
        return
    hidden = _all_hidden(store, number, choice.known_at)
    for rows in _pages(store, number):
        state = _fold(rows, marks.get(rows[0].page, []), hidden, choice)
        if state is not None:
            yield state


def _sought(store: Store, number: int, choice: Choice, marks: dict[int, list[MarkRow]]) -> Iterator[State]:
    page, stop = 0, keys.edits_to(number)
    first: list[Row] = []
    while True:
        states = []
        with store.view() as view:
            for _ in range(_SOUGHT):
                first = view.scan(keys.edits_from(number, page), stop, limit=1)
                if not first:
                    break
                page = keys.read_edit(first[0][0])[0]
                state = page_at(view, number, page, choice, marks.get(page, []))
                if state is not None:
                    states.append(state)
                page += 1
        yield from states
        if not first:
            return


def _slices(store: Store, start: bytes, stop: bytes) -> Iterator[Row]:
    """Yield the rows of a range; each slice is read in a transaction of its own."""
    while True:
        with store.view() as view:
            rows = view.scan(start, stop, limit=_SLICE)
        yield from rows
        if len(rows) < _SLICE:
            return
        start = rows[-1][0] + b"\0"


def _all_marks(store: Store, number: int, known_at: int) -> dict[int, list[MarkRow]]:
    out: dict[int, list[MarkRow]] = {}
    for key, value in _slices(store, keys.marks_from(number, 0), keys.marks_to(number)):
        page, time, position, ordinal = keys.read_mark(key)
        if position <= known_at:
            out.setdefault(page, []).append(read_mark_row(time, position, ordinal, value))
    return out


def _all_hidden(store: Store, number: int, known_at: int) -> dict[int, bool]:
    """Whether a visibility change, the newest known at K, hides a revision's text."""
    out = {}
    for key, value in _slices(store, keys.visibility(number, 0), keys.visibility(number + 1, 0)):
        rev, position, _ = keys.read_revision(key)
        if position <= known_at:
            out[rev] = bool(read_visibility(value)[0] & Flag.TEXT_HIDDEN)
    return out


def _pages(store: Store, number: int) -> Iterator[list[EditRow]]:
    """Yield the edits of each page, by page id, each page's by (time, rev, position)."""
    page: list[EditRow] = []
    for row in _slices(store, keys.edits_from(number, 0), keys.edits_to(number)):
        edit = edit_row(row)
        if page and page[0].page != edit.page:
            yield page
            page = []
        page.append(edit)
    if page:
        yield page


def _fold(rows: list[EditRow], marks: list[MarkRow], hidden: dict[int, bool], choice: Choice) -> State | None:
    known = [row for row in rows if row.position <= choice.known_at]
    past = [row for row in known if row.time <= choice.valid_at]
    if not past or (marks and is_deleted(marks, past[-1], choice.valid_at)):
        return None
    current = _choose(past, hidden, choice)
    if current is None:
        return None
    newest = current
    if current.flags & Flag.TITLE_INFERRED and not any(mark.kind is Kind.MOVE for mark in marks):
        newest = known[-1]
    return State(current, title_at(marks, current, newest, choice.valid_at))


def _choose(past: list[EditRow], hidden: dict[int, bool], choice: Choice) -> EditRow | None:
    for row in reversed(past):
        if row.time > choice.settled_at:
            continue
        text_hidden = hidden.get(row.rev, bool(row.flags & Flag.TEXT_HIDDEN))
        if not text_hidden or choice.on_hidden is OnHidden.KEEP:
            return row
        if choice.on_hidden is OnHidden.SKIP:
            return None
    return None
