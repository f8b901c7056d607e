from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import zstandard
from google.protobuf.timestamp_pb2 import Timestamp

from recension.archive.ingest import Ingestor
from recension.archive.keeping import Keeper
from recension.archive.pages import Pages
from recension.model import errors
from recension.model.cursor import seal_token
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo, Shard
from recension.server.cursors import Cursors
from recension.server.gate import Gate
from recension.server.rpc import revision
from recension.server.rpc.snapshot import BATCH_TEXT
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import event_pb2 as event_pb
from recension.v1 import ingest_service_pb2 as ingest_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from recension.wire import convert
from recension.wire.status import error_of
from tests.archive.helpers import World as ArchiveWorld
from tests.archive.helpers import edit as archived
from tests.archive.helpers import hide
from tests.server.conftest import LARGE, PAGES, World, edit
from tests.server.helpers import serving

T0, T1 = 1_500_000, 3_000_000


def refused(call: Callable[[], Any]) -> errors.RecensionError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return error_of(caught.value)


@pytest.fixture(scope="module")
def snapshots(world: World) -> tuple[str, str]:
    made = []
    for instant in (T0, T1):
        request = snapshot_pb.CreateSnapshotRequest(
            selector=convert.selector_to_proto(Selector.of(["demo"])),
            as_of=convert.wanted_as_of_to_proto(instant, 0),
        )
        made.append(world.snapshot.CreateSnapshot(request).snapshot.id)
    return made[0], made[1]


def test_catalog(world: World) -> None:
    """The server says what it is and holds."""
    info = world.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest())
    assert (100, 1000, convert.MAX_UNARY_TEXT) == (
        info.max_batch_size,
        info.max_page_size,
        info.max_unary_text_bytes,
    )
    listed = world.catalog.ListProjects(catalog_pb.ListProjectsRequest(page_size=1))
    assert ["demo"] == [project.name for project in listed.projects]
    assert "demo" == world.catalog.GetProject(catalog_pb.GetProjectRequest(project="demo")).project.name


def test_absent_things_have_reasons(world: World) -> None:
    """NOT_FOUND says what was not found."""
    zero = "sha256:" + "0" * 64
    asked: list[tuple[type[errors.RecensionError], Callable[[], Any]]] = [
        (
            errors.ProjectNotFoundError,
            lambda: world.catalog.GetProject(catalog_pb.GetProjectRequest(project="x")),
        ),
        (
            errors.RevisionNotFoundError,
            lambda: world.revision.GetRevision(revision_pb.GetRevisionRequest(project="demo", rev_id=77_777)),
        ),
        (
            errors.PageNotFoundError,
            lambda: world.revision.GetArticle(revision_pb.GetArticleRequest(project="demo", title="?")),
        ),
        (
            errors.InvalidArgumentError,
            lambda: world.revision.GetArticle(revision_pb.GetArticleRequest(project="demo")),
        ),
        (
            errors.SnapshotNotFoundError,
            lambda: world.snapshot.GetSnapshot(snapshot_pb.GetSnapshotRequest(id=zero)),
        ),
        (
            errors.InvalidArgumentError,
            lambda: world.snapshot.GetSnapshot(snapshot_pb.GetSnapshotRequest(id="x")),
        ),
        (
            errors.SnapshotNotFoundError,
            lambda: list(world.snapshot.ReadSnapshot(snapshot_pb.ReadSnapshotRequest(snapshot=zero))),
        ),
    ]
    for kind, call in asked:
        assert kind is type(refused(call))


def test_articles_and_revisions(world: World) -> None:
    """A page is read as of a time, by title or id, with or without text."""
    request = revision_pb.GetArticleRequest(
        project="demo", title="Page 1", as_of=convert.wanted_as_of_to_proto(T1, 0)
    )
    article = world.revision.GetArticle(request)
    assert 9_002 == article.revision.rev_id
    assert "newer" == article.revision.slots[0].text
    request.view = revision_pb.REVISION_VIEW_BASIC
    assert not world.revision.GetArticle(request).revision.slots[0].text
    batch = revision_pb.BatchGetRevisionsRequest(project="demo", rev_ids=[2, 77_777, 1])
    items = world.revision.BatchGetRevisions(batch).items
    assert [2, 0, 1] == [item.revision.rev_id for item in items]
    assert "REVISION_NOT_FOUND" == items[1].error.reason
    too_many = revision_pb.BatchGetRevisionsRequest(project="demo", rev_ids=range(1, 102))
    assert errors.InvalidArgumentError is type(refused(lambda: world.revision.BatchGetRevisions(too_many)))


def test_a_batch_loads_no_more_than_it_sends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts beyond the answer's room are marked and never loaded; a later small one still fits."""
    real: Any = world.archive.revisions
    loaded: list[int] = []

    def revisions(_: object, project: str, rev_ids: list[int], **options: Any) -> Any:
        outcomes = real(project, rev_ids, **options)
        loaded.extend(one.rev_id for one in outcomes if any(slot.text is not None for slot in one.slots))
        return outcomes

    monkeypatch.setattr(type(world.archive), "revisions", revisions)
    monkeypatch.setattr(convert.TextBudget.__init__, "__defaults__", (2_100, 4_100))
    batch = revision_pb.BatchGetRevisionsRequest(project="demo", rev_ids=[1, 9_001, 2, 3, 9_002])
    slots = [item.revision.slots[0] for item in world.revision.BatchGetRevisions(batch).items]
    assert [False, True, False, True, False] == [slot.text_omitted for slot in slots]
    assert [1, 2, 9_002] == loaded
    assert "newer" == slots[-1].text
    assert not slots[3].text
    loaded.clear()
    batch.view = revision_pb.REVISION_VIEW_BASIC
    slots = [item.revision.slots[0] for item in world.revision.BatchGetRevisions(batch).items]
    assert not any(slot.text or slot.text_omitted for slot in slots)
    assert [] == loaded


def test_a_batch_is_compressed_for_those_who_say_so(world: World) -> None:
    """Texts that frames make smaller; the rest, and what is left out, is as ever."""
    batch = revision_pb.BatchGetRevisionsRequest(project="demo", rev_ids=[1, 9_001, 9_002, 77_777])
    plain = world.revision.BatchGetRevisions(batch)
    batch.accept_frames = True
    packed = world.revision.BatchGetRevisions(batch)
    assert ["", "", "newer"] == [item.revision.slots[0].text for item in packed.items[:3]]
    slot = packed.items[0].revision.slots[0]
    slot.text = zstandard.decompress(slot.text_zstd).decode()
    slot.ClearField("text_zstd")
    assert plain == packed


def test_large_texts_are_read_in_pieces(world: World) -> None:
    """A text beyond 2 MiB is left out of the answer and streamed, from any byte."""
    got = world.revision.GetRevision(revision_pb.GetRevisionRequest(project="demo", rev_id=9_001))
    assert got.revision.slots[0].text_omitted
    request = revision_pb.ReadTextRequest(project="demo", rev_id=9_001)
    assert LARGE.encode() == b"".join(piece.data for piece in world.revision.ReadText(request))
    request.offset = 2_999_999
    assert [b"\x9f"] == [piece.data for piece in world.revision.ReadText(request)]
    request.offset = 3_000_001
    assert errors.InvalidArgumentError is type(refused(lambda: list(world.revision.ReadText(request))))


def test_a_text_that_is_hidden_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow client does not get the rest of it; one that is not looked at again is sent whole."""

    class Context:
        def is_active(self) -> bool:
            return True

    def read(*, fresh_seconds: float) -> list[int]:
        monkeypatch.setattr(revision, "FRESH_SECONDS", fresh_seconds)
        world = ArchiveWorld()
        world.add(world.event(1, 0, archived(1, "x" * 3 * revision.PIECE_BYTES)))
        rpc = revision.RevisionRpc(world.archive, Gate(1), Gate(1), Cursors(lambda: b"", lambda _: ""))
        context: Any = Context()
        found = []
        for piece in rpc.ReadText(revision_pb.ReadTextRequest(project="w", rev_id=1), context):
            found.append(piece.offset)
            if piece.offset:
                world.add(world.event(1, 1, hide(1)))
        return found

    assert 3 == len(read(fresh_seconds=1_000))
    with pytest.raises(errors.TextUnavailableError, match="hidden"):
        read(fresh_seconds=-1)


def test_pages_follow_each_other(world: World, snapshots: tuple[str, str]) -> None:
    """Tokens lead through a list once, and are bound to their request."""
    request = snapshot_pb.ListEntriesRequest(snapshot=snapshots[0], page_size=250)
    seen: list[int] = []
    while True:
        page = world.snapshot.ListEntries(request)
        seen += [entry.page_id for entry in page.entries]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert list(range(1, PAGES + 2)) == seen
    other = snapshot_pb.ListEntriesRequest(snapshot=snapshots[1], page_token=request.page_token)
    assert errors.InvalidCursorError is type(refused(lambda: world.snapshot.ListEntries(other)))
    negative = snapshot_pb.ListEntriesRequest(snapshot=snapshots[1], page_size=-1)
    assert errors.InvalidArgumentError is type(refused(lambda: world.snapshot.ListEntries(negative)))
    history = revision_pb.ListRevisionsRequest(project="demo", page_id=1, page_size=1)
    first = world.revision.ListRevisions(history)
    history.page_token = first.next_page_token
    second = world.revision.ListRevisions(history)
    assert [1, 9_002] == [item.edit.rev_id for page in (first, second) for item in page.items]
    assert not second.next_page_token
    listed = world.snapshot.ListSnapshots(snapshot_pb.ListSnapshotsRequest(page_size=1))
    rest = snapshot_pb.ListSnapshotsRequest(page_token=listed.next_page_token)
    again = world.snapshot.ListSnapshots(rest)
    assert list(snapshots) == [one.id for page in (listed, again) for one in page.snapshots]


def test_numbers_that_no_page_has(world: World) -> None:
    """A page id of any size is a page that is not there, not a fault of the server."""
    for page_id in (-(2**63), -1, 2**63 - 1):
        article = revision_pb.GetArticleRequest(project="demo", page_id=page_id)
        history = revision_pb.ListRevisionsRequest(project="demo", page_id=page_id)
        for call in (
            lambda article=article: world.revision.GetArticle(article),
            lambda history=history: world.revision.ListRevisions(history),
        ):
            assert errors.PageNotFoundError is type(refused(call))


@pytest.mark.parametrize(
    "where", [[], ["x"], [2, 1], [2, 2**80, 1, 1, 1], [2, 0, -1, 1, 1], [2, 0, 1, 2**64, 1], [2, 0, 1, 1, -1]]
)
def test_tokens_that_somebody_made_up(world: World, where: list[int | str]) -> None:
    """A token is no secret; one with nonsense in it is refused by name."""
    history = revision_pb.ListRevisionsRequest(project="demo", page_id=1)
    history.page_token = seal_token(("ListRevisions", "demo", 1, 0), where)
    snapshots = snapshot_pb.ListSnapshotsRequest(page_token=seal_token(("ListSnapshots",), where))
    projects = catalog_pb.ListProjectsRequest(page_token=seal_token(("ListProjects",), where))
    for call in (
        lambda: world.revision.ListRevisions(history),
        lambda: world.snapshot.ListSnapshots(snapshots),
        lambda: world.catalog.ListProjects(projects),
    ):
        assert isinstance(refused(call), errors.InvalidArgumentError)


def test_a_page_of_a_list_reads_no_page_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of reading a list to its end grows with the list, not with its square."""
    store = MemoryStore()
    ingestor = Ingestor(store)
    ingestor.create_project(ProjectInfo("demo", "https://demo.example", "en", "CC0-1.0"))
    ingestor.append("demo", [edit(1, rev, "x", time=rev) for rev in range(1, 61)])
    read: list[object] = []

    def counting(real: Any) -> Any:
        def counted(*args: Any) -> Iterator[Any]:
            for item in real(*args):
                read.append(item)
                yield item

        return counted

    for kind, name in ((Pages, "_timeline"), (Keeper, "_snapshots")):
        monkeypatch.setattr(kind, name, counting(getattr(kind, name)))
    with serving(store, tmp_path) as served:
        for instant in range(1, 61):
            served.archive.create_snapshot(Selector.of(["demo"]), valid_at=instant)
        revisions = RevisionServiceStub(served.channel)
        history = revision_pb.ListRevisionsRequest(project="demo", page_id=1, page_size=6)
        listed = snapshot_pb.ListSnapshotsRequest(page_size=6)
        found: set[object] = set()
        for _ in range(10):
            page = revisions.ListRevisions(history)
            found |= {item.edit.rev_id for item in page.items}
            history.page_token = page.next_page_token
            made = served.snapshot.ListSnapshots(listed)
            found |= {one.id for one in made.snapshots}
            listed.page_token = made.next_page_token
    assert 120 == len(found)
    assert ("", "") == (history.page_token, listed.page_token)
    # Of each page its 6, the one that says there are more, and the one before, to find the place.
    assert len(read) <= 10 * (8 + 8)


def test_a_snapshot_streams_whole(world: World, snapshots: tuple[str, str]) -> None:
    """Batches, pieces of large texts, an end record; a cursor resumes."""
    request = snapshot_pb.ReadSnapshotRequest(snapshot=snapshots[0])
    messages = list(world.snapshot.ReadSnapshot(request))
    batches = [one.batch for one in messages if one.HasField("batch")]
    assert len(batches) > 2
    assert PAGES + 1 == sum(len(batch.entries) for batch in batches)
    assert LARGE.encode() == b"".join(one.chunk.data for one in messages if one.HasField("chunk"))
    end = messages[-1].end
    assert (True, PAGES + 1) == (end.complete, end.entries)
    assert end.parts[0].text_bytes == end.text_bytes
    request.cursor = batches[0].cursor
    resumed = [one.batch for one in world.snapshot.ReadSnapshot(request) if one.HasField("batch")]
    assert batches[1].entries[0] == resumed[0].entries[0]
    request.shard.CopyFrom(convert.shard_to_proto(Shard(0, 2)))
    assert errors.InvalidCursorError is type(refused(lambda: list(world.snapshot.ReadSnapshot(request))))


def test_texts_are_sent_as_stored_to_those_who_say_so(
    world: World, store: MemoryStore, snapshots: tuple[str, str]
) -> None:
    """The same entries in the same order; whoever does not say so, or wants no texts, gets no frame."""
    Ingestor(store).settle()

    def asked(**more: Any) -> tuple[list[snapshot_pb.EntryBatch], list[snapshot_pb.Entry]]:
        request = snapshot_pb.ReadSnapshotRequest(snapshot=snapshots[0], **more)
        batches = [one.batch for one in world.snapshot.ReadSnapshot(request) if one.HasField("batch")]
        return batches, [entry for batch in batches for entry in batch.entries]

    plain, stored, bare = (
        asked(),
        asked(accept_frames=True),
        asked(accept_frames=True, view=revision_pb.REVISION_VIEW_BASIC),
    )
    framed = 0
    for one, other, without in zip(plain[1], stored[1], bare[1], strict=True):
        (slot,), (sent,) = one.slots, other.slots
        assert not slot.text_zstd
        assert ("", b"") == (without.slots[0].text, without.slots[0].text_zstd)
        if sent.text_zstd:
            framed += 1
            sent.text = zstandard.decompress(sent.text_zstd).decode()
            sent.ClearField("text_zstd")
        assert one == other
    assert framed > PAGES // 2
    sizes = [sum(entry.slots[0].size_bytes for entry in batch.entries[:-1]) for batch in stored[0]]
    assert max(sizes) < BATCH_TEXT
    request = snapshot_pb.ReadEntriesRequest(snapshot=snapshots[0], indexes=[5, 3], accept_frames=True)
    chosen = next(iter(world.snapshot.ReadEntries(request))).batch.entries
    texts = [zstandard.decompress(entry.slots[0].text_zstd).decode() for entry in chosen]
    assert texts == [plain[1][at].slots[0].text for at in (5, 3)]


def test_a_diff_streams(world: World, snapshots: tuple[str, str]) -> None:
    """What differs, then the end record."""
    request = snapshot_pb.DiffSnapshotsRequest(snapshot_a=snapshots[0], snapshot_b=snapshots[1])
    *batches, last = world.snapshot.DiffSnapshots(request)
    changes = [change for one in batches for change in one.batch.changes]
    assert [(1, snapshot_pb.CHANGE_KIND_EDITED)] == [(change.page_id, change.kind) for change in changes]
    assert (True, 1) == (last.end.complete, last.end.changes)
    assert (2_007, 5) == (last.end.text_bytes_before, last.end.text_bytes_after)
    assert not any(slot.text for change in changes for slot in (*change.before.slots, *change.after.slots))


def test_a_diff_streams_texts_when_asked(world: World, snapshots: tuple[str, str]) -> None:
    """FULL sends the texts of both sides; a view that nobody knows is refused."""
    request = snapshot_pb.DiffSnapshotsRequest(
        snapshot_a=snapshots[0], snapshot_b=snapshots[1], view=revision_pb.REVISION_VIEW_FULL
    )
    (change,) = next(iter(world.snapshot.DiffSnapshots(request))).batch.changes
    assert change.before.slots[0].text.startswith("text 1 xxx")
    assert change.after.slots[0].text == "newer"
    request.view = 77  # type: ignore[assignment]
    assert errors.InvalidArgumentError is type(refused(lambda: list(world.snapshot.DiffSnapshots(request))))


def test_two_revisions_are_compared(world: World) -> None:
    """The unified text is sent when it is asked for; context 0 is not the default."""
    request = revision_pb.DiffRevisionsRequest(project="demo", rev_id_a=2, rev_id_b=3)
    answer = world.revision.DiffRevisions(request)
    assert ("", 2, 3) == (answer.unified, answer.revision_a.rev_id, answer.revision_b.rev_id)
    assert [["text 2 "], ["text 3 "]] == [
        [line.text[:7]] for hunk in answer.diff.hunks for line in hunk.lines
    ]
    request.unified = True
    request.context_lines = 0
    unified = world.revision.DiffRevisions(request).unified.splitlines()
    assert unified[:3] == [
        "--- revision 2\t1970-01-01T00:00:01Z",
        "+++ revision 3\t1970-01-01T00:00:01Z",
        "@@ -1 +1 @@",
    ]
    assert "-text 2" == unified[3][:7]


def test_an_answer_with_both_forms_fits_a_client(world: World) -> None:
    """The largest difference in both forms is taken by a client with the usual limit of 4 MiB."""
    request = revision_pb.DiffRevisionsRequest(project="demo", rev_id_a=2, rev_id_b=9_001, unified=True)
    answer = world.revision.DiffRevisions(request)
    assert answer.diff.truncated
    assert answer.ByteSize() < 4 * 1024 * 1024


def test_comparing_is_bounded_beside_other_calls(world: World) -> None:
    """When as many compare as may, the next is refused by name with a delay, and goes through later."""
    request = revision_pb.DiffRevisionsRequest(project="demo", rev_id_a=2, rev_id_b=3)
    comparers = world.service.comparers
    with comparers.admit(), comparers.admit():
        error = refused(lambda: world.revision.DiffRevisions(request))
    assert errors.OverloadedError is type(error)
    assert "1" == error.metadata["retryDelaySeconds"]
    world.revision.DiffRevisions(request)


def test_overload_is_refused_with_a_delay(world: World, snapshots: tuple[str, str]) -> None:
    """A third stream on two places is refused at once; other calls go on, and so do streams afterwards."""
    request = snapshot_pb.ReadSnapshotRequest(snapshot=snapshots[0])
    with world.service.gate.admit(), world.service.gate.admit():
        for stream in (world.ingest.Append(iter(())), world.snapshot.ReadSnapshot(request)):
            error = refused(partial(list, stream))
            assert errors.OverloadedError is type(error)
            assert "1" == error.metadata["retryDelaySeconds"]
        world.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest())
    assert list(world.snapshot.ReadSnapshot(request))[-1].end.complete


def _pushed(page: int) -> event_pb.Event:
    return event_pb.Event(
        project="inbox",
        page_id=page,
        time=Timestamp(seconds=1),
        source_id=f"pushed-{page}",
        edit=event_pb.Edit(
            rev_id=50_000 + page, title=f"Pushed {page}", slots=[event_pb.SlotContent(role="main", text="x")]
        ),
    )


def test_append_answers_each_batch(world: World) -> None:
    """Accepted, known and refused events are told apart, with their index."""
    bad, foreign = _pushed(1), _pushed(2)
    bad.edit.title, foreign.project = "", "other"
    batch = ingest_pb.AppendRequest(project="inbox", events=[bad, _pushed(5_001), foreign])
    first, second = world.ingest.Append(iter([batch, batch]))
    assert (1, 0) == (first.accepted, first.known)
    assert (0, 1) == (second.accepted, second.known)
    assert [(0, "INVALID_EVENT"), (2, "INVALID_EVENT")] == [(one.index, one.reason) for one in first.rejected]
    huge = ingest_pb.AppendRequest(project="inbox", events=[_pushed(1)] * 1_001)
    assert errors.InvalidArgumentError is type(refused(lambda: list(world.ingest.Append(iter([huge])))))
    absent = ingest_pb.AppendRequest(project="absent")
    assert errors.ProjectNotFoundError is type(refused(lambda: list(world.ingest.Append(iter([absent])))))


def test_no_exception_text_leaks(
    world: World, monkeypatch: pytest.MonkeyPatch, snapshots: tuple[str, str]
) -> None:
    """An exception without a name is an id to the client, also when a stream has begun."""
    canary = "sk_live_canary"

    def explode(*_: object, **__: object) -> Any:
        raise RuntimeError(canary)

    real = world.archive.read

    def explode_later(*args: Any, **options: Any) -> Iterator[Any]:
        for number, entry in enumerate(real(*args, **options)):
            if number == PAGES - 10:
                explode()
            yield entry

    monkeypatch.setattr(type(world.archive), "projects", explode)
    monkeypatch.setattr(
        type(world.archive), "read", lambda _, *args, **options: explode_later(*args, **options)
    )
    stream = world.snapshot.ReadSnapshot(snapshot_pb.ReadSnapshotRequest(snapshot=snapshots[0]))
    assert next(stream).HasField("batch")
    for call in (lambda: world.catalog.ListProjects(catalog_pb.ListProjectsRequest()), lambda: list(stream)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert canary not in str(caught.value)
        assert canary not in repr(caught.value.trailing_metadata())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert error_of(caught.value).metadata["requestId"]


def test_a_stores_directory_stays_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of a store's error names paths, so the client gets its kind alone."""

    def explode(_: object) -> Any:
        raise errors.StoreFullError("/srv/secret is full")

    monkeypatch.setattr(type(world.archive), "projects", explode)
    error = refused(lambda: world.catalog.ListProjects(catalog_pb.ListProjectsRequest()))
    assert errors.StoreFullError is type(error)
    assert "secret" not in error.message


def test_drain_ends_streams_with_a_cursor(
    world: World, snapshots: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running stream says where to go on; a new one is refused."""
    flag = threading.Event()
    monkeypatch.setattr(world.service.gate, "_draining", flag)
    real = world.archive.read

    def read_until(*args: Any, **options: Any) -> Iterator[Any]:
        for number, entry in enumerate(real(*args, **options)):
            if number == 10:
                flag.set()
            yield entry

    monkeypatch.setattr(type(world.archive), "read", lambda _, *args, **options: read_until(*args, **options))
    request = snapshot_pb.ReadSnapshotRequest(snapshot=snapshots[0])
    *some, last = world.snapshot.ReadSnapshot(request)
    assert not last.end.complete
    assert some[-1].batch.cursor == last.end.cursor
    assert errors.DrainingError is type(refused(lambda: list(world.snapshot.ReadSnapshot(request))))
    flag.clear()
    monkeypatch.setattr(type(world.archive), "read", lambda _, *args, **options: real(*args, **options))
    request.cursor = last.end.cursor
    rest = list(world.snapshot.ReadSnapshot(request))
    assert PAGES + 1 == last.end.entries + rest[-1].end.entries


def test_drain_ends_chosen_entries_with_their_number(
    world: World, snapshots: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end record says how many were sent; a client asks for the others."""
    flag = threading.Event()
    monkeypatch.setattr(world.service.gate, "_draining", flag)
    real = type(world.archive).read_at

    def read_until(*args: Any, **options: Any) -> Iterator[Any]:
        yield from real(*args, **options)
        flag.set()
        yield from real(*args, **options)

    monkeypatch.setattr(type(world.archive), "read_at", read_until)
    large = snapshot_pb.ReadEntriesRequest(snapshot=snapshots[0], indexes=[PAGES, 0])
    *sent, last = world.snapshot.ReadEntries(large)
    assert (False, "") == (last.end.complete, last.end.cursor)
    batches = [one.batch for one in sent if one.HasField("batch")]
    assert last.end.entries == sum(len(batch.entries) for batch in batches) < 4
    assert errors.DrainingError is type(refused(lambda: list(world.snapshot.ReadEntries(large))))
