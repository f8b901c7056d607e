"""A replay from a stage finds what asking each page finds, whatever happened before and after it."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from recension.archive import folding, stages
from recension.archive.columns import Part, covered, find_parts
from recension.archive.erase import erase_text
from recension.archive.folding import Fold, keep_stages
from recension.archive.garbage import Garbage, collect
from recension.archive.history import Choice
from recension.archive.packing import Numbers
from recension.archive.rebuild import rebuild
from recension.archive.stages import Stage, due, find_stages
from recension.model.manifest import OnHidden, Selector
from recension.store import keys
from recension.store.memory import MemoryStore
from tests.archive.growing import DAYS, SELECTORS, Growing, put, replayed, small_parts
from tests.archive.test_check import found


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages after some dozens of events, of some pages a chunk, and replays of some pages at a time."""
    small_parts(monkeypatch)
    monkeypatch.setattr(stages, "EVERY", 20)
    monkeypatch.setattr(stages, "_PER_PAGE", 0)
    monkeypatch.setattr(stages, "CHUNK", 5)
    monkeypatch.setattr(folding, "_SPAN", 100)


def staged(seed: int, marked: float = 0.3) -> Growing:
    """Return a world with stages of several T and K; events of all times came behind each of them."""
    world = Growing(random.Random(seed), marked)
    for _ in range(4):
        world.grow(12)
        world.ingestor.settle()
    world.grow(3)  # in the log alone
    return world


def told(world: Growing, choice: Choice, selector: Selector = SELECTORS[0]) -> tuple[bytes, int]:
    """Return the entries that the timelines tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "_BEHIND", -1)
        return replayed(world.store, selector, choice)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Stage | None]:
    """The stages that replays started from."""
    found: list[Stage | None] = []
    nearest = Fold._nearest

    def noting(fold: Fold, until: int) -> Stage | None:
        found.append(nearest(fold, until))
        return found[-1]

    monkeypatch.setattr(Fold, "_nearest", noting)
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("marked", [0.05, 0.6])
def test_entries_from_a_stage_are_those_of_the_timelines(
    seed: int, marked: float, used: list[Stage | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any question and selector, also before the first stage, and after texts were erased."""
    monkeypatch.setattr(folding, "_SMALL_TABLE", 10**6 * (seed % 2))
    world = staged(seed, marked)
    known = find_stages(world.store, 1)
    assert len({stage.upto for stage in known}) > 1
    assert len({stage.valid_at for stage in known}) > len({stage.upto for stage in known})
    entries = list(world.archive.entries(world.snapshot(DAYS, on_hidden=OnHidden.KEEP)))
    for entry in entries[:3]:
        erase_text(world.store, entry.slots[0].digest)
    used.clear()
    for on_hidden in OnHidden:
        for selector in SELECTORS:
            for _ in range(2):
                choice = world.choice()._replace(on_hidden=on_hidden)
                assert told(world, choice, selector) == replayed(world.store, selector, choice)
    assert len(set(used) - {None}) > 3
    assert None in used


@pytest.mark.parametrize("wrong", ["marks", "late", "positions", "times", "unknown", "later"])
def test_a_stage_that_is_wrongly_used_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a rule of the stages the entries are others: the comparison above can fail."""
    world = staged(1)
    choices = [world.choice()._replace(on_hidden=OnHidden.SKIP) for _ in range(25)]
    expected = [told(world, choice) for choice in choices]
    begin, nearest, init = folding._Table.begin, Fold._nearest, Fold.__init__

    def without_marks(table: folding._Table, slots: Numbers, columns: list[Numbers]) -> None:
        begin(table, slots, columns)
        table.marks[:] = 0

    def never_late(table: folding._Table, _: int) -> None:
        table.marks &= ~np.uint8(stages.Mark.LATE)

    def knowing_all(fold: Fold, *of: Any) -> None:
        init(fold, *of)
        fold._stages = find_stages(world.store, 1)

    wrongs: dict[str, tuple[object, str, object]] = {
        "marks": (folding._Table, "begin", without_marks),
        "late": (folding._Table, "settle", never_late),
        "positions": (Fold, "_behind", lambda fold, stage: fold._lasts > stage.valid_at),
        "times": (Fold, "_behind", lambda fold, stage: fold._uptos > stage.upto),
        "unknown": (Fold, "__init__", knowing_all),
        "later": (Fold, "_nearest", lambda fold, _: nearest(fold, folding.FOREVER)),
    }
    monkeypatch.setattr(*wrongs[wrong])
    with suppress(IndexError):  # of a page that the newest question of all does not know
        assert expected != [replayed(world.store, SELECTORS[0], choice) for choice in choices]


@pytest.mark.parametrize("letter", [b"g", b"h"])
def test_lost_stages_cost_time_alone(letter: bytes) -> None:
    """Without one of the rows, or with one that says nothing, the entries are the same."""
    world = staged(2, 0.1)
    choice = Choice(world.day(DAYS), world.store.log.head().position)
    expected = told(world, choice)
    with world.store.view() as view:
        rows = view.scan(letter, bytes([letter[0] + 1]))
    lost = rows[-9::2] if letter == b"h" else rows
    for key, value in lost:
        for what in (None, b"", value[:-9], value[:-12]):
            put(world.store, key, what)
            assert replayed(world.store, SELECTORS[0], choice) == expected
        put(world.store, key, value)


def test_stages_are_due_after_so_many_events() -> None:
    """None before, then one each so many events in the order of time, and one of all times."""

    def part(upto: int, first: int, last: int) -> Part:
        return Part(upto, 0, 0, 10, first, last, 9, 1, 0)

    parts = [part(5, 0, 9), part(5, 10, 19), part(5, 20, 29), part(5, 30, 39), part(5, 40, 49)]
    assert due(parts[:1], [], 9) == []
    assert due(parts, [], 9) == [19, 39, 49]
    stage = Stage(5, 49, ())
    assert due(parts, [stage], 9) == []
    assert due(parts, [Stage(5, 19, ())], 9) == [39, 49]  # a writer was killed between the first and the next
    assert due([*parts, part(6, 12, 15)], [stage], 9) == []
    assert due([*parts, part(6, 12, 15), part(7, 0, 3)], [stage], 9) == [15, 49]


def test_stages_take_a_few_bytes_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many pages there are, stages take a few bytes an event."""
    monkeypatch.setattr(stages, "_PER_PAGE", 4)
    part = Part(5, 0, 0, 100, 0, 9, 9, 1, 0)
    assert due([part], [], 25) == [9]
    assert due([part], [], 26) == []


def test_a_kept_stage_is_made_once() -> None:
    """Nothing is made when nothing is due, and what was left of a killed making is used."""
    world = staged(3)
    with world.store.view() as view:
        rows = view.scan(b"g", b"i")
    keep_stages(world.store, 1)
    with world.store.view() as view:
        assert view.scan(b"g", b"i") == rows
    newest = keys.read_stage(rows[-1][0][:-4])[0]
    for key, _ in rows:
        if key[:1] == b"g" and keys.read_stage(key)[0] == newest:
            put(world.store, key, None)
    keep_stages(world.store, 1)
    with world.store.view() as view:
        assert view.scan(b"g", b"i") == rows


def test_a_rebuild_makes_stages_anew() -> None:
    """Of the event columns that it made: they lead to the same entries."""
    world = staged(4)
    target = MemoryStore()
    rebuild(world.store, target)
    made = find_stages(target, 1)
    assert made
    assert {stage.upto for stage in made} == {covered(find_parts(target, 1))}
    for _ in range(20):
        choice = world.choice()
        assert replayed(target, SELECTORS[0], choice) == told(world, choice)


def test_fsck_makes_stages_again() -> None:
    """Nothing is found in what was written; each row that is another, or none, is."""
    world = staged(5, 0.1)
    assert found(world.store) == {}
    with world.store.view() as view:
        rows = view.scan(b"g", b"i")
    others = dict(rows)
    for key, value in rows[-4:] + rows[:2]:
        other = next(value for one, value in others.items() if one[:1] == key[:1] and value != others[key])
        for what in (other, b"", None) if key[:1] == b"h" else (other, b""):
            put(world.store, key, what)
            assert set(found(world.store)) & {"stages-wrong", "stages-damaged"}
        put(world.store, key, value)
    assert found(world.store) == {}


def test_pages_of_a_stage_that_no_row_names_are_garbage() -> None:
    """A writer that was killed leaves them; those of other stages stay."""
    world = staged(6)
    with world.store.view() as view:
        names, chunks = view.scan(b"g", b"h"), view.scan(b"h", b"i")
    put(world.store, names[-1][0], None)
    left = [row for row in chunks if row[0][1:].startswith(names[-1][0][1:])]
    size = sum(len(key) + len(value) for key, value in left)
    assert collect(world.store, delete=True) == Garbage(column_rows=len(left), column_bytes=size)
    with world.store.view() as view:
        assert view.scan(b"h", b"i") == [row for row in chunks if row not in left]
