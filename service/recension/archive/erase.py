"""Erasing from an archive: texts from their blocks, and sealed values from the events that have them.

Identities stay: a field of an event keeps its 32-byte commitment, so leaves, roots and proofs come out
as before. What is destroyed is the text, the salt and the digest; LMDB's freed pages hold their bytes until
the store is compacted. All of it is for the holder of ``store.exclusive_writer()``, with no seal under way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from secrets import token_bytes

from recension.archive.history import edit_row
from recension.archive.sealed import (
    CONTENT_FIELD,
    TOGETHER,
    find_sealed,
    open_sealed,
    pack_sealed,
    with_sealed,
)
from recension.archive.texts.erasing import places_of, plan_erase, plan_erase_in
from recension.archive.texts.reading import load, read_place
from recension.model.errors import DataLossError, StoreFailedError
from recension.model.event import Edit
from recension.model.seal import FIELDS, read_content
from recension.store import keys
from recension.store.interface import Rewrite, Store, View

_SLICE = 4096
_TRIES = 10
_BLOBS = 64
"""Blobs of sealed values in one transaction: half a megabyte."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of a text."""

    revisions: tuple[tuple[int, int], ...]
    """(project number, revision id) of those that held it."""
    blocks: int
    """Text blocks that were rewritten."""


def erase_text(store: Store, digest: bytes) -> Erased:
    """Destroy a text and the content of every revision that holds it; durable when it returns.

    Idempotent; unknown digests erase nothing. A revision's other slots go with it: they share one commitment.
    Takes a few milliseconds, and some 20 us for each revision of the pages that hold the text.
    """
    for _ in range(_TRIES):
        with store.view() as view:
            plan, erased = _plan(view, digest)
        if store.rewrite([plan]) == [True]:
            return erased
    raise StoreFailedError("the text moved while it was erased", hint="try again with no other writer")


def _plan(view: View, digest: bytes) -> tuple[Rewrite, Erased]:
    pages = pages_holding(view, digest)
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


def pages_holding(view: View, digest: bytes) -> list[tuple[int, int]]:
    """Return the (project number, page) that hold a text."""
    pages = {
        (int.from_bytes(key[17:21], "big"), int.from_bytes(key[21:], "big"))
        for key, _ in view.scan(*keys.text_holders(digest))
    }
    place = view.get(keys.text(digest))
    if place is not None:
        block = load(view, read_place(place)[0])
        pages.add((block.project, block.page))
    return sorted(pages)


def erase_texts(store: Store, digests: Collection[bytes]) -> int:
    """Destroy texts, whatever names them: see to the contents that do. Returns how many were there.

    Durable when it returns; killed before, some are destroyed. Takes some 20 ms a block of texts.
    """
    left, gone = list(digests), 0
    for _ in range(_TRIES):
        places: dict[int, list[bytes]] = {}
        for at in range(0, len(left), _SLICE):
            with store.view() as view:
                for number, some in places_of(view, left[at : at + _SLICE]).items():
                    places.setdefault(number, []).extend(some)
        left = []
        for number, some in places.items():
            with store.view() as view:
                try:
                    plan = plan_erase_in(view, number, some)
                except DataLossError:
                    if places_of(view, some) == {number: some}:
                        raise
                    left += some  # a seal or a sort put it elsewhere
                    continue
                plan.index[keys.removed()] = token_bytes(8)
            if store.rewrite([plan]) == [True]:
                gone += len(some)
            else:
                left += some
        if not left:
            return gone
    raise StoreFailedError("texts moved while they were erased", hint="try again with no other writer")


Purge = tuple[int, int, tuple[int, ...]]
"""(position, ordinal, fields) of an edit."""


def purge_fields(store: Store, purges: Iterable[Purge]) -> int:
    """Destroy values of edits and their salts; returns how many were there. Durable, as ``erase_texts``."""
    by_blob: dict[bytes, list[Purge]] = {}
    for one in purges:
        by_blob.setdefault(keys.sealed_blob(one[0], one[1] // TOGETHER), []).append(one)
    gone, blobs = 0, list(by_blob.values())
    for at in range(0, len(blobs), _BLOBS):
        plan = Rewrite({}, {}, {})
        with store.view() as view:
            for some in blobs[at : at + _BLOBS]:
                gone += _purge_in(view, plan, some)
        if plan.blobs:
            plan.index[keys.removed()] = token_bytes(8)
            store.rewrite([plan])
    return gone


def _purge_in(view: View, plan: Rewrite, some: list[Purge]) -> int:
    """Add a blob without some values to a plan; return how many were there."""
    position, ordinal, _ = some[0]
    raw = view.blob(keys.sealed_blob(position, ordinal // TOGETHER))
    if raw is None:
        raise DataLossError(f"the values of event {position}.{ordinal} are missing", position=position)
    sealed = open_sealed(raw)
    gone = 0
    for _, ordinal, fields in some:
        at = ordinal % TOGETHER
        for field in fields:
            gone += sealed[at].values[field] is not None
            sealed[at] = sealed[at].purge(field, FIELDS[Edit])
    if gone:
        (plan.blobs[keys.sealed_blob(position, some[0][1] // TOGETHER)],) = pack_sealed(sealed)
    return gone
