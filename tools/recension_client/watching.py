"""Following a scope: every commit that changes it, each checked to lead from one root to the other.

Whoever keeps a ``Standing`` and nothing else can go on from there, at any server of the same store, and would
notice a change that was left out, invented or sent out of turn (docs/changes.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import InvalidArgumentError, UnreachableError, VerificationError
from recension.model.manifest import Manifest, Selector
from recension.model.reading import Entry, TimelineItem
from recension.model.step import Nodes, PageStep
from recension.model.tree import EMPTY_ROOT
from recension.v1 import change_service_pb2 as pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.change_service_pb2_grpc import ChangeServiceStub
from recension.wire import convert
from recension.wire.steps import StepTold, step_from_proto
from recension_client.assembling import checked
from recension_client.export.rows import leaf_of
from recension_client.questions import Channel, view_of
from recension_client.retrying import CutError
from recension_client.streams import Stream


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a follower is: all that it has to keep."""

    position: int
    """Log position up to which it has everything."""
    root: bytes
    """Root of the scope there, 32 bytes."""


@dataclass(frozen=True, slots=True)
class PageChanged:
    """A page whose current revision or title is another."""

    step: PageStep
    entry: Entry | None
    """What its record stands for now, checked against its leaf; ``None`` where the scope lost the page."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit changed in the scope: its root follows from ``previous_root`` and ``pages``."""

    position: int
    recorded_at: int
    """Microseconds since the epoch."""
    previous_root: bytes
    root: bytes
    events: tuple[TimelineItem, ...]
    """What happened, as far as the agreement grants it: the server's word. Some of it changes no root."""
    pages: tuple[PageChanged, ...]
    """Ascending by page id; of a bridge, and of very large commits, in several runs."""
    bridge: bool = False
    """It leads from a snapshot to the scope, and no commit made it."""
    reason: str = ""
    """Why the revisions that visibility events name are withdrawn; empty without such an event."""
    retraction: str = ""
    """Id of the retraction that withdraws them, 32 hex digits; empty where upstream hides."""

    @property
    def standing(self) -> Standing:
        """Where a follower is behind it."""
        return Standing(self.position, self.root)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """There is nothing of the scope behind the last commit, up to a position."""

    standing: Standing
    recorded_at: int
    """When the commit of that position was recorded."""
    more: bool = False
    """Commits behind it exist already, and the server looks through them."""


Since = int | Standing | Manifest
"""Behind what to follow: a log position, a standing, or a snapshot that holds the project."""


class WatchStream(Stream[Commit | Heartbeat]):
    """The commits of a scope, without end."""

    def __init__(self, selector: Selector, since: Since, *, text: bool = False) -> None:
        """``selector``: of one project. Raises ``InvalidArgumentError`` if a snapshot does not hold it."""
        self._asked = pb.WatchRequest(selector=convert.selector_to_proto(selector), view=view_of(text=text))
        self._text = text
        self._first: Standing | None = None
        """Where it starts if that is known, before anything was received whole."""
        self._standing: Standing | None = None
        if isinstance(since, Standing):
            self._standing = since
        elif isinstance(since, Manifest):
            part = next((part for part in since.parts if (part.project,) == selector.projects), None)
            if part is None:
                raise InvalidArgumentError(
                    f"the snapshot does not hold {', '.join(selector.projects)}", field="since"
                )
            self._asked.snapshot = format_digest(since.snapshot_id)
            self._first = Standing(since.as_of.known_at, part.root)
        else:
            self._asked.position = since
            if not since:
                self._first = Standing(0, EMPTY_ROOT)
        self._begin()

    def _begin(self) -> None:
        self._root: bytes | None = None
        """Behind the last step; known once the stream has begun."""
        self._position = 0
        """Behind the last whole commit, or heartbeat."""
        self._whole = b""
        """Root there."""
        self._bridges = False
        """What leads from a snapshot to the scope is to come, if anything does."""
        self._parts: list[tuple[StepTold, list[PageChanged]]] = []
        """Of a commit that is not whole yet."""

    def method(self, channel: Channel) -> Callable[..., Any]:
        """Return the method that is called."""
        return ChangeServiceStub(channel).Watch

    def request(self) -> pb.WatchRequest:
        """Begin a call behind the last whole commit."""
        self._begin()
        if self._standing is not None:
            self._asked.position = self._standing.position
            self._asked.root = format_digest(self._standing.root)
        return self._asked

    def take(self, message: pb.WatchResponse) -> Sequence[Commit | Heartbeat]:
        """Read a message, checked."""
        kind = message.WhichOneof("kind")
        if (kind == "start") is not (self._root is None):
            raise VerificationError("a stream of changes starts once, with its root")
        match kind:
            case "start":
                self._start(message.start)
            case "batch":
                return self._take_steps(message.batch)
            case "heartbeat":
                return self._beat(message.heartbeat)
            case "end":
                if (message.end.position, message.end.root) != (self._position, format_digest(self._whole)):
                    raise VerificationError("the server counts other steps than came")
                raise CutError(UnreachableError("the server asks to go on elsewhere"))
            case _:
                pass  # of a newer server, which promises that older clients may pass over it
        return ()

    @property
    def _now(self) -> bytes:
        """The root behind the last step."""
        return self._root or b""

    def _start(self, start: pb.WatchStart) -> None:
        root = parse_digest(start.root, "root")
        known = self._standing or self._first
        if start.position != (known.position if known else self._asked.position) or (
            known and root != known.root
        ):
            raise VerificationError("the server starts elsewhere than it was asked to")
        self._root, self._position, self._whole = root, start.position, root
        self._bridges = bool(self._asked.snapshot)

    def _take_steps(self, batch: pb.StepBatch) -> Sequence[Commit]:
        nodes = Nodes()
        found = []
        for message in batch.steps:
            nodes.add(message.nodes)
            told, pages = self._checked(message, nodes)
            self._parts.append((told, pages))
            if not told.continued:
                found.append(self._commit())
        return found

    def _checked(self, message: pb.Step, nodes: Nodes) -> tuple[StepTold, list[PageChanged]]:
        entries = [self._entry(page.entry) if page.HasField("entry") else None for page in message.pages]
        told = step_from_proto(message, entries)
        if told.previous_root != self._now:
            raise VerificationError(
                f"the step of position {told.position} does not begin where the last one ended"
            )
        before = self._parts[-1][0] if self._parts else None
        is_next = (
            told.position == self._position and self._bridges
            if told.bridge
            else told.position > self._position
        )
        if not (
            is_next if before is None else (told.position, told.bridge) == (before.position, before.bridge)
        ):
            raise VerificationError(f"the stream went back, or on too early, to position {told.position}")
        if nodes.step(told.previous_root, told.pages) != told.root:
            raise VerificationError(
                f"the step of position {told.position} leads to another root than it says"
            )
        self._root = told.root
        return told, [_page(told, page, entry) for page, entry in zip(told.pages, told.entries, strict=True)]

    def _entry(self, message: snapshot_pb.Entry) -> Entry:
        """Read an entry; a text that came with it is that of its digest. Raises ``VerificationError``."""
        entry = convert.entry_from_proto(message, text=self._text)
        for slot in entry.slots:
            if slot.frame is not None:
                raise VerificationError(
                    f"a text of page {entry.page_id} comes in a form that was not asked for"
                )
            if slot.text is not None:
                checked(slot.text, slot.digest, f"page {entry.page_id}, slot {slot.role}")
        return entry

    def _commit(self) -> Commit:
        parts, self._parts = self._parts, []
        first, last = parts[0][0], parts[-1][0]
        self._position, self._whole, self._bridges = last.position, last.root, False
        self._standing = Standing(last.position, last.root)
        return Commit(
            last.position,
            last.recorded_at,
            first.previous_root,
            last.root,
            tuple(item for told, _ in parts for item in told.events),
            tuple(page for _, pages in parts for page in pages),
            last.bridge,
            next((told.reason for told, _ in parts if told.reason), ""),
            next((told.retraction.hex() for told, _ in parts if told.retraction), ""),
        )

    def _beat(self, beat: pb.Heartbeat) -> Sequence[Heartbeat]:
        if self._parts or beat.position < self._position:
            raise VerificationError("the server says that nothing is left, in the middle of a commit")
        self._position, self._bridges = beat.position, False
        self._standing = Standing(beat.position, self._now)
        at = convert.timestamp_from_proto(beat.recorded_at, "recorded_at")
        return (Heartbeat(self._standing, at, beat.more),)


def _page(told: StepTold, page: PageStep, entry: Entry | None) -> PageChanged:
    """Return a page whose entry is what its record stands for. Raises ``VerificationError``."""
    if (entry is None) is not (page.after is None):
        raise VerificationError(f"page {page.page_id} comes without its entry, or with one that is gone")
    if entry is not None and page.after is not None:
        said = entry.page_id, entry.rev_id
        if said != (page.page_id, page.after.rev_id) or leaf_of(entry) != page.after.leaf:
            raise VerificationError(
                f"the entry of page {page.page_id} at position {told.position} is not that of its record"
            )
    return PageChanged(page, entry)
