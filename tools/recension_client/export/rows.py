"""One page as a row, and back. ``docs/export.md`` names the columns.

Everything in a row is proved by the snapshot's root, or follows from what is, but for the project's terms.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from recension.model.digest import digest_of, format_digest, parse_digest
from recension.model.errors import RecensionError, VerificationError
from recension.model.event import MAX_TITLE_BYTES, Presence
from recension.model.instant import format_instant, parse_instant
from recension.model.reading import Entry, Slot
from recension.model.seal import CONTENT, SALT_BYTES, TITLE, SlotState, commitment, content_value, title_value
from recension.model.tree import entry_leaf
from recension_client.export.layout import Terms

MAIN = "main"
"""The slot whose text is the column ``text``."""

Row = dict[str, Any]


def leaf_of(entry: Entry) -> bytes:
    """Return the leaf that an entry's own values give. Raises ``VerificationError`` where they give none."""
    try:
        _need(len(entry.title.encode()) <= MAX_TITLE_BYTES, "its title is too long")
        _need(len(entry.title_salt) == SALT_BYTES, "the salt of its title is missing")
        title = commitment(entry.title_salt, TITLE, title_value(entry.namespace, entry.title))
        content = entry.content_commitment
        if not content:
            _need(len(entry.content_salt) == SALT_BYTES, "the salt of its content is missing")
            content = commitment(entry.content_salt, CONTENT, content_value(states_of(entry)))
        _need(len(content) == 32, "the commitment of its content has not 32 bytes")  # noqa: PLR2004 - SHA-256
        return entry_leaf(entry.page_id, entry.rev_id, entry.timestamp, title, content)
    except (ValueError, OverflowError, ArithmeticError, RecensionError, struct.error) as error:
        raise VerificationError(f"page {entry.page_id}: {error}", pageId=entry.page_id) from None


def check_texts(entry: Entry) -> Entry:
    """Return the entry if its texts are those of its digests. Raises ``VerificationError``."""
    for slot in check_sizes(entry).slots:
        if slot.text is not None and digest_of(slot.text) != slot.digest:
            raise _wrong(entry, slot, "its text is not that of its digest")
    return entry


def check_sizes(entry: Entry) -> Entry:
    """Return the entry if it has just the texts that it says; their digests are checked elsewhere."""
    for slot in entry.slots:
        if slot.presence is Presence.PRESENT and not entry.content_commitment:
            if slot.text is None:
                raise _wrong(entry, slot, "its text is missing")
            if len(slot.text) != slot.size_bytes:
                raise _wrong(entry, slot, "its text is not that of its digest: it has another size")
        elif slot.text is not None:
            raise _wrong(entry, slot, "it has a text and is not present")
    return entry


def _wrong(entry: Entry, slot: Slot, what: str) -> VerificationError:
    return VerificationError(f"page {entry.page_id}, slot {slot.role[:80]}: {what}", pageId=entry.page_id)


def states_of(entry: Entry) -> list[SlotState]:
    """Return the slots without their texts."""
    return [
        SlotState(slot.role, slot.model, slot.format, slot.presence, slot.size_bytes, slot.digest)
        for slot in entry.slots
    ]


def withheld(entry: Entry) -> bool:
    """Say whether the row lacks a text that the page had."""
    return bool(entry.content_commitment) or any(slot.text is None for slot in entry.slots)


def size_of(entry: Entry) -> int:
    """Return the bytes of all its texts."""
    return sum(slot.size_bytes for slot in entry.slots)


def row_of(entry: Entry, terms: Terms) -> Row:
    """Return the columns of an entry, in their order."""
    main = entry.slot(MAIN)
    shown = not entry.content_commitment
    return {
        "id": str(entry.page_id),
        "url": terms.url(entry.title),
        "title": entry.title,
        "text": None if main is None or main.text is None else main.text.decode(),
        "page_id": entry.page_id,
        "rev_id": entry.rev_id,
        "timestamp": format_instant(entry.timestamp),
        "namespace": entry.namespace,
        "digest": None if main is None or not main.digest else format_digest(main.digest),
        "license": terms.license,
        "slots": [_slot_row(slot) for slot in entry.slots] if shown else None,
        "title_salt": entry.title_salt.hex(),
        "content_salt": entry.content_salt.hex() if shown else None,
        "content_commitment": None if shown else entry.content_commitment.hex(),
    }


def _slot_row(slot: Slot) -> Row:
    return {
        "role": slot.role,
        "model": slot.model,
        "format": slot.format,
        "presence": slot.presence.name.lower(),
        "size_bytes": slot.size_bytes,
        "digest": format_digest(slot.digest) if slot.digest else None,
        "text": None if slot.role == MAIN or slot.text is None else slot.text.decode(),
    }


def entry_of(row: Row, project: str, terms: Terms) -> Entry:
    """Return the entry that a row was made of.

    Raises ``VerificationError`` for a row that no entry is written as; whether its values are true is
    ``leaf_of``'s and ``check_texts``' to say.
    """
    try:
        entry = _entry_of(row, project)
        again = row_of(entry, terms)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecensionError) as error:
        raise VerificationError(f"not a row: {str(error)[:200]}") from None
    if again != row:
        wrong = sorted(key for key in again.keys() | row.keys() if again.get(key) != row.get(key))
        raise VerificationError(f"page {entry.page_id}: column {', '.join(wrong)[:200]} is not the page's")
    if _order(again) != _order(row):
        raise VerificationError(f"page {entry.page_id}: its columns are in another order")
    return entry


def _order(row: Row) -> list[list[str]]:
    return [list(row), *map(list, row["slots"] or ())]


def _entry_of(row: Row, project: str) -> Entry:
    return Entry(
        project,
        _integer(row["page_id"]),
        _integer(row["rev_id"]),
        parse_instant(row["timestamp"]),
        row["title"],
        _integer(row["namespace"]),
        title_inferred=False,
        slots=tuple(_slot_of(slot, row["text"]) for slot in row["slots"] or ()),
        title_salt=bytes.fromhex(row["title_salt"]),
        content_salt=bytes.fromhex(row["content_salt"] or ""),
        content_commitment=bytes.fromhex(row["content_commitment"] or ""),
    )


def _slot_of(row: Row, main_text: str | None) -> Slot:
    text = main_text if row["role"] == MAIN else row["text"]
    return Slot(
        row["role"],
        row["model"],
        row["format"],
        Presence[row["presence"].upper()],
        _integer(row["size_bytes"]),
        parse_digest(row["digest"], "digest") if row["digest"] is not None else b"",
        None if text is None else text.encode(),
    )


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{str(value)[:80]!r} is not an integer")
    return value


def encode_line(row: Row) -> bytes:
    """Return a row as its line of JSON: keys in the order of the columns, escapes as RFC 8785 has them."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode_line(line: bytes) -> Row:
    """Read a line back. Raises ``VerificationError`` for one that would be written in another way."""
    try:
        row = json.loads(line.decode())
        good = type(row) is dict and encode_line(row) == line
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"not a line of JSON: {str(error)[:200]}") from None
    if not good:
        raise VerificationError("a line would be written in another way")
    return dict(row)


def _need(good: object, message: str) -> None:
    if not good:
        raise ValueError(message)
