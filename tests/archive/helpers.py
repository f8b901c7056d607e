"""An archive with a fixed clock and salts, and short forms of events."""

from __future__ import annotations

from collections.abc import Iterable
from hmac import digest as hmac_digest
from pathlib import Path

import pytest

from recension.archive.ingest import Appended, Ingestor
from recension.archive.reader import Archive
from recension.model.event import (
    NO_COMMENT,
    NOBODY,
    Contributor,
    Delete,
    Edit,
    Event,
    Happening,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.instant import parse_instant
from recension.model.manifest import OnHidden, Selector
from recension.model.reading import ProjectInfo
from recension.store.interface import Store
from recension.store.memory import MemoryStore

SHARED = Path(__file__).parents[2] / "../shared/data"
NOW = parse_instant("2027-01-01")
DAY = 86_400_000_000


def shared(name: str) -> Path:
    """Path of a file of the shared data; skips the test where a checkout has none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no shared data here: {path} does not exist")
    return path


def fixed_salts(project: str, key: str) -> bytes:
    """Salts that depend on the event alone."""
    return hmac_digest(b"test", f"{project}/{key}".encode(), "sha256")[:16]


class World:
    """One project in a store, with times counted in days since 2020-01-01."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or MemoryStore()
        self.ingestor = Ingestor(self.store, clock=lambda: NOW, salts=fixed_salts)
        self.archive = Archive(self.store, clock=lambda: NOW)
        if not self.archive.projects():
            self.ingestor.create_project(ProjectInfo("w", "https://w.example", "en", "CC0-1.0"))
        self._sources = 0

    def day(self, day: float) -> int:
        """Return the instant of a day."""
        return parse_instant("2020-01-01") + int(day * DAY)

    def event(self, page: int, day: float, what: Happening, source: str | None = None) -> Event:
        """Return an event; one that is no edit gets a source id of its own."""
        if source is None:
            self._sources += 1
            source = "" if isinstance(what, Edit) else f"s{self._sources}"
        return Event("w", page, self.day(day), source, what)

    def add(self, *events: Event) -> Appended:
        """Append one commit; every event has to be taken."""
        appended = self.ingestor.append("w", events)
        assert not appended.rejected
        return appended

    def text(self, page: int | str, day: float, known_at: int = 0) -> str | None:
        """Return the main text as of (day, K)."""
        answer = self.archive.article("w", page, valid_at=self.day(day), known_at=known_at)
        slot = answer.revision.slot()
        assert slot is not None
        return None if slot.text is None else slot.text.decode()

    def title(self, page: int, day: float, known_at: int = 0) -> tuple[str, bool]:
        """Return (title, inferred) as of (day, K)."""
        revision = self.archive.article("w", page, valid_at=self.day(day), known_at=known_at).revision
        return revision.title, revision.title_inferred

    def snapshot(self, day: float, known_at: int = 0, on_hidden: OnHidden = OnHidden.SKIP) -> bytes:
        """Return the id of a snapshot of the whole project."""
        selector = Selector.of(["w"], on_hidden=on_hidden)
        return self.archive.create_snapshot(selector, valid_at=self.day(day), known_at=known_at).snapshot_id

    def held(self, snapshot_id: bytes) -> list[tuple[int, str, int]]:
        """Return (page, title, revision) of each entry."""
        return [(e.page_id, e.title, e.rev_id) for e in self.archive.entries(snapshot_id)]


def edit(rev: int, text: str, title: str = "A", *, inferred: bool = False, lost: bool = False) -> Edit:
    """Return an edit with one main slot."""
    presence = Presence.LOST if lost else Presence.PRESENT
    slot = SlotText("main", "wikitext", "text/x-wiki", presence, b"" if lost else text.encode())
    who = Contributor.named("Ann", 7)
    return Edit(rev, 0, title, 0, inferred, who, NO_COMMENT, minor=False, slots=(slot,))


def move(old: str, new: str) -> Move:
    """Return a move in the main namespace."""
    return Move(old, 0, new, 0, NOBODY, NO_COMMENT)


def delete(title: str = "A") -> Delete:
    """Return a delete."""
    return Delete(title, 0, NOBODY, NO_COMMENT)


def restore(title: str = "A") -> Restore:
    """Return a restore."""
    return Restore(title, 0, NOBODY, NO_COMMENT)


def hide(rev: int, *, text: bool = True) -> Visibility:
    """Return a visibility change of the text."""
    return Visibility(rev, text_hidden=text, comment_hidden=False, contributor_hidden=False)


def rows(path: Path) -> Iterable[list[str]]:
    """Yield the rows of a compressed table, without its header."""
    from recension.sources.containers import open_container  # noqa: PLC0415 - only where data is there

    with open_container(path) as source:
        content = b"".join(iter(lambda: source.read(1 << 20), b""))
    return [line.split("\t") for line in content.decode().splitlines()[1:]]
