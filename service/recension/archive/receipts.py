"""Proving an erasure: nothing that was withdrawn is reachable any more, as far as a store itself can tell.

What is looked for are the digests and salts that were destroyed; texts are not known any more. Files are
searched elsewhere (``server.searching``). Only what was found gone is put into a receipt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recension.archive.rebuild import Prefixes
from recension.archive.retracting import Retractor, Values, retractions
from recension.archive.texts.reading import load
from recension.archive.texts.rows import page_blocks, tails_of
from recension.model.digest import digest_of
from recension.model.errors import DataLossError, ErasureUnprovenError, InvalidArgumentError
from recension.model.retraction import Receipt, Retraction, read_receipt
from recension.store import keys
from recension.store.interface import Store, View


@dataclass(frozen=True, slots=True)
class Proven:
    """What was found of one retraction, and is gone."""

    position: int
    retraction: Retraction
    revisions: int
    fields: int
    texts: int
    texts_kept: int
    searched: frozenset[bytes]
    """Values that may be in no file: those of texts that came again with another revision are left out."""


def receipts(view: View) -> Iterator[tuple[int, Receipt]]:
    """Yield all receipts with their positions, in the order of the log."""
    for key, payload in view.scan(keys.receipt(0), keys.receipt(keys.END)):
        try:
            yield int.from_bytes(key[1:], "big"), read_receipt(payload)
        except InvalidArgumentError as error:
            raise DataLossError(f"a receipt is damaged: {error.message}") from None


def awaiting_receipt(store: Store) -> list[int]:
    """Return the positions of the retractions that have no receipt and were not taken back."""
    with store.view() as view:
        all_ = list(retractions(view))
        done = {receipt.retraction for _, receipt in receipts(view)}
    done |= {one.reverses for _, one in all_}
    return [position for position, one in all_ if not one.reverses and one.id not in done]


def prove(store: Store, position: int, values: Values) -> Proven:
    """Look for what a retraction was to destroy; ``values`` are those that ``Retractor.erase`` told.

    Decodes all texts of the pages concerned. Raises ``ErasureUnprovenError`` for anything that is left.
    """
    retraction, plan = Retractor(store).plan_of(position)
    if plan.left:
        raise unproven(position, f"{len(plan.left):,} revisions are not erased yet")
    with store.view() as view:
        # Another revision may have brought the same text since; it is not what was withdrawn.
        came_again = {text for text in values.texts if view.get(keys.text(text)) is not None}
        gone = values.texts - came_again
        for text in gone:
            if view.scan(*keys.text_holders(text), limit=1):
                raise unproven(position, "a row says which pages hold an erased text")
        kept = came_again | {text for text in values.kept if view.get(keys.text(text)) is not None}
    for number, page in sorted({(one.place.number, one.place.page) for one in plan.targets.values()}):
        with store.view() as view:
            for digest in _texts(view, number, page):
                if digest[:16] in gone:
                    raise unproven(position, f"a block of page {page} holds an erased text")
    targets = plan.targets.values()
    fields = len(plan.parts) * sum(len(target.events) for target in targets)
    searched = frozenset(gone | values.salts)
    return Proven(position, retraction, len(targets), fields, len(gone), len(kept), searched)


def _texts(view: View, number: int, page: int) -> Iterator[bytes]:
    """Yield the digests of all texts in the blocks of a page."""
    prefixes = Prefixes()
    blocks = [row.number for _, row in page_blocks(view, number, page)]
    for block in [*blocks, *(tail.number for tail in tails_of(view, number, page))]:
        for text in prefixes.texts(view, block, load(view, block)):
            yield digest_of(text)


def unproven(position: int, what: str) -> ErasureUnprovenError:
    """Return the error for what stands against a receipt."""
    return ErasureUnprovenError(
        f"the retraction at position {position} has no receipt: {what}",
        hint="run recension-server compact again; if it stays so, run recension-server fsck",
        position=position,
    )
