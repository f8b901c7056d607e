"""What this process has reserved of the quotas of licensees, and what its calls take of it.

The calls of a licensee share one block in each process. A single article costs a sum, and every thousandth a
durable change; streams take some at a time, so that most of their articles cost no lock either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from recension.archive.clock import Clock
from recension.model.agreement import Quotas as Limits
from recension.model.errors import RecensionError
from recension.server import logs
from recension.server.limits.quotas import BLOCK, NOTHING, Amount, Block, Quotas, day_of

_IDLE_SECONDS = 2.0
"""A block of which nothing was taken for so long is given back: others may need it."""
_STRIDE = Amount(128, 1 << 20)
"""What a stream takes at once beyond what it needs, where nothing is short."""
_DAY = 86_400 * 1_000_000
_Change = Callable[[Block, Amount], None]


class Allowance:
    """What one call takes of the quota of its licensee. For one thread at a time.

    It and ``Pool`` count in plain numbers: a single article passes all of this in some microseconds.
    """

    __slots__ = (
        *("_articles", "_drawn", "_limits", "_pool", "_spent_articles", "_spent_bytes"),
        *("_stride", "_text_bytes", "_told_articles", "_told_bytes", "_total_articles", "_total_bytes"),
    )

    def __init__(self, pool: Pool, limits: Limits, stride: Amount) -> None:
        """``pool``: that of the licensee; ``stride``: what to draw beyond what is needed."""
        self._pool = pool
        self._limits = limits
        self._stride = stride
        self._articles = self._text_bytes = 0
        """Drawn from the pool, and not taken."""
        self._total_articles = self._total_bytes = 0
        """Drawn from the pool."""
        self._drawn: list[tuple[Block, int, int]] = []
        self._spent_articles = self._spent_bytes = 0
        self._told_articles = self._told_bytes = 0
        """Of what was spent, what the pool knows."""

    def take(self, articles: int, text_bytes: int) -> None:
        """Take what is about to leave. Raises ``QuotaExhaustedError`` and takes nothing."""
        if articles > self._articles or text_bytes > self._text_bytes:
            self._draw(max(0, articles - self._articles), max(0, text_bytes - self._text_bytes))
        self._articles -= articles
        self._text_bytes -= text_bytes

    def _draw(self, articles: int, text_bytes: int) -> None:
        own = self._total_articles - self._spent_articles, self._total_bytes - self._spent_bytes
        block, articles, text_bytes = self._pool.draw(
            articles, text_bytes, self._stride, self._limits, self._news(), own
        )
        if self._drawn and self._drawn[-1][0] is block:
            _, before, bytes_before = self._drawn.pop()
            self._drawn.append((block, before + articles, bytes_before + text_bytes))
        else:
            self._drawn.append((block, articles, text_bytes))
        self._total_articles += articles
        self._total_bytes += text_bytes
        self._articles += articles
        self._text_bytes += text_bytes

    def spend(self, articles: int, text_bytes: int) -> None:
        """Say how much of what was taken since the call began is not given back any more."""
        self._spent_articles, self._spent_bytes = articles, text_bytes

    def settle(self) -> None:
        """Give back what was not spent: the call is over. What was drawn first was spent first."""
        if not self._drawn:
            return
        articles = self._total_articles - self._spent_articles
        text_bytes = self._total_bytes - self._spent_bytes
        back: list[tuple[Block, Amount]] = []
        while (articles or text_bytes) and self._drawn:
            block, *drawn = self._drawn.pop()
            amount = Amount(min(drawn[0], articles), min(drawn[1], text_bytes))
            back.append((block, amount))
            articles, text_bytes = articles - amount.articles, text_bytes - amount.text_bytes
        self._pool.end(back, *self._news())

    def _news(self) -> tuple[int, int]:
        """Return what was spent and the pool does not know of; then it does."""
        news = self._spent_articles - self._told_articles, self._spent_bytes - self._told_bytes
        self._told_articles, self._told_bytes = self._spent_articles, self._spent_bytes
        return news


class Pool:
    """The block of one licensee in this process. Safe for concurrent use."""

    def __init__(self, quotas: Quotas, owner: str, clock: Clock) -> None:
        """``clock``: whose day it is; ``owner``: the licensee."""
        self._quotas = quotas
        self._owner = owner
        self._clock = clock
        self._lock = threading.Lock()
        self._block: Block | None = None
        self._day = 0
        self._articles = self._text_bytes = 0
        """Of the block: reserved, and drawn by no call."""
        self._held_articles = self._held_bytes = 0
        """Of the block: drawn by calls, and not known to be spent."""
        self._scarce = False
        """Whether the block is smaller than is usual: then streams take no more than they need."""
        self._touched = time.monotonic()

    def begin(self, limits: Limits, *, streaming: bool) -> Allowance:
        """Return what a call takes by, which it has to settle."""
        return Allowance(self, limits, _STRIDE if streaming else NOTHING)

    def draw(
        self,
        articles: int,
        text_bytes: int,
        stride: Amount,
        limits: Limits,
        spent: tuple[int, int],
        own: tuple[int, int],
    ) -> tuple[Block, int, int]:
        """Draw at least ``articles`` and ``text_bytes``; return from which block, and how much.

        ``stride``: how much more, where there is enough; ``spent``: what the call has spent since it drew
        last; ``own``: what it has drawn and not spent. Raises ``QuotaExhaustedError``, and what ``Counters``
        raises.
        """
        with self._lock:
            self._touched = time.monotonic()
            now = self._clock()
            block = self._block
            if block is None or self._day != now // _DAY:
                self._settle()
                block = self._block = self._quotas.open_block(self._owner, day_of(now))
                self._day = now // _DAY
            if any(spent):
                self._forget(*spent)
            if articles > self._articles or text_bytes > self._text_bytes:
                self._reserve(block, Amount(articles, text_bytes), limits, now, own)
            if stride is not NOTHING and not self._scarce:
                articles = min(articles + stride.articles, self._articles)
                text_bytes = min(text_bytes + stride.text_bytes, self._text_bytes)
            self._articles -= articles
            self._text_bytes -= text_bytes
            self._held_articles += articles
            self._held_bytes += text_bytes
            return block, articles, text_bytes

    def end(self, back: list[tuple[Block, Amount]], articles: int, text_bytes: int) -> None:
        """Take back what a call has drawn and not spent, and hear what it has spent since it drew last."""
        with self._lock:
            self._forget(articles, text_bytes)
            for block, amount in back:
                if block is self._block:
                    self._articles += amount.articles
                    self._text_bytes += amount.text_bytes
                    self._forget(*amount)
                elif any(amount):
                    self._try(self._quotas.refund, block, amount)

    def _forget(self, articles: int, text_bytes: int) -> None:
        """Hold less: it was spent, or came back. What was of a block before counts for nothing here."""
        held, held_bytes = self._held_articles - articles, self._held_bytes - text_bytes
        self._held_articles = max(0, held)
        self._held_bytes = max(0, held_bytes)

    def _reserve(self, block: Block, need: Amount, limits: Limits, now: int, own: tuple[int, int]) -> None:
        rest = Amount(self._articles, self._text_bytes)
        held = Amount(self._held_articles, self._held_bytes)
        wanted = rest.lacking(BLOCK)
        others = held.less(Amount(*own)).or_nothing()
        more = self._quotas.reserve(block, rest, held, need, limits, now, others=others)
        self._articles += more.articles
        self._text_bytes += more.text_bytes
        self._scarce = any(0 < got < usual for got, usual in zip(more, wanted, strict=True))

    def settle(self, *, idle_seconds: float = 0.0) -> None:
        """Give back what no call has drawn, unless something was within ``idle_seconds``."""
        with self._lock:
            if time.monotonic() - self._touched >= idle_seconds:
                self._settle()

    def _settle(self) -> None:
        block, rest = self._block, Amount(self._articles, self._text_bytes)
        self._block, self._scarce = None, False
        self._articles = self._text_bytes = self._held_articles = self._held_bytes = 0
        if block is not None:
            self._try(self._quotas.settle, block, rest)

    def _try(self, change: _Change, block: Block, amount: Amount) -> None:
        """Give something back; what cannot be stays counted as used, which harms nobody but its licensee."""
        try:
            change(block, amount)
        except RecensionError as error:
            structlog.get_logger().error(
                logs.QUOTA_NOT_SETTLED,
                licensee=self._owner,
                reason=error.reason,
                articles=amount.articles,
                text_bytes=amount.text_bytes,
            )


class Pools:
    """Those of all licensees that call. Safe for concurrent use."""

    def __init__(self, quotas: Quotas, clock: Clock) -> None:
        """``quotas``: the account that all processes share."""
        self._quotas = quotas
        self._clock = clock
        self._pools: dict[str, Pool] = {}
        self._lock = threading.Lock()

    def of(self, owner: str) -> Pool:
        """Return the pool of a licensee."""
        found = self._pools.get(owner)
        if found is None:
            with self._lock:
                found = self._pools.setdefault(owner, Pool(self._quotas, owner, self._clock))
        return found

    def settle(self, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        """Give back what was reserved and is not needed now; 0 at the end."""
        for pool in list(self._pools.values()):
            pool.settle(idle_seconds=idle_seconds)
