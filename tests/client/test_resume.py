"""A real gRPC server that cuts its streams, and the client that must not show it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from recension.model.digest import digest_of, format_digest
from recension.model.errors import UnreachableError, VerificationError
from recension.model.event import Presence
from recension.model.reading import Entry, Slot
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as pb
from recension.v1.snapshot_service_pb2_grpc import (
    SnapshotServiceServicer,
    add_SnapshotServiceServicer_to_server,
)
from recension.wire import convert
from recension_client import retrying
from recension_client.client import Client
from recension_client.streams import EntryStream, TextStream

SNAPSHOT = bytes(32)


def entry(page_id: int, text: bytes) -> Entry:
    slot = Slot("main", "wikitext", "text/x-wiki", Presence.PRESENT, len(text), digest_of(text), text)
    return Entry("p", page_id, page_id, 0, f"T{page_id}", 0, False, (slot,), bytes(16), bytes(16), b"")  # noqa: FBT003


def batch(page_id: int, text: bytes = b"text") -> pb.ReadSnapshotResponse:
    message = convert.entry_to_proto(entry(page_id, text))
    return pb.ReadSnapshotResponse(batch=pb.EntryBatch(entries=[message], cursor=str(page_id)))


def test_pieces_without_bytes_are_named() -> None:
    """A server could send them for ever; an empty text is one piece, and its last."""
    entries = EntryStream(SNAPSHOT)
    entries.request()
    message = batch(1, b"")
    message.batch.entries[0].slots[0].size_bytes = 4
    message.batch.entries[0].slots[0].text_omitted = True
    assert not entries.take(message)
    with pytest.raises(VerificationError, match="missing or too much"):
        entries.take(pb.ReadSnapshotResponse(chunk=pb.TextChunk(project="p", page_id=1, role="main")))
    text = TextStream("p", 1, "main")
    with pytest.raises(VerificationError, match="no bytes"):
        text.take(revision_pb.ReadTextResponse(size_bytes=4))
    empty = TextStream("p", 1, "main")
    empty.take(revision_pb.ReadTextResponse(digest=format_digest(digest_of(b""))))
    assert empty.finished
    assert b"" == empty.result()


class Cutting(SnapshotServiceServicer):
    """Serves pages 1 to 4 and stops after each in the way it was told to."""

    def __init__(self, how: str) -> None:
        self.how = how

    def ReadSnapshot(  # noqa: N802 - gRPC names it
        self, request: pb.ReadSnapshotRequest, context: Any
    ) -> Iterator[pb.ReadSnapshotResponse]:
        page_id = int(request.cursor or 0) + 1
        if self.how == "never":
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        if page_id <= 4:
            message = batch(page_id)
            if self.how == "damage":
                message.batch.entries[0].slots[0].text = "tampered"
            if self.how == "repeat":
                message.batch.entries[0].page_id = 1
            yield message
            if self.how == "abort":
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            if self.how == "drain":
                yield pb.ReadSnapshotResponse(end=pb.ReadEnd(entries=1, complete=False, cursor=str(page_id)))
            return
        yield pb.ReadSnapshotResponse(end=pb.ReadEnd(complete=True))

    def ReadEntries(  # noqa: N802 - gRPC names it
        self, request: pb.ReadEntriesRequest, context: Any
    ) -> Iterator[pb.ReadEntriesResponse]:
        if self.how == "never":
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        for sent, index in enumerate(request.indexes, 1):
            message = batch(index + 1).batch
            if self.how == "damage":
                message.entries[0].slots[0].text = "tampered"
            if self.how == "too many":
                message.entries.extend([message.entries[0]] * 5)
            yield pb.ReadEntriesResponse(batch=message)
            if self.how == "abort":
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            if self.how == "drain":
                yield pb.ReadEntriesResponse(end=pb.ReadEnd(entries=1, complete=False))
            if self.how == "too few":
                yield pb.ReadEntriesResponse(end=pb.ReadEnd(entries=sent, complete=True))
            if self.how not in {"whole", "too many"}:
                return
        yield pb.ReadEntriesResponse(end=pb.ReadEnd(entries=len(request.indexes), complete=True))


@contextmanager
def asking(how: str) -> Iterator[Client]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_SnapshotServiceServicer_to_server(Cutting(how), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        server.stop(None).wait()


def read(how: str) -> list[Entry]:
    with asking(how) as client:
        return list(client.read(SNAPSHOT))


def read_at(how: str, indexes: list[int]) -> list[int]:
    with asking(how) as client:
        return [entry.page_id for entry in client.read_at(SNAPSHOT, indexes)]


@pytest.mark.parametrize("how", ["abort", "drain", "no end"])
def test_resumes_without_gap_or_repeat(how: str) -> None:
    """A stream that is cut, drained or ends without its end record is continued where it stopped."""
    assert [entry(page_id, b"text") for page_id in (1, 2, 3, 4)] == read(how)


@pytest.mark.parametrize("how", ["damage", "repeat"])
def test_refuses_what_does_not_verify(how: str) -> None:
    """A text of another digest and a page that comes twice are refused."""
    with pytest.raises(VerificationError):
        read(how)


@pytest.mark.parametrize("how", ["abort", "drain", "no end", "whole"])
def test_chosen_entries_come_once_in_the_order_asked(how: str) -> None:
    """After a cut only the places that did not come are asked for."""
    assert [4, 1, 3, 3, 2] == read_at(how, [3, 0, 2, 2, 1])


@pytest.mark.parametrize("how", ["damage", "too many", "too few"])
def test_refuses_other_entries_than_were_chosen(how: str) -> None:
    """A text of another digest, entries that nobody asked for and an end before the last are refused."""
    with pytest.raises(VerificationError):
        read_at(how, [3, 0, 2])


def test_gives_up_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never moves forward is given up on."""
    monkeypatch.setattr(retrying, "DEFAULT", retrying.Retry(first_pause_seconds=0.001))
    with pytest.raises(UnreachableError):
        read("never")
    with pytest.raises(UnreachableError):
        read_at("never", [0])
