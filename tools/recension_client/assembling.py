"""From messages to values: texts in pieces are put together, and every text is checked against its digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from recension.model.digest import digest_of, format_digest
from recension.model.errors import VerificationError
from recension.model.event import Presence
from recension.model.reading import MAX_FRAME_TEXT, Change, Entry, Revision, Slot
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.wire import convert
from recension.wire.frames import decoded

Pieces = Mapping[str, bytes | bytearray]
"""By role: the texts that an answer left out for their size."""
NO_ROOM = convert.TextBudget(-1, -1)
"""Of answers in which no text comes in a frame."""


def revision_of(
    message: revision_pb.Revision, pieces: Pieces, room: convert.TextBudget = NO_ROOM, *, text: bool
) -> Revision:
    """Read a revision, checked; ``pieces`` are those of ``omitted_roles``, ``room`` as in ``entry_of``.

    Raises ``VerificationError``.
    """
    revision = convert.revision_from_proto(message, text=text)
    if not text:
        return revision
    where = f"revision {revision.rev_id}"
    return replace(revision, slots=_filled(revision.slots, message.slots, pieces, where, room))


def entry_of(message: snapshot_pb.Entry, pieces: Pieces, room: convert.TextBudget, *, text: bool) -> Entry:
    """Read an entry, checked; ``room``: what is left for texts in frames. Raises ``VerificationError``."""
    if not text:
        return convert.entry_from_proto(message, text=False)
    slots = [convert.slot_from_proto(slot) for slot in message.slots]
    where = f"page {message.page_id}, revision {message.rev_id}"
    return convert.entry_from_proto(message, slots=_filled(slots, message.slots, pieces, where, room))


def change_of(message: snapshot_pb.Change, before: Pieces, after: Pieces, *, text: bool) -> Change:
    """Read a change, checked. Raises ``VerificationError``."""
    change = convert.change_from_proto(message, text=text)
    told = message.text_bytes_before, message.text_bytes_after
    if told != (change.text_bytes_before, change.text_bytes_after):
        raise VerificationError(f"the sizes told of page {change.page_id} are not those of its entries")
    if not text:
        return change
    return change._replace(
        before=change.before and _entry_filled(change.before, message.before, before),
        after=change.after and _entry_filled(change.after, message.after, after),
    )


def frames_room() -> convert.TextBudget:
    """Return what is left, before anything is read, for texts in the frames of an answer."""
    return convert.TextBudget(MAX_FRAME_TEXT, convert.MAX_ANSWER_TEXT)


def omitted_roles(message: revision_pb.Revision) -> Iterator[str]:
    """Yield the slots whose texts an answer left out for their size."""
    return (slot.role for slot in message.slots if slot.text_omitted)


def omitted_bytes(entry: snapshot_pb.Entry) -> int:
    """Return the size of the texts of an entry that follow its batch in pieces."""
    return sum(slot.size_bytes for slot in entry.slots if slot.text_omitted)


def checked(text: bytes, digest: bytes, where: str) -> bytes:
    """Return a text that has a digest. Raises ``VerificationError``."""
    actual = digest_of(text)
    if actual != digest:
        raise VerificationError(
            f"the text of {where} does not match its digest",
            hint="do not use it; the server or something on the way changed it",
            expected=format_digest(digest),
            actual=format_digest(actual),
        )
    return text


def _entry_filled(
    entry: Entry, message: snapshot_pb.Entry, pieces: Pieces, room: convert.TextBudget = NO_ROOM
) -> Entry:
    where = f"page {entry.page_id}, revision {entry.rev_id}"
    return entry._replace(slots=_filled(entry.slots, message.slots, pieces, where, room))


def _filled(
    slots: Iterable[Slot],
    sent: Iterable[revision_pb.Slot],
    pieces: Pieces,
    where: str,
    room: convert.TextBudget,
) -> tuple[Slot, ...]:
    """Give slots the texts that came in pieces or in frames, and check all of them."""
    filled = []
    for slot, message in zip(slots, sent, strict=True):
        place = f"{where}, slot {slot.role}"
        if message.text_omitted:
            slot = slot._replace(text=bytes(pieces.get(slot.role, b"")))  # noqa: PLW2901 - the same, whole
        if slot.frame is not None:
            slot = slot._replace(text=_unpacked(slot, slot.frame, place, room), frame=None)  # noqa: PLW2901
        if slot.text is not None and slot.presence is Presence.PRESENT:
            checked(slot.text, slot.digest, place)
        filled.append(slot)
    return tuple(filled)


def _unpacked(slot: Slot, frame: bytes, where: str, room: convert.TextBudget) -> bytes:
    """Return the text of a slot's frame."""
    if slot.text is not None:
        raise VerificationError(f"the text of {where} comes twice")
    if not room.take(slot.size_bytes):
        raise VerificationError(f"the frame of {where} is too large, or was not asked for")
    return decoded(frame, slot.size_bytes, where)
