"""Making snapshots: a project's share of the corpus as of (T, K) as a tree, whole or from another.

What belongs to it is found by ``corpus``, what changed since another by ``columns``; ``trees`` reads what is
made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from recension.archive.columns import changed_pages
from recension.archive.commitments import basis_of
from recension.archive.corpus import Entries, entries_at
from recension.archive.history import Choice, State, page_at, selects
from recension.archive.sealed import SealedReader
from recension.archive.trees import node_at
from recension.model.manifest import ProjectPart, Selector
from recension.model.tree import RADIX_BITS, RECORD, build_from, update
from recension.store import keys
from recension.store.interface import Row, Store, View

_NODES = 2**17
"""Tree nodes held to be sorted: some 100 MB."""
_DERIVED_SHARE = 0.05
"""Of a snapshot's pages; when more may have changed, making all of it is faster."""
_DERIVED_LEAST = 1000
_DERIVED_SLICE = 1000
"""Pages compared in one transaction: some 50 ms."""


def build_part(store: Store, project: str, number: int, selector: Selector, choice: Choice) -> ProjectPart:
    """Compute one project's share of a snapshot and keep its tree."""
    text_bytes = 0

    def counted() -> Iterator[Entries]:
        nonlocal text_bytes
        for some in entries_at(store, number, selector, choice):
            text_bytes += some.text_bytes
            yield some

    nodes = _Nodes(store)
    root, count = build_from(_groups(counted()), nodes.put)
    nodes.keep()
    return ProjectPart(project, count, text_bytes, root)


def _groups(slices: Iterable[Entries]) -> Iterator[tuple[int, bytes]]:
    """Yield the (prefix, records) of a tree's level 0 nodes."""
    begun: tuple[int, bytes] | None = None
    """The last node of the slices so far: the next may go on with it."""
    for some in slices:
        if not len(some.pages):
            continue
        prefixes = some.pages >> RADIX_BITS
        firsts = np.flatnonzero(np.diff(prefixes, prepend=-1))
        bounds = (np.append(firsts, len(prefixes)) * RECORD.size).tolist()
        for prefix, (start, stop) in zip(prefixes[firsts].tolist(), pairwise(bounds), strict=True):
            records = some.records[start:stop]
            if begun is not None and begun[0] == prefix:
                records = begun[1] + records
            elif begun is not None:
                yield begun
            begun = prefix, records
    if begun is not None:
        yield begun


class _Nodes:
    """Tree nodes on their way into the store, many at a time in the order of their keys."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: list[Row] = []

    def put(self, digest: bytes, node: bytes) -> None:
        """Take a node."""
        self._rows.append((keys.node(digest), node))
        if len(self._rows) >= _NODES:
            self.keep()

    def keep(self) -> None:
        """Store what was taken."""
        self._rows.sort()  # or each transaction would change pages all over the table
        self._store.put_derived(iter(self._rows))
        self._rows.clear()


def derive_part(
    store: Store, base: ProjectPart, number: int, selector: Selector, before: Choice, after: Choice
) -> ProjectPart | None:
    """Compute a project's share from that of another snapshot with the same selector, by what changed.

    ``None`` when so much changed that ``build_part`` is faster. The result is the same to the byte.
    """
    limit = max(_DERIVED_LEAST, int(base.count * _DERIVED_SHARE))
    pages = changed_pages(store, number, before, after, limit)
    if pages is None:
        return None
    total_bytes = base.text_bytes
    changes: list[tuple[int, tuple[int, bytes] | None]] = []
    for at in range(0, len(pages), _DERIVED_SLICE):
        with store.view() as view:
            values = SealedReader(view)
            for page in pages[at : at + _DERIVED_SLICE]:
                old, new = (_selected(view, number, page, selector, choice) for choice in (before, after))
                total_bytes += (new.edit.text_bytes if new else 0) - (old.edit.text_bytes if old else 0)
                if new != old:
                    changes.append((page, (new.edit.rev, basis_of(values, new).leaf) if new else None))
    nodes = _Nodes(store)
    with store.view() as view:
        root, count = update(base.root, changes, lambda digest: node_at(view, digest), nodes.put)
    nodes.keep()
    return ProjectPart(base.project, count, total_bytes, root)


def _selected(view: View, number: int, page: int, selector: Selector, choice: Choice) -> State | None:
    """Return the state of a page that the selector takes."""
    state = page_at(view, number, page, choice)
    return state if state is not None and selects(selector, state) else None
