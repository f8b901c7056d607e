"""A world that random events happen to, and the entries of its corpus."""

from __future__ import annotations

import random

import pytest

from recension.archive import columns, commitments, corpus, folding
from recension.archive.history import Choice
from recension.model.event import NO_COMMENT, Contributor, Edit, Event, Happening, Presence, SlotText
from recension.model.manifest import Redirects, Selector
from recension.store.interface import Rewrite, Store
from recension.store.memory import MemoryStore
from tests.archive.helpers import World, delete, hide, move, restore

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


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts, slices and tables as if a small history were a large one."""
    monkeypatch.setattr(columns, "_WORTHWHILE", 5)
    monkeypatch.setattr(columns, "_SORTED", 60)
    monkeypatch.setattr(columns, "PART", 7)
    monkeypatch.setattr(columns, "LARGE", 1)
    monkeypatch.setattr(commitments, "_TOGETHER", 3)
    monkeypatch.setattr(commitments, "_ROWS", 5)
    monkeypatch.setattr(corpus, "_SLICE", 8)
    monkeypatch.setattr(folding, "_BEHIND", 10**9)


SELECTORS = [
    Selector.of(["w"]),
    Selector.of(["w"], namespaces=[1]),
    Selector.of(["w"], redirects=Redirects.EXCLUDE),
    Selector.of(["w"], redirects=Redirects.ONLY, namespaces=[0, 1]),
    Selector.of(["w"], models=["json"]),
]


def replayed(store: Store, selector: Selector, choice: Choice) -> tuple[bytes, int]:
    """Return the records and the bytes of text of all entries."""
    entries = list(corpus.entries_at(store, 1, selector, choice))
    return b"".join(one.records for one in entries), sum(one.text_bytes for one in entries)


def put(store: Store, key: bytes, value: bytes | None) -> None:
    """Put another value in the place of a row, or none."""
    with store.view() as view:
        assert store.rewrite([Rewrite({key: view.get(key)}, {key: value}, {})]) == [True]
