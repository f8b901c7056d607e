"""What one call brings its caller: counted before it leaves, and again when it has left."""

from __future__ import annotations

from contextvars import ContextVar


class Meter:
    """Counts of one call."""

    def __init__(self) -> None:
        """Nothing has left yet."""
        self.articles = 0
        """Texts of revisions that gRPC was given, the message on its way among them."""
        self.text_bytes = 0
        """Their UTF-8 bytes."""
        self.notes: dict[str, str] = {}
        """What the caller is not told: why something is not found, and by which agreement it was decided."""
        self._taken = (0, 0)

    def take(self, articles: int, text_bytes: int) -> None:
        """Count what is about to leave."""
        before = self._taken
        self._taken = before[0] + articles, before[1] + text_bytes

    def delivered(self) -> None:
        """Say that all that was taken has left."""
        self.articles, self.text_bytes = self._taken

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
