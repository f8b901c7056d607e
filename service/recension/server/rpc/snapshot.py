"""SnapshotService over the read protocol. Bulk answers come in batches and can be resumed anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import grpc

from recension.model.credit import Attribution
from recension.model.cursor import Bound
from recension.model.digest import parse_digest
from recension.model.errors import QuotaExhaustedError, StaleCursorError
from recension.model.manifest import Manifest
from recension.model.reading import (
    MAX_BATCH_FRAME_TEXT,
    MAX_FRAME_TEXT,
    START,
    Change,
    Entry,
    Place,
    StoredReader,
)
from recension.server.cursors import Cursors
from recension.server.gate import Gate, Turn
from recension.server.paging import page_size_of, take_page
from recension.server.rpc.revision import DEFAULT_PAGE, PIECE_BYTES, wants_text
from recension.server.scope import assurance, assured
from recension.v1 import snapshot_service_pb2 as pb
from recension.v1.revision_service_pb2 import REVISION_VIEW_UNSPECIFIED
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceServicer
from recension.wire import convert
from recension.wire.attribution import MAX_SHARES, AttributionBatch
from recension.wire.splice import EntryBatch

BATCH_BYTES = 512 * 1024
"""A batch is sent when it has reached this size. Measured: 256 KiB to 1 MiB reach 82-98 % of a C++ server."""
BATCH_TEXT = MAX_BATCH_FRAME_TEXT - MAX_FRAME_TEXT
"""A batch is also sent when its texts have reached this size, which frames take less than."""
MAX_INLINE_TEXT = MAX_FRAME_TEXT
"""Texts of one entry beyond this many bytes follow their batch in pieces."""

_SNAPSHOTS = ("ListSnapshots",)

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer", pb.ReadSnapshotResponse, pb.ReadEntriesResponse)


class SnapshotRpc(SnapshotServiceServicer):
    """Exact corpora: name them, read them, compare them."""

    def __init__(self, reader: StoredReader, gate: Gate, makers: Gate, cursors: Cursors) -> None:
        """``reader``: where the answers come from; ``gate``: who may stream; ``makers``: who may make one."""
        self._cursors = cursors
        self._reader = reader
        self._gate = gate
        self._makers = makers

    def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.CreateSnapshotResponse:
        selector = convert.selector_from_proto(request.selector)
        valid_at, known_at = convert.wanted_as_of_from_proto(request.as_of)
        with self._makers.admit():
            manifest = self._reader.create_snapshot(selector, valid_at=valid_at, known_at=known_at)
        return pb.CreateSnapshotResponse(snapshot=convert.manifest_to_proto(assured(manifest)))

    def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.GetSnapshotResponse:
        manifest = self._reader.snapshot(parse_digest(request.id, "id"))
        return pb.GetSnapshotResponse(snapshot=convert.manifest_to_proto(assured(manifest)))

    def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        # The place is the snapshot that was sent last: others are only ever added behind it.
        last, _ = self._cursors.open_place(request.page_token, _SNAPSHOTS, "page_token")
        rest = self._reader.snapshots(after=parse_digest(last, "page_token") if last else b"")
        snapshots, more = take_page(map(assurance(), rest), size, convert.manifest_to_proto)
        token = self._cursors.seal_place(_SNAPSHOTS, (snapshots[-1].id, 0)) if more else ""
        return pb.ListSnapshotsResponse(snapshots=snapshots, next_page_token=token)

    def ListEntries(
        self, request: pb.ListEntriesRequest, context: grpc.ServicerContext
    ) -> pb.ListEntriesResponse:
        snapshot_id = parse_digest(request.snapshot, "snapshot")
        size = page_size_of(request.page_size)
        bound = ("ListEntries", request.snapshot)
        after = self._start(request, request.page_token, bound, "page_token")
        found = self._reader.entries(snapshot_id, after=after)
        entries, more = take_page(map(assurance(), found), size, convert.entry_to_proto)
        token = self._cursors.seal_place(bound, (entries[-1].project, entries[-1].page_id)) if more else ""
        return pb.ListEntriesResponse(entries=entries, next_page_token=token)

    def ReadSnapshot(self, request: pb.ReadSnapshotRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        snapshot_id = parse_digest(request.snapshot, "snapshot")
        shard = convert.shard_from_proto(request.shard)
        bound = ("ReadSnapshot", request.snapshot, shard.index, shard.count)
        after = self._start(request, request.cursor, bound, "cursor")
        text = wants_text(request.view)
        with self._gate.admit() as turn:
            manifest = self._reader.snapshot(snapshot_id)
            entries = self._reader.read(
                snapshot_id, shard=shard, after=after, text=text, stored=request.accept_frames
            )
            stream = _SnapshotStream(self._cursors, bound, after, turn, context)
            yield from stream.messages(entries)
            if not stream.abandoned:
                yield pb.ReadSnapshotResponse(end=stream.end(manifest))

    def ReadEntries(self, request: pb.ReadEntriesRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        snapshot_id = parse_digest(request.snapshot, "snapshot")
        text = wants_text(request.view)
        with self._gate.admit() as turn:
            manifest = self._reader.snapshot(snapshot_id)
            entries = self._reader.read_at(
                snapshot_id, request.indexes, text=text, stored=request.accept_frames
            )
            stream = _ChosenStream(self._cursors, (), START, turn, context)
            yield from stream.messages(entries)
            if not stream.abandoned:
                yield pb.ReadEntriesResponse(end=stream.end(manifest))

    def DiffSnapshots(
        self, request: pb.DiffSnapshotsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DiffSnapshotsResponse]:
        before = parse_digest(request.snapshot_a, "snapshot_a")
        after = parse_digest(request.snapshot_b, "snapshot_b")
        bound = ("DiffSnapshots", request.snapshot_a, request.snapshot_b)
        place = self._start(request, request.cursor, bound, "cursor")
        text = request.view != REVISION_VIEW_UNSPECIFIED and wants_text(request.view)
        with self._gate.admit() as turn:
            changes = self._reader.diff(before, after, start=place, text=text)
            stream = _DiffStream(self._cursors, bound, place, turn, context)
            yield from stream.messages(changes)
            if not stream.abandoned:
                yield pb.DiffSnapshotsResponse(
                    end=pb.DiffEnd(
                        changes=stream.changes,
                        text_bytes_before=stream.text_bytes_before,
                        text_bytes_after=stream.text_bytes_after,
                        complete=stream.complete,
                        cursor="" if stream.complete else self._cursors.seal_place(bound, stream.place),
                    )
                )

    def ReadAttribution(
        self, request: pb.ReadAttributionRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadAttributionResponse]:
        snapshot_id = parse_digest(request.snapshot, "snapshot")
        since = parse_digest(request.since, "since") if request.since else b""
        shard = convert.shard_from_proto(request.shard)
        bound = ("ReadAttribution", request.snapshot, shard.index, shard.count, request.since)
        after = self._start(request, request.cursor, bound, "cursor")
        with self._gate.admit() as turn:
            found = self._reader.attributions(snapshot_id, shard=shard, after=after, since=since)
            stream = _AttributionStream(self._cursors, bound, after, turn, context)
            yield from stream.messages(found)
            if not stream.abandoned:
                yield pb.ReadAttributionResponse(end=stream.end())

    def ProveEntry(
        self, request: pb.ProveEntryRequest, context: grpc.ServicerContext
    ) -> pb.ProveEntryResponse:
        snapshot_id = parse_digest(request.snapshot, "snapshot")
        proof = self._reader.prove(snapshot_id, request.project, request.page_id)
        return convert.proof_to_proto(assured(proof))

    def _start(
        self,
        request: pb.ListEntriesRequest
        | pb.ReadSnapshotRequest
        | pb.DiffSnapshotsRequest
        | pb.ReadAttributionRequest,
        token: str,
        bound: Bound,
        field: str,
    ) -> Place:
        """Return where to begin: at the server's own token, else where the client says.

        A token of an agreement that was replaced leaves it to the client too, if it says where.
        """
        said = convert.place_from_proto(request.after)
        if not token:
            return said
        try:
            return self._cursors.open_place(token, bound, field)
        except StaleCursorError:
            if said == START:
                raise
            return said


class _Stream:
    """What all bulk streams keep: where they are, and whether they finished."""

    def __init__(
        self, cursors: Cursors, bound: Bound, place: Place, turn: Turn, context: grpc.ServicerContext
    ) -> None:
        self.place = place
        self._cursors = cursors
        self.complete = False
        self.abandoned = False
        self._bound = bound
        self._turn = turn
        self._context = context
        self._exhausted: QuotaExhaustedError | None = None

    def _paid(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yield the items as far as the caller's quota reaches: those before its end are to be sent yet."""
        try:
            yield from items
        except QuotaExhaustedError as error:
            self._exhausted = error

    def _finish(self) -> None:
        """End behind the last message. Raises ``QuotaExhaustedError`` if there would be more."""
        if self._exhausted is not None:
            raise self._exhausted
        self.complete = True

    def _cursor(self) -> str:
        return self._cursors.seal_place(self._bound, self.place)

    def _ends(self) -> bool:
        """Between batches: stop for a client that has left, or with a cursor when the server drains."""
        self.abandoned = not self._context.is_active()
        return self.abandoned or self._turn.over


class _EntryStream(_Stream, Generic[_Answer]):
    answer: type[_Answer]
    entries = 0
    text_bytes = 0

    def messages(self, entries: Iterator[Entry]) -> Iterator[bytes | _Answer]:
        """Yield the messages but for the last; batches as their bytes."""
        if self._ends():
            return
        batch = EntryBatch()
        assure = assurance()
        for entry in self._paid(entries):
            omitted = batch.add(assure(entry), convert.TextBudget(MAX_INLINE_TEXT, MAX_INLINE_TEXT))
            self.entries += 1
            self.text_bytes += sum(slot.carried_bytes or 0 for slot in entry.slots)
            self.place = (entry.project, entry.page_id)
            if batch.size >= BATCH_BYTES or batch.text_bytes >= BATCH_TEXT or omitted:
                yield batch.message(self.answer, self._cursor())
                for chunk in _chunks(entry, omitted):
                    yield self.answer(chunk=chunk)
                batch = EntryBatch()
                if self._ends():
                    return
        if batch:
            yield batch.message(self.answer, self._cursor())
        self._finish()

    def end(self, manifest: Manifest) -> pb.ReadEnd:
        """Return the last message."""
        return pb.ReadEnd(
            entries=self.entries,
            text_bytes=self.text_bytes,
            complete=self.complete,
            cursor="" if self.complete else self._cursor(),
            parts=[convert.part_to_proto(part) for part in manifest.parts],
        )


class _SnapshotStream(_EntryStream[pb.ReadSnapshotResponse]):
    answer = pb.ReadSnapshotResponse


class _ChosenStream(_EntryStream[pb.ReadEntriesResponse]):
    answer = pb.ReadEntriesResponse

    def _cursor(self) -> str:
        """Return none: whoever asked knows which places are left."""
        return ""


class _DiffStream(_Stream):
    changes = 0
    text_bytes_before = 0
    text_bytes_after = 0

    def messages(self, changes: Iterator[Change]) -> Iterator[pb.DiffSnapshotsResponse]:
        if self._ends():
            return
        batch = pb.ChangeBatch()
        size = 0
        assure = assurance()
        for change in self._paid(changes):
            message = convert.change_to_proto(
                assure(change), convert.TextBudget(MAX_INLINE_TEXT, MAX_INLINE_TEXT)
            )
            batch.changes.append(message)
            size += message.ByteSize()
            self.changes += 1
            self.text_bytes_before += message.text_bytes_before
            self.text_bytes_after += message.text_bytes_after
            self.place = (change.project, change.page_id)
            omitted = _omitted(message.before), _omitted(message.after)
            if size >= BATCH_BYTES or any(omitted):
                batch.cursor = self._cursor()
                yield pb.DiffSnapshotsResponse(batch=batch)
                for entry, those in zip((change.before, change.after), omitted, strict=True):
                    for chunk in () if entry is None else _chunks(entry, those):
                        chunk.of_before = entry is change.before
                        yield pb.DiffSnapshotsResponse(chunk=chunk)
                batch, size = pb.ChangeBatch(), 0
                if self._ends():
                    return
        if batch.changes:
            batch.cursor = self._cursor()
            yield pb.DiffSnapshotsResponse(batch=batch)
        self._finish()


class _AttributionStream(_Stream):
    pages = 0
    edits = 0

    def messages(self, found: Iterator[Attribution]) -> Iterator[pb.ReadAttributionResponse]:
        """Yield the messages but for the last. A page of very many contributors has messages of its own."""
        if self._ends():
            return
        batch = AttributionBatch()
        assure = assurance()
        for one in map(assure, found):
            large = len(one.shares) > MAX_SHARES
            if batch and (large or batch.size >= BATCH_BYTES):
                yield batch.message(self._cursor())
                batch = AttributionBatch()
                if self._ends():
                    return
            self.place = (one.project, one.page_id)
            self.pages += 1
            self.edits += one.edits
            if large:
                yield from AttributionBatch.pieces(one, self._cursor())
                if self._ends():
                    return
            else:
                batch.add(one)
        if batch:
            yield batch.message(self._cursor())
        self.complete = True

    def end(self) -> pb.AttributionEnd:
        """Return the last message."""
        return pb.AttributionEnd(
            pages=self.pages,
            edits=self.edits,
            complete=self.complete,
            cursor="" if self.complete else self._cursor(),
        )


def _omitted(message: pb.Entry) -> tuple[int, ...]:
    """Return which slots of an entry are without their texts, for which there was no room."""
    return tuple(number for number, slot in enumerate(message.slots) if slot.text_omitted)


def _chunks(entry: Entry, omitted: Iterable[int]) -> Iterator[pb.TextChunk]:
    """Yield the texts of some slots in pieces."""
    for number in omitted:
        slot = entry.slots[number]
        text = slot.text or b""
        for offset in range(0, len(text), PIECE_BYTES):
            yield pb.TextChunk(
                project=entry.project,
                page_id=entry.page_id,
                role=slot.role,
                offset=offset,
                data=text[offset : offset + PIECE_BYTES],
            )
