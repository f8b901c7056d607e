"""Event columns: a project's events a second time, by valid time, for questions about the whole corpus.

Parts of up to ``PART`` events sorted by (time, revision id, order of the log), each column packed by itself:
some 8 bytes an event. A row of its own says which span of time and of positions a part holds, so that a
question reads the parts of its days. What was committed since the newest part is read from the log. Derived:
what is lost of them costs time alone (``ColumnsLostError``).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np

from recension.archive.commitments import LARGE, Facts, Models, facts_rows, from_timelines, same_facts
from recension.archive.history import Choice
from recension.archive.packing import Columns, ColumnsLostError, Numbers, pack_columns
from recension.archive.projects import tally_of
from recension.model.record import Kind, Skeleton, decode_commit
from recension.store import keys
from recension.store.interface import Row, Store

PART = 65_536
_SORTED = 2**20
"""Events sorted together, in 40 MB: a dump in page order has all times in each of its parts otherwise."""
_WORTHWHILE = 4096
"""Fewer events stay in the log alone."""
_SLICE = 4096
_SPAN = struct.Struct(">QIqqQIB")
KIND_SHIFT = 8
"""In the column of kinds: above the flags of an event lies its kind."""


class Column(IntEnum):
    """The columns of a part, in their order."""

    TIMES = 0
    PAGES = 1
    REVS = 2
    """0 for what concerns no revision."""
    KINDS = 3
    """Kind and flags."""
    POSITIONS = 4
    ORDINALS = 5


EDIT_KEY = (Column.PAGES, Column.TIMES, Column.REVS, Column.POSITIONS, Column.ORDINALS)
"""What names the row of an edit in its page's timeline."""


class Holds(IntEnum):
    """What a part holds beside exact edits."""

    OTHERS = 1
    """Events that are no edits."""
    FACTS = 2
    """The facts of its edits lie in columns too."""


class Part(NamedTuple):
    """What the row of a part says."""

    upto: int
    number: int
    after: int
    """Events of the positions ``after < position <= upto``, with the other parts of that ``upto``."""
    events: int
    first_time: int
    last_time: int
    last_page: int
    parts: int
    """Parts of that ``upto``."""
    holds: int


@dataclass(slots=True)
class Events:
    """Events in the order of the log, a column for each ``Column``."""

    columns: tuple[array[int], ...] = field(default_factory=lambda: tuple(array("q") for _ in Column))

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.columns[0])

    def add(self, position: int, events: list[tuple[int, Skeleton]]) -> None:
        """Add the (ordinal, event) of a commit."""
        for ordinal, event in events:
            kind = event.kind << KIND_SHIFT | event.flags
            said = event.time, event.page_id, event.rev_id, kind, position, ordinal
            for column, value in zip(self.columns, said, strict=True):
                column.append(value)

    def sorted(self, size: int) -> Iterator[list[Numbers]]:
        """Yield the columns by (time, revision id, order of the log), ``size`` events at a time."""
        columns = [np.frombuffer(column, np.int64) for column in self.columns]
        order = np.lexsort((columns[Column.REVS], columns[Column.TIMES]))
        for at in range(0, len(order), size):
            yield [column[order[at : at + size]] for column in columns]


def extend(store: Store, number: int) -> None:
    """Put what was committed since the newest part into columns; durable when it returns. Idempotent.

    For the holder of ``store.exclusive_writer()``: two at once would cut the log in two ways.
    """
    after = covered(find_parts(store, number))
    with store.view() as view:
        now, known = (tally_of(view, number, at)[1].revisions for at in (keys.END - 1, after))
    if now - known < _WORTHWHILE:
        return
    events = Events()
    for position, some in logged(store, number, after):
        events.add(position, some)
        if len(events) >= _SORTED:
            _write(store, number, after, position, events)
            after, events = position, Events()
    if len(events) >= _WORTHWHILE:
        _write(store, number, after, events.columns[Column.POSITIONS][-1], events)


def changed_pages(store: Store, number: int, before: Choice, after: Choice, limit: int) -> list[int] | None:
    """Return the pages whose state may differ between two questions, ascending.

    ``None`` beyond ``limit``, and where columns are lost. A page differs only if an event of it became known
    between the two, or lies between them in valid time.
    """
    found: set[int] = set()
    try:
        for pages in _changed(store, number, before, after):
            found.update(pages)
            if len(found) > limit:
                return None
    except ColumnsLostError:
        return None
    return sorted(found)


def _changed(store: Store, number: int, before: Choice, after: Choice) -> Iterator[list[int]]:
    low, high = sorted((before.known_at, after.known_at))
    spans = [sorted((before.valid_at, after.valid_at)), sorted((before.settled_at, after.settled_at))]
    parts = find_parts(store, number)
    for part in parts:
        in_time = any(first < part.last_time and part.first_time <= last for first, last in spans)
        if part.after >= high or not (in_time or part.upto > low):
            continue
        read = read_columns(store, number, part)
        times, pages, positions = read[Column.TIMES], read[Column.PAGES], read[Column.POSITIONS]
        known = positions <= high
        wanted = known & (positions > low)
        for first, last in spans:
            wanted |= known & (times > first) & (times <= last)
        yield np.unique(pages[wanted]).tolist()
    for position, events in logged(store, number, covered(parts), high):
        yield [
            event.page_id
            for _, event in events
            if position > low or any(first < event.time <= last for first, last in spans)
        ]


# --- the log --------------------------------------------------------------------------------------


def logged(
    store: Store, number: int, after: int, upto: int = keys.END - 1
) -> Iterator[tuple[int, list[tuple[int, Skeleton]]]]:
    """Yield (position, [(ordinal, event)]) of a project's commits with ``after`` < position <= ``upto``.

    Without entries of a log, which concern no page yet.
    """
    start, stop = keys.tally(number, after + 1), keys.tally(number, upto + 1)
    while True:
        with store.view() as view:
            rows = view.scan(start, stop, limit=_SLICE)
        for key, _ in rows:
            position = keys.read_tally(key)
            for record in store.log.read(position, 1):
                items = enumerate(decode_commit(record).items)
                yield (
                    position,
                    [(n, item) for n, item in items if isinstance(item, Skeleton) and item.page_id],
                )
        if len(rows) < _SLICE:
            return
        start = rows[-1][0] + b"\0"


# --- parts ----------------------------------------------------------------------------------------


def find_parts(store: Store, number: int) -> list[Part]:
    """Return the parts of a project, by position. Raises ``ColumnsLostError`` if one is missing."""
    with store.view() as view:
        rows = view.scan(keys.event_run(number), keys.event_run(number + 1))
    if any(len(value) != _SPAN.size for _, value in rows):
        raise ColumnsLostError("a part of the event columns is damaged")
    parts = list(map(read_part, rows))
    before = 0
    for upto, run in groupby(parts, key=lambda part: part.upto):
        some = list(run)
        said = [(part.after, part.number, part.parts) for part in some]
        if said != [(before, at, len(some)) for at in range(len(some))]:
            raise ColumnsLostError("a part of the event columns is missing")
        before = upto
    return parts


def read_part(row: Row) -> Part:
    """Return what the row of a part says."""
    return Part(*keys.read_event_run(row[0]), *_SPAN.unpack(row[1]))


def covered(parts: Sequence[Part]) -> int:
    """Return the position up to which there are parts."""
    return parts[-1].upto if parts else 0


def read_columns(store: Store, number: int, part: Part) -> Columns:
    """Return the columns of a part. Raises ``ColumnsLostError`` if they are not there."""
    with store.view() as view:
        raw = view.get(keys.event_columns(number, part.upto, part.number))
    if raw is None:
        raise ColumnsLostError("event columns are missing")
    return Columns(raw, part.events)


def _write(store: Store, number: int, after: int, upto: int, events: Events) -> None:
    """Write the parts of some events: first the columns, then, at once, the rows that name them."""
    with store.view() as view:
        large = tally_of(view, number, upto)[1].revisions >= LARGE
    spans: list[Row] = []

    def bodies() -> Iterator[Row]:
        source = facts_in(store, number) if large else None
        for span, rows in part_rows(number, after, upto, events, source):
            spans.append(span)
            yield from rows

    store.put_derived(bodies())
    store.put_derived(iter(spans))


FactsOf = Callable[[list[Numbers]], tuple[Facts, Models]]
"""Returns the facts of the events of a part, of which those that are no edits have none."""


def part_rows(
    number: int, after: int, upto: int, events: Events, facts_of: FactsOf | None
) -> Iterator[tuple[Row, Iterator[Row]]]:
    """Yield, of each part of some events, the row that names it, and the rows of its columns.

    With facts if ``facts_of`` is given.
    """
    parts = -(-len(events) // PART)
    for part, columns in enumerate(events.sorted(PART)):
        times, pages, _, kinds, *_ = columns
        holds = holds_of(kinds) | Holds.FACTS * (facts_of is not None)
        span = _SPAN.pack(after, len(times), times[0], times[-1], pages.max(), parts, holds)
        rows: Iterator[Row] = iter([(keys.event_columns(number, upto, part), pack_columns(columns))])
        if facts_of is not None:
            rows = chain(rows, facts_rows(number, upto, part, *facts_of(columns)))
        yield (keys.event_run(number, upto, part), span), rows


def facts_in(store: Store, number: int) -> FactsOf:
    """Return what reads facts from the timelines; it raises ``DataLossError`` if an edit is not there."""

    def facts_of(columns: list[Numbers]) -> tuple[Facts, Models]:
        edits = np.flatnonzero(columns[Column.KINDS] >> KIND_SHIFT == Kind.EDIT)
        by_page = edits[np.argsort(columns[Column.PAGES][edits], kind="stable")]
        named = [columns[column][by_page] for column in EDIT_KEY]
        facts, models = Facts.of(len(columns[0])), Models()
        facts.put(by_page, from_timelines(store, number, named, models))
        return facts, models

    return facts_of


def says_same(row: Row, stored: bytes | None, events: int) -> bool:
    """Say whether what is stored of a part of ``events`` says what ``row`` of its ``part_rows`` does.

    Compares numbers: another zlib, or another numpy, packs the same ones into other bytes. Raises
    ``ColumnsLostError`` or ``struct.error`` for a row that cannot be read.
    """
    key, value = row
    if stored is None or stored == value:
        return stored is not None
    match key[:1]:
        case b"J":
            return Columns(stored, events).says_same(Columns(value, events))
        case b"f":
            return same_facts(stored, value, events)
        case _:
            return False


def holds_of(kinds: Numbers) -> int:
    """Return what some events hold by their kinds."""
    return Holds.OTHERS * bool((kinds >> KIND_SHIFT != Kind.EDIT).any())


def holds_facts(span: bytes) -> bool:
    """Say whether a part has the facts of its edits in columns, by the row that names it."""
    return bool(span) and bool(span[-1] & Holds.FACTS)
