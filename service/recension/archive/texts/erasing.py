"""Erasing texts from a block: what is compressed against them is compressed anew, nothing else changes.

A block keeps its id and the places of its other texts; an erased one is empty. Only blocks whose prefix it
was are touched besides, and since their texts stay the same, no others after them. Pages that LMDB freed hold
the old bytes until the store is compacted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from recension.archive.texts.block import (
    BLOCK_LEVEL,
    TAIL,
    TAIL_LEVEL,
    Block,
    Prefix,
    encode,
    parent,
    prefix_text,
)
from recension.archive.texts.reading import load, prefix_of, read_place, texts_of
from recension.archive.texts.rows import GONE, Tail, page_blocks, read_page_block, read_tail, tails_of
from recension.model.errors import DataLossError
from recension.store import keys
from recension.store.interface import Rewrite, View


def plan_erase(view: View, digest: bytes) -> Rewrite | None:
    """Return the rewrite that destroys a text, ``None`` when it is not stored.

    For the one writer of texts, with nothing being sealed. Raises ``DataLossError``.
    """
    places = places_of(view, [digest])
    return plan_erase_in(view, *places.popitem()) if places else None


def places_of(view: View, digests: Iterable[bytes]) -> dict[int, list[bytes]]:
    """Return which blocks texts lie in, and which texts; those that are not stored are left out."""
    places: dict[int, list[bytes]] = {}
    for digest in digests:
        value = view.get(keys.text(digest))
        if value is not None:
            places.setdefault(read_place(value)[0], []).append(digest)
    return places


def plan_erase_in(view: View, number: int, digests: Iterable[bytes]) -> Rewrite:
    """Return the rewrite that destroys texts of one block, on the terms of ``plan_erase``."""
    block = load(view, number)
    texts = texts_of(view, block)
    before = prefix_text(texts)
    plan = Rewrite({}, {}, {})
    for digest in digests:
        row = keys.text(digest)
        value = view.get(row)
        if value is None or read_place(value)[0] != number:
            raise DataLossError(f"a text is not in block {number} any more", block=number)
        texts[read_place(value)[1]] = b""
        plan.expected[row] = value
        plan.index[row] = None
        for key, _ in view.scan(*keys.text_holders(digest)):
            plan.index[key] = None
    _put(view, plan, number, block, texts, prefix_of(view, block), erased=True)
    after = prefix_text(texts)
    if after != before:
        for user in _users(view, number, block):
            other = load(view, user)
            prefix = Prefix(number, block.depth, after)
            _put(view, plan, user, other, other.split(before), prefix, erased=False)
            if not after:
                plan.index[keys.block_user(number, user)] = None
    return plan


def _put(
    view: View, plan: Rewrite, number: int, block: Block, texts: list[bytes], prefix: Prefix, *, erased: bool
) -> None:
    """Add a block's new bytes to the plan, and the row of its page that goes with them."""
    tail = block.index == TAIL
    level = TAIL_LEVEL if tail else BLOCK_LEVEL
    plan.blobs[keys.block(number)] = encode(block.project, block.page, block.index, texts, prefix, level)
    key = (
        keys.tail(block.project, block.page, number)
        if tail
        else keys.page_block(block.project, block.page, block.index)
    )
    value = view.get(key)
    if value is None:
        raise DataLossError(f"page {block.page} does not name text block {number}", block=number)
    plan.expected[key] = value
    if not tail:
        plan.index[key] = read_page_block(value).rewritten(sum(map(len, texts))).encode()
    elif erased:
        plan.index[key] = Tail(number, GONE, read_tail(key, value).time, 0).encode()


def _users(view: View, number: int, block: Block) -> Iterator[int]:
    """Yield the ids of the blocks whose prefix is in a block."""
    page = block.project, block.page
    if block.index != TAIL:
        for index, row in page_blocks(view, *page):
            if parent(index, lone=True) == block.index and load(view, row.number).prefix == number:
                yield row.number
    for tail in tails_of(view, *page):
        if load(view, tail.number).prefix == number:
            yield tail.number
    for key, _ in view.scan(keys.block_user(number, 1), keys.block_user(number + 1)):
        user = int.from_bytes(key[-8:], "big")
        raw = view.blob(keys.block(user))
        if raw is not None and load(view, user).prefix == number:
            yield user
