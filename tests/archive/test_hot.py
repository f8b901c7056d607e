"""Texts that are read in bulk more than once: as frames from beside the store, and none that is hidden."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zstandard

from recension.archive.erase import erase_text
from recension.archive.reader import Archive
from recension.archive.texts.hot import Doorkeeper, HotTexts
from recension.archive.texts.reading import place_value, read_place
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.model.event import Presence
from recension.model.reading import MAX_FRAME_TEXT, Entry, Slot
from recension.store import keys
from recension.store.frames import FrameCache, state_of
from recension.store.interface import Rewrite
from tests.archive.helpers import NOW, World, edit, hide

PAGES = 20
LIMIT = 8 << 20


def text_of(page: int) -> str:
    """Return texts that have much in common: they lie in frames that need others."""
    return "a line that all pages have in common, and that is long enough\n" * 40 + f"page {page} " * 20


class Hot:
    """An archive of some pages, which two more revisions follow, and a reader with a cache."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.world = world = World()
        for rev in (1, 2):
            events = [
                world.event(page, rev, edit(100 * page + rev, text_of(page) + str(rev), f"P{page}"))
                for page in range(1, PAGES + 1)
            ]
            world.add(*events)
        world.ingestor.settle()
        self.snapshot = world.snapshot(1.5)  # not the newest texts, which lie in frames of their own
        self.faults: list[Exception] = []
        self.cache = FrameCache(data, world.store, LIMIT, self.faults.append)
        self.archive = Archive(world.store, clock=lambda: NOW, hot=HotTexts(self.cache))

    def read(self, *, stored: bool = True) -> list[Slot]:
        return [slot for entry in self.entries(stored=stored) for slot in entry.slots]

    def entries(self, *, stored: bool = True) -> list[Entry]:
        return list(self.archive.read(self.snapshot, stored=stored))

    def cached(self, text: str) -> bytes | None:
        digest = digest_of(text.encode())
        with self.world.store.view() as view:
            return self.cache.get_many(state_of(view), [digest]).get(digest)


@pytest.fixture
def hot(tmp_path: Path) -> Hot:
    return Hot(tmp_path)


def test_what_is_read_twice_is_kept(hot: Hot) -> None:
    """The first read leaves nothing, the second puts frames, the third sends them; the texts are the same."""
    plain = [slot.text for slot in hot.read(stored=False)]
    for there in (False, False, True):
        assert [there] * PAGES == [
            hot.cached(text_of(page) + "1") is not None for page in range(1, PAGES + 1)
        ]
        slots = hot.read()
        assert [
            slot.text if slot.frame is None else zstandard.decompress(slot.frame) for slot in slots
        ] == plain
        if there:
            assert all(slot.frame is not None for slot in slots)
    assert [slot.text for slot in hot.read(stored=False)] == plain
    assert hot.faults == []


def test_single_places_are_read_from_it_too(hot: Hot) -> None:
    """Samples in any order are bulk reads."""
    for _ in range(2):
        list(hot.archive.read_at(hot.snapshot, range(PAGES), stored=True))
    assert all(entry.slots[0].frame for entry in hot.archive.read_at(hot.snapshot, [3, 1], stored=True))


def test_who_cannot_take_frames_fills_nothing(hot: Hot) -> None:
    """Calls without ``accept_frames`` neither note nor keep anything."""
    for _ in range(3):
        assert all(slot.frame is None for slot in hot.read(stored=False))
    assert not (hot.data / "frames").exists()


def test_what_is_hidden_is_not_asked_for(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may still lie there; no entry that does not show it looks for it."""
    for _ in range(3):
        hot.read()
    asked: set[bytes] = set()
    get_many = hot.cache.get_many

    def noting(state: str, digests: set[bytes]) -> dict[bytes, bytes]:
        asked.update(digests)
        return get_many(state, digests)

    monkeypatch.setattr(hot.cache, "get_many", noting)
    hidden = digest_of((text_of(7) + "1").encode())
    hot.read()
    assert hidden in asked
    asked.clear()
    hot.world.add(hot.world.event(7, 1, hide(701)))
    slot = hot.read()[6]
    assert (slot.presence, slot.frame, slot.text) == (Presence.HIDDEN, None, None)
    assert hidden not in asked
    assert len(asked) == PAGES - 1


def test_what_was_erased_is_not_there(hot: Hot) -> None:
    """Nor is it put again; what stays is kept anew."""
    for _ in range(3):
        hot.read()
    erased = text_of(7) + "1"
    assert hot.cached(erased)
    erase_text(hot.world.store, digest_of(erased.encode()))
    for _ in range(3):
        assert hot.read()[6].presence is Presence.HIDDEN
        assert hot.cached(erased) is None
    assert all(slot.frame for at, slot in enumerate(hot.read()) if at != 6)


def test_damage_is_not_kept(hot: Hot) -> None:
    """A text that is not what its digest says leaves as it did, and stays out of the cache."""
    right, wrong = text_of(7) + "1", text_of(8) + "1"
    digest = digest_of(right.encode())
    with hot.world.store.view() as view:
        place = view.get(keys.text(digest))
        other = view.get(keys.text(digest_of(wrong.encode())))
    assert place is not None
    assert other is not None
    hot.world.store.rewrite([Rewrite({}, {keys.text(digest): other}, {})])
    for _ in range(3):
        slot = hot.read()[6]
        sent = slot.text if slot.frame is None else zstandard.decompress(slot.frame)
        assert sent == wrong.encode()
        assert hot.cached(right) is None
    hot.world.store.rewrite([Rewrite({}, {keys.text(digest): place}, {})])
    hot.read()
    assert hot.cached(right)


def test_a_lost_text_is_named(hot: Hot) -> None:
    """What is not kept is read from the store, which says all there is to say of it."""
    digest = digest_of((text_of(7) + "1").encode())
    with hot.world.store.view() as view:
        number, _ = read_place(view.get(keys.text(digest)) or b"")
    hot.world.store.rewrite([Rewrite({}, {keys.text(digest): place_value(number, 60)}, {})])
    with pytest.raises(DataLossError, match="not in its block"):
        hot.read()


@pytest.mark.parametrize("text", ["", "x", "é" * (MAX_FRAME_TEXT // 2 + 1)], ids=["empty", "short", "large"])
def test_sizes_at_the_ends(tmp_path: Path, text: str) -> None:
    """What is empty, short or larger than a frame may be is read as ever."""
    hot = Hot(tmp_path)
    hot.world.add(hot.world.event(99, 1, edit(9901, text, "P99")))
    hot.snapshot = hot.world.snapshot(1.5)
    for _ in range(4):
        slot = hot.read()[-1]
        assert (slot.text if slot.frame is None else zstandard.decompress(slot.frame)) == text.encode()
    assert (hot.cached(text) is not None) == (text == "x")


def digests(count: int) -> list[bytes]:
    """Return digests of no text."""
    return [os.urandom(32) for _ in range(count)]


def test_the_doorkeeper_forgets() -> None:
    """It knows what was asked for just now, and few others; when half its bits are set it begins anew."""
    doorkeeper = Doorkeeper(1 << 12)
    first = digests(200)
    assert sum(map(doorkeeper.knows, first)) < 40
    assert all(map(doorkeeper.knows, first))
    for digest in digests(3 << 12):
        doorkeeper.knows(digest)
    assert sum(map(doorkeeper.knows, first)) < 150
