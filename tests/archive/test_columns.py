"""The corpus by columns is the one that all timelines tell, and so is one derived from another."""

from __future__ import annotations

import random

import numpy as np
import pytest

from recension.archive import columns, commitments, corpus, snapshots
from recension.archive.columns import Column
from recension.archive.history import Choice
from recension.archive.packing import Columns, Numbers
from recension.model.event import NO_COMMENT, Contributor, Edit, Event, Happening, Presence, SlotText
from recension.model.manifest import OnHidden, Redirects, Selector
from recension.model.tree import RECORD, build
from recension.store.interface import Rewrite, Store
from recension.store.memory import MemoryStore
from tests.archive.helpers import World, delete, edit, hide, move, restore

DAYS = 30


class Growing(World):
    """A world that random events happen to."""

    def __init__(self, chance: random.Random, marked: float = 0.4) -> None:
        """``marked`` is the share of events that are no edits."""
        super().__init__(MemoryStore())
        self.chance = chance
        self.marked = marked
        self.newest: dict[int, int] = {}

    def grow(self, commits: int) -> None:
        """Append random events of some pages, out of the order of time, and hide some texts."""
        for _ in range(commits):
            self.add(*(self.random_event() for _ in range(self.chance.randint(1, 8))))
            if self.chance.random() < self.marked:
                page, rev = self.chance.choice(list(self.newest.items()))
                hidden = hide(rev, text=self.chance.random() < 0.6)
                self.add(self.event(page, self.chance.uniform(0, DAYS), hidden))

    def random_event(self) -> Event:
        """Return an edit, a move, a delete or a restore; some at the same instant."""
        page, day = self.chance.randint(1, 60) * 7, self.chance.randint(0, DAYS * 4) / 4
        if page in self.newest and self.chance.random() < self.marked:
            marks: list[Happening] = [delete(), restore(), move("A", "B")]
            return self.event(page, day, self.chance.choice(marks))
        rev = self.newest[page] = self.chance.randrange(1, 2**40)
        return self.event(page, day, self.random_edit(rev))

    def random_edit(self, rev: int) -> Edit:
        """Return an edit in one of two namespaces, with a text, a redirect, or a hidden text."""
        text = self.chance.choice(["#REDIRECT [[B]]", *(f"text {n}" for n in range(40))])
        presence = Presence.HIDDEN if self.chance.random() < self.marked / 10 else Presence.PRESENT
        model = self.chance.choice(["wikitext", "wikitext", "json"])
        slot = SlotText("main", model, "x", presence, text.encode() if presence is Presence.PRESENT else b"")
        who, inferred = Contributor.named("Ann", 7), self.chance.random() < 0.3
        return Edit(rev, 0, "A", self.chance.choice([0, 0, 1]), inferred, who, NO_COMMENT, False, (slot,))  # noqa: FBT003

    def choice(self) -> Choice:
        """Return a random question."""
        known = self.chance.randint(2, self.store.log.head().position)
        return Choice(self.day(self.chance.uniform(0, DAYS)), known, self.chance.choice([0, 4 * 86_400]))


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


def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts, slices and tables as if a small history were a large one."""
    monkeypatch.setattr(columns, "_WORTHWHILE", 5)
    monkeypatch.setattr(columns, "_SORTED", 60)
    monkeypatch.setattr(columns, "PART", 7)
    monkeypatch.setattr(columns, "LARGE", 1)
    monkeypatch.setattr(commitments, "_TOGETHER", 3)
    monkeypatch.setattr(commitments, "_ROWS", 5)
    monkeypatch.setattr(corpus, "_SLICE", 8)
    monkeypatch.setattr(corpus, "_BEHIND", 10**9)


SELECTORS = [
    Selector.of(["w"]),
    Selector.of(["w"], namespaces=[1]),
    Selector.of(["w"], redirects=Redirects.EXCLUDE),
    Selector.of(["w"], redirects=Redirects.ONLY, namespaces=[0, 1]),
    Selector.of(["w"], models=["json"]),
]


def _replayed(world: Growing, selector: Selector, choice: Choice) -> tuple[bytes, int]:
    entries = list(corpus.entries_at(world.store, 1, selector, choice))
    return b"".join(one.records for one in entries), sum(one.text_bytes for one in entries)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("marked", [0.0, 0.02, 0.6])
def test_replay_finds_what_asking_each_page_finds(
    seed: int, marked: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of any question and selector are those of the timelines, wherever the parts are cut."""
    _small_parts(monkeypatch)
    monkeypatch.setattr(corpus, "_SMALL_TABLE", 10**6 * (seed % 2))
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
                replayed = _replayed(world, selector, choice)
                with monkeypatch.context() as patch:
                    patch.setattr(corpus, "_BEHIND", -1)
                    assert _replayed(world, selector, choice) == replayed
                found += len(replayed[0])
    assert found


@pytest.mark.parametrize("wrong", ["order", "positions", "marks", "titles"])
def test_a_replay_that_is_wrong_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a rule of the fold the entries are others: the comparison above can fail."""
    _small_parts(monkeypatch)
    world = Growing(random.Random(1), 0.1)
    world.grow(20)
    world.ingestor.settle()
    choices = [world.choice() for _ in range(40)]
    expected = [_replayed(world, SELECTORS[0], choice) for choice in choices]
    wrongs: dict[str, tuple[object, str, object]] = {
        "order": (corpus._Table, "lay", _lay_unordered),
        "positions": (columns, "Columns", _Unknowing),
        "marks": (corpus._Replay, "_marked", lambda _, edits: np.zeros(len(edits.pages), bool)),
        "titles": (corpus._Replay, "_put_titles", lambda *_: None),
    }
    monkeypatch.setattr(*wrongs[wrong])
    assert expected != [_replayed(world, SELECTORS[0], choice) for choice in choices]


class _Unknowing(Columns):
    def __getitem__(self, column: int) -> Numbers:
        return super().__getitem__(column) * (column != Column.POSITIONS)


def _lay_unordered(table: corpus._Table, read: Columns | list[Numbers], edits: corpus._Laid) -> None:
    places = np.arange(len(edits.times)) if edits.places is None else edits.places
    table._times[edits.pages], table._refs[edits.pages] = edits.times, places + (edits.part << 32)
    table._revs[edits.pages], table._kinds[edits.pages] = (
        read[at].take(places) for at in (Column.REVS, Column.KINDS)
    )


@pytest.mark.parametrize("letter", [b"X", b"J", b"f", b"i"])
def test_lost_columns_cost_time_alone(letter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the rows, or with one that says nothing, the entries are the same."""
    _small_parts(monkeypatch)
    world = Growing(random.Random(2), 0.1)
    world.grow(20)
    world.ingestor.settle()
    choice = world.choice()
    expected = _replayed(world, SELECTORS[0], choice)
    other = choice._replace(valid_at=choice.valid_at + 10**9)
    base = snapshots.build_part(world.store, "w", 1, SELECTORS[0], other)
    with world.store.view() as view:
        lost = view.scan(letter, bytes([letter[0] + 1]))
    for key, value in lost:
        for what in (None, b"", value[:-9]):
            _put(world.store, key, what)
            assert _replayed(world, SELECTORS[0], choice) == expected
            derived = snapshots.derive_part(world.store, base, 1, SELECTORS[0], other, choice)
            assert derived is None or derived.root == build(_leaves(expected[0]), lambda *_: None)[0]
        _put(world.store, key, value)


def _put(store: Store, key: bytes, value: bytes | None) -> None:
    with store.view() as view:
        assert store.rewrite([Rewrite({key: view.get(key)}, {key: value}, {})]) == [True]


def _leaves(records: bytes) -> list[tuple[int, int, bytes]]:
    return list(RECORD.iter_unpack(records))


def test_too_many_changes_are_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit nothing is derived."""
    monkeypatch.setattr(snapshots, "_DERIVED_LEAST", 1)
    world = World()
    world.add(*(world.event(page, 1, edit(page, "text")) for page in range(1, 5)))
    selector, choices = Selector.of(["w"]), [Choice(world.day(day), 2) for day in (0.5, 2)]
    base = snapshots.build_part(world.store, "w", 1, selector, choices[0])
    assert snapshots.derive_part(world.store, base, 1, selector, *choices) is None
