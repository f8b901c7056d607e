"""What is shown of an event: its sealed values, less what is hidden now."""

from __future__ import annotations

from collections.abc import Sequence

from recension.archive.claims import Verdict
from recension.archive.history import State
from recension.archive.rows import EditRow
from recension.archive.sealed import CONTENT_FIELD, Sealed, SealedReader
from recension.archive.texts.hot import HotTexts
from recension.archive.texts.reading import Frame, read_stored, read_texts
from recension.model.event import Presence
from recension.model.reading import MAX_FRAME_TEXT, Slot
from recension.model.record import Flag
from recension.model.seal import read_content
from recension.store.interface import View

_VERDICTS = {verdict.value: verdict.name.lower() for verdict in Verdict}

Slots = tuple[Slot, ...]


def naming_of(values: SealedReader, state: State, sealed: Sealed) -> Sealed:
    """Return the values of the event that gave the title; ``sealed`` are those of the state's own edit."""
    edit, source = state
    if source.position == edit.position and source.ordinal == edit.ordinal:
        return sealed
    return values.of(source.position, source.ordinal)


def slots_of(sealed: Sealed, edit: EditRow, flags: int) -> Slots:
    """Return the slots of an edit without their texts; ``flags`` say what is hidden of it now.

    What was purged is hidden for ever.
    """
    content = sealed.values[CONTENT_FIELD]
    if content is None:
        return (Slot("main", edit.model, "", Presence.HIDDEN),)
    notes = iter(sealed.notes)
    hidden = flags & Flag.TEXT_HIDDEN
    out = []
    for slot in read_content(content):
        note = next(notes, None)
        if hidden or slot.presence is not Presence.PRESENT:
            out.append(Slot(slot.role, slot.model, slot.format, Presence.HIDDEN if hidden else slot.presence))
            continue
        verdict = _VERDICTS[note.verdict] if note else ""
        out.append(
            Slot(
                slot.role, slot.model, slot.format, slot.presence, slot.size_bytes, slot.digest, None, verdict
            )
        )
    return tuple(out)


def with_texts(view: View, some: Sequence[Slots]) -> list[Slots]:
    """Return slots with the texts of those that are present. Raises ``DataLossError`` for a lost one."""
    digests = [slot.digest for slots in some for slot in slots if slot.presence is Presence.PRESENT]
    return _filled(some, read_texts(view, digests))


def with_stored(view: View, some: Sequence[Slots], hot: HotTexts | None = None) -> list[Slots]:
    """Return slots with texts that nobody compared with their digests, or with their frames.

    A frame stands for the text of an entry's only slot, of ``MAX_FRAME_TEXT`` at most; ``hot`` has some.
    Raises ``DataLossError`` for a text that is lost, or found to be damaged on the way.
    """
    digests, framed = [], set()
    for slots in some:
        for slot in slots:
            if slot.presence is Presence.PRESENT:
                digests.append(slot.digest)
                if len(slots) == 1 and slot.size_bytes <= MAX_FRAME_TEXT:
                    framed.add(slot.digest)
    return _filled(some, read_stored(view, digests, framed, hot))


def _filled(some: Sequence[Slots], texts: Sequence[bytes | Frame]) -> list[Slots]:
    """Give each slot that is present the next text."""
    following = iter(texts)
    return [
        tuple(
            _holding(slot, next(following)) if slot.presence is Presence.PRESENT else slot for slot in slots
        )
        for slots in some
    ]


def _holding(slot: Slot, text: bytes | Frame) -> Slot:
    return slot._replace(frame=text.data) if isinstance(text, Frame) else slot._replace(text=text)
