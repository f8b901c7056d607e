"""The same history in any order of arrival: the same answers and roots, and at the end much the same size."""

from __future__ import annotations

import random
from importlib.resources import as_file, files
from itertools import islice

import pytest

from recension.archive.clock import SeededSalts
from recension.archive.ingest import Ingestor
from recension.archive.intake.feed import Feed
from recension.archive.reader import Archive
from recension.model.event import Edit, Event
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo
from recension.store import keys
from recension.store.memory import MemoryStore
from tests.archive.helpers import NOW, fixed_salts
from tests.sources.helpers import file_items

BATCH = 200
TIMES = ["2010-01-01", "2016-06-01", "2026-01-01"]


SAMPLE = files("recension.server.sample").joinpath("aawiki-20260101-pages-meta-history.xml.7z")


@pytest.fixture(scope="module")
def history() -> list[Event]:
    """All edits of the bundled sample, by page."""
    with as_file(SAMPLE) as path:
        return [item for item in file_items("history", path, "w") if isinstance(item, Event)]


def test_what_another_process_prepares_is_the_same(history: list[Event]) -> None:
    """A file that is parsed, hashed and sealed in a process of its own gives the log that its events give."""
    salts = SeededSalts(b"orders")
    stores = MemoryStore(), MemoryStore()
    fed, given = (Ingestor(store, clock=lambda: NOW, salts=salts) for store in stores)
    for ingestor in (fed, given):
        ingestor.create_project(ProjectInfo("w", "https://w.example", "en", "CC0-1.0"))
    left = iter(history)
    with as_file(SAMPLE) as path, Feed("history", path, "w", seed=salts.seed) as feed:
        for batch in feed:
            fed.append_prepared("w", batch.events)
            given.append("w", list(islice(left, len(batch.events.events))))
    assert stores[0].log.head() == stores[1].log.head()


def held(events: list[Event], *, settled_between: bool) -> tuple[list[bytes], list[bytes | None], int]:
    """Return (roots, texts of all revisions, bytes of text blocks) after ingesting in that order."""
    store = MemoryStore()
    ingestor = Ingestor(store, clock=lambda: NOW, salts=fixed_salts)
    ingestor.create_project(ProjectInfo("w", "https://w.example", "en", "CC0-1.0"))
    for at in range(0, len(events), BATCH):
        ingestor.append("w", events[at : at + BATCH])
        if settled_between:
            ingestor.settle()
    ingestor.settle()
    archive = Archive(store, clock=lambda: NOW)
    roots = [
        archive.create_snapshot(Selector.of(["w"]), valid_at=parse_instant(time)).parts[0].root
        for time in TIMES
    ]
    texts = []
    for rev in sorted(event.what.rev_id for event in events if isinstance(event.what, Edit)):
        slot = archive.revision("w", rev).revision.slot()
        texts.append(slot.text if slot else None)
    with store.view() as view:
        last = int.from_bytes((view.last_blob_key(keys.block(0), keys.block(keys.END)) or b"t\0")[1:], "big")
        size = sum(len(view.blob(keys.block(number)) or b"") for number in range(1, last + 1))
    return roots, texts, size


@pytest.mark.parametrize("order", ["time", "shuffled", "backwards", "settled after each batch"])
def test_order_of_arrival_changes_nothing(history: list[Event], order: str) -> None:
    """Roots and texts are those of the dump's own order, and blocks at most a fifth larger.

    What came last is the first of its block, though it may be the oldest: a page of one block is not sorted.
    """
    arrived = sorted(history, key=lambda event: event.time)
    if order == "shuffled":
        random.Random(1).shuffle(arrived)
    if order == "backwards":
        arrived.reverse()
    roots, texts, size = held(history, settled_between=False)
    other_roots, other_texts, other_size = held(arrived, settled_between=order.startswith("settled"))
    assert roots == other_roots
    assert texts == other_texts
    assert other_size < 1.2 * size
