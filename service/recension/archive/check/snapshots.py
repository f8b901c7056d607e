"""The phases ``snapshots`` and ``nodes``.

The tree of each kept snapshot is compared with the history page by page, and every tree node is checked by
itself, whether or not a manifest leads to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256

from recension.archive.check.forms import name_of
from recension.archive.check.patience import PatientView
from recension.archive.check.state import Remedy
from recension.archive.check.work import FEW, Work
from recension.archive.commitments import basis_of
from recension.archive.history import choice_of, page_at, selects
from recension.archive.projects import find_project
from recension.archive.sealed import SealedReader
from recension.model.errors import DataLossError, InvalidArgumentError
from recension.model.manifest import Manifest, ProjectPart, read_manifest
from recension.model.tree import Child, Leaf, children_of, leaves_of, level_of, node_digest
from recension.store import keys
from recension.store.interface import Row, View

_LAST_PAGE = 2**63
_Entry = tuple[int, bytes]
"""Revision and leaf."""
_Place = tuple[int, int, int, bool]
"""Last page that is done, entries and bytes up to it, and whether all of them could be read."""
_START: _Place = (0, 0, 0, True)


def check_snapshots(work: Work) -> Iterator[bool]:
    """Walk the manifests, their parts and the pages of these; the cursor is a place in all three."""
    state = work.state
    position, at, *place = state.cursor or [0, 0, *_START]
    while True:
        with work.store.view() as view:
            start, stop = keys.snapshot_at(position), keys.snapshot_at(state.known_at + 1)
            patient = PatientView(view)
            rows = patient.scan(start, stop, limit=1)
            released = rows and patient.get(keys.released(sha256(rows[0][1]).digest())) is not None
        if not rows:
            return
        position = int.from_bytes(rows[0][0][1:], "big")
        if released:
            position, at = position + 1, 0
            continue  # its tree was removed, and can be made again
        try:
            manifest = read_manifest(rows[0][1])
        except InvalidArgumentError:
            position, at = position + 1, 0
            continue  # told by the phase ``log``
        for part in manifest.parts[at:]:
            for reached in _Part(work, manifest, part).steps(*place):
                state.reach([position, at, *reached], position / max(state.known_at, 1))
                yield True
            state.entries += part.count
            at, place = at + 1, list(_START)
            state.cursor = [position, at, *_START]
        position, at = position + 1, 0
        state.cursor = [position, 0, *_START]
        yield True


class _Part:
    """One project's share of a snapshot, compared with the history page by page."""

    def __init__(self, work: Work, manifest: Manifest, part: ProjectPart) -> None:
        self._work = work
        self._part = part
        self._selector = manifest.selector
        self._place = f"snapshot sha256:{manifest.snapshot_id.hex()}, project {part.project}"
        self._choice = choice_of(manifest.selector, manifest.as_of)

    def steps(self, page: int, count: int, size: int, is_read: bool) -> Iterator[_Place]:  # noqa: FBT001 - of a cursor
        """Yield how far it is after each step."""
        while page < _LAST_PAGE:
            with self._work.store.view() as view:
                number = find_project(PatientView(view), self._part.project)
                if number is None:
                    self._find("snapshot-project", "", "there is no such project")
                    return
                expected, text_bytes, upto = self._expected(view, number, page)
                self._compare(view, expected, page, upto)
            count += sum(entry is not None for entry in expected.values())
            size += text_bytes
            page = upto
            is_read = is_read and None not in expected.values()
            yield page, count, size, is_read
        if is_read and (count, size) != (self._part.count, self._part.text_bytes):
            what = f"the history has {count} entries of {size} bytes, the manifest others"
            self._find("snapshot-count", "", what)

    def _find(self, kind: str, where: str, what: str) -> None:
        self._work.find(kind, self._place + where, what, Remedy.REBUILD)

    def _expected(self, view: View, number: int, page: int) -> tuple[dict[int, _Entry | None], int, int]:
        """Return (entries, bytes of their texts, last page) of the next pages; ``None`` is one unread."""
        patient, values = PatientView(view), SealedReader(view)
        entries: dict[int, _Entry | None] = {}
        size = 0
        for _ in range(FEW):
            start = keys.edits_from(number, page + 1)
            rows = patient.scan(start, keys.edits_to(number), limit=1)
            if not rows:
                return entries, size, _LAST_PAGE
            page = keys.read_edit(rows[0][0])[0]
            try:
                state = page_at(view, number, page, self._choice)
                if state is None or not selects(self._selector, state):
                    continue
                leaf = basis_of(values, state).leaf
            except (DataLossError, struct.error, ValueError, LookupError):
                entries[page] = None  # told by the phases ``log`` and ``rows``
                continue
            entries[page] = state.edit.rev, leaf
            size += state.edit.text_bytes
        return entries, size, page

    def _compare(self, view: View, expected: dict[int, _Entry | None], after: int, upto: int) -> None:
        found: dict[int, _Entry] = {}
        holes: list[range] = []
        root = Child(0, self._part.count, self._part.root)
        for item in self._leaves(view, root, None, after, upto):
            if isinstance(item, range):
                holes.append(item)
            else:
                found[item.page_id] = item.rev_id, item.leaf
        for page in sorted(expected.keys() | found.keys()):
            if expected.get(page, b"") is None or any(page in hole for hole in holes):
                continue
            if expected.get(page) != found.get(page):
                what = "its leaf does not follow from the history"
                if page not in found:
                    what = "its entry is not in the tree"
                elif page not in expected:
                    what = "the history has no such entry"
                self._find("snapshot-leaf", f", page {page}", what)

    def _leaves(
        self, view: View, child: Child, level: int | None, after: int, upto: int
    ) -> Iterator[Leaf | range]:
        """Yield the leaves of a subtree with ``after`` < page id <= ``upto``, and pages that cannot be read.

        ``child`` and ``level`` are what its parent says of it; no level for a root, which has no parent.
        """
        try:
            node = view.get(keys.node(child.digest))
            if node is None:
                raise DataLossError("it is missing")  # noqa: TRY301 - told as the others are
            own_level, records = _read_node(child.digest, node)
            if level is not None:
                _check_child(child, level, own_level, records)
        except DataLossError as error:
            self._find("snapshot-node", f", node {child.digest.hex()}", error.message)
            yield range(_LAST_PAGE) if level is None else _pages(child, level + 1)
            return
        for record in records:
            if isinstance(record, Leaf):
                if after < record.page_id <= upto:
                    yield record
                continue
            pages = _pages(record, own_level)
            if pages.stop > after and pages.start <= upto:
                yield from self._leaves(view, record, own_level - 1, after, upto)


def _pages(child: Child, level: int) -> range:
    """Return the pages that lie below a child of a node of some level."""
    return range(child.prefix << 4 * level, child.prefix + 1 << 4 * level)


def _check_child(child: Child, level: int, own_level: int, records: Sequence[Leaf | Child]) -> None:
    """Check a node against what its parent says of it. Raises ``DataLossError``."""
    if own_level != level:
        raise DataLossError("it is of another level than its parent says")
    said = [(one.page_id, 1) if isinstance(one, Leaf) else (one.prefix, one.entries) for one in records]
    if any(prefix >> 4 != child.prefix for prefix, _ in said):
        raise DataLossError("it lies under another prefix")
    if child.entries != sum(count for _, count in said):
        raise DataLossError("it has another number of entries than its parent says")


# --- nodes ----------------------------------------------------------------------------------------


def check_nodes(work: Work) -> Iterator[bool]:
    """Walk the tree nodes; the cursor is the next key."""
    start = bytes.fromhex(work.state.cursor[0]) if work.state.cursor else b"N"
    for next_ in work.walk(start, b"O", partial(_check_nodes, work)):
        work.state.reach([next_.hex()], next_[1] / 256)
        yield True


def _read_node(digest: bytes, node: bytes) -> tuple[int, Sequence[Leaf | Child]]:
    """Return (level, records) of a node. Raises ``DataLossError`` if it is none, or another."""
    if node_digest(node) != digest:
        raise DataLossError("it does not match its digest")
    level = level_of(node)
    return level, leaves_of(node) if level == 0 else children_of(node)


def _check_nodes(work: Work, view: View, rows: list[Row]) -> None:
    for key, node in rows:
        what = _node_fault(view, key, node)
        if what:
            work.find("node-wrong", name_of(key), what, Remedy.REBUILD)


def _node_fault(view: View, key: bytes, node: bytes) -> str:
    try:
        _, records = _read_node(key[1:], node)
        below = [keys.node(record.digest) for record in records if isinstance(record, Child)]
        return "a child is missing" if None in view.get_many(below) else ""
    except DataLossError as error:
        return error.message
