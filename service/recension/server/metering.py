"""What one call brings its caller: counted before it leaves, and again when it has left."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from recension.model.agreement import Version


class Allowance(Protocol):
    """What a call may bring its caller."""

    def take(self, articles: int, text_bytes: int) -> None:
        """Take what is about to leave. Raises ``QuotaExhaustedError`` and takes nothing."""
        ...

    def spend(self, articles: int, text_bytes: int) -> None:
        """Say how much of what was taken since the call began is not given back any more."""
        ...


class Meter:
    """Counts of one call."""

    def __init__(self) -> None:
        """Nothing has left yet."""
        self.articles = 0
        """Texts of revisions that gRPC was given, the message on its way among them."""
        self.text_bytes = 0
        """Their UTF-8 bytes."""
        self.version: Version | None = None
        """Of the agreement that the caller was admitted under; ``None`` where none is in force."""
        self.notes: dict[str, str] = {}
        """What the caller is not told: why something is not found, and by which agreement it was decided."""
        self._taken_articles = self._taken_bytes = 0
        self._allowance: Allowance | None = None

    def draw_on(self, allowance: Allowance) -> None:
        """Let nothing leave that is not taken from ``allowance`` before."""
        self._allowance = allowance

    def take(self, articles: int, text_bytes: int) -> None:
        """Count what is about to leave. Raises ``QuotaExhaustedError``: then it must not."""
        if self._allowance is not None:
            self._allowance.take(articles, text_bytes)
        self._taken_articles += articles
        self._taken_bytes += text_bytes

    def delivered(self) -> None:
        """Say that all that was taken is handed to gRPC: it may arrive, and is not given back any more."""
        self.articles, self.text_bytes = self._taken_articles, self._taken_bytes
        if self._allowance is not None:
            self._allowance.spend(self.articles, self.text_bytes)

    def note(self, **notes: str) -> None:
        """Remember something of the call."""
        self.notes |= notes


_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)


def meter() -> Meter:
    """Return the meter of the call that is being answered; outside of calls one that nobody reads."""
    return _meter.get() or Meter()


def measure(one: Meter) -> None:
    """Count what this context answers with ``one``."""
    _meter.set(one)
