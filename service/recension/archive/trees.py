"""Reading snapshot trees: their leaves by page, what differs between two, the page that a leaf stands for.

Comparing reads no subtree that both sides share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recension.archive.commitments import Basis, basis_of
from recension.archive.history import Choice, State, edit_row, other_titles, own_title, page_at
from recension.archive.recent import Recent
from recension.archive.rows import EditRow
from recension.archive.sealed import SealedReader
from recension.model.errors import DataLossError
from recension.model.tree import TOP_LEVEL, Leaf, children_of, leaves_of, level_of
from recension.store import keys
from recension.store.interface import View


def node_at(view: View, digest: bytes) -> bytes:
    """Return a node. Raises ``DataLossError`` when it is missing."""
    node = view.get(keys.node(digest))
    if node is None:
        raise DataLossError(f"snapshot node {digest.hex()} is missing", node=digest.hex())
    return node


class Node(NamedTuple):
    """A node that was read."""

    level: int
    prefix: int
    """Of its page ids, which differ in the last ``4 * (level + 1)`` bits alone; 0 if it has none."""
    leaves: list[Leaf]
    """Of level 0."""
    children: dict[int, bytes]
    """Of higher levels: digests by prefix."""
    counts: list[int]
    """Of higher levels: entries below each child."""


Sides = tuple[list[Leaf], list[Leaf]]
"""What two trees hold that the other does not, by page id; a page whose leaf is another is on both sides."""


class TreeReader:
    """Reads trees inside one view."""

    def __init__(self, view: View, nodes: Recent[Node]) -> None:
        """``nodes``: remembered from other views, by digest, which says all there is to say of a node."""
        self._view = view
        self._nodes = nodes

    def runs(self, root: bytes, after: int) -> Iterator[list[Leaf]]:
        """Yield the leaves with page id > ``after``, by page id, those of a node together: 1 to 16.

        Subtrees before ``after`` are not read. The page ids of a run differ in their last four bits alone.
        """
        yield from self._runs(root, TOP_LEVEL, after)

    def _runs(self, digest: bytes, level: int, after: int) -> Iterator[list[Leaf]]:
        node = self._node(digest, level)
        leaves = _behind(node.leaves, after)
        if leaves:
            yield leaves
        for prefix, child in node.children.items():
            if (prefix + 1) << (4 * node.level) > after:
                yield from self._runs(child, node.level - 1, after)

    def leaf_at(self, root: bytes, page: int) -> Leaf | None:
        """Return the leaf of a page, if the tree has one."""
        run = next(self.runs(root, page - 1), None)
        return run[0] if run and run[0].page_id == page else None

    def leaf_number(self, root: bytes, index: int) -> Leaf:
        """Return the leaf that has ``index`` leaves before it. Raises ``DataLossError`` if there is none.

        Reads one path of nodes, by the numbers of entries that they have of their children.
        """
        node = self._node(root, TOP_LEVEL)
        while node.children:
            for child, count in zip(node.children.values(), node.counts, strict=True):
                if index < count:
                    node = self._node(child, node.level - 1)
                    break
                index -= count
            else:
                break
        if index >= len(node.leaves):
            raise DataLossError("a snapshot tree has fewer entries than its nodes say")
        return node.leaves[index]

    def differences(self, before: bytes, after: bytes, start: int) -> Iterator[Sides]:
        """Yield the leaves with page id > ``start`` that are in one tree alone, those of a node together."""
        if before != after:
            level = max(self._node(root, TOP_LEVEL).level for root in (before, after))
            yield from self._compare(before, after, level, start)

    def _compare(self, left: bytes | None, right: bytes | None, level: int, start: int) -> Iterator[Sides]:
        """Compare two subtrees, ``None`` for one without pages, whose nodes are of that level or lower."""
        if level == 0:
            a, b = (_behind(self._node(one, level).leaves, start) if one else [] for one in (left, right))
            if a and b:
                same = set(a).intersection(b)
                a, b = ([leaf for leaf in leaves if leaf not in same] for leaves in (a, b))
            if a or b:
                yield a, b
            return
        below, other = (self._children(one, level) if one else {} for one in (left, right))
        for prefix in sorted(below.keys() | other.keys()):
            x, y = below.get(prefix), other.get(prefix)
            if x != y and (prefix + 1) << (4 * level) > start:
                yield from self._compare(x, y, level - 1, start)

    def _children(self, digest: bytes, level: int) -> dict[int, bytes]:
        """Return a node's children as seen from ``level``: a lower node is its own only child there."""
        node = self._node(digest, level)
        if node.level == level or not (node.leaves or node.children):
            return node.children
        return {node.prefix >> (4 * (level - node.level - 1)): digest}

    def _node(self, digest: bytes, most: int) -> Node:
        """Return a node of at most that level: walks end, whatever is damaged."""
        node = self._nodes.get(digest)
        if node is None:
            raw = node_at(self._view, digest)
            level = level_of(raw)
            leaves = [] if level else leaves_of(raw)
            below = children_of(raw) if level else []
            children = {child.prefix: child.digest for child in below}
            first = leaves[0].page_id if leaves else next(iter(children), 0)
            node = Node(level, first >> 4, leaves, children, [child.entries for child in below])
            self._nodes.put(digest, node)
        if node.level > most:
            raise DataLossError(f"snapshot node {digest.hex()} is too high in its tree", node=digest.hex())
        return node


def _behind(leaves: list[Leaf], after: int) -> list[Leaf]:
    if not leaves or leaves[0].page_id > after:
        return leaves
    return [leaf for leaf in leaves if leaf.page_id > after]


# --- the page that a leaf stands for --------------------------------------------------------------


def bases_at(
    view: View, values: SealedReader, number: int, leaves: Sequence[Leaf], choice: Choice
) -> list[Basis]:
    """Return what leaves stand for. Raises ``DataLossError`` when a page has no such state.

    The leaf decides which it is, so the rules of a page as of (T, K) are asked only where the likely answers
    do not match it. A step over all leaves takes a quarter less than all steps of each.
    """
    edits = [_likely_edit(view, number, leaf, choice) for leaf in leaves]
    likely = [edit and basis_of(values, State(edit, own_title(edit))) for edit in edits]
    return [
        basis
        if basis is not None and basis.leaf == leaf.leaf
        else _other_basis(view, values, number, leaf, choice, basis)
        for leaf, basis in zip(leaves, likely, strict=True)
    ]


def _likely_edit(view: View, number: int, leaf: Leaf, choice: Choice) -> EditRow | None:
    """Return the edit that a leaf names if it is the newest that the choice may take."""
    row = view.last(
        keys.edits_from(number, leaf.page_id), keys.edits_from(number, leaf.page_id, choice.settled_at + 1)
    )
    edit = None if row is None else edit_row(row)
    return edit if edit and edit.rev == leaf.rev_id and edit.position <= choice.known_at else None


def _other_basis(
    view: View, values: SealedReader, number: int, leaf: Leaf, choice: Choice, basis: Basis | None
) -> Basis:
    """Return what a leaf stands for; ``basis`` is that of its likely edit, which it does not match."""
    if basis is not None:
        edit = basis.state.edit
        for title in other_titles(view, number, edit, choice):
            basis = basis_of(values, State(edit, title), basis)
            if basis.leaf == leaf.leaf:
                return basis
    state = page_at(view, number, leaf.page_id, choice)
    basis = None if state is None else basis_of(values, state)
    if basis is None or basis.leaf != leaf.leaf:
        raise DataLossError(
            f"page {leaf.page_id} does not match its leaf in the snapshot",
            hint="run recension-server fsck",
            pageId=leaf.page_id,
        )
    return basis
