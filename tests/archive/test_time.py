"""The seven rules of time (docs: format and ARCHITECTURE), each by name."""

from __future__ import annotations

import pytest

from recension.model.errors import AsOfOutOfRangeError, PageNotFoundError
from recension.model.event import Presence
from recension.model.manifest import OnHidden, Selector
from recension.model.reading import ChangeKind
from tests.archive.helpers import World, delete, edit, hide, move, restore


def test_rule_1_current_is_the_greatest_timestamp_then_revision_id() -> None:
    """Neither revision ids nor arrival decide: the greatest (timestamp, rev_id) not after T does."""
    world = World()
    world.add(
        world.event(1, 3, edit(10, "third")),
        world.event(1, 1, edit(30, "first")),
        world.event(1, 2, edit(20, "second, low id")),
        world.event(1, 2, edit(21, "second, high id")),
    )
    assert [world.text(1, day) for day in (1, 2, 2.5, 3)] == [
        "first",
        "second, high id",
        "second, high id",
        "third",
    ]


def test_rule_2_a_move_counts_from_its_time_on_and_a_dump_title_until_a_move_says_otherwise() -> None:
    """Before the first move the page has the move's old title; without moves a dump's title is inferred."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x", "New", inferred=True)))
    before_the_log = world.archive.server_info().position
    assert world.title(1, 1) == ("New", True)
    world.add(world.event(1, 5, move("Old", "New")))
    assert world.title(1, 4) == ("Old", False)
    assert world.title(1, 5) == ("New", False)
    assert world.title(1, 4, known_at=before_the_log) == ("New", True)
    assert world.text("Old", 4) == "x"
    with pytest.raises(PageNotFoundError):
        world.text("Old", 6)


def test_rule_2_a_later_dump_title_counts_for_the_past_too() -> None:
    """The newest dump's title is the inferred one, as known from its position on."""
    world = World()
    first = world.add(world.event(1, 1, edit(1, "x", "Then", inferred=True))).position
    world.add(world.event(1, 9, edit(2, "y", "Now", inferred=True)))
    assert world.title(1, 1) == ("Now", True)
    assert world.title(1, 1, known_at=first) == ("Then", True)


def test_rule_3_a_delete_removes_and_a_restore_brings_back_and_the_past_stays() -> None:
    """A page is gone between its delete and its restore, and answerable before and after."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")))
    world.add(world.event(1, 3, delete()), world.event(1, 5, restore()))
    assert [world.text(1, day) for day in (1, 2.9, 5)] == ["x", "x", "x"]
    for day in (3, 4.9):
        with pytest.raises(PageNotFoundError):
            world.text(1, day)


def test_rule_4_hiding_binds_every_later_answer_and_old_snapshots_keep_their_root() -> None:
    """From the position of a hide no answer about any T shows the text; a snapshot keeps id and root."""
    world = World()
    known = world.add(world.event(1, 1, edit(1, "old")), world.event(1, 2, edit(2, "secret"))).position
    snapshot_id = world.snapshot(3)
    world.add(world.event(1, 2, hide(2)))
    assert world.text(1, 3) is None
    assert world.text(1, 3, known_at=known) is None
    assert world.snapshot(3, known_at=known) == snapshot_id
    (entry,) = world.archive.read(snapshot_id)
    slot = entry.slot()
    assert slot is not None
    assert (entry.text_hidden, slot.presence, slot.text, slot.digest) == (True, Presence.HIDDEN, None, b"")
    assert (entry.content_salt, len(entry.content_commitment)) == (b"", 32)


@pytest.mark.parametrize(
    "on_hidden, held", [(OnHidden.SKIP, []), (OnHidden.FALL_BACK, [1]), (OnHidden.KEEP, [2])]
)
def test_rule_4_a_later_snapshot_chooses(on_hidden: OnHidden, held: list[int]) -> None:
    """A snapshot made after a hide skips the page, falls back, or keeps the entry without text."""
    world = World()
    world.add(world.event(1, 1, edit(1, "old")), world.event(1, 2, edit(2, "secret")))
    before = world.snapshot(3)
    world.add(world.event(1, 2, hide(2)))
    after = world.snapshot(3, on_hidden=on_hidden)
    assert [rev for _, _, rev in world.held(after)] == held
    kinds = [change.kind for change in world.archive.diff(before, after)]
    assert kinds == [ChangeKind.RETRACTED]


def test_rule_4_what_is_shown_again_is_shown() -> None:
    """A later visibility change that hides nothing brings the text back."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")))
    world.add(world.event(1, 1, hide(1)))
    world.add(world.event(1, 1, hide(1, text=False)))
    assert world.text(1, 1) == "x"


def test_rule_5_hidden_lost_and_empty_are_three_things() -> None:
    """Each of the three states answers as itself."""
    world = World()
    world.add(
        world.event(1, 1, edit(1, "")),
        world.event(2, 1, edit(2, "", "B", lost=True)),
        world.event(3, 1, edit(3, "x", "C")),
        world.event(3, 1, hide(3)),
    )
    slots = [world.archive.article("w", page).revision.slot() for page in (1, 2, 3)]
    assert [(slot.presence, slot.text) for slot in slots if slot] == [
        (Presence.PRESENT, b""),
        (Presence.LOST, None),
        (Presence.HIDDEN, None),
    ]


def test_rule_6_commit_times_grow_though_the_clock_stands() -> None:
    """Each commit is recorded at least a microsecond after the one before."""
    world = World()
    first = world.add(world.event(1, 1, edit(1, "x")))
    second = world.add(world.event(1, 2, edit(2, "y")))
    assert second.recorded_at == first.recorded_at + 1


def test_rule_6_an_answer_returns_the_as_of_it_resolved_to() -> None:
    """Asking again with the returned as-of gives the same answer, whatever was learned meanwhile."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")))
    answer = world.archive.article("w", 1)
    world.add(world.event(1, 2, edit(2, "y")))
    again = world.archive.article("w", 1, valid_at=answer.as_of.valid_at, known_at=answer.as_of.known_at)
    assert again == answer


def test_rule_7_late_arrivals_change_no_snapshot_of_an_earlier_known_at() -> None:
    """The same (selector, T, K) has the same id before and after a late import; a later K sees it."""
    world = World()
    known = world.add(world.event(1, 1, edit(1, "x"))).position
    before = world.snapshot(5, known_at=known)
    world.add(world.event(2, 2, edit(9, "late", "B")))
    assert world.snapshot(5, known_at=known) == before
    assert world.held(world.snapshot(5)) == [(1, "A", 1), (2, "B", 9)]


def test_asking_twice_gives_one_snapshot() -> None:
    """Keeping a snapshot is a commit, yet the default known-at stays: the id is the same."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")))
    assert world.snapshot(2) == world.snapshot(2)
    assert len(list(world.archive.snapshots())) == 1


def test_an_as_of_outside_what_is_known_is_named() -> None:
    """Before the first event, in the future, beyond the newest position, and an empty project are named."""
    world = World()
    with pytest.raises(AsOfOutOfRangeError, match="no events yet"):
        world.snapshot(1)
    world.add(world.event(1, 1, edit(1, "x")))
    with pytest.raises(AsOfOutOfRangeError, match="before the first event"):
        world.snapshot(0.5)
    with pytest.raises(AsOfOutOfRangeError, match="future"):
        world.archive.create_snapshot(Selector.of(["w"]), valid_at=world.day(9999))
    with pytest.raises(AsOfOutOfRangeError, match="position 99"):
        world.archive.article("w", 1, known_at=99)
