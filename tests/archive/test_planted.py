"""What the benchmark plants is what an ingest of the same events leaves."""

from __future__ import annotations

import numpy as np
import pytest

from recension.archive import columns
from recension.archive.commitments import pair_of
from recension.archive.history import Choice, edit_row
from recension.archive.sealed import find_sealed
from recension.archive.snapshots import build_part, derive_part
from recension.model.manifest import Selector
from recension.store.interface import Rewrite, Row, Store
from tests.archive.helpers import World
from tests.bench.planted import Planted, plant
from tests.bench.synthetic import event

COMMIT, PAGES, PER_PAGE = 8, 11, 5


def _rows(store: Store, letters: bytes) -> list[Row]:
    with store.view() as view:
        return [row for letter in letters for row in view.scan(bytes([letter]), bytes([letter + 1]))]


def test_planted_rows_are_those_of_an_ingest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, columns, commitments and timelines are the same to the byte, and so is a snapshot."""
    monkeypatch.setattr(columns, "_WORTHWHILE", 1)
    monkeypatch.setattr(columns, "LARGE", 1)
    monkeypatch.setattr(columns, "PART", 16)
    planted = Planted.random(PAGES, PER_PAGE)
    planted.commit = COMMIT
    ingested = World()
    for start in range(0, PAGES * PER_PAGE, COMMIT):
        some = range(start, min(start + COMMIT, PAGES * PER_PAGE))
        ingested.add(
            *(event(int(planted.pages[at]), at + 1, int(planted.times[at]), b"text %d" % at) for at in some)
        )
    ingested.ingestor.settle()
    for row in _rows(ingested.store, b"E"):
        edit = edit_row(row)
        planted.text_bytes[edit.rev - 1] = edit.text_bytes
        with ingested.store.view() as view:
            pair = pair_of(find_sealed(view, edit.position, edit.ordinal))
        planted.pairs[edit.rev - 1] = np.frombuffer(pair, np.uint8)
    copied = World()
    sizes = plant(copied.store, planted)
    copied.store.put_derived(planted.timelines(np.unique(planted.pages)))
    letters = b"CEXJfi"
    assert _rows(copied.store, letters) == _rows(ingested.store, letters)
    assert {letter for (letter,) in sizes} == set(letters) - set(b"CE")
    choice = Choice(int(planted.times[30]), copied.store.log.head().position)
    parts = [build_part(world.store, "w", 1, Selector.of(["w"]), choice) for world in (copied, ingested)]
    assert parts[0] == parts[1]
    assert parts[0].count == PAGES


@pytest.mark.parametrize("commit", [8, 40])
def test_a_snapshot_follows_from_what_is_planted(monkeypatch: pytest.MonkeyPatch, commit: int) -> None:
    """A snapshot derived from what was sealed is the one that the columns say."""
    monkeypatch.setattr(columns, "PART", 16)
    planted = Planted.random(PAGES, PER_PAGE)
    planted.commit = commit
    blobs = planted.seal(40, 44)
    world = World()
    plant(world.store, planted)
    world.store.put_derived(planted.timelines(planted.pages[40:44]))
    world.store.rewrite([Rewrite({}, {}, dict(blobs))])
    before, after = (Choice(int(planted.times[at]), world.store.log.head().position) for at in (39, 43))
    selector = Selector.of(["w"])
    base, built = (build_part(world.store, "w", 1, selector, choice) for choice in (before, after))
    assert base.root != built.root
    assert built == derive_part(world.store, base, 1, selector, before, after)
