"""Differences from a server that lies in one way: the client names it, and never passes it on as true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive.ingest import Ingestor
from recension.model.errors import UnreachableError, VerificationError
from recension.model.reading import Change
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension.v1 import snapshot_service_pb2 as pb
from recension.v1.revision_service_pb2_grpc import (
    RevisionServiceServicer,
    RevisionServiceStub,
    add_RevisionServiceServicer_to_server,
)
from recension.v1.snapshot_service_pb2_grpc import (
    SnapshotServiceServicer,
    SnapshotServiceStub,
    add_SnapshotServiceServicer_to_server,
)
from recension_client import retrying
from recension_client.client import Client
from tests.archive.helpers import World, edit

Messages = Iterator[pb.DiffSnapshotsResponse]
Lie = Callable[[Messages], Messages]

PAGES = 5


@pytest.fixture(scope="module")
def world() -> World:
    """Pages with large texts that all change, so that each is a batch of its own, with pieces behind it."""
    world = World()
    world.add(*(world.event(page, 1, edit(page, f"a{page}" * 600_000, "P")) for page in range(1, PAGES + 1)))
    world.add(
        *(world.event(page, 3, edit(page + 10, f"b{page}" * 600_000, "P")) for page in range(1, PAGES + 1))
    )
    return world


@pytest.fixture(scope="module")
def truth(world: World) -> Iterator[str]:
    server = make_server(world.archive, Ingestor(world.store), world.store, ServeConfig(data=Path("unused")))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


HASTY = retrying.Retry(first_pause_seconds=0.001, longest_pause_seconds=0.01)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "DEFAULT", HASTY)


class Liar(SnapshotServiceServicer, RevisionServiceServicer):
    """Passes on what a real server says, but for one lie."""

    def __init__(self, truth: grpc.Channel, lie: Lie) -> None:
        self._snapshots = SnapshotServiceStub(truth)
        self._revisions = RevisionServiceStub(truth)
        self._lie = lie

    def DiffSnapshots(self, request: pb.DiffSnapshotsRequest, context: Any) -> Messages:  # noqa: N802
        return self._lie(self._snapshots.DiffSnapshots(request))

    def GetSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._snapshots.GetSnapshot(request)

    def DiffRevisions(self, request: Any, context: Any) -> Any:  # noqa: N802
        request.rev_id_b = request.rev_id_a
        return self._revisions.DiffRevisions(request)


@contextmanager
def lying(truth: str, lie: Lie) -> Iterator[Client]:
    server = grpc.server(ThreadPoolExecutor(4))
    with grpc.insecure_channel(truth) as channel:
        liar = Liar(channel, lie)  # type: ignore[abstract] # nothing else is asked for
        add_SnapshotServiceServicer_to_server(liar, server)
        add_RevisionServiceServicer_to_server(liar, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with Client(f"127.0.0.1:{port}") as client:
            yield client
        server.stop(None).wait()


def told(truth: str, world: World, lie: Lie) -> list[Change]:
    with lying(truth, lie) as client:
        return list(client.diff(world.snapshot(2), world.snapshot(4), text=True))


def honest(messages: Messages) -> Messages:
    yield from messages


def changed(kind: str, change: Callable[[Any], object]) -> Lie:
    """Change the first message of a kind."""

    def lie(messages: Messages) -> Messages:
        done = False
        for message in messages:
            if message.HasField(kind) and not done:  # type: ignore[arg-type]
                done = True
                change(getattr(message, kind))
            yield message

    return lie


def without(kind: str) -> Lie:
    """Leave out the second message of a kind."""

    def lie(messages: Messages) -> Messages:
        seen = 0
        for message in messages:
            seen += message.HasField(kind)  # type: ignore[arg-type]
            if seen != 2 or not message.HasField(kind):  # type: ignore[arg-type]
                yield message

    return lie


def set_to(name: str, value: Any) -> Callable[[Any], None]:
    return lambda message: setattr(message, name, value)


def add_to(name: str, more: int) -> Callable[[Any], None]:
    return lambda message: setattr(message, name, getattr(message, name) + more)


LIES: dict[str, Lie] = {
    "another text": changed("chunk", lambda chunk: setattr(chunk, "data", b"x" * len(chunk.data))),
    "a text of the other side": changed("chunk", set_to("of_before", False)),  # noqa: FBT003
    "a piece is missing": without("chunk"),
    "a piece begins elsewhere": changed("chunk", add_to("offset", 1)),
    "a piece is too large": changed("chunk", lambda chunk: setattr(chunk, "data", chunk.data * 9)),
    "a change is missing": without("batch"),
    "a change comes twice": changed("batch", lambda batch: batch.changes.add().CopyFrom(batch.changes[0])),
    "nothing, again and again": changed("batch", lambda batch: batch.ClearField("changes")),
    "another size of a change": changed(
        "batch", lambda batch: add_to("text_bytes_after", 1)(batch.changes[0])
    ),
    "another number of changes": changed("end", add_to("changes", 1)),
    "another sum of bytes": changed("end", add_to("text_bytes_before", 1)),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named(name: str, truth: str, world: World) -> None:
    """What does not fit together is refused by name."""
    with pytest.raises(VerificationError):
        told(truth, world, LIES[name])


def test_the_truth_passes(truth: str, world: World) -> None:
    """The control: without a lie everything comes, each side with its text."""
    changes = told(truth, world, honest)
    texts = [[side.slots[0].text for side in (one.before, one.after) if side is not None] for one in changes]
    assert texts == [[f"{side}{page}".encode() * 600_000 for side in "ab"] for page in range(1, PAGES + 1)]


@pytest.mark.parametrize("told_too, said", [(True, "more than the snapshot's"), (False, "the sizes told")])
def test_a_text_without_end_is_not_taken(told_too: bool, said: str, truth: str, world: World) -> None:  # noqa: FBT001
    """A stream that announces more text than both snapshots have ends there, before any of it is held."""
    pieces = 0

    def endless(messages: Messages) -> Messages:
        nonlocal pieces
        first = next(messages)
        change = first.batch.changes[0]
        change.before.slots[0].size_bytes = 2**40
        if told_too:
            change.text_bytes_before = 2**40
        yield first
        while pieces < 100:
            piece = pb.TextChunk(of_before=True, role="main", data=bytes(2**20), offset=pieces << 20)
            pieces += 1
            yield pb.DiffSnapshotsResponse(chunk=piece)

    with pytest.raises(VerificationError, match=said):
        told(truth, world, endless)
    assert pieces < 100


@pytest.mark.parametrize("messages", [1, 3, 6])
def test_a_cut_stream_goes_on(messages: int, truth: str, world: World) -> None:
    """Wherever a stream is cut, between pieces too, each change comes once and whole."""
    cut = 0

    def cutting(stream: Messages) -> Messages:
        nonlocal cut
        for number, message in enumerate(stream):
            if number == messages and cut < 3:
                cut += 1
                return
            yield message

    assert [change.page_id for change in told(truth, world, cutting)] == list(range(1, PAGES + 1))
    assert cut == 3 or messages > 1


def test_a_server_that_drains_is_left_with_its_cursor(truth: str, world: World) -> None:
    """A stream that ends early says where to go on."""
    drained = 0

    def draining(stream: Messages) -> Messages:
        nonlocal drained
        for message in stream:
            yield message
            chunk = message.chunk
            last = not chunk.of_before and chunk.offset + len(chunk.data) == 1_200_000
            if message.HasField("chunk") and last and drained < 2:
                drained += 1
                yield pb.DiffSnapshotsResponse(end=pb.DiffEnd(complete=False))
                return

    assert [change.page_id for change in told(truth, world, draining)] == list(range(1, PAGES + 1))
    assert drained == 2


def test_a_stream_that_never_moves_is_given_up(
    truth: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that only ever ends early is unreachable."""
    monkeypatch.setattr(retrying, "DEFAULT", replace(HASTY, patience_seconds=0.1))

    def ending(stream: Messages) -> Messages:
        yield pb.DiffSnapshotsResponse(end=pb.DiffEnd(complete=False))

    with pytest.raises(UnreachableError):
        told(truth, world, ending)


def test_other_revisions_than_asked_for_are_refused(truth: str) -> None:
    """An answer about other revisions is none."""
    with lying(truth, honest) as client:
        assert client.diff_revisions("w", 1, 1).diff.hunks == ()
        with pytest.raises(VerificationError):
            client.diff_revisions("w", 1, 11)
