"""Requests a second and streams at once, of each licensee, by all processes together.

The rate is kept by GCRA: a licensee has one instant, up to which what it asked is paid for. Each request
moves it on by the time that one request is worth; one that would move it further into the future than a burst
is worth is refused, and told when to come again. There is no window at whose edge twice as many would pass.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recension.model.errors import RateLimitedError, StreamsExhaustedError
from recension.server.limits.processes import boot_id, is_alive, since_boot, this_process
from recension.store.counters import Cells, Counters
from recension.wire.status import RETRY_DELAY, SUBJECT

_SECOND = 1_000_000_000
_INSTANT = struct.Struct(">q")
_BEGAN = b"!began"
"""Key of the boot id and the instant since when requests are counted."""
_STREAM_RETRY_SECONDS = 1


def advance(paid_until: int, now: int, per_second: int, burst: int) -> tuple[int, int]:
    """Return until when a licensee has paid with the request that passes now, and 0; else how long to wait.

    All in nanoseconds on one clock. In any time t at most ``per_second * t + burst`` requests pass.
    """
    worth = -(-_SECOND // per_second)  # rounded up, so that rounding never lets more pass
    most = now + burst * worth
    paid_until = min(max(paid_until, now), most)  # beyond: by an older agreement
    after = paid_until + worth
    return (after, 0) if after <= most else (paid_until, after - most)


class Rates:
    """Counts the requests and the open streams of licensees. Safe for concurrent use, by processes too."""

    def __init__(self, counters: Counters, *, clock: Callable[[], int] = since_boot) -> None:
        """``counters``: the place for rates; ``clock``: nanoseconds since the machine was started."""
        self._counters = counters
        self._clock = clock
        self._process = this_process()
        self._begun = False

    def _begin(self) -> None:
        """Remove the rows of another start of the machine, if that was not done yet."""
        if self._begun:
            return
        with self._counters.changing() as cells:
            began = cells.get(_BEGAN)
            if began is None or began[:16] != boot_id():
                # The clock is another one, and who held streams is gone.
                for key, _ in cells.rows():
                    cells.delete(key)
                cells.put(_BEGAN, boot_id() + _INSTANT.pack(self._clock()))
        self._begun = True

    def ask(self, owner: str, per_second: int, burst: int, *, unsold: bool = False) -> None:
        """Count a request. Raises ``RateLimitedError`` when it comes too early.

        ``unsold``: one for which nothing was agreed, counted by itself. Who has not asked before has all of
        that burst: if the counters were lost, a few refusals more harm nobody.
        """
        key = (b"n" if unsold else b"r") + owner.encode()

        def count(cells: Cells) -> int:
            before = 0 if unsold and cells.get(key) is None else _paid_until(cells, key, per_second, burst)
            paid_until, wait = advance(before, self._clock(), per_second, burst)
            if paid_until != before:
                cells.put(key, _INSTANT.pack(paid_until))
            return wait

        self._begin()
        wait = self._counters.change(count)
        if wait:
            raise RateLimitedError(
                f"more than {per_second} requests a second, and {burst} at once",
                hint="ask again after the delay that is named; ask for many revisions in one call",
                limit=per_second,
                burst=burst,
                **{SUBJECT: owner, RETRY_DELAY: f"{wait / _SECOND:.6f}"},
            )

    @contextmanager
    def stream(self, owner: str, limit: int) -> Iterator[None]:
        """Hold one of the streams that a licensee may have at once. Raises ``StreamsExhaustedError``."""
        prefix = _streams(owner)
        key = prefix + secrets.token_bytes(8)
        self._begin()
        with self._counters.changing() as cells:
            held = cells.rows(prefix)
            if len(held) >= limit:
                held = _without_the_dead(cells, held)
            admitted = len(held) < limit
            if admitted:
                cells.put(key, self._process)
        if not admitted:
            raise StreamsExhaustedError(
                f"all {limit} streams at once of {owner} are in use",
                hint="end one, or wait for its end; one for each worker is enough",
                limit=limit,
                **{SUBJECT: owner, RETRY_DELAY: _STREAM_RETRY_SECONDS},
            )
        try:
            yield
        finally:
            with self._counters.changing() as cells:
                cells.delete(key)

    def streams(self, owner: str) -> int:
        """Return how many streams of a licensee are open."""
        with self._counters.looking() as cells:
            return sum(is_alive(process) for _, process in cells.rows(_streams(owner)))


def _streams(owner: str) -> bytes:
    return b"s" + owner.encode() + b"\0"


def _paid_until(cells: Cells, key: bytes, per_second: int, burst: int) -> int:
    """Return until when a licensee has paid.

    Of one that has not asked before nobody knows whether it has not, or the counters were lost: it has one
    request at the moment since when they count, and a burst only some time after.
    """
    found = cells.get(key)
    if found is not None:
        return int(_INSTANT.unpack(found)[0])
    began = cells.get(_BEGAN)
    since = _INSTANT.unpack(began[16:])[0] if began else 0
    return int(since) + (burst - 1) * -(-_SECOND // per_second)


def _without_the_dead(cells: Cells, held: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Free what killed processes held; return what is left."""
    living = []
    for key, process in held:
        if is_alive(process):
            living.append((key, process))
        else:
            cells.delete(key)
    return living
