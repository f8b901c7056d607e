"""The clock and the salts: what an archive takes from outside, injected so that tests can fix them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from recension.model.seal import SALT_BYTES

Clock = Callable[[], int]
"""Returns now, in microseconds since the epoch."""

Salts = Callable[[str, str], bytes]
"""Returns the 16-byte salt of an event, given its project and a key that is unique to the event."""


def system_clock() -> int:
    """Return the wall clock."""
    return time.time_ns() // 1000


def random_salts(project: str, event_key: str) -> bytes:  # noqa: ARG001 - the shape of ``Salts``
    """Return 16 random bytes; fixed salts are for tests and vectors only."""
    return os.urandom(SALT_BYTES)
