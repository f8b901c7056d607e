"""From a digest to its text: the place of the text, its block, the prefixes before it, and a last check."""

from __future__ import annotations

from recension.archive.texts.block import NO_PREFIX, Block, Prefix, read_block
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.store import keys
from recension.store.interface import View

_ORDINALS = 1 << 16
_LONGEST_CHAIN = 10_000
"""Ends a circle of references, which only damage can make."""


def place_value(block: int, ordinal: int) -> bytes:
    """Return the value of a text's row: where it lies."""
    return (block * _ORDINALS + ordinal).to_bytes(8, "big")


def read_place(value: bytes) -> tuple[int, int]:
    """Return (block id, ordinal)."""
    return divmod(int.from_bytes(value, "big"), _ORDINALS)


def knows_text(view: View, digest: bytes) -> bool:
    """Say whether a text is stored."""
    return view.get(keys.text(digest)) is not None


def read_text(view: View, digest: bytes) -> bytes:
    """Return the text with that digest, checked. Raises ``DataLossError`` when it is not there or not it."""
    value = view.get(keys.text(digest))
    if value is None:
        raise DataLossError(f"text sha256:{digest.hex()} is missing", digest=digest.hex())
    number, ordinal = read_place(value)
    block = load(view, number)
    if ordinal >= len(block.lengths):
        raise DataLossError(f"text sha256:{digest.hex()} is not in its block", digest=digest.hex())
    start, end = block.bounds(ordinal)
    text = block.decode(prefix_of(view, block).text, end)[start:]
    if digest_of(text) != digest:
        raise DataLossError(f"text sha256:{digest.hex()} does not match its digest", digest=digest.hex())
    return text


def load(view: View, number: int) -> Block:
    """Return a block by its id. Raises ``DataLossError`` when it is missing."""
    raw = view.blob(keys.block(number))
    if raw is None:
        raise DataLossError(f"text block {number} is missing", block=number)
    return read_block(raw)


def prefix_of(view: View, block: Block) -> Prefix:
    """Return what a block was compressed against."""
    return as_prefix(view, block.prefix) if block.prefix else NO_PREFIX


def as_prefix(view: View, number: int) -> Prefix:
    """Return what a block offers others as prefix."""
    chain: list[tuple[Block, int]] = []
    at = number
    while at:
        block = load(view, at)
        ordinal = block.prefix_ordinal()
        if ordinal is None or len(chain) > _LONGEST_CHAIN:
            raise DataLossError(f"text block {at} offers no prefix", block=at)
        chain.append((block, ordinal))
        at = block.prefix
    text = b""
    for block, ordinal in reversed(chain):
        start, end = block.bounds(ordinal)
        text = block.decode(text, end)[start:]
    return Prefix(number, chain[0][0].depth, text)


def texts_of(view: View, block: Block) -> list[bytes]:
    """Return all texts of a block; an erased one is empty."""
    return block.split(block.decode(prefix_of(view, block).text, sum(block.lengths)))


def next_text_id(view: View) -> int:
    """Return an id greater than that of every block: blocks bear the greatest id of their texts."""
    newest = view.last_blob_key(keys.block(0), keys.block(keys.END))
    return 1 if newest is None else int.from_bytes(newest[1:], "big") + 1
