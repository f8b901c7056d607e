"""Retraction: hidden at once, erased behind it, refused when it comes again; whom it concerns is known."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recension.archive import clock
from recension.archive.affected import affected
from recension.archive.check.run import Check
from recension.archive.pins import LicenseePins
from recension.archive.rebuild import rebuild
from recension.archive.receipts import awaiting_receipt, prove
from recension.archive.retracting import Place, Plan, Retractor, Values, Wanted, retractions
from recension.model.errors import (
    ContributorNotFoundError,
    ErasureUnprovenError,
    InvalidArgumentError,
    PageNotFoundError,
    RecensionError,
    RetractedError,
    RevisionNotFoundError,
    StoreFailedError,
)
from recension.model.event import Comment, Contributor, Edit, Presence, SlotText
from recension.model.manifest import OnHidden
from recension.model.reading import Entry
from recension.model.retraction import Part, Reason
from recension.store.interface import Rewrite, Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import DAY, NOW, World, hide


def words(seed: int, length: int = 3000) -> str:
    """Return text that compresses little."""
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=length))


SHARED, SECRET, MORE = words(1), words(2), words(3)


def by(rev: int, text: str, who: str = "Ann", comment: str = "", title: str = "A") -> Edit:
    """Return an edit by someone."""
    slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, text.encode())
    said = Comment(Presence.PRESENT, comment) if comment else Comment(Presence.ABSENT)
    return Edit(rev, 0, title, 0, False, Contributor.named(who, 7), said, minor=False, slots=(slot,))  # noqa: FBT003


@pytest.fixture(params=["memory", "lmdb"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Three pages: revision 2 is secret; revision 3 and 5 hold one text; 4 is by someone else."""
    lmdb = request.param == "lmdb"
    store: Store = LmdbStore.open(tmp_path / "data", create=True) if lmdb else MemoryStore()
    world = World(store)
    world.add(
        world.event(1, 1, by(1, MORE)),
        world.event(1, 2, by(2, SECRET, comment="created with his name")),
        world.event(1, 3, by(3, SHARED)),
        world.event(2, 1, by(4, SECRET + "x", who="Bob", title="B")),
        world.event(3, 1, by(5, SHARED, title="C")),
    )
    yield world
    check = Check(store)
    check.run()
    assert [] == check.state.shown
    store.close()


class Kept:
    """Remembers what an erasure told."""

    def __init__(self) -> None:
        self.values: dict[int, Values] = {}

    def __call__(self, position: int, values: Values) -> None:
        before = self.values.get(position, Values(set(), set(), set()))
        self.values[position] = Values(*(old | new for old, new in zip(before, values, strict=True)))


def retract(
    world: World,
    wanted: Wanted,
    *,
    kept: Kept | None = None,
    everywhere: bool = False,
    parts: tuple[Part, ...] = (),
) -> Plan:
    """Retract and erase; return the plan as it was made."""
    retractor = Retractor(world.store, clock=lambda: NOW, keep=kept or Kept())
    plan = retractor.plan("w", wanted, parts or (Part.TEXT, Part.COMMENT), everywhere=everywhere)
    retractor.mask(plan, "case-1", Reason.PRIVACY)
    with world.store.exclusive_writer():
        retractor.erase(plan)
    return plan


def revisions(*revs: int) -> Wanted:
    """Name some revisions."""
    return Wanted(revisions=frozenset(revs))


def text_of(world: World, rev: int) -> tuple[Presence, str | None]:
    """Return what the archive says of a revision's text."""
    slot = world.archive.revision("w", rev).revision.slot()
    assert slot is not None
    return slot.presence, None if slot.text is None else slot.text.decode()


HIDDEN = (Presence.HIDDEN, None)


def test_text_and_comment_are_gone_and_nothing_else_is(world: World) -> None:
    """The contributor stays, and so does every other revision; the snapshot keeps its root."""
    known_at = world.store.log.head().position
    before = world.snapshot(2, known_at)
    retract(world, revisions(2))
    revision = world.archive.revision("w", 2).revision
    assert text_of(world, 2) == HIDDEN
    assert revision.comment.presence is Presence.HIDDEN
    assert revision.contributor.name == "Ann"
    assert text_of(world, 1) == (Presence.PRESENT, MORE)
    assert text_of(world, 4) == (Presence.PRESENT, SECRET + "x")
    entries = {entry.page_id: entry for entry in world.archive.read(before)}
    assert entries[1].text_hidden
    assert entries[1].content_commitment
    assert world.snapshot(2, known_at) == before


def test_hidden_from_the_commit_on_before_anything_is_erased(world: World) -> None:
    """A reader that goes on with the next slice sees nothing of it, nor does one that asks for an older K."""
    snapshot = world.snapshot(2)
    retractor = Retractor(world.store)
    plan = retractor.plan("w", revisions(2))
    stream = world.archive.read(snapshot)
    (position,) = retractor.mask(plan, "case-1", Reason.COURT_ORDER)
    assert next(stream).text_hidden
    assert text_of(world, 2) == HIDDEN
    slot = world.archive.revision("w", 2, known_at=position - 1).revision.slot()
    assert slot is not None
    assert slot.text is None
    with world.store.view() as view:
        (found,) = retractions(view)
    assert (found[0], found[1].case, found[1].reason) == (position, "case-1", Reason.COURT_ORDER)
    assert retractor.mask(retractor.plan("w", revisions(2)), "case-1", Reason.COURT_ORDER) == []


@pytest.mark.parametrize("stream", ["read", "read_at", "diff"])
@pytest.mark.parametrize("seconds, shown", [(0.0, None), (1e9, SHARED)])
def test_slow_streams_look_again(
    world: World, monkeypatch: pytest.MonkeyPatch, stream: str, seconds: float, shown: str | None
) -> None:
    """What was read before it was hidden, and is taken later, is read again, unless it is fresh."""
    monkeypatch.setattr(clock, "FRESH_SECONDS", seconds)
    world.add(world.event(2, 4, by(6, MORE, title="B")), world.event(3, 4, by(7, SHARED, title="C")))
    before, snapshot = world.snapshot(3.5), world.snapshot(4.5)
    texts: Iterator[Entry | None]
    match stream:
        case "read":
            texts = world.archive.read(snapshot)
        case "read_at":
            texts = world.archive.read_at(snapshot, [0, 1, 2])
        case _:
            texts = (change.after for change in world.archive.diff(before, snapshot, text=True))
    next(texts)
    retractor = Retractor(world.store)
    retractor.mask(retractor.plan("w", revisions(7)), "case-1", Reason.OTHER)
    *_, last = texts
    assert last is not None
    slot = last.slot()
    assert slot is not None
    assert slot.text == (shown.encode() if shown else None)


def test_text_that_another_page_holds_stays_with_it(world: World) -> None:
    """By revision: the holder is named, and keeps the text; the withdrawn revision loses it all the same."""
    plan = retract(world, revisions(3))
    (holders,) = plan.holders.values()
    assert holders == [Place(1, 3, 5)]
    assert not plan.erased
    assert text_of(world, 3) == HIDDEN
    assert text_of(world, 5) == (Presence.PRESENT, SHARED)


def test_everywhere_takes_in_every_holder(world: World) -> None:
    """With it the text is gone from all revisions that held it."""
    plan = retract(world, revisions(3), everywhere=True)
    assert {key[1] for key in plan.targets} == {3, 5}
    assert not plan.holders
    assert text_of(world, 3) == text_of(world, 5) == HIDDEN


def test_holder_that_is_hidden_already_does_not_keep_a_text(world: World) -> None:
    """Nobody can read it there, so it is erased there too."""
    world.add(world.event(3, 4, hide(5)))
    plan = retract(world, revisions(3))
    assert [place.rev for place, _ in plan.hidden_holders] == [5]
    world.add(world.event(3, 5, hide(5, text=False)))
    assert text_of(world, 5) == HIDDEN


def test_pages_and_contributors(world: World) -> None:
    """All revisions of a page; all of a contributor, whose name goes as well if it is asked for."""
    assert {key[1] for key in retract(world, Wanted(pages=frozenset({1}))).targets} == {1, 2, 3}
    plan = retract(world, Wanted(contributors=frozenset({"Bob"})), parts=tuple(Part))
    assert {key[1] for key in plan.targets} == {4}
    assert world.archive.revision("w", 4).revision.contributor.presence is Presence.HIDDEN
    with pytest.raises(ContributorNotFoundError):
        Retractor(world.store).plan("w", Wanted(contributors=frozenset({"Bob"})))


def test_twice_leaves_nothing_to_do(world: World) -> None:
    """The second time neither a commit nor an erasure follows."""
    retract(world, revisions(2))
    head = world.store.log.head()
    plan = retract(world, revisions(2))
    assert plan.left == []
    assert world.store.log.head() == head


def test_one_retraction_behind_another(world: World) -> None:
    """What the first withdrew stays withdrawn, and each can be proved to be gone."""
    retractor = Retractor(world.store)
    retractor.mask(retractor.plan("w", revisions(2), [Part.TEXT]), "case-1", Reason.OTHER)
    retract(world, revisions(2), parts=(Part.CONTRIBUTOR,))
    appended = world.ingestor.append("w", [world.event(1, 2, by(2, SECRET), "again")])
    assert [type(error) for _, error in appended.rejected] == [RetractedError]
    first, second = awaiting_receipt(world.store)
    with pytest.raises(ErasureUnprovenError):
        prove(world.store, first, Values(set(), set(), set()))
    assert prove(world.store, second, Values(set(), set(), set())).fields == 1
    with world.store.exclusive_writer():
        retractor.erase(retractor.plan_of(first)[1])
    assert prove(world.store, first, Values(set(), set(), set())).fields == 1
    revision = world.archive.revision("w", 2).revision
    assert text_of(world, 2) == HIDDEN
    assert revision.contributor.presence is Presence.HIDDEN
    assert revision.comment.text == "created with his name"


@pytest.mark.parametrize(
    "wanted, error",
    [
        (revisions(99), RevisionNotFoundError),
        (revisions(0), InvalidArgumentError),
        (Wanted(pages=frozenset({99})), PageNotFoundError),
        (Wanted(contributors=frozenset({"ann"})), ContributorNotFoundError),
    ],
)
def test_what_does_not_exist_has_a_name(world: World, wanted: Wanted, error: type[RecensionError]) -> None:
    """Nothing is recorded then."""
    head = world.store.log.head()
    with pytest.raises(error):
        Retractor(world.store).plan("w", wanted)
    assert world.store.log.head() == head


def test_erasing_before_hiding_is_refused(world: World) -> None:
    """Else a reader would find a hole."""
    retractor = Retractor(world.store)
    with world.store.exclusive_writer(), pytest.raises(StoreFailedError):
        retractor.erase(retractor.plan("w", revisions(2)))


@pytest.mark.parametrize("source", ["", "another-source"])
def test_same_text_is_not_taken_again(world: World, source: str) -> None:
    """Whatever source brings it; other events of the batch are taken, and what is hidden is no news."""
    retract(world, revisions(2))
    good = world.event(4, 1, by(6, "new", title="D"))
    appended = world.ingestor.append("w", [world.event(1, 2, by(2, SECRET), source), good])
    ((index, error),) = appended.rejected
    assert (index, type(error), appended.accepted) == (0, RetractedError, 1)
    assert text_of(world, 2) == HIDDEN
    assert SECRET[:20] not in error.message


def test_while_the_same_is_ingested(tmp_path: Path) -> None:
    """Whoever is first: a batch that lost the race to a retraction is looked at anew, and brings nothing."""
    world = World(LmdbStore.open(tmp_path / "data", create=True))
    world.add(world.event(1, 1, by(1, MORE)))
    retractor = Retractor(world.store)
    for rev in range(2, 12):
        world.add(world.event(1, rev, by(rev, f"{SECRET} {rev}")))
        batch = [world.event(1, rev, by(rev, f"{SECRET} {rev}")) for _ in range(20)]
        batch += [world.event(1, 50 + at, by(100 * rev + at, f"{MORE} {rev} {at}")) for at in range(20)]
        with ThreadPoolExecutor(2) as pool:
            masked = pool.submit(
                lambda rev=rev: retractor.mask(  # type: ignore[misc]
                    retractor.plan("w", revisions(rev)), "case-1", Reason.OTHER
                )
            )
            appended = pool.submit(world.ingestor.append, "w", batch)
            assert len(masked.result()) == 1
            rejected = [type(error) for _, error in appended.result().rejected]
        assert rejected in ([], [RetractedError] * 20)
        assert text_of(world, rev) == HIDDEN
        assert text_of(world, 100 * rev)[0] is Presence.PRESENT
    world.store.close()


def test_upstream_cannot_show_it_again(world: World) -> None:
    """A visibility change that shows it is recorded, and leaves hidden what was withdrawn."""
    retractor = Retractor(world.store)
    retractor.mask(retractor.plan("w", revisions(2)), "case-1", Reason.OTHER)
    world.add(world.event(1, 9, hide(2, text=False)))
    assert text_of(world, 2) == HIDDEN
    assert world.archive.revision("w", 2).revision.comment.presence is Presence.HIDDEN


def test_same_is_refused_after_a_rebuild(world: World) -> None:
    """The log says what was withdrawn, so an index made anew knows it."""
    retract(world, revisions(2))
    target = MemoryStore()
    rebuild(world.store, target)
    again = World(target)
    appended = again.ingestor.append("w", [again.event(1, 2, by(2, SECRET))])
    assert [type(error) for _, error in appended.rejected] == [RetractedError]
    assert text_of(again, 2) == HIDDEN


def test_snapshots_and_pins_that_hold_it(world: World) -> None:
    """By snapshot, pin, licensee and article; a deleted pin is left out, an expired one is told as such."""
    old, new = world.snapshot(2, on_hidden=OnHidden.KEEP), world.snapshot(3)
    acme, bell = (LicenseePins(world.store, owner, clock=lambda: NOW) for owner in ("acme", "bell"))
    acme.create("one", old, NOW + DAY)
    acme.create("two", new, NOW + DAY)
    bell.create("one", old, NOW + DAY)
    bell.create("gone", old, NOW + DAY)
    bell.delete("gone")
    found = affected(world.store, [Place(1, 1, 2)], clock=lambda: NOW + 2 * DAY)
    assert set(found.snapshots) == {old}
    assert [(pin.statement.owner, pin.statement.name, pin.expired) for pin in found.pins] == [
        ("acme", "one", True),
        ("bell", "one", True),
    ]
    assert list(found.articles()) == [(Place(1, 1, 2), 1, 2, ["acme", "bell"])]
    assert affected(world.store, [Place(1, 1, 1)]).pins == ()


def test_erasure_is_proved_by_what_is_there(world: World) -> None:
    """Salts and digests that are told are found before, and nothing is proved; afterwards all is gone."""
    kept = Kept()
    retractor = Retractor(world.store, keep=kept)
    (position,) = retractor.mask(retractor.plan("w", revisions(2, 3)), "case-1", Reason.PRIVACY)
    assert awaiting_receipt(world.store) == [position]
    with pytest.raises(ErasureUnprovenError):
        prove(world.store, position, Values(set(), set(), set()))
    with world.store.exclusive_writer():
        retractor.erase(retractor.plan_of(position)[1])
    values = kept.values[position]
    proven = prove(world.store, position, values)
    assert (proven.revisions, proven.fields, proven.texts, proven.texts_kept) == (2, 4, 1, 1)
    assert proven.searched == values.texts | values.salts


def test_row_that_stayed_is_found_out(world: World) -> None:
    """The proof can fail: a row that names an erased text stands against it."""
    kept = Kept()
    retract(world, revisions(2), kept=kept)
    ((position, values),) = kept.values.items()
    (text,) = values.texts
    row = b"K" + text + bytes(12)
    world.store.rewrite([Rewrite({}, {row: b""}, {})])
    with pytest.raises(ErasureUnprovenError):
        prove(world.store, position, values)
    world.store.rewrite([Rewrite({}, {row: None}, {})])
    prove(world.store, position, values)


class _KilledError(BaseException):
    """As a kill: nothing catches it."""


class Dying:
    """A store whose process dies at a write: before it is stored, or right after."""

    def __init__(self, store: Store, write: int, *, stored: bool) -> None:
        self._store = store
        self._left = write
        self._stored = stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, *arguments: Any) -> Any:
        """As of the store."""
        return self._write("commit", arguments)

    def rewrite(self, *arguments: Any) -> Any:
        """As of the store."""
        return self._write("rewrite", arguments)

    def _write(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self._left -= 1
        if self._left < 0 and not self._stored:
            raise _KilledError
        done = getattr(self._store, name)(*arguments)
        if self._left < 0:
            raise _KilledError
        return done


def small_world() -> World:
    """Return an archive in which a retraction takes a few writes."""
    world = World()
    world.add(*(world.event(page, 1, by(page, words(page, 2000), title=f"P{page}")) for page in range(1, 5)))
    world.add(world.event(1, 2, by(9, words(1, 2000), title="P1")))
    return world


@pytest.mark.parametrize("stored", [False, True])
def test_killed_at_every_write(stored: bool) -> None:  # noqa: FBT001 - pytest passes it so
    """Run again it comes to the same end, and what was hidden once is never shown."""
    whole = retract(small_world(), revisions(1, 2, 3, 9))
    kills = 0
    while True:
        world = small_world()
        kept = Kept()
        dying: Any = Dying(world.store, kills, stored=stored)
        retractor = Retractor(dying, keep=kept)
        plan = retractor.plan("w", revisions(1, 2, 3, 9))
        hidden = False
        try:
            retractor.mask(plan, "case-1", Reason.PRIVACY)
            hidden = True
            retractor.erase(plan)
            break
        except _KilledError:
            kills += 1
        if hidden:
            assert text_of(world, 2) == HIDDEN
        check = Check(world.store)
        check.run()
        assert check.state.shown == []
        again = Retractor(world.store, keep=kept)
        rest = again.plan("w", revisions(1, 2, 3, 9))
        again.mask(rest, "case-1", Reason.PRIVACY)
        again.erase(rest)
        with world.store.view() as view:
            ((position, _),) = retractions(view)
        assert [text_of(world, rev) for rev in (1, 2, 3, 9)] == [HIDDEN] * 4
        proven = prove(world.store, position, kept.values[position])
        assert (proven.texts, proven.revisions) == (3, 4)
        assert again.plan("w", revisions(1, 2, 3, 9)).left == []
    assert kills >= 5
    assert len(whole.targets) == 4


@pytest.mark.torture
def test_page_in_ten_thousand_pins(tmp_path: Path) -> None:
    """Ten licensees hold a page in 10,000 pins of 100 snapshots; each is named, and no tree is read twice."""
    world = World(LmdbStore.open(tmp_path / "data", create=True))
    world.add(*(world.event(page, 1, by(page, f"text {page}", title=f"P{page}")) for page in range(1, 1001)))
    for day in range(2, 102):
        world.add(world.event(900, day, by(2000 + day, f"day {day}", title="P900")))
    snapshots = [world.snapshot(day) for day in range(2, 102)]
    licensees = [LicenseePins(world.store, f"licensee-{number}", clock=lambda: NOW) for number in range(10)]
    for number in range(10_000):
        licensees[number % 10].create(f"pin-{number}", snapshots[number // 100], NOW + DAY)
    found = affected(world.store, [Place(1, 7, 7), Place(1, 900, 2050)], clock=lambda: NOW)
    assert len(found.snapshots) == 100
    assert len(found.pins) == 10_000
    assert {owner: len(pins) for owner, pins in found.licensees.items()} == {
        f"licensee-{number}": 1000 for number in range(10)
    }
    articles = {place.page: (snapshots, pins) for place, snapshots, pins, _ in found.articles()}
    assert articles == {7: (100, 10_000), 900: (1, 100)}
    world.store.close()
