"""From a digest to its text: the place of the text, its block, the prefixes before it, and a last check."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from recension.archive.texts.block import NO_PREFIX, Block, Prefix, damaged, decode, decode_chain, read_block
from recension.archive.texts.hot import HotTexts
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.store import keys
from recension.store.interface import View

_ORDINALS = 1 << 16
_WORTH_KEEPING = 2
"""A frame is kept apart if its block, all of which is read and checked for it, is larger by this factor."""
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


def read_stored(
    view: View, digests: Sequence[bytes], framed: Collection[bytes] = (), hot: HotTexts | None = None
) -> list[bytes | Frame]:
    """Return the texts with those digests for someone who compares them.

    Those of ``framed`` are frames where they are ``hot``, or lie alone in smaller ones. Raises
    ``DataLossError`` when one is not there, or its block is damaged.
    """
    texts: dict[bytes, bytes | Frame] = {}
    large: dict[bytes, bytes] = {}
    state = ""
    if hot is not None and framed:
        state, found = hot.find(view, framed)
        texts.update((digest, Frame(frame)) for digest, frame in found.items())
    for number, some in _places(view, [digest for digest in digests if digest not in texts]).items():
        block = load(view, number)
        frame = block.frames[0]
        alone = {
            digest
            for at, digest in some
            if digest in framed and block.alone(at) and len(frame) < block.lengths[at]
        }
        texts.update((digest, Frame(frame)) for digest in alone)
        if alone and sum(map(len, block.frames)) > _WORTH_KEEPING * len(frame):
            large.update((digest, frame) for digest in alone)
        texts.update(_texts_in(view, block, [place for place in some if place[1] not in alone]))
    if hot is not None and framed:
        plain = {digest: text for digest in framed if (text := texts[digest]) and isinstance(text, bytes)}
        hot.offer(state, plain, large)
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
