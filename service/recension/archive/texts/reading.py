"""From a digest to its text: the place of the text, its block, the prefixes before it, and a last check."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from recension.archive.texts.block import NO_PREFIX, Block, Prefix, damaged, decode, decode_chain, read_block
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.store import keys
from recension.store.interface import View

_ORDINALS = 1 << 16
_LONGEST_CHAIN = 10_000
"""Ends a circle of references, which only damage can make."""


class Frame(NamedTuple):
    """A text as it is stored: one zstd frame without a prefix, that holds nothing else."""

    data: bytes


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
    return read_texts(view, [digest])[0]


def read_texts(view: View, digests: Sequence[bytes]) -> list[bytes]:
    """Return the texts with those digests, in the order asked, each checked; a block is decoded once for all.

    Holds the texts asked for and one block. Raises ``DataLossError`` when one is not there or not it.
    """
    texts: dict[bytes, bytes] = {}
    for number, some in _places(view, digests).items():
        for digest, text in _texts_in(view, load(view, number), some):
            if digest_of(text) != digest:
                raise _lost(digest, "does not match its digest")
            texts[digest] = text
    return [texts[digest] for digest in digests]


def read_stored(view: View, digests: Sequence[bytes], framed: Collection[bytes] = ()) -> list[bytes | Frame]:
    """Return the texts with those digests for someone who compares them.

    Those of ``framed`` are frames where they lie alone in smaller ones. Raises ``DataLossError`` when one is
    not there, or its block is damaged.
    """
    texts: dict[bytes, bytes | Frame] = {}
    for number, some in _places(view, digests).items():
        block = load(view, number)
        alone = {
            digest: Frame(block.frames[0])
            for at, digest in some
            if digest in framed and block.alone(at) and len(block.frames[0]) < block.lengths[at]
        }
        texts |= alone
        texts.update(_texts_in(view, block, [place for place in some if place[1] not in alone]))
    return [texts[digest] for digest in digests]


def _places(view: View, digests: Sequence[bytes]) -> dict[int, list[tuple[int, bytes]]]:
    """Return where texts lie: for each block the (ordinal, digest) of those in it."""
    wanted: dict[int, list[tuple[int, bytes]]] = {}
    for digest, value in zip(digests, view.get_many([keys.text(digest) for digest in digests]), strict=True):
        if value is None:
            raise _lost(digest, "is missing")
        number, ordinal = read_place(value)
        wanted.setdefault(number, []).append((ordinal, digest))
    return wanted


def _texts_in(view: View, block: Block, wanted: list[tuple[int, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (digest, text) of texts of a block; nothing of them is compared."""
    at, content = -1, b""
    for ordinal, digest in sorted(wanted):
        if ordinal >= len(block.lengths):
            raise _lost(digest, "is not in its block")
        frame, start, end = block.find(ordinal)
        if at < 0:
            at = frame
            content = decode_chain(block.page, [*_before(view, block), *block.frames[: frame + 1]])
        while at < frame:
            at += 1
            content = decode(block.page, block.frames[at], content)
        yield digest, content[start:end]


def _lost(digest: bytes, why: str) -> DataLossError:
    return DataLossError(f"text sha256:{digest.hex()} {why}", digest=digest.hex())


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
    block = load(view, number)
    frames = [*_before(view, block), _offered(number, block)]
    return Prefix(number, block.depth, decode_chain(block.page, frames))


def _before(view: View, block: Block) -> list[bytes]:
    """Return the frames that have to be decoded before a block's own, each the prefix of the next."""
    frames: list[bytes] = []
    page, at = block.page, block.prefix
    while at:
        if len(frames) > _LONGEST_CHAIN:
            raise damaged(page, "its prefixes have no end")
        block = load(view, at)
        frames.append(_offered(at, block))
        at = block.prefix
    frames.reverse()
    return frames


def _offered(number: int, block: Block) -> bytes:
    if not block.serves:
        raise DataLossError(f"text block {number} offers no prefix", block=number)
    return block.frames[0]


def texts_of(view: View, block: Block) -> list[bytes]:
    """Return all texts of a block, the newest first; an erased one is empty."""
    return block.split(prefix_of(view, block).text)


def next_text_id(view: View) -> int:
    """Return an id greater than that of every block: blocks bear the greatest id of their texts."""
    newest = view.last_blob_key(keys.block(0), keys.block(keys.END))
    return 1 if newest is None else int.from_bytes(newest[1:], "big") + 1
