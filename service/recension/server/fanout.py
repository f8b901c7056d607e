"""One stream of steps to many followers: what a scope's commits change is computed once and sent to all.

A *line* keeps up with one scope and remembers its newest messages. A follower has a place in a line and
nothing else: whoever reads slowly finds the next message there when it asks for it, or has its own tree walk
through what the line forgot. While it waits for a commit it holds no thread; while a message is on its way to
it, it holds one of the fan-out's own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import NamedTuple, Protocol

from recension.archive.changes import Changes, ScopeTree, Step, Told
from recension.archive.horizons import Horizon
from recension.model.digest import format_digest
from recension.model.errors import (
    AsOfOutOfRangeError,
    DataLossError,
    DeadlineError,
    OverloadedError,
    QuotaExhaustedError,
    RootMismatchError,
    StreamsExhaustedError,
)
from recension.model.event import Presence, Visibility
from recension.model.reading import Entry, wanted
from recension.server.gate import MAX_STREAM_SECONDS, draining
from recension.server.licensed import Assure, Following
from recension.v1 import change_service_pb2 as pb
from recension.wire import convert
from recension.wire.status import RETRY_DELAY, SUBJECT
from recension.wire.steps import StepTold, step_to_proto

LOOK_SECONDS = 0.2
"""How often the log is looked at: what was committed meanwhile goes out in one message."""
HEARTBEAT_SECONDS = 10.0
"""A follower hears at least this often how far it is."""
BATCH_BYTES = 512 * 1024
"""A message is sent when it has reached this size; with the texts of one step it may be 2 MiB more."""
STEP_EVENTS = 256
"""Events that one step of a message has at most; those of longer histories come in several."""
_KEPT_BYTES = 8 * 1024 * 1024
"""Of messages, that a line remembers, and that it makes before it shows them."""
_IDLE_SECONDS = 60.0
"""A line that nobody follows is kept for so long, for those who come back."""
_MOVERS = 2
"""Lines that advance at once."""
_MAX_LINES = 64
_OWN_LINES = 16
"""Of them, those that one licensee may follow."""
_FULL_RETRY_SECONDS = 5
_CHECK_SECONDS = 1.0
_STRIDE = 256
"""Positions that a walk passes before it looks whether its follower is to be told something else."""
_WALKER_NODES = 4096
"""Tree nodes that a follower's own tree holds in memory: 4 MB."""


class Outlet(Protocol):
    """Where the messages of one call go."""

    def check(self) -> None:
        """Look whether the call may go on. Raises what ends it."""
        ...

    def take(self, articles: int, text_bytes: int) -> None:
        """Take what is about to leave from the caller's quota. Raises ``QuotaExhaustedError``."""
        ...

    def send(self, message: bytes) -> None:
        """Send a message; returns when gRPC took it, or when the client is gone."""
        ...

    def end(self, error: Exception | None = None) -> None:
        """End the call, with the status of an error if there is one."""
        ...

    def when_over(self, then: Callable[[], None]) -> None:
        """Have something done when the call is over; at once if it is."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """Where a follower begins."""

    position: int
    root: bytes = b""
    """That the follower has there; empty if it has none."""
    snapshot: bytes = b""
    """Id of the snapshot that it begins at, instead of a position."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """One message: the steps of some commits."""

    first: int
    """Position of its first step."""
    upto: int
    """Position up to which everything was sent with it; less than ``first`` in the middle of a commit."""
    root: bytes
    """Root at ``upto``."""
    begins: bool
    """It begins with a commit, not in the middle of one."""
    ends: bool
    """It ends with a commit."""
    message: bytes
    articles: int
    text_bytes: int


class _Writer:
    """Makes messages of steps."""

    def __init__(self, changes: Changes, following: Following, *, text: bool) -> None:
        self._changes = changes
        self._following = following
        self._text = text

    def batches(self, steps: Iterator[Step], position: int, root: bytes) -> Iterator[_Batch]:
        """Yield the messages of some steps, those without anything to tell left out.

        ``position``, ``root``: up to where everything was sent before.
        """
        batch, known, first, begins = pb.StepBatch(), set[bytes](), 0, True
        size = articles = text_bytes = 0
        is_open = False
        """A part of the commit was written that promises another."""

        def done() -> _Batch:
            message = pb.WatchResponse(batch=batch).SerializeToString()
            return _Batch(first, position, root, begins, not is_open, message, articles, text_bytes)

        for step in steps:
            told = self._following.told(
                self._changes.told(self._following.what, step, text=self._text), _assured
            )
            if not (told.events or step.pages or (is_open and not step.continued)):
                continue
            for part in _parts(told):
                message = self._message(part, known)
                if batch.steps and size + message.ByteSize() > BATCH_BYTES:
                    yield done()
                    batch, known = pb.StepBatch(), set()
                    size = articles = text_bytes = 0
                    message = self._message(part, known)
                if not batch.steps:
                    first, begins = step.position, not is_open
                known.update(part.step.nodes, part.step.made)
                batch.steps.append(message)
                size += message.ByteSize()
                counts = list(map(_texts, part.entries))
                articles += sum(there for _, there in counts)
                text_bytes += sum(count for count, _ in counts)
                is_open = part.step.continued
                if not is_open:
                    position, root = step.position, step.root
        if batch.steps:
            yield done()

    def _message(self, told: Told, known: set[bytes]) -> pb.Step:
        step = told.step
        events = tuple(told.events)
        withdrawn = any(isinstance(item.what, Visibility) for item in events)
        said = StepTold(
            step.position,
            step.recorded_at,
            step.previous_root,
            step.root,
            events,
            step.pages,
            tuple(told.entries),
            continued=step.continued,
            bridge=step.bridge,
            reason=step.reason if withdrawn else "",
            retraction=step.retraction.id if withdrawn and step.retraction else b"",
        )
        nodes = [node for digest, node in step.nodes.items() if digest not in known]
        return step_to_proto(said, nodes, text=self._text)


def _parts(told: Told) -> Iterator[Told]:
    """Yield a step in parts that fit into messages: the first of them have events alone."""
    step, events = told.step, told.events
    bare = step._replace(root=step.previous_root, pages=(), nodes={}, made=frozenset(), continued=True)
    while len(events) > STEP_EVENTS:
        yield Told(bare, events[:STEP_EVENTS], [], {})
        events = events[STEP_EVENTS:]
    yield told._replace(events=events)


def _assured(told: Told, assure: Assure) -> Told:
    """Return a step of which everything was looked at a second time."""
    for part in (*told.events, *told.entries):
        if part is not None:
            assure(part)
    return told


def _texts(entry: Entry | None) -> tuple[int, bool]:
    """Return the bytes of an entry's texts, and whether it has any text."""
    carried = [] if entry is None else [slot.carried_bytes for slot in entry.slots]
    there = [size for size in carried if size is not None]
    return sum(there), bool(there)


# --- lines --------------------------------------------------------------------------------------


class _Reach(NamedTuple):
    """How far a line is."""

    position: int
    """Up to which there is nothing more than its batches."""
    root: bytes
    """The root there; empty before the line was opened."""
    recorded_at: int


class _Line:
    """Keeps up with one scope. Safe for concurrent use."""

    def __init__(self, changes: Changes, following: Following, *, text: bool) -> None:
        """Nothing is read before the first ``advance``."""
        self.following = following
        self.writer = _Writer(changes, following, text=text)
        self.followers = 0
        self.left_at = time.monotonic()
        self.moving = False
        """Somebody was told to advance it."""
        self.told = 0
        """Its end when its followers were woken last; who begins to follow advances it, and wakes nobody."""
        self.reach = _Reach(0, b"", 0)
        self._changes = changes
        self._looked_at = 0
        """Position up to which it is known what was withdrawn."""
        self._advancing = threading.Lock()
        self._tree: ScopeTree | None = None
        self._lock = threading.Lock()
        self._batches: deque[_Batch] = deque()
        self._bytes = 0
        self._first = 0
        """Number of the first batch that is remembered; they are counted from 0."""
        self._low = 0, b""
        """Position and root before the first of them."""

    @property
    def is_open(self) -> bool:
        """Whether it is known where it is."""
        return bool(self.reach.root)

    @property
    def end(self) -> int:
        """Number of the batch that is to come."""
        return self._first + len(self._batches)

    def open(self) -> None:
        """Advance it if nobody did yet."""
        with self._advancing:
            if not self.is_open:
                self._advance()

    def advance(self) -> None:
        """Take in what was committed. Raises ``RecensionError``; the next time it begins anew."""
        with self._advancing:
            while self._advance():
                pass

    def advance_some(self) -> bool:
        """Take in some of what was committed, as much as it remembers; say whether there is more."""
        with self._advancing:
            return self._advance()

    def _advance(self) -> bool:
        newest, head = self.following.newest(), self._changes.head()
        tree, self._tree = self._tree, None  # what breaks off in the middle is not gone on with
        # It binds every answer from now on, and so those that were written before: also where its position
        # does not exist for the followers yet.
        withdrawn = tree is not None and self._changes.withdrawn(
            self.following.what.project, self._looked_at, head
        )
        if tree is None or newest.position < tree.position:
            tree = self._changes.tree_at(self.following.what, newest.position)
            with self._lock:
                self._forget(newest.position, tree.root)
                self._first += 1  # nobody is at its end: what there is between was not taken in
                self.reach = _Reach(newest.position, tree.root, newest.recorded_at)
        elif newest.position > tree.position or withdrawn:
            try:
                self._take_in(tree, newest, withdrawn=withdrawn)
            except DataLossError:  # nothing holds its tree, so that some of it may have been removed
                tree = self._changes.tree_at(self.following.what, self.reach.position, anew=True)
                self._take_in(tree, newest, withdrawn=withdrawn)
        self._tree, self._looked_at = tree, head
        return tree.position < newest.position

    def _take_in(self, tree: ScopeTree, newest: Horizon, *, withdrawn: bool) -> None:
        batches: list[_Batch] = []
        reach = self.reach
        size, recorded_at = 0, reach.recorded_at

        def steps() -> Iterator[Step]:
            nonlocal recorded_at
            for step in tree.steps(newest.position):
                recorded_at = step.recorded_at
                yield step
                if size >= _KEPT_BYTES and not step.continued:
                    return

        for batch in self.writer.batches(steps(), reach.position, reach.root):
            batches.append(batch)
            size += len(batch.message)
        if tree.position == newest.position:
            recorded_at = newest.recorded_at
        with self._lock:
            if withdrawn:
                self._forget(reach.position, reach.root)
            for batch in batches:
                self._batches.append(batch)
                self._bytes += len(batch.message)
            while self._bytes > _KEPT_BYTES and len(self._batches) > 1:
                old = self._batches.popleft()
                self._bytes -= len(old.message)
                self._first += 1
                self._low = old.upto, old.root
            self.reach = _Reach(tree.position, tree.root, recorded_at)

    def _forget(self, position: int, root: bytes) -> None:
        self._first += len(self._batches)
        self._batches.clear()
        self._bytes = 0
        self._low = position, root

    def batch(self, number: int) -> _Batch | _Reach | None:
        """Return a batch; if it is to come, how far the line is; ``None`` if it is forgotten."""
        with self._lock:
            at = number - self._first
            if at == len(self._batches):
                return self.reach
            return self._batches[at] if 0 <= at < len(self._batches) else None

    def place(self, position: int) -> tuple[int, bytes] | None:
        """Return the number of the batch that is next behind a position, and the root there.

        ``None`` where no batch begins there.
        """
        with self._lock:
            before, root = self._low
            if not before <= position <= self.reach.position:
                return None
            number = self._first
            for batch in self._batches:
                if batch.first > position:
                    return (number, root) if batch.begins else None
                if batch.upto > position:
                    return None
                number, root = number + 1, batch.root
            return number, root


# --- followers ----------------------------------------------------------------------------------


class _Follower:
    """One call. What it is sent next is decided by one thread at a time."""

    def __init__(self, licensee: str, line: _Line, outlet: Outlet, start: Start) -> None:
        self.licensee = licensee
        """Whose call it is; empty for who is not restricted."""
        self.line = line
        self.outlet = outlet
        self.start: Start | None = start
        self.number = 0
        """Of the batch that is next in the line, unless it walks by itself."""
        self.walk: Iterator[_Batch | _Reach] | None = None
        self.position = 0
        """Up to which it was sent everything."""
        self.root = b""
        self.whole = True
        """Nothing was sent of a commit that was not sent to its end."""
        self.until = time.monotonic() + MAX_STREAM_SECONDS
        self.said_at = 0.0
        """When it was sent something last."""
        self.caught_up = False
        """It was told that there is nothing more."""
        self.busy = self.again = False
        """A thread sees to it; that is to be done once more."""
        self.over = False
        self.leaves = False
        """It is to be sent away, to go on elsewhere."""
        self.fault: Exception | None = None
        """It is to end with this."""


class Fanout:
    """All followers of one process. Safe for concurrent use."""

    def __init__(self, changes: Changes, limit: int, builders: int) -> None:
        """``limit``: followers at once, of whom one licensee may have half.

        ``builders``: how many may make trees at once.
        """
        self._changes = changes
        self._limit = limit
        self._own_limit = (limit + 1) // 2
        self._building = threading.Semaphore(builders)
        self._senders = ThreadPoolExecutor(limit, thread_name_prefix="fanout")
        self._movers = ThreadPoolExecutor(_MOVERS, thread_name_prefix="lines")
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._lines: dict[tuple[object, ...], _Line] = {}
        self._followers: set[_Follower] = set()
        self._draining = False
        self._checked_at = 0.0

    @property
    def running(self) -> int:
        """How many follow."""
        return len(self._followers)

    def follow(self, following: Following, start: Start, outlet: Outlet, *, text: bool) -> None:
        """Begin to send what is followed to an outlet. Returns at once.

        Raises ``DrainingError``, ``OverloadedError``, ``StreamsExhaustedError``.
        """
        key = (*following.terms, text)
        with self._lock:
            if self._draining:
                raise draining()
            line = self._lines.get(key)
            if following.licensee:
                self._check_own(following.licensee, line)
            if len(self._followers) >= self._limit:
                raise _full(f"all {self._limit} places for followers of this server are in use")
            if line is None:
                self._drop_idle(_MAX_LINES - 1)
                if len(self._lines) >= _MAX_LINES:
                    raise _full(f"{_MAX_LINES} other scopes are followed at this server already")
                line = self._lines[key] = _Line(self._changes, following, text=text)
            follower = _Follower(following.licensee, line, outlet, start)
            self._followers.add(follower)
            line.followers += 1
        outlet.when_over(lambda: self._leave(follower))
        self._wake(follower)

    def look(self) -> None:
        """Look what was committed, and who is to hear of it. Called again and again by one thread."""
        now = time.monotonic()
        with self._lock:
            followers = list(self._followers)
            lines = {follower.line for follower in followers}
            self._drop_idle(_MAX_LINES)
        for line in lines:
            if line.is_open and not line.moving:  # else its first follower opens it
                line.moving = True
                self._movers.submit(self._move, line)
        checking = now - self._checked_at >= _CHECK_SECONDS
        if checking:
            self._checked_at = now
        for follower in followers:
            if checking:
                self._check(follower, now)
            if follower.said_at and now - follower.said_at >= HEARTBEAT_SECONDS:
                self._wake(follower)

    def drain(self) -> None:
        """Take no more followers, and send those that there are away, to go on elsewhere."""
        with self._lock:
            self._draining = True
            followers = list(self._followers)
        for follower in followers:
            follower.leaves = True
            self._wake(follower)

    def wait_empty(self, seconds: float) -> None:
        """Return when nobody follows, or after ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._followers, seconds)

    def close(self) -> None:
        """Leave the threads to their end."""
        self._movers.shutdown(wait=False, cancel_futures=True)
        self._senders.shutdown(wait=False, cancel_futures=True)

    def _check_own(self, licensee: str, line: _Line | None) -> None:
        """Refuse a licensee what it would take from others. Raises ``StreamsExhaustedError``."""
        own = [one.line for one in self._followers if one.licensee == licensee]
        for used, limit, what in (
            (len(own), self._own_limit, "places for followers"),
            (0 if line in own else len(set(own)), _OWN_LINES, "followed scopes"),
        ):
            if used >= limit:
                raise StreamsExhaustedError(
                    f"all {limit} {what} that one licensee may have at a server are in use",
                    hint="end a stream of another selector or view, or wait for its end",
                    limit=limit,
                    **{SUBJECT: licensee, RETRY_DELAY: _FULL_RETRY_SECONDS},
                )

    def _drop_idle(self, most: int) -> None:
        """Forget lines that nobody has followed for long; if there are many, others that nobody follows."""
        idle = [(line.left_at, key) for key, line in self._lines.items() if not line.followers]
        for left_at, key in sorted(idle, key=itemgetter(0)):
            if len(self._lines) > most or time.monotonic() - left_at > _IDLE_SECONDS:
                del self._lines[key]

    def _move(self, line: _Line) -> None:
        more, fault = True, None
        while more:
            try:
                more = line.advance_some()
            except Exception as error:  # noqa: BLE001 - whoever follows is told
                more, fault = False, error
            if fault is None and line.end == line.told:
                continue
            line.told = line.end
            with self._lock:
                followers = [one for one in self._followers if one.line is line]
            for follower in followers:
                follower.fault = follower.fault or fault
                self._wake(follower)
        line.moving = False

    def _check(self, follower: _Follower, now: float) -> None:
        try:
            follower.outlet.check()
        except Exception as error:  # noqa: BLE001 - it becomes the status of the call
            follower.fault = error
        follower.leaves = follower.leaves or now > follower.until
        if follower.fault is not None or follower.leaves:
            self._wake(follower)

    def _leave(self, follower: _Follower) -> None:
        """Take note that a call is over."""
        with self._changed:
            follower.over = True
            if follower in self._followers:
                self._followers.remove(follower)
                follower.line.followers -= 1
                follower.line.left_at = time.monotonic()
            self._changed.notify_all()

    # --- one follower, in a thread of the senders ---

    def _wake(self, follower: _Follower) -> None:
        """Have a thread see to a follower."""
        with self._lock:
            if follower.over or follower.busy:
                follower.again = True
                return
            follower.busy = True
        with suppress(RuntimeError):  # the threads were left to their end
            self._senders.submit(self._attend, follower)

    def _attend(self, follower: _Follower) -> None:
        while True:
            try:
                while not follower.over and self._send_next(follower):
                    pass
            except Exception as error:  # noqa: BLE001 - it becomes the status of the call
                follower.over = True
                follower.outlet.end(error)
            with self._lock:
                if follower.over or not follower.again:
                    follower.busy = False
                    return
                follower.again = False

    def _send_next(self, follower: _Follower) -> bool:
        """Send the next message, if there is one, and say whether there may be another."""
        if follower.fault is not None:
            raise follower.fault
        if follower.leaves:
            return self._send_away(follower)
        if follower.start is not None:
            self._begin(follower, follower.start)
            follower.start = None
            return True
        found = self._following_batch(follower)
        if found is None:
            return self._send_away(follower)
        if isinstance(found, _Reach):
            return self._say_how_far(follower, found)
        self._send_batch(follower, found)
        follower.position, follower.root, follower.whole = found.upto, found.root, found.ends
        return True

    def _send_batch(self, follower: _Follower, batch: _Batch) -> None:
        """Send a message, with less text if its follower's quota would never have room for all of it."""
        while True:
            try:
                self._send(follower, batch.message, batch.articles, batch.text_bytes)
            except QuotaExhaustedError as error:
                batch = _lessened(batch, error)
            else:
                return

    def _send(self, follower: _Follower, message: bytes, articles: int = 0, text_bytes: int = 0) -> None:
        """Send a message, unless its follower may not have it any more: making it can take long."""
        follower.outlet.check()
        if follower.fault is not None:
            raise follower.fault
        follower.outlet.take(articles, text_bytes)
        follower.outlet.send(message)
        follower.said_at = time.monotonic()

    def _send_away(self, follower: _Follower) -> bool:
        if follower.root:
            end = pb.WatchEnd(position=follower.position, root=format_digest(follower.root))
            self._send(follower, pb.WatchResponse(end=end).SerializeToString())
        follower.over = True
        follower.outlet.end(None if follower.root else draining())
        return False

    def _say_how_far(self, follower: _Follower, reach: _Reach) -> bool:
        more = follower.walk is not None
        follower.position, follower.root = reach.position, reach.root
        is_due = time.monotonic() - follower.said_at >= HEARTBEAT_SECONDS
        if is_due or not (more or follower.caught_up):
            follower.caught_up = follower.caught_up or not more
            when = convert.timestamp_to_proto(reach.recorded_at)
            beat = pb.Heartbeat(position=reach.position, recorded_at=when, more=more)
            self._send(follower, pb.WatchResponse(heartbeat=beat).SerializeToString())
            return True
        return more

    def _begin(self, follower: _Follower, start: Start) -> None:
        line = follower.line
        if line.is_open:
            line.advance()  # it may be that nobody followed it for a while
        else:
            with self._making(follower):
                line.open()
        if start.snapshot:
            with self._making(follower):
                tree = self._changes.tree_of(line.following.what, start.snapshot, _WALKER_NODES)
                target = self._changes.tree_at(line.following.what, tree.position).root
            position, root = tree.position, tree.root
            follower.walk = self._walk(follower, tree, target)
            follower.whole = root == target
        else:
            position = start.position
            if position > line.reach.position:
                raise AsOfOutOfRangeError(
                    f"nothing is known at position {position}; the newest is {line.reach.position}",
                    hint="the store is an older one, or the position is another server's",
                    knownAt=position,
                    newest=line.reach.position,
                )
            root = self._join(follower, position) or self._walk_from(follower, position)
            if start.root and start.root != root:
                raise RootMismatchError(
                    f"the scope has another root at position {position}: {format_digest(root)}",
                    hint="something was missed, or the selector or the agreement is another: start from a"
                    " snapshot",
                    position=position,
                    root=format_digest(root),
                )
        follower.position, follower.root = position, root
        message = pb.WatchStart(
            position=follower.position,
            root=format_digest(root),
            valid_at=convert.timestamp_to_proto(line.following.what.valid_at),
        )
        self._send(follower, pb.WatchResponse(start=message).SerializeToString())

    def _following_batch(self, follower: _Follower) -> _Batch | _Reach | None:
        """Return what is next; ``None`` if that cannot be said in the middle of a commit."""
        while True:
            if follower.walk is None:
                found = follower.line.batch(follower.number)
                if isinstance(found, _Batch):
                    follower.number += 1
                if found is not None or not follower.whole:
                    return found
                if not self._join(follower, follower.position):
                    self._walk_from(follower, follower.position)
            elif follower.whole and self._join(follower, follower.position):
                follower.walk = None
            else:
                walked = next(follower.walk, None)
                if walked is not None:
                    return walked
                # Where it ended the line was a moment ago, and may have forgotten it meanwhile.
                follower.whole = True
                if not self._join(follower, follower.position):
                    self._walk_from(follower, follower.position)
                else:
                    follower.walk = None

    def _join(self, follower: _Follower, position: int) -> bytes:
        """Go on in the line behind a position and return the root there; empty where that cannot be."""
        place = follower.line.place(position)
        if place is None:
            return b""
        follower.number, root = place
        if follower.root and follower.root != root:
            raise DataLossError("a scope has two roots at one position", position=position)
        return root

    def _walk_from(self, follower: _Follower, position: int) -> bytes:
        """Go on by oneself behind a position; return the root there."""
        with self._making(follower):
            tree = self._changes.tree_at(follower.line.following.what, position, _WALKER_NODES)
        follower.walk = self._walk(follower, tree, tree.root)
        return tree.root

    @contextmanager
    def _making(self, follower: _Follower) -> Iterator[None]:
        """Have a turn at making trees, for as long as the follower waits. Raises ``DeadlineError``."""
        while not self._building.acquire(timeout=_CHECK_SECONDS):
            if follower.over:
                raise DeadlineError("nobody waits for the answer any more", hint="ask again")
        asked = wanted.set(lambda: not follower.over)
        try:
            yield
        finally:
            wanted.reset(asked)
            self._building.release()

    def _walk(self, follower: _Follower, tree: ScopeTree, target: bytes) -> Iterator[_Batch | _Reach]:
        """Yield what leads to where the line is; ``target``: root of the scope where the tree begins."""
        line = follower.line
        yield from line.writer.batches(tree.bridge(target), tree.position, tree.root)
        while line.place(tree.position) is None:
            if line.reach.position <= tree.position:
                line.advance()
            upto = min(line.reach.position, tree.position + _STRIDE)
            yield from line.writer.batches(tree.steps(upto), tree.position, tree.root)
            yield _Reach(tree.position, tree.root, self._changes.recorded_at(tree.position))
        follower.position, follower.root = tree.position, tree.root


def _lessened(batch: _Batch, error: QuotaExhaustedError) -> _Batch:
    """Return a message with less text, if it has more than a quota that it exceeds allows in whole.

    Then its first texts stay, up to half of that quota: they will find room once it is renewed, though others
    draw on it too. Raises ``error`` for a message that may be sent by then as it is.
    """
    limit, by_article = int(error.metadata["limit"]), error.metadata["quota"].startswith("articles")
    if (batch.articles if by_article else batch.text_bytes) <= limit:
        raise error
    half = (limit + 1) // 2
    room, room_bytes = (half, batch.text_bytes) if by_article else (batch.articles, half)
    message = pb.WatchResponse.FromString(batch.message)
    articles = text_bytes = 0
    for entry in (page.entry for step in message.batch.steps for page in step.pages):
        slots = [one for one in entry.slots if int(one.presence) == Presence.PRESENT and not one.text_omitted]
        size = sum(slot.size_bytes for slot in slots)
        if slots and articles < room and text_bytes + size <= room_bytes:
            articles, text_bytes = articles + 1, text_bytes + size
            continue
        for slot in slots:
            slot.text, slot.text_omitted = "", True
    return replace(batch, message=message.SerializeToString(), articles=articles, text_bytes=text_bytes)


def _full(message: str) -> OverloadedError:
    return OverloadedError(message, hint="try again in a moment", **{RETRY_DELAY: _FULL_RETRY_SECONDS})
