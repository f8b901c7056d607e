"""Batches that are put together as bytes say what message objects would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recension.model.digest import digest_of
from recension.model.event import Presence
from recension.model.reading import Entry, Slot
from recension.v1 import snapshot_service_pb2 as pb
from recension.wire import convert
from recension.wire.splice import Answer, EntryBatch
from tests.wire.strategies import entries


@given(
    st.lists(entries(frames=True), min_size=1, max_size=4),
    st.text(max_size=300),
    st.integers(0, 40),
    st.sampled_from([pb.ReadSnapshotResponse, pb.ReadEntriesResponse]),
)
def test_a_batch_is_the_message_of_its_entries(
    some: list[Entry], cursor: str, room: int, answer: type[Answer]
) -> None:
    """Whatever is left out for its size, both ways say the same, and the sizes are those of the bytes."""
    batch = EntryBatch()
    omitted = [batch.add(entry, convert.TextBudget(room, room)) for entry in some]
    message = answer.FromString(batch.message(answer, cursor))
    plain = [convert.entry_to_proto(entry, convert.TextBudget(room, room)) for entry in some]
    assert answer(batch=pb.EntryBatch(entries=plain, cursor=cursor)) == message
    assert omitted == [
        tuple(number for number, slot in enumerate(entry.slots) if slot.text_omitted) for entry in plain
    ]
    assert pb.EntryBatch(entries=plain).ByteSize() == batch.size
    sent = [slot for entry in plain for slot in entry.slots if slot.text or slot.text_zstd]
    assert sum(slot.size_bytes for slot in sent) == batch.text_bytes
    assert {int(slot.presence) for slot in sent} <= {int(Presence.PRESENT)}


def test_a_length_of_several_bytes_is_told() -> None:
    """Lengths beyond 127, 16,383 and so on take more bytes, also one of exactly 128."""
    for size in (127, 128, 16_383, 16_384, 200_000):
        text = b"x" * size
        slot = Slot("main", "wikitext", "", Presence.PRESENT, size, digest_of(text), text)
        entry = Entry(
            "w",
            1,
            1,
            0,
            "T",
            0,
            title_inferred=False,
            slots=(slot,),
            title_salt=b"s" * 16,
            content_salt=b"c" * 16,
            content_commitment=b"",
        )
        batch = EntryBatch()
        assert not batch.add(entry, convert.TextBudget())
        (sent,) = pb.ReadSnapshotResponse.FromString(batch.message(pb.ReadSnapshotResponse, "")).batch.entries
        assert entry == convert.entry_from_proto(sent)


def test_nothing_is_no_batch() -> None:
    """An empty batch is falsy; it is not sent."""
    assert not EntryBatch()
