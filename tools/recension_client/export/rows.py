"""One page as a row, and back. ``docs/export.md`` names the columns.

Everything in a row is proved by the snapshot's root, or follows from what is, but for the project's terms.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from recension.model.digest import digest_of, format_digest
from recension.model.errors import RecensionError, VerificationError
from recension.model.event import MAX_TITLE_BYTES, Presence
from recension.model.instant import check_instant
from recension.model.reading import Entry, Slot
from recension.model.seal import (
    CONTENT,
    NAMESPACE_BYTES,
    SALT_BYTES,
    TITLE,
    commitment,
    content_value,
    title_value,
)
from recension.model.tree import entry_leaf
from recension_client.export.layout import Terms

MAIN = "main"
"""The slot whose text is the column ``text``."""


class SlotRow(NamedTuple):
    """One slot in a row, its fields in their order."""

    role: str
    model: str
    format: str
    presence: str
    size_bytes: int
    digest: str | None
    text: bytes | None
    """``None`` for ``main``, whose text is the row's."""


class Row(NamedTuple):
    """The columns of a page in their order. Texts are UTF-8, the timestamp microseconds since the epoch."""

    id: str
    url: str
    title: str
    text: bytes | None
    page_id: int
    rev_id: int
    timestamp: int
    namespace: int
    digest: str | None
    license: str
    slots: tuple[SlotRow, ...] | None
    title_salt: bytes
    content_salt: bytes | None
    content_commitment: bytes | None


class PlainRow(NamedTuple):
    """The columns of a page's plain text in their order."""

    id: str
    url: str
    title: str
    text: bytes | None
    page_id: int
    rev_id: int
    timestamp: int
    namespace: int
    digest: str | None
    """Of the wikitext."""
    license: str
    without: str | None
    """Why there is no plain text."""


class Unreadable(NamedTuple):
    """What stands in a file in the place of a row, and is none, or none that an entry is written as."""

    page_id: object
    """As it says, whatever that is."""
    why: str


def leaf_of(entry: Entry) -> bytes:
    """Return the leaf that an entry's own values give. Raises ``VerificationError`` where they give none."""
    try:
        return _leaf_of(entry)
    except (ValueError, OverflowError, ArithmeticError, RecensionError, TypeError, struct.error) as error:
        raise VerificationError(f"page {entry.page_id}: {error}", pageId=entry.page_id) from None


def _leaf_of(entry: Entry) -> bytes:
    said = title_value(entry.namespace, entry.title)
    if len(said) > NAMESPACE_BYTES + MAX_TITLE_BYTES:
        raise ValueError("its title is too long")
    if len(entry.title_salt) != SALT_BYTES:
        raise ValueError("the salt of its title is missing")
    title = commitment(entry.title_salt, TITLE, said)
    content = entry.content_commitment
    if not content:
        if len(entry.content_salt) != SALT_BYTES:
            raise ValueError("the salt of its content is missing")
        content = commitment(entry.content_salt, CONTENT, content_value(entry.slots))
    if len(content) != 32:  # noqa: PLR2004 - SHA-256
        raise ValueError("the commitment of its content has not 32 bytes")
    return entry_leaf(entry.page_id, entry.rev_id, entry.timestamp, title, content)


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


def withheld(entry: Entry) -> bool:
    """Say whether the row lacks a text that the page had."""
    return bool(entry.content_commitment) or None in [slot.text for slot in entry.slots]


def size_of(entry: Entry) -> int:
    """Return the bytes of all its texts."""
    return sum([slot.size_bytes for slot in entry.slots])


def row_of(entry: Entry, terms: Terms) -> Row:
    """Return an entry as a row."""
    main = entry.slot(MAIN)
    shown = not entry.content_commitment
    return Row(
        str(entry.page_id),
        terms.url(entry.title),
        entry.title,
        None if main is None else main.text,
        entry.page_id,
        entry.rev_id,
        entry.timestamp,
        entry.namespace,
        None if main is None or not main.digest else format_digest(main.digest),
        terms.license_at(entry.timestamp),
        tuple(map(_slot_row, entry.slots)) if shown else None,
        entry.title_salt,
        entry.content_salt if shown else None,
        None if shown else entry.content_commitment,
    )


def _slot_row(slot: Slot) -> SlotRow:
    return SlotRow(
        slot.role,
        slot.model,
        slot.format,
        _PRESENCE_NAMES[slot.presence],
        slot.size_bytes,
        format_digest(slot.digest) if slot.digest else None,
        None if slot.role == MAIN else slot.text,
    )


_PRESENCE_NAMES = {presence: presence.name.lower() for presence in Presence}
_PRESENCES = {name: presence for presence, name in _PRESENCE_NAMES.items()}
_DIGEST_AT = len("sha256:")
_DIGEST_CHARS = _DIGEST_AT + 64


def read_entry(row: Row | Unreadable, project: str, terms: Terms) -> Entry | Unreadable:
    """Return the entry that a row was made of, or why there is none, as ``entry_of`` has it."""
    try:
        return entry_of(row, project, terms)
    except VerificationError as error:
        return Unreadable(row.page_id, error.message)


def readable(found: Entry | Unreadable) -> Entry:
    """Return what was found if it is an entry. Raises ``VerificationError``."""
    if isinstance(found, Unreadable):
        raise VerificationError(found.why)
    return found


def entry_of(row: Row | Unreadable, project: str, terms: Terms) -> Entry:
    """Return the entry that a row was made of.

    Raises ``VerificationError`` for a row that no entry is written as; whether its values are true is
    ``leaf_of``'s and ``check_texts``' to say.
    """
    try:
        if isinstance(row, Unreadable):
            raise ValueError(row.why)  # noqa: TRY301, TRY004 - one way to say it
        entry = _entry_of(row, project)
        again = row_of(entry, terms)  # and so proves what was read with less care
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecensionError) as error:
        raise VerificationError(f"not a row: {str(error)[:200]}") from None
    if again != row:
        wrong = [name for name, one, other in zip(Row._fields, again, row, strict=True) if one != other]
        raise VerificationError(f"page {entry.page_id}: column {', '.join(wrong)} is not the page's")
    return entry


def _entry_of(row: Row, project: str) -> Entry:
    return Entry(
        project,
        integer(row.page_id),
        integer(row.rev_id),
        check_instant(integer(row.timestamp)),
        row.title,
        integer(row.namespace),
        title_inferred=False,
        slots=tuple([slot_of(slot, row.text) for slot in row.slots or ()]),
        title_salt=row.title_salt,
        content_salt=row.content_salt or b"",
        content_commitment=row.content_commitment or b"",
    )


def slot_of(row: SlotRow, main_text: bytes | None) -> Slot:
    """Return the slot that a row's slot states, to be compared with what is written of it."""
    role, model, form, presence, size_bytes, digest, text = row
    if digest is not None and len(digest) != _DIGEST_CHARS:
        raise ValueError(f"{digest[:80]!r} is no digest")
    return Slot(
        role,
        model,
        form,
        _PRESENCES[presence],
        integer(size_bytes),
        b"" if digest is None else bytes.fromhex(digest[_DIGEST_AT:]),
        main_text if role == MAIN else text,
    )


def integer(value: object) -> int:
    """Return a whole number. Raises ``ValueError`` for anything else, as true and 1.0 are."""
    if type(value) is not int:
        raise ValueError(f"{str(value)[:80]!r} is not an integer")
    return value
