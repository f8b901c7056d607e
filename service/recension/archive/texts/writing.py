"""New texts in a commit: many of one page at once become a block, the others tails."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from recension.archive.texts.block import (
    BLOCK_BYTES,
    BLOCK_LEVEL,
    BLOCK_TEXTS,
    MIN_PREFIX_BYTES,
    NO_PREFIX,
    TAIL,
    TAIL_LEVEL,
    Prefix,
    encode,
    is_lone,
    parent,
    placed,
    prefix_text,
)
from recension.archive.texts.reading import as_prefix, load, place_value
from recension.archive.texts.rows import (
    SHORT_DIGEST,
    PageBlock,
    Tail,
    block_prefix,
    last_block,
    read_page_block,
    similar_prefix,
    tails_of,
    use_rows,
)
from recension.archive.texts.similar import Similar
from recension.store import keys
from recension.store.interface import Row, View

SEAL_TEXTS = 32
"""Tails are chained one to the next, so their number bounds a read as well."""
CACHE_BYTES = 96 * 2**20
_OFFERS = 2**16
"""Blocks that came ready and are remembered; one that has an older one as prefix is made anew."""
_PAGE_BYTES, _TAIL_BYTES = 1000, 300
"""Of the objects that stand for a page and for a tail."""

Page = tuple[int, int]
"""(project number, page id)."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NewText:
    """A text that is not stored yet."""

    page: Page
    time: int
    text: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """A block of a page, or a tail, that was compressed before it was known what the store holds."""

    page: int
    index: int
    """Among the blocks of its page; ``TAIL`` for a tail."""
    depth: int
    needs: bytes
    """Digest of its prefix; empty for none."""
    offers: bytes
    """Digest of what it offers others as prefix; empty for nothing."""
    digests: list[bytes]
    """Of its texts, in the order of the block."""
    raw: bytes
    """As ``encode`` makes it; project and block of the prefix are put in later (``placed``)."""


@dataclass(slots=True)
class Pending:
    """What the writer holds of a page: its tails, and the text that the next tail is compressed against."""

    tails: list[tuple[Tail, bytes | None]]
    """In the order of arrival; with the text while it is in memory."""
    prefix: Prefix
    blocks: int
    """Sealed blocks so far."""
    raw_bytes: int = 0
    """Bytes of its tails."""
    text_bytes: int = 0
    """Bytes of those that are in memory."""
    sealing: bool = False

    def add(self, tail: Tail, text: bytes) -> None:
        """Append a tail."""
        self.tails.append((tail, text))
        self.raw_bytes += len(text)
        self.text_bytes += len(text)

    def drop(self, count: int) -> None:
        """Take the oldest tails away."""
        for tail, text in self.tails[:count]:
            self.raw_bytes -= tail.size
            self.text_bytes -= len(text) if text is not None else 0
        del self.tails[:count]

    def unload(self) -> None:
        """Let go of the texts of its tails; sealing reads them again."""
        self.tails = [(tail, None) for tail, _ in self.tails]
        self.text_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of memory."""
        return len(self.prefix.text) + self.text_bytes + _PAGE_BYTES + _TAIL_BYTES * len(self.tails)

    @property
    def ripe(self) -> bool:
        """Whether its tails fill a block."""
        return not self.sealing and (len(self.tails) >= SEAL_TEXTS or self.raw_bytes >= BLOCK_BYTES)


class TextWriter:
    """Turns new texts into rows of a commit. One writer, one thread; ``reset`` after a lost race."""

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        """Start with nothing in memory, and hold at most ``cache_bytes`` of pages and their tails."""
        self._cache_bytes = cache_bytes
        self.pages: OrderedDict[Page, Pending] = OrderedDict()
        self.touched: list[Page] = []
        """Pages of the last ``store``."""
        self.similar = Similar()
        self.planned: dict[int, tuple[Prefix, dict[bytes, bytes | None]]] = {}
        """First blocks being made, and the row that says that they were: only what follows may use them."""
        self._held = 0
        self._loaded: OrderedDict[Page, None] = OrderedDict()
        self._offered: dict[int, Prefix] = {}
        self._indexed: dict[tuple[int, int, int], Prefix] = {}
        self._bulky: set[Page] = set()
        """Pages of the last ``store`` with blocks that came ready, and others that are to be forgotten."""
        self._offers: OrderedDict[bytes, tuple[Page, int, int]] = OrderedDict()
        """Of blocks that were taken as they came, by the digest of what they offer: page, index and id."""

    def reset(self) -> None:
        """Forget what was not committed."""
        self.pages.clear()
        self.touched.clear()
        self._loaded.clear()
        self._held = 0
        self._bulky.clear()
        self._offers.clear()

    def forget_ready(self) -> None:
        """Take no more blocks with the prefixes known so far: those are about to be rewritten."""
        self._offers.clear()

    def forget(self, key: Page) -> None:
        """Read a page from the store again when it is needed."""
        self._loaded.pop(key, None)
        page = self.pages.pop(key, None)
        self._held -= page.held_bytes if page else 0

    def sealed(self, key: Page, tails: int, blocks: int) -> None:
        """Take note that a page's oldest tails are in blocks now."""
        page = self.pages[key]
        held = page.held_bytes
        page.drop(tails)
        page.blocks = max(page.blocks, blocks)
        page.sealing = False
        self._held += page.held_bytes - held

    def store(
        self, view: View, text_id: int, new: Sequence[NewText], made: Sequence[Ready] = ()
    ) -> tuple[list[Row], list[Row]]:
        """Return (blobs, index rows) of new texts, with ids from ``text_id`` on.

        ``made`` are blocks of them that were made elsewhere; those that do not fit here are made anew.
        """
        blobs: list[Row] = []
        index: list[Row] = []
        self._offered.clear()
        self._indexed.clear()
        self.touched.clear()
        ready: dict[int, list[Ready]] = {}
        for block in made:
            ready.setdefault(block.page, []).append(block)
        left_behind = {key for key in self._bulky if key[1] not in ready}  # a dump does not come back to it
        self._bulky = {key for key in left_behind if key in self.pages and self.pages[key].sealing}
        for key in left_behind - self._bulky:
            self.forget(key)
        by_page = sorted(new, key=lambda text: text.page)  # stable: each page's texts stay in their order
        for key, texts in groupby(by_page, key=lambda text: text.page):
            page = self._page(view, key)
            self.touched.append(key)
            held = page.held_bytes
            left = {text.digest: text for text in texts}
            for block in ready.get(key[1], ()):
                found = [left[digest] for digest in block.digests if digest in left]
                taken = self._take_ready(view, key, page, text_id, block, found)
                if taken is None:
                    continue
                for digest in block.digests:
                    del left[digest]
                blobs += taken[0]
                index += taken[1]
                text_id += len(found)
            for run, whole in _runs(list(left.values()), sealing=page.sealing):
                rows = (
                    self._block(view, key, page, text_id, run)
                    if whole
                    else self._tails(key, page, text_id, run)
                )
                blobs += rows[0]
                index += rows[1]
                text_id += len(run)
            self._held += page.held_bytes - held
        self._trim()
        return blobs, index

    def _page(self, view: View, key: Page) -> Pending:
        page = self.pages.get(key)
        if page is None:
            page = pending(view, key)
            self.pages[key] = page
            self._held += page.held_bytes
        self.pages.move_to_end(key)
        self._loaded[key] = None
        self._loaded.move_to_end(key)
        return page

    def _trim(self) -> None:
        """Let go of what was not touched for longest: first texts, which sealing alone needs, then pages."""
        while self._held > self._cache_bytes and self._loaded:
            key, _ = self._loaded.popitem(last=False)
            page = self.pages[key]
            if not page.sealing:
                self._held -= page.text_bytes
                page.unload()
        for key in list(self.pages) if self._held > self._cache_bytes else ():
            if self._held <= self._cache_bytes // 2:
                break
            if not self.pages[key].sealing:
                self.forget(key)

    def _tails(
        self, key: Page, page: Pending, text_id: int, run: Sequence[NewText]
    ) -> tuple[list[Row], list[Row]]:
        blobs: list[Row] = []
        index: list[Row] = []
        for number, new in enumerate(run, text_id):
            raw = encode(*key, TAIL, [new.text], page.prefix, TAIL_LEVEL)
            tail = Tail(number, new.digest[:SHORT_DIGEST], new.time, len(new.text))
            # The next tail names this block or none: no other is sure to be there once this one is sealed.
            page.prefix = _offer(number, page.prefix, [new.text]) if _serves(new.text) else NO_PREFIX
            page.add(tail, new.text)
            blobs.append((keys.block(number), raw))
            index += [(keys.tail(*key, number), tail.encode()), _place(new, number, 0)]
        return blobs, index

    def _take_ready(
        self, view: View, key: Page, page: Pending, text_id: int, block: Ready, run: Sequence[NewText]
    ) -> tuple[list[Row], list[Row]] | None:
        """Return the rows of a block that came ready, of texts ``run``; ``None`` unless it fits here."""
        at, number, before = block.index, text_id + len(run) - 1, 0
        if len(run) != len(block.digests) or page.blocks != (0 if at == TAIL else at):
            return None
        if page.tails or page.sealing:
            return None
        if block.needs:
            before = self._offering(view, key, at, block.needs)
            if not before:
                return None
        texts = [new.text for new in run]
        offered = Prefix(number, block.depth, prefix_text(texts))
        page.prefix = offered if _serves(texts[0]) else NO_PREFIX
        self._bulky.add(key)
        blobs = [(keys.block(number), placed(block.raw, key[0], before))]
        index = [_place(new, number, ordinal) for ordinal, new in enumerate(run)]
        if at == TAIL:
            tail = Tail(number, run[0].digest[:SHORT_DIGEST], run[0].time, len(texts[0]))
            page.add(tail, texts[0])
            return blobs, [*index, (keys.tail(*key, number), tail.encode())]
        times = [new.time for new in run]
        row = PageBlock(number, 0, len(run), sum(map(len, texts)), min(times), max(times))
        index.append((keys.page_block(*key, at), row.encode()))
        if not at:
            index += use_rows(Prefix(before, 0, b""), number)
        if block.offers:
            self._offers[block.offers] = key, at, number
            if len(self._offers) > _OFFERS:
                self._offers.popitem(last=False)
        self._indexed[(*key, at)] = offered
        page.blocks += 1
        return blobs, index

    def _offering(self, view: View, user: Page, user_at: int, digest: bytes) -> int:
        """Return the id of a block that came ready, offers that prefix and is still as it came; else 0.

        A page's first block may have another page's as prefix, and a row says so. Of any other block no row
        does: whoever changes what it is compressed against finds it as its page's, by ``parent``.
        """
        if digest not in self._offers:
            return 0
        page, at, number = self._offers[digest]
        if at != max(parent(user_at, lone=True), 0) or (page == user) != bool(user_at):
            return 0  # another block may offer the same
        made = self._indexed.get((*page, at))
        if made is not None:
            return number if made.block == number else 0
        value = view.get(keys.page_block(*page, at))
        row = read_page_block(value) if value is not None else None
        return number if row is not None and (row.number, row.version) == (number, 0) else 0

    def _block(
        self, view: View, key: Page, page: Pending, text_id: int, run: Sequence[NewText]
    ) -> tuple[list[Row], list[Row]]:
        run = run[::-1]
        at, number, texts = page.blocks, text_id + len(run) - 1, [new.text for new in run]
        index: list[Row] = []
        above = parent(at, lone=is_lone(texts))
        prefix = self._indexed.get((*key, above)) or block_prefix(view, key, above)
        if not at:
            found = self.similar.find(texts[0])
            prefix = self._offered.get(found) or similar_prefix(view, found, key)[0]
            index += use_rows(prefix, number)
        raw = encode(*key, at, texts, prefix, BLOCK_LEVEL)
        times = [new.time for new in run]
        row = PageBlock(number, 0, len(run), sum(map(len, texts)), min(times), max(times))
        offered = self._indexed[(*key, at)] = _offer(number, prefix, texts)
        if not at and not offered.depth:
            self._offered[number] = offered
            self.similar.add(number, offered.text)
        page.blocks += 1
        page.prefix = offered if _serves(texts[0]) else NO_PREFIX
        index.append((keys.page_block(*key, at), row.encode()))
        index += [_place(new, number, ordinal) for ordinal, new in enumerate(run)]
        return [(keys.block(number), raw)], index


def pending(view: View, key: Page) -> Pending:
    """Return what the store holds of a page."""
    tails = tails_of(view, *key)
    newest = last_block(view, *key)
    number = tails[-1].number if tails else newest[1].number if newest else 0
    prefix = NO_PREFIX
    if number and load(view, number).lengths[0] >= MIN_PREFIX_BYTES:
        prefix = as_prefix(view, number)
    blocks = newest[0] + 1 if newest else 0
    return Pending([(tail, None) for tail in tails], prefix, blocks, sum(tail.size for tail in tails))


def cut_blocks(items: Sequence[_T], sizes: Iterable[int]) -> Iterator[list[_T]]:
    """Yield runs that fill a block each; the last may be smaller."""
    run: list[_T] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        run.append(item)
        total += size
        if total >= BLOCK_BYTES or len(run) == BLOCK_TEXTS:
            yield run
            run, total = [], 0
    if run:
        yield run


def _runs(texts: list[NewText], *, sealing: bool) -> Iterator[tuple[list[NewText], bool]]:
    """Yield runs of one page's texts, and whether a run is worth a block of its own at once."""
    if sealing:  # the index of the page's next block is taken
        yield texts, False
        return
    sizes = [len(new.text) for new in texts]
    for run in cut_blocks(texts, sizes):
        yield run, len(run) >= SEAL_TEXTS or sum(len(new.text) for new in run) >= BLOCK_BYTES


def _offer(number: int, prefix: Prefix, texts: Sequence[bytes]) -> Prefix:
    return Prefix(number, prefix.depth + 1 if prefix.text else 0, prefix_text(texts))


def _serves(text: bytes) -> bool:
    return len(text) >= MIN_PREFIX_BYTES


def _place(new: NewText, number: int, ordinal: int) -> Row:
    return keys.text(new.digest), place_value(number, ordinal)
