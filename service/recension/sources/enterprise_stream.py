"""The realtime stream of Wikimedia Enterprise: articles as they change, NDJSON over HTTP.

Upstream keeps 48 hours of events in 50 partitions, ordered within each alone. Where to go on is told by
partition: ``"7": "3643817@1690920689"``, the offset of the newest record that came and the second in which
upstream published it; ``since`` holds for partitions of which nothing has come yet. What is asked for is
always said of every partition, since one of which nothing is said begins at its end. Nothing is lost by
asking for too much: what is known changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from recension.model.errors import InvalidTimeError
from recension.model.instant import format_instant, parse_instant
from recension.sources.enterprise import OTHER_PROJECT, Records
from recension.sources.http import Answer, Http
from recension.sources.items import MAX_EXCERPT_BYTES, BadRecordError, Item, Rejected, Skipped
from recension.sources.json_fields import parse_json
from recension.sources.lines import Line, Lines
from recension.sources.piece import Offsets, Piece
from recension.sources.titles import fold_table

REALTIME = "https://realtime.enterprise.wikimedia.com"
FORM = "enterprise-stream"

PARTS = 10
PARTITIONS = 50
"""Of the stream; a connection names the parts that it wants, of five partitions each."""

OVERLAP = 100
"""So many offsets before the newest are asked for again.

Within a partition upstream promises an order. Should it be broken where a connection ends, by this much at
most, nothing is lost even then.
"""

OVERLAP_SECONDS = 600
"""The same where a time is asked for."""

_STALE_SECONDS = 24 * 3600
"""An offset of a record that is older may be gone from upstream, which would begin at the end: by time it is
asked for instead, and upstream begins with the oldest that it has."""
_REMEMBERED = 1_000
"""Rejected records, so that they are rejected once however often they come."""
_SINCE = "since"
_SECOND = 1_000_000
_MAX_NUMBER = 2**53


class EnterpriseStream:
    """The articles of one project."""

    form = FORM

    def __init__(
        self,
        http: Http,
        project: str,
        namespaces: Mapping[str, int] | None = None,
        *,
        since: int | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """``namespaces``: the project's, number by name, for records that give none.

        ``since``: where to begin when nothing was read before, microseconds since the epoch; now, without.
        """
        self.project = project
        self.source = f"{http.origin}/v2/articles?project={project}"
        self._http = http
        self._namespaces = fold_table(namespaces or {})
        self._since = since
        self._clock = clock
        self._answer: Answer | None = None
        self._rejected: deque[bytes] = deque(maxlen=_REMEMBERED)

    def connect(self, offsets: Offsets) -> Iterator[Piece]:
        """Yield what comes from ``offsets`` on, record by record; as ``server.following.Stream`` promises."""
        now = self._clock()
        since = offsets.get(_SINCE)
        if not isinstance(since, str):
            since = format_instant((now if self._since is None else self._since) // _SECOND * _SECOND)
        asked = _asked(self.project, offsets, since, now // _SECOND)
        accept = {"Accept": "application/x-ndjson", "Cache-Control": "no-cache"}
        with self._http.ask("POST", "/v2/articles", document=asked, headers=accept) as self._answer:
            if offsets.get(_SINCE) != since:
                yield Piece((), {_SINCE: since}, None, 0)
            reader = _Reader(self.project, self._namespaces, offsets, self._rejected)
            for line in Lines(self._answer, self.source):
                if line.data.strip():
                    yield reader.piece(line)

    def stop(self) -> None:
        """End ``connect``; from any thread."""
        if self._answer is not None:
            self._answer.stop()


def _asked(project: str, offsets: Offsets, since: str, now: int) -> dict[str, Any]:
    """Say from where on each partition is wanted; ``now`` in seconds."""
    by_offset: dict[str, int] = {}
    by_time: dict[str, str] = {}
    for partition in range(PARTITIONS):
        name = str(partition)
        offset, at = _read_place(offsets.get(name))
        if offset is None:
            by_time[name] = since
        elif now - at > _STALE_SECONDS:
            by_time[name] = format_instant(max(at - OVERLAP_SECONDS, 0) * _SECOND)
        else:
            by_offset[name] = max(offset + 1 - OVERLAP, 0)
    return {
        "filters": [{"field": "is_part_of.identifier", "value": project}],
        "parts": list(range(PARTS)),
        "offsets": by_offset,
        "since_per_partition": by_time,
    }


def _read_place(place: int | str | None) -> tuple[int | None, int]:
    """Read what ``_Reader`` wrote: the offset, and the second in which upstream published it."""
    offset, at, second = place.partition("@") if isinstance(place, str) else ("", "", "")
    return (int(offset), int(second)) if at and offset.isdecimal() and second.isdecimal() else (None, 0)


class _Reader:
    """Reads the lines of one connection."""

    def __init__(
        self, project: str, namespaces: Mapping[str, int], offsets: Offsets, rejected: deque[bytes]
    ) -> None:
        """``rejected``: digests of what was, by this connection and those before it."""
        self._records = Records(project, namespaces)
        self._rejected = rejected
        places = {name: _read_place(place)[0] for name, place in offsets.items()}
        self._newest = {name: offset for name, offset in places.items() if offset is not None}

    def piece(self, line: Line) -> Piece:
        """Read one line. What cannot be read is rejected, and the stream goes on behind it."""
        items: list[Item] = []
        skipped: Counter[str] = Counter()
        told = _Told()
        try:
            try:
                value = parse_json(line.whole())
            except ValueError as error:
                raise BadRecordError("INVALID_JSON", f"the line is no JSON: {error}") from None
            told = _told(value)
            items.extend(self._records.read(value, skipped))
        except BadRecordError as fault:
            items = []
            excerpt = line.data[:MAX_EXCERPT_BYTES]
            digest = blake2b(excerpt, digest_size=16).digest()
            if fault.reason == OTHER_PROJECT:
                skipped["records of other projects"] += 1
            elif digest in self._rejected:
                skipped["rejected before"] += 1  # a connection begins with what is known
            else:
                self._rejected.append(digest)
                where = told.where or f"line {line.number} of a connection"
                items.append(Rejected(where, fault.reason, fault.message, excerpt, line.data))
        if skipped:
            items.append(Skipped(dict(skipped)))
        return Piece(items, self._gone_on(told), told.published, len(line.data), record=line.data)

    def _gone_on(self, told: _Told) -> Offsets:
        """Return the offset of a record if it is the newest of its partition."""
        if told.partition is None or told.published is None:
            return {}
        name = str(told.partition)
        if told.offset <= self._newest.get(name, -1):
            return {}
        self._newest[name] = told.offset
        return {name: f"{told.offset}@{max(told.published // _SECOND, 0)}"}


class _Told(NamedTuple):
    """What a record says of its place in the stream; ``None`` where it does not say."""

    partition: int | None = None
    offset: int = 0
    published: int | None = None
    """By upstream, microseconds since the epoch."""

    @property
    def where(self) -> str:
        return "" if self.partition is None else f"partition {self.partition}, offset {self.offset}"


def _told(value: object) -> _Told:
    event = value.get("event") if isinstance(value, dict) else None
    if not isinstance(event, dict):
        return _Told()
    published: int | None = None
    for name in ("date_published", "date_created"):
        if published is None and isinstance(event.get(name), str):
            with contextlib.suppress(InvalidTimeError):
                published = parse_instant(event[name])
    partition, offset = event.get("partition", 0), event.get("offset")
    if type(partition) is not int or type(offset) is not int:
        return _Told(published=published)
    if not (0 <= partition < PARTITIONS and 0 <= offset < _MAX_NUMBER):
        return _Told(published=published)
    return _Told(partition, offset, published)
