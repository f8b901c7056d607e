"""What a licensee has used of what its agreement allows."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PERIODS = 100
"""Days and months that one answer tells of."""


@dataclass(frozen=True, slots=True)
class Period:
    """A day or a month, in UTC."""

    name: str
    """``2026-11-23`` or ``2026-11``."""
    articles: int
    """Texts of revisions, those among them that are reserved and not sent."""
    text_bytes: int
    """Their UTF-8 bytes."""
    lost_articles: int
    """Of the articles: held by processes that were killed, and served or not."""
    lost_text_bytes: int
    articles_limit: int | None
    """By the agreement of now; ``None`` for no limit."""
    text_bytes_limit: int | None
    renews_at: int
    """When it is over: microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a licensee has used."""

    licensee: str
    agreement: str
    """Digest of the version that rules now, as it is written; empty if none does."""
    ordinal: int
    """Of that version; 0 without one."""
    periods: tuple[Period, ...]
    """The day and the month of now, then earlier ones, the newest first."""
    reserved_articles: int
    """Held by running servers; counted as used already."""
    reserved_text_bytes: int
    requests_per_second: int | None
    """``None`` for no limit, here and below."""
    burst: int | None
    concurrent_streams: int | None
    open_streams: int
    """Where there is a limit."""
