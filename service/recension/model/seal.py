"""Sealed fields: what upstream can hide is committed to, never hashed bare (DESIGN section 3).

An event carries one random 128-bit salt. From it each field gets its own salt, so that one field can be
shown, or destroyed, without touching the others::

    field salt = HMAC-SHA-256(event salt, salt label)[:16]
    commitment = HMAC-SHA-256(field salt, value label || canonical value)
    sealed     = SHA-256("recension/sealed/v1" 00 || n || commitment 1 || ... || commitment n)

The canonical values are what the store keeps, so nothing has to be encoded twice. ``docs/format.md``
holds the same to the byte, with vectors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from hmac import digest as hmac_digest

from recension.model.event import (
    Comment,
    Contributor,
    Delete,
    Edit,
    Happening,
    LogEntry,
    Move,
    Presence,
    Restore,
    Visibility,
)

SALT_BYTES = 16

TITLE = b"recension/title/v1\0"
FROM_TITLE = b"recension/from-title/v1\0"
"""Salts the title before a move; its commitment uses the ``TITLE`` value label, so that an entry's title
is checked in the same way whichever event gave it."""
CONTRIBUTOR = b"recension/contributor/v1\0"
COMMENT = b"recension/comment/v1\0"
CONTENT = b"recension/content/v1\0"
ENTRY = b"recension/log-entry/v1\0"

_SEALED = b"recension/sealed/v1\0"
_CONTENT_SLOT = struct.Struct(">Q32s")
_VALUE_LABEL = {FROM_TITLE: TITLE}


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot as history holds it: everything but the text."""

    role: str
    model: str
    format: str
    presence: Presence
    size_bytes: int = 0
    digest: bytes = b""
    """32 bytes if present, else empty."""


def field_salt(salt: bytes, label: bytes) -> bytes:
    """Return the salt of one field: 16 bytes."""
    return hmac_digest(salt, label, "sha256")[:SALT_BYTES]


def commitment(salt_of_field: bytes, label: bytes, value: bytes) -> bytes:
    """Return the 32-byte commitment to a field's canonical value."""
    return hmac_digest(salt_of_field, _VALUE_LABEL.get(label, label) + value, "sha256")


def commit_field(salt: bytes, label: bytes, value: bytes) -> bytes:
    """Return the commitment to one field of an event from the event's salt."""
    return commitment(field_salt(salt, label), label, value)


def seal(commitments: list[bytes]) -> bytes:
    """Return the 32 bytes by which a log record stands for all its sealed fields."""
    return sha256(_SEALED + bytes([len(commitments)]) + b"".join(commitments)).digest()


# --- canonical values ---------------------------------------------------------------------------


def title_value(namespace: int, title: str) -> bytes:
    """Return ``int32 namespace || UTF-8 title``: the title binds its namespace."""
    return namespace.to_bytes(4, "big", signed=True) + title.encode()


def read_title(value: bytes) -> tuple[int, str]:
    """Return (namespace, title) of a canonical title."""
    return int.from_bytes(value[:4], "big", signed=True), value[4:].decode()


_NO_ID, _WITH_ID = b"\0", b"\1"


def contributor_value(contributor: Contributor) -> bytes:
    """Return ``presence || has id || int64 id if any || UTF-8 name``; only the first byte unless present."""
    head = bytes([contributor.presence])
    if contributor.presence is not Presence.PRESENT:
        return head
    if contributor.id is None:
        return head + _NO_ID + contributor.name.encode()
    return head + _WITH_ID + contributor.id.to_bytes(8, "big", signed=True) + contributor.name.encode()


def read_contributor(value: bytes) -> Contributor:
    """Return the contributor of a canonical value."""
    presence = Presence(value[0])
    if presence is not Presence.PRESENT:
        return Contributor(presence)
    if value[1:2] == _NO_ID:
        return Contributor(presence, value[2:].decode())
    return Contributor(presence, value[10:].decode(), int.from_bytes(value[2:10], "big", signed=True))


def comment_value(comment: Comment) -> bytes:
    """Return ``presence || UTF-8 text``."""
    return bytes([comment.presence]) + comment.text.encode()


def read_comment(value: bytes) -> Comment:
    """Return the comment of a canonical value."""
    return Comment(Presence(value[0]), value[1:].decode())


def content_value(slots: list[SlotState]) -> bytes:
    """Return ``uint16 n`` and per slot, in the order of its role's bytes, role, model, format, presence.

    Strings carry a uint16 length. A present slot adds ``uint64 size || digest``: a text is hashed once.
    """
    out = [len(slots).to_bytes(2, "big")]
    for slot in sorted(slots, key=lambda slot: slot.role.encode()):
        for text in (slot.role, slot.model, slot.format):
            raw = text.encode()
            out += [len(raw).to_bytes(2, "big"), raw]
        out.append(bytes([slot.presence]))
        if slot.presence is Presence.PRESENT:
            out.append(_CONTENT_SLOT.pack(slot.size_bytes, slot.digest))
    return b"".join(out)


def read_content(value: bytes) -> list[SlotState]:
    """Return the slots of a canonical content value."""
    slots = []
    at = 2
    for _ in range(int.from_bytes(value[:2], "big")):
        texts: list[str] = []
        for _ in range(3):
            size = int.from_bytes(value[at : at + 2], "big")
            texts.append(value[at + 2 : at + 2 + size].decode())
            at += 2 + size
        presence = Presence(value[at])
        at += 1
        size_bytes, digest = 0, b""
        if presence is Presence.PRESENT:
            size_bytes, digest = _CONTENT_SLOT.unpack_from(value, at)
            at += _CONTENT_SLOT.size
        role, model, form = texts
        slots.append(SlotState(role, model, form, presence, size_bytes, digest))
    return slots


def log_entry_value(entry: LogEntry) -> bytes:
    """Return what a kept log entry says of pages and revisions: target title, flags, revision ids."""
    target = title_value(entry.to_namespace, entry.to_title)
    return b"".join(
        [
            len(target).to_bytes(2, "big"),
            target,
            *(rev_id.to_bytes(8, "big") for rev_id in entry.rev_ids),
        ]
    )


def read_log_entry(value: bytes) -> tuple[int, str, tuple[int, ...]]:
    """Return (target namespace, target title, revision ids) of a canonical log entry."""
    end = 2 + int.from_bytes(value[:2], "big")
    namespace, title = read_title(value[2:end])
    return (
        namespace,
        title,
        tuple(int.from_bytes(value[at : at + 8], "big") for at in range(end, len(value), 8)),
    )


FIELDS: dict[type[Happening], tuple[bytes, ...]] = {
    Edit: (TITLE, CONTRIBUTOR, COMMENT, CONTENT),
    Move: (TITLE, FROM_TITLE, CONTRIBUTOR, COMMENT),
    Delete: (TITLE, CONTRIBUTOR, COMMENT),
    Restore: (TITLE, CONTRIBUTOR, COMMENT),
    Visibility: (CONTRIBUTOR, COMMENT),
    LogEntry: (TITLE, ENTRY, CONTRIBUTOR, COMMENT),
}
"""The sealed fields of each kind of event, in the order in which ``seal`` takes their commitments."""
