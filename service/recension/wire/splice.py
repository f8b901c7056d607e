"""Batches of entries as bytes: each text is copied once, into the message that leaves.

Through message objects a text is copied, checked and counted some eight times on its way out. The encoding is
that of the stubs, but for the order of fields, which means nothing to whoever reads it.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor

from recension.model.event import Presence
from recension.model.reading import Entry, Slot
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.wire import convert

_LENGTH_DELIMITED = 2
_SEVEN_BITS = 0x7F
_MORE = 0x80
_TWO_BYTES = 1 << 14
_SMALL = [bytes((number,)) for number in range(_MORE)]


def _tag(message: Descriptor, field: str) -> bytes:
    return _varint(message.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def _varint(number: int) -> bytes:
    if number <= _SEVEN_BITS:
        return _SMALL[number]
    if number < _TWO_BYTES:  # nearly all lengths are of two bytes or three
        return bytes((number & _SEVEN_BITS | _MORE, number >> 7))
    return bytes((number & _SEVEN_BITS | _MORE,)) + _varint(number >> 7)


Answer = snapshot_pb.ReadSnapshotResponse | snapshot_pb.ReadEntriesResponse

_BATCHES: dict[type[Answer], bytes] = {
    answer: _tag(answer.DESCRIPTOR, "batch")
    for answer in (snapshot_pb.ReadSnapshotResponse, snapshot_pb.ReadEntriesResponse)
}
_ENTRIES = _tag(snapshot_pb.EntryBatch.DESCRIPTOR, "entries")
_CURSOR = _tag(snapshot_pb.EntryBatch.DESCRIPTOR, "cursor")
_SLOTS = _tag(snapshot_pb.Entry.DESCRIPTOR, "slots")
_TEXT = _tag(revision_pb.Slot.DESCRIPTOR, "text")
_TEXT_ZSTD = _tag(revision_pb.Slot.DESCRIPTOR, "text_zstd")


def _content(slot: Slot) -> tuple[bytes, bytes, int]:
    """Return the field of a slot's content, its bytes, and those of the text."""
    if slot.frame is not None and slot.presence is Presence.PRESENT:
        return _TEXT_ZSTD, slot.frame, slot.size_bytes
    text = slot.text or b""
    return _TEXT, text, len(text)


class EntryBatch:
    """Some entries of a snapshot stream, encoded one by one."""

    def __init__(self) -> None:
        """Begin with none."""
        self.size = 0
        """Bytes so far, without the cursor."""
        self.text_bytes = 0
        """Of the texts so far, those in frames decoded."""
        self._parts: list[bytes] = []

    def __bool__(self) -> bool:
        """Say whether it holds an entry."""
        return bool(self._parts)

    def add(self, entry: Entry, budget: convert.TextBudget) -> tuple[int, ...]:
        """Take an entry; return which of its slots are without their texts, for which there was no room."""
        head = convert.entry_to_proto(entry, slots=False).SerializeToString()
        parts, size = [head], len(head)
        omitted = []
        for number, slot in enumerate(entry.slots):
            message = convert.slot_head_to_proto(slot)
            tag, content, text_bytes = _content(slot)
            if not budget.take(text_bytes):
                message.text_omitted = True
                omitted.append(number)
                content, text_bytes = b"", 0
            self.text_bytes += text_bytes
            head = message.SerializeToString()
            if content:  # an empty one has no field
                head += tag + _varint(len(content))
            head = _SLOTS + _varint(len(head) + len(content)) + head
            parts += (head, content)
            size += len(head) + len(content)
        framing = _ENTRIES + _varint(size)
        self._parts.append(framing)
        self._parts += parts
        self.size += len(framing) + size
        return tuple(omitted)

    def message(self, answer: type[Answer], cursor: str) -> bytes:
        """Return the answer of a stream that has all that was taken as its batch."""
        after = cursor.encode()
        tail = [_CURSOR, _varint(len(after)), after]
        size = self.size + sum(map(len, tail))
        return b"".join([_BATCHES[answer], _varint(size), *self._parts, *tail])
