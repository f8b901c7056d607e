"""Random but repeatable work on a store, and what a store has to hold after each step of it.

With clock and salts fixed, a history has one log: a store that was killed or cut short ends at the same head
as one that was not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from recension.archive.erase import erase_text
from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.archive.retracting import Retractor, Wanted
from recension.model.digest import digest_of
from recension.model.event import Edit, Event, Presence
from recension.model.manifest import OnHidden, Selector
from recension.model.reading import ProjectInfo
from recension.model.record import EMPTY_LOG, Head
from recension.model.retraction import Reason
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import NOW, World, delete, edit, fixed_salts, hide, move, restore

PROJECT = "w"
PILED = "piled "
"""Begins the seed of a history that is written as an import: rows that come in no order wait in piles."""
INFO = ProjectInfo(PROJECT, "https://w.example", "en", "CC0-1.0")
_PAGES = 4
_DAYS = 40
_AT_MOST = 12
_WORDS = [f"word{number:x}" for number in range(400)]

Texts = dict[int, bytes | None]
"""By revision id; ``None`` where the text was erased."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a writer does; durable once it is done."""

    kind: str
    events: tuple[Event, ...] = ()
    text: bytes = b""
    rev: int = 0
    piled: bool = False
    """Of the first: the history is an import."""


class _Author:
    """Makes up steps."""

    def __init__(self, seed: str) -> None:
        self._piled = seed.startswith(PILED)
        self._moments = random.Random(seed)
        self._world = World(MemoryStore())
        self._pages: dict[int, list[str]] = {}
        self._texts: list[bytes] = []
        self._revision = 0
        self._newest: dict[int, int] = {}

    def steps(self, length: int) -> Iterator[Step]:
        """Yield the steps: at first one that creates the project, and of each kind one every now and then."""
        yield Step("create", piled=self._piled)
        for number in range(1, length):
            yield self._step(number)

    def _step(self, number: int) -> Step:
        if number < 3:
            return self._append()
        match self._moments.randrange(12):
            case 0 | 1:
                return Step("settle")
            case 2 | 3 if self._texts:
                return Step("erase", text=self._texts.pop(self._moments.randrange(len(self._texts))))
            case 4:
                return Step("snapshot")
            case _:
                return self._append()

    def _append(self) -> Step:
        count = self._moments.randint(1, _AT_MOST)
        return Step("append", tuple(self._event() for _ in range(count)))

    def _event(self) -> Event:
        pick = self._moments
        page, day = pick.randint(1, _PAGES), pick.random() * _DAYS
        if page in self._pages and pick.random() < 0.1:
            what = pick.choice((move("A", "B"), delete(), restore(), hide(self._newest[page], text=False)))
            return self._world.event(page, day, what)
        lines = self._pages.setdefault(page, [])
        if not lines and self._pages and pick.random() < 0.5:  # a copy of another page
            lines += pick.choice(list(self._pages.values()))
        if pick.random() < 0.05:
            lines.clear()
        for _ in range(pick.randint(0, 3)):
            line = " ".join(pick.choices(_WORDS, k=pick.randint(1, 40)))
            lines.insert(pick.randint(0, len(lines)), line)
        text = "\n".join(lines)
        self._revision += 1
        self._newest[page] = self._revision
        self._texts.append(text.encode())
        return self._world.event(page, day, edit(self._revision, text))


def with_retractions(steps: list[Step], seed: str, number: int) -> None:
    """Put retractions of revisions that are known by then into the steps of a history."""
    moments = random.Random(f"{seed} retract")
    for _ in range(number):
        at = moments.randrange(2, len(steps) + 1)
        known = [
            event.what.rev_id for step in steps[:at] for event in step.events if isinstance(event.what, Edit)
        ]
        if known:
            steps.insert(at, Step("retract", rev=moments.choice(known)))


def steps_of(seed: str, length: int) -> list[Step]:
    """Return the steps of a history."""
    return list(_Author(seed).steps(length))


class History:
    """A history, and what a store has to hold after each number of steps."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.heads = [EMPTY_LOG, *self._heads()]

    def _heads(self) -> Iterator[Head]:
        writer = Writer(MemoryStore())
        for step in self.steps:
            writer.do(step)
            yield writer.store.log.head()
        writer.end()

    def kind(self, done: int) -> str:
        """Return the kind of the step that follows."""
        return self.steps[done].kind if done < len(self.steps) else "end"

    def head(self, done: int) -> Head:
        """Return the head after so many steps."""
        return self.heads[min(done, len(self.steps))]

    def texts(self, done: int) -> Texts:
        """Return all texts after so many steps."""
        held: Texts = {}
        for step in self.steps[:done]:
            for event in step.events:
                if isinstance(event.what, Edit):
                    held[event.what.rev_id] = event.what.slots[0].text
            if step.kind == "erase":
                held |= {rev: None for rev, text in held.items() if text == step.text}
            if step.kind == "retract":
                held[step.rev] = None
        return held


class Writer:
    """Does the steps of a history to a store; for the holder of the right to write in bulk."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._ingestor = Ingestor(store, clock=lambda: NOW, salts=fixed_salts)

    def do(self, step: Step) -> None:
        """Do a step; what it did is durable when it returns. Doing it twice is as doing it once."""
        match step.kind:
            case "create":
                self._ingestor.create_project(INFO)
            case "append":
                appended = self._ingestor.append(PROJECT, step.events)
                assert not appended.rejected, appended
            case "settle":
                self._ingestor.settle()
            case "erase":
                self._ingestor.forget_texts()  # nothing may be sealed meanwhile
                erase_text(self.store, digest_of(step.text))
            case "retract":
                self._ingestor.forget_texts()
                retractor = Retractor(
                    self.store, clock=lambda: NOW, salts=fixed_salts, new_id=lambda: step.rev.to_bytes(16)
                )
                plan = retractor.plan(PROJECT, Wanted(revisions=frozenset({step.rev})))
                retractor.mask(plan, "case", Reason.OTHER)
                retractor.erase(plan)
            case "snapshot":
                archive = Archive(self.store, clock=lambda: NOW)
                archive.create_snapshot(Selector.of([PROJECT], on_hidden=OnHidden.SKIP), valid_at=NOW)
            case "compact" if isinstance(self.store, LmdbStore):
                self.store.compact()  # takes the right itself

    def end(self) -> None:
        """End the threads, so that the process may fork."""
        self._ingestor._sealer._pool.shutdown()


def text_of(archive: Archive, rev: int) -> bytes | None:
    """Return a revision's text, ``None`` when it is hidden."""
    slot = archive.revision(PROJECT, rev).revision.slot()
    assert slot is not None
    assert (slot.text is None) == (slot.presence is Presence.HIDDEN)
    return slot.text
