"""What becomes of a batch: known, refused, superseded, hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recension.model.errors import (
    InvalidEventError,
    PageNotFoundError,
    ProjectExistsError,
    ProjectNotFoundError,
    RevisionConflictError,
    RevisionNotFoundError,
)
from recension.model.event import Presence
from recension.model.reading import ProjectInfo
from tests.archive.helpers import World, edit, hide, move


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
