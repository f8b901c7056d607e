"""Blocks of pages whose revisions come one after another, as in a dump: finished before the writer sees them.

What makes a block is decided by the texts alone, so the same file gives the same blocks. The writer takes one
only if it holds what the writer would have put there (``texts.writing.Ready``); else it makes its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from recension.archive.prepared import Text
from recension.archive.texts.block import (
    BLOCK_BYTES,
    BLOCK_LEVEL,
    BLOCK_TEXTS,
    TAIL,
    Prefix,
    encode,
    is_lone,
    parent,
    prefix_text,
)
from recension.archive.texts.sealing import WORTHWHILE_BYTES
from recension.archive.texts.similar import Similar
from recension.model.digest import digest_of

_MOST_BYTES = 2 * 2**20
"""A page with a larger text is left to the writer: to compress it would take more memory than there is."""
_FIRST_BYTES = 16 * 2**20
"""Of first blocks' texts that others may be compressed against."""
_RECENT = 2**17
"""Digests of texts remembered, across pages too: the writer stores a text once, in the block of the first."""


def _ancestors(index: int) -> Iterator[int]:
    """Yield the blocks before that some later one, or this, has as prefix, or its prefix has, and so on."""
    while (index := parent(index, lone=True)) >= 0:
        yield index


@dataclass(frozen=True, slots=True)
class Made:
    """A block, perhaps still being compressed."""

    page: int
    index: int
    depth: int
    needs: bytes
    offers: bytes
    """As in ``Ready``."""
    texts: list[int]
    """Places of its texts in the batch, in the order of the block."""
    raw: Future[bytes]


class Offer(NamedTuple):
    """What a block offers others as prefix."""

    text: bytes
    digest: bytes
    depth: int
    """Of the block."""


_NOTHING = Offer(b"", b"", 0)


class Paging:
    """Sees each text of a file once, in order."""

    def __init__(self) -> None:
        """Compress in a thread of its own: the interpreter is free meanwhile."""
        self._pool = ThreadPoolExecutor(1, "compress")
        self._made: list[Made] = []
        self._page = 0
        self._index = 0
        self._offers: dict[int, Offer] = {}
        self._left_out = False
        self._run: list[tuple[int, Text]] = []
        self._run_bytes = 0
        self._seen: set[bytes] = set()
        self._waiting = 0
        self._waiting_bytes = 0
        self._recent: OrderedDict[bytes, None] = OrderedDict()
        self._similar = Similar()
        self._firsts: OrderedDict[int, Offer] = OrderedDict()
        self._first_bytes = 0

    @property
    def open(self) -> bool:
        """Whether a block has been begun, as far as the run tells; its texts belong into one batch.

        Batches are the same whoever reads the runs before, so this asks for texts that are new in the run.
        A block begins otherwise where a text of an earlier run comes again, and is then cut short.
        """
        return self._waiting > 0

    def add(self, page: int, texts: Sequence[Text], place: int) -> None:
        """Take the texts of a revision; ``place`` is that of the first of them in the batch."""
        if page != self._page:
            self.finish()
            self._page, self._index, self._left_out = page, 0, False
            self._offers.clear()
        for at, text in enumerate(texts, place):
            self._count(text)
            if self._left_out or text.digest in self._recent:
                continue
            if len(text.text) > _MOST_BYTES:
                self._end_block()
                self._left_out = True
                continue
            self._run.append((at, text))
            self._run_bytes += len(text.text)
            self._recent[text.digest] = None
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            if self._run_bytes >= BLOCK_BYTES or len(self._run) == BLOCK_TEXTS:
                self._flush()

    def _count(self, text: Text) -> None:
        if len(text.text) > _MOST_BYTES:
            self._waiting = self._waiting_bytes = 0
            return
        if text.digest in self._seen:
            return
        if len(self._seen) == _RECENT:
            self._seen.clear()
        self._seen.add(text.digest)
        self._waiting += 1
        self._waiting_bytes += len(text.text)
        if self._waiting == BLOCK_TEXTS or self._waiting_bytes >= BLOCK_BYTES:
            self._waiting = self._waiting_bytes = 0

    def finish(self) -> None:
        """End the block that has been begun."""
        self._waiting = self._waiting_bytes = 0
        self._end_block()

    def _end_block(self) -> None:
        if self._run:
            self._flush()

    def end_run(self) -> None:
        """Count texts of earlier runs as new."""
        self._seen.clear()

    def take(self) -> list[Made]:
        """Return the blocks made since the last time."""
        made, self._made = self._made, []
        return made

    def _flush(self) -> None:
        run = self._run[::-1]  # the newest first
        self._run, self._run_bytes = [], 0
        index = self._index
        if not index and len(run) == 1 and len(run[0][1].text) < WORTHWHILE_BYTES:
            self._left_out = True
            self._make(TAIL, _NOTHING, run)
            return
        above = parent(index, lone=is_lone([text.text for _, text in run]))
        before = self._offers.get(above, _NOTHING)
        if not index:
            before = self._firsts.get(self._similar.find(run[0][1].text), _NOTHING)
        made = self._make(index, before, run)
        self._offers = {at: self._offers[at] for at in _ancestors(index)}
        self._offers[index] = made
        if not index and made.text and not made.depth:
            self._offer(made)
        self._index += 1

    def _make(self, index: int, before: Offer, run: list[tuple[int, Text]]) -> Offer:
        """Make a block of ``run`` and return what it offers."""
        texts = [text.text for _, text in run]
        prefix = Prefix(0, before.depth, before.text)
        job = self._pool.submit(encode, 0, self._page, index, texts, prefix, BLOCK_LEVEL)
        depth = min(before.depth + 1, 255) if before.text else 0
        text = prefix_text(texts)
        digest = run[0][1].digest if text == texts[0] else digest_of(text)
        offer = Offer(text, digest, depth) if text else _NOTHING
        places = [at for at, _ in run]
        self._made.append(Made(self._page, index, depth, before.digest, offer.digest, places, job))
        return offer

    def _offer(self, first: Offer) -> None:
        """Let the first blocks of later pages be compressed against this one."""
        self._similar.add(self._page, first.text)
        self._firsts[self._page] = first
        self._first_bytes += len(first.text)
        while self._first_bytes > _FIRST_BYTES:
            _, old = self._firsts.popitem(last=False)
            self._first_bytes -= len(old.text)
