"""Entries that are remembered: what is hidden or erased meanwhile, here or elsewhere, does not come out."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from recension.archive import entries, shown
from recension.archive.entries import Opener
from recension.archive.erase import erase_text
from recension.archive.history import choice_of
from recension.archive.recent import Recent
from recension.archive.sealed import SealedReader
from recension.archive.texts.reading import read_texts
from recension.archive.trees import TreeReader, bases_at
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.model.event import MAX_ID, Presence
from recension.model.manifest import OnHidden
from recension.model.reading import ChangeKind, Entry, Shard
from recension.model.tree import EMPTY_NODE, EMPTY_ROOT, RECORD, Leaf, build
from recension.store import keys
from recension.store.interface import Store, View
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import World, delete, edit, hide, move

ROOT = Path(__file__).parents[2]
SECRET = b"text 7"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Forty pages of one revision each, on disk."""
    store = LmdbStore.open(tmp_path / "data", create=True)
    world = World(store)
    world.add(*(world.event(page, 1, edit(page, f"text {page}", f"P{page}")) for page in range(1, 41)))
    yield world
    store.close()


def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the page of each leaf that is opened anew is added."""
    pages: list[int] = []
    real = Opener._open

    def counted(opener: Opener, leaves: list[Leaf]) -> list[entries.Held]:
        pages.extend(leaf.page_id for leaf in leaves)
        return real(opener, leaves)

    monkeypatch.setattr(Opener, "_open", counted)
    return pages


def seventh(world: World, snapshot: bytes) -> Entry:
    """Return the entry of page 7."""
    return next(entry for entry in world.archive.read(snapshot) if entry.page_id == 7)


def hide_seventh(store: Store) -> None:
    """Hide the text of page 7 in a store that has the project already."""
    world = World(store)
    world.add(world.event(7, 1, hide(7), "hidden"))


def erase_seventh(store: Store) -> None:
    """Erase the text of page 7."""
    with store.exclusive_writer():
        assert erase_text(store, digest_of(SECRET)).revisions == ((1, 7),)


def elsewhere(work: Callable[[Store], None], world: World, folder: Path) -> None:
    """Do it in another process."""
    program = (
        "import sys, pathlib\n"
        "from recension.store.lmdb import LmdbStore\n"
        f"from tests.archive.test_entries import {work.__name__} as work\n"
        "work(LmdbStore.open(pathlib.Path(sys.argv[1])))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "data")], check=True, cwd=ROOT)


def here(work: Callable[[Store], None], world: World, folder: Path) -> None:
    """Do it in this process."""
    work(world.store)


@pytest.mark.parametrize("where", [here, elsewhere])
@pytest.mark.parametrize("work", [hide_seventh, erase_seventh])
def test_what_was_withdrawn_is_not_remembered(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[..., None],
    where: Callable[..., None],
) -> None:
    """An entry that was read is read anew once its text was hidden or erased, by whichever process."""
    snapshot = world.snapshot(2)
    anew = opened(monkeypatch)
    slot = seventh(world, snapshot).slots[0]
    assert (slot.text, slot.digest) == (SECRET, digest_of(SECRET))
    where(work, world, tmp_path)
    entry = seventh(world, snapshot)
    assert entry.text_hidden
    assert (entry.content_salt, len(entry.content_commitment)) == (b"", 32)
    assert [(one.presence, one.digest, one.text) for one in entry.slots] == [(Presence.HIDDEN, b"", None)]
    assert anew.count(7) == 2


@pytest.mark.parametrize("work", [hide_seventh, erase_seventh])
def test_without_a_look_at_the_index_it_would_be(
    world: World, monkeypatch: pytest.MonkeyPatch, work: Callable[[Store], None]
) -> None:
    """The same, with a memory that asks nothing: it answers as before, so the test above can fail."""
    snapshot = world.snapshot(2)
    assert seventh(world, snapshot).slots[0].digest == digest_of(SECRET)
    work(world.store)
    monkeypatch.setattr(Opener, "_stands", lambda *_: True)
    monkeypatch.setattr(keys, "removed", lambda: b"?")
    entry = next(one for one in world.archive.entries(snapshot) if one.page_id == 7)
    assert entry.slots[0].digest == digest_of(SECRET)


def test_what_was_erased_is_not_kept_in_memory(world: World) -> None:
    """Neither its digest nor its salt is there any more once anything was read, be it another snapshot."""
    snapshot = world.snapshot(2)
    salt = seventh(world, snapshot).content_salt
    other = world.snapshot(3)

    def remembered() -> set[bytes]:
        memory = world.archive._entries._memory
        held = [*memory._young.values(), *memory._old.values()]
        return {one.entry.content_salt for one in held} | {one.entry.slots[0].digest for one in held}

    assert {salt, digest_of(SECRET)} <= remembered()
    erase_seventh(world.store)
    next(world.archive.entries(other, after=("w", 39)))
    assert not {salt, digest_of(SECRET)} & remembered()


def test_a_text_shown_again_is_read_again(world: World) -> None:
    """Hidden and shown again: each answer says what holds when it is given."""
    snapshot = world.snapshot(2)
    shown = []
    for hidden in (True, False, True):
        world.add(world.event(7, 1, hide(7, text=hidden)))
        shown.append(seventh(world, snapshot).slots[0].text)
    assert shown == [None, SECRET, None]


def test_entries_are_opened_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two snapshots share is opened once, also when other pages were edited or hidden since."""
    anew = opened(monkeypatch)
    first = world.snapshot(2)
    list(world.archive.entries(first))
    assert anew == list(range(1, 41))
    world.add(world.event(9, 3, edit(109, "newer", "P9")), world.event(30, 3, hide(30)))
    second = world.snapshot(4)
    list(world.archive.read(second))
    assert anew[40:] == [9]
    changes = list(world.archive.diff(first, second))
    assert [(change.page_id, change.kind) for change in changes] == [
        (9, ChangeKind.EDITED),
        (30, ChangeKind.RETRACTED),
    ]
    assert anew[41:] == [30]
    list(world.archive.entries(first))
    assert anew[42:] == []


def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leaves asked for least lately are forgotten, and answers are the same."""
    world.archive._entries._memory.size = 8
    snapshot = world.snapshot(2)
    expected = list(world.archive.entries(snapshot))
    anew = opened(monkeypatch)
    assert list(world.archive.entries(snapshot)) == expected
    assert len(anew) >= 24
    assert len(world.archive._entries._memory) <= 16


def test_a_leaf_decides_which_event_named_the_page() -> None:
    """An edit's own title, an inferred one, a move's new title and its old one: as for the page alone."""
    world = World(MemoryStore())
    world.add(
        world.event(1, 1, edit(1, "a", "Own")),
        world.event(2, 1, edit(2, "b", "Was", inferred=True)),
        world.event(2, 5, edit(12, "bb", "Newest", inferred=True)),
        world.event(3, 1, edit(3, "c", "Old")),
        world.event(3, 2, move("Old", "New")),
        world.event(4, 1, edit(4, "d", "Later", inferred=True)),
        world.event(4, 6, move("Before", "Later")),
        world.event(5, 1, edit(5, "e", "Gone")),
        world.event(5, 2, delete("Gone")),
        world.event(6, 1, edit(6, "f", "Back")),
        world.event(6, 2, move("Back", "Away")),
        world.event(6, 2.5, move("Away", "Back")),
    )
    snapshot = world.snapshot(3)
    told = {entry.page_id: (entry.title, entry.title_inferred) for entry in world.archive.entries(snapshot)}
    alone = {page: world.title(page, 3) for page in (1, 2, 3, 4, 6)}
    assert told == alone
    assert told == {
        1: ("Own", False),
        2: ("Newest", True),
        3: ("New", False),
        4: ("Before", False),
        6: ("Back", False),
    }


def test_a_wrong_leaf_is_damage(world: World) -> None:
    """A leaf that the history does not bear out is refused, whether its page or its content is another."""
    manifest = world.archive.snapshot(world.snapshot(2))
    choice = choice_of(manifest.selector, manifest.as_of)
    with world.store.view() as view:
        for leaf in (Leaf(7, 7, bytes(32)), Leaf(99, 7, bytes(32)), Leaf(7, 8, bytes(32))):
            with pytest.raises(DataLossError):
                bases_at(view, SealedReader(view), 1, [leaf], choice)


@pytest.mark.parametrize("size", [1, 3, 256])
def test_slices_and_shards_leave_nothing_out(
    world: World, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Entries are the same whatever a slice holds, from any place on, whole or in parts."""
    many = [world.event(page, 1, edit(page, "x" * page, f"P{page}")) for page in range(200, 900, 7)]
    world.add(*many)
    monkeypatch.setattr(entries, "_SLICE", size)
    monkeypatch.setattr(entries, "_SLICE_BYTES", 2000)
    snapshot = world.snapshot(2, on_hidden=OnHidden.KEEP)
    whole = list(world.archive.read(snapshot))
    assert [entry.page_id for entry in whole] == [*range(1, 41), *range(200, 900, 7)]
    assert [len(entry.slots[0].text or b"") for entry in whole][40:] == list(range(200, 900, 7))
    for place in (0, 15, 16, 17, 333, 893, 900):
        rest = [entry for entry in whole if entry.page_id > place]
        assert list(world.archive.read(snapshot, after=("w", place))) == rest
    parts = [list(world.archive.read(snapshot, shard=Shard(index, 3))) for index in range(3)]
    assert sorted(entry.page_id for part in parts for entry in part) == [entry.page_id for entry in whole]


def test_a_node_in_a_wrong_place_is_damage() -> None:
    """A node that names itself, or one as high, ends a walk by name; a lower one is its own child."""
    store = MemoryStore()
    leaf = (16, 1, bytes(32))
    nodes = {EMPTY_ROOT: EMPTY_NODE}
    root, _ = build([leaf], nodes.__setitem__)
    circle, high = b"c" * 32, b"h" * 32
    nodes[circle] = b"\x01" + RECORD.pack(1, 1, circle)
    nodes[high] = b"\x01" + RECORD.pack(1, 1, circle)
    whole = b"w" * 32
    nodes[whole] = b"\x01" + RECORD.pack(1, 1, root)
    store.put_derived((keys.node(digest), node) for digest, node in nodes.items())
    with store.view() as view:
        reader = TreeReader(view, Recent(10))
        assert list(reader.runs(whole, 0)) == [[leaf]]
        assert list(reader.differences(whole, root, 0)) == []
        assert list(reader.differences(EMPTY_ROOT, whole, 0)) == [([], [leaf])]
        assert reader.leaf_number(whole, 0) == leaf
        for digest in (circle, high):
            with pytest.raises(DataLossError, match="too high"):
                list(reader.runs(digest, 0))
            with pytest.raises(DataLossError, match="too high"):
                reader.leaf_number(digest, 0)
            with pytest.raises(DataLossError, match="too high"):
                list(reader.differences(digest, whole, 0))


@given(st.sets(st.integers(1, MAX_ID) | st.integers(1, 5_000), min_size=1, max_size=60))
def test_leaves_have_numbers(pages: set[int]) -> None:
    """In a tree of any shape each leaf is found by its number; beyond the last there is none."""
    store = MemoryStore()
    leaves = [Leaf(page, 1, bytes(32)) for page in sorted(pages)]
    nodes: dict[bytes, bytes] = {}
    root, count = build(leaves, nodes.__setitem__)
    store.put_derived((keys.node(digest), node) for digest, node in nodes.items())
    with store.view() as view:
        reader = TreeReader(view, Recent(10))
        assert [reader.leaf_number(root, index) for index in range(count)] == leaves
        with pytest.raises(DataLossError, match="fewer entries"):
            reader.leaf_number(root, count)


def test_chosen_entries_with_large_texts_are_read_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice ends with the text that makes it full, and the next begins behind it."""
    world = World()
    for page in range(1, 13):
        world.add(world.event(page, 1, edit(page, f"{page} " + "x" * 1_500_000, f"P{page}")))
    read: list[bytes] = []

    def counted(view: View, digests: Sequence[bytes]) -> list[bytes]:
        read.extend(digests)
        return read_texts(view, digests)

    monkeypatch.setattr(shown, "read_texts", counted)
    chosen = world.archive.read_at(world.snapshot(2), range(11, -1, -1))
    pages = [next(chosen).page_id]
    assert 3 == len(read)
    pages += [entry.page_id for entry in chosen]
    assert list(range(12, 0, -1)) == pages
    assert 12 == len(read)


def test_threads_share_a_memory(world: World) -> None:
    """Readers at the same time see a text hidden or shown; whoever asks after a change sees what it made."""
    snapshot = world.snapshot(2)
    world.archive._entries._memory.size = 16
    ended = threading.Event()

    def reading() -> int:
        rounds = 0
        while not ended.is_set():
            slot = seventh(world, snapshot).slots[0]
            assert slot.text in (None, SECRET)
            assert (slot.text is None) == (slot.presence is Presence.HIDDEN)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(reading) for _ in range(4)]
        try:
            for hidden in [True, False] * 10:
                world.add(world.event(7, 1, hide(7, text=hidden)))
                assert seventh(world, snapshot).slots[0].text == (None if hidden else SECRET)
        finally:
            ended.set()
    assert all(reader.result() for reader in readers)


@pytest.mark.parametrize("by", ["place", "order"])
def test_what_was_withdrawn_leaves_in_no_frame(world: World, by: str) -> None:
    """A frame is looked up after an entry, so it goes with everything else that is hidden."""
    text = "a text that is worth a frame " * 9
    world.add(world.event(50, 1, edit(50, text, "P50")))
    world.ingestor.settle()
    snapshot = world.snapshot(2)

    def sent() -> Entry:
        if by == "place":
            return next(world.archive.read_at(snapshot, [40], stored=True))
        return next(world.archive.read(snapshot, after=("w", 49), stored=True))

    (slot,) = sent().slots
    assert slot.frame is not None
    assert slot.text is None
    assert zstandard.decompress(slot.frame) == text.encode()
    world.add(world.event(50, 1, hide(50)))
    (hidden,) = sent().slots
    assert (hidden.presence, hidden.frame, hidden.text, hidden.digest) == (Presence.HIDDEN, None, None, b"")
