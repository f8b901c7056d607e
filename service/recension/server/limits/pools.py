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
_STRIDE = Amount(32, 1 << 20)
"""What a stream takes at once beyond what it needs, where nothing is short."""
_DAY = 86_400 * 1_000_000
_Change = Callable[[Block, Amount], None]


class Allowance:
    """What one call takes of the quota of its licensee. For one thread at a time."""

    def __init__(self, pool: Pool, limits: Limits, stride: Amount) -> None:
        """``pool``: that of the licensee; ``stride``: what to draw beyond what is needed."""
        self._pool = pool
        self._limits = limits
        self._stride = stride
        self._articles, self._text_bytes = NOTHING  # drawn from the pool, and not taken
        self._drawn: dict[Block, Amount] = {}
        self._spent = NOTHING
        self._told = NOTHING
        """Of what was spent, what the pool knows."""

    def take(self, articles: int, text_bytes: int) -> None:
        """Take what is about to leave. Raises ``QuotaExhaustedError`` and takes nothing."""
        if articles > self._articles or text_bytes > self._text_bytes:
            need = Amount(self._articles, self._text_bytes).lacking(Amount(articles, text_bytes))
            block, drawn = self._pool.draw(need, self._stride, self._limits, self._news(), self._in_hand())
            self._drawn[block] = self._drawn.get(block, NOTHING).plus(drawn)
            self._articles += drawn.articles
            self._text_bytes += drawn.text_bytes
        self._articles -= articles
        self._text_bytes -= text_bytes

    def spend(self, articles: int, text_bytes: int) -> None:
        """Say how much of what was taken since the call began is not given back any more."""
        self._spent = Amount(articles, text_bytes)

    def settle(self) -> None:
        """Give back what was not spent: the call is over. What was drawn first was spent first."""
        rest, back = self._in_hand(), {}
        for block, amount in reversed(self._drawn.items()):
            back[block] = Amount(*map(min, amount, rest))
            rest = rest.less(back[block])
        self._pool.end(back, self._news())

    def _in_hand(self) -> Amount:
        total = NOTHING
        for amount in self._drawn.values():
            total = total.plus(amount)
        return total.less(self._spent)

    def _news(self) -> Amount:
        """Return what was spent and the pool does not know of; then it does."""
        news = self._spent.less(self._told)
        self._told = self._spent
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
        self._rest = NOTHING
        """Of the block: reserved, and drawn by no call."""
        self._in_hand = NOTHING
        """Of the block: drawn by calls, and not known to be spent."""
        self._scarce = False
        """Whether the block is smaller than is usual: then streams take no more than they need."""
        self._touched = time.monotonic()

    def begin(self, limits: Limits, *, streaming: bool) -> Allowance:
        """Return what a call takes by, which it has to settle."""
        return Allowance(self, limits, _STRIDE if streaming else NOTHING)

    def draw(
        self, need: Amount, stride: Amount, limits: Limits, spent: Amount, own: Amount
    ) -> tuple[Block, Amount]:
        """Draw at least ``need``; return from which block, and how much.

        ``stride``: how much more, where there is enough; ``spent``: what the call has spent since it drew
        last; ``own``: what it has drawn and not spent. Raises ``QuotaExhaustedError``, and what ``Counters``
        raises.
        """
        with self._lock:
            self._touched = time.monotonic()
            now = self._clock()
            if self._block is not None and self._day != now // _DAY:
                self._settle()
            if self._block is None:
                self._block, self._day = self._quotas.open_block(self._owner, day_of(now)), now // _DAY
            self._in_hand = self._in_hand.less(spent).or_nothing()
            if any(self._rest.lacking(need)):
                wanted = self._rest.lacking(BLOCK)
                others = self._in_hand.less(own).or_nothing()
                more = self._quotas.reserve(
                    self._block, self._rest, self._in_hand, need, limits, now, others=others
                )
                self._rest = self._rest.plus(more)
                self._scarce = any(0 < got < usual for got, usual in zip(more, wanted, strict=True))
            drawn = need if self._scarce else Amount(*map(min, need.plus(stride), self._rest))
            self._rest = self._rest.less(drawn)
            self._in_hand = self._in_hand.plus(drawn)
            return self._block, drawn

    def end(self, back: dict[Block, Amount], spent: Amount) -> None:
        """Take back what a call has drawn and not spent; ``spent``: since it drew last."""
        with self._lock:
            self._touched = time.monotonic()
            self._in_hand = self._in_hand.less(spent).or_nothing()
            for block, amount in back.items():
                if block == self._block:
                    self._rest = self._rest.plus(amount)
                    self._in_hand = self._in_hand.less(amount).or_nothing()
                elif any(amount):
                    self._try(self._quotas.refund, block, amount)

    def settle(self, *, idle_seconds: float = 0.0) -> None:
        """Give back what no call has drawn, unless something was within ``idle_seconds``."""
        with self._lock:
            if time.monotonic() - self._touched >= idle_seconds:
                self._settle()

    def _settle(self) -> None:
        block, rest = self._block, self._rest
        self._block, self._rest, self._in_hand, self._scarce = None, NOTHING, NOTHING, False
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
