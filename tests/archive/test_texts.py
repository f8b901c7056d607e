"""Reading texts: one, or many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from recension.archive.texts import reading
from recension.archive.texts.block import Block
from recension.archive.texts.reading import place_value, read_place, read_text, read_texts
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.store import keys
from recension.store.interface import Rewrite, View
from tests.archive.helpers import World, edit

PAGES, REVISIONS = 3, 40


def text_at(page: int, rev: int) -> bytes:
    """Return the text of a page's revision: what it had before, and a line more."""
    return b"".join(b"page %d, line %d of a growing text\n" % (page, line) for line in range(rev + 1))


@pytest.fixture
def world() -> World:
    """Pages whose texts lie in a sealed block each, but for the last, which is a tail."""
    world = World()
    for rev in range(REVISIONS):
        world.add(
            *(
                world.event(page, rev, edit(page * 100 + rev, text_at(page, rev).decode()))
                for page in range(1, PAGES + 1)
            )
        )
    world.ingestor.settle()
    for page in range(1, PAGES + 1):
        text = text_at(page, REVISIONS).decode()
        world.add(world.event(page, REVISIONS, edit(page * 100 + REVISIONS, text)))
    return world


def test_texts_come_in_the_order_asked(world: World) -> None:
    """Of several pages, sealed or not, and one asked for twice."""
    asked = [(2, 3), (1, 0), (3, REVISIONS), (2, 39), (1, 0), (1, 7)]
    digests = [digest_of(text_at(*one)) for one in asked]
    with world.store.view() as view:
        assert read_texts(view, digests) == [text_at(*one) for one in asked]
        assert [read_text(view, digest) for digest in digests] == [text_at(*one) for one in asked]
        assert read_texts(view, []) == []


def test_a_block_is_loaded_once_for_all_its_texts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its texts are asked for."""
    loads: Counter[int] = Counter()
    load: Callable[[View, int], Block] = reading.load

    def counted(view: View, number: int) -> Block:
        loads[number] += 1
        return load(view, number)

    monkeypatch.setattr(reading, "load", counted)
    texts = [text_at(page, rev) for rev in range(20) for page in range(1, PAGES + 1)]
    with world.store.view() as view:
        assert read_texts(view, list(map(digest_of, texts))) == texts
    assert sorted(loads.values()) == [1] * PAGES


@pytest.mark.parametrize("place, why", [(None, "missing"), (60, "not in its block"), (4, "does not match")])
def test_a_text_that_is_lost_is_named(world: World, place: int | None, why: str) -> None:
    """Its row is gone, or leads behind the block's end, or to another text; neighbours do not hide it."""
    digest = digest_of(text_at(1, 3))
    row = keys.text(digest)
    with world.store.view() as view:
        number = read_place(view.get(row) or b"")[0]
    changed = None if place is None else place_value(number, place)
    assert world.store.rewrite([Rewrite({}, {row: changed}, {})]) == [True]
    others = [digest_of(text_at(1, rev)) for rev in (2, 4)]
    with world.store.view() as view:
        assert len(read_texts(view, others)) == len(others)
        with pytest.raises(DataLossError, match=why) as raised:
            read_texts(view, [others[0], digest, others[1]])
    assert raised.value.metadata["digest"] == digest.hex()
