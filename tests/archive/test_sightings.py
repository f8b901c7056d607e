"""Moves, deletes and restores that follow from sightings, in every order in which they may arrive."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.archive.sightings import judge
from recension.model.errors import PageNotFoundError
from recension.model.event import Delete, Event, Move, Restore, Visibility
from recension.model.instant import MAX_INSTANT, format_instant, parse_instant
from recension.model.reading import ProjectInfo, Revision
from recension.sources.enterprise import read_articles
from recension.sources.items import Rejected, Sighting
from recension.store.memory import MemoryStore

START = parse_instant("2025-01-01")
MINUTE = 60_000_000
LATER = START + 10_000 * MINUTE


def record(
    minute: int, kind: str, name: str, rev: int, *, page: int = 7, late: int = 0, text: str = ""
) -> Any:
    """Return a record of Enterprise: a revision of ``minute``, published ``late`` seconds after it."""
    at = START + minute * MINUTE
    fields = {
        "name": name,
        "identifier": page,
        "date_modified": format_instant(at),
        "version": {"identifier": rev, "editor": {"identifier": 9, "name": "Ann"}},
        "namespace": {},
        "event": {
            "identifier": f"{minute}-{kind}-{name}-{rev}",
            "type": kind,
            "date_created": format_instant(at + late * 1_000_000),
        },
    }
    if kind == "update":
        fields["article_body"] = {"wikitext": text or f"text {rev}", "html": f"<p>{rev} of {late}</p>"}
    return fields


@dataclass
class Taken:
    """What became of records."""

    accepted: int
    known: int
    rejected: list[str]
    skipped: dict[str, int]


class World:
    """A store that reads records, as the ingest of a file does but in this process."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.ingestor = Ingestor(self.store)
        self.ingestor.create_project(ProjectInfo("p", "https://t.example", "en", "CC0-1.0"))

    def take(self, *records: Any) -> Taken:
        lines = io.BytesIO("\n".join(map(json.dumps, records)).encode())
        items = list(read_articles(lines, Path("records"), "p"))
        following, ignored = judge(self.store, "p", [item for item in items if isinstance(item, Sighting)])
        edits = [item for item in items if isinstance(item, Event)]
        assert not [item for item in items if isinstance(item, Rejected)]
        done = self.ingestor.append("p", [*edits, *following])
        return Taken(done.accepted, done.known, [error.reason for _, error in done.rejected], dict(+ignored))

    def title(self, page: int = 7, minute: int | None = None) -> str | None:
        """Return the title of a page at a minute, or now; ``None`` if there is no page then."""
        at = LATER if minute is None else START + minute * MINUTE
        try:
            return Archive(self.store, clock=lambda: LATER).article("p", page, valid_at=at).revision.title
        except PageNotFoundError:
            return None

    def happened(self, page: int = 7) -> list[type]:
        timeline = Archive(self.store).timeline("p", page)
        return [type(item.what) for item in timeline if not isinstance(item.what, Revision)]


@pytest.fixture
def world() -> World:
    return World()


MOVE = [record(1, "update", "Old", 1), record(5, "update", "New", 2), record(5, "delete", "Old", 2, late=1)]


def test_move_whose_delete_comes_last(world: World) -> None:
    """The page has the new name, and had the old one before."""
    world.take(*MOVE[:2])
    summary = world.take(MOVE[2])
    assert ("Old", "New", [Move]) == (world.title(minute=4), world.title(), world.happened())
    assert {"delete of a former name": 1} == summary.skipped


def test_move_whose_delete_comes_first(world: World) -> None:
    """For a moment the page is gone; then it is back under its new name."""
    world.take(MOVE[0])
    world.take(MOVE[2])
    assert world.title() is None
    world.take(MOVE[1])
    assert ("Old", "New") == (world.title(minute=4), world.title())
    assert [Delete, Restore, Move] == world.happened()


def test_a_delete_at_the_end_of_time(world: World) -> None:
    """No instant is behind that of the edit."""
    last = format_instant(MAX_INSTANT)
    edit = record(1, "update", "Old", 1) | {"date_modified": last}
    world.take(edit)
    world.take(record(5, "delete", "Old", 1))
    assert [MAX_INSTANT] == [
        item.time for item in Archive(world.store).timeline("p", 7) if isinstance(item.what, Delete)
    ]


@pytest.mark.parametrize("together", [True, False])
def test_events_that_are_before_their_revision(world: World, *, together: bool) -> None:
    """Upstream's clocks differ; the page is gone whether or not both came in one batch."""
    edit, delete = record(10, "update", "Old", 1, late=-60), record(10, "delete", "Old", 1, late=-59)
    for records in [[edit, delete]] if together else [[edit], [delete]]:
        world.take(*records)
    assert world.title() is None


def test_delete_and_undelete(world: World) -> None:
    """The page is gone between them, and a late repetition of what was before changes nothing."""
    edit = record(1, "update", "Old", 1)
    world.take(edit, record(5, "delete", "Old", 1))
    assert ("Old", None) == (world.title(minute=4), world.title())
    summary = world.take(edit)
    assert (None, {"older than what is known": 1}) == (world.title(), summary.skipped)
    world.take(record(1, "update", "Old", 1, late=9 * 60))
    assert ("Old", None, "Old") == (world.title(minute=4), world.title(minute=6), world.title())
    assert [Delete, Restore] == world.happened()


def test_deletes_without_a_page_id(world: World) -> None:
    """The page that has the name is meant, also one of the same batch."""
    world.take(record(1, "update", "Old", 1), {**record(2, "delete", "Old", 0), "identifier": 0})
    assert world.title() is None
    world.take(record(1, "update", "Other page", 3, page=8))
    summary = world.take(
        {**record(5, "delete", "Other_page", 0), "identifier": 0},
        {**record(5, "delete", "Nowhere", 0), "identifier": 0},
    )
    assert world.title(8) is None
    assert {"delete of a page that is not known": 1} == summary.skipped


def test_the_same_file_again(world: World) -> None:
    """Nothing is stored twice, whatever happened in it."""
    everything = [
        *MOVE,
        record(7, "update", "Newer", 3),
        record(7, "delete", "New", 3),
        record(9, "update", "Old", 4),
        record(9, "delete", "Newer", 4),
        record(20, "delete", "Old", 4),
        record(9, "update", "Old", 4, late=3600),
    ]
    world.take(*everything)
    assert [Move, Move, Move, Delete, Restore] == world.happened()
    before = world.store.log.head()
    again = world.take(*everything)
    assert (0, before) == (again.accepted, world.store.log.head())


def test_another_rendering_is_no_other_revision(world: World) -> None:
    """The HTML changes with templates while the revision stays; the first that came is kept."""
    world.take(record(1, "update", "Old", 1))
    summary = world.take(record(1, "update", "Old", 1, late=500))
    assert (0, [], 1) == (summary.accepted, summary.rejected, summary.known)
    html = Archive(world.store).revision("p", 1).revision.slot("html")
    assert html is not None
    assert b"<p>1 of 0</p>" == html.text
    other = world.take(record(1, "update", "Old", 1, text="another text"))
    assert ["REVISION_CONFLICT"] == other.rejected


def test_visibility(world: World) -> None:
    """It hides what is of the current revision."""
    hidden = record(3, "visibility-change", "Old", 1) | {"visibility": {"editor": True}}
    world.take(record(1, "update", "Old", 1), hidden)
    assert [Visibility] == world.happened()
    revision = Archive(world.store).revision("p", 1).revision
    assert ("Ann", None) == (revision.contributor.name, revision.slots[0].text)


STREAM = [
    record(1, "update", "A", 1),
    record(2, "update", "B", 2, page=8),
    record(3, "update", "A", 3),
    record(4, "update", "C", 4),
    record(4, "delete", "A", 4),
    record(6, "delete", "B", 2, page=8),
    record(7, "update", "A", 7, page=9),
    record(8, "update", "D", 8),
    record(8, "delete", "C", 8),
]
"""Page 7 moves from A to C to D, page 8 is deleted, page 9 takes the name A."""


def final(world: World) -> list[str | None]:
    return [world.title(page) for page in (7, 8, 9)]


def test_moves_in_every_order() -> None:
    """The halves of two moves, and what else happened to the page: the end is the same."""
    whole = [STREAM[2], *STREAM[3:5], *STREAM[7:]]
    for order in permutations(whole):
        one = World()
        one.take(STREAM[0])
        for each in order:
            one.take(each)
        assert one.title() == "D", [f"{each['event']['identifier']}" for each in order]


def disorder(seed: int) -> World:
    """Return what a stream leaves that is cut, repeated and out of order, and comes whole at the end."""
    moments = random.Random(seed)
    arriving = [*STREAM, *moments.choices(STREAM, k=6)]
    moments.shuffle(arriving)
    world = World()
    while arriving:
        size = moments.randint(1, 4)
        world.take(*arriving[:size])
        if moments.random() < 0.3:
            world.take(*arriving[:size])
        del arriving[:size]
    world.take(*STREAM)
    return world


@pytest.mark.parametrize("rounds", [20, pytest.param(1000, marks=pytest.mark.torture)])
def test_cuts_repetitions_and_disorder(rounds: int) -> None:
    """A stream that is cut, repeated and out of order ends as the clean one does."""
    clean = World()
    clean.take(*STREAM)
    assert ["D", None, "A"] == final(clean)
    for seed in range(rounds):
        assert final(clean) == final(disorder(seed)), seed
