"""Reading snapshot trees: their leaves by page, what differs between two, the page that a leaf stands for.

Comparing reads no subtree that both sides share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from recension.archive.history import Choice, State, TitleSource, edit_row, likely_titles, page_at
from recension.archive.rows import EditRow
from recension.model.errors import DataLossError
from recension.model.tree import Leaf, children_of, entry_leaf, leaves_of, level_of
from recension.store import keys
from recension.store.interface import View


def node_at(view: View, digest: bytes) -> bytes:
    """Return a node. Raises ``DataLossError`` when it is missing."""
    node = view.get(keys.node(digest))
    if node is None:
        raise DataLossError(f"snapshot node {digest.hex()} is missing", node=digest.hex())
    return node


def runs(view: View, root: bytes, after: int) -> Iterator[list[Leaf]]:
    """Yield the leaves with page id > ``after``, by page id, those of a node together: 1 to 16.

    Subtrees before ``after`` are not read. The page ids of a run differ in their last four bits alone.
    """
    node = node_at(view, root)
    level = level_of(node)
    if level == 0:
        leaves = leaves_of(node)
        if leaves and leaves[0].page_id <= after:
            leaves = [leaf for leaf in leaves if leaf.page_id > after]
        if leaves:
            yield leaves
        return
    for child in children_of(node):
        if (child.prefix + 1) << (4 * level) > after:
            yield from runs(view, child.digest, after)


def leaf_at(view: View, root: bytes, page: int) -> Leaf | None:
    """Return the leaf of a page, if the tree has one."""
    run = next(runs(view, root, page - 1), None)
    return run[0] if run and run[0].page_id == page else None


class Difference(NamedTuple):
    """One page that differs between two trees."""

    page_id: int
    before: Leaf | None
    after: Leaf | None


def differences(view: View, before: bytes, after: bytes, start: int) -> Iterator[list[Difference]]:
    """Yield the pages with id > ``start`` whose leaves differ, by page id, some together."""
    if before != after:
        yield from _compare(view, node_at(view, before), node_at(view, after), start)


def _compare(view: View, left: bytes | None, right: bytes | None, start: int) -> Iterator[list[Difference]]:
    level = max(level_of(node) for node in (left, right) if node is not None)
    if level == 0:
        found = _compare_leaves(left, right, start)
        if found:
            yield found
        return
    a, b = _children(left, level), _children(right, level)
    for prefix in sorted(a.keys() | b.keys()):
        x, y = a.get(prefix), b.get(prefix)
        if x == y or (prefix + 1) << (4 * level) <= start:
            continue
        yield from _compare(view, _expand(view, x), _expand(view, y), start)


def _expand(view: View, child: bytes | None) -> bytes | None:
    if child is None or len(child) != 32:  # noqa: PLR2004 - a digest, else the node itself
        return child
    return node_at(view, child)


def _children(node: bytes | None, level: int) -> dict[int, bytes]:
    """Children of a node as seen from ``level``: a lower node is its own only child there."""
    if node is None:
        return {}
    own = level_of(node)
    if own == level:
        return {child.prefix: child.digest for child in children_of(node)}
    if own == 0:
        leaves = leaves_of(node)
        return {leaves[0].page_id >> (4 * level): node} if leaves else {}
    first = children_of(node)[0].prefix
    return {(first << (4 * own)) >> (4 * level): node}


def _compare_leaves(left: bytes | None, right: bytes | None, start: int) -> list[Difference]:
    a = {leaf.page_id: leaf for leaf in leaves_of(left)} if left else {}
    b = {leaf.page_id: leaf for leaf in leaves_of(right)} if right else {}
    pairs = [(page, a.get(page), b.get(page)) for page in sorted(a.keys() | b.keys())]
    return [Difference(page, x, y) for page, x, y in pairs if page > start and x != y]


# --- the page that a leaf stands for --------------------------------------------------------------


def state_of(view: View, number: int, leaf: Leaf, choice: Choice) -> State:
    """Return the state that a leaf stands for. Raises ``DataLossError`` when the page has no such state.

    The leaf decides which it is, so the rules of a page as of (T, K) are asked only where the likely answer
    does not match it.
    """
    row = view.last(
        keys.edits_from(number, leaf.page_id), keys.edits_from(number, leaf.page_id, choice.settled_at + 1)
    )
    if row is not None:
        edit = edit_row(row)
        if edit.rev == leaf.rev_id and edit.position <= choice.known_at:
            for title in likely_titles(view, number, edit, choice):
                if _matches(leaf, edit, title):
                    return State(edit, title)
    state = page_at(view, number, leaf.page_id, choice)
    if state is None or not _matches(leaf, *state):
        raise DataLossError(
            f"page {leaf.page_id} does not match its leaf in the snapshot",
            hint="run recension-server fsck",
            pageId=leaf.page_id,
        )
    return state


def _matches(leaf: Leaf, edit: EditRow, title: TitleSource) -> bool:
    return entry_leaf(edit.page, edit.rev, edit.time, title.commitment, edit.content) == leaf.leaf
