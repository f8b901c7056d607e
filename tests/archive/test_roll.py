"""What vanished between two complete dumps, beside what was made to vanish."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recension.archive.prepared import prepare
from recension.archive.roll import Extent, Ids, Roll, vanished
from recension.model.errors import PageNotFoundError
from recension.model.event import HIDDEN_CONTRIBUTOR, Edit, Event, Presence
from tests.archive.helpers import World, delete, edit, fixed_salts, hide

OLD, NEW, LATER = 100, 200, 300
"""Days of the two dumps, and of what came after both."""


def call(*edits: Event) -> Roll:
    """Return the roll of a dump that has these."""
    roll = Roll()
    for event in edits:
        roll.see(prepare(event, fixed_salts)[0].skeleton)
    return roll


def follow(world: World, roll: Roll, extent: Extent = Extent.HISTORY, day: int = NEW) -> list[str]:
    """Append what follows and return it in short."""
    events = list(vanished(world.store, "w", roll, extent, world.day(day)))
    assert {world.day(day)} >= {event.time for event in events}
    world.add(*events)
    assert [] == list(vanished(world.store, "w", roll, extent, world.day(day)))
    return [":".join(event.source_id.split(":")[4:]) for event in events]


def old(world: World, page: int, day: int, rev: int, title: str = "A") -> Event:
    """Return an edit as a dump has it."""
    return world.event(page, day, edit(rev, f"text {rev}", title, inferred=True))


def live(world: World, day: float) -> set[int]:
    """Return the pages that exist on a day."""
    pages = set()
    for page in range(1, 10):
        try:
            world.text(page, day)
        except PageNotFoundError:
            continue
        pages.add(page)
    return pages


def test_a_page_that_vanished_is_deleted_at_the_time_of_the_dump() -> None:
    """A page without a revision in the dump is gone from the dump's day on, and was there before it."""
    world = World()
    first, second = old(world, 1, 1, 11, "A"), old(world, 2, 2, 12, "B")
    world.add(first, second)
    assert ["2:delete"] == follow(world, call(first))
    assert ({1, 2}, {1}) == (live(world, NEW - 1), live(world, NEW))


def test_a_revision_that_vanished_is_hidden() -> None:
    """A revision that is missing while its page is there loses text, comment and contributor."""
    world = World()
    first, second = old(world, 1, 1, 11), old(world, 1, 2, 12)
    world.add(first, second)
    assert ["1:hide:11"] == follow(world, call(second))
    shown = world.archive.revision("w", 11).revision
    assert (Presence.HIDDEN, HIDDEN_CONTRIBUTOR) == (shown.slots[0].presence, shown.contributor)
    assert "text 12" == world.text(1, NEW)


def test_an_end_that_was_killed_is_completed() -> None:
    """What was appended before a kill is not said again, and the rest is."""
    world = World()
    events = [old(world, page, 1, 10 + page, f"T{page}") for page in (1, 2, 3)]
    world.add(*events)
    roll = call(events[0])
    first, _ = vanished(world.store, "w", roll, Extent.HISTORY, world.day(NEW))
    world.add(first)
    assert ["3:delete"] == follow(world, roll)
    assert {1} == live(world, NEW)


@pytest.mark.parametrize("extent", [Extent.CURRENT, Extent.ARTICLES])
def test_a_dump_of_newest_revisions_says_nothing_of_older_ones(extent: Extent) -> None:
    """Without older revisions in it by design, a dump says of pages alone that they vanished."""
    world = World()
    events = [old(world, 1, 1, 11), old(world, 1, 2, 12), old(world, 2, 1, 13, "B")]
    world.add(*events)
    assert ["2:delete"] == follow(world, call(events[1]), extent)


@pytest.mark.parametrize("namespace, gone", [(0, True), (1, False), (2, False), (3, False), (10, True)])
def test_namespaces_that_a_dump_leaves_out(namespace: int, *, gone: bool) -> None:
    """A dump of articles says nothing of talk pages and of users."""
    world = World()
    kept, other = old(world, 1, 1, 11), old(world, 2, 1, 12, "B")
    assert isinstance(other.what, Edit)
    world.add(kept, replace(other, what=replace(other.what, namespace=namespace)))
    assert (["2:delete"] if gone else []) == follow(world, call(kept), Extent.ARTICLES)


def test_a_page_that_came_back_is_restored() -> None:
    """A page that was known as deleted before the dump, and is in it, exists again."""
    world = World()
    event = old(world, 1, 1, 11)
    world.add(event)
    world.add(world.event(1, 50, delete()))
    assert ["1:restore"] == follow(world, call(event))
    assert (set(), {1}) == (live(world, NEW - 1), live(world, NEW))


def test_a_delete_after_the_dump_stands() -> None:
    """A page that the dump has was deleted later; one that it lacks is known to be deleted later: no news."""
    world = World()
    first, second = old(world, 1, 1, 11), old(world, 2, 1, 12, "B")
    world.add(first, second)
    world.add(world.event(1, LATER, delete()), world.event(2, LATER, delete("B")))
    assert [] == follow(world, call(first))


def test_what_is_younger_than_the_dump_is_left_alone() -> None:
    """Edits from the dump's day on, and late imports that did not come with a dump, are not missing."""
    world = World()
    first = old(world, 1, 1, 11)
    world.add(first, world.event(2, NEW, edit(12, "later", "B")), world.event(1, LATER, edit(13, "later")))
    world.add(world.event(3, 5, edit(14, "imported after the dump, with its old date", "C")))
    assert [] == follow(world, call(first))


def test_a_revision_under_another_page_did_not_vanish() -> None:
    """What a merge of histories moved is in the dump, so neither its page nor itself is taken away."""
    world = World()
    first, second = old(world, 1, 1, 11), old(world, 2, 1, 12, "B")
    world.add(first, second)
    assert [] == follow(world, call(first, replace(second, page_id=1)))


def test_what_is_hidden_already_is_not_hidden_again() -> None:
    """A revision of which nothing is shown has nothing to lose; of which something is, loses the rest."""
    world = World()
    events = [old(world, 1, day, 10 + day) for day in (1, 2, 3)]
    world.add(*events)
    all_of_it = replace(hide(11), comment_hidden=True, contributor_hidden=True)
    world.add(world.event(1, 50, all_of_it), world.event(1, 50, hide(12)))
    assert ["1:hide:12"] == follow(world, call(events[2]))


def test_a_history_has_pages_of_several_revisions() -> None:
    """A roll tells a history by that, and parts that say the same revision again do not make one."""
    world = World()
    first, second, again = old(world, 1, 1, 11), old(world, 1, 2, 12), old(world, 2, 3, 13)
    assert (False, True) == (call(first, first, again).several, call(first, second).several)
    assert 13 == call(first, again).greatest


@given(st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 20_000)))
def test_ids_are_a_set(numbers: list[int]) -> None:
    """A set of ids knows what was put in, and nothing else."""
    ids, plain = Ids(), set[int]()
    for number in numbers:
        assert (number not in plain) == ids.add(number)
        plain.add(number)
    for number in plain | {number ^ bit for number in plain for bit in (1, 8, 8192)}:
        assert (number in plain) == (number in ids)


# --- random histories ---------------------------------------------------------------------------

FATES = ("kept", "gone", "hidden")


@dataclass
class Wiki:
    """A history as it was known, what its newer dump has, and the truth of that."""

    known: list[Event] = field(default_factory=list)
    dump: list[Event] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    """Revisions that the dump no longer has, of pages that it has."""
    changed: int = 0


@st.composite
def wikis(draw: st.DrawFn, world: World) -> Wiki:
    """Draw pages, and what becomes of each of them and of its revisions between the dumps."""
    wiki = Wiki()
    days, revs = st.integers(1, OLD - 1), iter(draw(st.permutations(range(1, 41))))
    for page in range(1, draw(st.integers(1, 6)) + 1):
        known = [old(world, page, draw(days), next(revs), f"T{page}") for _ in range(draw(st.integers(1, 4)))]
        new = [old(world, page, draw(st.integers(OLD, NEW - 1)), next(revs), f"T{page}")]
        wiki.known += known
        was_deleted = draw(st.booleans())
        if was_deleted:
            wiki.known.append(world.event(page, OLD, delete(f"T{page}")))
        if draw(st.booleans()):  # the page is there
            kept = [event for event in known if draw(st.booleans())]
            added = new if not kept or draw(st.booleans()) else []
            wiki.live.add(page)
            wiki.dump += kept + added
            lost = [event for event in known if event not in kept]
            wiki.gone |= {event.what.rev_id for event in lost if isinstance(event.what, Edit)}
            back = was_deleted and not any(event.time >= world.day(OLD) for event in added)
            wiki.changed += len(lost) + back
        else:
            wiki.changed += not was_deleted
        if draw(st.booleans()):  # and what came after the dump stands
            late = world.event(page, LATER, edit(next(revs), "late", f"T{page}"))
            wiki.known.append(late)
    return wiki


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_histories(data: st.DataObject) -> None:
    """After a complete dump the pages of its day are those that it has, and what it lacks is not shown."""
    world = World()
    wiki = data.draw(wikis(world))
    if not wiki.dump:
        return
    world.add(*wiki.known)
    before = live(world, OLD - 0.5)
    world.add(*wiki.dump)
    events = follow(world, call(*wiki.dump))
    assert wiki.changed == len(events)
    assert (before, wiki.live) == (live(world, OLD - 0.5), live(world, NEW))
    hidden = {rev for rev in revisions(wiki.known + wiki.dump) if not shows(world, rev)}
    assert wiki.gone == hidden


def revisions(events: Iterable[Event]) -> set[int]:
    return {event.what.rev_id for event in events if isinstance(event.what, Edit)}


def shows(world: World, rev: int) -> bool:
    (slot,) = world.archive.revision("w", rev).revision.slots
    return slot.presence is Presence.PRESENT


def test_the_test_can_fail() -> None:
    """A roll that lacks a part of a dump takes away what the dump has."""
    world = World()
    first, second = old(world, 1, 1, 11), old(world, 2, 2, 12, "B")
    world.add(first, second)
    follow(world, call(first))
    assert {1, 2} != live(world, NEW)
