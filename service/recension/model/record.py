"""The log: commit records chained by hash. Public skeletons only; what upstream can hide is sealed.

A commit record is the bytes below, big-endian; its hash is the SHA-256 of exactly these bytes and stands
in the next record as ``parent``. ``docs/format.md`` section 5 says the same for implementers::

    "recension/commit/v1" 00
    position u64 || recorded_at i64 (microseconds) || parent 32
    project length u8 || project || count u32
    count x ( length u32 || item )

An item is an event skeleton (kinds 1 to 6) or a statement of recension's own (kinds 16 and up).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from recension.model.errors import DataLossError
from recension.model.event import (
    MAX_ID,
    Delete,
    Edit,
    Happening,
    LogAction,
    LogEntry,
    Move,
    Restore,
    Visibility,
)
from recension.model.instant import MAX_INSTANT, MIN_INSTANT

MAGIC = b"recension/commit/v1\0"
NO_PARENT = bytes(32)
"""Parent hash of the first commit."""
NO_SOURCE = bytes(16)
"""Source key of an event whose revision id already makes it idempotent."""


class Kind(IntEnum):
    """Kind of a log item. The numbers are part of the format."""

    EDIT = 1
    MOVE = 2
    DELETE = 3
    RESTORE = 4
    VISIBILITY = 5
    LOG_ENTRY = 6
    PROJECT = 16
    """A project's definition: canonical JSON."""
    SNAPSHOT = 17
    """A snapshot's manifest: canonical JSON."""
    PIN = 18
    """A pin as it is from now on: canonical JSON (``model.pin``)."""
    KEY = 19
    """A key that checkpoints are signed with from now on: canonical JSON (``model.note``)."""
    API_KEY = 20
    """A key that callers show, as it is from now on: canonical JSON (``model.access``)."""
    LICENSEE = 21
    """A licensee, as it is from now on: canonical JSON (``model.licensee``)."""
    AGREEMENT = 22
    """A version of an agreement, or the end of some: canonical JSON (``model.agreement``)."""
    RETRACTION = 23
    """What is withdrawn by the visibility changes of the same commit (``model.retraction``)."""
    RECEIPT = 24
    """What was erased, as the server found it afterwards: canonical JSON (``model.retraction``)."""
    ACKNOWLEDGEMENT = 25
    """A licensee's answer to what was withdrawn from a pin: canonical JSON (``model.retraction``)."""
    MARK = 26
    """What the events of the commit were read from, and how far: canonical JSON (``model.mark``)."""


KINDS: dict[type[Happening], Kind] = {
    Edit: Kind.EDIT,
    Move: Kind.MOVE,
    Delete: Kind.DELETE,
    Restore: Kind.RESTORE,
    Visibility: Kind.VISIBILITY,
    LogEntry: Kind.LOG_ENTRY,
}
"""Of the events."""


class Flag(IntEnum):
    """Bits of an event skeleton. The numbers are part of the format."""

    MINOR = 1
    TITLE_INFERRED = 2
    REDIRECT = 4
    TEXT_HIDDEN = 8
    """Of an edit: hidden when it arrived. Of a visibility change: hidden from this position on."""
    COMMENT_HIDDEN = 16
    CONTRIBUTOR_HIDDEN = 32
    TEXT_LOST = 64


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The public part of an event."""

    kind: Kind
    flags: int
    page_id: int
    rev_id: int
    """0 for kinds that concern no revision; for ``LOG_ENTRY`` the log's own id."""
    parent_rev_id: int
    """0 when unknown; for ``LOG_ENTRY`` the action number."""
    time: int
    """Valid time, microseconds since the epoch."""
    namespace: int
    """Of the title after the event."""
    from_namespace: int
    """Of the title before a move, else 0."""
    text_bytes: int
    """Sum of the sizes of an edit's present slots, UTF-8."""
    model: str
    """Content model of an edit's main slot, else empty. At most 255 bytes."""
    source: bytes
    """16 bytes: ``source_key`` or ``NO_SOURCE``."""
    sealed: bytes
    """32 bytes: ``seal.seal`` of the field commitments."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Something recension itself recorded: kind 16 or above, with canonical JSON."""

    kind: Kind
    payload: bytes


Item = Skeleton | Statement


@dataclass(frozen=True, slots=True)
class Commit:
    """One atomic batch of the log."""

    position: int
    """1, 2, 3 ..."""
    recorded_at: int
    """Transaction time, microseconds since the epoch; strictly growing."""
    parent: bytes
    """Hash of the commit before, 32 bytes."""
    project: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends."""

    position: int
    """0 for an empty log."""
    recorded_at: int
    hash: bytes


EMPTY_LOG = Head(0, 0, NO_PARENT)

_HEAD = struct.Struct(">Qq32s")
_SKELETON = struct.Struct(">BBQQQqiiQ16s32s")
_LENGTH = struct.Struct(">I")
_ALL_FLAGS = sum(Flag)
_SOURCE = b"recension/source/v1\0"


def source_key(project: str, source_id: str) -> bytes:
    """Return the 16 bytes by which a source id is remembered; ``NO_SOURCE`` for an empty one."""
    if not source_id:
        return NO_SOURCE
    name = project.encode()
    return sha256(_SOURCE + bytes([len(name)]) + name + source_id.encode()).digest()[:16]


def encode_skeleton(skeleton: Skeleton) -> bytes:
    """Return the item's bytes: fixed fields, then the content model with a length byte."""
    model = skeleton.model.encode()
    return (
        _SKELETON.pack(
            skeleton.kind,
            skeleton.flags,
            skeleton.page_id,
            skeleton.rev_id,
            skeleton.parent_rev_id,
            skeleton.time,
            skeleton.namespace,
            skeleton.from_namespace,
            skeleton.text_bytes,
            skeleton.source,
            skeleton.sealed,
        )
        + bytes([len(model)])
        + model
    )


def encode_item(item: Item) -> bytes:
    """Return an item's bytes as they stand in a commit record."""
    if isinstance(item, Skeleton):
        return encode_skeleton(item)
    return bytes([item.kind]) + item.payload


def encode_commit(commit: Commit) -> bytes:
    """Return the record's bytes."""
    items = list(map(encode_item, commit.items))
    return encode_record(commit.position, commit.recorded_at, commit.parent, commit.project, items)


def encode_record(
    position: int, recorded_at: int, parent: bytes, project: str, items: Sequence[bytes]
) -> bytes:
    """Return the bytes of a commit whose items are encoded already."""
    name = project.encode()
    out = [
        MAGIC,
        _HEAD.pack(position, recorded_at, parent),
        bytes([len(name)]),
        name,
        _LENGTH.pack(len(items)),
    ]
    for raw in items:
        out += [_LENGTH.pack(len(raw)), raw]
    return b"".join(out)


def commit_hash(record: bytes) -> bytes:
    """Return the hash that the next commit names as its parent."""
    return sha256(record).digest()


def decode_commit(record: bytes) -> Commit:
    """Read a commit record. Raises ``DataLossError`` when the bytes are not one."""
    try:
        return _decode(record)
    except (struct.error, ValueError, IndexError) as error:
        raise DataLossError(f"not a commit record: {error}") from None


def statements_of(record: bytes, kinds: Container[int]) -> list[tuple[int, Statement]]:
    """Return (ordinal, statement) of those items of a commit record that are of ``kinds``.

    Events are passed over unread, so that many can be. Raises ``DataLossError`` as ``decode_commit`` does.
    """
    found = []
    try:
        at = len(MAGIC) + _HEAD.size
        at += 1 + record[at]
        (count,) = _LENGTH.unpack_from(record, at)
        at += _LENGTH.size
        for ordinal in range(count):
            (size,) = _LENGTH.unpack_from(record, at)
            at += _LENGTH.size
            if record[at] in kinds:
                found.append((ordinal, Statement(Kind(record[at]), record[at + 1 : at + size])))
            at += size
    except (struct.error, ValueError, IndexError) as error:
        raise DataLossError(f"not a commit record: {error}") from None
    return found


def recorded_at(record: bytes) -> int:
    """Return the transaction time of a commit record."""
    return int(_HEAD.unpack_from(record, len(MAGIC))[1])


def _decode(record: bytes) -> Commit:
    if not record.startswith(MAGIC):
        raise ValueError("wrong magic")
    position, recorded_at, parent = _HEAD.unpack_from(record, len(MAGIC))
    if not position or not MIN_INSTANT <= recorded_at <= MAX_INSTANT:
        raise ValueError("position or time is out of range")
    at = len(MAGIC) + _HEAD.size
    end = at + 1 + record[at]
    project = record[at + 1 : end].decode()
    (count,) = _LENGTH.unpack_from(record, end)
    at = end + 4
    items = []
    for _ in range(count):
        (size,) = _LENGTH.unpack_from(record, at)
        items.append(decode_item(record[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(record):
        raise ValueError("length does not fit")
    return Commit(position, recorded_at, parent, project, tuple(items))


def decode_item(raw: bytes) -> Item:
    """Return an item from its bytes. Raises ``ValueError`` or ``struct.error`` for bytes that are none."""
    kind = Kind(raw[0])
    if kind >= Kind.PROJECT:
        return Statement(kind, raw[1:])
    fields = _SKELETON.unpack_from(raw)
    end = _SKELETON.size
    if len(raw) != end + 1 + raw[end]:
        raise ValueError("an item's length does not fit")
    model = raw[end + 1 :].decode()
    _, flags, page_id, rev_id, parent, time, namespace, from_namespace, size, source, sealed = fields
    _check_skeleton(kind, flags, page_id, rev_id, parent, time)
    return Skeleton(
        kind, flags, page_id, rev_id, parent, time, namespace, from_namespace, size, model, source, sealed
    )


def _check_skeleton(kind: Kind, flags: int, page_id: int, rev_id: int, parent: int, time: int) -> None:
    """Refuse what no event has; ids of kinds that have none are 0."""
    if flags > _ALL_FLAGS:
        raise ValueError("an unknown flag")
    if max(page_id, rev_id, parent) > MAX_ID or (page_id == 0) is not (kind is Kind.LOG_ENTRY):
        raise ValueError("an id is out of range")
    if kind is Kind.LOG_ENTRY:
        LogAction(parent)
    if not MIN_INSTANT <= time <= MAX_INSTANT:
        raise ValueError("a time is out of range")
