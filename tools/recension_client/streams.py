"""Streams as state: what to ask for next, and what each message brings. Both clients feed them.

A stream goes on over as many calls as it takes; where it goes on is known from what was received whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from recension.model.credit import Attribution
from recension.model.digest import format_digest, parse_digest
from recension.model.errors import UnreachableError, VerificationError
from recension.model.reading import (
    MAX_BATCH_FRAME_TEXT,
    MAX_FRAME_TEXT,
    START,
    WHOLE,
    Change,
    Entry,
    Place,
    Shard,
)
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as pb
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from recension.wire import convert
from recension.wire.attribution import attributions_of, shares_of
from recension_client.assembling import change_of, checked, entry_of, omitted_bytes
from recension_client.questions import Channel, id_of, position_of, view_of
from recension_client.retrying import CutError

Item_co = TypeVar("Item_co", covariant=True)
_Item = TypeVar("_Item", Entry, Change)


_Asked = TypeVar("_Asked", pb.ReadSnapshotRequest, pb.DiffSnapshotsRequest, pb.ReadAttributionRequest)


def _go_on(asked: _Asked, cursor: str, last: Place) -> _Asked:
    """Return a request that goes on behind what came last."""
    asked.cursor = cursor
    behind = convert.place_to_proto(last)
    if behind is not None:  # for a server whose agreement, and with it the cursor, was replaced
        asked.after.CopyFrom(behind)
    return asked


class Stream(ABC, Generic[Item_co]):
    """A stream of items, over one or more calls. ``finished`` says that nothing is left to ask for."""

    finished = False

    @abstractmethod
    def method(self, channel: Channel) -> Callable[..., Any]:
        """Return the method that is called."""

    @abstractmethod
    def request(self) -> object:
        """Begin a call: return what to ask for, behind what was received whole."""

    @abstractmethod
    def take(self, message: Any) -> Sequence[Item_co]:
        """Return the items that a message completes. Raises ``VerificationError``, ``CutError``."""


class _Bulk(Stream[_Item]):
    """What the streams of entries and of changes share: batches, their large texts behind them, an end."""

    def __init__(self, *, text: bool, most_bytes: int | None) -> None:
        """``most_bytes``: text beyond which the stream is refused, before it is taken."""
        self._text = text
        self._most_bytes = most_bytes
        self._cursor = ""
        self._last: Place = START
        self._bytes = 0
        self._begin()

    def _begin(self) -> None:
        """Forget what the last call left unfinished."""
        self._batch: Any = None
        self._batch_bytes = 0
        self._missing = 0
        self._pieces: dict[tuple[object, str], bytearray] = {}
        self.seen = 0

    def take(self, message: Any) -> Sequence[_Item]:
        """Join a piece to those before it."""
        if message.HasField("chunk"):
            self._take_piece(message.chunk)
        elif self._missing:
            raise VerificationError("the stream went on before a text was complete")
        elif message.HasField("batch"):
            self._take_batch(message.batch)
        elif message.HasField("end"):
            self._take_end(message.end)
        # At once, not at the next message: a cut right after a batch must not lose it.
        return () if self._batch is None or self._missing else self._deliver()

    def _take_batch(self, batch: Any) -> None:
        items = self._messages(batch)
        if not items:
            raise VerificationError("the server sent an empty batch")
        self._batch, self._pieces = batch, {}
        self._batch_bytes = sum(map(self._weigh, items))
        if self._most_bytes is not None and self._bytes + self._batch_bytes > self._most_bytes:
            raise VerificationError(f"the server sends more than the snapshot's {self._most_bytes:,} bytes")
        self._missing = sum(map(omitted_bytes, self._entries(items))) if self._text else 0
        if self._missing > self._batch_bytes:
            raise VerificationError("the sizes told of a batch are not those of its texts")
        self.seen += len(items)

    def _take_piece(self, chunk: pb.TextChunk) -> None:
        held = self._pieces.setdefault((self._side(chunk), chunk.role), bytearray())
        # One without bytes brings nothing nearer: there could be such pieces for ever.
        if chunk.offset != len(held) or not 0 < len(chunk.data) <= self._missing:
            raise VerificationError(f"a piece of page {chunk.page_id} is missing or too much")
        held += chunk.data
        self._missing -= len(chunk.data)

    def _take_end(self, end: Any) -> None:
        if not end.complete:
            self._cursor = end.cursor or self._cursor
            raise CutError(UnreachableError("the server is shutting down"))
        self._check_end(end)
        self.finished = True

    def _deliver(self) -> Sequence[_Item]:
        batch, self._batch = self._batch, None
        self._room = convert.TextBudget(MAX_FRAME_TEXT, MAX_BATCH_FRAME_TEXT)
        items = [self._read(message) for message in self._messages(batch)]
        self._follow(items)
        self._cursor = batch.cursor
        self._bytes += self._batch_bytes
        return items

    def _follow(self, items: Sequence[_Item]) -> None:
        """Take note of where the stream is. Raises ``VerificationError`` if it went back."""
        for item in items:
            place = (item.project, item.page_id)
            if place <= self._last:
                raise VerificationError(f"the stream went back from {self._last} to {place}")
            self._last = place

    def _pieces_of(self, side: object) -> dict[str, bytearray]:
        return {role: held for (of, role), held in self._pieces.items() if of == side}

    @abstractmethod
    def _messages(self, batch: Any) -> Sequence[Any]:
        """Return a batch's items as they were sent."""

    @abstractmethod
    def _entries(self, messages: Sequence[Any]) -> Iterable[pb.Entry]:
        """Yield the entries of items."""

    @abstractmethod
    def _weigh(self, message: Any) -> int:
        """Return the text of an item in bytes, and count it in."""

    @abstractmethod
    def _side(self, chunk: pb.TextChunk) -> object:
        """Return which entry of a batch a piece is of."""

    @abstractmethod
    def _read(self, message: Any) -> _Item:
        """Read an item, checked."""

    @abstractmethod
    def _check_end(self, end: Any) -> None:
        """Compare the end record with what came. Raises ``VerificationError``."""


class _Entries(_Bulk[Entry]):
    """What the two streams of entries share."""

    def _messages(self, batch: pb.EntryBatch) -> Sequence[pb.Entry]:
        return batch.entries

    def _entries(self, messages: Sequence[pb.Entry]) -> Iterable[pb.Entry]:
        return messages

    def _weigh(self, message: pb.Entry) -> int:
        return sum(slot.size_bytes for slot in message.slots)

    def _side(self, chunk: pb.TextChunk) -> object:
        return chunk.project, chunk.page_id

    def _read(self, message: pb.Entry) -> Entry:
        pieces = self._pieces_of((message.project, message.page_id)) if self._pieces else {}
        return entry_of(message, pieces, self._room, text=self._text)

    def _check_end(self, end: pb.ReadEnd) -> None:
        if end.entries != self.seen:
            raise VerificationError(f"the server counted {end.entries} entries, {self.seen} came")


class EntryStream(_Entries):
    """The entries of a snapshot or a shard of it, in the order of (project, page id)."""

    def __init__(
        self,
        snapshot_id: bytes,
        shard: Shard = WHOLE,
        after: Place = START,
        *,
        text: bool = True,
        most_bytes: int | None = None,
    ) -> None:
        """``most_bytes``: as of ``_Bulk``, of all slots."""
        super().__init__(text=text, most_bytes=most_bytes)
        self._asked = pb.ReadSnapshotRequest(
            snapshot=format_digest(snapshot_id),
            shard=convert.shard_to_proto(shard),
            view=view_of(text=text),
            after=convert.place_to_proto(after),
            accept_frames=True,
        )

    def method(self, channel: Channel) -> Callable[..., Any]:
        """Return the method that is called."""
        return SnapshotServiceStub(channel).ReadSnapshot

    def request(self) -> pb.ReadSnapshotRequest:
        """Begin a call."""
        self._begin()
        return _go_on(self._asked, self._cursor, self._last)


class ChosenStream(_Entries):
    """The entries at given places of a snapshot, in the order asked."""

    def __init__(
        self,
        snapshot_id: bytes,
        indexes: Sequence[int],
        *,
        text: bool = True,
        most_bytes: int | None = None,
    ) -> None:
        """``indexes``: places in the order of (project, page id), the first entry's being 0.

        ``most_bytes``: text of the whole snapshot: no more comes if no place is asked for twice.
        """
        times = max(Counter(indexes).values(), default=1)
        super().__init__(text=text, most_bytes=None if most_bytes is None else most_bytes * times)
        self._snapshot = format_digest(snapshot_id)
        self._left = list(map(position_of, indexes))

    def method(self, channel: Channel) -> Callable[..., Any]:
        """Return the method that is called."""
        return SnapshotServiceStub(channel).ReadEntries

    def request(self) -> pb.ReadEntriesRequest:
        """Begin a call for what did not come yet."""
        self._begin()
        return pb.ReadEntriesRequest(
            snapshot=self._snapshot, indexes=self._left, view=view_of(text=self._text), accept_frames=True
        )

    def _follow(self, items: Sequence[Entry]) -> None:
        if len(items) > len(self._left):
            raise VerificationError("the server sends more entries than were asked for")
        del self._left[: len(items)]

    def _check_end(self, end: pb.ReadEnd) -> None:
        super()._check_end(end)
        if self._left:
            raise VerificationError(f"{len(self._left):,} entries that were asked for did not come")


class ChangeStream(_Bulk[Change]):
    """What differs between two snapshots, in the order of (project, page id)."""

    def __init__(
        self,
        before: bytes,
        after: bytes,
        start: Place = START,
        *,
        text: bool = False,
        most_bytes: int | None = None,
    ) -> None:
        """``most_bytes``: as of ``_Bulk``, of both sides."""
        super().__init__(text=text, most_bytes=most_bytes)
        self._asked = pb.DiffSnapshotsRequest(
            snapshot_a=format_digest(before),
            snapshot_b=format_digest(after),
            after=convert.place_to_proto(start),
            view=view_of(text=text),
        )

    def _begin(self) -> None:
        super()._begin()
        self._before = self._after = 0

    def method(self, channel: Channel) -> Callable[..., Any]:
        """Return the method that is called."""
        return SnapshotServiceStub(channel).DiffSnapshots

    def request(self) -> pb.DiffSnapshotsRequest:
        """Begin a call."""
        self._begin()
        return _go_on(self._asked, self._cursor, self._last)

    def _messages(self, batch: pb.ChangeBatch) -> Sequence[pb.Change]:
        return batch.changes

    def _entries(self, messages: Sequence[pb.Change]) -> Iterable[pb.Entry]:
        return (entry for change in messages for entry in (change.before, change.after))

    def _weigh(self, message: pb.Change) -> int:
        self._before += message.text_bytes_before
        self._after += message.text_bytes_after
        return message.text_bytes_before + message.text_bytes_after

    def _side(self, chunk: pb.TextChunk) -> object:
        # The pieces behind a batch are those of its last change.
        return chunk.of_before

    def _read(self, message: pb.Change) -> Change:
        return change_of(message, self._pieces_of(side=True), self._pieces_of(side=False), text=self._text)

    def _check_end(self, end: pb.DiffEnd) -> None:
        if end.changes != self.seen:
            raise VerificationError(f"the server counted {end.changes} changes, {self.seen} came")
        if (end.text_bytes_before, end.text_bytes_after) != (self._before, self._after):
            raise VerificationError("the server's sum of bytes is not that of what came")


class AttributionStream(Stream[Attribution]):
    """Whom to credit for the pages of a snapshot or a shard of it, in the order of (project, page id)."""

    def __init__(
        self, snapshot_id: bytes, shard: Shard = WHOLE, after: Place = START, since: bytes = b""
    ) -> None:
        """``since``: snapshot whose entries are left out; empty for none."""
        self._asked = pb.ReadAttributionRequest(
            snapshot=format_digest(snapshot_id),
            shard=convert.shard_to_proto(shard),
            after=convert.place_to_proto(after),
            since=format_digest(since) if since else "",
        )
        self._cursor = ""
        self._last: Place = after
        self._begin()

    def _begin(self) -> None:
        self._pages = self._edits = 0
        self._held: Attribution | None = None

    def method(self, channel: Channel) -> Callable[..., Any]:
        """Return the method that is called."""
        return SnapshotServiceStub(channel).ReadAttribution

    def request(self) -> pb.ReadAttributionRequest:
        """Begin a call."""
        self._begin()
        return _go_on(self._asked, self._cursor, self._last)

    def take(self, message: pb.ReadAttributionResponse) -> Sequence[Attribution]:
        """Read a batch. A page that goes on in the next one waits for it."""
        if message.HasField("batch"):
            return self._take_batch(message.batch)
        if message.HasField("end"):
            self._take_end(message.end)
        return ()

    def _take_batch(self, batch: pb.AttributionBatch) -> Sequence[Attribution]:
        if not batch.pages:
            raise VerificationError("the server sent an empty batch")
        continued = batch.pages[-1].continued
        if (continued or self._held is not None) and len(batch.pages) > 1:
            raise VerificationError("a page that goes on is not alone")
        found = attributions_of(batch) if self._held is None else [self._joined(self._held, batch)]
        if continued:
            (self._held,) = found
            return ()
        self._held = None
        for one in found:
            place = (one.project, one.page_id)
            if place <= self._last:
                raise VerificationError(f"the stream went back from {self._last} to {place}")
            self._last = place
        self._cursor = batch.cursor
        self._pages += len(found)
        self._edits += sum(one.edits for one in found)
        return found

    def _joined(self, held: Attribution, batch: pb.AttributionBatch) -> Attribution:
        page, more = batch.pages[0], shares_of(batch)
        if (page.project, page.page_id) != (held.project, held.page_id) or not more:
            raise VerificationError(f"the contributors of page {held.page_id} do not go on")
        edits = held.edits + sum(share.edits for share in more)
        return held._replace(shares=held.shares + more, edits=edits)

    def _take_end(self, end: pb.AttributionEnd) -> None:
        if not end.complete:
            self._cursor = end.cursor or self._cursor
            raise CutError(UnreachableError("the server is shutting down"))
        if self._held is not None or (end.pages, end.edits) != (self._pages, self._edits):
            raise VerificationError(
                f"the server counted {end.pages} pages and {end.edits} edits, "
                f"{self._pages} and {self._edits} came"
            )
        self.finished = True


class TextStream(Stream[int]):
    """One slot's text; its items are the sizes of the pieces."""

    def __init__(self, project: str, rev_id: int, role: str) -> None:
        """Read a slot of a revision."""
        self._where = f"revision {rev_id}, slot {role}"
        self._asked = revision_pb.ReadTextRequest(project=project, rev_id=id_of(rev_id), role=role)
        self._held = bytearray()
        self._digest = ""

    def method(self, channel: Channel) -> Callable[..., Any]:
        """Return the method that is called."""
        return RevisionServiceStub(channel).ReadText

    def request(self) -> revision_pb.ReadTextRequest:
        """Begin a call."""
        self._asked.offset = len(self._held)
        return self._asked

    def take(self, message: revision_pb.ReadTextResponse) -> Sequence[int]:
        """Join a piece to those before it."""
        held = self._held
        if message.offset != len(held) or len(held) + len(message.data) > message.size_bytes:
            raise VerificationError(f"the pieces of {self._where} do not join")
        held += message.data
        self._digest = message.digest or self._digest
        self.finished = message.size_bytes == len(held)
        if not message.data and not self.finished:
            raise VerificationError(f"a piece of {self._where} has no bytes")
        return (len(message.data),) if message.data else ()

    def result(self) -> bytes:
        """Return the whole text. Raises ``VerificationError`` if its digest is another."""
        return checked(bytes(self._held), parse_digest(self._digest, "digest"), self._where)
