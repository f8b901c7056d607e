"""What a stream of upstream's gives at a time, and what it is asked (``server.following`` reads it)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from recension.sources.items import Item
from recension.sources.page_change import Complete

Offsets = Mapping[str, int | str]
"""Where to go on with a stream, as it counts; the form of a mark's (``model.mark``)."""


class Piece(NamedTuple):
    """What a stream gives at a time: a record, as a rule."""

    items: Sequence[Item]
    offsets: Offsets
    """Those that have changed: where to go on once the rest is stored."""
    upstream_at: int | None
    """When upstream told of it, microseconds since the epoch; ``None`` where it does not say."""
    size: int
    """Bytes, as it came."""
    changes: Sequence[Complete] = ()
    """Documents of EventStreams: what they mean is judged when they are stored."""
    record: bytes = b""
    """What the items were read from, as it came."""


class Stream(Protocol):
    """A stream of upstream's. ``connect`` is of one thread, ``stop`` of any."""

    project: str
    form: str
    """As marks have it: ``enterprise-stream``."""
    source: str
    """Its origin, its path and what was asked, no secrets."""

    def connect(self, offsets: Offsets) -> Iterator[Piece]:
        """Yield what comes from ``offsets`` on, none at first, until upstream ends it.

        Raises ``UpstreamUnreachableError`` or another ``SourceError`` to be connected anew, and
        ``UpstreamRefusedError`` or any other error to end the following.
        """

    def stop(self) -> None:
        """End ``connect``, which may be waiting for upstream, soon."""
