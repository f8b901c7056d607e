"""From what the client reads to what the verifier checks."""

from __future__ import annotations

from recension.model.reading import Entry
from recension_client import verify


def evidence(entry: Entry) -> verify.Entry:
    """Return an entry in the verifier's form; one that is read with its text can be checked whole."""
    slots = [
        verify.Slot(
            slot.role, slot.model, slot.format, int(slot.presence), slot.size_bytes, slot.digest, slot.text
        )
        for slot in entry.slots
    ]
    return verify.Entry(
        entry.page_id,
        entry.rev_id,
        entry.timestamp,
        entry.namespace,
        entry.title,
        entry.title_salt,
        slots=None if entry.content_commitment else slots,
        content_salt=entry.content_salt,
        content_commitment=entry.content_commitment,
    )
