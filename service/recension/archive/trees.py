"""Reading snapshot trees: their leaves by page, what differs between two, the page that a leaf stands for.

Comparing reads no subtree that both sides share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recension.archive.history import Choice, State, page_at
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


def leaves(view: View, root: bytes, after: int) -> Iterator[Leaf]:
    """Yield the leaves with page id > ``after``, by page id; subtrees before it are not read."""
    node = node_at(view, root)
    level = level_of(node)
    if level == 0:
        yield from (leaf for leaf in leaves_of(node) if leaf.page_id > after)
        return
    for child in children_of(node):
        if (child.prefix + 1) << (4 * level) > after:
            yield from leaves(view, child.digest, after)


@dataclass(frozen=True, slots=True)
class Difference:
    """One page that differs between two trees."""

    page_id: int
    before: Leaf | None
    after: Leaf | None


_Ref = tuple[int, bytes]
"""(level, digest)."""


def differences(view: View, before: bytes, after: bytes, start: int) -> Iterator[Difference]:
    """Yield the pages with id > ``start`` whose leaves differ, by page id; equal subtrees are not read."""
    if before == after:
        return
    left, right = node_at(view, before), node_at(view, after)
    yield from _compare(view, left, right, start)


def _compare(view: View, left: bytes | None, right: bytes | None, start: int) -> Iterator[Difference]:
    level = max(level_of(node) for node in (left, right) if node is not None)
    if level == 0:
        yield from _compare_leaves(left, right, start)
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
    if level_of(node) == level:
        return {child.prefix: child.digest for child in children_of(node)}
    own = level_of(node)
    records = leaves_of(node) if own == 0 else None
    if records is not None:
        return {records[0].page_id >> (4 * level): node} if records else {}
    first = children_of(node)[0].prefix
    return {(first << (4 * own)) >> (4 * level): node}


def _compare_leaves(left: bytes | None, right: bytes | None, start: int) -> Iterator[Difference]:
    a = {leaf.page_id: leaf for leaf in leaves_of(left)} if left else {}
    b = {leaf.page_id: leaf for leaf in leaves_of(right)} if right else {}
    for page_id in sorted(a.keys() | b.keys()):
        x, y = a.get(page_id), b.get(page_id)
        if page_id > start and x != y:
            yield Difference(page_id, x, y)


def state_of(view: View, number: int, page: int, choice: Choice, leaf: bytes) -> State:
    """Return a page's state and check it against its leaf in the tree."""
    state = page_at(view, number, page, choice)
    if state is not None:
        edit = state.edit
        if entry_leaf(edit.page, edit.rev, edit.time, state.title.commitment, edit.content) == leaf:
            return state
    raise DataLossError(
        f"page {page} does not match its leaf in the snapshot",
        hint="run recension-server fsck",
        pageId=page,
    )
