"""A snapshot derived from another is the one that is built from all timelines."""

from __future__ import annotations

import random

import pytest

from recension.archive import columns, snapshots
from recension.archive.history import Choice
from recension.model.event import Event, Happening
from recension.model.manifest import OnHidden, Selector
from recension.store.memory import MemoryStore
from tests.archive.helpers import World, delete, edit, hide, move, restore

DAYS = 30


class Growing(World):
    """A world that random events happen to."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(MemoryStore())
        self.chance = chance
        self.newest: dict[int, int] = {}

    def grow(self, commits: int) -> None:
        """Append random events of some pages, out of the order of time, and hide some texts."""
        for _ in range(commits):
            self.add(*(self.random_event() for _ in range(self.chance.randint(1, 8))))
            page, rev = self.chance.choice(list(self.newest.items()))
            hidden = hide(rev, text=self.chance.random() < 0.6)
            self.add(self.event(page, self.chance.uniform(0, DAYS), hidden))

    def random_event(self) -> Event:
        """Return an edit, a move, a delete or a restore."""
        page, day = self.chance.randint(1, 60) * 7, self.chance.uniform(0, DAYS)
        kind = self.chance.choice(["delete", "restore", "move", "edit", "edit"])
        if page in self.newest and kind != "edit":
            marks: dict[str, Happening] = {"delete": delete(), "restore": restore(), "move": move("A", "B")}
            return self.event(page, day, marks[kind])
        rev = self.newest[page] = self.chance.randrange(1, 2**40)
        text = f"text {self.chance.randint(1, 40)}"
        return self.event(page, day, edit(rev, text, inferred=self.chance.random() < 0.3))

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


@pytest.mark.parametrize("seed", range(6))
def test_seeking_finds_what_reading_all_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages have the same states whichever way they are read, in slices of any size."""
    world = Growing(random.Random(seed))
    world.grow(20)
    monkeypatch.setattr(snapshots, "_SOUGHT", 3)
    found = 0
    for on_hidden in OnHidden:
        for _ in range(10):
            choice = world.choice()._replace(on_hidden=on_hidden)
            monkeypatch.setattr(snapshots, "_LONG", 10**9)
            read = list(snapshots.scan(world.store, 1, choice))
            monkeypatch.setattr(snapshots, "_LONG", 0)
            assert read == list(snapshots.scan(world.store, 1, choice))
            found += len(read)
    assert found


def test_too_many_changes_are_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit nothing is derived."""
    monkeypatch.setattr(snapshots, "_DERIVED_LEAST", 1)
    world = World()
    world.add(*(world.event(page, 1, edit(page, "text")) for page in range(1, 5)))
    selector, choices = Selector.of(["w"]), [Choice(world.day(day), 2) for day in (0.5, 2)]
    base = snapshots.build_part(world.store, "w", 1, selector, choices[0])
    assert snapshots.derive_part(world.store, base, 1, selector, *choices) is None
