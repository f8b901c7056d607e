"""The purgeable part of events: salts and sealed values, some events of a commit in one compressed blob.

Time, place and commitments of an event are elsewhere, so a purge here destroys what was sealed and nothing
else. A field that was purged keeps its commitment, and the salts of the other fields (DESIGN section 3).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from recension.model.errors import DataLossError
from recension.model.seal import SALT_BYTES, commit_field, commitment, field_salt
from recension.store import keys
from recension.store.interface import Row, View
from recension.store.packed import pack, unpack

TOGETHER = 4
"""Events in one blob: twice as many take a sixth less and 3 us more a read."""
CONTENT_FIELD = 3
"""Of an edit's fields, the one that names its texts."""
_WHOLE, _PURGED = 1, 2
_LENGTH = struct.Struct(">I")
_NOTE = struct.Struct(">BqB")
_COMMITMENT_BYTES = 32


class Note(NamedTuple):
    """What became of upstream's claims about one slot; kept with the sealed values, never hashed."""

    verdict: int
    claimed_bytes: int
    """-1 without a claim."""
    claimed_sha1: str
    """Only of a mismatch; hidden slots keep none, since it would confirm a guess of their text."""


class Sealed(NamedTuple):
    """The sealed values of an event, in the order of its fields."""

    salt: bytes
    """16 bytes; empty once a field was purged, since it would open that field's commitment."""
    values: tuple[bytes | None, ...]
    """``None`` for a purged field."""
    notes: tuple[Note, ...]
    salts: tuple[bytes, ...] = ()
    """Once a field was purged: the salt of each other field, and the commitment of a purged one."""

    def value(self, field: int) -> bytes:
        """Return a value. Raises ``DataLossError`` for a purged one: ask ``values`` where that may be."""
        value = self.values[field]
        if value is None:
            raise DataLossError("a sealed value was purged")
        return value

    def field_salt(self, field: int, label: bytes) -> bytes:
        """Return the salt of a field that was not purged; ``label`` is the field's."""
        return self.salts[field] if self.salts else field_salt(self.salt, label)

    def purge(self, field: int, labels: Sequence[bytes]) -> Sealed:
        """Return the values without one field; ``labels`` are those of all fields. Notes go with it."""
        if self.values[field] is None:
            return self
        salts = list(self.salts) or [field_salt(self.salt, label) for label in labels]
        salts[field] = (
            commit_field(self.salt, labels[field], self.value(field))
            if self.salt
            else commitment(salts[field], labels[field], self.value(field))
        )
        values = (*self.values[:field], None, *self.values[field + 1 :])
        return Sealed(b"", values, (), tuple(salts))

    def encode(self) -> bytes:
        """Return the bytes that ``read_sealed`` reads."""
        out = [bytes([_PURGED if self.salts else _WHOLE, len(self.values)]), self.salt]
        for at, value in enumerate(self.values):
            if self.salts:
                out += [bytes([value is not None]), self.salts[at]]
            if value is not None:
                out += [_LENGTH.pack(len(value)), value]
        for note in self.notes:
            sha1 = note.claimed_sha1.encode()[:255]
            out += [_NOTE.pack(note.verdict, note.claimed_bytes, len(sha1)), sha1]
        return b"".join(out)


def read_sealed(raw: bytes) -> Sealed:
    """Return the parts of one event's sealed values."""
    kind, count, at = raw[0], raw[1], 2
    salt = b""
    if kind == _WHOLE:
        salt, at = raw[at : at + SALT_BYTES], at + SALT_BYTES
    values: list[bytes | None] = []
    salts: list[bytes] = []
    for _ in range(count):
        if kind == _PURGED:
            size = SALT_BYTES if raw[at] else _COMMITMENT_BYTES
            salts.append(raw[at + 1 : at + 1 + size])
            present, at = raw[at], at + 1 + size
            if not present:
                values.append(None)
                continue
        (size,) = _LENGTH.unpack_from(raw, at)
        values.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    notes = []
    while at < len(raw):
        verdict, claimed_bytes, size = _NOTE.unpack_from(raw, at)
        at += _NOTE.size
        notes.append(Note(verdict, claimed_bytes, raw[at : at + size].decode()))
        at += size
    return Sealed(salt, tuple(values), tuple(notes), tuple(salts))


def sealed_blobs(position: int, sealed: Sequence[Sealed]) -> list[Row]:
    """Return the blobs of a commit's events, in the order of their ordinals."""
    return [
        (
            keys.sealed_blob(position, at // TOGETHER),
            pack(_body([one.encode() for one in sealed[at : at + TOGETHER]])),
        )
        for at in range(0, len(sealed), TOGETHER)
    ]


def sealed_keys(position: int, events: int) -> list[bytes]:
    """Return the blob keys of a commit's sealed values."""
    return [keys.sealed_blob(position, part) for part in range(-(-events // TOGETHER))]


def open_sealed(raw: bytes) -> list[Sealed]:
    """Return the sealed values of one blob. Raises ``DataLossError`` for bytes that no writer makes."""
    try:
        body = unpack(raw)
        sealed = [read_sealed(part) for part in _split(body)]
        fits = _body([one.encode() for one in sealed]) == body
    except (struct.error, ValueError, IndexError) as error:
        raise DataLossError(f"sealed values cannot be read: {error}") from None
    if not fits:
        raise DataLossError("sealed values have another length than they say")
    return sealed


class SealedReader:
    """Reads sealed values inside one view. Each blob is opened once, and held until then."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._bodies: dict[bytes, bytes] = {}

    def of(self, position: int, ordinal: int) -> Sealed:
        """Return the sealed values of an event. Raises ``DataLossError`` when they are missing."""
        key = keys.sealed_blob(position, ordinal // TOGETHER)
        body = self._bodies.get(key)
        if body is None:
            raw = self._view.blob(key)
            body = self._bodies[key] = unpack(raw) if raw is not None else b"\0"
        lengths = _lengths(body)
        at = ordinal % TOGETHER
        if at >= len(lengths):
            raise DataLossError(f"the values of event {position}.{ordinal} are missing", position=position)
        start = 1 + 4 * len(lengths) + sum(lengths[:at])
        return read_sealed(body[start : start + lengths[at]])


def find_sealed(view: View, position: int, ordinal: int) -> Sealed:
    """Return the sealed values of one event. Raises ``DataLossError`` when they are missing."""
    return SealedReader(view).of(position, ordinal)


def with_sealed(
    view: View, blobs: dict[bytes, bytes | None], position: int, ordinal: int, sealed: Sealed
) -> None:
    """Put other values of an event into ``blobs``, which holds the blobs that change already."""
    key = keys.sealed_blob(position, ordinal // TOGETHER)
    raw = blobs.get(key) or view.blob(key)
    if raw is None:
        raise DataLossError(f"the values of event {position}.{ordinal} are missing", position=position)
    parts = _split(unpack(raw))
    parts[ordinal % TOGETHER] = sealed.encode()
    blobs[key] = pack(_body(parts))


def _body(parts: list[bytes]) -> bytes:
    """Return what a blob holds of the sealed values of some events."""
    return bytes([len(parts)]) + struct.pack(f">{len(parts)}I", *map(len, parts)) + b"".join(parts)


def _lengths(body: bytes) -> tuple[int, ...]:
    """Return the length of each part."""
    return struct.unpack_from(f">{body[0]}I", body, 1)


def _split(body: bytes) -> list[bytes]:
    lengths = _lengths(body)
    at = 1 + 4 * len(lengths)
    parts = []
    for length in lengths:
        parts.append(body[at : at + length])
        at += length
    return parts
