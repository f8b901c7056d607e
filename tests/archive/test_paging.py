"""Blocks made beside the parser: when they are used, and that a history without them gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import pytest

from recension.archive.check.run import Check
from recension.archive.clock import SeededSalts
from recension.archive.erase import erase_text
from recension.archive.ingest import Ingestor
from recension.archive.intake import frames
from recension.archive.intake.frames import Batch, unpack_batch
from recension.archive.intake.paging import Paging
from recension.archive.prepared import PreparedEvents
from recension.archive.reader import Archive
from recension.archive.texts.block import BLOCK_BYTES, TAIL, placed
from recension.archive.texts.reading import load, texts_of
from recension.archive.texts.rows import page_blocks
from recension.model.digest import digest_of
from recension.model.event import Event
from recension.model.manifest import Selector
from recension.sources.items import Progress
from recension.store import keys
from recension.store.interface import Rewrite
from recension.store.memory import MemoryStore
from tests.archive.helpers import NOW, World, edit

SALTS = SeededSalts(b"paging")


def fed(events: Iterable[Event]) -> list[PreparedEvents]:
    """Return what the process that parses would send."""
    batch, out = Batch(SALTS, Paging()), []
    for event in events:
        batch.add(event)
        if batch.full:
            out.append(sent(batch))
    out.append(sent(batch))
    return out


def fed_apart(*groups: Iterable[Event]) -> list[PreparedEvents]:
    """Return what it would send if batches ended just there."""
    batch, out = Batch(SALTS, Paging()), []
    for group in groups:
        for event in group:
            batch.add(event)
        out.append(sent(batch))
    return out


def sent(batch: Batch) -> PreparedEvents:
    """Close a batch and return what arrives of it."""
    frame = batch.close().frame(Progress(0, 0))
    return unpack_batch(frame.meta, memoryview(b"".join(frame.body)))[1].events


def text(page: int, revision: int, lines: int = 300) -> str:
    """Return a text of some 12 KB, of which each revision has another line."""
    own = [f"this is line {line} of the text of page {page}, as it was at first" for line in range(lines)]
    own[revision % lines] += f", until revision {revision}"
    return "\n".join(own)


def history(world: World, pages: int = 3, revisions: int = 60) -> list[Event]:
    """Return pages of two blocks each, in the order of a dump."""
    return [
        world.event(page, 100 * page + at, edit(1000 * page + at, text(page, at), f"Page {page}"))
        for page in range(1, pages + 1)
        for at in range(revisions)
    ]


def roots(world: World) -> list[bytes]:
    """Return the roots of the corpus at some days."""
    archive = Archive(world.store, clock=lambda: NOW)
    selector = Selector.of(["w"])
    return [
        archive.create_snapshot(selector, valid_at=world.day(day)).parts[0].root for day in (120, 250, 999)
    ]


def world() -> World:
    made = World(MemoryStore())
    made.ingestor = Ingestor(made.store, clock=lambda: NOW, salts=SALTS)
    return made


def block_rows(world: World) -> int:
    with world.store.view() as view:
        return len(view.scan(keys.page_block(0, 0, 0), b"H"))


def test_a_dump_is_stored_in_the_blocks_that_came_with_it() -> None:
    """Nothing is left to seal, and roots are those of the same events one after another."""
    ours, theirs = world(), world()
    for batch in fed(history(ours)):
        ours.ingestor.append_prepared("w", batch)
    before = block_rows(ours)
    assert 6 == before
    assert 0 == ours.ingestor.settle()
    for event in history(theirs):
        theirs.add(event)
    theirs.ingestor.settle()
    assert roots(ours) == roots(theirs)
    assert not Check(ours.store).run().shown


def test_the_second_time_nothing_is_stored() -> None:
    """The same dump again is known to the last text, whatever blocks come with it."""
    one = world()
    batches = fed(history(one))
    accepted = [one.ingestor.append_prepared("w", batch).accepted for batch in [*batches, *batches]]
    assert [0] * len(batches) == accepted[len(batches) :]
    assert 6 == block_rows(one)
    assert not Check(one.store).run().shown


@pytest.mark.parametrize("known", [1, 7, 59, 61, 130])
def test_blocks_that_do_not_fit_are_made_anew(known: int) -> None:
    """Where the store holds a part of a page, or one of its texts elsewhere, all is read back."""
    one, whole = world(), world()
    events = history(one)
    one.add(*events[known : known + 9])
    copied = one.event(77, 1, edit(7, text(2, 4), "A copy"))
    one.add(copied)
    whole.add(*events, copied)
    for batch in fed(events):
        assert not one.ingestor.append_prepared("w", batch).rejected
    one.ingestor.settle()
    assert roots(one) == roots(whole)
    archive = Archive(one.store, clock=lambda: NOW)
    for event in islice(events, 0, None, 7):
        slot = archive.revision("w", event.what.rev_id).revision.slot()  # type: ignore[union-attr]
        assert slot is not None
        assert slot.text == event.what.slots[0].text  # type: ignore[union-attr]
    assert not Check(one.store).run().shown


def test_a_page_of_one_text_does_not_hold_its_batch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that never fills is ended, so a batch is closed after ``MOST_ITEMS``."""
    monkeypatch.setattr(frames, "MOST_ITEMS", 40)
    monkeypatch.setattr(frames, "PAGED_ITEMS", 10)
    one = world()
    same = [one.event(1, at, edit(at + 1, "the same text")) for at in range(100)]
    assert [40, 10, 10, 10, 10, 10, 10, 0] == [len(batch.events) for batch in fed(same)]
    assert [1] == [len(batch.blocks) for batch in fed(same) if batch.blocks]


def test_a_large_text_is_left_to_the_writer() -> None:
    """A page with a text above 2 MiB has blocks up to it and none after."""
    one = world()
    large = "x" * (3 << 20)
    texts = [text(1, 1), text(1, 2), large, text(1, 3)]
    events = [one.event(1, at, edit(at + 1, content)) for at, content in enumerate(texts)]
    batches = fed(events)
    assert [2] == [len(block.digests) for batch in batches for block in batch.blocks]
    for batch in batches:
        one.ingestor.append_prepared("w", batch)
    assert large == one.text(1, 2)
    one.ingestor.settle()
    assert text(1, 3) == one.text(1, 3)
    assert not Check(one.store).run().shown


def test_two_pages_offer_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is never compressed against another page's that merely offers what its own page's would have.

    The text is known when the second file brings it, so the first block of that page is made anew, without
    it. Later the first page's block is merged with newer texts, and goes.
    """
    one = world()
    shared = text(1, 9, 100)
    before = [text(2, at, 100) for at in range(BLOCK_BYTES // len(text(2, 0, 100)))]
    after = [f"{shared}\n{text(2, at, 200)}" for at in range(60)]
    contents = [*before, shared, *after]
    first = [one.event(1, at, edit(at + 1, text(1, at, 100))) for at in range(10)]
    second = [one.event(2, at, edit(1000 + at, content)) for at, content in enumerate(contents)]
    monkeypatch.setattr(frames, "PAGED_ITEMS", len(before) + 1)
    batches = [*fed(first), *fed(second)]
    offered = [block.offers for batch in batches for block in batch.blocks if not block.index]
    assert [digest_of(shared.encode())] * 2 == offered
    for batch in batches:
        one.ingestor.append_prepared("w", batch)
    one.add(*(one.event(1, 500 + at, edit(5000 + at, text(1, 20 + at))) for at in range(3)))
    one.ingestor.settle()
    assert not Check(one.store).run().shown
    for at in (len(before) + 1, len(contents) - 1):
        assert contents[at] == one.text(2, at)


def test_a_prefix_that_nobody_looks_after_is_found() -> None:
    """A later block of a page is compressed against that block of its page, and against no copy of it."""
    one = world()
    for batch in fed(history(one)):
        one.ingestor.append_prepared("w", batch)
    with one.store.view() as view:
        first, second = (keys.block(row.number) for _, row in page_blocks(view, 1, 1))
        copied, later = view.blob(first), view.blob(second)
    assert copied is not None
    assert later is not None
    blobs: dict[bytes, bytes | None] = {keys.block(999): copied, second: placed(later, 1, 999)}
    assert [True] == one.store.rewrite([Rewrite({}, {}, blobs)])
    kinds = {finding.kind for finding in Check(one.store).run().shown}
    assert {"prefix-elsewhere", "block-orphan"} == kinds


def erase_offer(one: World, offered: Event) -> None:
    """Erase the text that a block offers."""
    assert erase_text(one.store, text_digest(offered)).blocks


def merge_offer(one: World, offered: Event) -> None:
    """Merge its block with tails, as it happens between commits."""
    one.add(one.event(1, 500, edit(5000, f"{text(1, 20)}\nmore")))
    one.ingestor._sealer.settle(lambda _: None, everything=True)
    assert text_digest(offered) in digests(one, first_block(one))


def sort_offer(one: World, offered: Event) -> None:
    """Let older texts come, so that the page is sorted and the same id stands for other texts."""
    before = first_block(one)
    for late in range(2):
        one.add(
            *(
                one.event(1, late + at / 100, edit(5000 + 100 * late + at, text(3 + late, at)))
                for at in range(25)
            )
        )
    one.ingestor.settle()
    assert before == first_block(one)
    assert text_digest(offered) not in digests(one, before)


def digests(one: World, block: int) -> list[bytes]:
    """Return the digests of the texts of a block."""
    with one.store.view() as view:
        return [digest_of(some) for some in texts_of(view, load(view, block))]


def first_block(one: World) -> int:
    """Return the id of the first block of page 1."""
    with one.store.view() as view:
        return page_blocks(view, 1, 1)[0][1].number


def text_digest(event: Event) -> bytes:
    """Return the digest of an edit's text."""
    return digest_of(event.what.slots[0].text)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "revisions, change", [(30, None), (30, erase_offer), (20, merge_offer), (30, sort_offer)]
)
def test_a_prefix_is_taken_as_it_came_or_not_at_all(
    revisions: int, change: Callable[[World, Event], None] | None
) -> None:
    """Where the block that offers it became another meanwhile, what needs it is made anew."""
    one = world()
    first = [one.event(1, 100 + at, edit(at + 1, text(1, at))) for at in range(revisions)]
    second = [one.event(2, 300 + at, edit(1000 + at, f"{text(1, at)}\nmine")) for at in range(40)]
    batches = fed_apart(first, second)
    assert text_digest(first[-1]) == batches[1].blocks[0].needs
    one.ingestor.append_prepared("w", batches[0])
    if change is not None:
        change(one, first[-1])
    one.ingestor.append_prepared("w", batches[1])
    assert change is not None or used(one)
    assert not Check(one.store).run().shown
    for at in range(40):
        assert f"{text(1, at)}\nmine" == one.text(2, 300 + at)


def used(one: World) -> bool:
    """Say whether page 2 is compressed against page 1."""
    with one.store.view() as view:
        return load(view, page_blocks(view, 1, 2)[0][1].number).prefix == first_block(one)


def test_a_page_that_is_being_sealed_is_not_forgotten() -> None:
    """Its place in the writer's memory says that its next block is taken; it goes when it is sealed."""
    one = world()
    page = [one.event(1, at, edit(at + 1, text(1, at, 4))) for at in range(33)]
    page[1] = one.event(1, 1, edit(2, "x" * (3 << 20)))
    others = [[one.event(number, 100, edit(100 * number, text(number, 1)))] for number in (2, 3)]
    batches = fed_apart(page, *others)
    assert [[TAIL], [0], [0]] == [[block.index for block in batch.blocks] for batch in batches]
    writer = one.ingestor._texts
    for batch in batches[:2]:
        one.ingestor.append_prepared("w", batch)
        assert writer.pages[1, 1].sealing
    one.ingestor.settle()
    one.ingestor.append_prepared("w", batches[2])
    assert (1, 1) not in writer.pages
    assert not Check(one.store).run().shown
