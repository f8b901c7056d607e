"""EventStreams of one project: documents get their texts, wait for what they are about, and are told whole.

The texts are fetched some at a time, while the stream goes on. What is not whole yet is pending: it holds up
nothing else, and nothing of it is stored, so nobody is told that a text is empty or lost while it is merely
on its way. The place from which the stream goes on after a restart is never behind what is pending, so that
it comes again; when too much is pending, no more is read. In the end it is given up, as a rejected record.

An event of a page or a revision that is not known waits as well: what it is about may be on its way, through
another data centre, or behind a text.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from recension.archive.claims import Verdict, check_claims
from recension.archive.clock import Clock, system_clock
from recension.archive.judging import lacks_text, must_wait
from recension.archive.projects import project_number
from recension.model.errors import (
    RevisionNotFoundError,
    SourceError,
    TextUnavailableError,
    UpstreamUnreachableError,
)
from recension.model.event import Delete, Edit, Event, Restore, Visibility
from recension.server.pending import Pending, PendingFile
from recension.sources.contents import ContentSource
from recension.sources.eventstreams import Hub, Inbox, Told
from recension.sources.http import RETRY_AFTER
from recension.sources.items import BadRecordError, Rejected, Skipped
from recension.sources.page_change import Change, Complete, Passed, Shown, absent_texts, edit_of, hidden_since
from recension.sources.piece import Offsets, Piece
from recension.store.interface import Store

FORM = "eventstreams"
FETCHERS = 8
"""Texts that are asked for at once; upstream asks for few."""

_SECOND = 1_000_000
_MAX_GONE = 10_000


@dataclass(frozen=True, slots=True)
class Waits:
    """How long something waits; in seconds, but for the number."""

    most: int = 10_000
    """Changes that may be pending; the stream is not read any further while there are so many."""
    most_bytes: int = 64 * 1024 * 1024
    """The same of their documents, which are small unless they bring their texts along."""
    text_seconds: float = 24 * 3600.0
    """For a text that upstream does not have, or refuses, until its revision is given up."""
    deleted_seconds: float = 600.0
    """The same once its page was deleted: it will hardly come back."""
    order_seconds: float = 600.0
    """For what a change is about."""
    first_retry_seconds: float = 1.0
    """Doubled each time."""
    longest_retry_seconds: float = 300.0
    look_seconds: float = 0.5
    """Between looks at whether what a change waits for has come."""
    mark_seconds: float = 60.0
    """Between commits that say nothing but how far the stream was read."""
    show_seconds: float = 1.0
    """Between writings of what is pending; what waits no longer than that is not written down."""
    doubts: int = 2
    """So often a text is fetched again that has another digest than its document says."""


@dataclass(slots=True)
class _Entry:
    """A change that is pending."""

    change: Change
    before: Offsets
    data: bytes
    since: int
    """Microseconds since the epoch, as all times here."""
    waits_for: str
    next_at: int
    tries: int = 0
    asked: bool = False
    """Its text is being fetched."""
    absent: bool = False
    """Upstream said that it has no such text."""
    doubted: int = 0
    why: str = ""


class EventStream:
    """The documents of one project, as a ``Stream``."""

    form = FORM

    def __init__(
        self,
        hub: Hub,
        project: str,
        store: Store,
        content: ContentSource,
        fetchers: ThreadPoolExecutor,
        data: Path,
        *,
        waits: Waits = Waits(),
        clock: Clock = system_clock,
    ) -> None:
        """``store`` is looked into, never written; ``fetchers`` may be shared by several streams."""
        self.project = project
        self.source = hub.source
        self._hub = hub
        self._store = store
        self._content = content
        self._fetchers = fetchers
        self._waits = waits
        self._clock = clock
        with store.view() as view:
            self._number = project_number(view, project)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """By source id, in the order of the stream."""
        self._place: Offsets = {}
        self._told_place: Offsets = {}
        self._told_at = 0
        self._gone: OrderedDict[int, int] = OrderedDict()
        """When pages were deleted, of those that were lately."""
        self._fetched_at = 0
        self._not_before = 0
        """Upstream wants to be left alone until then."""
        self._looked_at = 0
        self._stopped = False
        self._file = PendingFile(data, project)
        self._before = {one.source_id: one for one in self._file.read()}
        """What waited when the last follower ended, and did not come again yet."""
        self._started_at = clock()
        self._shown: list[Pending] | None = None
        self._shown_at = 0

    def connect(self, offsets: Offsets) -> Iterator[Piece]:
        """Yield what is whole, and how far the stream was read; as ``Stream`` promises."""
        if not self._place:
            self._place = self._told_place = dict(offsets)
        inbox = self._hub.join(self.project, offsets)
        try:
            while not inbox.ended:
                told, place, done = inbox.take(self._patience(), self._room())
                for one in told:
                    yield from self._hear(one, inbox)
                if place is not None:
                    self._place = place
                for source_id, outcome in done:
                    yield from self._fetched(source_id, outcome, inbox)
                yield from self._look(inbox)
                yield from self._say_place()
                self._show()
        finally:
            self._show(now=True)
        inbox.raise_error()

    def stop(self) -> None:
        """End ``connect``; from any thread."""
        self._stopped = True
        self._hub.stop()

    # --- documents ----------------------------------------------------------------------------------

    def _hear(self, told: Told, inbox: Inbox) -> Iterator[Piece]:
        change = told.what
        if isinstance(change, Passed):
            yield self._piece([Skipped({change.what: 1})], None, len(told.data))
            return
        if isinstance(change, Rejected):
            yield self._piece([change], None, len(told.data))
            return
        if change.source_id in self._entries:
            return
        left = self._before.pop(change.source_id, None)
        with self._store.view() as view:
            lacks = lacks_text(view, self._number, change)
            unknown = must_wait(view, self._number, change)
        if isinstance(change.happened, Delete):
            self._remember_gone(change)
        self._place = told.before  # until it is known what becomes of it, nothing behind it is done
        if isinstance(change.happened, Visibility | Restore | Delete):
            if unknown:
                self._wait(told, change, "page", left, inbox)
                return
            yield self._whole(change, told.data)
            if lacks:
                self._wait(told, replace(change, happened=None), "text", left, inbox)
        elif lacks:
            self._wait(told, change, "text", left, inbox)
            yield from self._without_fetch(change.source_id)
        elif change.happened is not None and unknown:
            self._wait(told, change, "page", left, inbox)
        elif change.happened is not None:
            yield self._whole(change, told.data)
        else:
            yield self._piece([Skipped({"told before": 1})], change, len(told.data))

    def _wait(self, told: Told, change: Change, waits_for: str, left: Pending | None, inbox: Inbox) -> None:
        now = self._clock()
        since = now if left is None else min(left.since, now)
        self._entries[change.source_id] = _Entry(change, told.before, told.data, since, waits_for, now)
        self._ask(self._entries[change.source_id], inbox)

    def _without_fetch(self, source_id: str) -> Iterator[Piece]:
        """Tell a change at once whose document has all texts, or says that they are hidden."""
        entry = self._entries[source_id]
        if not absent_texts(entry.change):
            yield from self._complete(entry, Shown({}))

    # --- texts --------------------------------------------------------------------------------------

    def _ask(self, entry: _Entry, inbox: Inbox) -> None:
        """Have the texts of a change fetched, if it is their time."""
        roles = absent_texts(entry.change)
        if entry.waits_for != "text" or entry.asked or not roles:
            return
        if max(entry.next_at, self._not_before) > self._clock():
            return
        entry.asked = True
        entry.tries += 1
        source_id = entry.change.source_id

        def deliver(done: Future[Shown | None]) -> None:
            with contextlib.suppress(CancelledError):  # the follower ends
                inbox.deliver((source_id, done.exception() or done.result()))

        self._fetchers.submit(self._fetch, entry.change.rev_id, roles).add_done_callback(deliver)

    def _fetch(self, rev_id: int, roles: Collection[str]) -> Shown | None:
        """Of a fetcher's thread: what is still to be fetched when all ends is not."""
        if self._stopped:
            raise UpstreamUnreachableError("the follower ends")
        return self._content.revision(rev_id, roles)

    def _fetched(self, source_id: str, outcome: Shown | Exception | None, inbox: Inbox) -> Iterator[Piece]:
        entry = self._entries.get(source_id)
        if entry is None:
            return
        entry.asked = False
        now = self._clock()
        entry.absent = outcome is None
        pause = min(
            self._waits.first_retry_seconds * 2 ** min(entry.tries - 1, 20), self._waits.longest_retry_seconds
        )
        entry.next_at = now + int(pause * _SECOND)
        match outcome:
            case None:
                entry.why = "upstream has no such text"
            case SourceError():
                entry.why = outcome.message
                wait = float(outcome.metadata.get(RETRY_AFTER, "0"))
                self._not_before = max(self._not_before, now + int(wait * _SECOND))
            case Exception():
                raise outcome
            case _:
                self._fetched_at = now
                yield from self._complete(entry, outcome)
                return
        if entry.absent:
            self._fetched_at = now
        self._ask(entry, inbox)

    def _complete(self, entry: _Entry, shown: Shown) -> Iterator[Piece]:
        """Tell a change whose texts are there, and what waited for it."""
        change, texts = entry.change, shown.texts
        try:
            edit = edit_of(change, texts)
        except BadRecordError as fault:
            yield from self._give_up(entry, fault.reason, fault.message)
            return
        if texts and entry.doubted < self._waits.doubts and _is_doubtful(edit):
            entry.doubted += 1
            entry.why = "the text has another digest than its document says"
            return
        self._entries.pop(change.source_id)
        size = len(entry.data) + sum(len(text or b"") for text in texts.values())
        changes = [Complete(change, edit, hidden_since(change, shown), entry.data)]
        for other in self._freed(change):
            self._entries.pop(other.change.source_id)
            changes.append(Complete(other.change, None, record=other.data))
            size += len(other.data)
        yield self._piece([], change, size, changes)

    def _freed(self, change: Change) -> list[_Entry]:
        """Return what waits for the page or the revision of a change.

        It is stored in the same commit: what hides a revision is not to come a moment after it.
        """
        return [
            other
            for other in self._entries.values()
            if other.waits_for == "page" and _is_about(other.change, change)
        ]

    # --- time ---------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return how many more documents may be looked at."""
        if sum(len(entry.data) for entry in self._entries.values()) >= self._waits.most_bytes:
            return 0
        return max(self._waits.most - len(self._entries), 0)

    def _patience(self) -> float:
        """Return for how many seconds nothing is to be done unless something comes."""
        return self._waits.look_seconds if self._entries else min(self._waits.mark_seconds, 1.0)

    def _look(self, inbox: Inbox) -> Iterator[Piece]:
        """See to what is pending: ask again, tell what waits no longer, give up what has waited too long."""
        now = self._clock()
        if now - self._looked_at < self._waits.look_seconds * _SECOND:
            return
        self._looked_at = now
        for entry in list(self._entries.values()):
            if entry.change.source_id not in self._entries:
                continue
            waited = (now - entry.since) / _SECOND
            if entry.waits_for == "page":
                yield from self._look_at_page(entry, waited, inbox)
            elif not entry.asked and waited > self._bound(entry):
                yield from self._give_up(entry, TextUnavailableError.reason, entry.why)
            else:
                self._ask(entry, inbox)

    def _look_at_page(self, entry: _Entry, waited: float, inbox: Inbox) -> Iterator[Piece]:
        change = entry.change
        with self._store.view() as view:
            unknown = must_wait(view, self._number, change)
            lacks = lacks_text(view, self._number, change)
        if not unknown:
            if lacks:
                self._fetch_behind(entry, inbox)
            else:
                self._entries.pop(change.source_id)
            yield self._whole(change, entry.data)
        elif waited > self._waits.order_seconds and (lacks or not self._is_coming(change)):
            if lacks:
                # Its own document tells enough of the revision.
                entry.waits_for, entry.since, entry.next_at = "text", self._clock(), 0
                self._ask(entry, inbox)
                yield from self._without_fetch(change.source_id)
            elif _is_of_revision(change):
                # Kept whole: should the revision come later after all, what hides it has to be at hand.
                why = f"revision {change.rev_id} is not known"
                yield from self._give_up(entry, RevisionNotFoundError.reason, why)
            else:
                self._entries.pop(change.source_id)
                yield self._whole(change, entry.data)

    def _is_coming(self, change: Change) -> bool:
        """Say whether what a change waits for is pending itself; told before it, what hides it is lost."""
        return any(
            entry.waits_for == "text" and _is_about(change, entry.change) for entry in self._entries.values()
        )

    def _fetch_behind(self, entry: _Entry, inbox: Inbox) -> None:
        """Have the text of a revision fetched of which the rest is told already."""
        entry.change = replace(entry.change, happened=None)
        entry.waits_for, entry.since, entry.next_at = "text", self._clock(), 0
        self._ask(entry, inbox)

    def _bound(self, entry: _Entry) -> float:
        """Return for how many seconds a text is waited for; without end while none at all can be fetched."""
        if not entry.absent and self._fetched_at < entry.since:
            return float("inf")
        gone = self._gone.get(entry.change.page_id, -1)
        if entry.absent and gone >= entry.change.time:
            return self._waits.deleted_seconds
        return self._waits.text_seconds

    def _give_up(self, entry: _Entry, reason: str, message: str) -> Iterator[Piece]:
        change = entry.change
        self._entries.pop(change.source_id)
        excerpt = {
            "wiki_id": change.project,
            "page_id": change.page_id,
            "rev_id": change.rev_id,
            "source_id": change.source_id,
        }
        what = "edit" if entry.waits_for == "text" else "change of revision"
        where = f"page {change.page_id}, {what} {change.rev_id}"
        rejected = Rejected(where, reason, message, orjson.dumps(excerpt), entry.data)
        tells_more = change.happened is not None and entry.waits_for != "page"
        rest = [Complete(change, None, record=entry.data)] if tells_more else []
        yield self._piece([rejected], change, len(entry.data), rest)

    def _remember_gone(self, change: Change) -> None:
        self._gone[change.page_id] = max(change.time, self._gone.pop(change.page_id, change.time))
        if len(self._gone) > _MAX_GONE:
            self._gone.popitem(last=False)

    # --- pieces -------------------------------------------------------------------------------------

    def _whole(self, change: Change, data: bytes) -> Piece:
        return self._piece([], change, len(data), [Complete(change, None, record=data)])

    def _piece(
        self,
        items: Sequence[Rejected | Skipped],
        change: Change | None,
        size: int,
        changes: Sequence[Complete] = (),
    ) -> Piece:
        self._told_place, self._told_at = self._safe_place(), self._clock()
        upstream_at = None if change is None else change.seen_at
        return Piece(items, self._told_place, upstream_at, size, changes)

    def _safe_place(self) -> Offsets:
        """Return from where everything comes again that is pending."""
        oldest = next(iter(self._entries.values()), None)
        return self._place if oldest is None else oldest.before

    def _say_place(self) -> Iterator[Piece]:
        """Say now and then how far the stream was read, when it has nothing to tell."""
        place, now = self._safe_place(), self._clock()
        if place == self._told_place:
            return
        if not self._told_at or now - self._told_at >= self._waits.mark_seconds * _SECOND:
            yield self._piece([], None, 0)

    def pending(self) -> list[Pending]:
        """Return what waits."""
        return [
            Pending(
                entry.change.source_id, entry.change.page_id, entry.change.rev_id, entry.waits_for,
                entry.since, entry.tries, entry.why,
            )
            for entry in list(self._entries.values())
        ] + list(self._before.values())  # fmt: skip

    def _show(self, *, now: bool = False) -> None:
        """Write down what waits for longer than it takes, now and then."""
        at = self._clock()
        if not now and at - self._shown_at < self._waits.show_seconds * _SECOND:
            return
        self._shown_at = at
        if at - self._started_at > self._waits.order_seconds * _SECOND:
            self._before.clear()  # what has not come again by now was stored by another follower
        pending = [
            one for one in self.pending() if now or at - one.since >= self._waits.show_seconds * _SECOND
        ]
        if pending != self._shown:
            self._shown = pending
            self._file.write(pending)


def completed(change: Change, content: ContentSource, record: bytes) -> Complete:
    """Return a change with the texts that its document lacks.

    Raises ``BadRecordError`` (``TEXT_UNAVAILABLE`` where upstream has none), and as ``content`` does.
    """
    roles = absent_texts(change)
    shown = content.revision(change.rev_id, roles) if roles else Shown({})
    if shown is None:
        raise BadRecordError(TextUnavailableError.reason, "upstream has no such text")
    return Complete(change, edit_of(change, shown.texts), hidden_since(change, shown), record)


def _is_of_revision(change: Change) -> bool:
    return isinstance(change.happened, Visibility | Restore) and bool(change.rev_id)


def _is_about(change: Change, edit: Change) -> bool:
    """Say whether what happened, did so to the page or the revision of an edit."""
    return change.page_id == edit.page_id and (not _is_of_revision(change) or change.rev_id == edit.rev_id)


def _is_doubtful(edit: Event) -> bool:
    assert isinstance(edit.what, Edit)  # noqa: S101 - what ``edit_of`` makes
    return any(check_claims(slot).verdict == Verdict.MISMATCH for slot in edit.what.slots)
