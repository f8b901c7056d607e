"""What a check finds: nothing in a sound store, and every kind of planted damage by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import lmdb
import pytest

from recension.archive import columns
from recension.archive.check import texts
from recension.archive.check.forms import page_of
from recension.archive.check.run import WALKS, Check
from recension.archive.check.state import Remedy, State, read_state
from recension.archive.erase import erase_text
from recension.archive.garbage import collect
from recension.archive.ingest import Ingestor
from recension.archive.packing import Columns, pack_columns
from recension.archive.rebuild import rebuild
from recension.archive.replay import LABELS, snapshot_rows, statement_rows
from recension.archive.sealed import CONTENT_FIELD, Note, open_sealed, with_sealed
from recension.archive.texts.block import NO_PREFIX, Block, encode, placed, read_block
from recension.archive.texts.reading import as_prefix, place_value, read_place, texts_of
from recension.archive.texts.rows import read_page_block, read_tail
from recension.model.errors import DataLossError, StoreError
from recension.model.manifest import make_manifest, read_manifest
from recension.model.reading import ProjectInfo
from recension.model.record import (
    EMPTY_LOG,
    Commit,
    Head,
    Item,
    Kind,
    Skeleton,
    Statement,
    commit_hash,
    decode_commit,
    encode_commit,
)
from recension.model.seal import read_content
from recension.model.tree import children_of, level_of, node_digest
from recension.store import keys, merged, packed
from recension.store.interface import Rewrite, Row, Store
from recension.store.keys import PACKED
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import NOW, World, edit, fixed_salts, shared
from tests.archive.test_rebuild import busy_world
from tests.archive.test_truth import ingest
from tests.faults.answers import take_snapshots

Plant = Callable[[MemoryStore], None]


def found(store: Store) -> dict[str, int]:
    """Return how often each kind of finding is made."""
    return Check(store).run().kinds


def put(
    store: Store, index: dict[bytes, bytes | None], blobs: dict[bytes, bytes | None] | None = None
) -> None:
    """Change rows and blobs as no writer would."""
    assert store.rewrite([Rewrite({}, index, blobs or {})]) == [True]


def rows(store: Store, letter: bytes) -> list[Row]:
    """Return the rows of one kind."""
    with store.view() as view:
        return view.scan(letter, bytes([letter[0] + 1]))


def blob(store: Store, key: bytes) -> bytes:
    """Return a blob that is there."""
    with store.view() as view:
        raw = view.blob(key)
    assert raw is not None
    return raw


def commits(store: Store) -> list[Commit]:
    """Return the whole log."""
    return [decode_commit(record) for record in store.log.read(1, 10_000)]


def relog(
    store: MemoryStore, position: int, change: Callable[[Commit], Commit], *, chain: bool = True
) -> None:
    """Change one record, and, with ``chain``, the parents of those after it and the head."""
    head = EMPTY_LOG
    for commit in commits(store):
        changed = change(commit) if commit.position == position else commit
        if chain:
            changed = replace(changed, parent=head.hash)
        record = encode_commit(changed)
        store._records[commit.position - 1] = record
        head = Head(commit.position, changed.recorded_at, commit_hash(record))
    if chain:
        store._head = head


def with_item(commit: Commit, kind: Kind, change: Callable[..., Item]) -> Commit:
    """Change the first item of a kind."""
    at = next(at for at, item in enumerate(commit.items) if item.kind is kind)
    return replace(commit, items=(*commit.items[:at], change(commit.items[at]), *commit.items[at + 1 :]))


def position_of(store: Store, kind: Kind) -> int:
    """Return the position of the first commit with an item of a kind."""
    return next(one.position for one in commits(store) if any(item.kind is kind for item in one.items))


# --- what is no damage ----------------------------------------------------------------------------


def test_a_sound_store_is_clean_and_all_of_it_is_read() -> None:
    """Nothing is found in a store to which everything has happened; each event and text is counted."""
    world = busy_world()
    state = Check(world.store).run()
    assert (state.kinds, state.shown, state.complete) == ({}, [], True)
    assert state.commits == world.store.log.head().position
    assert state.events == sum(len(rows(world.store, bytes([letter]))) for letter in b"EMVL")
    assert state.texts == len(rows(world.store, b"D"))
    assert state.entries == sum(part.count for one in world.archive.snapshots() for part in one.parts)
    world.ingestor.settle()
    assert found(world.store) == {}


def test_an_empty_store_is_clean() -> None:
    """There is nothing to find."""
    assert found(MemoryStore()) == {}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real wiki's whole history with snapshots, on disk."""
    folder = tmp_path_factory.mktemp("real")
    path = shared("wikimedia/aawiki-20260101/aawiki-20260101-pages-meta-history.xml.7z")
    with closing(LmdbStore.open(folder, create=True, force_mount=True)) as store:
        ingestor = Ingestor(store, clock=lambda: NOW, salts=fixed_salts)
        ingestor.create_project(ProjectInfo("aawiki", "https://aa.wikipedia.org", "aa", "CC-BY-SA-4.0"))
        ingest(ingestor, "history", path, "aawiki")
        ingestor.settle()
        take_snapshots(store)
    return folder


def test_a_real_history_is_clean(real: Path) -> None:
    """A real wiki's whole history on disk: all 1,307 revisions, and nothing is found."""
    with closing(LmdbStore.open(real, force_mount=True)) as store:
        state = Check(store).run()
        assert (state.kinds, state.events) == ({}, 1307)
        assert state.texts == len(rows(store, b"D"))


def test_what_was_rebuilt_is_clean() -> None:
    """A rebuilt store passes."""
    target = MemoryStore()
    rebuild(busy_world().store, target)
    assert found(target) == {}


def test_a_purged_field_is_no_finding_but_a_wrong_commitment_in_its_place_is() -> None:
    """A purge keeps the commitment; ``sealed`` is still checked with it."""
    world = busy_world()
    position = position_of(world.store, Kind.MOVE)
    _purge(world.store, position, 1, 3)
    assert found(world.store) == {}
    key = keys.sealed_blob(position, 0)
    one = open_sealed(blob(world.store, key))[1]
    wrong = one._replace(salts=(*one.salts[:3], bytes(32)))
    blobs: dict[bytes, bytes | None] = {}
    with world.store.view() as view:
        with_sealed(view, blobs, position, 1, wrong)
    put(world.store, {}, blobs)
    assert found(world.store) == {"sealed-hash": 1}


def _purge(store: Store, position: int, ordinal: int, field: int) -> None:
    blobs: dict[bytes, bytes | None] = {}
    kind = commits(store)[position - 1].items[ordinal].kind
    with store.view() as view:
        one = open_sealed(blob(store, keys.sealed_blob(position, 0)))[ordinal]
        with_sealed(view, blobs, position, ordinal, one.purge(field, LABELS[kind]))
    put(store, {}, blobs)


def test_an_erased_text_is_no_finding() -> None:
    """Empty in its block, no row, the content purged: of a tail and of a text in a sealed block."""
    world = busy_world()
    for text in (
        "tail one",
        "late arrival",
        "".join(f"a line of some length, number {n}\n" for n in range(300)) + "7",
    ):
        assert erase_text(world.store, sha256(text.encode()).digest()).revisions
    assert found(world.store) == {}
    target = MemoryStore()
    rebuild(world.store, target)
    assert found(target) == {}


# --- planted damage -------------------------------------------------------------------------------


def _later(commit: Commit) -> Commit:
    return replace(commit, recorded_at=commit.recorded_at + 1)


def _earlier(commit: Commit) -> Commit:
    return replace(commit, recorded_at=commit.recorded_at - 1_000_000)


def _moved(commit: Commit) -> Commit:
    return with_item(commit, Kind.MOVE, lambda item: replace(item, from_namespace=4))


def _resized(commit: Commit) -> Commit:
    return with_item(commit, Kind.EDIT, lambda item: replace(item, text_bytes=item.text_bytes + 1))


def _unreadable(commit: Commit) -> Commit:
    return with_item(commit, commit.items[0].kind, lambda item: Statement(item.kind, b"{}"))


def _garbage(store: MemoryStore) -> None:
    store._records[3] = b"no record"


LOG: dict[str, tuple[Plant, set[str]]] = {
    "no record": (_garbage, {"log-record", "log-chain"}),
    "another position": (
        lambda store: store._records.__setitem__(3, store._records[4]),
        {"log-position", "log-chain", "sealed-orphan"},
    ),
    "changed record": (
        lambda store: relog(store, 4, _later, chain=False),
        {"log-chain", "log-time", "row-wrong"},
    ),
    "changed last record": (
        lambda store: relog(store, store.log.head().position, _later, chain=False),
        {"log-head", "row-wrong"},
    ),
    "went back in time": (lambda store: relog(store, 4, _earlier), {"log-time", "row-wrong"}),
    "unreadable definition": (
        lambda store: relog(store, position_of(store, Kind.PROJECT), _unreadable),
        {"log-statement", "row-missing", "row-wrong", "row-orphan"},
    ),
    "unreadable manifest": (
        lambda store: relog(store, position_of(store, Kind.SNAPSHOT), _unreadable),
        {"log-statement", "row-missing", "row-wrong", "row-orphan"},
    ),
    "another namespace": (
        lambda store: relog(store, position_of(store, Kind.MOVE), _moved),
        {"sealed-value", "row-wrong"},
    ),
    "another size": (
        lambda store: relog(store, position_of(store, Kind.EDIT), _resized),
        {"sealed-value", "row-wrong", "snapshot-count"},
    ),
}


@pytest.mark.parametrize("name", LOG)
def test_damage_of_the_log_is_found(name: str) -> None:
    """Of records, their chain, time and head, and of what they say."""
    store = MemoryStore()
    busy_world(store)
    plant, expected = LOG[name]
    plant(store)
    kinds = set(found(store))
    assert min(expected) in kinds
    assert kinds <= expected | {"row-missing", "row-orphan"}


def _sealed_key(store: Store) -> bytes:
    return keys.sealed_blob(position_of(store, Kind.EDIT), 0)


def _lose_sealed(store: MemoryStore) -> None:
    put(store, {}, {_sealed_key(store): None})


def _shorten_sealed(store: MemoryStore) -> None:
    last = next(one for one in reversed(commits(store)) if isinstance(one.items[0], Skeleton))
    put(store, {}, {_sealed_key(store): blob(store, keys.sealed_blob(last.position, 0))})


def _garble_sealed(store: MemoryStore) -> None:
    put(store, {}, {_sealed_key(store): b"\0\1garbage"})


def _lengthen_sealed(store: MemoryStore) -> None:
    key = _sealed_key(store)
    put(store, {}, {key: blob(store, key) + b"?"})


def _change_sealed(store: MemoryStore) -> None:
    position = position_of(store, Kind.EDIT)
    one = open_sealed(blob(store, keys.sealed_blob(position, 0)))[2]
    blobs: dict[bytes, bytes | None] = {}
    with store.view() as view:
        values = (*one.values[:2], b"\1another comment", *one.values[3:])
        with_sealed(view, blobs, position, 2, one._replace(values=values))
    put(store, {}, blobs)


def _drop_field(store: MemoryStore) -> None:
    position = position_of(store, Kind.EDIT)
    one = open_sealed(blob(store, keys.sealed_blob(position, 0)))[2]
    blobs: dict[bytes, bytes | None] = {}
    with store.view() as view:
        with_sealed(view, blobs, position, 2, one._replace(values=one.values[:3], notes=(Note(0, -1, ""),)))
    put(store, {}, blobs)


@pytest.mark.parametrize(
    "plant, kind, place",
    [
        (_lose_sealed, "sealed-damaged", "events 2.0 to 2.31"),
        (_shorten_sealed, "sealed-damaged", "events 2.0 to 2.31"),
        (_garble_sealed, "sealed-damaged", "events 2.0 to 2.31"),
        (_lengthen_sealed, "sealed-damaged", "events 2.0 to 2.31"),
        (_drop_field, "sealed-damaged", "event 2.2"),
        (_change_sealed, "sealed-hash", "event 2.2"),
    ],
)
def test_damage_of_sealed_values_is_found(plant: Plant, kind: str, place: str) -> None:
    """Missing, cut short, no values at all, one too few, or other values than the log committed to."""
    store = MemoryStore()
    busy_world(store)
    plant(store)
    state = Check(store).run()
    assert state.kinds == {kind: 1}
    assert (state.shown[0].place, state.shown[0].remedy) == (place, Remedy.RESTORE)


@pytest.mark.parametrize("letter", [bytes([one]) for one in b"BCELMPQRSTVWYZm"])
def test_each_kind_of_row_is_compared_with_the_log(letter: bytes) -> None:
    """A row that is missing, says another value, or that nothing makes is found and named."""
    world = busy_world()
    key, value = rows(world.store, letter)[-1]
    put(world.store, {key: None})
    missing = Check(world.store).run()
    assert "row-missing" in missing.kinds
    put(world.store, {key: value[:-1] + bytes([value[-1] ^ 1]) if value else b"?"})
    wrong = Check(world.store).run()
    assert "row-wrong" in wrong.kinds
    for size in (0, 1, 11, 86, 200):
        put(world.store, {key: (value * 200)[:size] if value else b"x" * size})
        assert value in (b"", b"x") or "row-wrong" in found(world.store)
    put(world.store, {key: value})
    other = key[:-1] + bytes([key[-1] ^ 0x55])  # another event, page or digest
    put(world.store, {other: value})
    orphan = Check(world.store).run()
    assert "row-orphan" in orphan.kinds
    put(world.store, {other: None})
    assert found(world.store) == {}


def test_without_the_walk_over_rows_an_orphan_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each direction is needed: from the log alone, a row too many is not seen."""
    world = busy_world()
    key, value = rows(world.store, b"L")[0]
    put(world.store, {key[:-1] + b"\x09": value})
    assert found(world.store) == {"row-orphan": 1}
    monkeypatch.setitem(WALKS, "rows", lambda _: iter(()))
    assert found(world.store) == {}


def test_without_the_log_a_missing_row_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And from the rows alone, a row too few is not seen."""
    world = busy_world()
    put(world.store, {rows(world.store, b"S")[0][0]: None})
    assert found(world.store) == {"row-missing": 1}
    monkeypatch.setitem(WALKS, "log", lambda _: iter(()))
    assert found(world.store) == {}


@pytest.mark.parametrize("key", [b"\0", b"A1", b"Exxxx", b"X" * 9, b"z", b"Dshort", b"K" * 30, b"U"])
def test_rows_of_no_kind_are_found(key: bytes) -> None:
    """A key that no writer makes."""
    world = busy_world()
    put(world.store, {key: bytes(8)})
    assert found(world.store)["row-alien"] == 1


# --- texts ----------------------------------------------------------------------------------------


def _a_block(store: Store) -> tuple[bytes, int]:
    """Return the row and the id of the last sealed block."""
    key, value = rows(store, b"G")[-1]
    return key, read_page_block(value).number


def _a_tail(store: Store) -> tuple[bytes, int]:
    key, value = rows(store, b"H")[0]
    return key, read_tail(key, value).number


def _lose_block(store: MemoryStore) -> None:
    put(store, {}, {keys.block(_a_block(store)[1]): None})


def _break_block(store: MemoryStore) -> None:
    key = keys.block(_a_block(store)[1])
    raw = blob(store, key)
    put(store, {}, {key: raw[:-9] + bytes(9)})


def _swap_blocks(store: MemoryStore) -> None:
    key = keys.block(_a_block(store)[1])
    put(store, {}, {key: blob(store, keys.block(_a_tail(store)[1]))})


def _change_text(store: MemoryStore) -> None:
    key = keys.block(_a_tail(store)[1])
    old = read_block(blob(store, key))
    put(store, {}, {key: encode(old.project, old.page, old.index, [b"x" * old.lengths[0]], NO_PREFIX, 3)})


def _lose_text_row(store: MemoryStore) -> None:
    put(store, {rows(store, b"D")[0][0]: None})


def _mislead_text_row(store: MemoryStore) -> None:
    (key, value), (_, other) = rows(store, b"D")[:2]
    assert value != other
    put(store, {key: other})


def _add_text_row(store: MemoryStore) -> None:
    number, ordinal = read_place(rows(store, b"D")[0][1])
    put(store, {keys.text(b"?" * 32): place_value(number, ordinal)})


def _add_text_row_without_block(store: MemoryStore) -> None:
    put(store, {keys.text(b"?" * 32): place_value(10_000, 0)})


def _add_text_row_beyond(store: MemoryStore) -> None:
    put(store, {keys.text(b"?" * 32): place_value(_a_block(store)[1], 999)})


def _lose_page_block(store: MemoryStore) -> None:
    put(store, {_a_block(store)[0]: None})


def _lose_tail(store: MemoryStore) -> None:
    put(store, {_a_tail(store)[0]: None})


def _mislead_tail(store: MemoryStore) -> None:
    """Let a tail be compressed against a copy of the block before it, which nobody would find."""
    number, tail = _a_tail_with_prefix(store)
    blobs: dict[bytes, bytes | None] = {keys.block(9999): blob(store, keys.block(tail.prefix))}
    put(store, {}, {keys.block(number): placed(blob(store, keys.block(number)), tail.project, 9999), **blobs})


def _mislead_tail_to_another_page(store: MemoryStore) -> None:
    """Let it be compressed against a block of another page."""
    number, tail = _a_tail_with_prefix(store)
    others = [
        read_page_block(value).number for key, value in rows(store, b"G") if page_of(key)[1] != tail.page
    ]
    with store.view() as view:
        text, prefix = texts_of(view, tail), as_prefix(view, others[0])
    raw = encode(tail.project, tail.page, tail.index, text, prefix, 3)
    put(store, {}, {keys.block(number): raw})


def _a_tail_with_prefix(store: MemoryStore) -> tuple[int, Block]:
    tails = (read_tail(*row).number for row in rows(store, b"H"))
    found = ((number, read_block(blob(store, keys.block(number)))) for number in tails)
    return next((number, tail) for number, tail in found if tail.prefix)


def _wrong_page_block(store: MemoryStore) -> None:
    key, value = rows(store, b"G")[-1]
    put(store, {key: replace(read_page_block(value), raw_bytes=1).encode()})


def _wrong_bounds(store: MemoryStore, **times: int) -> None:
    key, value = rows(store, b"G")[-1]
    put(store, {key: replace(read_page_block(value), **times).encode()})


def _wrong_tail(field: str, value: object) -> Plant:
    def plant(store: MemoryStore) -> None:
        key, raw = rows(store, b"H")[0]
        put(store, {key: replace(read_tail(key, raw), **{field: value}).encode()})  # type: ignore[arg-type]

    return plant


def _lose_holder(store: MemoryStore) -> None:
    put(store, {rows(store, b"K")[0][0]: None})


def _add_holder(store: MemoryStore) -> None:
    put(store, {keys.text_holder(b"?" * 32, 1, 1): b""})


def _lose_user(store: MemoryStore) -> None:
    put(store, {rows(store, b"U")[0][0]: None})


def _add_block(store: MemoryStore) -> None:
    put(store, {}, {keys.block(9999): encode(1, 1, 77, [b"text of nobody"], NO_PREFIX, 3)})


def _add_tail_block(store: MemoryStore) -> None:
    put(store, {}, {keys.block(9999): encode(1, 1, 2**32 - 1, [b"text of nobody"], NO_PREFIX, 3)})


def _add_sealed(store: MemoryStore) -> None:
    put(store, {}, {keys.sealed_blob(2, 500): b"\0\0"})


def _add_blob(store: MemoryStore) -> None:
    put(store, {}, {b"what": b""})


TEXTS: list[tuple[Plant, set[str]]] = [
    (_lose_block, {"block-missing", "block-damaged", "text-missing", "text-row-orphan"}),
    (_break_block, {"block-damaged", "text-missing"}),
    (_swap_blocks, {"block-wrong", "text-wrong", "block-orphan", "text-row-orphan"}),
    (_change_text, {"row-wrong", "text-row-wrong", "text-wrong", "text-row-orphan"}),
    (_lose_text_row, {"text-row-wrong", "text-missing"}),
    (_mislead_text_row, {"text-row-wrong", "text-wrong", "text-row-orphan"}),
    (_add_text_row, {"text-row-orphan"}),
    (_add_text_row_without_block, {"text-row-orphan"}),
    (_add_text_row_beyond, {"text-row-orphan"}),
    (_lose_page_block, {"block-orphan", "prefix-elsewhere"}),
    (_lose_tail, {"block-orphan", "prefix-elsewhere"}),
    (_mislead_tail, {"block-orphan", "prefix-elsewhere"}),
    (_wrong_page_block, {"row-wrong"}),
    (lambda store: _wrong_bounds(store, first_time=1), {"row-wrong"}),
    (lambda store: _wrong_bounds(store, last_time=2**62), {"row-wrong"}),
    (lambda store: put(store, {rows(store, b"K")[0][0]: b"?"}), {"row-alien", "holder-missing"}),
    (lambda store: put(store, {rows(store, b"U")[0][0]: b"?"}), {"row-alien", "user-missing"}),
    (_wrong_tail("digest", b"?" * 16), {"row-wrong"}),
    (_wrong_tail("size", 1), {"row-wrong"}),
    (_wrong_tail("time", 1), {"row-wrong"}),
    (
        lambda store: put(store, {rows(store, b"G")[-1][0]: b"?"}),
        {"row-alien", "block-orphan", "prefix-elsewhere"},
    ),
    (lambda store: put(store, {rows(store, b"H")[-1][0]: b"?"}), {"row-alien", "block-orphan"}),
    (_mislead_tail_to_another_page, {"prefix-elsewhere"}),
    (_lose_holder, {"holder-missing"}),
    (_add_holder, {"row-orphan"}),
    (_lose_user, {"user-missing"}),
    (_add_block, {"block-orphan"}),
    (_add_tail_block, {"block-orphan"}),
    (_add_sealed, {"sealed-orphan"}),
    (_add_blob, {"blob-alien"}),
]


@pytest.mark.parametrize("plant, expected", TEXTS)
def test_damage_of_texts_and_of_what_leads_to_them_is_found(plant: Plant, expected: set[str]) -> None:
    """Blocks, their rows, the rows of texts, of further holders and of prefixes; nothing else is named."""
    store = MemoryStore()
    busy_world(store)
    plant(store)
    assert set(found(store)) == expected


def test_a_text_row_that_names_no_possible_block_ends_no_check() -> None:
    """A value that is too long is told, and so is the text that it should lead to."""
    world = busy_world()
    key, value = rows(world.store, b"D")[0]
    put(world.store, {key: b"\xff" + value})
    assert {"row-alien", "text-row-wrong", "text-missing"} <= found(world.store).keys()


def test_without_counting_a_text_row_too_many_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that leads to another text is found because rows and texts are counted against each other."""
    store = MemoryStore()
    busy_world(store)
    _add_text_row(store)
    state = Check(store).run()
    assert state.kinds == {"text-row-orphan": 1}
    assert state.vouched[0] == len(rows(store, b"D")) - 1
    places = texts._check_places
    monkeypatch.setattr(texts, "_check_places", lambda *args, **_: places(*args, closely=False))
    assert found(store) == {}


# --- snapshots ------------------------------------------------------------------------------------


def _nodes(store: Store) -> list[tuple[bytes, bytes]]:
    with store.view() as view:
        manifest = read_manifest(view.scan(b"Y", b"Z")[-1][1])
        root = view.get(keys.node(manifest.parts[0].root))
    assert root is not None
    return [(keys.node(manifest.parts[0].root), root)]


def test_damage_of_trees_is_found() -> None:
    """A root that is missing, or a node that is another than its digest says."""
    world = busy_world()
    ((key, node),) = _nodes(world.store)
    put(world.store, {key: None})
    assert found(world.store) == {"snapshot-node": 1}
    put(world.store, {key: node[:-1] + b"?"})
    assert found(world.store) == {"snapshot-node": 1, "node-wrong": 1}
    put(world.store, {key: b"\x63"})
    assert found(world.store) == {"snapshot-node": 1, "node-wrong": 1}


def test_an_inner_node_without_its_child_is_found(real: Path) -> None:
    """Of a real tree: the hole is named once for each snapshot that has it, and the node above it."""
    target = MemoryStore()
    with closing(LmdbStore.open(real, force_mount=True)) as store:
        rebuild(store, target)
    _, node = next(row for row in rows(target, b"N") if level_of(row[1]) == 1)
    child = keys.node(children_of(node)[0].digest)
    put(target, {child: None})
    kinds = found(target)
    assert kinds.keys() == {"snapshot-node", "node-wrong"}
    assert "node-wrong" in kinds


def test_an_entry_that_does_not_follow_from_the_history_is_found() -> None:
    """A tree of its own digest, named by a manifest of its own id, all consistent, yet of another history."""
    world = busy_world()
    with world.store.view() as view:
        manifest = read_manifest(view.scan(b"Y", b"Z")[-1][1])
    ((_, node),) = _nodes(world.store)
    for forged, size, expected in (
        (node[:-1] + bytes([node[-1] ^ 1]), 0, {"snapshot-leaf"}),
        (node[:-48], 0, {"snapshot-leaf"}),
        (node, 1, {"snapshot-count"}),
    ):
        store = MemoryStore()
        busy_world(store)
        part = manifest.parts[0]
        part = replace(part, root=node_digest(forged), text_bytes=part.text_bytes + size)
        payload = make_manifest(manifest.selector, manifest.as_of, (part,)).encoded
        last = position_of(store, Kind.SNAPSHOT)
        last = max(row[0][-1] for row in rows(store, b"Y"))
        old = dict(snapshot_rows(last, dict(rows(store, b"Y"))[keys.snapshot_at(last)]))

        def change(commit: Commit, payload: bytes = payload) -> Commit:
            return replace(commit, items=(Statement(Kind.SNAPSHOT, payload),))

        relog(store, last, change)
        put(store, dict.fromkeys(old))
        with store.view() as view:
            new = dict(statement_rows(view, last, Statement(Kind.SNAPSHOT, payload)))
        put(store, {**new, keys.node(node_digest(forged)): forged})
        assert set(found(store)) == expected


def test_a_snapshot_of_a_project_that_is_gone_is_found() -> None:
    """Its number is not known any more."""
    world = busy_world()
    put(world.store, {keys.project_number("w"): None})
    kinds = found(world.store)
    assert kinds["snapshot-project"] == 4
    assert kinds["row-missing"] > 0


# --- event columns --------------------------------------------------------------------------------


def _with_columns(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(columns, "_WORTHWHILE", 1)
    monkeypatch.setattr(columns, "PART", 7)
    world = busy_world()
    world.add(*(world.event(7, n, edit(700 + n, f"seven {n}", "S")) for n in range(40)))
    world.ingestor.settle()
    assert len({keys.read_event_run(key)[0] for key, _ in rows(world.store, b"X")}) > 1
    return world


@pytest.mark.parametrize("letter", [b"J", b"f", b"i"])
def test_event_columns_are_compared_with_the_log(letter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is gone, that says other events, that is not named, or a run that leaves a gap."""
    monkeypatch.setattr(columns, "LARGE", 10**6 * (letter == b"J"))
    world = _with_columns(monkeypatch)
    assert found(world.store) == {}
    spans, bodies = rows(world.store, b"X"), rows(world.store, letter)
    first = {
        key: None for key, _ in spans if keys.read_event_run(key)[0] == keys.read_event_run(spans[0][0])[0]
    }
    key, value = spans[-1]
    more = keys.event_run(1, keys.read_event_run(key)[0], 500)
    plants: list[dict[bytes, bytes | None]] = [
        {key: None},
        {key: value[:-1] + bytes([value[-1] ^ 1])},
        {more: value},
        {bodies[0][0]: None},
        {bodies[0][0]: bodies[1][1]},
        dict(first),
    ]
    for plant in plants:
        put(world.store, plant)
        assert found(world.store).keys() == {"columns-wrong"}
        put(world.store, {more: None, **dict(spans), **dict(bodies)})
    assert found(world.store) == {}
    target = MemoryStore()
    rebuild(world.store, target)
    assert rows(target, b"X")
    assert found(target) == {}


@pytest.mark.parametrize("letter", [b"J", b"f"])
def test_event_columns_may_be_packed_by_another_zlib(letter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the columns say is compared, not the bytes that one zlib makes of it."""
    monkeypatch.setattr(columns, "LARGE", 1)
    monkeypatch.setattr(columns, "_WORTHWHILE", 1)
    world = World()
    world.add(*(world.event(1, n % 90, edit(n, "x" * (n * n % 97))) for n in range(1, 2000)))
    world.ingestor.settle()
    assert found(world.store) == {}
    ((key, before),) = rows(world.store, letter)
    head = value_head(before) if letter == b"f" else b""
    read = Columns(before[len(head) :], 1999)
    numbers = [read[at].copy() for at in range(3 if head else len(columns.Column))]
    with monkeypatch.context() as patch:
        patch.setattr(packed, "_LEVEL", 1)
        again = head + pack_columns(numbers)
    assert again != before
    put(world.store, {key: again})
    assert found(world.store) == {}
    numbers[1][1000] += 1
    for wrong in (head + pack_columns(numbers), head + pack_columns(numbers[:-1]), again[:-1]):
        put(world.store, {key: wrong})
        assert found(world.store).keys() <= {"columns-wrong", "columns-damaged"}
        assert found(world.store)


def value_head(facts: bytes) -> bytes:
    """Return what stands before the columns of facts."""
    return facts[: 4 + int.from_bytes(facts[:4], "big")]


# --- damaged rows and pages on disk ---------------------------------------------------------------


def _flip(folder: Path, table: bytes, letter: bytes) -> bytes:
    """Flip a bit of the last row whose key begins so; returns the key."""
    env = lmdb.open(str(folder / "lmdb"), max_dbs=8, map_size=2**30)
    try:
        with env.begin(write=True) as txn:
            db = env.open_db(table, txn=txn, create=False)
            with txn.cursor(db) as cursor:
                assert cursor.set_range(letter)
                while cursor.key().startswith(letter) and cursor.next():
                    pass
                assert cursor.prev() if cursor.key() else cursor.last()
                key, raw = bytes(cursor.key()), bytes(cursor.value())
            assert key.startswith(letter)
            txn.put(key, raw[:-1] + bytes([raw[-1] ^ 4]), db=db)
    finally:
        env.close()
    return key


@pytest.mark.parametrize("letter", [bytes([one]) for one in b"BCDEGHKLMNPQRSTUVWYZ"])
def test_a_flipped_bit_in_any_kind_of_row_is_found_and_checking_goes_on(
    letter: bytes, tmp_path: Path
) -> None:
    """Every row is checked as it is read; the finding names it, and another fault behind it is found too."""
    with closing(LmdbStore.open(tmp_path, create=True, force_mount=True)) as store:
        busy_world(store)
        put(store, {b"z": b""})
    _flip(tmp_path, b"index", letter)
    with closing(LmdbStore.open(tmp_path, force_mount=True)) as store:
        kinds = found(store)
    assert kinds["row-damaged"] >= 1
    assert kinds["row-alien"] == 1


@pytest.mark.parametrize("letter", sorted(PACKED))
def test_a_flipped_bit_in_any_run_is_found_and_checking_goes_on(
    letter: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a run of rows: the finding names the last of them, and what lies behind is checked."""
    monkeypatch.setattr(merged, "LEAST_ROWS", 1)
    with closing(LmdbStore.open(tmp_path, create=True, force_mount=True)) as store:
        busy_world(store)
        put(store, {b"z": b""})
        store.compact()
        assert found(store) == {"row-alien": 1}
    _flip(tmp_path, b"runs", letter)
    with closing(LmdbStore.open(tmp_path, force_mount=True)) as store:
        kinds = found(store)
    assert kinds["row-damaged"] >= 1
    assert kinds["row-alien"] == 1


@pytest.mark.parametrize(
    "table, letter, expected",
    [
        (b"log", b"", {"log-record"}),
        (b"blobs", b"s", {"sealed-damaged"}),
        (b"blobs", b"t", {"block-damaged", "text-missing"}),
    ],
)
def test_a_flipped_bit_in_log_or_blobs_is_found(
    table: bytes, letter: bytes, expected: set[str], tmp_path: Path
) -> None:
    """The same of log records, sealed values and text blocks."""
    with closing(LmdbStore.open(tmp_path, create=True, force_mount=True)) as store:
        busy_world(store)
    _flip(tmp_path, table, letter)
    with closing(LmdbStore.open(tmp_path, force_mount=True)) as store:
        kinds = set(found(store))
    assert kinds >= expected


def test_pages_that_cannot_be_read_are_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that names no row ends the walk over that range, not the check."""
    store = MemoryStore()
    world = busy_world(store)
    with store.view() as view:
        view_class: Any = type(view)
    scan = view_class.scan

    def broken(self: Any, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        if start[:1] == b"K":
            raise DataLossError("the pages of the store are damaged")
        return list(scan(self, start, stop, limit=limit))

    monkeypatch.setattr(view_class, "scan", broken)
    assert found(world.store) == {"pages-damaged": 1}


def test_pages_out_of_order_end_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where damaged pages lead a walk back to where it was, that is one finding, and the check ends."""
    store = MemoryStore()
    busy_world(store)
    with store.view() as view:
        view_class: Any = type(view)
    scan, last = view_class.scan, view_class.last_blob_key

    def circling(self: Any, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        found_ = list(scan(self, start, stop, limit=limit))
        return [*found_[:3], *found_[:3]] if start[:1] == b"L" else found_

    def standing(self: Any, start: bytes, stop: bytes) -> bytes | None:
        return stop if stop < b"u" else last(self, start, stop)

    monkeypatch.setattr(view_class, "scan", circling)
    assert found(store) == {"pages-damaged": 1}
    monkeypatch.setattr(view_class, "scan", scan)
    monkeypatch.setattr(view_class, "last_blob_key", standing)
    assert found(store) == {"pages-damaged": 1}
    with pytest.raises(DataLossError, match="order of their keys"):
        rebuild(store, MemoryStore())
    with pytest.raises(DataLossError, match="order of their keys"):
        collect(store)


# --- slices ---------------------------------------------------------------------------------------


def in_slices(store: Store) -> State:
    """Check a store, a step at a time, each from what the one before wrote to a file."""
    state = State()
    for _ in range(100_000):
        state = Check(store, state).run(lambda: True)
        state = read_state(json.loads(json.dumps(state.document())))
        if state.complete:
            return state
    raise AssertionError("it does not end")


@pytest.mark.parametrize("plant", [lambda _: None, _lose_block, _lose_text_row, _add_text_row, _lose_sealed])
def test_slices_find_what_a_whole_run_finds(plant: Plant) -> None:
    """Ended after every step and resumed from a file, a check ends with the same findings and counts."""
    store = MemoryStore()
    busy_world(store)
    plant(store)
    whole, sliced = Check(store).run(), in_slices(store)
    assert (whole.kinds, whole.texts, whole.text_bytes, whole.vouched, whole.entries) == (
        sliced.kinds, sliced.texts, sliced.text_bytes, sliced.vouched, sliced.entries
    )  # fmt: skip
    assert whole.shown == sliced.shown


def test_what_comes_meanwhile_is_left_for_the_next_check() -> None:
    """Appends, seals and snapshots between two slices are no findings."""
    world = busy_world()
    state = State()
    for n in range(100_000):
        state = Check(world.store, state).run(lambda: True)
        if state.complete:
            break
        if n % 7 == 0:
            world.add(world.event(1 + n % 5, 100 + n, edit(1000 + n, f"new {n} {'x' * 3000}", f"T{n}")))
        if n % 31 == 0:
            world.ingestor.settle()
            world.snapshot(100 + n)
    assert state.kinds == {}
    assert found(world.store) == {}


def test_a_state_of_another_store_is_refused() -> None:
    """A check goes on only where it began; a file that holds no state is named."""
    state = Check(busy_world().store).run(lambda: True)
    other = World()
    other.add(other.event(1, 1, edit(1, "x")))
    with pytest.raises(StoreError, match="another store"):
        Check(other.store, state)
    with pytest.raises(StoreError, match="not the state"):
        read_state({"phase": 1})


def test_the_first_findings_are_shown_and_all_are_counted() -> None:
    """A store without its source rows has hundreds of findings; a few are kept."""
    world = busy_world()
    gone: dict[bytes, bytes | None] = dict.fromkeys(key for key, _ in rows(world.store, b"R"))
    put(world.store, gone)
    state = Check(world.store, shown=3).run()
    assert (state.kinds["row-missing"], len(state.shown)) == (len(gone), 3)


def test_every_revision_whose_text_is_gone_is_named_by_its_text() -> None:
    """The finding says which text, and what to do."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")))
    put(world.store, {}, {keys.block(1): None})
    shown = {one.kind: one for one in Check(world.store).run().shown}
    assert shown["text-missing"].place == f"text sha256:{sha256(b'x').hexdigest()}"
    assert shown["text-missing"].remedy == Remedy.TEXT


def test_the_content_field_is_where_it_is_taken_from() -> None:
    """What the check reads as content is an edit's content."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")))
    value = open_sealed(blob(world.store, keys.sealed_blob(2, 0)))[0].values[CONTENT_FIELD]
    assert value is not None
    assert [slot.size_bytes for slot in read_content(value)] == [1]


@pytest.fixture(autouse=True)
def _nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check never writes: its store is asked for nothing but reads."""
    run = Check.run

    def guarded(self: Check, *args: object) -> State:
        store = self._store
        head, records = (
            store.log.head(),
            len(store.log.read(1, 10_000)) if isinstance(store, MemoryStore) else 0,
        )
        before = store._state if isinstance(store, MemoryStore) else 0
        state = run(self, *args)  # type: ignore[arg-type]
        if isinstance(store, MemoryStore):
            assert (store._state, len(store.log.read(1, 10_000)), store.log.head()) == (before, records, head)
        return state

    monkeypatch.setattr(Check, "run", guarded)
