"""Who may stream, and until when: the stream budget and the drain flag of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from recension.model.errors import DrainingError, OverloadedError
from recension.wire.status import RETRY_DELAY

MAX_STREAM_SECONDS = 25 * 60
"""A stream ends itself, with its cursor, before the connection's age of 30 minutes ends it without."""


class Gate:
    """Admits bulk streams. A stream owns a thread while it lives, so they leave threads for other calls."""

    def __init__(self, streams: int) -> None:
        """``streams``: how many may run at once."""
        self._limit = streams
        self._free = threading.BoundedSemaphore(streams)
        self._draining = threading.Event()

    @property
    def draining(self) -> bool:
        """Whether the process is shutting down; streams ask between batches."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Admit no more streams and let the running ones end themselves."""
        self._draining.set()

    @contextmanager
    def admit(self) -> Iterator[Turn]:
        """Hold a place. Raises ``OverloadedError`` or ``DrainingError`` at once when there is none."""
        if self.draining:
            raise draining()
        if not self._free.acquire(blocking=False):
            raise OverloadedError(
                f"all {self._limit} bulk streams of this server are in use",
                hint="try again in a moment; one stream for each worker is enough",
                limit=self._limit,
                **{RETRY_DELAY: 1},
            )
        try:
            yield Turn(self)
        finally:
            self._free.release()


class Turn:
    """One stream's place."""

    def __init__(self, gate: Gate) -> None:
        """Start the stream's clock."""
        self._gate = gate
        self._until = time.monotonic() + MAX_STREAM_SECONDS

    @property
    def over(self) -> bool:
        """Whether the stream should end itself now, with its cursor."""
        return self._gate.draining or time.monotonic() > self._until


def draining() -> DrainingError:
    """Return the error of a call that comes too late."""
    return DrainingError(
        "the server is shutting down", hint="try again on a new connection", **{RETRY_DELAY: 1}
    )
