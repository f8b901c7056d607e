"""Sealing: a page's tails, and its last block while that is small, become one.

What to seal is read in the writer's thread, compressed beside it, and put in place by small rewrites, each
of which is left out if the page changed meanwhile. Nothing here appends to the log: a store that is killed at
any point has its texts either as tails or in a block.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from recension.archive.texts.block import (
    BLOCK_BYTES,
    BLOCK_LEVEL,
    BLOCK_TEXTS,
    NO_PREFIX,
    Prefix,
    encode,
    is_lone,
    parent,
    prefix_text,
)
from recension.archive.texts.reading import load, place_value, prefix_of, read_place, texts_of
from recension.archive.texts.rows import (
    GONE,
    SHORT_DIGEST,
    PageBlock,
    Tail,
    block_prefix,
    last_block,
    read_tail,
    similar_prefix,
    tails_of,
    use_rows,
)
from recension.archive.texts.writing import Page, Pending, TextWriter, cut_blocks
from recension.model.digest import digest_of
from recension.model.errors import StoreFullError
from recension.store import keys
from recension.store.interface import Rewrite, Store, View

_QUEUE = 32
"""Blocks being compressed; a writer that is further ahead waits for one of them."""
_TOGETHER = 16
"""Rewrites of one transaction, between commits."""
_HELD_BYTES = 32 * 2**20
"""Texts of blocks being compressed."""
_SETTLING = 128
"""The same when nobody waits for a commit: some 1 MB, in one sync."""
WORTHWHILE_BYTES = 2048
"""A single smaller text stays a tail: a block of its own would save nothing."""
_ROWS = 4096
_DISORDERED = 2**20
"""Pages remembered for sorting; those beyond are found again when they grow."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text on its way into a block."""

    digest: bytes
    """``SHORT_DIGEST`` bytes."""
    number: int
    """Id of the block that it comes from."""
    first_time: int
    last_time: int
    """Bounds of its valid time; of its whole block when it comes from one."""
    text: bytes


@dataclass(slots=True)
class NewBlock:
    """A block to be made."""

    index: int
    row: PageBlock
    texts: list[bytes]
    prefix: Prefix


@dataclass(slots=True)
class Plan:
    """What sealing a page changes; the bytes of its new blocks come from ``compress``."""

    page: Page
    tails: int
    """Tails that are used up."""
    expected: dict[bytes, bytes | None] = field(default_factory=dict)
    index: dict[bytes, bytes | None] = field(default_factory=dict)
    blobs: dict[bytes, bytes | None] = field(default_factory=dict)
    blocks: list[NewBlock] = field(default_factory=list)
    similar: int = 0
    """The block of another page that the page's first block had as prefix; 0 for none."""
    late: bool = False
    """Whether texts here are older than some in a block before them."""

    def compress(self) -> Rewrite:
        """Return the finished rewrite. Takes milliseconds, most of them outside the interpreter."""
        for new in self.blocks:
            raw = encode(*self.page, new.index, new.texts, new.prefix, BLOCK_LEVEL)
            self.blobs[keys.block(new.row.number)] = raw
        return Rewrite(self.expected, self.index, self.blobs)

    def unuse(self, view: View, number: int) -> None:
        """Take note that the page's first block, by its id, will not be there."""
        self.similar = load(view, number).prefix
        self.index[keys.block_user(self.similar, number)] = None

    def done(self, writer: TextWriter) -> None:
        """Take note that its blocks are in place, or never will be: they are found in the store, or not."""
        for new in self.blocks:
            writer.planned.pop(new.row.number, None)


class Sealer:
    """Seals what a ``TextWriter`` leaves as tails. Belongs to the writer's thread."""

    def __init__(self, store: Store, writer: TextWriter) -> None:
        """Seal in ``store``, whose only writer of texts is ``writer``."""
        self._store = store
        self._writer = writer
        self._pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1), "seal")
        self._jobs: deque[tuple[Plan, Future[Rewrite]]] = deque()
        self.disordered: set[Page] = set()
        """Pages whose newest block holds older texts than a block before it."""

    def turn(self) -> None:
        """After a commit: put finished blocks in place, and start on the pages that filled one."""
        pages = self._writer.pages
        ripe = [key for key in self._writer.touched if key in pages and pages[key].ripe]
        if ripe:
            with self._store.view() as view:
                for key in ripe:
                    self._start(view, key, pages[key])
        try:
            while len(self._jobs) > _QUEUE or self._held_bytes() > _HELD_BYTES:
                self._jobs[0][1].result()
                self._put()
            if len(self._jobs) >= _TOGETHER and self._jobs[_TOGETHER - 1][1].done():
                self._put()
        except StoreFullError:  # the commit before is durable, and tails are as good as blocks
            self.forget()
            self._writer.reset()

    def settle(self, sealed: Callable[[int], None], *, everything: bool) -> int:
        """Seal all that is worth it, idle pages too; return the number of pages. Safe to interrupt.

        Unless ``everything``, only pages that the writer holds in memory: those it touched lately.
        """
        self._drain()
        pages = 0
        for some in _with_tails(self._store) if everything else [_held(self._writer)]:
            waiting = list(some.items())
            for at in range(0, len(waiting), _QUEUE):
                with self._store.view() as view:
                    for key, tails in waiting[at : at + _QUEUE]:
                        page = self._writer.pages.get(key) or _unread(tails)
                        pages += self._start(view, key, page)
                while len(self._jobs) > _SETTLING or self._held_bytes() > _HELD_BYTES:
                    self._jobs[len(self._jobs) // 2][1].result()
                    self._put(_SETTLING)
                    sealed(pages)
            sealed(pages)
        self._drain()
        return pages

    def forget(self) -> None:
        """Drop what is not in place yet; its texts stay tails."""
        for _, job in self._jobs:
            job.cancel()
        self._jobs.clear()
        self._writer.planned.clear()

    def _held_bytes(self) -> int:
        return sum(new.row.raw_bytes for plan, _ in self._jobs for new in plan.blocks)

    def _drain(self) -> None:
        while self._jobs:
            self._jobs[min(len(self._jobs), _SETTLING) - 1][1].result()
            self._put(_SETTLING)

    def _start(self, view: View, key: Page, page: Pending) -> bool:
        plan = plan_seal(view, self._writer, key, page)
        if plan is not None:
            page.sealing = True
            with _no_interrupt():
                self._jobs.append((plan, self._pool.submit(plan.compress)))
        return plan is not None

    def _put(self, most: int = _TOGETHER) -> None:
        """Put the finished blocks at the head of the queue in place, in one transaction."""
        done: list[tuple[Plan, Rewrite]] = []
        while self._jobs and len(done) < most and self._jobs[0][1].done():
            plan, job = self._jobs.popleft()
            done.append((plan, job.result()))
        applied = self._store.rewrite([rewrite for _, rewrite in done])
        for (plan, _), fits in zip(done, applied, strict=True):
            plan.done(self._writer)
            page = self._writer.pages.get(plan.page)
            if not fits or page is None:
                self._writer.forget(plan.page)
                continue
            self._writer.sealed(plan.page, plan.tails, plan.blocks[-1].index + 1 if plan.blocks else 0)
            if plan.late and len(self.disordered) < _DISORDERED:
                self.disordered.add(plan.page)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Keep Ctrl-C waiting: a thread half started would be waited for at the end of the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def plan_seal(view: View, writer: TextWriter, key: Page, page: Pending) -> Plan | None:
    """Return how to seal a page's tails; ``None`` when that is not worth it."""
    newest = last_block(view, *key)
    old = newest[1] if newest is not None and _mergeable(view, newest[1]) else None
    if old is None and len(page.tails) == 1 and page.tails[0][0].size < WORTHWHILE_BYTES:
        return None
    plan = Plan(key, len(page.tails))
    texts = _take_tails(view, key, page, plan)
    at = newest[0] + 1 if newest else 0
    if not texts:
        return plan
    if old is not None:
        at -= 1
        texts += live_texts(view, old)
        plan.expected[keys.block_user(old.number)] = None
        plan.blobs[keys.block(old.number)] = None
        if not at:
            plan.unuse(view, old.number)
    plan.expected[keys.page_block(*key, at)] = old.encode() if old is not None else None
    # What came last is the newest of its block, and gives it the id: the next tail has it as prefix.
    newest_id = max(text.number for text in texts)
    before = newest[1].last_time if newest else texts[0].first_time
    plan.late = min(text.first_time for text in texts if old is None or text.number != old.number) < before
    texts.sort(key=lambda text: (text.number == newest_id, text.first_time))
    runs = list(cut_blocks(texts, [len(text.text) for text in texts]))
    for run in runs[:-1]:
        number = max(text.number for text in run if text.number != newest_id)
        add_block(view, writer, plan, at, number, run)
        at += 1
    add_block(view, writer, plan, at, newest_id, runs[-1])
    return plan


def _mergeable(view: View, block: PageBlock) -> bool:
    small = block.raw_bytes < BLOCK_BYTES and block.texts < BLOCK_TEXTS
    return small and view.get(keys.block_user(block.number)) is None


def live_texts(view: View, row: PageBlock) -> list[Text]:
    """Return the texts of a block that something still finds there, the oldest first."""
    out = []
    for ordinal, text in reversed(list(enumerate(texts_of(view, load(view, row.number))))):
        digest = digest_of(text)[:SHORT_DIGEST]
        place = view.get(keys.text(digest))
        if place is not None and read_place(place) == (row.number, ordinal):
            out.append(Text(digest, row.number, row.first_time, row.last_time, text))
    return out


def _take_tails(view: View, key: Page, page: Pending, plan: Plan) -> list[Text]:
    """Return the texts of a page's tails."""
    out: list[Text] = []
    before: tuple[int, bytes] = (0, b"")
    for tail, held in page.tails:
        row = keys.tail(*key, tail.number)
        plan.expected[row] = tail.encode()
        plan.index[row] = None
        plan.blobs[keys.block(tail.number)] = None
        text = held
        if text is None:
            block = load(view, tail.number)
            prefix = before[1] if block.prefix == before[0] else prefix_of(view, block).text
            text = block.offer(prefix)
        before = tail.number, text
        if tail.digest != GONE:
            out.append(Text(tail.digest, tail.number, tail.time, tail.time, text))
    return out


def add_block(view: View, writer: TextWriter, plan: Plan, at: int, number: int, run: list[Text]) -> None:
    """Add a block of ``run``, the oldest text first, to the plan: index ``at`` of its page, id ``number``."""
    run.reverse()
    texts = [text.text for text in run]
    above = parent(at, lone=is_lone(texts))
    made = next((new for new in plan.blocks if new.index == above), None)
    if made is not None:
        depth = made.prefix.depth + 1 if made.prefix.text else 0
        prefix = Prefix(made.row.number, depth, prefix_text(made.texts))
    elif at:
        prefix = block_prefix(view, plan.page, above)
    else:
        found = plan.similar or writer.similar.find(texts[0])
        prefix, expected = writer.planned.get(found) or similar_prefix(view, found, plan.page)
        plan.expected.update(expected)
        plan.index.update(use_rows(prefix, number))
    first, last = min(text.first_time for text in run), max(text.last_time for text in run)
    row = PageBlock(number, 0, len(run), sum(map(len, texts)), first, last)
    plan.blocks.append(NewBlock(at, row, texts, prefix))
    key = keys.page_block(*plan.page, at)
    plan.index[key] = row.encode()
    if not at and not prefix.text:
        offered = Prefix(number, 0, prefix_text(texts))
        writer.planned[number] = offered, {key: row.encode()}
        writer.similar.add(number, offered.text)
    for ordinal, text in enumerate(run):
        plan.index[keys.text(text.digest)] = place_value(number, ordinal)


def _unread(tails: list[Tail]) -> Pending:
    return Pending([(tail, None) for tail in tails], NO_PREFIX, 0)


def _held(writer: TextWriter) -> dict[Page, list[Tail]]:
    return {key: [tail for tail, _ in page.tails] for key, page in writer.pages.items() if page.tails}


def _with_tails(store: Store) -> Iterator[dict[Page, list[Tail]]]:
    """Yield the pages that have tails, some at a time; each page with all of them."""
    start, stop = keys.tail(0, 0), b"I"
    last = (0, 0)
    while True:
        with store.view() as view:
            rows = view.scan(start, stop, limit=_ROWS)
            found: dict[Page, list[Tail]] = {}
            for key, value in rows:
                project, page, _ = keys.read_tail(key)
                found.setdefault((project, page), []).append(read_tail(key, value))
            if found:
                last = list(found)[-1]
                found[last] = tails_of(view, *last)
        yield found
        if len(rows) < _ROWS:
            return
        start = keys.tail(last[0], last[1] + 1)
