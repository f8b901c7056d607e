from __future__ import annotations

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from recension.archive import stats as module
from recension.archive.sealed import raw_bytes
from recension.archive.stats import read_stats
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import World, delete, edit, move

PAGES = 30


def fill(store: Store) -> World:
    world = World(store)
    for page in range(1, PAGES + 1):
        world.add(
            *(
                world.event(page, day, edit(page * 100 + day, f"page {page} on day {day}" * 40, f"P{page}"))
                for day in range(3)
            ),
            world.event(page, 3, move(f"P{page}", f"Q{page}")),
        )
    world.add(world.event(1, 4, delete("Q1")))
    world.snapshot(3)
    return world


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def test_every_store_has_the_same_numbers(tmp_path: Path) -> None:
    """Of a known history all counts and raw sizes are known, in memory and on disk."""
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        fill(store)
        found = read_stats(store, quiet)
    (project,) = found.projects
    size = sum(len(f"page {page} on day {day}" * 40) for page in range(1, PAGES + 1) for day in range(3))
    assert ("w", 3 * PAGES, PAGES, 3 * PAGES, size) == (
        project.name,
        project.revisions,
        project.pages,
        project.texts,
        project.text_bytes,
    )
    assert 3 * PAGES == found.texts
    parts = {part.letter: part for part in found.parts}
    assert 3 * PAGES == parts["E"].rows == parts["R"].rows == parts["D"].rows
    assert PAGES + 1 == parts["M"].rows
    assert found.position == parts[""].rows == found.usage.tables["log"].rows
    assert size == parts["t"].raw_bytes > parts["t"].stored_bytes
    index = [part for letter, part in parts.items() if letter.isupper()]
    assert "others" not in {part.name for part in index}
    assert found.usage.tables["index"].rows == sum(part.rows for part in index)
    assert found.usage.tables["blobs"].rows == parts["t"].rows + parts["s"].rows
    # What rows and blobs take is nearly all of the pages that are in use.
    pages = found.usage.tables["index"].page_bytes
    assert pages / 3 < sum(part.stored_bytes for part in index) < pages
    memory = MemoryStore()
    fill(memory)
    assert [part.rows for part in found.parts] == [part.rows for part in read_stats(memory, quiet).parts]


def test_rows_in_runs_are_counted_for_what_they_take(tmp_path: Path) -> None:
    """After compaction rows and raw bytes are the same; what is stored is less, and nearly all there is."""
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        fill(store)
        before = {part.letter: part for part in read_stats(store, quiet).parts}
        store.compact()
        found = read_stats(store, quiet)
    parts = {part.letter: part for part in found.parts}
    assert before.keys() == parts.keys()
    for letter, part in parts.items():
        assert (before[letter].rows, before[letter].raw_bytes) == (part.rows, part.raw_bytes)
    assert parts["R"].stored_bytes < before["R"].stored_bytes / 3
    index = [part for letter, part in parts.items() if letter.isupper()]
    pages = found.usage.tables["index"].page_bytes + found.usage.tables["runs"].page_bytes
    assert pages / 3 < sum(part.stored_bytes for part in index) < pages


def test_the_backlog_of_sealing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that are no part of a block yet are counted, and their pages."""
    world = World()
    world.add(*(world.event(page, 1, edit(page, f"text {page}")) for page in range(1, 4)))
    world.add(world.event(2, 2, edit(20, "another text")))
    found = read_stats(world.store, quiet)
    assert (4, 3) == (found.tails, found.tail_pages)
    assert 3 * len("text 1") + len("another text") == found.tail_bytes
    monkeypatch.setattr(module, "_SLICE", 2)
    assert found == read_stats(world.store, quiet)


def test_slices_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small slices give the same counts, progress only grows, and a sample comes near the whole."""
    store = MemoryStore()
    fill(store)
    whole = read_stats(store, quiet)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "_SLICE", 7)
    monkeypatch.setattr(module, "_SAMPLES", 10)
    sliced = read_stats(store, lambda _, done, total: told.append((done, total)))
    assert all(one[0] <= two[0] <= two[1] for one, two in pairwise(told))
    assert told[-1][0] == told[-1][1]
    assert len(told) > 10
    for one, two in zip(whole.parts, sliced.parts, strict=True):
        assert (one.letter, one.rows, one.stored_bytes) == (two.letter, two.rows, two.stored_bytes)
        assert one.raw_bytes == pytest.approx(two.raw_bytes, rel=0.2)
    blobs = store.blob_sizes(b"s", b"t", 1000)
    with store.view() as view:
        raw = sum(raw_bytes(view.blob(key) or b"") for key, _ in blobs)
    sealed = next(part for part in whole.parts if part.letter == "s")
    assert raw == pytest.approx(sealed.raw_bytes, rel=0.01)


def test_an_empty_store() -> None:
    """Nothing takes nothing, and is no error."""
    found = read_stats(MemoryStore(), quiet)
    assert () == found.projects
    assert 0 == found.texts == sum(part.rows for part in found.parts)
    assert found.document()["total"] == {"revisions": 0, "pages": 0, "texts": 0}


def test_no_view_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No slice reads more rows than it may, so that no view lasts."""
    store = MemoryStore()
    fill(store)
    limits: list[int] = []
    with store.view() as view:
        kind = type(view)
    scan = kind.scan

    def counted(self: object, start: bytes, stop: bytes, *, limit: int = 0) -> list[tuple[bytes, bytes]]:
        limits.append(limit if start[:1] != b"P" else 1)
        return scan(self, start, stop, limit=limit)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "scan", counted)
    read_stats(store, quiet)
    assert all(0 < limit <= module._SLICE for limit in limits)
