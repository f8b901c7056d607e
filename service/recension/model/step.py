"""Steps of a followed scope: the check that one root follows from another by what is said to have changed.

Whoever keeps a root and nothing else is given, with each step, the nodes of the tree before that lie on the
paths to the changed pages. Their digests lead from the root that is kept to the records before; the tree with
the records after has the root that is kept from then on (docs/changes.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from recension.model.errors import DataLossError, VerificationError
from recension.model.event import MAX_ID
from recension.model.tree import EMPTY_NODE, EMPTY_ROOT, find, node_digest, update

_LEAF_BYTES = 32


class Record(NamedTuple):
    """A page's record in a snapshot tree."""

    rev_id: int
    leaf: bytes


class PageStep(NamedTuple):
    """A page whose record is another after a step; ``None`` where the scope does not hold the page."""

    page_id: int
    before: Record | None
    after: Record | None


class Nodes:
    """Tree nodes by their digests: those that were sent, and those that follow from them."""

    def __init__(self) -> None:
        """Know the empty tree alone."""
        self._known = {EMPTY_ROOT: EMPTY_NODE}

    def add(self, nodes: Iterable[bytes]) -> None:
        """Take nodes as they came; a false one only has a digest that nothing asks for."""
        self._known.update((node_digest(node), node) for node in nodes)

    def step(self, root: bytes, pages: Sequence[PageStep]) -> bytes:
        """Return the root that follows from ``root`` and the changed pages, ascending by page id.

        Raises ``VerificationError`` when the tree of ``root`` has other records than are said to be before,
        or a node that is needed is not there.
        """
        if not pages:
            return root
        try:
            return self._step(root, pages)
        except DataLossError as error:
            raise VerificationError(f"what was sent with a step is no part of a tree: {error}") from None

    def _step(self, root: bytes, pages: Sequence[PageStep]) -> bytes:
        last = 0
        for page_id, before, after in pages:
            if not last < page_id <= MAX_ID or before == after:
                raise VerificationError(f"page {page_id} is told twice, out of turn, or as if it had changed")
            last = page_id
            if after is not None and (not 0 < after.rev_id <= MAX_ID or len(after.leaf) != _LEAF_BYTES):
                raise VerificationError(f"page {page_id} is said to get a record that is none")
            found = find(root, page_id, self._get)
            if (None if found is None else Record(found.rev_id, found.leaf)) != before:
                raise VerificationError(f"page {page_id} was not as it is said to have been")
        changes = [(page_id, None if after is None else (*after,)) for page_id, _, after in pages]
        return update(root, changes, self._get, self._put)[0]

    def _get(self, digest: bytes) -> bytes:
        node = self._known.get(digest)
        if node is None:
            raise VerificationError(f"a node of the tree is missing: {digest.hex()}")
        return node

    def _put(self, digest: bytes, node: bytes) -> None:
        self._known[digest] = node
