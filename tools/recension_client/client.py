"""The client: the ``Reader`` protocol over the wire, with every text checked against its digest."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile, islice
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc

from recension.model.difference import DEFAULT_CONTEXT, MAX_CONTEXT
from recension.model.digest import digest_of, format_digest, parse_digest
from recension.model.errors import Fault, RecensionError, UnreachableError, VerificationError
from recension.model.event import MAX_ID, Presence
from recension.model.manifest import Manifest, Selector
from recension.model.pin import Pin
from recension.model.reading import (
    MAX_PAGE,
    START,
    WHOLE,
    Answer,
    Change,
    Entry,
    Place,
    ProjectInfo,
    Proof,
    Revision,
    RevisionDiff,
    ServerInfo,
    Shard,
    Slot,
    TimelineItem,
    TimelinePlace,
    behind,
)
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import checkpoint_service_pb2 as checkpoint_pb
from recension.v1 import pin_service_pb2 as pin_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recension.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from recension.v1.pin_service_pb2_grpc import PinServiceStub
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from recension.wire import convert, differences
from recension.wire.pins import pin_from_proto
from recension.wire.status import error_of
from recension_client.proof import proof_file
from recension_client.trust import Inclusion
from recension_client.verify import verify_proof

_Item = TypeVar("_Item")

MAX_RECEIVE_BYTES = 8 * 1024 * 1024
"""Largest message taken; the server keeps its own well below."""
MAX_RESUMES = 6
"""Times a stream is resumed in a row without having moved forward."""
_ANSWER_SECONDS = 30.0
_CREATE_SECONDS = 600.0
"""Deadline of CreateSnapshot, whose work grows with the corpus, unless another is asked for."""
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0

_READS = {
    "CatalogService": ("GetServerInfo", "ListProjects", "GetProject"),
    "RevisionService": ("GetRevision", "BatchGetRevisions", "GetArticle", "ListRevisions", "DiffRevisions"),
    "CheckpointService": ("GetCheckpoint", "GetInclusionProof", "GetConsistencyProof"),
    "SnapshotService": ("GetSnapshot", "ListSnapshots", "ListEntries", "ProveEntry"),
}
# Streams are resumed below instead: gRPC retries them only until their first message.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": f"recension.v1.{service}", "method": method}
                    for service, methods in _READS.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.service_config", _SERVICE_CONFIG),
    # Streams have no deadline; this finds a peer that is gone. Servers refuse more than one in 5 minutes.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


class _Cut(Exception):  # noqa: N818 - never leaves this module
    """A stream ended early; ``cursor`` is where to go on, empty for the newest known."""

    def __init__(self, cause: RecensionError, cursor: str = "") -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.cursor = cursor


class _Counted:
    """A channel that says how many bytes each message had. Stubs need no more of a channel than this."""

    def __init__(self, channel: grpc.Channel, received: Callable[[int], None]) -> None:
        self._channel = channel
        self._received = received

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Any], **rest: Any) -> Any:
        """Return a call that takes one message."""
        reads = self._reading(response_deserializer)
        return self._channel.unary_unary(method, response_deserializer=reads, **rest)

    def unary_stream(self, method: str, *, response_deserializer: Callable[[bytes], Any], **rest: Any) -> Any:
        """Return a call that takes many."""
        reads = self._reading(response_deserializer)
        return self._channel.unary_stream(method, response_deserializer=reads, **rest)

    def _reading(self, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def counted(message: bytes) -> Any:
            self._received(len(message))
            return read(message)

        return counted


class Client:
    """Reads from one server. Usable from several threads; connects at the first question."""

    def __init__(self, target: str, *, timeout_seconds: float | None = None) -> None:
        """``target``: ``host:port``.

        ``timeout_seconds``: deadline of each unary call, else 30, and 600 to make a snapshot. Streams have
        none.
        """
        self._target = target
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._closed = threading.Event()
        self._counting = threading.Lock()
        self.received_bytes = 0
        """All messages received so far, as they came."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; streams that still run end."""
        self._closed.set()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    # --- catalog ---

    def server_info(self) -> ServerInfo:
        """Return what the server is."""
        answer = self._ask(self._catalog().GetServerInfo, catalog_pb.GetServerInfoRequest())
        return convert.server_info_from_proto(answer)

    def projects(self) -> list[ProjectInfo]:
        """Return all projects by name."""
        found: list[ProjectInfo] = []
        request = catalog_pb.ListProjectsRequest(page_size=MAX_PAGE)
        while True:
            page = self._ask(self._catalog().ListProjects, request)
            found.extend(map(convert.project_from_proto, page.projects))
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def project(self, name: str) -> ProjectInfo:
        """Return one project. Raises ``ProjectNotFoundError``."""
        answer = self._ask(self._catalog().GetProject, catalog_pb.GetProjectRequest(project=name))
        return convert.project_from_proto(answer.project)

    # --- revisions ---

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision. Raises ``RevisionNotFoundError``."""
        request = revision_pb.GetRevisionRequest(
            project=project, rev_id=_id(rev_id), known_at=_position(known_at), view=_view(text=text)
        )
        answer = self._ask(self._revisions().GetRevision, request)
        return Answer(self._whole(answer.revision, text=text), convert.as_of_from_proto(answer.as_of))

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked; at most ``MAX_BATCH``."""
        request = revision_pb.BatchGetRevisionsRequest(
            project=project,
            rev_ids=map(_id, rev_ids),
            known_at=_position(known_at),
            view=_view(text=text),
        )
        answer = self._ask(self._revisions().BatchGetRevisions, request)
        if len(answer.items) != len(rev_ids):
            raise VerificationError(f"{len(answer.items)} outcomes for {len(rev_ids)} revision ids")
        return [
            convert.item_error_from_proto(item.error)
            if item.HasField("error")
            else self._whole(item.revision, text=text)
            for item in answer.items
        ]

    def article(
        self,
        project: str,
        page: int | str,
        *,
        valid_at: int | None = None,
        known_at: int = 0,
        text: bool = True,
    ) -> Answer:
        """Return a page, by id or title, as it was. Raises ``PageNotFoundError``, ``AsOfOutOfRangeError``."""
        request = revision_pb.GetArticleRequest(
            project=project,
            as_of=convert.wanted_as_of_to_proto(valid_at, _position(known_at)),
            view=_view(text=text),
        )
        if isinstance(page, int):
            request.page_id = _id(page)
        else:
            request.title = page
        answer = self._ask(self._revisions().GetArticle, request)
        return Answer(self._whole(answer.revision, text=text), convert.as_of_from_proto(answer.as_of))

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page, behind ``after``. Raises ``PageNotFoundError``."""
        # The wire has no such place; what lies before it is fetched and left out.
        return behind(self._timeline(project, page_id, known_at), after)

    def _timeline(self, project: str, page_id: int, known_at: int) -> Iterator[TimelineItem]:
        request = revision_pb.ListRevisionsRequest(
            project=project, page_id=_id(page_id), known_at=_position(known_at), page_size=MAX_PAGE
        )
        while True:
            page = self._ask(self._revisions().ListRevisions, request)
            yield from map(convert.timeline_item_from_proto, page.items)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size. Raises ``TextUnavailableError``."""
        held = bytearray()
        digest = ""
        for piece in self._pieces(project, rev_id, role, held):
            digest = piece.digest or digest
        return _checked(bytes(held), parse_digest(digest, "digest"), f"revision {rev_id}, slot {role}")

    def diff_revisions(
        self,
        project: str,
        before: int,
        after: int,
        *,
        role: str = "main",
        context: int = DEFAULT_CONTEXT,
        known_at: int = 0,
    ) -> RevisionDiff:
        """Compare one slot of two revisions. Raises ``RevisionNotFoundError``, ``TextUnavailableError``."""
        request = revision_pb.DiffRevisionsRequest(
            project=project,
            rev_id_a=_id(before),
            rev_id_b=_id(after),
            known_at=_position(known_at),
            role=role,
            context_lines=max(-1, min(context, MAX_CONTEXT)),
        )
        answer = self._ask(self._revisions().DiffRevisions, request)
        found = differences.revision_diff_from_proto(answer)
        if (found.before.rev_id, found.after.rev_id) != (before, after):
            raise VerificationError("the server compared other revisions than was asked for")
        return found

    # --- snapshots ---

    def create_snapshot(
        self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0
    ) -> Manifest:
        """Compute and keep a snapshot. Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``."""
        request = snapshot_pb.CreateSnapshotRequest(
            selector=convert.selector_to_proto(selector),
            as_of=convert.wanted_as_of_to_proto(valid_at, _position(known_at)),
        )
        answer = self._ask(self._snapshots().CreateSnapshot, request, _CREATE_SECONDS)
        manifest = convert.manifest_from_proto(answer.snapshot)
        if manifest.selector != selector or (valid_at is not None and manifest.as_of.valid_at != valid_at):
            raise VerificationError("the server made a snapshot of something else than was asked for")
        return manifest

    def snapshot(self, snapshot_id: bytes) -> Manifest:
        """Return a snapshot. Raises ``SnapshotNotFoundError``."""
        request = snapshot_pb.GetSnapshotRequest(id=format_digest(snapshot_id))
        manifest = convert.manifest_from_proto(self._ask(self._snapshots().GetSnapshot, request).snapshot)
        if manifest.snapshot_id != snapshot_id:
            raise VerificationError("the server sent another snapshot than was asked for")
        return manifest

    def snapshots(self, *, after: bytes = b"") -> Iterator[Manifest]:
        """Yield the snapshots in the order of their making, behind the one with the id ``after``."""
        made = self._all_snapshots()
        if not after:
            return made
        self.snapshot(after)
        # The wire has no such place; what lies before it is fetched and left out.
        return islice(dropwhile(lambda manifest: manifest.snapshot_id != after, made), 1, None)

    def _all_snapshots(self) -> Iterator[Manifest]:
        request = snapshot_pb.ListSnapshotsRequest(page_size=MAX_PAGE)
        while True:
            page = self._ask(self._snapshots().ListSnapshots, request)
            yield from map(convert.manifest_from_proto, page.snapshots)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def entries(self, snapshot_id: bytes, *, after: Place = START) -> Iterator[Entry]:
        """Yield entries without texts."""
        request = snapshot_pb.ListEntriesRequest(
            snapshot=format_digest(snapshot_id), page_size=MAX_PAGE, after=convert.place_to_proto(after)
        )
        while True:
            page = self._ask(self._snapshots().ListEntries, request)
            for message in page.entries:
                yield convert.entry_from_proto(message, text=False)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def read(
        self,
        snapshot_id: bytes,
        *,
        shard: Shard = WHOLE,
        after: Place = START,
        text: bool = True,
        most_bytes: int | None = None,
    ) -> Iterator[Entry]:
        """Yield a shard's entries, with texts unless ``text`` is off; a cut stream is resumed unnoticed.

        ``most_bytes``: text that the snapshot has, by its manifest; a stream that announces more is refused
        before it is taken.
        """

        def batches(cursor: str) -> Iterator[tuple[list[Entry], str]]:
            request = snapshot_pb.ReadSnapshotRequest(
                snapshot=format_digest(snapshot_id),
                shard=convert.shard_to_proto(shard),
                cursor=cursor,
                view=_view(text=text),
                after=convert.place_to_proto(after),
            )
            method = self._snapshots().ReadSnapshot
            return self._read_once(method, request, text=text, most_bytes=most_bytes)

        return self._resumed(batches)

    def read_at(self, snapshot_id: bytes, indexes: Sequence[int], *, text: bool = True) -> Iterator[Entry]:
        """Yield the entries at places of the order (project, page id), in the order asked; also after a cut.

        At most ``MAX_INDEXES``. Texts are those of the entries' digests; that the entries are the snapshot's
        is the server's word.
        """
        left = list(map(_position, indexes))
        failures = 0
        while left:
            request = snapshot_pb.ReadEntriesRequest(
                snapshot=format_digest(snapshot_id), indexes=left, view=_view(text=text)
            )
            try:
                for entries, _ in self._read_once(self._snapshots().ReadEntries, request, text=text):
                    if len(entries) > len(left):
                        raise VerificationError("the server sends more entries than were asked for")
                    del left[: len(entries)]
                    failures = 0
                    yield from entries
            except _Cut as cut:
                failures += 1
                if failures > MAX_RESUMES:
                    raise cut.cause from None
                self._pause(failures)
            else:
                if left:
                    raise VerificationError(f"{len(left):,} of {len(indexes):,} entries did not come")

    def prove(self, snapshot_id: bytes, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not; what is returned was checked."""
        wanted = format_digest(snapshot_id)
        request = snapshot_pb.ProveEntryRequest(snapshot=wanted, project=project, page_id=_id(page_id))
        proof = convert.proof_from_proto(self._ask(self._snapshots().ProveEntry, request))
        try:
            shown = verify_proof(proof_file(proof), wanted)
        except ValueError as error:
            raise VerificationError(f"the proof does not hold: {error}", pageId=page_id) from None
        if (shown.project, shown.page_id) != (project, page_id):
            raise VerificationError("the server proved something else than was asked for", pageId=page_id)
        return proof

    def diff(
        self, before: bytes, after: bytes, *, start: Place = START, text: bool = False
    ) -> Iterator[Change]:
        """Yield what differs between two snapshots; a cut stream is resumed unnoticed.

        ``text`` brings the texts of both sides.
        """

        def batches(cursor: str) -> Iterator[tuple[list[Change], str]]:
            request = snapshot_pb.DiffSnapshotsRequest(
                snapshot_a=format_digest(before),
                snapshot_b=format_digest(after),
                cursor=cursor,
                after=convert.place_to_proto(start),
                view=_view(text=text),
            )
            return self._diff_once(request, text=text)

        return self._resumed(batches)

    # --- pins ---

    def create_pin(
        self, name: str, snapshot_id: bytes, readable_until: int, labels: Mapping[str, str] | None = None
    ) -> Pin:
        """Make a pin, or return it if there is the same. ``readable_until``: microseconds since the epoch.

        Raises ``SnapshotNotFoundError``, ``PinExistsError``, ``PinExpiredError``, ``SnapshotReleasedError``.
        """
        request = pin_pb.CreatePinRequest(
            name=name,
            snapshot=format_digest(snapshot_id),
            labels=dict(labels or {}),
            readable_until=convert.timestamp_to_proto(readable_until),
        )
        made = pin_from_proto(self._ask(self._pins().CreatePin, request).pin)
        if made.name != name or made.snapshot_id != snapshot_id:
            raise VerificationError("the server made another pin than was asked for")
        return made

    def pin(self, name: str) -> Pin:
        """Return a live pin. Raises ``PinNotFoundError``, ``PinExpiredError``."""
        found = pin_from_proto(self._ask(self._pins().GetPin, pin_pb.GetPinRequest(name=name)).pin)
        if found.name != name:
            raise VerificationError("the server sent another pin than was asked for")
        return found

    # --- signed checkpoints ---

    def checkpoint(self) -> str:
        """Return a signed checkpoint of now, unchecked: ``checkpoints.open_checkpoint`` does that.

        Raises ``NoSigningKeyError``, ``LogForkedError``, ``SigningKeyUnusableError``.
        """
        return self._ask(self._signed().GetCheckpoint, checkpoint_pb.GetCheckpointRequest()).checkpoint

    def inclusion(self, snapshot_id: bytes, size: int) -> Inclusion:
        """Return the proof that a snapshot's manifest is a leaf of the log of a size, unchecked."""
        request = checkpoint_pb.GetInclusionProofRequest(snapshot=format_digest(snapshot_id), size=size)
        proof = self._ask(self._signed().GetInclusionProof, request)
        return Inclusion(proof.leaf.encode(), proof.leaf_index, proof.size, list(proof.path))

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the log of the second size begins with that of the first, unchecked."""
        request = checkpoint_pb.GetConsistencyProofRequest(first_size=first, second_size=second)
        return list(self._ask(self._signed().GetConsistencyProof, request).path)

    # --- streams ---

    def _resumed(self, batches: Callable[[str], Iterator[tuple[list[Any], str]]]) -> Iterator[Any]:
        cursor, last, failures = "", START, 0
        while True:
            try:
                for items, newest in batches(cursor):
                    for item in items:
                        place = (item.project, item.page_id)
                        if place <= last:
                            raise VerificationError(f"the stream went back from {last} to {place}")
                        last = place
                    cursor, failures = newest, 0
                    yield from items
            except _Cut as cut:
                failures += 1
                cursor = cut.cursor or cursor
                if failures > MAX_RESUMES:
                    raise cut.cause from None
                self._pause(failures)
            else:
                return

    def _pause(self, failures: int) -> None:
        longest = min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS)
        if self._closed.wait(random.uniform(longest / 2, longest)):  # noqa: S311 - spreads clients out
            raise UnreachableError("the client is closed")

    def _read_once(
        self, method: Callable[..., Any], request: object, *, text: bool, most_bytes: int | None = None
    ) -> Iterator[tuple[list[Entry], str]]:
        """Yield each batch with its cursor once the texts that follow it are complete."""
        batch: snapshot_pb.EntryBatch | None = None
        missing = 0
        chunks: dict[tuple[str, int, str], bytearray] = {}
        seen = seen_bytes = 0
        for message in _stream(method, request):
            if message.HasField("chunk"):
                chunk = message.chunk
                held = chunks.setdefault((chunk.project, chunk.page_id, chunk.role), bytearray())
                if chunk.offset != len(held) or len(chunk.data) > missing:
                    raise VerificationError(f"a piece of page {chunk.page_id} is missing or too much")
                held += chunk.data
                missing -= len(chunk.data)
            elif missing:
                raise VerificationError("the stream went on before a text was complete")
            elif message.HasField("batch"):
                batch, chunks = message.batch, {}
                if not batch.entries:
                    raise VerificationError("the server sent an empty batch")
                seen_bytes += sum(slot.size_bytes for entry in batch.entries for slot in entry.slots)
                if most_bytes is not None and seen_bytes > most_bytes:
                    raise VerificationError(f"the server sends more than the snapshot's {most_bytes:,} bytes")
                missing = sum(map(_omitted_bytes, batch.entries)) if text else 0
                seen += len(batch.entries)
            elif message.HasField("end"):
                if not message.end.complete:
                    raise _Cut(UnreachableError("the server is shutting down"), message.end.cursor)
                if message.end.entries != seen:
                    raise VerificationError(f"the server counted {message.end.entries} entries, {seen} came")
                return
            # At once, not at the next message: a cut right after a batch must not lose it.
            if batch is not None and not missing:
                yield [_entry(entry, chunks, text=text) for entry in batch.entries], batch.cursor
                batch = None
        raise _Cut(UnreachableError("the stream was cut"))

    def _diff_once(
        self, request: snapshot_pb.DiffSnapshotsRequest, *, text: bool
    ) -> Iterator[tuple[list[Change], str]]:
        """Yield each batch with its cursor once the texts that follow it are complete."""
        batch: snapshot_pb.ChangeBatch | None = None
        missing = 0
        chunks: dict[tuple[bool, str], bytearray] = {}
        seen = before = after = 0
        for message in _stream(self._snapshots().DiffSnapshots, request):
            if message.HasField("chunk"):
                chunk = message.chunk
                held = chunks.setdefault((chunk.of_before, chunk.role), bytearray())
                if chunk.offset != len(held) or len(chunk.data) > missing:
                    raise VerificationError(f"a piece of page {chunk.page_id} is missing or too much")
                held += chunk.data
                missing -= len(chunk.data)
            elif missing:
                raise VerificationError("the stream went on before a text was complete")
            elif message.HasField("batch"):
                batch, chunks = message.batch, {}
                if not batch.changes:
                    raise VerificationError("the server sent an empty batch")
                missing = sum(map(_omitted_bytes, _entries_of(batch))) if text else 0
                seen += len(batch.changes)
                before += sum(change.text_bytes_before for change in batch.changes)
                after += sum(change.text_bytes_after for change in batch.changes)
            elif message.HasField("end"):
                end = message.end
                if not end.complete:
                    raise _Cut(UnreachableError("the server is shutting down"), end.cursor)
                if end.changes != seen:
                    raise VerificationError(f"the server counted {end.changes} changes, {seen} came")
                if (end.text_bytes_before, end.text_bytes_after) != (before, after):
                    raise VerificationError("the server's sum of bytes is not that of what came")
                return
            # At once, not at the next message: a cut right after a batch must not lose it.
            if batch is not None and not missing:
                yield [_change(change, chunks, text=text) for change in batch.changes], batch.cursor
                batch = None
        raise _Cut(UnreachableError("the stream was cut"))

    def _pieces(
        self, project: str, rev_id: int, role: str, held: bytearray
    ) -> Iterator[revision_pb.ReadTextResponse]:
        """Fill ``held``, going on at its end after a cut."""
        failures, size = 0, -1
        while size != len(held):
            request = revision_pb.ReadTextRequest(
                project=project, rev_id=_id(rev_id), role=role, offset=len(held)
            )
            try:
                for piece in _stream(self._revisions().ReadText, request):
                    if piece.offset != len(held) or len(held) + len(piece.data) > piece.size_bytes:
                        raise VerificationError(f"the pieces of revision {rev_id} do not join")
                    held += piece.data
                    size, failures = piece.size_bytes, 0
                    yield piece
                if size != len(held):
                    raise _Cut(UnreachableError("the stream was cut"))  # noqa: TRY301 - one way to resume
            except _Cut as cut:
                failures += 1
                if failures > MAX_RESUMES:
                    raise cut.cause from None
                self._pause(failures)

    # --- calls ---

    def _whole(self, message: revision_pb.Revision, *, text: bool) -> Revision:
        """Read a revision, fetch the texts left out for their size, and check all of them."""
        revision = convert.revision_from_proto(message, text=text)
        if not text:
            return revision
        slots: list[Slot] = []
        for slot, sent in zip(revision.slots, message.slots, strict=True):
            whole = slot
            if sent.text_omitted:
                whole = slot._replace(text=self.text(revision.project, revision.rev_id, slot.role))
            slots.append(_check_slot(whole, f"revision {revision.rev_id}"))
        return replace(revision, slots=tuple(slots))

    def _ask(self, method: Callable[..., _Item], request: object, seconds: float = _ANSWER_SECONDS) -> _Item:
        try:
            return method(request, timeout=self._timeout or seconds)
        except grpc.RpcError as error:
            raise error_of(error) from None

    def _open(self) -> grpc.Channel:
        with self._lock:
            if self._closed.is_set():
                raise UnreachableError("the client is closed", hint="make a new one")
            if self._channel is None:
                self._channel = grpc.insecure_channel(self._target, options=_OPTIONS)
            return cast("grpc.Channel", _Counted(self._channel, self._received))

    def _received(self, size: int) -> None:
        with self._counting:
            self.received_bytes += size

    def _catalog(self) -> CatalogServiceStub:
        return CatalogServiceStub(self._open())

    def _pins(self) -> PinServiceStub:
        return PinServiceStub(self._open())

    def _revisions(self) -> RevisionServiceStub:
        return RevisionServiceStub(self._open())

    def _snapshots(self) -> SnapshotServiceStub:
        return SnapshotServiceStub(self._open())

    def _signed(self) -> CheckpointServiceStub:
        return CheckpointServiceStub(self._open())


def _stream(method: Callable[..., Any], request: object) -> Iterator[Any]:
    """Yield a stream's messages; what interrupts it is a ``_Cut``, what refuses it its own error."""
    call = method(request)
    try:
        yield from call
    except grpc.RpcError as error:
        named = error_of(error)
        # A server that is stopped hard cancels its calls; we never cancel one we still read.
        if named.fault is Fault.BUSY or call.code() is grpc.StatusCode.CANCELLED:
            raise _Cut(named) from None
        raise named from None
    finally:
        call.cancel()


def _omitted_bytes(entry: snapshot_pb.Entry) -> int:
    """Return the size of the texts of an entry that follow its batch in pieces."""
    return sum(slot.size_bytes for slot in entry.slots if slot.text_omitted)


def _entries_of(batch: snapshot_pb.ChangeBatch) -> Iterator[snapshot_pb.Entry]:
    for change in batch.changes:
        yield from (change.before, change.after)


def _change(message: snapshot_pb.Change, chunks: dict[tuple[bool, str], bytearray], *, text: bool) -> Change:
    """Read a change; the pieces behind a batch are those of its last change."""
    change = convert.change_from_proto(message, text=text)
    told = change.text_bytes_before, change.text_bytes_after
    if told != (message.text_bytes_before, message.text_bytes_after):
        raise VerificationError(f"the sizes told of page {change.page_id} are not those of its entries")
    if not text:
        return change
    pieces: dict[bool, dict[str, bytearray]] = {True: {}, False: {}}
    for (of_before, role), held in chunks.items():
        pieces[of_before][role] = held
    before, after = change.before, change.after
    if before is not None:
        before = _filled(before, message.before, pieces[True])
    if after is not None:
        after = _filled(after, message.after, pieces[False])
    return change._replace(before=before, after=after)


def _entry(message: snapshot_pb.Entry, chunks: dict[tuple[str, int, str], bytearray], *, text: bool) -> Entry:
    entry = convert.entry_from_proto(message, text=text)
    if not text:
        return entry
    where = entry.project, entry.page_id
    return _filled(entry, message, {key[2]: held for key, held in chunks.items() if key[:2] == where})


def _filled(entry: Entry, message: snapshot_pb.Entry, pieces: dict[str, bytearray]) -> Entry:
    """Give an entry the texts that came in pieces, and check all of them."""
    slots: list[Slot] = []
    for slot, sent in zip(entry.slots, message.slots, strict=True):
        whole = slot
        if sent.text_omitted:
            whole = slot._replace(text=bytes(pieces.get(slot.role, b"")))
        slots.append(_check_slot(whole, f"page {entry.page_id}, revision {entry.rev_id}"))
    return entry._replace(slots=tuple(slots))


def _check_slot(slot: Slot, where: str) -> Slot:
    if slot.presence is Presence.PRESENT and slot.text is not None:
        _checked(slot.text, slot.digest, f"{where}, slot {slot.role}")
    return slot


def _checked(text: bytes, digest: bytes, where: str) -> bytes:
    actual = digest_of(text)
    if actual != digest:
        raise VerificationError(
            f"the text of {where} does not match its digest",
            hint="do not use it; the server or something on the way changed it",
            expected=format_digest(digest),
            actual=format_digest(actual),
        )
    return text


def _id(number: int) -> int:
    """Return an id as the wire can carry it: beyond 64 bits nothing has one, and nothing has 0."""
    return number if -MAX_ID <= number <= MAX_ID else 0


def _position(number: int) -> int:
    """Return a position as the wire can carry it: one that is as far out of range."""
    return max(-MAX_ID, min(number, MAX_ID))


def _view(*, text: bool) -> revision_pb.RevisionView.ValueType:
    return revision_pb.REVISION_VIEW_FULL if text else revision_pb.REVISION_VIEW_BASIC
