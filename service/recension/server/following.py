"""Follow streams: read each in a thread of its own, and store what came, batch by batch, with where to go on.

A batch and the mark that says how far it reaches are one commit, so a killed follower goes on exactly behind
what is durable; and since what is known changes nothing, a stream may repeat itself as it likes. A stream
that breaks off is connected anew after a pause that grows; one that upstream refuses ends all with that
error. Memory is bounded: a reader waits when as much as one batch is not stored yet, and upstream with it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from recension.archive import marks
from recension.archive.clock import Clock, salts_of, system_clock
from recension.archive.ingest import Ingestor
from recension.archive.intake.frames import BATCH_BYTES, BATCH_ITEMS, Fed
from recension.archive.ordering import Order, in_order
from recension.archive.prepared import prepare_all
from recension.model.errors import SourceError, UpstreamRefusedError, WriterBusyError
from recension.model.event import Event
from recension.model.mark import Mark
from recension.server.collecting import fewer_collections
from recension.server.followers import alone
from recension.server.quarantine import Quarantine, StreamRecords
from recension.server.taking import Summary, take
from recension.sources.http import RETRY_AFTER
from recension.sources.items import Item, RunEnd, count_by_name
from recension.sources.piece import Offsets, Piece, Stream
from recension.store.interface import Store

_BUSY_SECONDS = 0.2
_MOST_HELD = 1_000
"""Pieces that wait for what they are about; they have no texts."""
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How often something is done."""

    commit_seconds: float = 1.0
    """At most so long a record waits for others of its batch."""
    settle_seconds: float = 60.0
    """Between the sealings of what was stored."""
    report_seconds: float = 60.0
    first_pause_seconds: float = 1.0
    """Before a stream that broke off is connected anew; doubled each time that nothing came."""
    longest_pause_seconds: float = 60.0
    hold_seconds: float = 60.0
    """So long what is about something unknown waits for it to come, as streams may tell it the other way."""
    batch_items: int = BATCH_ITEMS
    batch_bytes: int = BATCH_BYTES


@dataclass(slots=True)
class Followed:
    """What became of one stream."""

    project: str
    source: str
    summary: Summary = field(default_factory=Summary)
    connections: int = 0
    """Made so far."""
    breaks: int = 0
    """Of them that ended with an error."""
    fault: str = ""
    """What the newest of those said."""
    upstream_at: int | None = None
    """Time of the newest thing that is served."""
    lag_seconds: float | None = None
    """From when upstream told of it to when it was served."""

    def document(self) -> dict[str, object]:
        """Return it for machines."""
        lag = None if self.lag_seconds is None else round(self.lag_seconds, 3)
        return {
            "project": self.project,
            "source": self.source,
            "connections": self.connections,
            "breaks": self.breaks,
            "fault": self.fault,
            "lag_seconds": lag,
            **self.summary.document(),
        }


def follow(
    store: Store,
    streams: Sequence[Stream],
    stop: threading.Event,
    *,
    data: Path,
    log: Any,
    clock: Clock = system_clock,
    seed: bytes = b"",
    pace: Pace = Pace(),
) -> list[Followed]:
    """Follow streams until ``stop`` is set, and return what became of them.

    Holds the right to write only while a batch is stored; another writer is waited for. Of what is waiting
    when ``stop`` is set, the batch in hand is stored and the rest comes again. ``log``: of structlog.
    ``seed`` fixes the salts, for tests. Raises ``ProjectNotFoundError``, and ``FollowerBusyError`` while
    another follows one of them, before anything is connected; what
    ended a stream for good, once all that came before is stored; and what the store raises.
    """
    ingestor = Ingestor(store, clock=clock, salts=salts_of(seed))
    for stream in streams:
        ingestor.namespaces(stream.project)  # an unknown project is named before anything is asked
    with alone(data, streams):
        return _Follower(store, ingestor, streams, stop, data, log, clock, pace).run()


class _Follower:
    """The thread that stores."""

    def __init__(
        self,
        store: Store,
        ingestor: Ingestor,
        streams: Sequence[Stream],
        stop: threading.Event,
        data: Path,
        log: Any,
        clock: Clock,
        pace: Pace,
    ) -> None:
        self._store = store
        self._ingestor = ingestor
        self._stop = stop
        self._data = data
        self._log = log
        self._clock = clock
        self._pace = pace
        self._changed = threading.Condition()
        self._readers = [_Reader(stream, self._offsets(stream), self._changed, pace) for stream in streams]
        self._head = store.log.head()
        self._unsettled = False

    def run(self) -> list[Followed]:
        kept = [
            Quarantine(self._data, one.stream.project).following(one.stream.source, one.stream.form)
            for one in self._readers
        ]
        for reader in self._readers:
            reader.start()
        try:
            with fewer_collections():
                self._loop(kept)
        finally:
            for reader in self._readers:
                reader.end()
            with suppress(WriterBusyError), self._store.exclusive_writer():
                for file in kept:
                    file.close()
            self._settle()
            self._report()
        return [reader.followed for reader in self._readers]

    def _loop(self, kept: Sequence[StreamRecords]) -> None:
        settle_at = time.monotonic() + self._pace.settle_seconds
        report_at = time.monotonic() + self._pace.report_seconds
        while not self._stop.is_set():
            ripe = self._wait(min(settle_at, report_at))
            for reader, file in zip(self._readers, kept, strict=True):
                if reader in ripe and not self._stop.is_set():
                    self._store_batch(reader, file)
            for reader in self._readers:
                reader.raise_fault()
            if time.monotonic() >= settle_at:
                self._settle()
                settle_at = time.monotonic() + self._pace.settle_seconds
            if time.monotonic() >= report_at:
                self._report()
                report_at = time.monotonic() + self._pace.report_seconds

    def _wait(self, until: float) -> list[_Reader]:
        """Return the readers that have a batch, once there is one, and at ``until`` at the latest."""
        with self._changed:
            while not self._stop.is_set():
                now = time.monotonic()
                due = [reader.due() for reader in self._readers]
                if min(due, default=until) <= now or now >= until:
                    return [reader for reader, at in zip(self._readers, due, strict=True) if at <= now]
                # A signal sets ``stop`` and wakes nobody.
                self._changed.wait(min([until - now, _BUSY_SECONDS, *(at - now for at in due)]))
        return []

    def _store_batch(self, reader: _Reader, kept: StreamRecords) -> None:
        pieces = reader.batch()
        followed, stream = reader.followed, reader.stream
        fed, held, overtaken = self._sorted(stream.project, reader.held, pieces)
        if not pieces and held == reader.held:
            return
        offsets = reader.offsets(pieces, held)
        told = [one.upstream_at for one in pieces if one.upstream_at is not None]
        upstream_at = max(
            [*told, *([] if followed.upstream_at is None else [followed.upstream_at])], default=None
        )
        mark = Mark(stream.form, stream.source, offsets=offsets, upstream_at=upstream_at)
        try:
            with self._store.exclusive_writer():
                self._refresh()
                take(self._store, self._ingestor, stream.project, fed, kept, followed.summary, mark)
                self._head = self._store.log.head()
        except WriterBusyError:
            self._stop.wait(_BUSY_SECONDS)
            return
        reader.done(pieces, held, offsets)
        self._unsettled = True
        followed.upstream_at = upstream_at
        if told:
            followed.lag_seconds = (self._clock() - max(told)) / _SECOND
        if overtaken:
            count_by_name(followed.summary.skipped, {"overtaken by what is known": overtaken})

    def _sorted(
        self, project: str, held: Sequence[_Held], pieces: Sequence[Piece]
    ) -> tuple[Fed, list[_Held], int]:
        """Return what is stored now, what waits for something to come first, and a count of the overtaken."""
        now = time.monotonic()
        arrived = [*held, *(_Held(now + self._pace.hold_seconds, piece) for piece in pieces)]
        taken: list[Item] = []
        kept: list[_Held] = []
        overtaken = 0
        with self._store.view() as view:
            order = Order(view, project, [item for one in arrived for item in one.piece.items])
            for one in arrived:
                if one.until > now and any(map(order.is_early, one.piece.items)):
                    kept.append(one)
                else:
                    taken += one.piece.items
            kept, over = kept[-_MOST_HELD:], kept[:-_MOST_HELD]
            taken += [item for one in over for item in one.piece.items]
            passed = in_order(item for item in taken if not order.is_overtaken(item))
            overtaken = len(taken) - len(passed)
        events = [item for item in passed if isinstance(item, Event)]
        came = {id(item): one.piece.record for one in arrived for item in one.piece.items}
        records = [came[id(event)] for event in events]
        remarks = [item for item in passed if not isinstance(item, (Event, RunEnd))]
        changes = [change for piece in pieces for change in piece.changes]
        return Fed(remarks, prepare_all(events, self._ingestor.salts), changes, records), kept, overtaken

    def _refresh(self) -> None:
        """Forget what is held of the texts if another process has written."""
        head = self._store.log.head()
        if head != self._head:
            self._ingestor.forget_texts()
            self._head = head

    def _settle(self) -> None:
        """Seal what was stored lately, unless another writes: it will do so, or the next time does."""
        if not self._unsettled:
            return
        try:
            with self._store.exclusive_writer():
                self._refresh()
                self._ingestor.settle(everything=False)
        except WriterBusyError:
            return
        self._unsettled = False

    def _report(self) -> None:
        for reader in self._readers:
            one = reader.followed
            self._log.info(
                "following",
                project=one.project,
                source=one.source,
                connected=reader.connected,
                connections=one.connections,
                breaks=one.breaks,
                fault=one.fault,
                events=one.summary.events,
                accepted=one.summary.accepted,
                rejected=one.summary.rejected.total(),
                lag_seconds=None if one.lag_seconds is None else round(one.lag_seconds, 3),
                quiet_seconds=round(time.monotonic() - reader.heard_at, 1),
                position=self._head.position,
            )

    def _offsets(self, stream: Stream) -> Offsets:
        mark = marks.newest(self._store, stream.project, stream.source)
        return {} if mark is None else dict(mark.offsets)


class _Held(NamedTuple):
    """A piece that waits for what it is about."""

    until: float
    """By the monotonic clock; then it is stored, or rejected, as it is."""
    piece: Piece


class _Reader:
    """The thread that reads one stream, connects it anew, and keeps what came until it is stored."""

    def __init__(self, stream: Stream, offsets: Offsets, changed: threading.Condition, pace: Pace) -> None:
        self.stream = stream
        self.followed = Followed(stream.project, stream.source)
        self.held: list[_Held] = []
        self._passed = dict(offsets)
        """Behind all that was taken out of what waits."""
        self._stored = dict(offsets)
        """As the newest mark has them."""
        self.connected = False
        self.heard_at = time.monotonic()
        self._read = dict(offsets)
        self._pace = pace
        self._changed = changed
        self._ended = threading.Event()
        self._waiting: deque[tuple[float, Piece]] = deque()
        self._bytes = 0
        self._items = 0
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"follow {stream.project}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop reading. A thread that waits for a connection is left behind: it has nothing to lose."""
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        self.stream.stop()
        self._thread.join(1.0)

    # --- for the thread that stores -------------------------------------------------------------

    def due(self) -> float:
        """Return when the batch that waits is to be stored, by the monotonic clock; never without one."""
        if self._full() or self._fault is not None:
            return 0.0
        times = [self._waiting[0][0] + self._pace.commit_seconds] if self._waiting else []
        return min([*times, *(one.until for one in self.held[:1])], default=float("inf"))

    def batch(self) -> list[Piece]:
        """Return the next batch, which goes on waiting: all of it, as no more may wait than a batch holds."""
        with self._changed:
            return [piece for _, piece in self._waiting]

    def offsets(self, pieces: Sequence[Piece], held: Sequence[_Held]) -> dict[str, int | str]:
        """Return where to go on behind pieces, but for what is held: there it is as it was."""
        offsets = self._passed | {name: value for one in pieces for name, value in one.offsets.items()}
        for name in {name for one in held for name in one.piece.offsets}:
            offsets.pop(name, None)
            if name in self._stored:
                offsets[name] = self._stored[name]
        return offsets

    def done(self, pieces: Sequence[Piece], held: list[_Held], offsets: dict[str, int | str]) -> None:
        """Let go of a batch that is stored, with its mark."""
        self.held = held
        self._stored = offsets
        self._passed.update({name: value for one in pieces for name, value in one.offsets.items()})
        with self._changed:
            for _ in pieces:
                _, piece = self._waiting.popleft()
                self._items -= len(piece.items) + len(piece.changes)
                self._bytes -= piece.size
            self._changed.notify_all()

    def raise_fault(self) -> None:
        """Raise what has ended the stream for good, once nothing waits any more."""
        if self._fault is not None and not self._waiting:
            raise self._fault

    # --- the thread itself ----------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        try:
            while not self._ended.is_set():
                before = self.heard_at
                pause = self._connect()
                failures = 0 if self.heard_at != before else failures + 1
                self._ended.wait(max(pause, self._pause(failures)))
        except BaseException as fault:  # noqa: BLE001 - it is raised in the other thread
            with self._changed:
                self._fault = fault
                self._changed.notify_all()

    def _connect(self) -> float:
        """Read one connection to its end; return for how many seconds upstream wants to be left alone."""
        followed = self.followed
        followed.connections += 1
        try:
            for piece in self.stream.connect(dict(self._read)):
                self.connected = True
                self.heard_at = time.monotonic()
                if not self._put(piece):
                    return 0.0
        except UpstreamRefusedError:
            raise
        except SourceError as error:
            if not self._ended.is_set():
                followed.breaks += 1
                followed.fault = error.message
            return float(error.metadata.get(RETRY_AFTER, "0"))
        finally:
            self.connected = False
        return 0.0

    def _pause(self, failures: int) -> float:
        longest = min(
            self._pace.first_pause_seconds * 2 ** min(failures, 16), self._pace.longest_pause_seconds
        )
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads followers out

    def _full(self) -> bool:
        return self._items >= self._pace.batch_items or self._bytes >= self._pace.batch_bytes

    def _put(self, piece: Piece) -> bool:
        """Hand a piece over, once there is room; false when reading is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended.is_set() or not self._full())
            if self._ended.is_set():
                return False
            self._waiting.append((time.monotonic(), piece))
            self._items += len(piece.items) + len(piece.changes)
            self._bytes += piece.size
            self._read.update(piece.offsets)
            if self._full() or len(self._waiting) == 1:
                self._changed.notify_all()
        return True
