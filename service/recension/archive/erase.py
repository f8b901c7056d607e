"""Erasing a text from an archive: from its block, and from every revision that named its digest.

Identities stay: the content of a revision keeps its 32-byte commitment, so leaves, roots and proofs come out
as before. What is destroyed is the text, the salt and the digest; LMDB's freed pages hold their bytes until
the store is compacted.
"""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_bytes

from recension.archive.history import edit_row
from recension.archive.sealed import CONTENT_FIELD, find_sealed, with_sealed
from recension.archive.texts.erasing import plan_erase
from recension.archive.texts.reading import load, read_place
from recension.model.errors import StoreFailedError
from recension.model.event import Edit
from recension.model.seal import FIELDS, read_content
from recension.store import keys
from recension.store.interface import Rewrite, Store, View

_SLICE = 4096
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of a text."""

    revisions: tuple[tuple[int, int], ...]
    """(project number, revision id) of those that held it."""
    blocks: int
    """Text blocks that were rewritten."""


def erase_text(store: Store, digest: bytes) -> Erased:
    """Destroy a text and the content of every revision that holds it; durable when it returns.

    For the holder of ``store.exclusive_writer()``, with no seal under way. Idempotent; unknown digests erase
    nothing. A revision's other slots go with it: they share one commitment. Takes a few milliseconds, and
    some 20 us for each revision of the pages that hold the text.
    """
    for _ in range(_TRIES):
        with store.view() as view:
            plan, erased = _plan(view, digest)
        if store.rewrite([plan]) == [True]:
            return erased
    raise StoreFailedError("the text moved while it was erased", hint="try again with no other writer")


def _plan(view: View, digest: bytes) -> tuple[Rewrite, Erased]:
    pages = _pages(view, digest)
    plan = plan_erase(view, digest) or Rewrite({}, {}, {})
    blocks = len(plan.blobs)
    revisions = []
    for project, page in pages:
        start, stop = keys.edits_from(project, page), keys.edits_from(project, page + 1)
        while rows := view.scan(start, stop, limit=_SLICE):
            for row in rows:
                edit = edit_row(row)
                sealed = find_sealed(view, edit.position, edit.ordinal)
                content = sealed.values[CONTENT_FIELD]
                if content is not None and any(slot.digest == digest for slot in read_content(content)):
                    revisions.append((project, edit.rev))
                    purged = sealed.purge(CONTENT_FIELD, FIELDS[Edit])
                    with_sealed(view, plan.blobs, edit.position, edit.ordinal, purged)
            start = rows[-1][0] + b"\0"
    if plan.index or plan.blobs:
        plan.index[keys.removed()] = token_bytes(8)  # whoever holds what was read before, looks again
    return plan, Erased(tuple(revisions), blocks)


def _pages(view: View, digest: bytes) -> list[tuple[int, int]]:
    """Return the (project, page) that hold a text."""
    pages = {
        (int.from_bytes(key[17:21], "big"), int.from_bytes(key[21:], "big"))
        for key, _ in view.scan(*keys.text_holders(digest))
    }
    place = view.get(keys.text(digest))
    if place is not None:
        block = load(view, read_place(place)[0])
        pages.add((block.project, block.page))
    return sorted(pages)
