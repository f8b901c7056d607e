"""Wikimedia's EventStreams over HTTP: one connection, whose documents are handed to several projects.

A stream has topics, one for each data centre at least, and each topic has partitions. Where to go on is said
by all of them: ``"eqiad.mediawiki.page_change.v1/0": "timestamp:1606924085001"``. Upstream goes on at that
time or before it, so some documents come again. Before the first document, ``since`` says where to begin.

A client address may have about two connections, so that projects share one: it is made when all of them want
it, at the oldest of the places from which they go on.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from recension.model.errors import InvalidTimeError, UpstreamUnreachableError
from recension.model.instant import format_instant, parse_instant
from recension.sources.http import Answer, Http
from recension.sources.items import MAX_EXCERPT_BYTES, BadRecordError, Rejected
from recension.sources.json_fields import parse_json
from recension.sources.page_change import OTHER_PROJECTS, Change, Passed, read_document
from recension.sources.piece import Offsets
from recension.sources.sse import ServerEvent, read_frames

STREAMS_URL = "https://stream.wikimedia.org"
PAGE_CHANGE = "mediawiki.page_change.v1"
VISIBILITY = "mediawiki.revision-visibility-change"

_SINCE = "since"
_MAX_WAITING = 1000
_MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Documents of a project that are read ahead: no more than so many, nor of so many bytes but for the last."""
_MAX_TOPICS = 64
_MAX_SHOWN = 200
_SECOND = 1_000_000
_MILLISECOND = 1_000


class Told(NamedTuple):
    """One document for a project, or something that was passed over."""

    before: Offsets
    """Where to go on so that it comes again."""
    what: Change | Rejected | Passed
    data: bytes
    """As it came."""


class Inbox:
    """What waits for one project: documents, and texts that were fetched."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._told: deque[Told] = deque()
        self._bytes = 0
        self._done: deque[Any] = deque()
        self._place: Offsets = {}
        self._ended = False
        self._error: Exception | None = None

    def open(self) -> None:
        """Begin anew, behind what waits."""
        with self._changed:
            self._ended, self._error = False, None

    def tell(self, told: Told | None, place: Offsets) -> bool:
        """Hand over a document, once there is room, and the place behind it; false when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._full())
            if self._ended:
                return False
            self._place = place
            if told is not None:
                self._told.append(told)
                self._bytes += len(told.data)
                self._changed.notify_all()
        return True

    def _full(self) -> bool:
        return len(self._told) >= _MAX_WAITING or self._bytes >= _MAX_WAITING_BYTES

    def deliver(self, done: Any) -> None:
        """Hand over something that was asked for."""
        with self._changed:
            self._done.append(done)
            self._changed.notify_all()

    def close(self, error: Exception | None = None) -> None:
        """Say that no more documents come; what was handed over stays."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    def take(self, seconds: float, most: int) -> tuple[list[Told], Offsets | None, list[Any]]:
        """Return what has come, after ``seconds`` at the latest: at most ``most`` documents.

        The place is that behind them; ``None`` while some still wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: (self._told and most) or self._done or self._ended, seconds)
            told = [self._told.popleft() for _ in range(min(len(self._told), most))]
            self._bytes -= sum(len(one.data) for one in told)
            done = list(self._done)
            self._done.clear()
            if told:
                self._changed.notify_all()
            return told, None if self._told else self._place, done

    @property
    def ended(self) -> bool:
        """Whether it was closed, and nothing waits."""
        with self._changed:
            return self._ended and not self._told

    def raise_error(self) -> None:
        """Raise what it was closed with."""
        if self._error is not None:
            raise self._error


class Hub:
    """One connection to EventStreams for several projects."""

    def __init__(
        self,
        http: Http,
        streams: Sequence[str],
        projects: Iterable[str],
        *,
        since: int | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """``since``: where to begin when nothing was read before, microseconds since the epoch (now)."""
        streams = sorted(set(streams))  # the same ones are one source, however they are named
        self.source = f"{http.origin}/v2/stream/{','.join(streams)}"
        self._http = http
        self._path = f"/v2/stream/{quote(','.join(streams), safe=',')}"
        self._since = since
        self._clock = clock
        self.inboxes = {project: Inbox() for project in projects}
        self._lock = threading.Lock()
        self._joined: dict[str, Offsets] = {}
        self._at: Offsets | None = None
        """How far it was read, by this process."""
        self._answer: Answer | None = None
        self._stopped = False

    def join(self, project: str, offsets: Offsets) -> Inbox:
        """Return the inbox of a project; read from ``offsets`` on once all projects have joined."""
        inbox = self.inboxes[project]
        inbox.open()
        with self._lock:
            if self._stopped:
                inbox.close()
                return inbox
            self._joined[project] = offsets
            if len(self._joined) < len(self.inboxes):
                return inbox
            place = self._at if self._at is not None else oldest(self._joined.values(), self._begin())
            self._joined = {}
        threading.Thread(target=self._run, args=(place,), name="eventstreams", daemon=True).start()
        return inbox

    def stop(self) -> None:
        """End it for good, soon; from any thread."""
        self._stopped = True
        for inbox in self.inboxes.values():
            inbox.close()
        if self._answer is not None:
            self._answer.stop()

    def _begin(self) -> str:
        since = self._clock() if self._since is None else self._since
        return format_instant(since // _SECOND * _SECOND)

    def _run(self, place: Offsets) -> None:
        error: Exception | None = None
        try:
            self._read(place)
        except Exception as fault:  # noqa: BLE001 - raised in the threads of the projects
            error = fault
        for inbox in self.inboxes.values():
            inbox.close(error)

    def _read(self, place: Offsets) -> None:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        path, last_id = self._path, written_place(place)
        if last_id:
            headers["Last-Event-ID"] = last_id
        else:
            path += f"?since={quote(str(place[_SINCE]))}"
        with self._http.ask("GET", path, headers=headers) as self._answer:
            if not self._go_on(None, "", place):
                return
            for frame in read_frames(self._answer, self.source):
                if frame.event == "error":
                    raise UpstreamUnreachableError(
                        f"{self.source}: upstream ended it with an error of its own",
                        hint="look whether the streams are named right",
                    )
                if frame.event != "message":
                    continue
                behind = read_place(frame.id) or place
                if not self._hear(frame, place, behind):
                    return
                place = behind

    def _hear(self, frame: ServerEvent, before: Offsets, behind: Offsets) -> bool:
        try:
            what: Change | Passed | Rejected = read_document(_value_of(frame), self.inboxes)
        except BadRecordError as fault:
            where = f"event {frame.id[:_MAX_SHOWN]}"
            excerpt = frame.data[:MAX_EXCERPT_BYTES]
            what = Rejected(where, fault.reason, fault.message, excerpt, frame.data)
        if isinstance(what, Passed) and what.what == OTHER_PROJECTS:
            return self._go_on(None, "", behind)
        # What is of no project is told to the first, which counts it.
        project = what.project if isinstance(what, Change) else next(iter(self.inboxes))
        return self._go_on(Told(before, what, frame.data), project, behind)

    def _go_on(self, told: Told | None, project: str, place: Offsets) -> bool:
        """Hand over a document, and tell all projects how far the stream was read."""
        going_on = all(
            inbox.tell(told if name == project else None, place) for name, inbox in self.inboxes.items()
        )
        if going_on:
            self._at = place
        return going_on


def _value_of(frame: ServerEvent) -> Any:
    if frame.cut:
        raise BadRecordError("LINE_TOO_LONG", "the document is too long")
    try:
        return parse_json(frame.data)
    except ValueError as error:
        raise BadRecordError("INVALID_JSON", f"the document is no JSON: {error}") from None


# --- places -----------------------------------------------------------------------------------------


def read_place(last_id: str) -> Offsets | None:
    """Read the id of a document; ``None`` when it says nothing."""
    try:
        parts = json.loads(last_id)
    except (ValueError, RecursionError):
        return None
    place: dict[str, int | str] = {}
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, dict):
            return None
        topic, partition = part.get("topic"), part.get("partition")
        kind = "timestamp" if "timestamp" in part else "offset"
        value = part.get(kind)
        if not isinstance(topic, str) or type(partition) is not int or type(value) is not int:
            return None
        place[f"{topic}/{partition}"] = f"{kind}:{value}"
    return place if 0 < len(place) <= _MAX_TOPICS else None


def written_place(place: Offsets) -> str:
    """Return the ``Last-Event-ID`` of a place; empty when it has no topics.

    Of a topic in which nothing was read yet upstream says offset -1, and would begin at its end: what came
    into it meanwhile, as when data centres are switched, would be missed. It is asked for by time instead.
    """
    topics = _topics(place)
    times = [value for kind, value in topics.values() if kind == "timestamp" and value >= 0]
    parts = []
    for name, (kind, value) in sorted(topics.items()):
        topic, _, partition = name.rpartition("/")
        said = {"timestamp": min(times)} if value < 0 and times else {kind: value}
        parts.append({"topic": topic, "partition": int(partition), **said})
    return json.dumps(parts, separators=(",", ":")) if parts else ""


def oldest(places: Collection[Offsets], since: str) -> Offsets:
    """Return where to go on so that nothing is missed from any of these places; from ``since`` without one.

    A topic in which nothing was read yet (offset -1) counts as one that is not named.
    """
    begun = [topics for topics in map(_topics, places) if topics]
    fresh = [str(place.get(_SINCE, since)) for place in places if not _topics(place)]
    if not begun:
        return {_SINCE: min(fresh, key=_instant, default=since)}
    merged: dict[str, tuple[str, int]] = {}
    for topics in begun:
        for name, said in topics.items():
            before = merged.get(name)
            if before is None or before[1] < 0 or (said[1] >= 0 and _older(said, before)):
                merged[name] = said
    times = [value for kind, value in merged.values() if kind == "timestamp" and value >= 0]
    if (
        fresh
        and times
        and (first := min(fresh, key=_instant))
        and _instant(first) < min(times) * _MILLISECOND
    ):
        return {_SINCE: first}
    return {name: f"{kind}:{value}" for name, (kind, value) in merged.items()}


def _older(one: tuple[str, int], other: tuple[str, int]) -> bool:
    # Of a time and an offset of one topic, neither can be told to be older; upstream counts by time today.
    return one[1] < other[1] if one[0] == other[0] else one[0] == "timestamp"


def _topics(place: Offsets) -> Mapping[str, tuple[str, int]]:
    found = {}
    for name, said in place.items():
        kind, _, value = said.partition(":") if isinstance(said, str) else ("", "", "")
        if kind in ("timestamp", "offset") and "/" in name and value.removeprefix("-").isdecimal():
            found[name] = kind, int(value)
    return found


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except InvalidTimeError:
        return 0
