"""The clock and the salts: what an archive takes from outside, injected so that tests can fix them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hmac import digest as hmac_digest
from typing import TypeVar

from recension.model.errors import AsOfOutOfRangeError
from recension.model.instant import check_instant, format_instant
from recension.model.manifest import AsOf
from recension.model.record import Head
from recension.model.seal import SALT_BYTES

_T = TypeVar("_T")

Clock = Callable[[], int]
"""Returns now, in microseconds since the epoch."""

Salts = Callable[[str, str], bytes]
"""Returns the 16-byte salt of an event, given its project and a key that is unique to the event."""


_DRAWN_SALTS = 256
"""One call takes some 6 µs, whatever it draws."""


def system_clock() -> int:
    """Return the wall clock."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class SeededSalts:
    """Salts that follow from a seed and the event alone, in every process: for tests."""

    seed: bytes

    def __call__(self, project: str, event_key: str) -> bytes:
        """Return the salt of an event."""
        return hmac_digest(self.seed, f"{project}\0{event_key}".encode(), "sha256")[:SALT_BYTES]


class DrawnSalts:
    """Random salts, drawn from the system some hundred at a time. One process, one thread."""

    def __init__(self) -> None:
        """Draw none yet."""
        self._drawn = b""
        self._at = 0

    def __call__(self, project: str, event_key: str) -> bytes:  # noqa: ARG002 - the shape of ``Salts``
        """Return 16 random bytes that were never returned before."""
        at = self._at
        if at == len(self._drawn):
            self._drawn, at = os.urandom(_DRAWN_SALTS * SALT_BYTES), 0
        self._at = at + SALT_BYTES
        return self._drawn[at : self._at]


def salts_of(seed: bytes) -> Salts:
    """Return the salts of a seed; random ones without, for one process and one thread."""
    return SeededSalts(seed) if seed else DrawnSalts()


def random_salts(project: str, event_key: str) -> bytes:  # noqa: ARG001 - the shape of ``Salts``
    """Return 16 random bytes; fixed salts are for tests and vectors only."""
    return os.urandom(SALT_BYTES)


FRESH_SECONDS = 2.0
"""What was read so long ago is read again before it is told: it may have been hidden since."""


def while_fresh(items: Sequence[_T]) -> Iterator[_T]:
    """Yield what was just read, the first in any case, as long as it may be told without another look."""
    until = time.monotonic() + FRESH_SECONDS
    for at, item in enumerate(items):
        if at and time.monotonic() > until:
            return
        yield item


def resolve(clock: Clock, head: Head, valid_at: int | None, known_at: int) -> AsOf:
    """Return the as-of that a question means; ``None`` is now, 0 the newest position.

    Raises ``AsOfOutOfRangeError`` for what is in the future.
    """
    known = known_position(head, known_at)
    now = max(clock(), head.recorded_at)
    if valid_at is None:
        return AsOf(now, known)
    check_instant(valid_at)
    if valid_at > now:
        raise AsOfOutOfRangeError(
            f"{format_instant(valid_at)} is in the future",
            hint="nobody knows the corpus of a future time; leave the time out for now",
            validAt=format_instant(valid_at),
        )
    return AsOf(valid_at, known)


def known_position(head: Head, known_at: int) -> int:
    """Return the position that a question means; 0 is the newest. Raises ``AsOfOutOfRangeError``."""
    return known_upto(head.position, known_at)


def known_upto(newest: int, known_at: int) -> int:
    """Return the same where the newest position is not the head's."""
    if not 0 <= known_at <= newest:
        raise AsOfOutOfRangeError(
            f"nothing is known at position {known_at}; the newest is {newest}",
            hint="leave known-at out for the newest",
            knownAt=known_at,
            newest=newest,
        )
    return known_at or newest
