"""Who may do what lasts, and until when: budgets, drain flag and patience of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recension.model.errors import DrainingError, OverloadedError
from recension.wire.status import RETRY_DELAY

MAX_STREAM_SECONDS = 25 * 60
"""A stream ends itself, with its cursor, before the connection's age of 30 minutes ends it without."""


class Gate:
    """Admits calls that last. Each owns a thread while it lives, so they leave threads for other calls."""

    def __init__(self, limit: int, what: str = "bulk streams") -> None:
        """``limit``: how many may run at once; ``what``: what they are, as a client is told."""
        self._limit = limit
        self._what = what
        self._running = 0
        self._changed = threading.Condition()
        self._draining = threading.Event()

    @property
    def running(self) -> int:
        """How many run."""
        return self._running

    @property
    def draining(self) -> bool:
        """Whether the process is shutting down; streams ask between batches."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Admit no more, and let the streams that run end themselves."""
        with self._changed:
            self._draining.set()

    def wait_empty(self, seconds: float) -> None:
        """Return when none runs, or after ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)

    @contextmanager
    def admit(self) -> Iterator[Turn]:
        """Hold a place. Raises ``OverloadedError`` or ``DrainingError`` at once when there is none."""
        with self._changed:
            if self.draining:
                raise draining()
            if self._running >= self._limit:
                raise OverloadedError(
                    f"all {self._limit} {self._what} of this server are in use",
                    hint="try again in a moment; one for each worker is enough",
                    limit=self._limit,
                    **{RETRY_DELAY: 1},
                )
            self._running += 1
        try:
            yield Turn(self)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


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


class Watchdog:
    """Ends calls that wait too long for their client: one that does not read still answers pings.

    Only the time that a call waits for its client counts, not the time that the server needs.
    """

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long a call may wait."""
        self._seconds = seconds
        self._calls: set[Patience] = set()
        self._lock = threading.Lock()

    def watch(self, end: Callable[[], None]) -> Patience:
        """Begin to watch a call that ``end`` would end from another thread."""
        patience = Patience(end)
        with self._lock:
            self._calls.add(patience)
        return patience

    def forget(self, patience: Patience) -> None:
        """Stop watching a call that is over, and let go of it."""
        patience.end = _nothing
        with self._lock:
            self._calls.discard(patience)

    def look(self) -> None:
        """End what has waited too long. Called by a thread of its own."""
        with self._lock:
            calls = list(self._calls)
        latest = time.monotonic() - self._seconds
        for call in calls:
            if call.since is not None and call.since < latest:
                end = call.end
                self.forget(call)
                end()


class Patience:
    """Since when one call has been waiting for its client."""

    def __init__(self, end: Callable[[], None]) -> None:
        """``end``: how to end the call."""
        self.end = end
        self.since: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the time in which it is the client's turn."""
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.since = None


def _nothing() -> None:
    """End of a call that is over."""
