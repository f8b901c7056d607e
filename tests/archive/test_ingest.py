"""What becomes of a batch: known, refused, superseded, hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recension.archive.clock import DrawnSalts
from recension.model.errors import (
    InvalidEventError,
    PageNotFoundError,
    ProjectExistsError,
    ProjectNotFoundError,
    RevisionConflictError,
    RevisionNotFoundError,
)
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    Edit,
    Happening,
    LogAction,
    Presence,
    Visibility,
)
from recension.model.reading import ProjectInfo
from recension.model.seal import SALT_BYTES
from tests.archive.helpers import World, delete, edit, hide, move, restore
from tests.archive.test_logbook import entry


def test_the_same_batch_again_changes_nothing() -> None:
    """Known events are counted and make no commit."""
    world = World()
    batch = [world.event(1, 1, edit(1, "x")), world.event(1, 2, move("A", "B"))]
    first = world.add(*batch)
    head = world.store.log.head()
    again = world.add(*batch)
    assert (first.accepted, again.accepted, again.known) == (2, 0, 2)
    assert world.store.log.head() == head


@pytest.mark.parametrize("day, page, text", [(1, 1, "y"), (2, 1, "x"), (1, 2, "x")])
def test_a_revision_that_comes_back_different_is_refused(day: float, page: int, text: str) -> None:
    """Revisions are immutable: another text, time or page under a known id is a named error."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")))
    appended = world.ingestor.append("w", [world.event(page, day, edit(1, text))])
    assert [type(error) for _, error in appended.rejected] == [RevisionConflictError]
    assert world.text(1, 9) == "x"


def test_events_of_unknown_pages_and_revisions_are_refused_and_the_others_stored() -> None:
    """A batch keeps what is good and returns the rest with reasons."""
    world = World()
    appended = world.ingestor.append(
        "w",
        [
            world.event(5, 1, move("A", "B")),
            world.event(5, 1, hide(77)),
            world.event(1, 1, edit(1, "x")),
            replace(world.event(1, 1, edit(2, "x")), project="other"),
        ],
    )
    assert [(index, type(error)) for index, error in appended.rejected] == [
        (0, PageNotFoundError),
        (1, RevisionNotFoundError),
        (3, InvalidEventError),
    ]
    assert appended.accepted == 1


def test_a_source_that_hides_what_another_showed_has_learned_of_a_suppression() -> None:
    """A later dump's hidden contributor binds, and the earlier dump's copy does not bring it back."""
    world = World()
    shown = edit(1, "x")
    hidden = replace(
        shown, contributor=replace(shown.contributor, presence=Presence.HIDDEN, name="", id=None)
    )
    world.add(world.event(1, 1, shown))
    world.add(world.event(1, 1, hidden))
    world.add(world.event(1, 1, shown))
    revision = world.archive.revision("w", 1).revision
    assert (revision.contributor.presence, revision.contributor.name) == (Presence.HIDDEN, "")
    assert world.text(1, 1) == "x"


@pytest.mark.parametrize("shown_first", [True, False])
def test_a_source_that_hides_again_what_was_shown_since_changes_nothing(*, shown_first: bool) -> None:
    """What a source hid is known once: the same source again does not undo a visibility change after it."""
    world = World()
    shown = edit(1, "x")
    hidden = replace(shown, contributor=HIDDEN_CONTRIBUTOR)
    if shown_first:
        world.add(world.event(1, 1, shown))
    world.add(world.event(1, 1, hidden))
    world.add(world.event(1, 1, hide(1, text=False)))
    head = world.store.log.head()
    again = world.add(world.event(1, 1, hidden))
    assert (again.accepted, again.known) == (0, 1)
    assert world.store.log.head() == head
    assert world.archive.revision("w", 1).revision.contributor.name == ("Ann" if shown_first else "")


def test_a_source_that_hides_more_than_before_is_heard() -> None:
    """A second suppression after a visibility change is news, and binds."""
    world = World()
    shown = edit(1, "x")
    hidden = replace(shown, contributor=HIDDEN_CONTRIBUTOR)
    world.add(world.event(1, 1, shown))
    world.add(world.event(1, 1, hidden))
    world.add(world.event(1, 1, hide(1, text=False)))
    world.add(world.event(1, 1, replace(hidden, comment=HIDDEN_COMMENT)))
    revision = world.archive.revision("w", 1).revision
    assert (revision.contributor.presence, revision.comment.presence) == (Presence.HIDDEN, Presence.HIDDEN)


KNOWN: list[tuple[int, Happening]] = [
    (1, edit(900, "x")),
    (1, move("A", "B")),
    (1, delete()),
    (1, restore()),
    (1, hide(1)),
    (0, entry(5, LogAction.DELETE, "A")),
]


@pytest.mark.parametrize("one_batch", [True, False])
@pytest.mark.parametrize("page, what", KNOWN)
def test_a_source_id_names_one_event_for_ever(page: int, what: Happening, *, one_batch: bool) -> None:
    """The same event again is known; another kind, time, page or revision under its source id is refused."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")), world.event(2, 1, edit(2, "x")))
    first = world.event(page, 3, what, "k1")
    others = [world.event(page, 4, what, "k1")]
    others += [world.event(number, 3, other, "k1") for number, other in KNOWN if other != what]
    others += [world.event(2, 3, what, "k1")] if page else []
    if isinstance(what, Edit | Visibility):
        others.append(world.event(page, 3, replace(what, rev_id=2), "k1"))
    if one_batch:
        appended = world.ingestor.append("w", [first, first, *others])
        assert (appended.accepted, appended.known) == (1, 1)
        refused = [
            index - 2 for index, error in appended.rejected if isinstance(error, RevisionConflictError)
        ]
    else:
        world.add(first)
        appended = world.ingestor.append("w", [*others, first])
        assert (appended.accepted, appended.known) == (0, 1)
        refused = [index for index, error in appended.rejected if isinstance(error, RevisionConflictError)]
    assert refused == list(range(len(others)))


def test_a_visibility_change_names_the_page_of_its_revision() -> None:
    """Another page is refused by name, known or not: a revision belongs to one page."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")), world.event(2, 1, edit(2, "x")))
    appended = world.ingestor.append("w", [world.event(2, 1, hide(1)), world.event(3, 1, hide(1))])
    assert [type(error) for _, error in appended.rejected] == [RevisionConflictError, PageNotFoundError]
    assert world.text(1, 1) == "x"


def test_a_lost_text_that_turns_up_is_stored() -> None:
    """A revision first seen without its text gets it from a later source."""
    world = World()
    known = world.add(world.event(1, 1, edit(1, "", lost=True))).position
    world.add(world.event(1, 1, edit(1, "found")))
    assert world.text(1, 1) == "found"
    assert world.text(1, 1, known_at=known) is None


def test_projects_are_created_once() -> None:
    """The same definition again is no fault; another one, or no project, is named."""
    world = World()
    same = ProjectInfo("w", "https://w.example", "en", "CC0-1.0")
    assert world.ingestor.create_project(same) is False
    with pytest.raises(ProjectExistsError):
        world.ingestor.create_project(replace(same, license="CC-BY-4.0"))
    with pytest.raises(ProjectNotFoundError):
        world.ingestor.append("none", [])


def test_long_chains_and_short_and_large_texts_come_back() -> None:
    """Every text comes back to the byte across prefix chains, empty, tiny and larger than the window."""
    world = World()
    texts = [
        "",
        "a",
        "ab" * 3,
        *(f"line {n}\n" * 400 + str(n) for n in range(40)),
        "z" * 9_000_000,
        "end" * 9,
    ]
    for number, text in enumerate(texts):
        world.add(world.event(1, number, edit(number + 1, text)))
    got = [world.archive.text("w", number + 1).decode() for number in range(len(texts))]
    assert got == texts


def test_drawn_salts_are_used_once() -> None:
    """Salts that are drawn together are all of their length, and none comes twice, of two drawers either."""
    one, other = DrawnSalts(), DrawnSalts()
    salts = [draw("w", "same") for _ in range(1000) for draw in (one, other)]
    assert {SALT_BYTES} == set(map(len, salts))
    assert 2000 == len(set(salts))
