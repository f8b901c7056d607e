"""Event columns: which pages something happened to, by valid time, without reading their timelines.

A project's events are kept a second time as (time, page, position), in parts of up to ``PART`` events sorted
by time: some 5 bytes an event. A part says which span of time it holds, so a question about a day reads the
parts of that day. What was committed since the newest part is read from the log. Derived: what is lost of
them costs time alone.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from recension.archive.history import Choice
from recension.model.record import Skeleton, decode_commit
from recension.store import keys
from recension.store.interface import Row, Store
from recension.store.packed import pack, unpack

PART = 65_536
_SORTED = 2**21
"""Events sorted together, in 50 MB: a dump in page order has all times in each of its parts otherwise."""
_WORTHWHILE = 4096
"""Fewer events stay in the log alone."""
_LOG_SLICE = 64
_SPAN = struct.Struct(">QIqq")
_WIDTH = 8


@dataclass(frozen=True, slots=True)
class _Part:
    upto: int
    number: int
    after: int
    """Events of the positions ``after < position <= upto``, with the other parts of that ``upto``."""
    first_time: int
    last_time: int


@dataclass(slots=True)
class Events:
    """Events in the order of the log, as three columns."""

    times: array[int] = field(default_factory=lambda: array("q"))
    pages: array[int] = field(default_factory=lambda: array("q"))
    positions: array[int] = field(default_factory=lambda: array("q"))

    def add(self, position: int, events: list[tuple[int, int]]) -> None:
        """Add the (time, page) of a commit's events."""
        for time, page in events:
            self.times.append(time)
            self.pages.append(page)
            self.positions.append(position)


def extend(store: Store, project: str, number: int) -> None:
    """Put what was committed since the newest part into columns; durable when it returns. Idempotent."""
    parts = _parts(store, number)
    after = parts[-1].upto if parts else 0
    events = Events()
    for position, some in logged(store, project, after):
        events.add(position, some)
        if len(events.times) >= _SORTED:
            _write(store, number, after, position, events)
            after, events = position, Events()
    if len(events.times) >= _WORTHWHILE:
        _write(store, number, after, events.positions[-1], events)


def changed_pages(
    store: Store, project: str, number: int, before: Choice, after: Choice, limit: int
) -> list[int] | None:
    """Return the pages whose state may differ between two questions, ascending; ``None`` beyond ``limit``.

    A page differs only if an event of it became known between the two, or lies between them in valid time.
    """
    low, high = sorted((before.known_at, after.known_at))
    spans = [sorted((before.valid_at, after.valid_at)), sorted((before.settled_at, after.settled_at))]
    found: set[int] = set()
    parts = _parts(store, number)
    for part in parts:
        in_time = any(first < part.last_time and part.first_time <= last for first, last in spans)
        if part.after >= high or not (in_time or part.upto > low):
            continue
        times, pages, positions = _columns(store, number, part)
        known = positions <= high
        wanted = known & (positions > low)
        for first, last in spans:
            wanted |= known & (times > first) & (times <= last)
        found.update(np.unique(pages[wanted]).tolist())
        if len(found) > limit:
            return None
    for position, events in logged(store, project, parts[-1].upto if parts else 0):
        if position > high:
            break
        for time, page in events:
            if position > low or any(first < time <= last for first, last in spans):
                found.add(page)
        if len(found) > limit:
            return None
    return sorted(found)


def _parts(store: Store, number: int) -> list[_Part]:
    out = []
    start, stop = keys.event_run(number), keys.event_run(number + 1)
    with store.view() as view:
        rows = view.scan(start, stop)
    for key, value in rows:
        upto, part = keys.read_event_run(key)
        after, _, first, last = _SPAN.unpack(value)
        out.append(_Part(upto, part, after, first, last))
    return out


def logged(store: Store, project: str, after: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield (position, [(time, page)]) of a project's commits after a position."""
    while records := store.log.read(after + 1, _LOG_SLICE):
        for record in records:
            commit = decode_commit(record)
            if commit.project == project:
                yield (
                    commit.position,
                    [
                        (item.time, item.page_id)
                        for item in commit.items
                        if isinstance(item, Skeleton) and item.page_id
                    ],
                )
        after += len(records)


def _write(store: Store, number: int, after: int, upto: int, events: Events) -> None:
    """Write the parts of some events: first the columns, then, at once, the rows that name them."""
    spans: list[Row] = []

    def bodies() -> Iterator[Row]:
        for body, span in part_rows(number, after, upto, events):
            spans.append(span)
            yield body

    store.put_derived(bodies())
    store.put_derived(iter(spans))


def part_rows(number: int, after: int, upto: int, events: Events) -> Iterator[tuple[Row, Row]]:
    """Yield, of each part of some events, the row of its columns and the row that names them."""
    order = np.argsort(np.frombuffer(events.times, np.int64), kind="stable")
    all_ = events.times, events.pages, events.positions
    columns = [np.frombuffer(column, np.int64)[order] for column in all_]
    for part, at in enumerate(range(0, len(order), PART)):
        mine = [column[at : at + PART] for column in columns]
        span = _SPAN.pack(after, len(mine[0]), int(mine[0][0]), int(mine[0][-1]))
        body = pack(b"".join(map(_planes, mine)))
        yield (keys.event_columns(number, upto, part), body), (keys.event_run(number, upto, part), span)


def _planes(column: np.ndarray) -> bytes:
    """Return a column's differences, all lowest bytes first, then the next: they compress well so."""
    deltas = np.diff(column, prepend=np.int64(0)).astype("<i8")
    return deltas.view(np.uint8).reshape(-1, _WIDTH).T.tobytes()


def _columns(store: Store, number: int, part: _Part) -> list[np.ndarray]:
    """Return the times, pages and positions of a part."""
    with store.view() as view:
        raw = view.get(keys.event_columns(number, part.upto, part.number))
    body = np.frombuffer(unpack(raw or b""), np.uint8).reshape(3, _WIDTH, -1)
    return [np.cumsum(np.ascontiguousarray(plane.T).view("<i8").ravel()) for plane in body]
