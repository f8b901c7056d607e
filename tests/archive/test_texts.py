"""Texts in blocks: laid out the newest first, and read one or many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import zstandard
from hypothesis import example, given

from recension.archive.texts import block as blocks
from recension.archive.texts import reading, sealing, writing
from recension.archive.texts.block import (
    BLOCK_LEVEL,
    NO_PREFIX,
    Block,
    Prefix,
    decode_chain,
    encode,
    parent,
    prefix_text,
    read_block,
)
from recension.archive.texts.reading import (
    Frame,
    load,
    place_value,
    read_place,
    read_stored,
    read_text,
    read_texts,
)
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


SHORT = st.binary(max_size=12) | st.just(b"a text that is somewhat longer than a frame")


@given(st.lists(SHORT, min_size=1, max_size=12), st.none() | SHORT)
@example([b"", b"1234567", b"8"], b"12345678")
def test_a_block_holds_any_texts(texts: list[bytes], before: bytes | None) -> None:
    """They are read one by one through a chain of frames, or all in memory; with a prefix or without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "FRAME_BYTES", 20)
        other = read_block(encode(1, 1, 0, [before or b""], NO_PREFIX, BLOCK_LEVEL))
        prefix = Prefix(5, 0, prefix_text([before])) if before else NO_PREFIX
        block = read_block(encode(1, 1, 1, texts, prefix, BLOCK_LEVEL))
    chain = [other.frames[0]] if block.prefix else []
    assert bool(chain) == (other.serves and bool(before))
    assert block.split(prefix.text) == texts
    assert (block.offer(prefix.text) if block.serves else b"") == prefix_text(texts)
    for ordinal, text in enumerate(texts):
        frame, start, end = block.find(ordinal)
        assert decode_chain(1, [*chain, *block.frames[: frame + 1]])[start:end] == text


def block_of(world: World, text: bytes) -> int:
    """Return the id of the block that a text lies in."""
    with world.store.view() as view:
        return read_place(view.get(keys.text(digest_of(text))) or b"")[0]


def put_block(world: World, number: int, raw: bytes) -> None:
    """Put other bytes in the place of a block."""
    assert world.store.rewrite([Rewrite({}, {}, {keys.block(number): raw})]) == [True]


def test_the_newest_text_needs_no_other(world: World) -> None:
    """It is read where the rest of its block is damaged; older ones are told, and reading goes on."""
    newest, older, elsewhere = text_at(1, REVISIONS - 1), text_at(1, 5), text_at(2, 5)
    number = block_of(world, newest)
    with world.store.view() as view:
        raw = view.blob(keys.block(number)) or b""
        block = load(view, number)
        assert block.sizes == (len(newest), sum(block.lengths[1:]))
    put_block(world, number, raw[:-20] + bytes(20))
    with world.store.view() as view:
        assert read_text(view, digest_of(newest)) == newest
        with pytest.raises(DataLossError, match="damaged"):
            read_texts(view, [digest_of(newest), digest_of(older)])
        assert read_texts(view, [digest_of(elsewhere), digest_of(newest)]) == [elsewhere, newest]


def test_prefixes_in_a_circle_are_damage(world: World) -> None:
    """A block that names itself is no endless read."""
    number = block_of(world, text_at(1, 5))
    texts = [text_at(1, rev) for rev in range(REVISIONS - 1, -1, -1)]
    prefix = Prefix(number, 0, texts[0])
    put_block(world, number, encode(1, 1, 0, texts, prefix, BLOCK_LEVEL))
    with world.store.view() as view, pytest.raises(DataLossError, match="no end"):
        read_text(view, digest_of(texts[5]))


@pytest.mark.parametrize("cut", [10, 60, -1])
def test_a_block_that_is_cut_is_damage(world: World, cut: int) -> None:
    """In its head, among its lengths, or at its end."""
    number = block_of(world, text_at(1, 5))
    with world.store.view() as view:
        raw = view.blob(keys.block(number)) or b""
    put_block(world, number, raw[:cut])
    with world.store.view() as view, pytest.raises(DataLossError, match="damaged"):
        read_text(view, digest_of(text_at(1, 5)))


@pytest.mark.parametrize("lone, longest, alone", [(False, 4, 64), (True, 8, 4)])
def test_chains_of_prefixes_are_short(lone: bool, longest: int, alone: int) -> None:  # noqa: FBT001
    """Each block leads to one before it, and few have no prefix at all."""
    chains = [0] * 1024
    for index in range(len(chains)):
        above = parent(index, lone=lone)
        assert above < index
        chains[index] = chains[above] + 1 if above >= 0 else 0
    assert max(chains) == longest
    assert chains.count(0) == alone


def test_texts_that_fill_blocks_share_a_long_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each of a page's blocks holds one text, the first alone has no prefix."""
    for module in blocks, sealing, writing:
        monkeypatch.setattr(module, "BLOCK_BYTES", 500)
    world = World()
    texts = [text_at(1, rev) for rev in range(20, 60)]
    for rev, text in enumerate(texts, 1):
        world.add(world.event(1, rev, edit(rev, text.decode())))
    world.ingestor.settle()
    with world.store.view() as view:
        numbers = [read_place(view.get(keys.text(digest_of(text))) or b"")[0] for text in texts]
        assert len(set(numbers)) == len(texts)
        assert [bool(load(view, number).prefix) for number in numbers] == [False] + [True] * (len(texts) - 1)
        assert read_texts(view, list(map(digest_of, texts))) == texts


def test_no_page_is_compressed_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting makes a first block anew under the id that it had; what was planned once is forgotten."""
    monkeypatch.setattr(writing, "SEAL_TEXTS", 4)
    monkeypatch.setattr(sealing, "WORTHWHILE_BYTES", 60)
    for module in writing, sealing:
        monkeypatch.setattr(module, "BLOCK_BYTES", 400)
    lines = [f"line {number} of a text, long enough to be told apart\n" for number in range(3)]
    world = World()
    texts = [
        lines[0] * 7,
        lines[0],
        lines[0] * 3,
        "".join(lines) + lines[0] * 5,
        lines[0] * 2,
        lines[0] * 5,
        "ninebytes",
    ]
    for rev, (day, text) in enumerate(zip((0, 17, 16, 0, 35, 0, 0), texts, strict=True), 1):
        world.add(world.event(3, day, edit(rev, text)))
        if rev > len(texts) - 2:
            world.ingestor.settle()
    with world.store.view() as view:
        assert read_texts(view, [digest_of(text.encode()) for text in texts]) == list(map(str.encode, texts))


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


def test_texts_as_they_are_stored(world: World) -> None:
    """What lies alone in a frame that needs no other comes as that frame, if it may; the rest decoded."""
    places = [(1, REVISIONS - 1), (1, 5), (2, REVISIONS), (3, REVISIONS - 1), (2, 5)]
    texts = [text_at(*place) for place in places]
    digests = [digest_of(text) for text in texts]
    with world.store.view() as view:
        assert read_stored(view, digests) == texts
        frame, *rest = read_stored(view, digests, {digests[0], digests[1], digests[2]})
        assert rest == texts[1:]
        assert isinstance(frame, Frame)
        assert zstandard.decompress(frame.data) == texts[0]
        assert len(frame.data) < len(texts[0])


def test_a_frame_holds_nothing_else() -> None:
    """Neither a text too short for a frame of its own, nor what an erased one left, is passed on with it."""
    texts = [b"short", b"a text that is long enough", b"older"]
    assert not any(read_block(encode(1, 1, 0, texts, NO_PREFIX, BLOCK_LEVEL)).alone(at) for at in range(3))
    erased = read_block(encode(1, 1, 0, [b"", *texts[1:]], NO_PREFIX, BLOCK_LEVEL))
    assert [erased.alone(at) for at in range(3)] == [False, True, False]
    against = read_block(encode(1, 1, 0, texts[1:], Prefix(5, 0, texts[1]), BLOCK_LEVEL))
    assert not against.alone(0)


def test_stored_texts_are_compared_by_nobody_yet(world: World) -> None:
    """A row that leads to another text is told by whoever compares; one that leads nowhere is told here."""
    digest = digest_of(text_at(1, 3))
    with world.store.view() as view:
        number = read_place(view.get(keys.text(digest)) or b"")[0]
    for place, found in ((4, text_at(1, REVISIONS - 5)), (0, text_at(1, REVISIONS - 1)), (60, None)):
        changed = place_value(number, place)
        assert world.store.rewrite([Rewrite({}, {keys.text(digest): changed}, {})]) == [True]
        with world.store.view() as view:
            if found is not None:
                assert read_stored(view, [digest]) == [found]
                continue
            with pytest.raises(DataLossError, match="not in its block"):
                read_stored(view, [digest], {digest})
