"""One suite for the read protocol: the archive in process, and the client over the wire."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model import errors
from recension.model.digest import digest_of
from recension.model.manifest import Selector
from recension.model.reading import ChangeKind, Reader, Revision, Shard
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension_client import verify
from recension_client.client import Client
from tests.archive.helpers import DAY, NOW, World, delete, edit, hide, move, restore

PAGES = 700


@pytest.fixture(scope="module")
def world() -> World:
    """Several hundred pages with moves, deletes, a large text and a hidden one."""
    world = World()
    for start in range(1, PAGES, 100):
        world.add(
            *(
                world.event(page, 1, edit(page, f"text {page}", f"P{page}"))
                for page in range(start, start + 100)
            )
        )
    world.add(world.event(3, 2, edit(10_003, "newer", "P3")), world.event(4, 2, move("P4", "Q4")))
    world.add(
        world.event(5, 2, delete("P5")), world.event(6, 2, delete("P6")), world.event(6, 3, restore("P6"))
    )
    world.add(world.event(900, 2, edit(10_900, "x" * 3_000_000, "Large")))
    world.add(world.event(7, 1, hide(7)))
    return world


@pytest.fixture(scope="module", params=["archive", "client"])
def any_reader(request: pytest.FixtureRequest, world: World) -> Iterator[Reader]:
    """Each implementation of the read protocol over the same store."""
    if request.param == "archive":
        yield world.archive
        return
    config = ServeConfig(data=Path("unused"))
    server = make_server(world.archive, Ingestor(world.store), world.store, config)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client:
        yield client
    server.stop(None).wait()


@pytest.mark.parametrize("implementation", [Archive, Client])
def test_offers_each_method_of_the_protocol(implementation: type) -> None:
    """Names and parameters are the protocol's own."""
    for name, method in inspect.getmembers(Reader, inspect.isfunction):
        if not name.startswith("_"):
            offered = inspect.signature(getattr(implementation, name))
            assert list(inspect.signature(method).parameters) == list(offered.parameters)


def test_catalog(any_reader: Reader) -> None:
    """Projects are listed with their counts."""
    (project,) = any_reader.projects()
    assert project == any_reader.project("w")
    assert (project.revisions, project.pages) == (PAGES + 2, PAGES + 1)
    assert any_reader.server_info().formats == ("recension/snapshot/v1",)


def test_single_revisions(any_reader: Reader, world: World) -> None:
    """A revision, a batch with a hole, an article by id and title, a large text."""
    answer = any_reader.revision("w", 3)
    slot = answer.revision.slot()
    assert slot is not None
    assert (slot.text, slot.digest) == (b"text 3", digest_of(b"text 3"))
    batch = any_reader.revisions("w", [1, 77_777, 2])
    assert [one.rev_id if isinstance(one, Revision) else one.reason for one in batch] == [
        1,
        "REVISION_NOT_FOUND",
        2,
    ]
    assert any_reader.article("w", "Q4").revision.page_id == 4
    assert any_reader.article("w", 4, valid_at=world.day(1.5)).revision.title == "P4"
    assert any_reader.text("w", 10_900) == b"x" * 3_000_000
    large = any_reader.article("w", "Large").revision.slot()
    assert large is not None
    assert large.text == b"x" * 3_000_000


def test_faults_have_the_same_names(any_reader: Reader, world: World) -> None:
    """Whatever is asked wrongly raises the same class in process and over the wire."""
    with pytest.raises(errors.ProjectNotFoundError):
        any_reader.project("none")
    with pytest.raises(errors.PageNotFoundError):
        any_reader.article("w", 5)
    with pytest.raises(errors.TextUnavailableError):
        any_reader.text("w", 7)
    with pytest.raises(errors.AsOfOutOfRangeError):
        any_reader.create_snapshot(Selector.of(["w"]), valid_at=NOW + DAY)
    with pytest.raises(errors.SnapshotNotFoundError):
        any_reader.snapshot(bytes(32))
    with pytest.raises(errors.InvalidArgumentError):
        list(any_reader.read(world.snapshot(2), shard=Shard(3, 2)))


def test_timelines(any_reader: Reader) -> None:
    """What happened to a page comes in the order of the fold."""
    kinds = [type(item.what).__name__ for item in any_reader.timeline("w", 6)]
    assert kinds == ["Revision", "Delete", "Restore"]
    with pytest.raises(errors.PageNotFoundError):
        list(any_reader.timeline("w", 12_345))


def test_snapshots_verify_against_their_id(any_reader: Reader, world: World) -> None:
    """What a reader hands out proves itself with the standard library alone."""
    manifest = any_reader.create_snapshot(Selector.of(["w"]), valid_at=world.day(9))
    assert manifest == any_reader.snapshot(manifest.snapshot_id)
    assert manifest.snapshot_id in [one.snapshot_id for one in any_reader.snapshots()]
    entries = list(any_reader.entries(manifest.snapshot_id))
    assert [entry.page_id for entry in entries] == [
        *(page for page in range(1, PAGES + 1) if page not in {5, 7}),
        900,
    ]
    leaves = [
        (
            entry.page_id,
            entry.rev_id,
            verify.entry_leaf(
                entry.page_id,
                entry.rev_id,
                entry.timestamp,
                verify.title_commitment(entry.title_salt, entry.namespace, entry.title),
                verify.content_commitment(
                    entry.content_salt,
                    [
                        verify.Slot(
                            slot.role, slot.model, slot.format, slot.presence, slot.size_bytes, slot.digest
                        )
                        for slot in entry.slots
                    ],
                ),
            ),
        )
        for entry in entries
    ]
    assert verify.tree_root(leaves) == manifest.parts[0].root


def test_shards_are_the_whole(any_reader: Reader, world: World) -> None:
    """The shards together hold every entry once, with its text."""
    snapshot_id = world.snapshot(9)
    read = [entry for n in range(3) for entry in any_reader.read(snapshot_id, shard=Shard(n, 3))]
    assert sorted(entry.page_id for entry in read) == [e.page_id for e in any_reader.entries(snapshot_id)]
    assert all(
        slot.text is not None and digest_of(slot.text) == slot.digest for e in read for slot in e.slots
    )


def test_reading_goes_on_behind_a_place(any_reader: Reader, world: World) -> None:
    """Entries, texts and changes start behind the place that is given."""
    snapshot_id, before = world.snapshot(9), world.snapshot(1)
    place = ("w", 690)
    rest = [*range(691, 701), 900]
    assert [entry.page_id for entry in any_reader.entries(snapshot_id, after=place)] == rest
    assert [entry.page_id for entry in any_reader.read(snapshot_id, after=place)] == rest
    assert [change.page_id for change in any_reader.diff(before, snapshot_id, start=("w", 4))] == [5, 900]
    assert list(any_reader.entries(snapshot_id, after=("x", 0))) == []


def test_differences(any_reader: Reader, world: World) -> None:
    """Each kind of change is told, in page order."""
    before, after = world.snapshot(1), world.snapshot(9)
    changes = [(change.page_id, change.kind) for change in any_reader.diff(before, after)]
    assert changes == [
        (3, ChangeKind.EDITED),
        (4, ChangeKind.MOVED),
        (5, ChangeKind.REMOVED),
        (900, ChangeKind.ADDED),
    ]
