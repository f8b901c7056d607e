"""A rebuilt store is the store that it was made from: the same rows, answers and roots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.pins import LicenseePins
from recension.archive.rebuild import Rebuilt, rebuild
from recension.archive.texts.rows import PageBlock
from recension.model.errors import DataLossError, StoreError
from recension.model.event import NO_COMMENT, NOBODY, LogAction, LogEntry
from recension.model.manifest import OnHidden
from recension.model.mark import Mark, Origin, Span
from recension.model.reading import ProjectInfo
from recension.store import keys
from recension.store.interface import Rewrite, Row, Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import DAY, NOW, World, delete, edit, fixed_salts, hide, move, restore, shared
from tests.archive.test_truth import ingest
from tests.faults.answers import answer, questions, take_snapshots


def index_of(store: Store) -> dict[bytes, bytes]:
    """Return all index rows, but the last removal, event columns, and how often blocks were rewritten."""
    with store.view() as view:
        return dict(_plain(row) for row in view.scan(b"", b"\xff") if row[0][:1] not in b"AJXfi")


def _plain(row: Row) -> Row:
    key, value = row
    return (key, value[:8] + bytes(4) + value[12:]) if key[:1] == b"G" else row


def _stale(key: bytes, store: Store) -> bool:
    """Say whether a row names a block that was merged into another since."""
    with store.view() as view:
        return key[:1] == b"U" and view.blob(keys.block(int.from_bytes(key[-8:], "big"))) is None


def blobs_of(store: Store) -> dict[bytes, bytes | None]:
    """Return all blobs."""
    out = {}
    with store.view() as view:
        key = view.last_blob_key(b"", b"\xff")
        while key is not None:
            out[key] = view.blob(key)
            key = view.last_blob_key(b"", key)
    return out


def assert_same(before: Store, after: Store) -> None:
    """Two stores have the same log, index and blobs."""
    assert before.log.head() == after.log.head()
    assert before.log.read(1, 10_000) == after.log.read(1, 10_000)
    expected, actual = index_of(before), index_of(after)
    assert {key for key in expected.keys() - actual.keys() if not _stale(key, before)} == set()
    assert actual.keys() - expected.keys() == set()
    assert [key for key in actual if expected[key] != actual[key]] == []
    assert blobs_of(before) == blobs_of(after)


def busy_world(store: Store | None = None) -> World:
    """A project to which everything has happened; some of its texts are sealed, some are tails."""
    world = World(store)
    body = "".join(f"a line of some length, number {n}\n" for n in range(300))
    world.add(*(world.event(1, n, edit(n, f"{body}{n}", inferred=n % 2 > 0)) for n in range(1, 60)))
    world.add(*(world.event(2, n, edit(100 + n, f"other {body}{n}", "B")) for n in range(1, 40)))
    world.add(*(world.event(3, n, edit(200 + n, f"{body}copy {n}", "C")) for n in range(1, 40)))
    world.ingestor.settle()
    world.add(world.event(1, 60, edit(60, "tail one")), world.event(1, 61, move("A", "A2")))
    world.add(world.event(1, 62, edit(62, "", "A2")), world.event(4, 62, edit(63, "tail one", "D")))
    world.snapshot(70)
    world.add(world.event(2, 63, delete("B")))
    world.snapshot(70)
    world.add(world.event(2, 64, restore("B")), world.event(1, 60, hide(60)))
    world.add(world.event(3, 0.5, edit(300, "late arrival", "C")))  # older than all that was known
    world.add(world.event(5, 65, edit(301, "", "E", lost=True)))
    world.add(world.event(5, 65, edit(301, "found", "E")))
    line = LogEntry(
        7, LogAction.DELETE, "Gone", 0, "", 0, (),
        text_hidden=False, comment_hidden=False, contributor_hidden=False,
        contributor=NOBODY, comment=NO_COMMENT,
    )  # fmt: skip
    world.add(world.event(0, 66, line))
    world.ingestor.create_project(ProjectInfo("x", "https://x.example", "en", "CC0-1.0"))
    world.ingestor.learn_site("w", {1: "Talk"}, "case-sensitive")
    world.snapshot(70, on_hidden=OnHidden.KEEP)
    pins = LicenseePins(world.store, clock=lambda: NOW, new_id=lambda: bytes(16))
    wanted = world.snapshot(30)
    pins.create("kept", wanted, NOW + DAY, {"run": "1"})
    pins.extend("kept", NOW + 2 * DAY)
    pins.create("gone", wanted, NOW + DAY)
    pins.delete("gone")
    marked = world.event(0, 67, replace(line, log_id=8))
    mark = Mark("logging", "a.xml", Span(0, 1), file=bytes(8))
    world.ingestor.append("w", [marked], mark)
    world.ingestor.append("w", [], replace(mark, origin=Origin(9, bytes(32))))
    return world


@pytest.fixture(params=["memory", "lmdb"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store = (
        MemoryStore()
        if request.param == "memory"
        else LmdbStore.open(tmp_path / "target", create=True, force_mount=True)
    )
    yield store
    store.close()


def test_everything_that_can_happen_is_rebuilt_row_by_row(target: Store) -> None:
    """Sealed texts and tails, moves, deletes, visibility, late arrivals, snapshots: every row is the same."""
    world = busy_world()
    kinds = {key[:1] for key in index_of(world.store)}
    assert kinds == {bytes([kind]) for kind in b"BCDEFGHIKLMNOPQRSTUVWYZm"}
    done = rebuild(world.store, target)
    assert_same(world.store, target)
    assert done == Rebuilt(world.store.log.head().position, 4, done.blocks, 0)


def test_a_project_is_rebuilt_after_its_pages_were_sealed_again() -> None:
    """Tails that were merged into a block later have the bounds of valid time that the block had."""
    world = busy_world()
    world.ingestor.settle()
    target = MemoryStore()
    rebuild(world.store, target)
    assert_same(world.store, target)


def test_a_real_history_is_rebuilt_with_its_answers(target: Store) -> None:
    """All rows, roots and answers of a real wiki's whole history come back."""
    path = shared("wikimedia/aawiki-20260101/aawiki-20260101-pages-meta-history.xml.7z")
    source = MemoryStore()
    ingestor = Ingestor(source, clock=lambda: NOW, salts=fixed_salts)
    ingestor.create_project(ProjectInfo("aawiki", "https://aa.wikipedia.org", "aa", "CC-BY-SA-4.0"))
    ingest(ingestor, "history", path, "aawiki")
    take_snapshots(source)
    rebuild(source, target)
    assert_same(source, target)
    asked = questions(source)
    assert [answer(source, question) for question in asked] == [
        answer(target, question) for question in asked
    ]


class _EndedError(Exception):
    """The process was killed here."""


def test_a_rebuild_that_was_ended_goes_on(tmp_path: Path) -> None:
    """Ended after any number of steps and started again, it ends with the same rows."""
    world = busy_world()
    steps = 0

    def counted(_: Rebuilt) -> None:
        nonlocal steps
        steps += 1

    rebuild(world.store, MemoryStore(), counted)
    for last in range(1, steps):
        target = MemoryStore()
        left = last

        def ends(_: Rebuilt) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise _EndedError

        with pytest.raises(_EndedError):
            rebuild(world.store, target, ends)
        rebuild(world.store, target)
        assert_same(world.store, target)


def test_another_store_is_no_target() -> None:
    """A store that holds another log is refused, and stays as it was."""
    other = World()
    other.add(other.event(1, 1, edit(9, "z")))
    before = index_of(other.store)
    with pytest.raises(StoreError, match="another log"):
        rebuild(busy_world().store, other.store)
    assert index_of(other.store) == before


def test_a_lost_index_comes_back(tmp_path: Path) -> None:
    """Nothing of the old index is read: without any row of it the new one is the same."""
    whole, world = busy_world(), busy_world()
    lost: dict[bytes, bytes | None] = dict.fromkeys(index_of(world.store))
    world.store.rewrite([Rewrite({}, lost, {})])
    target = MemoryStore()
    rebuild(world.store, target)
    assert_same(whole.store, target)


def test_damaged_sealed_values_end_a_rebuild() -> None:
    """What the rows are made of has to be there; the error names the commit."""
    world = busy_world()
    world.store.rewrite([Rewrite({}, {}, {keys.sealed_blob(2, 0): None})])
    with pytest.raises(DataLossError, match="commit 2"):
        rebuild(world.store, MemoryStore())


def test_a_missing_block_is_counted_and_its_texts_are_data_loss() -> None:
    """A text that no block holds leaves no row behind, so nothing takes it for stored."""
    world = World()
    world.add(world.event(1, 1, edit(1, "x")), world.event(2, 1, edit(2, "y")))
    world.store.rewrite([Rewrite({}, {}, {keys.block(1): None})])
    target = MemoryStore()
    assert rebuild(world.store, target).missing == 1
    assert len([key for key in index_of(target) if key[:1] == b"D"]) == 1


def test_versions_are_what_the_comparison_leaves_out() -> None:
    """The comparison ignores the version of a block's row and nothing else."""
    row = PageBlock(2**64 - 1, 0, 2**16 - 1, 2**64 - 1, -1, -1)
    assert _plain((b"G", replace(row, version=2**32 - 1).encode()))[1] == row.encode()


def test_on_disk(tmp_path: Path) -> None:
    """From disk to disk."""
    with (
        closing(LmdbStore.open(tmp_path / "a", create=True, force_mount=True)) as source,
        closing(LmdbStore.open(tmp_path / "b", create=True, force_mount=True)) as target,
    ):
        busy_world(source)
        rebuild(source, target)
        assert_same(source, target)
