"""One suite for the read protocol: the archive in process, and the client over the wire."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pytest

from recension.archive import compare, corpus, shown
from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.archive.texts.reading import read_texts
from recension.model import errors
from recension.model.digest import digest_of
from recension.model.event import Contributor
from recension.model.manifest import OnHidden, Selector
from recension.model.reading import (
    ChangeKind,
    ProjectInfo,
    Provenance,
    Reader,
    Revision,
    Shard,
    TimelinePlace,
    place_behind,
    wanted,
)
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension.server.rpc import snapshot as rpc
from recension.store.interface import View
from recension.wire import attribution
from recension_client import verify
from recension_client.async_client import AsyncClient
from recension_client.client import Client
from recension_client.evidence import evidence
from recension_client.proof import proof_file
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
    # At one instant, in one commit: nothing but their order tells them apart.
    world.add(world.event(8, 2, move("P8", "Q8")), world.event(8, 2, move("Q8", "P8")))
    return world


@contextmanager
def offered(implementation: str, world: World) -> Iterator[Reader]:
    """Offer a store by one of the implementations."""
    if implementation == "archive":
        yield world.archive
        return
    config = ServeConfig(data=Path("unused"))
    server = make_server(world.archive, Ingestor(world.store), world.store, config)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    if implementation == "client":
        with Client(f"127.0.0.1:{port}") as client:
            yield client
    else:
        with asyncio.Runner() as runner:
            awaited = AsyncClient(f"127.0.0.1:{port}")
            yield cast("Reader", Awaited(awaited, runner))
            runner.run(awaited.close())
    server.stop(None).wait()


class Awaited:
    """A client for asyncio as a reader: whatever it returns is waited for."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            found = getattr(self._client, name)(*arguments, **options)
            return self._items(found) if isinstance(found, AsyncIterator) else self._runner.run(found)

        return call

    def _items(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        async def following() -> list[Any]:
            """Return one item, or none at the end."""
            try:
                return [await anext(items)]
            except StopAsyncIteration:
                return []

        while found := self._runner.run(following()):
            yield from found


@pytest.fixture(scope="module", params=["archive", "client", "awaited client"])
def any_reader(request: pytest.FixtureRequest, world: World) -> Iterator[Reader]:
    """Each implementation of the read protocol over the same store."""
    with offered(request.param, world) as made:
        yield made


@pytest.mark.parametrize("implementation", [Archive, Client])
def test_offers_each_method_of_the_protocol(implementation: type) -> None:
    """Names and parameters are the protocol's own; what one adds may be left out."""
    for name, method in inspect.getmembers(Reader, inspect.isfunction):
        if not name.startswith("_"):
            expected = list(inspect.signature(method).parameters)
            offered = inspect.signature(getattr(implementation, name)).parameters
            assert expected == list(offered)[: len(expected)]
            added = list(offered.values())[len(expected) :]
            assert all(one.kind is one.KEYWORD_ONLY and one.default is not one.empty for one in added)


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
    leaves = [(entry.page_id, entry.rev_id, verify.leaf_of(evidence(entry))) for entry in entries]
    assert verify.tree_root(leaves) == manifest.parts[0].root


def test_what_is_read_is_evidence(any_reader: Reader, world: World) -> None:
    """A snapshot is checked whole by the verifier, one that keeps a hidden text too."""
    for on_hidden in OnHidden:
        wanted_id = world.snapshot(9, on_hidden=on_hidden)
        manifest = any_reader.snapshot(wanted_id)
        entries = list(map(evidence, any_reader.read(wanted_id)))
        assert (on_hidden is OnHidden.KEEP) == (None in [entry.slots for entry in entries])
        name = f"sha256:{wanted_id.hex()}"
        assert verify.check_snapshot(manifest.encoded, name, {"w": entries}) == []
        assert verify.check_snapshot(manifest.encoded, name, {"w": entries[1:]}) != []


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


def test_entries_by_their_places(any_reader: Reader, world: World) -> None:
    """Any places in any order, also twice; each is what a whole reading has there, a large text too."""
    snapshot_id = world.snapshot(9)
    whole = list(any_reader.read(snapshot_id))
    every = list(range(len(whole)))
    for indexes in (every, every[::-1], [len(whole) - 1, 0, 0, len(whole) - 1], [7], []):
        assert [whole[index] for index in indexes] == list(any_reader.read_at(snapshot_id, indexes))
    named = list(any_reader.read_at(snapshot_id, [698, 5], text=False))
    assert [entry.page_id for entry in named] == [900, 7 + 1]
    assert not any(slot.text for entry in named for slot in entry.slots)


def test_places_that_a_snapshot_has_not(any_reader: Reader, world: World) -> None:
    """A place outside, and more places than one call takes, are refused by name."""
    snapshot_id = world.snapshot(9)
    for index in (-1, 699, 2**70, -(2**70)):
        with pytest.raises(errors.InvalidArgumentError, match="no entry at place"):
            list(any_reader.read_at(snapshot_id, [0, index]))
    with pytest.raises(errors.InvalidArgumentError, match="10,001 places"):
        list(any_reader.read_at(snapshot_id, [0] * 10_001))
    with pytest.raises(errors.SnapshotNotFoundError):
        list(any_reader.read_at(bytes(32), [0]))


def test_places_run_through_all_projects() -> None:
    """The order is that of (project, page id); a project without pages has no place."""
    world = World()
    for name, pages in (("a", 3), ("b", 0), ("c", 2)):
        world.ingestor.create_project(ProjectInfo(name, "https://w.example", "en", "CC0-1.0"))
        for page in range(1, pages + 1):
            event = world.event(page, 1, edit(page, f"{name}{page}", f"P{page}"))
            assert not world.ingestor.append(name, [replace(event, project=name)]).rejected
    world.ingestor.append("b", [replace(world.event(1, 5, edit(1, "later")), project="b")])
    selector = Selector.of(["a", "b", "c"], namespaces=[0], min_age_seconds=86_400)
    snapshot_id = world.archive.create_snapshot(selector, valid_at=world.day(5.5)).snapshot_id
    order = [2, 4, 0, 3, 1]
    for implementation in ("archive", "client"):
        with offered(implementation, world) as any_reader:
            whole = [entry.slots[0].text for entry in any_reader.read(snapshot_id)]
            assert whole == [b"a1", b"a2", b"a3", b"c1", b"c2"]
            read = [entry.slots[0].text for entry in any_reader.read_at(snapshot_id, order)]
            assert read == [whole[index] for index in order]


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


def test_differences_with_texts(any_reader: Reader, world: World) -> None:
    """Both sides bring their texts, a large one too, and each change says what it weighs."""
    before, after = world.snapshot(1), world.snapshot(9)
    changes = {change.page_id: change for change in any_reader.diff(before, after, text=True)}
    texts = {
        page: [side.slots[0].text if side is not None else None for side in (change.before, change.after)]
        for page, change in changes.items()
    }
    assert texts == {
        3: [b"text 3", b"newer"],
        4: [b"text 4", b"text 4"],
        5: [b"text 5", None],
        900: [None, b"x" * 3_000_000],
    }
    sizes = {page: (change.text_bytes_before, change.text_bytes_after) for page, change in changes.items()}
    assert sizes == {3: (6, 5), 4: (6, 6), 5: (6, 0), 900: (0, 3_000_000)}
    for change in any_reader.diff(before, after):
        assert sizes[change.page_id] == (change.text_bytes_before, change.text_bytes_after)
        assert not any(slot.text for side in (change.before, change.after) if side for slot in side.slots)
    behind = any_reader.diff(before, after, start=("w", 5), text=True)
    assert [change.page_id for change in behind] == [900]


@pytest.mark.parametrize("implementation", ["archive", "client"])
def test_differences_with_large_texts_on_both_sides(implementation: str) -> None:
    """Pieces of both sides come to their own entries; a text hidden by now comes to none."""
    world = World()
    for page in (1, 2, 3):
        world.add(world.event(page, 1, edit(page, f"a{page}" * 800_000, f"P{page}")))
    before = world.snapshot(1)
    for page in (1, 2, 3):
        world.add(world.event(page, 2, edit(page + 10, f"b{page}" * 700_000, f"P{page}")))
    after = world.snapshot(3)
    world.add(world.event(2, 2, hide(12)))
    with offered(implementation, world) as any_reader:
        for change in any_reader.diff(before, after, text=True):
            page = change.page_id
            assert change.before is not None
            assert change.after is not None
            assert change.before.slots[0].text == f"a{page}".encode() * 800_000
            held = None if page == 2 else f"b{page}".encode() * 700_000
            assert change.after.slots[0].text == held
            assert change.text_bytes_after == (0 if page == 2 else 1_400_000)


def test_a_diff_holds_few_large_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of a diff with texts ends with the text that makes it full, and the next begins behind it."""
    world = World()
    for page in range(1, 13):
        world.add(world.event(page, 1, edit(page, f"{page} " + "x" * 1_500_000, f"P{page}")))
    before = world.snapshot(9)
    for page in range(1, 13):
        world.add(world.event(page, 10, edit(100 + page, f"{page} " + "y" * 1_500_000, f"P{page}")))
    after = world.snapshot(11)
    read: list[bytes] = []

    def counted(view: View, digests: Sequence[bytes]) -> list[bytes]:
        read.extend(digests)
        return read_texts(view, digests)

    monkeypatch.setattr(shown, "read_texts", counted)
    changes = world.archive.diff(before, after, text=True)
    pages = [next(changes).page_id]
    assert len(read) == 4
    pages += [change.page_id for change in changes]
    assert pages == list(range(1, 13))
    assert len(read) == 24


def test_two_revisions_are_compared(any_reader: Reader) -> None:
    """The answer names both revisions, without texts, and the position; ids may be of two pages."""
    found = any_reader.diff_revisions("w", 3, 10_003)
    assert (found.before.rev_id, found.after.rev_id, found.before.title) == (3, 10_003, "P3")
    assert [slot.text for side in (found.before, found.after) for slot in side.slots] == [None, None]
    assert found.known_at == any_reader.server_info().position
    lines = [(line.kind.name, line.text) for line in found.diff.hunks[0].lines]
    assert lines == [("REMOVED", "text 3"), ("ADDED", "newer")]
    assert any_reader.diff_revisions("w", 10_003, 3).before.rev_id == 10_003
    assert any_reader.diff_revisions("w", 3, 3).diff.hunks == ()
    large = any_reader.diff_revisions("w", 1, 10_900)
    assert large.diff.truncated
    assert (large.diff.lines_removed, large.diff.lines_added) == (1, 1)


def test_what_cannot_be_compared_is_named(any_reader: Reader) -> None:
    """A hidden text, a slot that is none, a revision that is none, and one not known yet."""
    with pytest.raises(errors.TextUnavailableError) as caught:
        any_reader.diff_revisions("w", 1, 7)
    assert caught.value.metadata["revId"] == "7"
    assert "hidden" in caught.value.message
    with pytest.raises(errors.TextUnavailableError, match="no such slot"):
        any_reader.diff_revisions("w", 1, 2, role="mediainfo")
    for before, after in ((1, 77_777), (77_777, 1), (2**70, 1), (-1, 1)):
        with pytest.raises(errors.RevisionNotFoundError):
            any_reader.diff_revisions("w", before, after)
    with pytest.raises(errors.RevisionNotFoundError):
        any_reader.diff_revisions("w", 3, 10_003, known_at=2)
    with pytest.raises(errors.ProjectNotFoundError):
        any_reader.diff_revisions("none", 1, 2)
    with pytest.raises(errors.InvalidArgumentError):
        any_reader.diff_revisions("w", 1, 2, context=-3)


def test_a_lost_text_is_not_an_empty_one() -> None:
    """Lost is named; an empty text is compared."""
    world = World()
    world.add(world.event(1, 1, edit(1, "")), world.event(1, 2, edit(2, "", lost=True)))
    world.add(world.event(1, 3, edit(3, "x")))
    with pytest.raises(errors.TextUnavailableError, match="lost"):
        world.archive.diff_revisions("w", 1, 2)
    assert world.archive.diff_revisions("w", 1, 3).diff.lines_added == 1


@pytest.mark.parametrize("number", [-(2**70), -(2**63), -1, 0, 2**63 - 1, 2**63, 2**70])
def test_ids_that_nothing_has(any_reader: Reader, number: int) -> None:
    """Whatever number is asked for, it is not found by name."""
    for ask in (
        lambda: any_reader.article("w", number),
        lambda: any_reader.article("w", number, text=False, known_at=2),
        lambda: list(any_reader.timeline("w", number)),
    ):
        with pytest.raises(errors.PageNotFoundError):
            ask()
    for find in (lambda: any_reader.revision("w", number), lambda: any_reader.text("w", number)):
        with pytest.raises(errors.RevisionNotFoundError):
            find()
    (outcome,) = any_reader.revisions("w", [number])
    assert isinstance(outcome, errors.RevisionNotFoundError)
    if number > 0:
        with pytest.raises(errors.AsOfOutOfRangeError):
            any_reader.revision("w", 1, known_at=number)


def test_ages_beyond_all_time(any_reader: Reader) -> None:
    """The greatest age that a selector takes gives an empty snapshot, also one that is derived."""
    for day in (2, 3):
        selector = Selector.of(["w"], min_age_seconds=2**53 - 1)
        instant = World().day(day)
        assert any_reader.create_snapshot(selector, valid_at=instant).parts[0].count == 0


def test_a_page_is_there_once_it_is_known(any_reader: Reader, world: World) -> None:
    """A timeline respects K as everything else does, and the hint says that there is more later."""
    for ask in (
        lambda: list(any_reader.timeline("w", 700, known_at=2)),
        lambda: any_reader.article("w", 700, known_at=2),
        lambda: any_reader.article("w", "P700", known_at=2),
    ):
        with pytest.raises(errors.PageNotFoundError) as caught:
            ask()
        assert "became known later" in caught.value.hint


def test_where_a_page_is(any_reader: Reader, world: World) -> None:
    """Who asks for a page at a time without it is told by title, as by id, where its history is."""
    absent: list[tuple[int | str, int | None, int]] = [
        (5, None, 5),
        ("P5", None, 5),
        ("P3", world.day(0.5), 3),
        ("P4", None, 4),
    ]
    for page, valid_at, number in absent:
        with pytest.raises(errors.PageNotFoundError) as caught:
            any_reader.article("w", page, valid_at=valid_at)
        assert f"recension log w id:{number} shows its timeline" in caught.value.hint
    with pytest.raises(errors.PageNotFoundError) as caught:
        any_reader.article("w", "Nobody ever had it")
    assert "spelling" in caught.value.hint


def test_lists_go_on_behind_a_place(any_reader: Reader, world: World) -> None:
    """A timeline and the list of snapshots start behind any item, also between two that look the same."""
    for page in (6, 8):
        items = list(any_reader.timeline("w", page))
        assert len(items) == 3
        place: TimelinePlace | None = None
        for number, item in enumerate(items, 1):
            place = place_behind(item, place)
            assert list(any_reader.timeline("w", page, after=place)) == items[number:]
    for day in (3, 4, 5):
        world.snapshot(day)
    made = [one.snapshot_id for one in any_reader.snapshots()]
    for number, snapshot_id in enumerate(made, 1):
        rest = [one.snapshot_id for one in any_reader.snapshots(after=snapshot_id)]
        assert rest == made[number:]
    with pytest.raises(errors.SnapshotNotFoundError):
        list(any_reader.snapshots(after=bytes(32)))


@pytest.mark.parametrize("candidates", [0, 100_000])
@pytest.mark.parametrize("implementation", ["archive", "client"])
def test_a_withdrawal_is_told_by_snapshots_that_keep(
    implementation: str, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What both keep and was hidden between them is retracted, in page order; what A had lost is not."""
    monkeypatch.setattr(compare, "_CANDIDATES", candidates)
    monkeypatch.setattr(compare, "_SLICE", 3)
    world = World()
    world.add(*(world.event(page, 1, edit(page, f"text {page}", f"P{page}")) for page in range(1, 41)))
    world.add(world.event(5, 1, hide(5)))
    before = world.snapshot(9, on_hidden=OnHidden.KEEP)
    hidden = [2, 9, 10, 11, 17, 33]
    world.add(*(world.event(page, 1, hide(page)) for page in (*hidden, 20)))
    world.add(world.event(20, 1, hide(20, text=False)), world.event(33, 2, move("P33", "Q33")))
    world.add(world.event(3, 2, edit(103, "newer", "P3")), world.event(30, 2, edit(130, "newer", "P30")))
    after = world.snapshot(9, on_hidden=OnHidden.KEEP)
    told = [(page, ChangeKind.RETRACTED) for page in hidden]
    expected = sorted([*told, (3, ChangeKind.EDITED), (30, ChangeKind.EDITED)])
    with offered(implementation, world) as any_reader:
        changes = list(any_reader.diff(before, after))
        assert [(change.page_id, change.kind) for change in changes] == expected
        for change in changes:
            assert change.before is not None
            assert change.after is not None
            assert change.after.text_hidden == (change.kind is ChangeKind.RETRACTED)
        rest = [change.page_id for change in any_reader.diff(before, after, start=("w", 10))]
        assert rest == [11, 17, 30, 33]
        assert ChangeKind.RETRACTED not in {change.kind for change in any_reader.diff(after, before)}
        skipping = world.snapshot(9)
        assert [
            change.page_id
            for change in any_reader.diff(before, skipping)
            if change.kind is ChangeKind.RETRACTED
        ] == [2, 5, 9, 10, 11, 17, 33]


def test_a_stream_holds_few_large_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice ends with the text that makes it full, and the next begins behind it."""
    world = World()
    for page in range(1, 13):
        world.add(world.event(page, 1, edit(page, f"{page} " + "x" * 1_500_000, f"P{page}")))
    read: list[bytes] = []

    def counted(view: View, digests: Sequence[bytes]) -> list[bytes]:
        read.extend(digests)
        return read_texts(view, digests)

    monkeypatch.setattr(shown, "read_texts", counted)
    entries = world.archive.read(world.snapshot(9))
    pages = [next(entries).page_id]
    assert len(read) == 3
    pages += [entry.page_id for entry in entries]
    assert pages == list(range(1, 13))
    assert len(read) == 12


def test_work_ends_when_nobody_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan asks at each slice; what is given up is not kept."""
    monkeypatch.setattr(corpus, "_SLICE", 2)
    kept = len(list(world.archive.snapshots()))
    asked = 0

    def still() -> bool:
        nonlocal asked
        asked += 1
        return asked < 10

    token = wanted.set(still)
    try:
        with pytest.raises(errors.DeadlineError):
            world.archive.create_snapshot(Selector.of(["w"], [0]), valid_at=world.day(2))
    finally:
        wanted.reset(token)
    assert asked == 10
    assert len(list(world.archive.snapshots())) == kept


def test_proofs(any_reader: Reader, world: World) -> None:
    """A page is proved in or out, also one whose text was hidden since; a snapshot knows its own projects."""
    wanted = world.snapshot(2)
    for page in (3, 4, 900):
        proof = any_reader.prove(wanted, "w", page)
        assert proof.entry == next(any_reader.entries(wanted, after=("w", page - 1)))
        shown = verify.verify_proof(proof_file(proof), f"sha256:{wanted.hex()}")
        assert shown.entry is not None
        assert shown.entry.title == proof.entry.title
    for page in (5, 901, 2**63 - 1):
        proof = any_reader.prove(wanted, "w", page)
        assert proof.entry is None
        assert verify.verify_proof(proof_file(proof), f"sha256:{wanted.hex()}").entry is None
    kept = world.snapshot(2, on_hidden=OnHidden.KEEP)
    hidden = any_reader.prove(kept, "w", 7).entry
    assert hidden is not None
    assert (len(hidden.content_commitment), hidden.text_hidden) == (32, True)
    with pytest.raises(errors.ProjectNotFoundError):
        any_reader.prove(wanted, "x", 3)
    with pytest.raises(errors.SnapshotNotFoundError):
        any_reader.prove(bytes(32), "w", 3)
    for page in (0, -1, 2**63):
        with pytest.raises(errors.InvalidArgumentError):
            any_reader.prove(wanted, "w", page)


def test_provenance(any_reader: Reader, world: World) -> None:
    """What a revision was read from, which for one of a batch without a mark is its commit alone."""
    expected = world.archive.provenance("w", 10_003)
    assert expected == any_reader.provenance("w", 10_003)
    revision = any_reader.revision("w", 10_003, text=False).revision
    assert Provenance(revision.position, revision.recorded_at) == expected
    with pytest.raises(errors.RevisionNotFoundError):
        any_reader.provenance("w", 77_777)


def test_attribution(any_reader: Reader, world: World) -> None:
    """Of a revision, of a page by id and title as it was, and of all pages of a snapshot, or of some."""
    alone = any_reader.revision_attribution("w", 10_003)
    found = alone.attribution
    assert (3, 10_003, "P3", 2) == (found.page_id, found.rev_id, found.title, found.edits)
    assert [("Ann", 7, 2)] == [(one.person.name, one.person.id, one.edits) for one in found.shares]
    assert (world.day(2), world.day(1), "CC0-1.0") == (found.timestamp, found.first_edit_at, found.license)
    for page in (3, "P3"):
        assert found == any_reader.article_attribution("w", page).attribution
    before = any_reader.article_attribution("w", 3, valid_at=world.day(1.5))
    assert (3, 1, world.day(1.5)) == (
        before.attribution.rev_id,
        before.attribution.edits,
        before.as_of.valid_at,
    )
    with pytest.raises(errors.RevisionNotFoundError):
        any_reader.revision_attribution("w", 77_777)
    with pytest.raises(errors.PageNotFoundError):
        any_reader.article_attribution("w", "nowhere")
    early, late = world.snapshot(1.5), world.snapshot(4, on_hidden=OnHidden.KEEP)
    whole = list(any_reader.attributions(late))
    entries = list(any_reader.entries(late))
    assert [(one.project, one.page_id, one.title) for one in entries] == [
        (one.project, one.page_id, one.title) for one in whole
    ]
    assert [7] == [one.page_id for one in whole if one.text_hidden]
    assert found == next(one for one in whole if one.page_id == 3)
    assert whole[300:] == list(any_reader.attributions(late, after=("w", whole[299].page_id)))
    parts = [list(any_reader.attributions(late, shard=Shard(at, 3))) for at in range(3)]
    assert whole == sorted(chain.from_iterable(parts), key=lambda one: one.page_id)
    changed = list(any_reader.attributions(late, since=early))
    assert [3, 4, 900] == [one.page_id for one in changed if one.page_id not in {6, 7}]
    assert changed[1:] == list(any_reader.attributions(late, since=early, after=("w", changed[0].page_id)))
    with pytest.raises(errors.SnapshotNotFoundError):
        list(any_reader.attributions(bytes(32)))


def test_attribution_of_more_contributors_than_a_message_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the wire such a page comes in pieces between the others, and is whole again, also after a cut."""
    monkeypatch.setattr(attribution, "MAX_SHARES", 3)
    monkeypatch.setattr(rpc, "MAX_SHARES", 3)
    world = World()
    for page, people in ((1, 2), (2, 10), (3, 3), (4, 7)):
        who = [Contributor.named(f"N{at}", at) for at in range(1, people + 1)]
        revs = [
            replace(edit(100 * page + at, f"{at}", f"P{page}"), contributor=one) for at, one in enumerate(who)
        ]
        world.add(*(world.event(page, 1, rev) for rev in revs))
    snapshot = world.snapshot(2)
    expected = list(world.archive.attributions(snapshot))
    assert [2, 10, 3, 7] == [len(one.shares) for one in expected]
    for implementation in ("client", "awaited client"):
        with offered(implementation, world) as reader:
            assert expected == list(reader.attributions(snapshot))
            assert expected[2:] == list(reader.attributions(snapshot, after=("w", 2)))
    monkeypatch.setattr("recension.archive.reader.MAX_CREDITED", 4)
    with offered("client", world) as reader:
        found = reader.article_attribution("w", 2).attribution
        assert (4, 6, 10) == (len(found.shares), found.omitted, found.edits)
        assert found == world.archive.article_attribution("w", 2).attribution
