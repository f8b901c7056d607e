from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.archive.clock import SeededSalts
from recension.archive.intake import frames
from recension.archive.intake.frames import (
    BATCH_BYTES,
    BATCH_ITEMS,
    HEADER,
    MAX_BODY_BYTES,
    MAX_META_BYTES,
    Batch,
    Fed,
    FrameError,
    parse_header,
    unpack_batch,
)
from recension.archive.intake.paging import Paging
from recension.archive.prepared import prepare_all
from recension.model.event import Comment, Contributor, Edit, Event, Presence, SlotText
from recension.sources.items import MAX_EXCERPT_BYTES, Item, Progress, Rejected, RunEnd, SiteInfo, Skipped
from tests.sources import strategies

SALTS = SeededSalts(b"frames")
text = st.text(max_size=20)
counts = st.integers(0, 2**63 - 1)
rejected = st.builds(
    Rejected,
    text,
    st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True),
    text,
    st.binary(max_size=MAX_EXCERPT_BYTES),
)
sites = st.builds(SiteInfo, text, text, text, text, st.dictionaries(st.integers(-2, 4000), text, max_size=5))
items = strategies.events() | rejected | sites | st.builds(Skipped, st.dictionaries(text, counts, max_size=5))


def pack(packed: list[Item], progress: Progress = Progress(3, 5)) -> tuple[bytes, memoryview]:  # noqa: B008 - a value
    batch = Batch(SALTS)
    for item in packed:
        batch.add(item)
    data = b"".join(batch.close().frame(progress).pieces())
    kind, meta, body = parse_header(data[: HEADER.size])
    assert (frames.BATCH, len(data)) == (kind, HEADER.size + meta + body)
    return data[HEADER.size : HEADER.size + meta], memoryview(data)[HEADER.size + meta :]


def fed_of(packed: list[Item]) -> Fed:
    """Return what a batch of these items is to be."""
    events = [item for item in packed if isinstance(item, Event)]
    return Fed([item for item in packed if not isinstance(item, Event | RunEnd)], prepare_all(events, SALTS))


@given(st.lists(items, min_size=1, max_size=5))
def test_round_trip(packed: list[Item]) -> None:
    """Events come prepared, other items as they went in, texts and excerpts to the byte."""
    assert (Progress(3, 5), fed_of(packed)) == unpack_batch(*pack(packed))


@given(st.lists(strategies.events(), min_size=1, max_size=9), st.data())
def test_sealed_values_of_one_event(events: list[Event], data: st.DataObject) -> None:
    """The sealed values of each event are found among those of its batch."""
    index = data.draw(st.integers(0, len(events) - 1))
    alone = prepare_all([events[index]], SALTS)
    _, fed = unpack_batch(*pack(list(events)))
    assert alone.sealed(0) == fed.events.sealed(index)


@given(st.lists(items, min_size=1, max_size=3), st.data())
def test_damaged_frames(packed: list[Item], data: st.DataObject) -> None:
    """A frame with any byte changed gives items or the one named error."""
    meta, body = pack(packed)
    at = data.draw(st.integers(0, len(meta) - 1))
    damaged = meta[:at] + data.draw(st.binary(max_size=2)) + meta[at + 1 :]
    with contextlib.suppress(FrameError):
        unpack_batch(damaged, body)


EDIT = Edit(
    9, 8, "A", 0, False, Contributor.named("Ann", 9), Comment.of("why"), False,  # noqa: FBT003
    (SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"text"),),
)  # fmt: skip
EVENT = Event("p", 7, 0, "s", EDIT)


@pytest.mark.parametrize(
    "place,value",
    [
        (0, 1),
        (0, -1),
        (0, "7"),
        (0, True),
        (0, 2**40),
        (1, None),
        (1, -1),
        (2, None),
        (2, "\ud800"),
        (3, ["\ud800"]),
        (3, [7]),
        (3, 7),
        (4, []),
        (4, [[4, 1]]),
        (4, [[4, 9, False]]),
        (4, [[4, 0, 0]]),
        (4, [[5, 0, False]]),
        (4, [[-1, 0, False]]),
    ],
)
def test_what_the_child_says_is_checked(place: int, value: Any) -> None:
    """Lengths and types of an event are checked: what does not fit is the one named error."""
    meta, body = pack([EVENT])
    frame = json.loads(meta)
    assert fed_of([EVENT]) == unpack_batch(json.dumps(frame).encode(), body)[1]
    frame[3][0][place] = value
    with pytest.raises(FrameError):
        unpack_batch(json.dumps(frame).encode(), body)


def paged() -> tuple[list[Any], bytes, int]:
    """Return a batch with one block of two texts of one page, in parts, and where the block begins."""
    batch = Batch(SALTS, Paging())
    for at, some in enumerate((b"x" * 3000, b"y" * 2000), 1):
        slot = replace(EDIT.slots[0], text=some)
        batch.add(replace(EVENT, source_id=str(at), what=replace(EDIT, rev_id=at, slots=(slot,))))
    frame = batch.close().frame(Progress(3, 5))
    body = b"".join(frame.body)
    meta = json.loads(frame.meta)
    return meta, body, len(body) - meta[-1][0][-1]


@pytest.mark.parametrize(
    "place,value",
    [
        (0, 8), (0, 2**64), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1),
        (5, [0, 1]), (5, [1]), (5, []), (5, [1, 2]), (5, [1, 0, 0]), (6, 10),
    ],
)  # fmt: skip
def test_what_the_child_says_of_a_block_is_checked(place: int, value: Any) -> None:
    """Page, index, depth and texts are those in the head of the block: another is the one named error."""
    meta, body, _ = paged()
    _, fed = unpack_batch(json.dumps(meta).encode(), memoryview(body))
    assert [(7, 0, 0)] == [(block.page, block.index, block.depth) for block in fed.events.blocks]
    meta[-1][0][place] = value
    with pytest.raises(FrameError):
        unpack_batch(json.dumps(meta).encode(), memoryview(body))


def test_the_head_of_a_block_is_checked() -> None:
    """The same where the block itself says something else, down to the lengths of its texts."""
    meta, body, start = paged()
    for at in range(start, start + 38):
        wrong = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        with pytest.raises(FrameError):
            unpack_batch(json.dumps(meta).encode(), memoryview(wrong))


def test_a_log_item_that_is_none_is_refused() -> None:
    """The public part of an event is read by the rules of the log."""
    meta, body = pack([EVENT])
    packed = json.loads(meta)[4][0]
    for wrong in (b"\xff", b"\x10"):
        damaged = bytes(body[:packed]) + wrong + bytes(body[packed + 1 :])
        with pytest.raises(FrameError):
            unpack_batch(meta, memoryview(damaged))


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b"[2,1]",
        b"[-1,1]",
        b"[0,0,5]",
        b"[0,0,[]]",
        b"[0,0,[[]],[],[]]",
        b"[0,0,[],[[]],[]]",
        b"[0,0,[],[],[-1]]",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_metadata_that_is_none(meta: bytes) -> None:
    """A frame whose JSON is not a batch is refused."""
    with pytest.raises(FrameError):
        unpack_batch(meta, memoryview(b""))


@given(st.binary(max_size=10), st.binary(max_size=10))
def test_body_fits_the_items(less: bytes, more: bytes) -> None:
    """Texts that reach beyond the frame, and bytes that belong to none, are refused."""
    meta, body = pack([Rejected("line 1", "BAD", "", b"excerpt")])
    for wrong in (bytes(body)[: -len(less) - 1], bytes(body) + b"x" + more):
        with pytest.raises(FrameError):
            unpack_batch(meta, memoryview(wrong))


@pytest.mark.parametrize(
    "kind,meta,body",
    [(b"X", 1, 1), (b"B", MAX_META_BYTES + 1, 0), (b"B", 1, MAX_BODY_BYTES + 1), (b"E", 1, 1), (b"Z", 1, 1)],
)
def test_sizes_are_bounded_before_they_are_read(kind: bytes, meta: int, body: int) -> None:
    """A header that announces more than a frame may have is refused."""
    with pytest.raises(FrameError):
        parse_header(HEADER.pack(kind, meta, body))


def test_a_batch_is_full_by_number_or_size() -> None:
    """A batch is closed at 1,024 items, or when it has reached 16 MiB."""
    batch = Batch(SALTS)
    for _ in range(BATCH_ITEMS):
        assert not batch.full
        batch.add(EVENT)
    assert batch.full
    batch.close()
    assert (0, False) == (len(batch), batch.full)
    for _ in range(BATCH_BYTES // MAX_EXCERPT_BYTES // BATCH_ITEMS):
        batch.add(Rejected("", "BAD", "", b"x" * MAX_EXCERPT_BYTES))
    assert not batch.full
