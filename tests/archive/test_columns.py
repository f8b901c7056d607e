"""The corpus by columns is the one that all timelines tell, and so is one derived from another."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recension.archive import columns, corpus, folding, snapshots, stages
from recension.archive.check.run import Check
from recension.archive.columns import Column
from recension.archive.commitments import pair_of
from recension.archive.history import Choice
from recension.archive.ingest import Ingestor
from recension.archive.packing import Columns, ColumnsLostError, Numbers
from recension.archive.rebuild import rebuild
from recension.archive.sealed import find_sealed
from recension.model.manifest import OnHidden, Selector
from recension.model.reading import ProjectInfo
from recension.model.tree import RECORD, build
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.growing import SELECTORS, Growing, put, replayed, small_parts
from tests.archive.helpers import World, edit, move


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("least", [5, 10**9], ids=["columns", "log"])
def test_derived_part_is_the_built_one(seed: int, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, count and bytes are the same from any base to any question, from columns and from the log."""
    monkeypatch.setattr(columns, "_WORTHWHILE", least)
    monkeypatch.setattr(columns, "_SORTED", max(60, least))
    monkeypatch.setattr(columns, "PART", 7)
    world = Growing(random.Random(seed))
    selector = Selector.of(["w"])
    for _ in range(3):
        world.grow(6)
        world.ingestor.settle()
    with world.store.view() as view:
        assert bool(view.scan(b"X", b"Y")) is (least == 5)
    for _ in range(25):
        before, after = world.choice(), world.choice()
        base = snapshots.build_part(world.store, "w", 1, selector, before)
        built = snapshots.build_part(world.store, "w", 1, selector, after)
        assert built == snapshots.derive_part(world.store, base, 1, selector, before, after)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("marked", [0.0, 0.02, 0.6])
def test_replay_finds_what_asking_each_page_finds(
    seed: int, marked: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of any question and selector are those of the timelines, wherever the parts are cut."""
    small_parts(monkeypatch)
    monkeypatch.setattr(folding, "_SMALL_TABLE", 10**6 * (seed % 2))
    world = Growing(random.Random(seed), marked)
    for large in (10**9, 1):  # the first parts have no commitments
        world.grow(12)
        monkeypatch.setattr(columns, "LARGE", large)
        world.ingestor.settle()
    world.grow(3)  # in the log alone
    with world.store.view() as view:
        assert view.scan(b"i", b"j")
        assert len(view.scan(b"X", b"Y")) > len(view.scan(b"f", b"g"))
    found = 0
    for on_hidden in OnHidden:
        for selector in SELECTORS:
            for _ in range(4):
                choice = world.choice()._replace(on_hidden=on_hidden)
                some = replayed(world.store, selector, choice)
                with monkeypatch.context() as patch:
                    patch.setattr(folding, "_BEHIND", -1)
                    assert replayed(world.store, selector, choice) == some
                found += len(some[0])
    assert found


@pytest.mark.parametrize("wrong", ["order", "positions", "marks", "titles"])
def test_a_replay_that_is_wrong_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a rule of the fold the entries are others: the comparison above can fail."""
    small_parts(monkeypatch)
    world = Growing(random.Random(1), 0.1)
    world.grow(20)
    world.ingestor.settle()
    choices = [world.choice() for _ in range(40)]
    expected = [replayed(world.store, SELECTORS[0], choice) for choice in choices]
    wrongs: dict[str, tuple[object, str, object]] = {
        "order": (folding._Table, "lay", _lay_unordered),
        "positions": (columns, "Columns", _Unknowing),
        "marks": (folding.Fold, "_mark", lambda *_, **__: None),
        "titles": (corpus._Replay, "_put_titles", lambda *_: None),
    }
    monkeypatch.setattr(*wrongs[wrong])
    assert expected != [replayed(world.store, SELECTORS[0], choice) for choice in choices]


class _Unknowing(Columns):
    def __getitem__(self, column: int) -> Numbers:
        return super().__getitem__(column) * (column != Column.POSITIONS)


def _lay_unordered(table: folding._Table, read: Columns | list[Numbers], edits: folding._Laid) -> None:
    places = np.arange(len(edits.times)) if edits.places is None else edits.places
    table.times[edits.slots], table._refs[edits.slots] = edits.times, places + edits.base
    table.revs[edits.slots] = read[Column.REVS].take(places)
    table._flags[edits.slots] = read[Column.KINDS].take(places) & 0xFF


@pytest.mark.parametrize("letter", [b"X", b"J", b"f", b"i"])
def test_lost_columns_cost_time_alone(letter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the rows, or with one that says nothing, the entries are the same."""
    small_parts(monkeypatch)
    world = Growing(random.Random(2), 0.1)
    world.grow(20)
    world.ingestor.settle()
    choice = world.choice()
    expected = replayed(world.store, SELECTORS[0], choice)
    other = choice._replace(valid_at=choice.valid_at + 10**9)
    base = snapshots.build_part(world.store, "w", 1, SELECTORS[0], other)
    with world.store.view() as view:
        lost = view.scan(letter, bytes([letter[0] + 1]))
    for key, value in lost:
        for what in (None, b"", value[:-9]):
            put(world.store, key, what)
            assert replayed(world.store, SELECTORS[0], choice) == expected
            derived = snapshots.derive_part(world.store, base, 1, SELECTORS[0], other, choice)
            assert derived is None or derived.root == build(_leaves(expected[0]), lambda *_: None)[0]
        put(world.store, key, value)


@pytest.mark.parametrize("letter", [b"X", b"J"])
def test_whoever_goes_on_without_columns_is_told_how_to_have_them(
    letter: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes later is stored and answered, other projects get theirs, and a rebuild heals it."""
    small_parts(monkeypatch)
    world = Growing(random.Random(3), 0.1)
    world.grow(20)
    world.ingestor.settle()
    with world.store.view() as view:
        lost = view.scan(letter, bytes([letter[0] + 1]))
    put(world.store, lost[len(lost) // 2][0], None)
    world.grow(20)
    world.ingestor.create_project(ProjectInfo("z", "https://z.example", "en", "CC0-1.0"))
    some = [replace(world.event(page, page, edit(page, "text")), project="z") for page in range(1, 60)]
    assert 59 == world.ingestor.append("z", some).accepted
    monkeypatch.setattr(stages, "EVERY", 20)
    monkeypatch.setattr(stages, "_PER_PAGE", 1)
    with pytest.raises(ColumnsLostError) as told:
        world.ingestor.settle()
    assert "recension-server rebuild" in told.value.hint
    assert columns.find_parts(world.store, 2)
    again = MemoryStore()
    rebuild(world.store, again)
    choice = world.choice()
    assert replayed(world.store, SELECTORS[0], choice) == replayed(again, SELECTORS[0], choice)
    assert not Check(again).run().shown
    Ingestor(again).settle()


def _leaves(records: bytes) -> list[tuple[int, int, bytes]]:
    return list(RECORD.iter_unpack(records))


@pytest.mark.parametrize("large", [False, True])
def test_commitments_lie_in_the_columns_of_large_projects_alone(
    large: bool,  # noqa: FBT001 - a case
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A small project keeps them nowhere; those of a large one are found in the same way."""
    monkeypatch.setattr(columns, "_WORTHWHILE", 5)
    monkeypatch.setattr(columns, "LARGE", 5 if large else 10**9)
    store = LmdbStore.open(tmp_path / "data", create=True)
    world = World(store)
    world.add(*(world.event(page, page, edit(page, f"text {page}", f"P{page}")) for page in range(1, 9)))
    world.add(world.event(3, 9, move("P3", "Q3")))
    world.ingestor.settle()
    with store.view() as view:
        pairs = [pair_of(find_sealed(view, 2, ordinal)) for ordinal in range(8)]
    store.compact()
    store.close()
    raw = (tmp_path / "data" / "lmdb" / "data.mdb").read_bytes()
    assert [large] * 16 == [half in raw for pair in pairs for half in (pair[:32], pair[32:])]


def test_too_many_changes_are_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit nothing is derived."""
    monkeypatch.setattr(snapshots, "_DERIVED_LEAST", 1)
    world = World()
    world.add(*(world.event(page, 1, edit(page, "text")) for page in range(1, 5)))
    selector, choices = Selector.of(["w"]), [Choice(world.day(day), 2) for day in (0.5, 2)]
    base = snapshots.build_part(world.store, "w", 1, selector, choices[0])
    assert snapshots.derive_part(world.store, base, 1, selector, *choices) is None
