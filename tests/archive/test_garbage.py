"""What is garbage, what only looks like it, and that a collection can be ended anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from recension.archive import columns, commitments, garbage, snapshots
from recension.archive.check.run import Check
from recension.archive.garbage import Garbage, collect, lacks_nodes
from recension.archive.history import Choice
from recension.archive.texts.block import NO_PREFIX, TAIL, Prefix, encode, prefix_text
from recension.archive.texts.reading import load, place_value, read_place, texts_of
from recension.model.errors import DataLossError
from recension.model.manifest import Manifest, Selector
from recension.model.tree import build, entry_leaf
from recension.store import keys
from recension.store.interface import Row, Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import World, edit
from tests.archive.test_check import found, put, rows
from tests.archive.test_rebuild import blobs_of, busy_world, index_of


@pytest.fixture(params=["memory", "lmdb"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "memory":
        yield busy_world()
        return
    with closing(LmdbStore.open(tmp_path, create=True, force_mount=True)) as store:
        yield busy_world(store)


def leave_nodes(store: Store, pages: int = 100) -> int:
    """Store the tree of a snapshot that was never kept; returns the number of its nodes."""
    nodes: dict[bytes, bytes] = {}
    leaves = ((page, page, entry_leaf(page, page, 0, b"?" * 32, b"?" * 32)) for page in range(1, pages))
    build(leaves, nodes.__setitem__)
    store.put_derived(iter([(keys.node(digest), node) for digest, node in nodes.items()]))
    return len(nodes)


def leave_all(store: Store) -> Garbage:
    """Leave garbage of every kind; returns what is to be found."""
    nodes = leave_nodes(store)
    tail = encode(1, 1, TAIL, [b"a tail of nobody"], NO_PREFIX, 3)
    prefix = Prefix(9000, 0, b"a tail of nobody")
    block = encode(1, 1, 77, [b"a block of nobody, against the tail of nobody"], prefix, 3)
    put(
        store,
        {keys.text(b"1" * 32): place_value(9999, 0), keys.text(b"2" * 32): place_value(1, 60_000)},
        {keys.block(9000): tail, keys.block(9001): block},
    )
    return Garbage(nodes, -1, 2, len(tail) + len(block), 2, 0)


def counts(one: Garbage) -> tuple[int, ...]:
    """Return what was found, without the bytes of nodes."""
    return one.nodes, one.blocks, one.block_bytes, one.text_rows, one.damaged


def test_a_sound_store_has_no_garbage(world: World) -> None:
    """Nothing that a snapshot or a revision needs is found, and nothing is deleted."""
    before, blobs = index_of(world.store), blobs_of(world.store)
    assert collect(world.store, delete=True) == Garbage()
    assert (index_of(world.store), blobs_of(world.store)) == (before, blobs)


def test_garbage_of_every_kind_is_found_and_deleted_and_nothing_else(world: World) -> None:
    """A dry run changes nothing; afterwards the store is to the row what it was before the garbage."""
    before, blobs = index_of(world.store), blobs_of(world.store)
    expected = leave_all(world.store)
    left = index_of(world.store)
    dry = collect(world.store)
    assert counts(dry) == counts(expected)
    assert dry.node_bytes > 0
    assert not dry.is_none
    assert index_of(world.store) == left
    assert collect(world.store, delete=True) == dry
    assert (index_of(world.store), blobs_of(world.store)) == (before, blobs)
    assert collect(world.store, delete=True).is_none
    assert found(world.store) == {}


class _EndedError(Exception):
    """The process was killed here."""


def test_a_collection_that_was_ended_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended before or after any of its transactions and run again, it ends the same."""
    monkeypatch.setattr(garbage, "_ROWS", 3)
    for last in range(100):
        world = busy_world()
        before, blobs = index_of(world.store), blobs_of(world.store)
        leave_all(world.store)
        ended = _ends(monkeypatch, world.store, last)
        try:
            collect(world.store, delete=True)
        except _EndedError:
            pass
        else:
            assert last > 5
            return
        ended()
        collect(world.store, delete=True)
        assert (index_of(world.store), blobs_of(world.store)) == (before, blobs)
    raise AssertionError("it does not end")


def _ends(monkeypatch: pytest.MonkeyPatch, store: Any, after: int) -> Callable[[], None]:
    rewrite, left = store.rewrite, after

    def ends(changes: Any) -> list[bool]:
        nonlocal left
        if not left:
            raise _EndedError
        left -= 1
        return list(rewrite(changes))

    store.rewrite = ends
    return lambda: setattr(store, "rewrite", rewrite)


def test_a_snapshot_that_is_kept_meanwhile_loses_nothing() -> None:
    """A commit between the decision and the deletion: the deletion is left out, and decided anew."""
    world = busy_world()
    selector = Selector.of(["w"])
    store: Any = world.store
    rewrite = store.rewrite
    kept: list[Manifest] = []

    def late(changes: Any) -> list[bool]:
        if not kept:
            kept.append(world.archive.create_snapshot(selector, valid_at=world.day(20)))
        return list(rewrite(changes))

    leave_nodes(store)
    store.rewrite = late
    collect(store, delete=True)
    store.rewrite = rewrite
    assert kept
    assert not lacks_nodes(store, kept[0].parts[0].root)
    assert found(store) == {}


def test_without_the_guard_it_would_lose_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with deletions that do not look for a commit; the keeper can tell, and so can a check."""
    world = busy_world()
    selector = Selector.of(["w"])
    store: Any = world.store
    keep = world.archive._keeper._keep
    monkeypatch.setattr(world.archive._keeper, "_keep", lambda _: None)
    manifest = world.archive.create_snapshot(selector, valid_at=world.day(20))  # its nodes, not yet kept
    rewrite = store.rewrite

    def careless(changes: Any) -> list[bool]:
        keep(manifest)
        for change in changes:
            change.expected.clear()
        return list(rewrite(changes))

    store.rewrite = careless
    collect(store, delete=True)
    store.rewrite = rewrite
    assert lacks_nodes(store, manifest.parts[0].root)
    assert found(store) == {"snapshot-node": 1}
    choice = Choice(manifest.as_of.valid_at, manifest.as_of.known_at, on_hidden=selector.on_hidden)
    snapshots.build_part(store, "w", 1, selector, choice)  # built again, it is whole again
    assert found(store) == {}


def test_a_row_whose_text_is_named_is_damage(world: World) -> None:
    """A lost block stays findable as what it is: the rows of its texts are kept and counted."""
    key, value = rows(world.store, b"D")[0]
    number = read_place(value)[0]
    with world.store.view() as view:
        texts = len(load(view, number).lengths)
    put(world.store, {}, {keys.block(number): None})
    left = index_of(world.store)
    assert collect(world.store, delete=True) == Garbage(damaged=texts)
    assert index_of(world.store) == left
    assert key in left


@pytest.mark.parametrize("letter", [b"G", b"H"])
def test_a_block_whose_row_was_lost_is_damage(letter: bytes, world: World) -> None:
    """Its texts are still looked for in it, so nothing is deleted."""
    put(world.store, {rows(world.store, letter)[0][0]: None})
    blobs = blobs_of(world.store)
    one = collect(world.store, delete=True)
    assert (one.blocks, one.damaged) == (0, 1)
    assert blobs_of(world.store) == blobs


def test_what_others_are_compressed_against_is_kept(world: World) -> None:
    """A block of no page and no text that a kept block needs, and the one that it needs itself."""
    first = encode(1, 1, 70, [b"first of all lines"], NO_PREFIX, 3)
    second = encode(1, 1, 71, [b"second of all lines"], Prefix(9000, 0, b"first of all lines"), 3)
    key, value = rows(world.store, b"H")[-1]
    number = int.from_bytes(key[-8:], "big")
    with world.store.view() as view:
        block = load(view, number)
        texts = texts_of(view, block)
    raw = encode(
        block.project, block.page, TAIL, texts, Prefix(9001, 1, prefix_text([b"second of all lines"])), 3
    )
    blobs: dict[bytes, bytes | None] = {
        keys.block(9000): first, keys.block(9001): second, keys.block(number): raw
    }  # fmt: skip
    put(world.store, {key: value}, blobs)
    one = collect(world.store, delete=True)
    assert (one.blocks, one.damaged) == (0, 2)
    assert set(found(world.store)) == {"block-orphan", "prefix-elsewhere"}


def test_nodes_are_kept_when_a_tree_cannot_be_read(world: World) -> None:
    """What lies below a missing node looks like garbage; nothing is deleted."""
    with world.store.view() as view:
        root = next(iter(world.archive.snapshots())).parts[0].root
        assert view.get(keys.node(root))
    leave_nodes(world.store)
    put(world.store, {keys.node(root): None})
    left = index_of(world.store)
    assert lacks_nodes(world.store, root)
    with pytest.raises(DataLossError, match="tree of a snapshot"):
        collect(world.store, delete=True)
    assert index_of(world.store) == left


def test_a_damaged_block_is_counted(world: World) -> None:
    """A block that cannot be read is not judged."""
    number = read_place(rows(world.store, b"D")[0][1])[0]
    put(world.store, {}, {keys.block(number): b"?"})
    one = collect(world.store, delete=True)
    assert (one.blocks, one.damaged) == (0, 1)


KINDS_OF_COLUMNS = (b"X", b"J", b"f", b"i")


def columns_of(store: Store) -> dict[bytes, bytes]:
    """Return the rows of event columns."""
    return dict(row for letter in KINDS_OF_COLUMNS for row in rows(store, letter))


def leave_columns(monkeypatch: pytest.MonkeyPatch, store: Store | None = None) -> tuple[World, set[bytes]]:
    """Kill a writer of event columns before it names them, and go on; return the rows that it left."""
    monkeypatch.setattr(columns, "_WORTHWHILE", 1)
    monkeypatch.setattr(columns, "PART", 7)
    monkeypatch.setattr(columns, "LARGE", 1)
    monkeypatch.setattr(commitments, "_TOGETHER", 3)
    world = World(store)
    world.add(*(world.event(1, n, edit(n, f"text {n}")) for n in range(1, 30)))
    world.ingestor.settle()
    named = columns_of(world.store)
    world.add(*(world.event(2, n, edit(100 + n, f"other {n}", "B")) for n in range(1, 30)))
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put_derived", _ended_before(world.store.put_derived, b"X"))
        with pytest.raises(_EndedError):
            world.ingestor.settle()
    left = columns_of(world.store).keys() - named.keys()
    assert {key[:1] for key in left} == {b"J", b"f", b"i"}
    world.add(world.event(3, 1, edit(300, "more", "C")))
    world.ingestor.settle()
    return world, left


def _ended_before(
    put_derived: Callable[[Iterator[Row]], None], letter: bytes
) -> Callable[[Iterator[Row]], None]:
    def ends(some: Iterator[Row]) -> None:
        first = next(some)
        if first[0][:1] == letter:
            raise _EndedError
        put_derived(chain([first], some))

    return ends


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_columns_that_no_row_names_are_garbage(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that was killed leaves them; those of parts that are named stay, and so do the answers."""
    monkeypatch.setattr(garbage, "_OF_PART", 2)
    with closing(LmdbStore.open(tmp_path, create=True, force_mount=True)) as store:
        world, left = leave_columns(monkeypatch, store if kind == "lmdb" else None)
        before = columns_of(world.store)
        rest = {key: value for key, value in before.items() if key not in left}
        size = sum(len(key) + len(before[key]) for key in left)
        expected = Garbage(column_rows=len(left), column_bytes=size)
        assert found(world.store) == {}
        assert collect(world.store) == expected
        assert columns_of(world.store) == before
        assert collect(world.store, delete=True) == expected
        assert columns_of(world.store) == rest
        assert collect(world.store, delete=True).is_none
        assert found(world.store) == {}


def test_a_collection_of_columns_that_was_ended_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended before or after any deletion and run again, it ends the same."""
    monkeypatch.setattr(garbage, "_OF_PART", 2)
    for last in range(100):
        world, left = leave_columns(monkeypatch)
        rest = columns_of(world.store).keys() - left
        ended = _ends(monkeypatch, world.store, last)
        try:
            collect(world.store, delete=True)
        except _EndedError:
            pass
        else:
            assert last > 5
            return
        ended()
        collect(world.store, delete=True)
        assert columns_of(world.store).keys() == rest
        assert found(world.store) == {}
    raise AssertionError("it does not end")


def test_progress_is_told() -> None:
    """After each step, with what was found so far."""
    store = MemoryStore()
    world = World(store)
    world.add(world.event(1, 1, edit(1, "x")))
    told: list[int] = []
    leave_nodes(store)
    collect(store, tell=lambda one: told.append(one.nodes))
    assert told[-1] > 0
    assert Check(store).run().kinds == {}
