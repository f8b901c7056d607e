"""Erasing a text: it is gone from answers, rows and, after a compaction, from the file; identities stay."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension.archive.erase import Erased, erase_text
from recension.model.digest import digest_of
from recension.model.event import Edit, Event, Presence, SlotText
from recension.model.seal import field_salt
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import World, edit, fixed_salts

SECRET = random.Random(5).randbytes(3000)
"""Random, so that compressed frames hold it as it is."""
PROBE = SECRET[1000:1064]
KEPT = random.Random(6).randbytes(3000)


def bytes_edit(rev: int, text: bytes) -> Edit:
    """Return an edit whose text is no UTF-8."""
    slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, text)
    shape = edit(rev, "")
    return Edit(rev, 0, shape.title, 0, False, shape.contributor, shape.comment, minor=False, slots=(slot,))  # noqa: FBT003


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Three pages; the second revision of the first, and one of the third, hold what is to be erased."""
    store = LmdbStore.open(tmp_path / "data", create=True)
    world = World(store)
    world.add(*EVENTS(world))
    yield world
    store.close()


def EVENTS(world: World) -> list[Event]:  # noqa: N802 - a table
    """Return the history."""
    return [
        world.event(1, 1, bytes_edit(1, KEPT)),
        world.event(1, 2, bytes_edit(2, SECRET)),
        world.event(1, 3, bytes_edit(3, SECRET + KEPT[:50])),
        world.event(2, 1, bytes_edit(4, KEPT[:2000] + b"!")),
        world.event(3, 1, bytes_edit(5, SECRET)),
    ]


def erased(world: World, text: bytes = SECRET) -> Erased:
    """Erase a text as the holder of the right to write."""
    with world.store.exclusive_writer():
        return erase_text(world.store, digest_of(text))


def text_of(world: World, rev: int) -> tuple[Presence, bytes | None]:
    """Return what the archive says of a revision's text."""
    slot = world.archive.revision("w", rev).revision.slot()
    assert slot is not None
    return slot.presence, slot.text


@pytest.mark.parametrize("settled", [False, True])
def test_text_is_gone_wherever_it_was_and_nothing_else_is(world: World, settled: bool) -> None:  # noqa: FBT001
    """Both revisions that held it lose it; texts compressed against it are read as before."""
    if settled:
        world.ingestor.settle()
    assert set(erased(world).revisions) == {(1, 2), (1, 5)}
    assert text_of(world, 2) == text_of(world, 5) == (Presence.HIDDEN, None)
    assert text_of(world, 1) == (Presence.PRESENT, KEPT)
    assert text_of(world, 3) == (Presence.PRESENT, SECRET + KEPT[:50])
    assert text_of(world, 4) == (Presence.PRESENT, KEPT[:2000] + b"!")
    assert erased(world) == Erased((), 0)


def test_identities_stay(world: World) -> None:
    """A snapshot from before reads on, without the text; asked again it has the same id."""
    before = world.snapshot(2.5)
    world.ingestor.settle()
    erased(world)
    entries = {entry.page_id: entry for entry in world.archive.read(before)}
    assert entries[1].text_hidden
    assert entries[1].content_commitment
    slot = entries[2].slot()
    assert slot is not None
    assert slot.text == KEPT[:2000] + b"!"
    assert world.snapshot(2.5) == before


def test_same_history_again_brings_nothing_back(world: World) -> None:
    """What was erased is known, and stays erased."""
    erased(world)
    appended = world.ingestor.append("w", EVENTS(world))
    assert (appended.accepted, appended.known, appended.rejected) == (0, 5, ())
    assert text_of(world, 2) == (Presence.HIDDEN, None)


def test_nothing_of_it_is_in_the_file_after_a_compaction(world: World, tmp_path: Path) -> None:
    """Text, salt and digest are found by raw search before, and not after. The other texts go first."""
    store = world.store
    assert isinstance(store, LmdbStore)
    erased(world, SECRET + KEPT[:50])
    salt = field_salt(fixed_salts("w", "rev:2"), b"recension/content/v1\0")
    file = tmp_path / "data" / "lmdb" / "data.mdb"
    assert PROBE in file.read_bytes()
    erased(world)
    assert PROBE in file.read_bytes()  # in pages that are free now
    store.compact()
    left = file.read_bytes()
    for gone in (PROBE, fixed_salts("w", "rev:2"), salt, digest_of(SECRET), digest_of(SECRET)[:16]):
        assert gone not in left
    assert text_of(world, 1) == (Presence.PRESENT, KEPT)
